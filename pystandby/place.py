"""Put a file where the server wants it: a private copy beside it, published by one rename.

    pg_wal/RECOVERYXLOG             what the server takes; here at once and whole, or not at all
    pg_wal/RECOVERYXLOG.pystandby   the copy being made, locked by its maker; one that was killed leaves it to the next

No fsync: the server makes what it accepts durable itself, and asks again for what a crash takes
(KeepFileRestoredFromArchive() in src/backend/access/transam/xlogarchive.c).
"""

import errno
import os
import stat

from pystandby import osdep

SUFFIX = ".pystandby"


class Copy:
    """A private copy of a file of the archive, on the file system of its destination: judged, then published or discarded."""

    __slots__ = ("_path", "descriptor", "size")

    def __init__(self, destination: str) -> None:
        self.size = 0
        self._path, self.descriptor = _open_locked(destination + SUFFIX)

    def fill(self, source: int, size: int) -> None:
        """Copy ``size`` bytes, or fewer if the source ends before. Raises osdep.SourceError, or OSError of the destination."""
        if os.fstat(self.descriptor).st_size:
            # Only what a killed one left: ext4 writes a file that was truncated to nothing to the disk when it is closed.
            os.ftruncate(self.descriptor, 0)
        self.size = osdep.copy(source, self.descriptor, size)

    def date(self, modified: int) -> None:
        """Give the copy a modification time, in nanoseconds. Raises OSError."""
        os.utime(self._path, ns=(modified, modified))

    def cut(self, offset: int) -> None:
        """Put zeros in place of everything from an offset on. Raises OSError."""
        os.ftruncate(self.descriptor, offset)
        os.ftruncate(self.descriptor, self.size)

    def publish(self, destination: str) -> None:
        """Rename the copy to its destination, over whatever is there. Raises OSError, and leaves nothing behind then."""
        try:
            os.replace(self._path, destination)
        except OSError:
            self.discard()
            raise
        self._close()

    def discard(self) -> None:
        """Remove the copy."""
        self.abandon()
        self._close()

    def abandon(self) -> None:
        """Remove the copy while another thread may still be writing to it."""
        try:
            os.unlink(self._path)
        except OSError:
            pass

    def _close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _open_locked(path: str) -> "tuple[str, int]":
    """Open the temporary file, locked, so that an orphan still writing to it cannot spoil ours."""
    flags = osdep.O_READ & ~os.O_RDONLY | os.O_RDWR | os.O_CREAT | osdep.O_NOFOLLOW
    for name in (path, f"{path}.{os.getpid()}"):
        try:
            descriptor = os.open(name, flags, 0o666)
        except OSError as failure:
            if failure.errno in (errno.ELOOP, errno.EISDIR, errno.EACCES) and name == path:
                continue
            raise
        try:
            # The one who held the lock may have renamed the file away, or removed it, between our open and our lock.
            status = os.fstat(descriptor)
            ours = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
            if ours and osdep.lock(descriptor) and os.path.samestat(status, os.lstat(name)):
                return name, descriptor
        except OSError:
            pass
        if name != path:
            return name, descriptor
        os.close(descriptor)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
