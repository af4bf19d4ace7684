"""python -m pystandby."""

import os
import sys

# "-m" puts the current directory first, which under a server is the data directory: what lies there must not shadow our modules.
if not sys.flags.safe_path if hasattr(sys.flags, "safe_path") else not sys.flags.isolated:
    del sys.path[0]

try:
    from pystandby.launch import start
except BaseException as error:
    # Python's own status for it, 1, is the end of recovery for a server: as in contrib/linux/pystandby-python, also what follows.
    words = sys.argv[1:]
    low = words[:1] in (["archive"], ["archive-cleanup"], ["recovery-end"])
    try:
        os.write(2, f"ERROR:  pystandby cannot be started: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(1 if low and not any(word.endswith(("RECOVERYXLOG", "RECOVERYHISTORY")) for word in words) else 202)

if __name__ == "__main__":
    start()
