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
        self._begin()
        self.size = osdep.copy(source, self.descriptor, size)

    def write(self, data: bytes) -> None:
        """Add some bytes, in place of fill(). Raises OSError."""
        if self.size == 0:
            self._begin()
        osdep.write(self.descriptor, data)
        self.size += len(data)

    def _begin(self) -> None:
        if os.fstat(self.descriptor).st_size:
            # Only what a killed one left: ext4 writes a file that was truncated to nothing to the disk when it is closed.
            os.ftruncate(self.descriptor, 0)

    def date(self, modified: int) -> None:
        """Give the copy a modification time, in nanoseconds. Raises OSError."""
        osdep.set_modified(self._path, self.descriptor, modified)

    def cut(self, offset: int) -> None:
        """Put zeros in place of everything from an offset on. Raises OSError."""
        os.ftruncate(self.descriptor, offset)
        os.ftruncate(self.descriptor, self.size)

    def publish(self, destination: str) -> None:
        """Rename the copy to its destination, over whatever is there. Raises OSError, and leaves nothing behind then."""
        try:
            osdep.replace(self._path, destination)
        except OSError:
            self.discard()
            raise
        self._close()

    def publish_new(self, destination: str) -> None:
        """Give the copy, made durable, a name that must be free. Raises FileExistsError, OSError, and leaves nothing behind then.

        For an archive, where nobody asks again for what a crash takes.
        """
        try:
            os.fsync(self.descriptor)
            osdep.rename_new(self._path, destination)
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


def remove_left_over(path: str) -> None:
    """Remove a copy that a killed maker left, by its temporary name; not one that is being made. Raises nothing.

    It may be a second name of a published file, of one that was killed between the two steps of publish_new(): not to be written
    to. Whoever makes a copy has it locked, so what can be locked is nobody's.
    """
    try:
        descriptor = osdep.open_file(path, osdep.O_READ & ~os.O_RDONLY | os.O_RDWR | osdep.O_NOFOLLOW)
        try:
            status = os.fstat(descriptor)
            is_left = osdep.lock(descriptor)
            if is_left and os.path.samestat(status, os.lstat(path)):
                os.unlink(path)
        finally:
            os.close(descriptor)
    except OSError:
        pass


def _open_locked(path: str) -> "tuple[str, int]":
    """Open the temporary file, locked, so that an orphan still writing to it cannot spoil ours."""
    flags = osdep.O_READ & ~os.O_RDONLY | os.O_RDWR | os.O_CREAT | osdep.O_NOFOLLOW
    for name in (path, f"{path}.{os.getpid()}"):
        try:
            if name != path:
                # One of our process id's that was killed: perhaps, by publish_new(), a second name of an archived file.
                if os.path.lexists(name):
                    os.unlink(name)
                flags |= os.O_EXCL
            descriptor = osdep.open_file(name, flags, 0o666)
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
