"""pystandby status: how an archive and a standby are, for a person, a monitoring system, or another program.

Look collects the figures, from the archive, the data directory, what restores have left (journal.py) and, where it answers, the
server itself. as_json() is what docs/status.md describes; the table, the metrics and the check are made from that alone.
"""

import contextlib
import itertools
import os
import re
import time
from typing import TYPE_CHECKING, Any

from pystandby import archive, exits, journal, osdep, ready, say, spool, survey, trigger, wal
from pystandby.compression import Damaged
from pystandby.exits import StandbyError
from pystandby.fetch import UNAVAILABLE
from pystandby.memory import FOLDER
from pystandby.options import Options
from pystandby.server import Server
from pystandby.survey import DEFAULT_SEGMENT_SIZE, Survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = 1
"""Of what as_json() returns; one more when something in it changes its meaning or goes."""

_ANSWER = 5.0
"""Seconds that a server may take to say how far it is."""

_RECENT = 100
"""Restores, and arrivals, that a rate is taken from, at most."""

OUTAGES = (UNAVAILABLE, "hanging")
"""What a wait is for where the archive itself cannot be read."""


class Restore:
    """A segment that the server was given: when, from where, and when its file came into the archive (None: not known)."""

    __slots__ = ("arrived", "at", "name", "source", "waited")

    def __init__(self, name: str, at: float, source: str, arrived: "float | None", waited: bool) -> None:
        self.name = name
        self.at = at
        self.source = source
        self.arrived = arrived
        self.waited = waited


class Look:
    """One look at an archive and a standby; either may be left out. Raises StandbyError where there is nothing to look at.

    What cannot be found out is left out, and said in ``problems``.
    """

    def __init__(
        self,
        data_directory: "str | None",
        archive_directory: "str | None",
        user: str,
        progress: "Callable[[list[str]], Iterator[str]] | None" = None,
    ) -> None:
        if data_directory is None and archive_directory is None:
            raise StandbyError(
                exits.NOT_DONE,
                "nothing to look at",
                "",
                "Give the standby's data directory with --pgdata, or an archive with --archive.",
            )
        self.at = time.time()
        self.problems: list[str] = []
        self.server = Server(data_directory, user) if data_directory is not None else None
        self.options: Options | None = None
        self.directory = archive_directory
        if self.server is not None:
            self._read_settings(self.server)
        self.replayed: int | None = None
        self.segment_size = 0
        self.events: list[journal.Event] = []
        self.restores: list[Restore] = []
        if self.server is not None:
            self._ask(self.server)
            self._read_journal(self.server)
            self._read_done(self.server)
        self.survey: Survey | None = None
        self.archive_error = ""
        self.path: list[str] = []
        self.gaps: list[survey.Gap] = []
        if self.directory is not None:
            self._survey(self.directory, progress)

    # Looking

    def _read_settings(self, server: Server) -> None:
        try:
            self.options = server.restore_options()
        except StandbyError as failure:
            self.problems.append(f"{failure.message}: {failure.detail}")
        else:
            if self.options is None and self.directory is None:
                self.problems.append(
                    "no pystandby is to be found in the server's restore_command: name the archive with --archive"
                )
        if self.directory is None and self.options is not None:
            self.directory = server.path(self.options.archivelocation)

    def _ask(self, server: Server) -> None:
        lines = server.postmaster()
        # Before it is consistent, and with hot_standby = off for good, a server takes no connections: nothing to worry about.
        closed = lines[7:8] in (["starting"], ["standby"])
        if lines and server.recovery_file() and not closed:
            try:
                self.replayed, self.segment_size = server.replayed(_ANSWER)
            except StandbyError as failure:
                self.problems.append(f"the server cannot be asked how far it is: {failure.detail}")
        if not self.segment_size:
            try:
                names = sorted(name for name in os.listdir(server.path("pg_wal")) if wal.kind(name) == wal.SEGMENT)
            except OSError as failure:
                self.problems.append(f'"{server.path("pg_wal")}" cannot be read: {say.reason(failure)}')
                names = []
            self.segment_size = survey.segment_size(server.path("pg_wal"), names)

    def _read_journal(self, server: Server) -> None:
        folder = server.path(os.path.join("pg_wal", FOLDER))
        try:
            self.events, damaged = journal.read(folder)
        except OSError as failure:
            self.problems.append(f'what restores have written down in "{folder}" cannot be read: {say.reason(failure)}')
            return
        if damaged:
            self.problems.append(f'{damaged} lines of "{os.path.join(folder, "journal")}" cannot be understood and are left out')
        waited = ended = ""
        for event in self.events:
            if event.kind == journal.WAIT:
                waited = event.subject
            elif event.kind == journal.END:
                ended = event.subject
            elif event.kind in journal.RESTORED:
                source = journal.ARCHIVE if event.kind == journal.ARCHIVE else journal.SPOOL
                # At the end of recovery the server asks for its last segment once more.
                if not ended or event.subject[8:] >= ended[8:]:
                    self.restores.append(Restore(event.subject, event.at, source, event.arrived, waited[8:] == event.subject[8:]))
                    ended = ""

    def _read_done(self, server: Server) -> None:
        """Add what no pystandby has written down, as after "mv" in restore_command: the server notes each segment it is given.

        By the times of pg_wal/archive_status/NAME.done (KeepFileRestoredFromArchive() in
        src/backend/access/transam/xlogarchive.c), or .ready where archive_mode is always, until the segment is recycled. In
        standby mode they may be those of segments that were streamed.
        """
        if server.is_standby_mode():
            return
        known = {restore.name for restore in self.restores}
        folder = server.path(os.path.join("pg_wal", "archive_status"))
        found = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name, _, ending = entry.name.rpartition(".")
                    if ending in ("done", "ready") and wal.kind(name) == wal.SEGMENT and name not in known:
                        arrived = None
                        try:
                            at = entry.stat().st_mtime
                            arrived = os.stat(server.path(os.path.join("pg_wal", name))).st_mtime
                        except OSError:
                            continue
                        found.append(Restore(name, at, "", arrived if arrived < at - 1 else None, False))
        except OSError:
            return
        ends = max((event.at for event in self.events if event.kind == journal.END), default=None)
        recovered = not server.recovery_file()
        if recovered or ends is not None:
            # What a promoted server writes and archives is no restore.
            last = max((restore.name[:8] for restore in self.restores), default=None)
            found = [restore for restore in found if ends is not None and restore.at <= ends and restore.name[:8] <= (last or "")]
        if found:
            self.restores = sorted([*self.restores, *found], key=lambda restore: restore.at)

    def _survey(self, directory: str, progress: "Callable[[list[str]], Iterator[str]] | None") -> None:
        # Of all of it, its history files as well: on a file server root may be nobody.
        with osdep.ActingAs(self.server.owner[0]) if self.server is not None else contextlib.nullcontext():
            try:
                self.survey = survey.survey(directory, self.segment_size, progress)
            except OSError as failure:
                self.archive_error = say.reason(failure)
                return
            self.segment_size = self.survey.segment_size
            self.path = self.survey.path()
            newest = self.survey.newest()
            if newest is not None:
                self._compare(newest)
                timeline = wal.timeline(newest)
                if timeline > 1 and not self.survey.history(timeline):
                    self.problems.append(
                        f"the archive has no {timeline:08X}.history: no server can go over to timeline {timeline}"
                    )
        self.gaps = self.survey.gaps(self.path)

    def _compare(self, newest: str) -> None:
        """See whether the newest segment is the server's own."""
        assert self.survey is not None
        found = self.survey.segments[newest]
        if self.server is None:
            return
        entry = archive.Archive(self.survey.directory).look(newest)
        if entry.state == archive.ABSENT:
            # It has been removed since.
            return
        try:
            if entry.failure is not None:
                raise entry.failure
            head = entry.head(wal.LONG_HEADER_SIZE)
        except Damaged:
            # Still being written.
            return
        except OSError as failure:
            self.archive_error = f"its newest segment {newest} cannot be read by the server's user: {say.reason(failure)}"
            return
        except StandbyError as failure:
            # A codec that this Python has not got.
            self.archive_error = f"its newest segment {newest} cannot be read: {failure.message}"
            return
        finally:
            entry.close()
        size = found.size if found.file == newest else self.segment_size or DEFAULT_SEGMENT_SIZE
        verdict = ready.judge_head(head, size, newest, self.server.asker().system_identifier(), self.server.version)
        if verdict.state == ready.WRONG:
            self.archive_error = f"its newest segment {newest} {verdict.reason}"

    # What follows from it

    @property
    def runs(self) -> bool:
        """Whether the server's postmaster is there."""
        return self.server is not None and bool(self.server.postmaster())

    def state(self) -> str:
        """What the server is doing, in a word of docs/status.md."""
        assert self.server is not None
        lines = self.server.postmaster()
        recovers = bool(self.server.recovery_file())
        if not lines:
            return "stopped" if recovers else "stopped, not a standby"
        if not recovers:
            return "promoted"
        if len(lines) > 7 and lines[7] == "stopping":
            return "stopping"
        last = self.events[-1] if self.events else None
        if last is not None and last.kind == journal.END and last.at >= self._started():
            return "ending recovery"
        return "waiting" if self.waiting() is not None else "replaying"

    def _started(self) -> float:
        """When the server was started, in seconds since the epoch; 0 where that is not known."""
        lines = self.server.postmaster() if self.server is not None else []
        return float(lines[2]) if len(lines) > 2 and lines[2].isdigit() else 0.0

    def waiting(self) -> "journal.Event | None":
        """What a running server waits for: the last line about it, with the time of the first."""
        if not self.runs or not self.recovers:
            return None
        found: journal.Event | None = None
        for event in reversed(self.events):
            if event.kind not in (journal.WAIT, journal.ERROR):
                break
            if event.kind == journal.WAIT and (found is None or event.subject == found.subject):
                found = journal.Event(event.at, event.kind, event.subject, found.detail if found is not None else event.detail)
        if found is None or (self.restores and self.restores[-1].at > found.at + 1):
            return None
        if self.replayed is not None and self.segment_size:
            # What the archive has not got, a server in standby mode finds in its pg_wal, or is sent.
            first_byte = wal.segment_number(found.subject, self.segment_size) * self.segment_size
            if self.replayed > first_byte + wal.LONG_HEADER_SIZE:
                return None
        return found

    def outages(self) -> "list[tuple[float, float | None]]":
        """From when to when the archive could not be read, by what restores said, and did next; None: it still cannot."""
        found: list[tuple[float, float | None]] = []
        for event in self.events:
            down = event.kind == journal.WAIT and event.detail in OUTAGES
            is_open = bool(found) and found[-1][1] is None
            if down and not is_open:
                found.append((event.at, None))
            elif is_open and not down and event.kind != journal.ERROR:
                found[-1] = (found[-1][0], event.at)
        return found

    def outage(self) -> "tuple[bool, float | None, float | None]":
        """Whether the archive cannot be read now, when the last outage began, and for how many seconds one of now has lasted."""
        outages, waiting = self.outages(), self.waiting()
        now = (waiting is not None and waiting.detail in OUTAGES) or (self.survey is None and self.directory is not None)
        if not outages:
            return now, None, None
        since, until = outages[-1]
        return now, since, max(self.at - since, 0.0) if now and until is None else None

    def position(self) -> "int | None":
        """The number of the last segment that the server has replayed or been given; None where nothing tells."""
        if self.server is None:
            return None
        size = self.segment_size or DEFAULT_SEGMENT_SIZE
        known = []
        if self.restores:
            known.append(wal.segment_number(self.restores[-1].name, size))
        if self.replayed is not None:
            known.append(self.replayed // size - 1)
        reached = [] if known and self.runs else self.server.asker().reached()
        if known:
            return max([*known, *(lsn // size - 1 for _, lsn in reached)])
        label = (osdep.read_small(self.server.path("backup_label"), 4096) or b"").decode("ascii", "replace")
        first = re.search(r"^START WAL LOCATION: .* \(file ([0-9A-F]{24})\)", label, re.MULTILINE)
        if first is not None:
            return wal.segment_number(first[1], size) - 1
        return max(lsn for _, lsn in reached) // size - 1 if reached else None

    def outstanding(self) -> "list[str] | None":
        """The segments of the archive that the server has yet to replay; None where that is not known."""
        position = self.position()
        if position is None or self.survey is None:
            return None
        size = self.segment_size or DEFAULT_SEGMENT_SIZE
        return [name for name in self.path if wal.segment_number(name, size) > position]

    def gaps_ahead(self) -> "list[survey.Gap]":
        """The gaps that the server has yet to come to; without a server all."""
        position = self.position()
        if position is None:
            return self.gaps
        size = self.segment_size or DEFAULT_SEGMENT_SIZE
        ahead = [gap for gap in self.gaps if wal.segment_number(gap.last, size) > position]
        first = wal.segment_number(self.path[0], size) if self.path else 0
        if self.recovers and self.path and first > position + 1:
            # What comes next is older than all that is left.
            begin = wal.segment_name(wal.timeline(self.path[0]), position + 1, size)
            end = wal.segment_name(wal.timeline(self.path[0]), first - 1, size)
            ahead.insert(0, survey.Gap(begin, end, first - position - 1))
        return ahead

    @property
    def recovers(self) -> bool:
        """Whether the server is told to recover, be it running or not."""
        return self.server is not None and bool(self.server.recovery_file())

    def rate(self) -> "float | None":
        """Segments replayed in a second, while there are some: by the last restores that were not waited for."""
        spent = 0.0
        count = 0
        recent = self.restores[-_RECENT:]
        for before, after in itertools.pairwise(recent):
            # A server that was restarted begins with an older one again; what lies between is no replay.
            if not after.waited and after.at > before.at and after.name[8:] > before.name[8:]:
                spent += after.at - before.at
                count += 1
        return count / spent if count > 1 and spent > 0 else None

    def arrivals(self) -> "float | None":
        """Segments that come into the archive in a second, by the last of them, up to now."""
        if self.survey is None:
            return None
        latest = sorted(segment.modified for segment in self.survey.segments.values())[-_RECENT:]
        spent = self.at - latest[0] if latest else 0.0
        return (len(latest) - 1) / spent if len(latest) > 1 and spent > 0 else None

    def catch_up(self) -> "float | None":
        """Seconds until the server has replayed what the archive holds, at the rates of late; None: never, or not known."""
        outstanding = self.outstanding()
        if outstanding is None or not outstanding:
            return None if outstanding is None else 0.0
        rate = self.rate()
        gain = (rate or 0.0) - (self.arrivals() or 0.0)
        return len(outstanding) / gain if gain > 0 else None

    # As one answer

    def as_json(self) -> "dict[str, Any]":
        """All figures, as docs/status.md describes them."""
        return {
            "version": VERSION,
            "at": round(self.at, 3),
            "archive": self._archive_json(),
            "standby": self._standby_json(),
            "problems": self.problems,
        }

    def _archive_json(self) -> "dict[str, Any] | None":
        if self.directory is None:
            return None
        answer: dict[str, Any] = {"path": self.directory, "error": self.archive_error or None}
        found = self.survey
        if found is None:
            return answer
        size = found.segment_size or DEFAULT_SEGMENT_SIZE
        newest, latest = found.newest(), found.latest_arrival()
        ahead = {gap.first: gap for gap in self.gaps_ahead()}
        both = {**{gap.first: gap for gap in self.gaps}, **ahead}
        return {
            **answer,
            "segment_size": found.segment_size or None,
            "segments": len(found.segments),
            "compressed": found.compressed,
            "bytes": found.bytes,
            "partial": found.files[wal.PARTIAL],
            "history": found.files[wal.HISTORY],
            "backup_history": found.files[wal.BACKUP_HISTORY],
            "temporary": found.files[survey.TEMPORARY],
            "other": found.files[survey.OTHER],
            "timelines": [
                {
                    "timeline": timeline,
                    "first": wal.segment_name(timeline, numbers[0], size),
                    "last": wal.segment_name(timeline, numbers[-1], size),
                    "segments": len(numbers),
                }
                for timeline, numbers in found.numbers().items()
            ],
            "oldest": found.oldest(),
            "newest": newest,
            "newest_modified": round(found.segments[newest].modified, 3) if newest is not None else None,
            "silence_seconds": round(max(self.at - latest, 0.0), 3) if latest is not None else None,
            "gaps": [
                {"first": gap.first, "last": gap.last, "segments": gap.segments, "ahead": gap.first in ahead}
                for gap in sorted(both.values(), key=lambda gap: gap.first[8:])
            ],
        }

    def _standby_json(self) -> "dict[str, Any] | None":
        server = self.server
        if server is None:
            return None
        outstanding = self.outstanding() if self.recovers else None
        waiting = self.waiting()
        last = self.restores[-1] if self.restores else None
        down, since, seconds = self.outage()
        error = next((event for event in reversed(self.events) if event.kind == journal.ERROR), None)
        oldest = self.survey.segments[outstanding[0]].modified if outstanding and self.survey is not None else self.at
        catch_up, rate = self.catch_up() if self.recovers else None, self.rate()
        return {
            "pgdata": server.directory,
            "server_version": (server.version or 0) // 100 if (server.version or 0) >= 1000 else None,
            "state": self.state(),
            "running": self.runs,
            "mode": ("standby" if server.is_standby_mode() else "recovery") if self.recovers else None,
            "waiting": None
            if waiting is None
            else {
                "segment": waiting.subject,
                "why": waiting.detail,
                "since": round(waiting.at, 3),
                "seconds": round(max(self.at - waiting.at, 0.0), 3),
            },
            "restored": None
            if last is None
            else {
                "segment": last.name,
                "at": round(last.at, 3),
                "seconds": round(max(self.at - last.at, 0.0), 3),
                "source": last.source or None,
            },
            "replayed_lsn": ready.lsn(self.replayed) if self.replayed is not None else None,
            "outstanding_segments": len(outstanding) if outstanding is not None else None,
            "outstanding_bytes": len(outstanding) * (self.segment_size or DEFAULT_SEGMENT_SIZE)
            if outstanding is not None
            else None,
            "lag_seconds": round(max(self.at - oldest, 0.0), 3) if outstanding is not None else None,
            "segments_per_second": round(rate, 3) if rate is not None else None,
            "catch_up_seconds": round(catch_up, 1) if catch_up is not None else None,
            "look_ahead": self._look_ahead_json(server),
            "trigger": self._trigger_json(server),
            "error": None
            if error is None
            else {
                "status": int(error.subject),
                "at": round(error.at, 3),
                "message": error.detail,
                "is_last": not any(event.at > error.at and event.kind in journal.RESTORED for event in self.events),
            },
            "outage": {
                "now": down,
                "since": round(since, 3) if since is not None else None,
                "seconds": round(seconds, 3) if seconds is not None else None,
            },
        }

    def _look_ahead_json(self, server: Server) -> "dict[str, Any]":
        folder = server.path(os.path.join("pg_wal", FOLDER))
        try:
            ready_made = sum(wal.kind(name) == wal.SEGMENT for name in os.listdir(folder))
        except OSError:
            ready_made = 0
        known = [restore for restore in self.restores if restore.source]
        return {
            "ready": ready_made,
            "child": spool.child(folder),
            "hits": sum(restore.source == journal.SPOOL for restore in known),
            "restores": len(known),
        }

    def _trigger_json(self, server: Server) -> "dict[str, Any] | None":
        if self.options is None or self.options.trigger is None:
            return None
        path = server.path(self.options.trigger)
        with osdep.ActingAs(server.owner[0]):
            found = trigger.look(path, self.options.trust_trigger)
        ignored = found.problem or ("is left over from an earlier failover" if found.is_left_over(server.told_at()) else "")
        return {"path": path, "says": None if ignored else found.word, "ignored": ignored or None}
