"""Promoting a server in standby mode, where no exit status of a restore_command does."""

from pystandby import osdep


def promote() -> str:
    """Do in the current directory, a running standby's data directory, what pg_ctl promote does, without waiting.

    A file "promote" and SIGUSR1 to the postmaster (do_promote() in src/bin/pg_ctl/pg_ctl.c, since PostgreSQL 9.1). Returns why
    that cannot be done, empty if it was.
    """
    try:
        with open("postmaster.pid", "rb") as file:
            postmaster = int(file.readline())
        with open("promote", "wb"):
            pass
        osdep.signal_postmaster(postmaster)
    except (OSError, ValueError) as failure:
        return str(failure)
    return ""
