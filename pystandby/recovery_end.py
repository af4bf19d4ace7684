"""recovery_end_command: when recovery has ended, what asked for its end goes, and what served it.

TRIGGERFILE               left there it would end the recovery of the next standby made from this server
pg_wal/.pystandby         the spool, its child, and what restores remembered of this recovery
"""

import os
import stat

from pystandby import exits, osdep, say, spool, trigger
from pystandby.asker import RECOVERY_FILES
from pystandby.memory import FOLDER


def clean_up(trigger_file: "str | None", trusted: bool) -> int:
    """Remove the trigger file, if one is named, and the spool of the server whose data directory is the current one.

    ``trusted`` is --trust-trigger. Does nothing where nothing is left. Returns 0, or exits.NOT_DONE with a warning where
    something stays. Raises StandbyError, having done nothing, while the server in the current directory is still in recovery.
    """
    is_server = osdep.read_small("PG_VERSION", 16) is not None
    asked = next((name for name in RECOVERY_FILES if is_server and os.path.exists(name)), "")
    if asked:
        raise exits.StandbyError(
            exits.NOT_DONE,
            "recovery has not ended",
            f"{asked} is in the data directory. Nothing is removed.",
            "A server runs this by itself, as recovery_end_command. To take a trigger back, remove its file.",
        )
    status = 0
    if trigger_file is not None:
        found = trigger.remove(trigger_file, trusted)
        if found.problem:
            say.warning(
                f'trigger file "{trigger_file}" {found.problem}, so it stays',
                "It would end the recovery of a standby that is made from this server.",
                found.hint,
            )
            status = exits.NOT_DONE
        else:
            say.debug(f'trigger file "{trigger_file}" is removed')
    if not is_server:
        say.debug("the current directory is no data directory, so no spool is looked for")
    for folder in ("pg_wal", "pg_xlog"):
        place = os.path.join(folder, FOLDER)
        problem = _remove_spool(place) if is_server else ""
        if problem:
            say.warning(
                f'"{place}" could not be removed: {problem}', "It takes up room, and is of no other harm.", "Remove it by hand."
            )
            status = exits.NOT_DONE
    return status


def _remove_spool(folder: str) -> str:
    """End the child that fills a spool, and remove the folder with all that is in it; why that cannot be done, if so."""
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return "it is not a folder"
        spool.end(folder)
        for name in os.listdir(folder):
            osdep.remove(os.path.join(folder, name))
        osdep.remove_folder(folder)
    except FileNotFoundError:
        pass
    except OSError as failure:
        return say.reason(failure)
    return ""
