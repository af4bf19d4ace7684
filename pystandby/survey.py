"""An archive as a whole: its timelines, what they hold, what is missing between their segments, and when each file came.

For verbs that people run; no restore loads it. Reads the folder, the files' times and sizes, and the header of one segment.
"""

import itertools
import os
import stat
import time

from pystandby import archive, timelines, wal
from pystandby.memory import FOLDER
from pystandby.place import SUFFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEFAULT_SEGMENT_SIZE = 16 << 20

TEMPORARY = "temporary file"
OTHER = "other file"


class Gap:
    """Segments that are missing before others that are there: the first and the last of them, and how many."""

    __slots__ = ("first", "last", "segments")

    def __init__(self, first: str, last: str, segments: int) -> None:
        self.first = first
        self.last = last
        self.segments = segments


class Segment:
    """A segment of the archive: modification time in seconds since the epoch, size of its file in bytes, the file's name."""

    __slots__ = ("file", "modified", "size")

    def __init__(self, modified: float, size: int, file: str) -> None:
        self.modified = modified
        self.size = size
        self.file = file


class Survey:
    """What was in an archive's folder at one moment. ``segment_size`` is 0 where neither the archive nor ``known_size`` tells."""

    def __init__(self, directory: str, known_size: int = 0) -> None:
        self.directory = directory
        self.at = time.time()
        self.segments: dict[str, Segment] = {}
        """By their names, without the ending of a compressed file."""
        self.files = dict.fromkeys((wal.PARTIAL, wal.HISTORY, wal.BACKUP_HISTORY, TEMPORARY, OTHER), 0)
        """How many files of each other kind."""
        self.compressed = 0
        self.bytes = 0
        self.segment_size = known_size

    def numbers(self) -> "dict[int, list[int]]":
        """The numbers of the segments of each timeline, in order."""
        size = self.segment_size or DEFAULT_SEGMENT_SIZE
        found: dict[int, list[int]] = {}
        for name in self.segments:
            found.setdefault(wal.timeline(name), []).append(wal.segment_number(name, size))
        return {timeline: sorted(found[timeline]) for timeline in sorted(found)}

    def newest(self) -> "str | None":
        """The last segment; of several timelines', the newest's."""
        return max(self.segments, key=lambda name: (name[8:], name), default=None)

    def oldest(self) -> "str | None":
        """The first segment."""
        return min(self.segments, key=lambda name: (name[8:], name), default=None)

    def latest_arrival(self) -> "float | None":
        """When the last file of a segment came, by modification time."""
        return max((segment.modified for segment in self.segments.values()), default=None)

    def path(self) -> "list[str]":
        """The segments that a server which follows the newest timeline replays, in order: one for each position.

        As the newest timeline's history file tells; what other timelines wrote after they were left is no part of it.
        """
        size = self.segment_size or DEFAULT_SEGMENT_SIZE
        numbers = self.numbers()
        if not numbers:
            return []
        newest = max(numbers)
        points = self.history(newest)
        chosen: dict[int, int] = {}
        begin = 0
        for timeline in [*sorted(points), newest]:
            end = points[timeline] // size if timeline != newest else None
            for number in numbers.get(timeline, ()):
                # In the segment of a fork, the newer timeline's holds what the older one has before it as well.
                if number >= begin and (end is None or number <= end):
                    chosen[number] = timeline
            begin = begin if end is None else end
        return [wal.segment_name(chosen[number], number, size) for number in sorted(chosen)]

    def history(self, timeline: int) -> "dict[int, int]":
        """Where the timelines before a timeline were left, by its history file here; empty where that does not tell."""
        return timelines.archived_history(archive.Archive(self.directory), timeline)

    def gaps(self, path: "list[str]") -> "list[Gap]":
        """What is missing between the segments of a path."""
        size = self.segment_size or DEFAULT_SEGMENT_SIZE
        found = []
        for before, after in itertools.pairwise(path):
            missing = wal.segment_number(after, size) - wal.segment_number(before, size) - 1
            if missing > 0:
                first, last = wal.neighbour(before, 1, size), wal.neighbour(after, -1, size)
                assert first is not None
                assert last is not None
                found.append(Gap(first, f"{first[:8]}{last[8:]}", missing))
        return found


def survey(directory: str, known_size: int = 0, progress: "Callable[[list[str]], Iterator[str]] | None" = None) -> Survey:
    """Look at every file of an archive. Raises OSError where the folder cannot be read; files that go meanwhile are left out.

    ``known_size`` is the segments' size in bytes where the server has told, 0 for the archive to tell; ``progress`` passes the
    names on, and shows how many have been.
    """
    found = Survey(directory, known_size)
    with os.scandir(directory) as entries:
        listed = {entry.name: entry for entry in entries}
    names = list(listed)
    walked: Iterable[str] = progress(names) if progress is not None else names
    for name in walked:
        if name == FOLDER:
            continue
        try:
            status = listed[name].stat()
        except OSError:
            # Gone, or a link that leads nowhere.
            continue
        is_plain = stat.S_ISREG(status.st_mode)
        found.bytes += status.st_size if is_plain else 0
        bare = archive.bare(name)
        kind = (wal.kind(bare) if is_plain else None) or (TEMPORARY if _is_temporary(name) else OTHER)
        if kind != wal.SEGMENT:
            found.files[kind] += 1
            continue
        found.compressed += bare != name
        if bare not in found.segments or bare == name:
            found.segments[bare] = Segment(status.st_mtime, status.st_size, name)
    # One that is empty tells nothing, and a compressed one takes its codec.
    headers = sorted(found.segments, key=lambda name: (found.segments[name].size == 0, found.segments[name].file != name))
    found.segment_size = known_size or segment_size(directory, headers)
    found.at = time.time()
    return found


def _is_temporary(name: str) -> bool:
    """Whether a name is that of a copy being made, by pystandby archive (place.py)."""
    bare, suffix, process = name.rpartition(SUFFIX)
    return bool(suffix) and bool(bare) and (not process or process[1:].isdigit())


def segment_size(folder: str, names: "Iterable[str]") -> int:
    """The size in bytes of a cluster's segments, by the header of one of these in a folder; 0 where none of a few tells."""
    look = archive.Archive(folder)
    for _, name in zip(range(20), names, strict=False):
        size = wal.declared_segment_size(look.head(name, wal.LONG_HEADER_SIZE) or b"")
        if size:
            return size
    return 0
