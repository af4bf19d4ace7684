"""The child that looks ahead: keeps the spool filled while the server replays, and prunes the archive meanwhile.

Lives at most as long as the startup process that its maker served. What it has to say is said by the next call.
"""

import os
import time

from pystandby import exits, fetch, journal, osdep, prune, say, spool, timelines, trigger, wal
from pystandby.archive import Archive
from pystandby.asker import Asker
from pystandby.exits import StandbyError
from pystandby.memory import Memory
from pystandby.options import Options

_SHORT_NAP = 0.005
_NAP = 0.02
_LONG_NAP = 0.05
"""Seconds between two looks at what the server has taken: with less than half of the segments ready, with more, and when it has
not taken anything for a while. Each look takes time from the server where there are few processors."""

_TELLING = 0.5
"""Seconds after a segment was taken by which whoever took it will have said so, if that says so at all."""

_IDLE = 30.0
"""Seconds without anything taken after which the child goes; what it made ready stays."""

_REVIEW = 1.0
"""Seconds between two looks at whether the archive still holds what was spooled, and at the restart point."""

_MOST_MESSAGES = 100
"""Messages left for the next call by one removal of old segments: with -d there is one for each, and the warning comes last."""

_REDO_HAS_BEGUN = 4
"""Moves of the server after which it must have: before, it asks for the segments of the checkpoint and of its redo pointer."""

_ROOM_LEFT = 1 << 30
"""Bytes that the spool leaves free on the file system of pg_wal; with small segments, sixteen of them."""


_STATE = "PYSTANDBY_LOOK_AHEAD"
"""The variable that hands the state of a restore to a process of its own."""


def run(options: Options, asker: Asker, segment_size: int) -> None:
    """Be the child, to its end; at once if another is there. ``options`` are those of the restore just done."""
    _Child(options, asker, Memory(options.xlogfilepath, asker.identity), segment_size).run()


def elsewhere(options: Options, asker: Asker, segment_size: int) -> "tuple[str, dict[str, str]]":
    """What another process needs to do run(): the code that it runs, and variables of its environment."""
    import pickle

    # It will not be where relative names lead to the same files. Who asks is known from here: it has other parents.
    state = pickle.dumps((options.in_full(os.path.abspath), asker.in_full(os.path.abspath), segment_size))
    return "from pystandby import ahead; ahead.run_elsewhere()", {_STATE: state.hex()}


def run_elsewhere() -> None:
    """Do what elsewhere() has prepared, away from the data directory, which could not be removed while this is in it."""
    import pickle
    import sys

    options, asker, segment_size = pickle.loads(bytes.fromhex(os.environ.pop(_STATE)))
    osdep.use_standard_descriptors()
    os.chdir(os.path.splitdrive(sys.executable)[0] + os.sep)
    try:
        run(options, asker, segment_size)
    finally:
        os._exit(0)


class _Child:
    def __init__(self, options: Options, asker: Asker, memory: Memory, segment_size: int) -> None:
        self.options = options
        self.asker = asker
        self.memory = memory
        self.segment_size = segment_size
        self.archive = Archive(options.archivelocation)
        self.spool = spool.folder(options.xlogfilepath)
        self.bound = spool.bound(options.look_ahead, segment_size)
        self.position = options.nextwalfile
        self.told = ""
        self.held: list[str] = []
        self.arrived: dict[str, float] = {}
        self.pruned = ""
        self.advanced = 0
        self.failed = ""
        self.retry_at = 0.0
        self.useless = False
        self.settling = False

    def run(self) -> None:
        lock = spool.claim(self.spool, self.asker.identity())
        if lock is None:
            return
        spool.empty(self.spool)
        taken_at = reviewed_at = time.monotonic()
        while True:
            if not self._wanted():
                return
            now = time.monotonic()
            if self._follow():
                taken_at = now
            if now - reviewed_at >= _REVIEW:
                reviewed_at = now
                self._review()
            if self._fill():
                continue
            if self.useless or not (self.held or self.settling) or now - taken_at > _IDLE:
                # Nothing more in the archive: the call that waits for it starts the next child.
                break
            if now - taken_at >= 1.0:
                time.sleep(_LONG_NAP)
            else:
                time.sleep(_NAP if 2 * len(self.held) >= self.bound else _SHORT_NAP)
        if self.options.restartwalfile is None and self.options.keep:
            self._hear_of_the_last()
        if self._wanted():
            # Else an orphan would write into a data directory where a new server may be at work.
            self._prune()

    def _wanted(self) -> bool:
        """Whether the server still is in the recovery that this child serves; else leave nothing behind that it may not take."""
        try:
            self.asker.alive()
        except StandbyError as gone:
            # The startup process ends with recovery, under a postmaster that goes on: then the spool is only in the way.
            if gone.status == exits.SERVER_GONE and self.asker.promoted():
                spool.empty(self.spool)
            return False
        if self.memory.refused() is not None or self._fast():
            spool.empty(self.spool)
            return False
        return True

    def _fast(self) -> bool:
        path = self.options.trigger
        if path is None or (self.asker.standby_mode and not self.options.promote):
            return False
        found = trigger.look(path, self.options.trust_trigger)
        return found.word == trigger.FAST and not found.is_left_over(self.asker.told_at())

    def _follow(self) -> bool:
        """Move on to where the server is; whether it has moved."""
        before = self.position
        told = spool.read_position(self.spool)
        if told and told != self.told:
            self.told = told
            if told[8:] > self.position[8:]:
                self.position = told
        while self.held and not os.path.exists(os.path.join(self.spool, self.held[0])):
            name = self.held.pop(0)
            self.position = max(self.position, name, key=lambda name: name[8:])
            # Whoever took it, a shell most often, has nothing to write this with.
            journal.note(self.spool, journal.TAKEN, name, str(self.arrived.pop(name, 0)))
        passed = [name for name in self.held if name[8:] <= self.position[8:]]
        for name in passed:
            spool.remove(self.spool, name)
            self.arrived.pop(name, None)
        self.held = [name for name in self.held if name not in passed]
        if self.position == before:
            return False
        self.advanced += 1
        return True

    def _hear_of_the_last(self) -> None:
        """Wait for the word that the last segment was taken: the shell writes it behind that, and -k counts from it."""
        until = time.monotonic() + _TELLING
        while self.told[8:] < self.position[8:] and time.monotonic() < until:
            time.sleep(_SHORT_NAP)
            self._follow()

    def _review(self) -> None:
        """Withdraw what has changed in the archive, or is gone from it; see to the restart point."""
        for index, name in enumerate(self.held):
            try:
                status = os.stat(os.path.join(self.spool, name))
            except OSError:
                continue
            if spool.is_stale(status, self.archive, name):
                # What stands behind it comes from the same archive: made anew with it.
                for stale in self.held[index:]:
                    spool.remove(self.spool, stale)
                    self.arrived.pop(stale, None)
                del self.held[index:]
                break
        self._prune()

    def _fill(self) -> bool:
        """Make the next segment ready; False where none is to be made now."""
        if len(self.held) >= self.bound or not self._room():
            return False
        last = self.held[-1] if self.held else self.position
        for name in self._successors(last):
            if name == self.failed and time.monotonic() < self.retry_at:
                continue
            found = self._fetch(name)
            if found.state == fetch.SETTLING and found.seconds <= 1.0:
                time.sleep(found.seconds)
                found = self._fetch(name)
            self.settling = False
            if found.state == fetch.READY and found.copy is not None:
                try:
                    self.asker.alive()
                    found.copy.date(found.modified)
                    found.copy.publish(os.path.join(self.spool, name))
                except (OSError, StandbyError):
                    found.copy.discard()
                    return False
                self.held.append(name)
                self.arrived[name] = found.modified // 1_000_000 / 1000
                self.useless = not self._keeps_times(name, found.modified)
                return not self.useless
            # Not again at once: a copy of a segment that is being written, or a full quota, costs the server's own disk.
            self.failed, self.retry_at = name, time.monotonic() + _REVIEW
            # It has yet to rest for so long (--stable), which a call that waits for it would see no sooner.
            self.settling = found.state == fetch.SETTLING and found.seconds > 1.0
            self.useless = found.state == fetch.FAILED
        return False

    def _fetch(self, name: str) -> fetch.Found:
        options = self.options.for_file(name, os.path.join(self.spool, name))
        try:
            return fetch.Fetcher(options, wal.SEGMENT, self.asker, known_archive=self.archive).fetch()
        except StandbyError as failure:
            if failure.status != exits.MODULE_MISSING:
                raise
            # What decompresses it: the call that asks for it says so.
            return fetch.Found(fetch.FAILED, 0)

    def _keeps_times(self, name: str, modified: int) -> bool:
        """Whether the spool's file system keeps a time to the nanosecond; else every segment would be taken for a changed one."""
        try:
            return os.stat(os.path.join(self.spool, name)).st_mtime_ns == modified
        except OSError:
            return True

    def _successors(self, name: str) -> "list[str]":
        """What the server may ask for after a segment: the next of its timeline, or of a newer one that begins there."""
        following = wal.neighbour(name, 1, self.segment_size)
        if following is None:
            return []
        newer = wal.timeline(name) + 1
        if self.archive.holds(following) and not self._is_past_fork(following, newer):
            return [following]
        names: list[str] = []
        while self.archive.holds(f"{newer:08X}.history") and len(names) < 100:
            names.append(f"{newer:08X}{following[8:]}")
            newer += 1
        return [name for name in names if self.archive.holds(name)]

    def _is_past_fork(self, name: str, newer: int) -> bool:
        """Whether a newer timeline left this segment's before it ends: a server that follows that one must not have it whole."""
        while self.archive.holds(f"{newer:08X}.history"):
            left = timelines.archived_history(self.archive, newer).get(wal.timeline(name))
            if left is not None and left < (wal.segment_number(name, self.segment_size) + 1) * self.segment_size:
                return True
            newer += 1
        return False

    def _room(self) -> bool:
        """Whether the file system of pg_wal has room to spare: a full one stops the server."""
        try:
            free = osdep.free_bytes(self.spool)
        except OSError:
            return False
        return free - self.segment_size >= min(_ROOM_LEFT, 16 * self.segment_size)

    def _prune(self) -> None:
        """Remove from the archive what lies before the restart point, which moves on while the shell takes hits without us."""
        restart = self.options.restartwalfile
        # Before its redo has begun, a server's pg_control may still be that of the end of a base backup: too late a point.
        if restart is not None and (self.advanced > _REDO_HAS_BEGUN or restart != wal.NO_RESTART_POINT):
            newer = self.asker.restart_segment(self.segment_size)
            if newer is not None and newer[8:] > restart[8:]:
                restart = newer
        # -k counts from what was handed over for certain: a segment that is gone from the spool need not have been taken.
        handed_over = self.position if restart is not None else self.told or self.options.nextwalfile
        oldest = prune.cutoff(handed_over, restart, self.options.keep, self.segment_size)
        if oldest is not None and oldest != self.pruned and not prune.is_paused(self.options.removal_pause):
            self.pruned = oldest
            say.deferred = []
            prune.prune(self.options.archivelocation, oldest)
            if say.deferred:
                self.memory.leave_untold(say.deferred[-_MOST_MESSAGES:])
            self.memory.note_pruned(self.options.archivelocation, oldest)
