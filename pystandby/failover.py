"""Promoting a server in standby mode, where no exit status of a restore_command does."""

from pystandby import osdep
from pystandby.exits import DESTINATION_FAILED, StandbyError


def promote() -> None:
    """Do in the current directory, a running standby's data directory, what pg_ctl promote does, without waiting.

    A file "promote" and SIGUSR1 to the postmaster (do_promote() in src/bin/pg_ctl/pg_ctl.c, since PostgreSQL 9.1). Raises
    StandbyError where either cannot be done.
    """
    try:
        with open("postmaster.pid", "rb") as file:
            postmaster = int(file.readline())
        with open("promote", "wb"):
            pass
        osdep.signal_postmaster(postmaster)
    except (OSError, ValueError) as failure:
        raise StandbyError(
            DESTINATION_FAILED,
            f"could not promote the server: {failure}",
            "The trigger file asks for it, and --promote was given.",
            'Promote it by hand: "pg_ctl promote", or SELECT pg_promote().',
        ) from failure
