"""What is in the archive: the path of a name, opening it, and whether an absence is proven. Decides nothing, deletes nothing."""

import errno
import os
import stat

from pystandby import osdep

ABSENT = "absent"
"""The archive is there, and has no file of this name."""

UNAVAILABLE = "unavailable"
"""The archive itself cannot be read, so nothing is known of the file."""

UNREADABLE = "unreadable"
"""The file is there and cannot be opened: no permission yet, or another program has locked it."""

PRESENT = "present"


class Entry:
    """What a look at one name found: one of the states above, with the open file or the operating system's error."""

    __slots__ = ("descriptor", "failure", "state", "status")

    def __init__(
        self,
        state: str,
        failure: "OSError | None" = None,
        descriptor: int = -1,
        status: "os.stat_result | None" = None,
    ) -> None:
        self.state = state
        self.failure = failure
        self.descriptor = descriptor
        self.status = status

    def close(self) -> None:
        """Close the file; harmless where there is none."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Archive:
    """The folder that archive_command fills."""

    __slots__ = ("directory",)

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def path(self, name: str) -> str:
        """Where a file of this name is, if it is there."""
        return os.path.join(self.directory, name)

    def holds(self, name: str) -> bool:
        """Whether a file of this name is there, as far as can be seen."""
        try:
            os.stat(self.path(name))
        except OSError:
            return False
        return True

    def still_holds(self, name: str, size: int, modified: int) -> bool:
        """Whether the file is the one of this size in bytes and modification time in nanoseconds; also where that is unknown."""
        try:
            status = os.stat(self.path(name))
        except FileNotFoundError:
            return self._directory_failure() is not None
        except OSError:
            return True
        return (status.st_size, status.st_mtime_ns) == (size, modified)

    def folder(self) -> str:
        """What tells the folder at the archive's path from another one mounted, or uncovered, there; empty if none is."""
        try:
            status = os.stat(self.directory)
        except OSError:
            return ""
        return f"{status.st_dev}:{status.st_ino}"

    def is_empty(self) -> bool:
        """Whether the folder holds nothing at all, as far as can be seen."""
        try:
            with os.scandir(self.directory) as entries:
                return next(entries, None) is None
        except OSError:
            return False

    def look(self, name: str) -> Entry:
        """Open a file of the archive, or say why that cannot be done.

        ABSENT is said only of an archive that answers, and only after two looks: a name can be missing for a moment while its
        directory is being mounted or replaced. Raises OSError where this process itself lacks descriptors or memory.
        """
        for last in (False, True):
            try:
                descriptor = os.open(self.path(name), osdep.O_READ)
            except OSError as failure:
                if failure.errno in osdep.OWN_SHORTAGE:
                    raise
                directory = self._directory_failure()
                if directory is not None:
                    return Entry(UNAVAILABLE, directory)
                if failure.errno in (errno.ENOENT, getattr(errno, "ENOTDIR", errno.ENOENT)):
                    if os.path.islink(self.path(name)):
                        # It leads to where something is not mounted.
                        return Entry(UNREADABLE, failure)
                    continue
                if last:
                    return Entry(UNREADABLE, failure)
                # The folder that could be read just now may have come back only after this failed.
                continue
            try:
                return Entry(PRESENT, None, descriptor, os.fstat(descriptor))
            except OSError as failure:
                os.close(descriptor)
                return Entry(UNREADABLE, failure)
        return Entry(ABSENT)

    def _directory_failure(self) -> "OSError | None":
        """Why the archive's folder cannot be used; None if it is there."""
        try:
            # Opening it is what makes an NFS client ask the server whether names that it took for absent have come.
            os.close(os.open(self.directory, osdep.O_READ))
        except OSError:
            pass
        try:
            status = os.stat(self.directory)
        except OSError as failure:
            return failure
        if not stat.S_ISDIR(status.st_mode):
            return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(self.directory, os.X_OK):
            return PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return None
