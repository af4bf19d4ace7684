"""Become an ordinary user for good, and run a command: as_user.py USER HOME COMMAND [ARGUMENT]...

For the tests, when root starts them: to root nothing is forbidden, so a test that makes a file unreadable would prove
nothing, and PostgreSQL refuses to run. HOME must be a folder that the user may write to.
"""

from __future__ import annotations

import os
import pwd
import sys


def main() -> None:
    """Never return."""
    user, home, *command = sys.argv[1:]
    entry = pwd.getpwnam(user)
    if entry.pw_uid == 0:
        sys.exit(f"ERROR:  {user} is root by another name")
    # Root's groups go first, while we still may; root's right to come back goes with setuid, which sets all three ids.
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ.update(HOME=home, USER=user, LOGNAME=user)
    for variable in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[variable]
    if not os.access(os.environ.get("TMPDIR", "/"), os.W_OK | os.X_OK):
        os.environ.pop("TMPDIR", None)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
