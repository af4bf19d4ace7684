"""archive_command: a WAL file into the archives, under its name only when it is whole and durable, and never over another file.

    ARCHIVE/NAME                the archived file; compressed, NAME.gz, NAME.zst or NAME.lz4
    ARCHIVE/NAME.pystandby      the copy being made, locked by its maker; one that was killed leaves it to the next call

A server calls this for one file after the other, and again for the same file until it hears 0; after a crash also for one that
is archived already. So the same bytes under the name are success, compressed or not. Other bytes are another server's, and stay.
"""

import os
import stat

from pystandby import archive, exits, osdep, place, ready, say, wal
from pystandby.archive import Archive
from pystandby.asker import Asker
from pystandby.exits import StandbyError

_CHUNK = 1 << 20

_MOST_HISTORY = 1 << 20
"""Bytes of a history file that are read at most."""

_RETRIED = "The file stays in pg_wal, and the server tries again."


def put(directories: "list[str]", source: str, name: str, verify: bool = True, compress: str = "") -> int:
    """Put the file at ``source`` (%p) under its name (%f) into each archive, and return exits.ARCHIVED or NOT_ARCHIVED.

    Every archive is tried, so that one that is full does not keep the others from getting the file. ``verify`` is whether the
    file must begin as a segment of its name; ``compress`` is one of options.COMPRESS, or empty for a plain copy. Raises
    StandbyError where the file itself is not fit, the codec is missing, or with a single archive.
    """
    if wal.kind(name) is None:
        swapped = "The order is: pystandby archive ARCHIVE... %p %f." if wal.kind(os.path.basename(source)) == wal.SEGMENT else ""
        raise StandbyError(
            exits.NOT_ARCHIVED, f'"{name}" is not the name of a WAL file', f"It was to be archived from {source}.", swapped
        )
    if compress:
        from pystandby import compression

        try:
            compression.require(f".{compress}")
        except compression.MissingCodecError as missing:
            raise StandbyError(
                exits.NOT_ARCHIVED, f"could not compress {name}: {missing.message}", _RETRIED, missing.hint
            ) from missing
    file = _File(source, name, verify)
    try:
        if len(directories) == 1:
            _Call(file, directories[0], compress).run()
            return exits.ARCHIVED
        status = exits.ARCHIVED
        for directory in directories:
            try:
                _Call(file, directory, compress).run()
            except StandbyError as failure:
                say.error(failure.message, failure.detail, failure.hint)
                status = exits.NOT_ARCHIVED
        return status
    finally:
        os.close(file.descriptor)


class _File:
    """The file to be archived, open, and what it says of itself. Raises StandbyError where it must not be archived."""

    __slots__ = ("descriptor", "kind", "name", "path", "segment_size", "size", "system_identifier", "verify")

    def __init__(self, path: str, name: str, verify: bool) -> None:
        self.path = path
        self.verify = verify
        self.name = name
        self.kind = wal.kind(name)
        try:
            self.descriptor = osdep.open_file(path, osdep.O_READ)
        except OSError as failure:
            raise self._refused(f"cannot be read: {say.reason(failure)}", "Give %p first, as the server puts it.") from failure
        try:
            status = os.fstat(self.descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self._refused("is not a plain file")
            self.size = status.st_size
            self._judge(verify)
        except OSError as failure:
            os.close(self.descriptor)
            raise self._refused(f"cannot be read: {say.reason(failure)}") from failure
        except StandbyError:
            os.close(self.descriptor)
            raise

    def _judge(self, verify: bool) -> None:
        # From %p and the current directory it tells whose pg_wal this is, as for pg_rewind, which names the same files.
        server = Asker(self.name, self.path)
        self.system_identifier = server.system_identifier()
        self.segment_size = self.size
        if self.size == 0 and verify:
            raise self._refused("is empty")
        if self.kind not in (wal.SEGMENT, wal.PARTIAL) or not verify:
            return
        head = _beginning(self.descriptor)
        verdict = ready.judge_head(head, self.size, self.name, self.system_identifier, server.server_version)
        if verdict.state in (ready.WRONG, ready.UNFINISHED):
            raise self._refused(verdict.reason, "To archive what is no WAL of PostgreSQL's own all the same, use --verify none.")
        if verdict.state == ready.WHOLE:
            self.segment_size = verdict.segment_size
            self.system_identifier = wal.FirstPage(head).system_identifier

    def _refused(self, reason: str, hint: str = "") -> StandbyError:
        return StandbyError(exits.NOT_ARCHIVED, f'"{self.path}" {reason}', f"It is not archived as {self.name}.", hint)


class _Call:
    """One file and one archive."""

    __slots__ = ("archive", "directory", "ending", "file", "path")

    def __init__(self, file: _File, directory: str, compress: str) -> None:
        self.file = file
        self.directory = directory
        self.archive = Archive(directory)
        self.ending = f".{compress}" if compress else ""
        self.path = self.archive.path(file.name + self.ending)

    def run(self) -> None:
        """Archive the file. Raises StandbyError where it is not archived."""
        try:
            if self._is_archived():
                return
            self._belongs_here()
            if not self._copy():
                raise self._failed("is being archived by two servers at once")
        except OSError as failure:
            raise self._failed(say.reason(failure), "Mend it: until then pg_wal grows.") from failure

    def _failed(self, reason: str, hint: str = "") -> StandbyError:
        return StandbyError(
            exits.NOT_ARCHIVED, f'could not archive {self.file.name} in "{self.directory}": {reason}', _RETRIED, hint
        )

    # Is it there already?

    def _is_archived(self) -> bool:
        """Whether the archive has this very file, made durable; False if it has none. Raises StandbyError if it has another."""
        entries = self.archive.look_at_all(self.file.name)
        try:
            self._is_readable(entries[0])
            there = [entry for entry in entries if entry.state != archive.ABSENT]
            for entry in there:
                self._is_the_same(entry)
            if there:
                osdep.sync_folder(self.directory)
                say.debug(f'{self.file.name} is in archive "{self.directory}" already')
                place.remove_left_over(self.path + place.SUFFIX)
            return bool(there)
        finally:
            for entry in entries:
                entry.close()

    def _is_the_same(self, entry: archive.Entry) -> None:
        """Make what the archive has under the name durable. Raises StandbyError where it is not this very file, and OSError."""
        name = self.file.name + entry.ending
        if entry.state != archive.PRESENT or entry.status is None:
            why = say.reason(entry.failure) if entry.failure else entry.state
            raise self._failed(f"what is there as {name} cannot be read: {why}")
        if not stat.S_ISREG(entry.status.st_mode):
            raise self._failed(f"what has the name {name} there is not a plain file")
        if os.path.samestat(os.fstat(self.file.descriptor), entry.status):
            # The server overwrites what it recycles, through every name that it has.
            raise self._failed(
                f"what has the name {name} there is a link, and no copy",
                "Remove the link, so that a copy can be made in its place.",
            )
        try:
            if not (self._expands_to_the_same(entry) if entry.ending else _same_bytes(self.file.descriptor, entry.descriptor)):
                raise self._another(entry)
        except StandbyError as failure:
            if failure.status != exits.MODULE_MISSING:
                raise
            raise self._failed(f"what is there as {name} cannot be compared. {failure.message}", failure.hint) from failure
        # Whoever put it there may have been killed before it was on the disk, and the server removes its own now.
        osdep.sync_file(self.archive.path(name), entry.descriptor)

    def _expands_to_the_same(self, entry: archive.Entry) -> bool:
        """Whether a compressed file holds what this one does. Raises StandbyError where it is damaged, and OSError."""
        from pystandby import compression

        os.lseek(self.file.descriptor, 0, os.SEEK_SET)
        try:
            for piece in compression.expanded(entry.descriptor, entry.ending):
                if piece != osdep.read(self.file.descriptor, len(piece)):
                    return False
        except compression.Damaged as damage:
            name = self.file.name + entry.ending
            raise StandbyError(
                exits.NOT_ARCHIVED,
                f'archive "{self.directory}" has {name}, which {damage.reason}',
                f"Nothing is replaced, and {self.file.name} stays in pg_wal.",
                "If nobody is writing it any more, a copy that was broken off has left it: remove it from the archive, and "
                "the server archives the whole file.",
            ) from damage
        return not os.read(self.file.descriptor, 1)

    def _is_readable(self, entry: archive.Entry) -> None:
        """Raise StandbyError where a look has found that the archive itself cannot be read."""
        if entry.state == archive.UNAVAILABLE and entry.failure is not None:
            raise StandbyError(
                exits.NOT_ARCHIVED,
                f'archive "{self.directory}" cannot be read: {say.reason(entry.failure)}',
                _RETRIED,
                "Mount it or mend it. It is not made here: that would put WAL where a file system is yet to be mounted.",
            )

    def _look(self, name: str) -> archive.Entry:
        """Look at a name. Raises StandbyError where the archive itself cannot be read."""
        entry = self.archive.look(name)
        self._is_readable(entry)
        return entry

    def _another(self, entry: archive.Entry) -> StandbyError:
        """The archive has other bytes under the name: what to say of it."""
        assert entry.status is not None
        there, here, size = entry.head(wal.LONG_HEADER_SIZE), _beginning(self.file.descriptor), entry.status.st_size
        hint = (
            "Two servers have written it. Find out which of them is to go on, stop the other, and give what it archived another "
            "folder."
        )
        if self.file.kind == wal.HISTORY:
            hint = "Two servers were promoted to the same timeline. Stop the one that must not go on."
        elif not entry.ending and _is_torn_copy(self.file.descriptor, entry.descriptor, size):
            hint = (
                "It is the beginning of this very file, as a copy leaves it that was broken off: remove it from the archive, and "
                "the server archives the whole file."
            )
        elif _system(there) not in (None, _system(here)):
            hint = "Two clusters archive to one folder: give each a folder of its own."
        return StandbyError(
            exits.NOT_ARCHIVED,
            f'archive "{self.directory}" has another {self.file.name + entry.ending}',
            f"There: {_description(there, size, bool(entry.ending))}; here: {_description(here, self.file.size)}. Nothing is "
            "replaced, and the file stays in pg_wal.",
            hint,
        )

    # Does it belong there?

    def _belongs_here(self) -> None:
        """Raise StandbyError if the archive is another cluster's, or has left the file's timeline before the file's end."""
        # None for WAL whose headers nobody but its fork can read: each call would list the archive for nothing.
        ours = self.file.system_identifier if self.file.verify else None
        found = None
        if ours is not None and self.file.kind == wal.SEGMENT:
            # As a rule it is there, and an archive of a hundred thousand files is not listed for each new one.
            before = wal.neighbour(self.file.name, -1, self.file.segment_size)
            found = self._writer(before) if before else None
        for name in [] if found or ours is None else self._newest():
            found = found or self._writer(name)
        if found and ours is not None and found[0] != ours:
            raise StandbyError(
                exits.NOT_ARCHIVED,
                f'archive "{self.directory}" belongs to another cluster',
                f"Its {found[1]} was written by system {found[0]}, {self.file.name} by system {ours}. {_RETRIED}",
                "Give each cluster an archive of its own, also one that was made anew by initdb or pg_upgrade.",
            )
        if self.file.kind == wal.SEGMENT:
            self._is_not_abandoned()

    def _writer(self, name: str) -> "tuple[int, str] | None":
        """The system identifier in an archived segment and the segment's name; None where there is none to be read."""
        entry = self._look(name)
        try:
            written = _written_by(entry.head(wal.LONG_HEADER_SIZE)) if entry.state == archive.PRESENT else None
        except (OSError, StandbyError):
            written = None
        finally:
            entry.close()
        return (written[0], name) if written else None

    def _newest(self) -> "list[str]":
        """The three newest segments of the archive; removes what killed makers have left, this being the time to see it."""
        names = os.listdir(self.directory)
        for name in names:
            stem, suffix, _ = name.partition(place.SUFFIX)
            if suffix and wal.kind(archive.bare(stem)):
                place.remove_left_over(self.archive.path(name))
        segments = {bare for bare in map(archive.bare, names) if wal.kind(bare) == wal.SEGMENT}
        return sorted(segments, key=lambda name: (name[8:], name), reverse=True)[:3]

    def _is_not_abandoned(self) -> None:
        """Raise StandbyError if a newer timeline in the archive began before the end of this segment."""
        own = wal.timeline(self.file.name)
        number = wal.segment_number(self.file.name, self.file.segment_size)
        end = (number + 1) * self.file.segment_size
        newer = own
        while True:
            # As findNewestTimeLine() (src/backend/access/transam/timeline.c): timelines have no gaps.
            newer += 1
            name = f"{newer:08X}.history"
            entry = self._look(name)
            try:
                if entry.state == archive.ABSENT:
                    return
                if entry.state != archive.PRESENT:
                    raise self._failed(f"{name} is there and cannot be read")
                left = wal.history_switch_points(entry.head(_MOST_HISTORY)).get(own)
            except StandbyError as failure:
                raise self._failed(f"{name} is there and cannot be read. {failure.message}", failure.hint) from failure
            finally:
                entry.close()
            if left is not None and left < end:
                raise StandbyError(
                    exits.NOT_ARCHIVED,
                    f'archive "{self.directory}" has left timeline {own} at {ready.lsn(left)}, before {self.file.name} ends',
                    f"Its {name} says that another server was promoted to timeline {newer} there: this one is the old primary, "
                    f"and what it has written since is no part of the cluster any more. {_RETRIED}",
                    "Stop this server, and make it a standby again with pg_rewind or a new base backup. If it is the right one, "
                    f"take {name} and the files of timeline {newer} out of the archive.",
                )

    # Putting it there

    def _copy(self) -> bool:
        """Put the file there; False if its name was taken each time, and yet is free."""
        for _ in range(10):
            copy = place.Copy(self.path)
            try:
                os.lseek(self.file.descriptor, 0, os.SEEK_SET)
                self._fill(copy)
                read = os.lseek(self.file.descriptor, 0, os.SEEK_CUR) if self.ending else copy.size
                if read != self.file.size or os.fstat(self.file.descriptor).st_size != self.file.size:
                    raise self._failed(f'"{self.file.path}" has changed its size meanwhile')
            except BaseException as failure:
                copy.discard()
                if isinstance(failure, osdep.SourceError):
                    raise self._failed(f'"{self.file.path}" cannot be read: {say.reason(failure)}') from failure
                raise
            try:
                copy.publish_new(self.path)
            except FileExistsError:
                if self._is_archived():
                    return True
                continue
            except FileNotFoundError:
                # The copy has gone: made by a process of the same id on another machine as well, perhaps. Or all of the archive.
                continue
            osdep.sync_folder(self.directory)
            say.debug(f'{self.file.name} is archived in "{self.directory}"')
            return True
        return False

    def _fill(self, copy: place.Copy) -> None:
        """Write the file into the copy, compressed if it is to be. Raises osdep.SourceError, and OSError of the archive."""
        if not self.ending:
            copy.fill(self.file.descriptor, self.file.size)
            return
        from pystandby import compression

        for piece in compression.compressed(self.file.descriptor, self.file.size, self.ending):
            copy.write(piece)


def _beginning(descriptor: int) -> bytes:
    """The first bytes of an open file: a segment's long header, or a history file's beginning."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, wal.LONG_HEADER_SIZE)


def _written_by(head: bytes) -> "tuple[int, int, int] | None":
    """System identifier, timeline and position by a segment's long header; None if it is none that is known."""
    if len(head) < wal.LONG_HEADER_SIZE:
        return None
    page = wal.FirstPage(head)
    if page.magic not in wal.MAGIC or page.info & wal.LONG_HEADER == 0:
        return None
    return page.system_identifier, page.timeline, page.address


def _system(head: bytes) -> "int | None":
    written = _written_by(head)
    return written[0] if written else None


def _description(head: bytes, size: int, compressed: bool = False) -> str:
    """What a file is, by its head and its size in bytes."""
    written = _written_by(head)
    length = f"{size} bytes{', compressed' if compressed else ''}"
    if written is None:
        return length
    system_identifier, timeline, address = written
    return f"{length}, WAL at {ready.lsn(address)} of timeline {timeline}, system {system_identifier}"


def _same_bytes(one: int, other: int) -> bool:
    if os.fstat(one).st_size != os.fstat(other).st_size:
        return False
    for descriptor in (one, other):
        os.lseek(descriptor, 0, os.SEEK_SET)
    while True:
        chunk = osdep.read(one, _CHUNK)
        if chunk != osdep.read(other, _CHUNK):
            return False
        if not chunk:
            return True


def _is_torn_copy(whole: int, part: int, size: int) -> bool:
    """Whether a file of ``size`` bytes is the beginning of another one, and has nothing or zeros behind that."""
    for descriptor in (whole, part):
        os.lseek(descriptor, 0, os.SEEK_SET)
    read = 0
    while read < size:
        here, there = osdep.read(whole, _CHUNK), osdep.read(part, _CHUNK)
        read += len(there)
        if not there or len(there) > len(here):
            return False
        if here[: len(there)] != there:
            kept = there.rstrip(b"\0")
            return here.startswith(kept) and not any(any(chunk) for chunk in iter(lambda: osdep.read(part, _CHUNK), b""))
    return True
