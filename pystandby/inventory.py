"""What an archive's folder holds, by the names of its files: timelines, segments, history files; and reading one of them.

For verbs that people run on whole archives; no restore loads it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pystandby import archive, exits, osdep, say, wal
from pystandby.exits import StandbyError

_STEP = 4 << 20
"""Bytes of a file that are read at once."""


@dataclass
class Timeline:
    """What is there of a timeline: its segments' positions, rising, and by its history file where the ones before were left.

    A position is the number that the last 16 digits of a segment's name are.
    """

    number: int
    positions: list[int] = field(default_factory=list)
    points: dict[int, int] = field(default_factory=dict)
    has_history: bool = False

    @property
    def begins(self) -> int:
        """The LSN at which it left the timeline before it; 0 where that is not known, or there is none."""
        return max(self.points.values(), default=0)

    @property
    def parent(self) -> int | None:
        """The timeline that it left."""
        return max(self.points, default=None)

    def owner(self, number: int, segment_size: int) -> int:
        """The timeline of whose files a server that follows this one takes the segment of a number."""
        begins = {self.number: self.begins}
        ordered = sorted(self.points)
        for before, timeline in zip([None, *ordered], ordered, strict=False):
            begins[timeline] = self.points[before] if before is not None else 0
        return max((timeline for timeline, lsn in begins.items() if lsn // segment_size <= number), default=self.number)

    def name(self, position: int) -> str:
        """The name of the segment at a position."""
        return f"{self.number:08X}{position:016X}"


class Files:
    """The files of a folder, all of them or those that were named, sorted by what they are."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.timelines: dict[int, Timeline] = {}
        self.partial: list[str] = []
        self.histories: list[str] = []
        self.backups: list[str] = []
        self.others: list[str] = []
        self.endings: dict[str, str] = {}
        """The ending of each file that is compressed, by the name that it would have without."""
        self.doubles: list[str] = []
        self.count = 0

    def add(self, names: Iterable[str]) -> None:
        """Take names of files in."""
        seen: dict[str, str] = {}
        for name in names:
            bare = archive.bare(name)
            if wal.kind(bare) is None:
                self.others.append(name)
                continue
            ending = name[len(bare) :]
            if bare in seen:
                order = ["", *archive.ENDINGS]
                better, worse = sorted((ending, seen[bare]), key=order.index)
                self.doubles.append(bare + worse)
                ending = better
            seen[bare] = ending
        for bare in sorted(seen):
            self._sort_in(bare, seen[bare])

    def _sort_in(self, bare: str, ending: str) -> None:
        self.count += 1
        if ending:
            self.endings[bare] = ending
        kind = wal.kind(bare)
        if kind == wal.SEGMENT:
            self.timeline(wal.timeline(bare)).positions.append(int(bare[8:24], 16))
        else:
            {wal.PARTIAL: self.partial, wal.HISTORY: self.histories}.get(kind or "", self.backups).append(bare)

    def timeline(self, number: int) -> Timeline:
        """What there is of a timeline."""
        return self.timelines.setdefault(number, Timeline(number))

    def segments(self) -> list[str]:
        """The names of all segments, by timeline and position."""
        return [self.timelines[number].name(at) for number in sorted(self.timelines) for at in self.timelines[number].positions]

    def open(self, name: str) -> archive.Entry:
        """Open a file. Raises Unreadable; Gone where it has been removed since it was listed."""
        path = os.path.join(self.folder, name + self.endings.get(name, ""))
        if not os.path.lexists(path):
            # Or compressed meanwhile.
            found = next((other for other in archive.names(name) if os.path.exists(os.path.join(self.folder, other))), None)
            if found is None:
                raise Gone("has been removed")
            self.endings[name] = found[len(name) :]
            path = os.path.join(self.folder, found)
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("is a directory" if stat.S_ISDIR(status.st_mode) else "is no regular file")
            descriptor = osdep.open_file(path, osdep.O_READ)
        except OSError as failure:
            if failure.errno in osdep.OWN_SHORTAGE:
                raise
            raise Unreadable(f"cannot be read: {say.reason(failure)}") from failure
        return archive.Entry(archive.PRESENT, None, descriptor, os.fstat(descriptor), self.endings.get(name, ""))

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of what a file holds, or fewer. Raises Unreadable; StandbyError where a codec is missing."""
        entry = self.open(name)
        try:
            return entry.head(size)
        except OSError as failure:
            raise _unreadable(failure) from failure
        finally:
            entry.close()

    def content(self, name: str) -> bytearray:
        """What a segment's file holds, up to a little more than it should. Raises as head()."""
        entry = self.open(name)
        content = bytearray()
        limit = 0
        try:
            for piece in _pieces(entry):
                content += piece
                if not limit and len(content) >= wal.LONG_HEADER_SIZE:
                    size = wal.FirstPage(bytes(content[: wal.LONG_HEADER_SIZE])).segment_size
                    limit = size if wal.is_segment_size(size) else wal.LONG_HEADER_SIZE
                if limit and len(content) > limit:
                    break
        except OSError as failure:
            raise _unreadable(failure) from failure
        finally:
            entry.close()
        return content


class Unreadable(Exception):  # noqa: N818 - what is wrong with a file, not with us
    """A file cannot be read, and why, in words that fit behind its name."""


class Gone(Unreadable):
    """A file was there when the folder was listed, and is not any more: a server's pruning has removed it."""


def _unreadable(failure: OSError) -> Unreadable:
    # What compression.Damaged says is such words already.
    return Unreadable(getattr(failure, "reason", "") or f"cannot be read: {say.reason(failure)}")


def _pieces(entry: archive.Entry) -> Iterator[bytes]:
    if entry.ending:
        from pystandby import compression

        yield from compression.expanded(entry.descriptor, entry.ending)
        return
    while True:
        piece = os.read(entry.descriptor, _STEP)
        if not piece:
            return
        yield piece


def groups(paths: Iterable[str]) -> list[Files]:
    """The files to verify: a group for each folder, in the order of the paths. Raises StandbyError."""
    found: list[Files] = []
    single: dict[str, list[str]] = {}
    for path in paths:
        try:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                folder, name = os.path.split(path)
                single.setdefault(folder or ".", []).append(name)
                continue
            names = os.listdir(path)
        except OSError as failure:
            raise StandbyError(
                exits.NOT_VERIFIED, f'"{path}" cannot be read: {say.reason(failure)}', "Nothing was verified."
            ) from failure
        found.append(Files(path))
        found[-1].add(name for name in names if name[:1] != ".")
    for folder, names in single.items():
        found.append(Files(folder))
        found[-1].add(dict.fromkeys(names))
    return found
