"""A file that a verb makes for others, a server or the node exporter, to read at any moment: whole at once, by one rename."""

import os

from pystandby import exits, osdep, say
from pystandby.exits import StandbyError


def put(path: str, content: str, owner: "tuple[int, int] | None" = None) -> None:
    """Make a file of this text that everybody may read, over one that is there. Raises OSError, and leaves nothing new then.

    ``owner`` is the user and group that it is to belong to, None for our own.
    """
    temporary = f"{path}.{os.getpid()}"
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass
    # Not through a link that somebody has put there.
    descriptor = osdep.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | osdep.O_CLOEXEC | osdep.O_NOFOLLOW, 0o644)
    try:
        # Names of files, which the text may hold, are in any encoding or none.
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.write(content)
            # By the descriptor: by name, whoever owns the folder could have root give away another file.
            osdep.let_everybody_read(descriptor)
            if owner is not None:
                osdep.give(descriptor, *owner)
        osdep.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def write(path: str, content: str) -> None:
    """As put(). Raises StandbyError, and leaves what was there before then; a device or a folder stays in any case."""
    reason = ""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            # Root would put a plain file in the place of /dev/stdout.
            reason = "it is not a plain file"
        else:
            put(path, content)
    except OSError as failure:
        reason = say.reason(failure)
    if reason:
        raise StandbyError(
            exits.NOT_DONE,
            f'could not write "{path}": {reason}',
            "What was there before stays.",
            "Give a file in a folder that this user may write to.",
        )
