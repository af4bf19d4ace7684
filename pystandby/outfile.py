"""A file that a verb makes for others, such as the node exporter, to read at any moment: whole at once, by one rename."""

import os

from pystandby import exits, osdep, say
from pystandby.exits import StandbyError


def write(path: str, content: str) -> None:
    """Write a text for everybody to read, over what is there. Raises StandbyError, and leaves what was there before then."""
    temporary = f"{path}.{os.getpid()}"
    try:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | osdep.O_CLOEXEC | osdep.O_NOFOLLOW, 0o644)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                osdep.let_everybody_read(file.fileno())
                file.write(content)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as failure:
        raise StandbyError(
            exits.NOT_DONE,
            f'could not write "{path}": {say.reason(failure)}',
            "What was there before stays.",
            "Give a file in a folder that this user may write to.",
        ) from failure
