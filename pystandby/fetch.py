"""One look at the archive: is the file there, is it whole, and if so a private copy of it, ready to be published.

Joins archive, ready and place; waits for nothing but the moment that a file needs to prove that it rests.
"""

import errno
import os
import stat
import time

from pystandby import archive, exits, osdep, ready, say, wal
from pystandby.archive import Archive
from pystandby.asker import PG_REWIND, Asker
from pystandby.options import Options
from pystandby.place import Copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystandby.spool import Spooled
    from pystandby.timelines import News

READY = "ready"
ABSENT = archive.ABSENT
UNAVAILABLE = archive.UNAVAILABLE
UNREADABLE = archive.UNREADABLE
IN_USE = "in use"
UNFINISHED = ready.UNFINISHED
WRONG = ready.WRONG
SETTLING = "settling"
DELAYED = "delayed"
FAILED = "failed"

_MOMENT = 0.01
"""Seconds that a file must have rested where it may be torn inside its last record: longer than between two writes."""

_LONG_MOMENT = 0.5
"""The same where there are sectors of zeros, as a copy out of order leaves them, or a history file has no end."""

_ENOUGH = 512 << 10
"""Bytes of the next segment that hold the end of the last record of this one, unless that is larger than any usual."""

_SKEW = 60.0
"""Seconds by which a modification time may be ahead of our clock and still be no mistake."""

_DEFAULT_SEGMENT_SIZE = 16 << 20

_LARGEST_TEXT = 1 << 20
"""Bytes of a history or backup file, at most: of a compressed one no more are decompressed."""

_OVERRULE = "To restore it by its size all the same, use --verify size."


class Found:
    """What a look found: a state, and what to say of it.

    ``seconds`` is when to look again, ``rested`` for how long the file has not changed, ``modified`` its modification time in
    nanoseconds; ``folder`` is Archive.folder() of where it was found, ``status`` the exit status of a failure that stays,
    ``reason`` why it is unfinished. Of an
    absent segment ``is_impossible`` says that the server must look for an older timeline's, ``news`` what else there is to know;
    ``cut`` says in words that a segment goes past a fork, and where its copy ends therefore.
    """

    __slots__ = (
        "copy",
        "cut",
        "detail",
        "folder",
        "hint",
        "is_impossible",
        "is_last",
        "message",
        "modified",
        "news",
        "reason",
        "rested",
        "seconds",
        "segment_size",
        "spooled",
        "state",
        "status",
    )

    def __init__(self, state: str, seconds: float, message: str = "", detail: str = "", hint: str = "") -> None:
        self.state = state
        self.seconds = seconds
        self.message = message
        self.detail = detail
        self.hint = hint
        self.copy: Copy | Spooled | None = None
        self.modified = 0
        self.folder = ""
        self.spooled = False
        self.cut = ""
        self.is_impossible = False
        self.news: News | None = None
        self.is_last = True
        self.reason = ""
        self.rested = 0.0
        self.segment_size = 0
        self.status = exits.UNEXPECTED


class Fetcher:
    """Looks for one file, again and again, and knows what it looked like before."""

    def __init__(
        self, options: Options, kind: str, asker: Asker, known_folder: str = "", known_archive: "Archive | None" = None
    ) -> None:
        self._options = options
        self._known_folder = known_folder
        self._name = options.nextwalfile
        self._kind = kind
        self._asker = asker
        self.archive = known_archive or Archive(options.archivelocation)
        self._path = self.archive.path(self._name)
        by_hand = asker.data_directory is None
        self.verify = options.verify if options.verify != "auto" else ("size" if by_hand else "pages")
        self._warns = options.verify == "auto" and by_hand
        self._stable = options.stable if options.stable is not None else options.sleep * osdep.COPIES_SET_SIZE_FIRST
        self._system_identifier = asker.system_identifier() if self.verify == "pages" else None
        self.takes_unfinished = False
        """Whether a segment that is unfinished and has come to rest is wanted as it is."""
        self.takes_young = asker.kind == PG_REWIND or kind != wal.SEGMENT
        """Whether --delay does not count."""
        self.takes_again = False
        """Whether the server has had it before, so that it need not prove again that it rests (--stable)."""
        self.takes_at_once = False
        """Whether it is wanted without having come to rest, because it was handed over before."""
        self._seen: tuple[tuple[int, ...], float] | None = None
        self._recalled: tuple[str, float] | None = None
        self._judged: tuple[tuple[int, ...], float, str, str] | None = None
        self._segment_size = 0
        self._copy: Copy | None = None
        self._steps = 0
        self._progress = (0, -1)
        self._copied_at = 0.0
        self._judging = False
        self._is_unknown = False
        self._warned_unknown = False
        self._followed = 0
        self._left_at = 0
        self._cut_at: int | None = None

    def fetch(self) -> Found:
        """Look once. Raises StandbyError if the server has gone, or what decompresses the file is missing.

        Nothing else that archive, file or destination can bring about.
        """
        self._progress = (self._steps, -1)
        if self._cut_at == 0:
            say.debug(f"{self._name} lies past {ready.lsn(self._left_at)}, where timeline {self._followed} left its timeline")
            return Found(ABSENT, self._options.sleep)
        try:
            entry = self.archive.look(self._name)
        except OSError as failure:
            return self._failure(exits.SOURCE_FAILED, f'could not open "{self._path}"', failure)
        self._path = self.archive.path(self._name + entry.ending)
        try:
            if entry.state == archive.PRESENT:
                return self._present(entry)
            if entry.state == ABSENT and self._is_unmounted():
                entry = archive.Entry(
                    UNAVAILABLE, OSError(errno.ENODEV, "it is empty, and not the folder it was: it may not be mounted")
                )
            if entry.state == ABSENT:
                found = Found(ABSENT, self._options.sleep)
                if self._kind == wal.SEGMENT:
                    self._ask_histories(found)
                return found
            return self._unknown(entry)
        finally:
            entry.close()

    def _is_unmounted(self) -> bool:
        """Whether the archive's path shows an empty folder in place of the one that files were restored from."""
        return bool(self._known_folder) and self._known_folder != self.archive.folder() and self.archive.is_empty()

    def progress(self) -> bool:
        """Whether a look has got further since the last time this was asked, or judges a copy; called from another thread.

        Further: a copy has grown, or been finished. Whoever asks may have been kept from it until just after: judging a segment
        of 1 GB takes a second and holds the interpreter for much of it.
        """
        before, copy, size = self._progress, self._copy, -1
        if copy is not None:
            try:
                size = os.fstat(copy.descriptor).st_size
            except OSError:
                # It has just been closed.
                return True
        self._progress = (self._steps, size)
        return self._judging or self._progress != before

    def telling_names(self) -> "list[str]":
        """The names whose arrival says something of the file waited for: the next segment, and the next timeline's history."""
        if self._kind != wal.SEGMENT:
            return []
        size = self._known_segment_size(os.path.dirname(self._options.xlogfilepath) or ".")
        following = wal.neighbour(self._name, 1, size or _DEFAULT_SEGMENT_SIZE)
        return [*([following] if following else []), f"{wal.timeline(self._name) + 1:08X}.history"]

    # The file is there

    def _present(self, entry: archive.Entry) -> Found:
        status = entry.status
        assert status is not None
        if not stat.S_ISREG(status.st_mode):
            return Found(
                WRONG,
                0,
                f'"{self._path}" is not a plain file',
                "",
                "Remove it from the archive, then start the server.",
            )
        if osdep.is_open_for_writing(self._path):
            return self._in_use()
        rested = self._rest(status, entry.descriptor)
        try:
            # What a compressed one holds is seen only when it is copied.
            found = self._judge_content(entry.descriptor, status.st_size, rested) if not entry.ending else None
            found = found or self._judge_times(status, rested)
            if found is not None:
                found.rested = rested
                return found
        except osdep.SourceError as failure:
            return self._unread(failure)
        return self._copy_and_judge(entry, status, rested)

    @property
    def _is_text(self) -> bool:
        return self._kind in (wal.HISTORY, wal.BACKUP_HISTORY)

    def _judge_content(self, descriptor: int, size: int, rested: float) -> "Found | None":
        """What the beginning, the end and the size of a file say, before it is copied or when it is decompressed."""
        if self._is_text:
            # Text whose last line has no end may be half written. History files are not waited for: a moment must do.
            if rested < _LONG_MOMENT and (size == 0 or _read_at(descriptor, 1, size - 1) != b"\n"):
                return Found(SETTLING, _LONG_MOMENT - rested)
        elif self.verify != "none":
            head = _read_at(descriptor, wal.LONG_HEADER_SIZE, 0)
            verdict = self._judge_head(head, size)
            self._segment_size = verdict.segment_size or _DEFAULT_SEGMENT_SIZE
            if verdict.state == ready.WRONG:
                return self._wrong(verdict.reason)
            if verdict.state == ready.UNFINISHED:
                return self._unfinished(verdict.reason)
            self._is_unknown = verdict.state == ready.UNKNOWN
            if self._is_unknown:
                if not self._warned_unknown:
                    self._warned_unknown = True
                    say.warning(
                        f'segment "{self._path}" {verdict.reason}',
                        "This version of pystandby does not know this server's WAL: it judges by size, and by how long the file "
                        "has not changed.",
                        "Upgrade pystandby, or use --verify size to do without this warning.",
                    )
                if rested < self._options.sleep:
                    return Found(SETTLING, self._options.sleep - rested)
        return None

    def _judge_times(self, status: os.stat_result, rested: float) -> "Found | None":
        """Whether to wait before the file is copied: by its times, and by what a copy of it was before."""
        left = 0.0 if self.takes_young else self._options.delay - (time.time() - status.st_mtime)
        if self._options.delay and left > 0:
            return self._delayed(left)
        if rested < self._stable and not self.takes_again:
            return Found(SETTLING, self._stable - rested)
        known = self._judged is not None and self._judged[0] == _signature(status) and time.monotonic() < self._judged[1]
        if known and self._judged is not None and not self._hands_over_unfinished(rested):
            # Copied and found unfinished before, and not changed since: no second copy for the same answer.
            return self._unfinished(*self._judged[2:])
        if self._judged is not None and rested < _LONG_MOMENT and time.monotonic() < self._copied_at + self._options.sleep:
            # It is being written, and tells us of each write: not a copy of it for each.
            found = self._unfinished(*self._judged[2:])
            found.seconds = _LONG_MOMENT
            return found
        return None

    def _delayed(self, left: float) -> Found:
        found = Found(DELAYED, left)
        ahead = left - self._options.delay
        if ahead > _SKEW:
            found.message = f'segment "{self._path}" has a modification time that is {ahead:.0f} seconds in the future'
            found.detail = f"It is held back until {self._options.delay} seconds after that time (--delay)."
            found.hint = f'Set the clocks right; "touch {self._path}" has it restored {self._options.delay} seconds from now.'
        return found

    def _judge_head(self, head: bytes, size: int) -> ready.Verdict:
        if self.verify == "size":
            return _judge_size(head, size)
        return ready.judge_head(head, size, self._name, self._system_identifier, self._asker.server_version)

    def abandon(self) -> None:
        """Remove the copy under way, whose maker hangs, or is about to be ended; called from another thread than fetch()."""
        copy = self._copy
        if copy is not None:
            copy.abandon()

    def _copy_and_judge(self, entry: archive.Entry, status: os.stat_result, rested: float) -> Found:
        # An orphan must not make even a temporary file in a data directory where another server may be at work.
        self._asker.alive()
        try:
            copy = Copy(self._options.xlogfilepath)
        except OSError as failure:
            return self.destination_failure(failure)
        self._copy = copy
        self._steps += 1
        self._copied_at = time.monotonic()
        keep = False
        try:
            if entry.ending:
                unfit = self._expand(copy, entry, status, rested)
                if unfit is not None:
                    unfit.rested = rested
                    return unfit
            else:
                copy.fill(entry.descriptor, status.st_size)
            if osdep.is_open_for_writing(self._path):
                return self._in_use()
            changed = _signature(os.fstat(entry.descriptor)) != _signature(status)
            if changed or (not entry.ending and copy.size != status.st_size):
                return Found(SETTLING, _MOMENT)
            found = self._judge_copy(copy, status, rested)
            if found.copy is not None and self._cut_at is not None:
                copy.cut(self._cut_at)
                found.cut = (
                    f"{self._name} is restored up to {ready.lsn(self._left_at)} only, where timeline {self._followed}, which the "
                    "server follows, left its timeline"
                )
            keep = found.copy is not None
            return found
        except osdep.SourceError as failure:
            return self._unread(failure)
        except OSError as failure:
            return self.destination_failure(failure)
        except MemoryError:
            return self.destination_failure(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
        finally:
            # Removing a large one takes its time as well, and is no silence of the archive.
            if not keep:
                copy.discard()
            self._copy = None
            self._steps += 1

    def _expand(self, copy: Copy, entry: archive.Entry, status: os.stat_result, rested: float) -> "Found | None":
        """Decompress a file into the copy; what to say where that comes to nothing that may be whole.

        No more is written than a segment can have: a file of a kilobyte can hold a terabyte. Raises osdep.SourceError, OSError.
        """
        from pystandby import compression

        most = _LARGEST_TEXT if self._is_text else wal.MAX_SEGMENT_SIZE
        head = b""
        found: Found | None = None
        try:
            for piece in compression.expanded(entry.descriptor, entry.ending):
                if not self._is_text and len(head) < wal.LONG_HEADER_SIZE:
                    head += piece[: wal.LONG_HEADER_SIZE]
                    most = _stated_size(head) or most
                    if self.verify != "none" and len(head) >= wal.LONG_HEADER_SIZE:
                        verdict = self._judge_head(head[: wal.LONG_HEADER_SIZE], _stated_size(head) or _DEFAULT_SEGMENT_SIZE)
                        if verdict.state == ready.WRONG:
                            return self._wrong(verdict.reason)
                        if verdict.state == ready.UNFINISHED:
                            found = self._unfinished(verdict.reason)
                            break
                copy.write(piece[: most + 1 - copy.size])
                if copy.size > most:
                    return self._too_much(most)
        except compression.MissingCodecError as missing:
            raise exits.StandbyError(
                missing.status,
                f'could not read "{self._path}": {missing.message}',
                "It is there, and what it holds is not known. The server stops here and loses nothing.",
                f"{missing.hint}, then start the server. A plain {self._name} beside it is taken without.",
            ) from missing
        except compression.Damaged as damage:
            if self._is_text:
                return self._half_written(damage.reason, rested)
            found = self._unfinished(damage.reason, "If nobody is writing it any more, put a whole file in its place.")
        found = found or self._judge_content(copy.descriptor, copy.size, rested)
        if found is None or found.state != UNFINISHED:
            return found
        self._judged = (_signature(status), time.monotonic() + 60, found.reason, found.hint)
        return found

    def _judge_copy(self, copy: Copy, status: os.stat_result, rested: float) -> Found:
        """Judge what would be handed over, not what it was copied from: that may change at any time."""
        found = Found(READY, 0)
        found.copy = copy
        found.modified = status.st_mtime_ns
        found.folder = self.archive.folder()
        found.segment_size = self._segment_size or _DEFAULT_SEGMENT_SIZE
        found.rested = rested
        if self._kind != wal.SEGMENT or self.verify == "none" or self._is_unknown:
            return found
        if self.verify == "size":
            if self._warns:
                self._warn_by_hand(copy)
            return found
        verdict = self._judge_pages(copy, rested >= _LONG_MOMENT)
        if verdict.state == ready.DOUBTFUL and verdict.zeros and self._ends_torn(copy):
            verdict = ready.Verdict(ready.UNFINISHED, "breaks off inside its last record, whose checksum is wrong")
        if verdict.state == ready.UNFINISHED:
            unfinished = self._unfinished(verdict.reason)
            self._judged = (_signature(status), time.monotonic() + 60, verdict.reason, unfinished.hint)
            unfinished.rested = rested
            if self._hands_over_unfinished(rested):
                unfinished.copy = copy
                unfinished.segment_size = self._segment_size
            return unfinished
        if verdict.state == ready.WRONG:
            return self._wrong(verdict.reason)
        if verdict.state == ready.DOUBTFUL and not self._is_settled(status, rested, verdict.zeros):
            return Found(SETTLING, _LONG_MOMENT if verdict.zeros else _MOMENT)
        return found

    def _hands_over_unfinished(self, rested: float) -> bool:
        return self.takes_unfinished and (rested >= self._options.sleep or self.takes_at_once)

    def _ends_torn(self, copy: Copy) -> bool:
        """Whether the next segment, if it is there, tells that the last record is torn."""
        following = wal.neighbour(self._name, 1, self._segment_size)
        head = self.archive.head(following, _ENOUGH) if following else None
        if not head:
            return False
        import mmap

        from pystandby import records

        with mmap.mmap(copy.descriptor, copy.size, access=mmap.ACCESS_READ) as content:
            return records.torn_end(content, head)  # type: ignore[arg-type]  # as in _judge_pages()

    def _judge_pages(self, copy: Copy, at_rest: bool) -> ready.Verdict:
        import mmap

        self._judging = True
        try:
            with mmap.mmap(copy.descriptor, copy.size, access=mmap.ACCESS_READ) as content:
                return ready.judge_pages(content, self._name, at_rest)  # type: ignore[arg-type]  # a mapping has all that it needs
        finally:
            self._steps += 1
            self._judging = False

    def _is_settled(self, status: os.stat_result, rested: float, zeros: bool) -> bool:
        """Whether a segment whose last record may be torn rests, by a second look or by the next segment's presence."""
        needed = _LONG_MOMENT if zeros else _MOMENT
        if rested >= needed:
            return True
        if zeros:
            # The next segment may have come first, where several are copied at once.
            return False
        following = wal.neighbour(self._name, 1, self._segment_size)
        if following is not None and self.archive.holds(following):
            return True
        time.sleep(needed - rested)
        # Opened anew, not asked for its status: that is what makes an NFS client ask the server.
        again = self.archive.look(self._name)
        again.close()
        return again.status is not None and _signature(again.status) == _signature(status)

    def _warn_by_hand(self, copy: Copy) -> None:
        """Say what a server would have been spared; a person gets the file by its size, as from pg_standby."""
        head = _read_at(copy.descriptor, wal.LONG_HEADER_SIZE, 0)
        verdict = ready.judge_head(head, copy.size, self._name)
        if verdict.state == ready.WHOLE:
            verdict = self._judge_pages(copy, at_rest=True)
        if verdict.state in (ready.UNFINISHED, ready.WRONG):
            say.warning(
                f'segment "{self._path}" {verdict.reason}',
                "Restored by its size, because no server asks. A server would not be given it: it would replay it up to there, "
                "take that for the end of WAL, and promote.",
                "To have it refused, use --verify pages; to do without this warning, --verify size.",
            )

    def _rest(self, status: os.stat_result, descriptor: int) -> float:
        """For how many seconds an open file has not changed, by our own looks and by its times."""
        changed = osdep.changed_at(status, descriptor)
        # The archive's server may have a clock of its own, behind ours.
        age = time.time() - changed - osdep.clock_behind(self._path) if changed is not None else 0.0
        return max(self._unchanged(_signature(status)), age)

    def _unchanged(self, appearance: "tuple[int, ...]") -> float:
        """For how many seconds every look has found the same."""
        now = time.monotonic()
        if self._seen is None or self._seen[0] != appearance:
            seconds = 0.0
            if self._seen is None and self._recalled is not None and self._recalled[0] == _word(appearance):
                seconds = self._recalled[1]
            self._seen = (appearance, now - seconds)
        return now - self._seen[1]

    def recall(self, appearance: str, seconds: float) -> None:
        """Take into account that an earlier call saw the file look like appearance() so many seconds ago."""
        self._recalled = (appearance, seconds)

    def appearance(self) -> str:
        """What changes when the archive's file does, as one word; empty where there is none."""
        status = self.archive.status(self._name)
        return _word(_signature(status)) if status is not None else ""

    # What to say

    def _wrong(self, reason: str) -> Found:
        return Found(
            WRONG,
            0,
            f'segment "{self._path}" {reason}',
            "A server given it would replay none of it, take that for the end of WAL, and promote. It stops here instead, "
            "and loses nothing.",
            f"Put the right file in its place, then start the server. {_OVERRULE}",
        )

    def _too_much(self, most: int) -> Found:
        what = "file" if self._is_text else "segment"
        return Found(
            WRONG,
            0,
            f'{what} "{self._path}" is too long: more than {most} bytes, decompressed',
            "No more of it is decompressed. The server stops here, and loses nothing.",
            "Put the right file in its place, then start the server.",
        )

    def _half_written(self, reason: str, rested: float) -> Found:
        """What to say of a compressed history or backup file that does not hold what it should."""
        if rested < _LONG_MOMENT:
            return Found(SETTLING, _LONG_MOMENT - rested)
        return Found(UNREADABLE, self._options.sleep, f'"{self._path}" {reason}', "", "Put a whole file in its place.")

    def _unfinished(self, reason: str, hint: str = "") -> Found:
        found = Found(
            UNFINISHED,
            self._options.sleep,
            f'segment "{self._path}" {reason}',
            "It is taken to be still on its way, and waited for. A server given it would replay it up to there, take that for "
            "the end of WAL, and promote.",
            hint or f"If nobody is writing it any more, put a whole copy in its place. {_OVERRULE}",
        )
        found.reason = reason
        if self.takes_unfinished:
            following = wal.neighbour(self._name, 1, self._segment_size or _DEFAULT_SEGMENT_SIZE)
            found.is_last = following is None or not self.archive.holds(following)
        return found

    def _unknown(self, entry: archive.Entry) -> Found:
        assert entry.failure is not None
        if osdep.is_in_use(entry.failure):
            return self._in_use()
        why = say.reason(entry.failure)
        if entry.state == UNREADABLE:
            return Found(
                UNREADABLE,
                self._options.sleep,
                f'could not open "{self._path}": {why}',
                "",
                "Make it readable to the server's user.",
            )
        found = Found(
            UNAVAILABLE,
            self._options.sleep,
            f'archive "{self.archive.directory}" cannot be read: {why}',
            "",
            "Mount it or mend it. To end recovery without it, make the trigger file.",
        )
        found.rested = self._unchanged((-1,))
        return found

    def _in_use(self) -> Found:
        """What to say of a file that may still be being written, or that nobody else may read for the time being."""
        return Found(IN_USE, min(_LONG_MOMENT, self._options.sleep), f'"{self._path}" is held open by another program')

    def _unread(self, failure: osdep.SourceError) -> Found:
        if osdep.is_in_use(failure):
            return self._in_use()
        return self._failure(exits.SOURCE_FAILED, f'could not read "{self._path}"', failure)

    def _failure(self, status: int, what: str, failure: OSError) -> Found:
        found = Found(FAILED, self._options.sleep, f"{what}: {say.reason(failure)}")
        found.status = status
        return found

    def destination_failure(self, failure: OSError) -> Found:
        """What to say and to exit with when the file could not be written to XLOGFILEPATH."""
        what = f'could not write "{self._options.xlogfilepath}"'
        found = self._failure(exits.DESTINATION_FAILED, what, failure)
        if failure.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            found.hint = "Make room on the file system of pg_wal."
        return found

    # Timelines

    def _ask_histories(self, found: Found) -> None:
        """Have the timelines' history files say what they know of an absent segment."""
        mine = wal.timeline(self._name)
        if mine == 1 and not self.archive.holds("00000002.history"):
            return
        from pystandby import timelines

        pg_wal = os.path.dirname(self._options.xlogfilepath) or "."
        # From pg_wal, which a fresh base backup has empty, or from the archive.
        size = self._known_segment_size(pg_wal) or self._known_segment_size(self.archive.directory)
        found.is_impossible = timelines.began_later(pg_wal, self._name, size)
        if not found.is_impossible:
            found.news = timelines.news(self.archive, pg_wal, self._name, size, self._asker)

    def know_followed(self, timeline: int) -> bool:
        """Take into account that the server follows a timeline; whether it left this segment's before the segment ends."""
        if self._kind != wal.SEGMENT or timeline <= wal.timeline(self._name):
            return False
        from pystandby import timelines

        pg_wal = os.path.dirname(self._options.xlogfilepath) or "."
        left = timelines.left_at(pg_wal, timeline, wal.timeline(self._name))
        size = self._known_segment_size(pg_wal) or self._known_segment_size(self.archive.directory)
        if left is None or not size or (wal.segment_number(self._name, size) + 1) * size <= left:
            return False
        self._followed = timeline
        self._left_at = left
        self._cut_at = max(left - wal.segment_number(self._name, size) * size, 0)
        return True

    def _known_segment_size(self, folder: str) -> int:
        """The size in bytes of the cluster's segments, by the header of one in a folder; 0 where none tells."""
        if not self._segment_size:
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        name = archive.bare(entry.name)
                        if wal.kind(name) == wal.SEGMENT:
                            self._segment_size = _stated_size(Archive(folder).head(name, wal.LONG_HEADER_SIZE))
                            if self._segment_size:
                                break
            except OSError:
                pass
        return self._segment_size


def _signature(status: os.stat_result) -> "tuple[int, ...]":
    """What changes when a file does."""
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _word(signature: "tuple[int, ...]") -> str:
    return ":".join(map(str, signature))


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Read a little of a file and leave it at its beginning. Raises osdep.SourceError."""
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        content = os.read(descriptor, size)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError as failure:
        raise osdep.SourceError(failure.errno, failure.strerror) from failure
    return content


def _stated_size(head: "bytes | None") -> int:
    """The size in bytes that a segment's first bytes say it has; 0 where they do not."""
    if head is None or len(head) < wal.LONG_HEADER_SIZE:
        return 0
    page = wal.FirstPage(head)
    return page.segment_size if page.info & wal.LONG_HEADER and wal.is_segment_size(page.segment_size) else 0


def _judge_size(head: bytes, size: int) -> ready.Verdict:
    """Judge by size alone, as pg_standby did: the size in a header that has one, else 16 MB or any larger segment size."""
    stated = _stated_size(head)
    if stated:
        if size > stated:
            return ready.Verdict(ready.WRONG, f"is too long: {size} bytes instead of {stated}")
        state = ready.WHOLE if size == stated else ready.UNFINISHED
        return ready.Verdict(state, f"has {size} of {stated} bytes", stated)
    if size < _DEFAULT_SEGMENT_SIZE:
        return ready.Verdict(ready.UNFINISHED, f"has {size} of {_DEFAULT_SEGMENT_SIZE} bytes")
    if not wal.is_segment_size(size):
        return ready.Verdict(ready.WRONG, f"is too long: {size} bytes instead of {_DEFAULT_SEGMENT_SIZE}")
    return ready.Verdict(ready.WHOLE, segment_size=size)
