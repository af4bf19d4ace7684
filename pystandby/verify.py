"""Is this archive sound, and how far could a standby be brought with it? Reads all of its files, and changes nothing.

Each file by itself, then from record to record, timeline after timeline. docs/verify.md describes the output.
For the verb of this name only; no restore loads it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pystandby import asker, exits, inventory, osdep, ready, say, wal
from pystandby.exits import StandbyError
from pystandby.inventory import Files, Gone, Timeline, Unreadable
from pystandby.walreader import Break, Checksum, Reader

_LARGEST_TEXT = 1 << 20
"""Bytes of a history or backup history file that are read."""

_SAMPLES = 64
"""Segments by whose headers it is found out which cluster an archive is of."""

_NAMED = 5
"""Files that are named where there may be thousands."""


@dataclass
class Problem:
    """What is wrong with the file ``name``, or with what should be in its place; ``lsn`` is where, None where that is nowhere."""

    name: str
    text: str
    lsn: int | None = None


@dataclass
class Run:
    """WAL without a break: a standby whose recovery begins in it can be brought to its end.

    ``first`` is a segment's name, ``begin`` and ``end`` are LSNs, ``segments`` counts. ``timeline`` is the one that it ends on.
    """

    timeline: int
    first: str
    begin: int
    end: int
    segments: int

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "timeline": self.timeline,
            "first_segment": self.first,
            "from": ready.lsn(self.begin),
            "to": ready.lsn(self.end),
            "segments": self.segments,
        }


@dataclass
class Standby:
    """A standby's data directory, for which an archive is looked at; ``first`` is the segment that its recovery begins with."""

    directory: str
    system_identifier: int
    first: str = ""
    begin: int = 0
    end: int | None = None
    timeline: int = 0


@dataclass
class _Track:
    """Where the reading of a timeline has come to."""

    reader: Reader
    run: Run | None = None


class Verification:
    """What was found in one folder. run() does it, and ``problems`` decides: an archive without any is sound."""

    def __init__(
        self, files: Files, checksum: Checksum = wal.crc32c, every_record: bool = False, standby: Standby | None = None
    ) -> None:
        self.files = files
        self.standby = standby
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.runs: list[Run] = []
        self.system_identifier: int | None = None
        self.segment_size = 0
        self.magic = 0
        self._checksum = checksum
        self._every_record = every_record
        self._kept: dict[tuple[int, int], _Track] = {}
        """Tracks behind the segments of (timeline, number), for the timelines and partial segments that go on from there."""
        self._short: dict[tuple[int, int], tuple[Problem, str]] = {}
        """The newest segments of (timeline, number) that are not full, as a problem, and the note that says it is none."""
        self._gone: list[str] = []
        """Files that have been removed while the others were read: no fault before segments that are still there."""
        self._gone_before = 0
        """How many of those lie before a segment that was read."""

    def run(self, progress: Callable[[], None] = lambda: None) -> None:
        """Verify everything; call ``progress`` once for each segment. Raises StandbyError where a codec is missing."""
        self._histories()
        self._reference()
        if not self.files.segments():
            self._problem(self.files.folder, "holds no segment")
        elif self.segment_size:
            self._wanted()
            for number in sorted(self.files.timelines):
                self._timeline(self.files.timelines[number], progress)
            for name in self.files.partial:
                self._partial(name)
            self._left_out()
        else:
            for name in self.files.segments():
                self._unknown(name)
                progress()
        # Whoever prunes leaves the newest; an archive that has been unmounted holds nothing any more.
        for name in self._gone[self._gone_before :]:
            self._problem(name, "has been removed while the others were read")
        for name in self.files.backups:
            self._backup(name)
        self._leftovers()
        if self._gone_before:
            self.notes.append(f"{self._gone_before} files have been removed while the others were read")
        if self.standby is not None and self.segment_size:
            self._goes_on(self.standby)

    def _problem(self, name: str, text: str, lsn: int | None = None) -> None:
        self.problems.append(Problem(name + self.files.endings.get(name, ""), text, lsn))

    # What is not a segment

    def _histories(self) -> None:
        for name in self.files.histories:
            timeline = self.files.timeline(wal.timeline(name))
            timeline.has_history = True
            try:
                content = self.files.head(name, _LARGEST_TEXT)
            except Unreadable as failure:
                self._problem(name, str(failure))
                continue
            wrong = _wrong_history(content, timeline.number)
            if wrong:
                self._problem(name, wrong)
            else:
                timeline.points = wal.history_switch_points(content)
        have = {number for number, timeline in self.files.timelines.items() if timeline.positions}
        for number, timeline in sorted(self.files.timelines.items()):
            if number > 1 and timeline.positions and not timeline.has_history and any(other < number for other in have):
                self._problem(f"{number:08X}.history", f"is missing: no server can come to timeline {number} from an earlier one")
            if timeline.has_history and not timeline.positions:
                self.notes.append(f"{number:08X}.history has no segment of timeline {number} beside it")

    def _backup(self, name: str) -> None:
        try:
            text = self.files.head(name, _LARGEST_TEXT).decode("utf-8", "replace")
        except Gone:
            return
        except Unreadable as failure:
            self._problem(name, str(failure))
            return
        places = re.findall(r"^(?:START|STOP) WAL LOCATION: ([0-9A-F]+)/([0-9A-F]+) \(file ([0-9A-F]{24})\)", text, re.MULTILINE)
        if len(places) != 2:
            self._problem(name, "does not say where a base backup began and ended")
            return
        if not self.segment_size:
            return
        (_, _, first), (_, _, last) = places
        numbers = [wal.segment_number(segment, self.segment_size) for segment in (first, last)]
        timeline = self.files.timelines.get(wal.timeline(first))
        have = set(timeline.positions) if timeline else set()
        wanted = (wal.segment_name(1, number, self.segment_size) for number in range(numbers[0], numbers[1] + 1))
        missing = sum(int(segment[8:], 16) not in have for segment in wanted)
        if missing:
            self.notes.append(f"{name}: {missing} segments of that base backup, {first} to {last}, are not here")

    def _leftovers(self) -> None:
        for names, text in (
            (self.files.others, "of a name that no server asks for"),
            (self.files.doubles, "beside another form of the same file, which a restore takes instead"),
        ):
            if names:
                more = ", ..." if len(names) > _NAMED else ""
                self.notes.append(f"{len(names)} {_plural(names, 'file')} {text}: {', '.join(sorted(names)[:_NAMED])}{more}")

    # Segments

    def _reference(self) -> None:
        """Find out by a sample which cluster the archive is of, and how long its segments are."""
        names = [*self.files.segments(), *self.files.partial]
        found: Counter[tuple[int, int, int]] = Counter()
        for name in names[:: max(1, len(names) // _SAMPLES)]:
            try:
                head = self.files.head(name, wal.LONG_HEADER_SIZE)
            except Unreadable:
                continue
            if len(head) == wal.LONG_HEADER_SIZE:
                page = wal.FirstPage(head)
                if page.info & wal.LONG_HEADER and wal.is_segment_size(page.segment_size):
                    found[page.system_identifier, page.segment_size, page.magic] += 1
        if self.standby is not None:
            own = Counter({key: count for key, count in found.items() if key[0] == self.standby.system_identifier})
            self.system_identifier = self.standby.system_identifier
            found = own or found
        if found:
            identifier, self.segment_size, self.magic = max(found, key=lambda key: (found[key], key[0]))
            self.system_identifier = self.system_identifier or identifier
            if self.magic not in wal.MAGIC:
                self.notes.append(
                    f"page magic {self.magic:04X} is that of no PostgreSQL known here, which goes up to {wal.NEWEST_KNOWN}"
                )

    def _wanted(self) -> None:
        """Note behind which segments the reading is to be gone on with on another timeline, or in a partial segment."""
        for timeline in self.files.timelines.values():
            first = timeline.begins // self.segment_size
            if timeline.points and first > 0:
                self._kept[timeline.owner(first - 1, self.segment_size), first - 1] = _Track(Reader(self._checksum))
        for name in self.files.partial:
            number = wal.segment_number(name, self.segment_size)
            self._kept[wal.timeline(name), number - 1] = _Track(Reader(self._checksum))

    def _number(self, position: int) -> int:
        return (position >> 32) * (0x100000000 // self.segment_size) + (position & 0xFFFFFFFF)

    def _timeline(self, timeline: Timeline, progress: Callable[[], None]) -> None:
        """Read the segments of a timeline, from where it left the one before."""
        size = self.segment_size
        fork = timeline.begins // size
        track = _Track(Reader(self._checksum))
        expected: int | None = None
        if timeline.points and fork > 0 and timeline.positions:
            before = self._kept[timeline.owner(fork - 1, size), fork - 1]
            last = self._last_before(timeline, fork)
            if before.run is not None:
                track = _Track(before.reader.copy(), Run(**vars(before.run)))
            elif last is not None and last < fork - 1:
                self._gap(self.files.timelines[timeline.owner(last + 1, size)], last + 1, fork - 1)
            else:
                self._not_the_end(timeline.owner(fork - 1, size), fork - 1)
            expected = None if last is None else fork
        for at, position in enumerate(timeline.positions):
            name = timeline.name(position)
            number = self._number(position)
            if position & 0xFFFFFFFF >= 0x100000000 // size:
                self._problem(name, f"has a name that no segment of {_megabytes(size)} has")
                progress()
                continue
            if timeline.points and number < fork:
                self._problem(
                    name, f"lies before {ready.lsn(timeline.begins)}, where timeline {timeline.number} begins", number * size
                )
            elif expected is not None and number > expected:
                self._gap(timeline, expected, number - 1)
                self._close(track)
            if track.run is not None and track.run.timeline != timeline.number:
                track.run.timeline = timeline.number
            try:
                self._segment(timeline, name, number, track, is_newest=at == len(timeline.positions) - 1)
            except Gone:
                # What comes behind it will tell whether it is missed.
                self._gone.append(name)
                progress()
                continue
            self._gone_before = len(self._gone)
            expected = number + 1
            if (timeline.number, number) in self._kept and track.run is not None:
                self._kept[timeline.number, number] = _Track(track.reader.copy(), Run(**vars(track.run)))
            progress()
        self._close(track)

    def _not_the_end(self, timeline: int, number: int) -> None:
        """A timeline goes on behind this segment: where its records end early, they are missing."""
        short = self._short.pop((timeline, number), None)
        if short is not None:
            problem, note = short
            self.problems.append(problem)
            self.notes.remove(note)

    def _gap(self, timeline: Timeline, first: int, last: int) -> None:
        names = [wal.segment_name(timeline.number, number, self.segment_size) for number in (first, last)]
        text = "is missing" if first == last else f"to {names[1]} are missing ({last - first + 1} segments)"
        self._problem(names[0], text, first * self.segment_size)

    def _last_before(self, timeline: Timeline, fork: int) -> int | None:
        """The number of the last segment here of those that a server takes from the timelines before; None if there is none."""
        size = self.segment_size
        here = (
            (number, older)
            for older in timeline.points
            if older in self.files.timelines
            for number in map(self._number, reversed(self.files.timelines[older].positions))
            if number < fork
        )
        return max((number for number, older in here if timeline.owner(number, size) == older), default=None)

    def _left_out(self) -> None:
        """Note what lies on timelines behind the point where another one left them."""
        for number, timeline in sorted(self.files.timelines.items()):
            parent = self.files.timelines.get(timeline.parent or 0)
            if (
                parent is not None
                and parent.positions
                and self._number(parent.positions[-1]) * self.segment_size >= timeline.begins
            ):
                self.notes.append(
                    f"timeline {parent.number} goes on behind {ready.lsn(timeline.begins)}, where timeline {number} left it: a "
                    f"server that follows timeline {number} does not replay that"
                )

    def _close(self, track: _Track) -> None:
        """End a run: what follows does not go on from it."""
        if track.run is not None and track.run.segments:
            self.runs.append(track.run)
        track.run = None

    def _segment(self, timeline: Timeline, name: str, number: int, track: _Track, is_newest: bool) -> None:
        """Verify one segment, and go on from the one before it."""
        base = number * self.segment_size
        found = self._judged(name, name)
        wrong = found if isinstance(found, str) else self._stray(timeline, wal.FirstPage(bytes(found[0][: wal.LONG_HEADER_SIZE])))
        if wrong or isinstance(found, str):
            self._problem(name, wrong, base)
            self._close(track)
            return
        content, verdict = found
        if track.run is None:
            track.reader = Reader(self._checksum)
            track.run = Run(timeline.number, name, base, base, 0)
        is_right = verdict.state in (ready.WHOLE, ready.DOUBTFUL)
        try:
            track.reader.follow(content, 0 if self._every_record or not is_right else verdict.end)
        except Break as stop:
            self._stop(name, base, track, stop, verdict, is_newest)
            if stop.lsn < base:
                # What goes on from the segment before is wrong; what begins in this one may be right.
                track.run = Run(timeline.number, name, base, base, 0)
                try:
                    track.reader.follow(content, 0 if self._every_record or not is_right else verdict.end)
                except Break as second:
                    self._stop(name, base, track, second, verdict, is_newest)
                    return
            else:
                return
        track.run.end = track.reader.reached or base + self.segment_size
        track.run.segments += 1
        if not is_right:
            self._problem(name, verdict.reason, base)
            self._close(track)

    def _stop(self, name: str, base: int, track: _Track, stop: Break, verdict: ready.Verdict, is_newest: bool) -> None:
        """The records end in a segment, or at its beginning: say so, and end the run there."""
        assert track.run is not None
        track.run.end = max(stop.lsn, track.run.begin)
        if stop.lsn > base:
            track.run.segments += 1
        if is_newest and stop.is_end:
            note = f"{name}, the newest of its timeline, is not full: its records end at {ready.lsn(stop.lsn)}"
            self.notes.append(note)
            problem = Problem(name + self.files.endings.get(name, ""), stop.reason, stop.lsn)
            self._short[wal.timeline(name), base // self.segment_size] = problem, note
        else:
            self._problem(name, stop.reason, stop.lsn)
        self._close(track)

    def _judged(self, name: str, segment: str) -> tuple[bytearray, ready.Verdict] | str:
        """What a file holds, and the verdict on its pages; only what is wrong with it where it cannot be this segment.

        Raises Gone.
        """
        try:
            content = self.files.content(name)
        except Gone:
            raise
        except Unreadable as failure:
            return str(failure)
        head = bytes(content[: wal.LONG_HEADER_SIZE])
        if len(head) == wal.LONG_HEADER_SIZE and any(head):
            page = wal.FirstPage(head)
            if page.info & wal.LONG_HEADER and wal.is_segment_size(page.segment_size):
                if page.system_identifier != self.system_identifier:
                    whose = "the standby's" if self.standby is not None else "most files' here"
                    own = self.system_identifier
                    return f"is of another cluster: its system identifier is {page.system_identifier}, {whose} {own}"
                if page.segment_size != self.segment_size:
                    return (
                        f"is a segment of {_megabytes(page.segment_size)}, where the others have {_megabytes(self.segment_size)}"
                    )
                if page.magic != self.magic:
                    return f"has a page header with the magic {page.magic:04X}, where the others have {self.magic:04X}"
        verdict = ready.judge_head(head, len(content), segment)
        if verdict.state != ready.WHOLE:
            if len(content) > self.segment_size:
                return f"is too long: it has more than {self.segment_size} bytes"
            return verdict.reason
        return content, ready.judge_pages(content, segment, at_rest=True)

    def _stray(self, timeline: Timeline, page: wal.FirstPage) -> str:
        """What is wrong with the timeline of a segment's first page, by the history of the timeline that it is named after."""
        if not timeline.points and timeline.number > 1:
            return ""
        wanted = min((older for older, left in timeline.points.items() if page.address < left), default=timeline.number)
        if page.timeline == wanted:
            return ""
        return f"holds WAL of timeline {page.timeline} at {ready.lsn(page.address)}, which belongs to timeline {wanted}"

    def _partial(self, name: str) -> None:
        """Verify what a *.partial holds: as far as it goes it must be right."""
        number = wal.segment_number(name, self.segment_size)
        try:
            found = self._judged(name, name[:24])
        except Gone:
            return
        if isinstance(found, str):
            self._problem(name, found, number * self.segment_size)
            return
        content, _ = found
        reader = self._kept[wal.timeline(name), number - 1].reader.copy()
        reached = (number + 1) * self.segment_size
        try:
            reader.follow(content)
        except Break as stop:
            if not stop.is_end:
                self._problem(name, stop.reason, stop.lsn)
                return
            reached = stop.lsn
        self.notes.append(f"{name} has records up to {ready.lsn(reached)}; no server asks for it unless it is renamed")

    def _unknown(self, name: str) -> None:
        """Say what is wrong with a segment of an archive in which no header can be understood."""
        try:
            head = self.files.head(name, wal.LONG_HEADER_SIZE)
            size = os.stat(os.path.join(self.files.folder, name + self.files.endings.get(name, ""))).st_size
        except (Gone, FileNotFoundError):
            self._gone.append(name)
        except Unreadable as failure:
            self._problem(name, str(failure))
        else:
            self._problem(name, ready.judge_head(head, size, name).reason)

    # How far it goes

    def _goes_on(self, standby: Standby) -> None:
        """Say from where to where a standby can go on."""
        segment = _asker(standby.directory).restart_segment(self.segment_size)
        label = (osdep.read_small(os.path.join(standby.directory, "backup_label"), 4096) or b"").decode("ascii", "replace")
        begun = re.search(r"^START WAL LOCATION: .* \(file ([0-9A-F]{24})\)", label, re.MULTILINE)
        standby.first = begun[1] if begun else segment or ""
        if wal.kind(standby.first) != wal.SEGMENT:
            self.notes.append(f'where recovery begins in "{standby.directory}" is not known')
            return
        standby.begin = wal.segment_number(standby.first, self.segment_size) * self.segment_size
        mine = wal.timeline(standby.first)
        best: Run | None = None
        for run in self.runs:
            points = self.files.timeline(run.timeline).points
            follows = run.timeline == mine or (mine in points and standby.begin < points[mine])
            if follows and run.begin <= standby.begin < run.end and (best is None or run.timeline >= best.timeline):
                best = run
        if best is not None:
            standby.end, standby.timeline = best.end, best.timeline
            return
        newest = max((run.end for run in self.runs), default=0)
        if standby.begin >= newest:
            self.notes.append(f"the standby goes on from segment {standby.first}, which has not been archived yet")
        elif os.path.exists(os.path.join(standby.directory, "pg_wal", standby.first)):
            self.notes.append(f"segment {standby.first}, from which the standby goes on, is in its pg_wal, and not here")
        else:
            self._problem(standby.first, "is where the standby goes on from, and cannot be had from here", standby.begin)

    @property
    def newest_first(self) -> list[Run]:
        """The runs, the newest timeline's last one first, without those that are the beginning of another timeline's."""
        timelines = self.files.timelines
        # Few begin alike, but an archive of which half is missing has as many as files.
        alike: dict[str, list[Run]] = {}
        for run in self.runs:
            alike.setdefault(run.first, []).append(run)
        whole = [
            run
            for run in self.runs
            if not any(timelines[other.timeline].points.get(run.timeline, 0) >= run.end for other in alike[run.first])
        ]
        return sorted(whole, key=lambda run: (run.timeline, run.begin), reverse=True)

    def as_dict(self) -> dict[str, Any]:
        """For --json, as docs/verify.md has it."""
        standby = None
        if self.standby is not None:
            standby = {
                "pgdata": self.standby.directory,
                "first_segment": self.standby.first or None,
                "to": ready.lsn(self.standby.end) if self.standby.end is not None else None,
                "timeline": self.standby.timeline or None,
            }
        return {
            "path": self.files.folder,
            "sound": not self.problems,
            "system_identifier": str(self.system_identifier) if self.system_identifier is not None else None,
            "version": wal.MAGIC.get(self.magic),
            "segment_size": self.segment_size or None,
            "files": self.files.count,
            "timelines": [
                {
                    "timeline": timeline.number,
                    "parent": timeline.parent,
                    "begins": ready.lsn(timeline.begins) if timeline.points else None,
                    "segments": len(timeline.positions),
                    "first": timeline.name(timeline.positions[0]) if timeline.positions else None,
                    "last": timeline.name(timeline.positions[-1]) if timeline.positions else None,
                }
                for _, timeline in sorted(self.files.timelines.items())
            ],
            "ranges": [run.as_dict() for run in self.newest_first],
            "problems": [
                {
                    "file": problem.name,
                    "lsn": ready.lsn(problem.lsn) if problem.lsn is not None else None,
                    "message": problem.text,
                }
                for problem in self.problems
            ],
            "notes": self.notes,
            "standby": standby,
        }

    def lines(self) -> Iterator[str]:
        """For a person: a line for each problem, then a summary."""
        for text, group in groupby(self.problems, lambda problem: problem.text):
            names = [problem.name for problem in group]
            more = f" to {names[-1]} ({len(names)} files)" if len(names) > 1 else ""
            yield f"{names[0]}{more}: {text}"
        for note in self.notes:
            yield f"NOTE:  {note}"
        version = wal.MAGIC.get(self.magic)
        what = f"PostgreSQL {version}, " if version else ""
        if self.segment_size:
            what += f"segments of {_megabytes(self.segment_size)}, system identifier {self.system_identifier}"
        yield f"{self.files.folder}: {what or 'no WAL'}"
        for number, timeline in sorted(self.files.timelines.items()):
            if timeline.positions:
                came = f", since {ready.lsn(timeline.begins)} of timeline {timeline.parent}" if timeline.points else ""
                first, last = timeline.name(timeline.positions[0]), timeline.name(timeline.positions[-1])
                count = len(timeline.positions)
                yield f"  timeline {number}{came}: {count} {_plural(timeline.positions, 'segment')}, {first} to {last}"
        for run in self.newest_first:
            yield (
                f"  a standby can be brought from {ready.lsn(run.begin)} (segment {run.first}) "
                f"to {ready.lsn(run.end)} on timeline {run.timeline}"
            )
        if self.standby is not None and self.standby.end is not None:
            yield (
                f'  the standby in "{self.standby.directory}" goes on from segment {self.standby.first}, '
                f"to {ready.lsn(self.standby.end)} on timeline {self.standby.timeline}"
            )
        count = len(self.problems)
        yield f"  {count} {_plural(self.problems, 'problem')}" if count else "  sound"


def _wrong_history(content: bytes, timeline: int) -> str:
    """What is wrong with a history file, by the rules of readTimeLineHistory() in src/backend/access/transam/timeline.c."""
    newest = 0
    lines = content.decode("utf-8", "replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        match = re.match(r"\s*([0-9]+)\s+([0-9A-F]{1,8})/([0-9A-F]{1,8})(?:\s|$)", line)
        if not match:
            return f"is no history file: line {number} has no timeline and LSN"
        if int(match[1]) <= newest or int(match[1]) >= timeline:
            return f"is no history of timeline {timeline}: line {number} says timeline {match[1]} after {newest}"
        newest = int(match[1])
        if number == len(lines):
            return "is not whole: its last line has no end"
    return "" if newest else "names no timeline before its own"


def _megabytes(size: int) -> str:
    return f"{size >> 20} MB"


def _plural(things: Any, word: str) -> str:
    return word if len(things) == 1 else f"{word}s"


def _asker(pgdata: str) -> asker.Asker:
    """What knows how to read a data directory, wherever we are run."""
    found = asker.Asker("", os.path.join(os.path.abspath(pgdata), "pg_wal", "RECOVERYXLOG"))
    found.data_directory = os.path.abspath(pgdata)
    return found


def _standby(pgdata: str | None) -> Standby | None:
    """What is asked of a data directory. Raises StandbyError where it has no readable pg_control."""
    if pgdata is None:
        return None
    identifier = _asker(pgdata).system_identifier()
    if identifier is None:
        raise StandbyError(
            exits.NOT_VERIFIED,
            f'"{pgdata}" is no data directory that can be read',
            "It has no global/pg_control that can be read. Nothing was verified.",
            "Give the standby's own with --pgdata, and run this as its owner or as root.",
        )
    return Standby(pgdata, identifier)


def best_checksum(many: bool) -> Checksum:
    """The checksum of the package crc32c, or else our own: for ``many`` records with a word on how to get the other."""
    osdep.find_packages()
    try:
        import crc32c
    except ImportError:
        if many:
            say.log(
                "checksums are computed by Python itself: about two seconds for 16 MB",
                hint=f'The package crc32c makes that much faster: "{sys.executable} -m pip install crc32c"',
            )
        return wal.crc32c
    fast: Checksum = crc32c.crc32c
    return fast


def verify(
    paths: Iterable[str],
    every_record: bool = False,
    pgdata: str | None = None,
    as_json: bool = False,
    tell: Callable[[str], None] = print,
) -> int:
    """Verify archives and files, ``tell`` what was found line by line, and return the exit status. Raises StandbyError.

    ``every_record`` has the checksum of each record compared; with ``pgdata`` the archive must be that standby's.
    """
    try:
        standby = _standby(pgdata)
        groups = inventory.groups(paths)
        checksum = best_checksum(every_record)
        found = []
        with _bar(sum(len(timeline.positions) for group in groups for timeline in group.timelines.values())) as bar:
            for group in groups:
                verification = Verification(group, checksum, every_record, Standby(**vars(standby)) if standby else None)
                verification.run((lambda: bar.update(1)) if bar is not None else lambda: None)
                found.append(verification)
    except StandbyError as failure:
        raise StandbyError(exits.NOT_VERIFIED, failure.message, failure.detail, failure.hint) from failure
    is_sound = not any(verification.problems for verification in found)
    if as_json:
        tell(json.dumps({"format": 1, "sound": is_sound, "archives": [one.as_dict() for one in found]}, indent=2))
    else:
        from pystandby import table

        for verification in found:
            for line in verification.lines():
                tell(table.plain(line))
    return exits.SOUND if is_sound else exits.NOT_SOUND


def _bar(length: int) -> AbstractContextManager[Any]:
    """A progress bar on stderr, where that is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext()
    import click

    return click.progressbar(length=length, label="Verifying", file=sys.stderr)
