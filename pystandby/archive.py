"""What is in the archive: the path of a name, opening it, and whether an absence is proven. Decides nothing, deletes nothing.

A file may be there compressed, under its name with one ending more. Which endings there are, and which of several files counts,
is known here alone; compression.py, which reads them, is loaded only where there is one.
"""

import errno
import os
import stat

from pystandby import osdep
from pystandby.exits import StandbyError

ABSENT = "absent"
"""The archive is there, and has no file of this name."""

UNAVAILABLE = "unavailable"
"""The archive itself cannot be read, so nothing is known of the file."""

UNREADABLE = "unreadable"
"""The file is there and cannot be opened: no permission yet, or another program has locked it."""

PRESENT = "present"

ENDINGS = (".gz", ".zst", ".lz4", ".xz", ".bz2", ".lzma")
"""The endings of compressed files, in the order in which they are looked for where there is no plain file."""


def bare(name: str) -> str:
    """The name that a file of the archive would have if it were not compressed."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending in ENDINGS else name


def names(name: str) -> "list[str]":
    """Every name under which a file may be in an archive, the plain one first."""
    return [name, *(name + ending for ending in ENDINGS)]


class Entry:
    """What a look at one name found: one of the states above, with the open file or the operating system's error.

    ``ending`` is that of a compressed file, and empty for a plain one.
    """

    __slots__ = ("descriptor", "ending", "failure", "state", "status")

    def __init__(
        self,
        state: str,
        failure: "OSError | None" = None,
        descriptor: int = -1,
        status: "os.stat_result | None" = None,
        ending: str = "",
    ) -> None:
        self.state = state
        self.failure = failure
        self.descriptor = descriptor
        self.status = status
        self.ending = ending

    def head(self, size: int) -> bytes:
        """The first ``size`` bytes of what the file holds, decompressed, or fewer if it has fewer.

        Raises OSError, also (compression.Damaged) where it cannot be decompressed, and StandbyError where the codec is missing.
        """
        if self.ending:
            from pystandby import compression

            return compression.head(self.descriptor, self.ending, size)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return os.read(self.descriptor, size)

    def close(self) -> None:
        """Close the file; harmless where there is none."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Archive:
    """The folder that archive_command fills."""

    __slots__ = ("_usual", "directory")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._usual = ""

    def path(self, name: str) -> str:
        """Where a file of this name is, if it is there."""
        return os.path.join(self.directory, name)

    def _endings(self) -> "tuple[str, ...]":
        """All endings, that of the last file found first."""
        return (self._usual, *ENDINGS) if self._usual else ENDINGS

    def _find(self, name: str, endings: "tuple[str, ...]") -> "tuple[str, os.stat_result]":
        """The ending of the file that counts as the named one, empty if it is plain, and its status. Raises OSError."""
        for ending in ("", *endings):
            try:
                status = os.stat(self.path(name + ending))
            except FileNotFoundError:
                continue
            self._usual = ending
            return ending, status
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path(name))

    def status(self, name: str) -> "os.stat_result | None":
        """The status of the file that counts as the named one; None where none can be seen."""
        try:
            return self._find(name, self._endings())[1]
        except OSError:
            return None

    def holds(self, name: str) -> bool:
        """Whether a file of this name is there, plain or compressed, as far as can be seen."""
        return self.status(name) is not None

    def holds_alike(self, name: str) -> bool:
        """As holds(), but plain or compressed as the last file found was: in two looks where it is absent, not in seven."""
        try:
            self._find(name, (self._usual,) if self._usual else ())
        except OSError:
            return False
        return True

    def still_holds(self, name: str, size: int, modified: int) -> bool:
        """Whether the file is the one of this size in bytes and modification time in nanoseconds; also where that is unknown.

        Of a compressed one the time has to do: its size says nothing of its content's.
        """
        try:
            ending, status = self._find(name, self._endings())
        except FileNotFoundError:
            return self._directory_failure() is not None
        except OSError:
            return True
        return status.st_mtime_ns == modified and (bool(ending) or status.st_size == size)

    def head(self, name: str, size: int) -> "bytes | None":
        """The first ``size`` bytes of what a file holds, decompressed; None where they cannot be read, for whatever reason."""
        entry = None
        try:
            entry = self.look(name)
            return entry.head(size) if entry.state == PRESENT else None
        except (OSError, StandbyError):
            return None
        finally:
            if entry is not None:
                entry.close()

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
        """Open a file of the archive, a compressed one where there is no plain one, or say why that cannot be done.

        ABSENT is said only of an archive that answers, and only after two looks: a name can be missing for a moment while its
        directory is being mounted or replaced. Raises OSError where this process itself lacks descriptors or memory.
        """
        entry = self._open(name)
        if entry.state == UNREADABLE:
            # The folder that could be read just now may have come back only after this failed.
            entry = self._open(name)
        if entry.state != ABSENT:
            return entry
        # A look at each, and no listing: that of a hundred thousand files takes a file server seconds.
        for ending in self._endings():
            if self._may_be_there(name + ending):
                entry = self._open(name, ending)
                if entry.state != ABSENT:
                    return entry
        # And at the plain one once more, which a program that decompresses it has by now.
        return self._open(name)

    def look_at_all(self, name: str) -> "list[Entry]":
        """As look(), and every other file of the name that is there beside the one that counts."""
        found = [self.look(name)]
        if found[0].state in (PRESENT, UNREADABLE):
            others = [ending for ending in ENDINGS if ending != found[0].ending and self._may_be_there(name + ending)]
            found += [self._open(name, ending) for ending in others]
        return found

    def _may_be_there(self, name: str) -> bool:
        """Whether a name is there, or cannot be ruled out."""
        try:
            os.lstat(self.path(name))
        except FileNotFoundError:
            return False
        except OSError:
            pass
        return True

    def _open(self, name: str, ending: str = "") -> Entry:
        """Open the file of a name and an ending. Raises OSError where this process itself lacks descriptors or memory."""
        path = self.path(name + ending)
        try:
            descriptor = osdep.open_file(path, osdep.O_READ)
        except OSError as failure:
            if failure.errno in osdep.OWN_SHORTAGE:
                raise
            directory = self._directory_failure()
            if directory is not None:
                return Entry(UNAVAILABLE, directory)
            if failure.errno in (errno.ENOENT, getattr(errno, "ENOTDIR", errno.ENOENT)) and not os.path.islink(path):
                return Entry(ABSENT)
            # A link leads to where something is not mounted.
            return Entry(UNREADABLE, failure, ending=ending)
        try:
            status = os.fstat(descriptor)
        except OSError as failure:
            os.close(descriptor)
            return Entry(UNREADABLE, failure, ending=ending)
        self._usual = ending
        return Entry(PRESENT, None, descriptor, status, ending)

    def _directory_failure(self) -> "OSError | None":
        """Why the archive's folder cannot be used; None if it is there."""
        try:
            # Opening it is what makes an NFS client ask the server whether names that it took for absent have come.
            os.close(osdep.open_file(self.directory, osdep.O_READ))
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
