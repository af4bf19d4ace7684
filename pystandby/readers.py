"""The standbys that read one archive: how far back each of them may still have to go.

    ARCHIVE/.pystandby/readers/NAME     the restart point (%r) that the standby of this name left last, and by its time, when

Only what all of them have passed may be removed. One that has gone for good is removed by a person, not by its silence.
"""

import os
import time

from pystandby import osdep, wal
from pystandby.exits import NOT_DONE, StandbyError
from pystandby.memory import FOLDER


class Reader:
    """One standby: its name, its restart point, and for how many seconds it has not been heard of."""

    __slots__ = ("name", "point", "silent")

    def __init__(self, name: str, point: str, silent: float) -> None:
        self.name = name
        self.point = point
        self.silent = silent


def folder(archive: str) -> str:
    """Where the readers of an archive leave their restart points."""
    return os.path.join(archive, FOLDER, "readers")


def is_name(name: str) -> bool:
    """Whether a standby can have this name: letters, digits, and in between them also "_", "-" and "."."""
    return name.isascii() and name.replace("_", "a").replace("-", "a").replace(".", "a").isalnum() and name[0].isalnum()


def note(archive: str, name: str, point: str) -> None:
    """Leave the restart point of a standby, durably: who is not known is not waited for. Raises OSError."""
    place = folder(archive)
    is_new = not os.path.isdir(place)
    os.makedirs(place, exist_ok=True)
    path = os.path.join(place, name)
    temporary = os.path.join(place, f".{name}.{os.getpid()}")
    try:
        with open(temporary, "wb", buffering=0) as file:
            file.write(f"{point}\n".encode())
            os.fsync(file.fileno())
        osdep.replace(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise
    osdep.sync_folder(place)
    if is_new:
        osdep.sync_folder(os.path.dirname(place))
        osdep.sync_folder(archive)


def known(archive: str) -> "list[Reader]":
    """Every standby that has left a restart point, by name. Raises StandbyError where one cannot be read, and OSError."""
    try:
        names = sorted(name for name in os.listdir(folder(archive)) if not name.startswith("."))
    except FileNotFoundError:
        return []
    readers: list[Reader] = []
    for name in names:
        path = os.path.join(folder(archive), name)
        content = osdep.read_small(path, 64)
        point = (content or b"").decode("ascii", "replace").removesuffix("\n")
        if wal.kind(point) != wal.SEGMENT:
            raise StandbyError(
                NOT_DONE,
                f'restart point of standby "{name}" cannot be read',
                f'"{path}" {"cannot be opened" if content is None else "holds no name of a segment"}. Nothing is removed.',
                "Mend it, or remove it if there is no such standby any more.",
            )
        readers.append(Reader(name, point, time.time() - os.stat(path).st_mtime))
    return readers
