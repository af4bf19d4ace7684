"""Look-ahead: the segments that come next, made ready by one child of a restore while the server replays.

    pg_wal/.pystandby/lock                    held by the child; holds its process id
    pg_wal/.pystandby/position                the last segment that a call restored, for the child to follow
    pg_wal/.pystandby/NAME                    a segment: whole and verified, with the times of the file it was copied from
    pg_wal/.pystandby/NAME.pystandby          a copy being made; locked by the child

A name is there only when the file is whole, so whoever takes it needs one rename: a restore, or the shell before it. The child
goes by itself: when nothing is left to do, when recovery ends, and with its server. Nothing depends on it: without room, rights
or a child, a restore copies directly.
"""

import os
import time

from pystandby import osdep, wal
from pystandby.memory import FOLDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystandby.archive import Archive

MAX_BYTES = 512 << 20
"""What the spool may hold in all, but for the one segment that it always may: eight segments of 64 MB, one of 1 GB."""

_STALLED = 1.0
"""Seconds without growth after which a copy under way is presumed dead."""


class Spooled:
    """A segment in the spool: published or discarded like a place.Copy."""

    __slots__ = ("_path", "modified", "size")

    def __init__(self, path: str, status: os.stat_result) -> None:
        self._path = path
        self.size = status.st_size
        self.modified = status.st_mtime_ns

    def publish(self, destination: str) -> None:
        """Rename it to its destination. Raises OSError, and leaves it where it is then."""
        osdep.replace(self._path, destination)

    def date(self, modified: int) -> None:
        """It has its source's time already."""

    def discard(self) -> None:
        """Leave it in the spool, for the next call."""


def folder(destination: str) -> str:
    """The spool of the server that wants a file at ``destination``."""
    return os.path.join(os.path.dirname(destination), FOLDER)


def bound(look_ahead: int, segment_size: int) -> int:
    """How many segments of a size in bytes the spool may hold, when ``look_ahead`` are asked for."""
    return max(1, min(look_ahead, MAX_BYTES // segment_size)) if look_ahead else 0


def take(spool: str, name: str, archive: "Archive") -> "Spooled | None":
    """The segment out of our own spool, if it is there and the archive's file has not changed since; waits for one being made.

    What was spooled from a file that has changed or gone is removed; what an archive held that cannot be read now is good.
    """
    path = os.path.join(spool, name)
    _await_copy(path)
    try:
        status = os.stat(path)
    except OSError:
        return None
    if is_stale(status, archive, name):
        _remove(path)
        return None
    return Spooled(path, status)


def is_stale(status: os.stat_result, archive: "Archive", name: str) -> bool:
    """Whether a spooled file is no longer what the archive holds under its name."""
    return not archive.still_holds(name, status.st_size, status.st_mtime_ns)


def _await_copy(path: str) -> None:
    """Wait while the child copies this very segment: a second copy would only slow down both."""
    from pystandby.place import SUFFIX

    size = -1
    since = time.monotonic()
    while True:
        try:
            now = os.stat(path + SUFFIX).st_size
        except OSError:
            return
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > _STALLED or not _is_locked(path + SUFFIX):
            return
        time.sleep(0.002)


def _is_locked(path: str) -> bool:
    try:
        descriptor = osdep.open_file(path, os.O_RDWR | osdep.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not osdep.lock(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def empty(spool: str, keep: "frozenset[str]" = frozenset()) -> None:
    """Remove every segment and half-made copy from a spool, but for some names."""
    try:
        names = os.listdir(spool)
    except OSError:
        return
    for name in names:
        if wal.kind(name[:24]) == wal.SEGMENT and name not in keep:
            _remove(os.path.join(spool, name))


def remove(spool: str, name: str) -> None:
    """Withdraw a segment."""
    _remove(os.path.join(spool, name))


def withdraw_older(spool: str, name: str) -> None:
    """Withdraw what older timelines have from the named segment on: a server that follows its timeline must not take it."""
    try:
        names = os.listdir(spool)
    except OSError:
        return
    for other in names:
        if wal.kind(other) == wal.SEGMENT and other[8:] >= name[8:] and other[:8] < name[:8]:
            _remove(os.path.join(spool, other))


def claim(spool: str, owner: str) -> "int | None":
    """Become the child of a server process, for as long as the descriptor returned stays open; None where another is."""
    descriptor = _open_lock(spool, create=True)
    if descriptor is None:
        return None
    if not osdep.lock(descriptor):
        os.close(descriptor)
        return None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n{owner}\n".encode())
        _remove(os.path.join(spool, "position"))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def empty_foreign(spool: str, owner: str) -> None:
    """Empty a spool that another server process filled: the shell would take what is in it without a look."""
    if not _is_owned(spool, owner):
        empty(spool)


def _is_owned(spool: str, owner: str) -> bool:
    content = osdep.read_small(os.path.join(spool, "lock"), 1024) or b""
    return content.partition(b"\n")[2] == f"{owner}\n".encode()


def end(spool: str) -> None:
    """End the look-ahead of a server whose recovery ends: no child, no segment that a shell could still take."""
    descriptor = _open_lock(spool, create=False)
    if descriptor is None:
        return
    deadline = time.monotonic() + 2.0
    try:
        while not osdep.lock(descriptor) and time.monotonic() < deadline:
            osdep.end_helper(_read_pid(descriptor), kill=time.monotonic() > deadline - 1.0)
            time.sleep(0.002)
        empty(spool)
    finally:
        os.close(descriptor)


def _open_lock(spool: str, create: bool) -> "int | None":
    flags = os.O_RDWR | osdep.O_CLOEXEC | osdep.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        return osdep.open_file(os.path.join(spool, "lock"), flags, 0o600)
    except OSError:
        return None


def _read_pid(descriptor: int) -> int:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        text = os.read(descriptor, 1024).partition(b"\n")[0]
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def child(spool: str) -> "int | None":
    """The process that fills a spool, by its lock file; None where none does. Leaves the lock alone: a restore may want it."""
    words = (osdep.read_small(os.path.join(spool, "lock"), 1024) or b"").split(b"\n", 1)[0]
    return int(words) if words.isdigit() and osdep.started(int(words)) is not None else None


def note_position(spool: str, name: str) -> "bool | None":
    """Tell the child which segment was restored: True if there is no child, False if there is, None where there can be none."""
    try:
        os.mkdir(spool, 0o700)
    except OSError:
        pass
    descriptor = _open_lock(spool, create=True)
    if descriptor is None:
        return None
    try:
        free = osdep.lock(descriptor)
    finally:
        os.close(descriptor)
    if not free:
        temporary = os.path.join(spool, f"position.{os.getpid()}")
        try:
            with open(temporary, "wb", buffering=0) as file:
                file.write(name.encode())
            osdep.replace(temporary, os.path.join(spool, "position"))
        except OSError:
            _remove(temporary)
    return free


def read_position(spool: str) -> str:
    """The last segment that a call told the child of; empty if none did."""
    return (osdep.read_small(os.path.join(spool, "position"), 24) or b"").decode("ascii", "replace")
