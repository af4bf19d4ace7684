"""python -m pystandby."""

import sys

# "-m" puts the current directory first, which under a server is the data directory: what lies there must not shadow our modules.
if not sys.flags.safe_path if hasattr(sys.flags, "safe_path") else not sys.flags.isolated:
    del sys.path[0]

from pystandby.launch import start

if __name__ == "__main__":
    start()
