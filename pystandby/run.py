"""The order of events of one restore: look, judge, wait, place, after-care. Formats and system calls live elsewhere."""

import os
import time

from pystandby import archive, exits, osdep, say, trigger, wal
from pystandby.asker import PG_REWIND, SERVER, Asker
from pystandby.exits import StandbyError
from pystandby.fetch import (
    ABSENT,
    DELAYED,
    FAILED,
    IN_USE,
    READY,
    SETTLING,
    UNAVAILABLE,
    UNFINISHED,
    UNREADABLE,
    WRONG,
    Fetcher,
    Found,
)
from pystandby.memory import FOLDER, Memory
from pystandby.options import Options
from pystandby.wait import Waiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystandby.timelines import News

_HANGING = "hanging"

_GRACE = 30.0
"""Seconds, SLEEPTIME if that is more, for which a smart trigger still waits for an archive that cannot be read: what is in it was
asked for."""

_BRIEFLY = 1.0
"""Seconds that a file may take to prove that it rests even where nothing is waited for, and to be copied without a word."""

_PASSED_ON = 2.0
"""Seconds that the shell which waits for us has to end us, when SIGUSR1 has come."""

_AT_ONCE = 0.1
"""Seconds of waiting for which no watch is set up: that takes as long."""


_PROMOTION = "a promotion was asked for"


class _Unanswered(Exception):  # noqa: N818 - an answer of its own kind
    """The archive does not answer, and nothing may be waited for."""


class _EndOfRecovery(Exception):  # noqa: N818 - not an error: what was asked for
    """The end of recovery was asked for; it is said and remembered."""


def restore(options: Options) -> int:
    """Restore one file as asked, waiting where that is right, and return the exit status. Raises StandbyError."""
    kind = wal.kind(options.nextwalfile)
    if kind is None:
        raise StandbyError(
            exits.USAGE,
            f'"{options.nextwalfile}" is not the name of a WAL file',
            "NEXTWALFILE is the name of a segment, timeline history or backup history file, without a folder.",
            "In restore_command it is written %f.",
        )
    for what, path in (("archive", options.archivelocation), ("destination", options.xlogfilepath)):
        problem = osdep.path_problem(path)
        if problem:
            raise StandbyError(exits.USAGE, f"{what} {path} {problem}", "Nothing is restored.", "Mend restore_command.")
    return _Restore(options, kind).run()


class _Restore:
    """The course of one restore. Nothing of it outlives the process but what Memory keeps."""

    def __init__(self, options: Options, kind: str) -> None:
        self.options = options
        self.name = options.nextwalfile
        self.asker = Asker(self.name, options.xlogfilepath)
        self.is_segment = kind in (wal.SEGMENT, wal.PARTIAL)
        self.waiter = Waiter()
        self.memory: Memory | None = None
        self.refused: tuple[str, bool] | None = None
        self.known_folder = ""
        if self.asker.kind == SERVER:
            self.memory = Memory(options.xlogfilepath, self.asker.identity)
            self.refused = self.memory.refused()
            self.known_folder = self.memory.archive(options.archivelocation)
        self.fetcher = Fetcher(options, kind, self.asker, self.known_folder)
        self.follows = self.memory.follows() if self.memory is not None and kind == wal.SEGMENT else 0
        past_fork = self.fetcher.know_followed(self.follows)
        # pg_rewind, and a server that looks elsewhere and asks again by itself, must have their answer at once; a server past the
        # end of its recovery too.
        # Nor a server that is past its recovery, and reads its old timeline's history before it opens.
        ended = self.refused is not None or (not self.is_segment and self.asker.has_recovered())
        self.may_wait = not ended and (
            options.wait == "always" or (options.wait == "auto" and self.asker.kind != PG_REWIND and not self.asker.standby_mode)
        )
        self.ended = ended
        # History files are not given up: a server that starts without them stays on an old timeline.
        waits = options.max_wait and self.may_wait and self.is_segment
        self.give_up_at = time.monotonic() + options.max_wait if waits else None
        # Not for what is handed over unverified: a spooled file outlives the moment in which it was looked at.
        self.looks_ahead = (
            options.look_ahead > 0
            and self.memory is not None
            and kind == wal.SEGMENT
            and self.refused is None
            and self.asker.data_directory is not None
            and self.fetcher.verify == "pages"
            and not past_fork
        )
        self.spool = os.path.join(os.path.dirname(options.xlogfilepath), FOLDER)
        self.state = ""
        self.watching = False
        self.failures = 0
        self.being_spooled = False
        self.seconds = 0.0
        self.hanging_since = 0.0
        self.unfinished_since = 0.0
        self.settles_by = 0.0
        self.signalled = False
        self.warned: set[str] = set()

    def run(self) -> int:
        """The order of events, and a line of what went wrong for whoever looks later."""
        try:
            return self._run()
        except StandbyError as failure:
            # An orphan must not touch the data directory.
            if failure.status not in (exits.SERVER_GONE, exits.SERVER_STOPPING):
                self._note("error", str(failure.status), failure.message)
            raise

    def _run(self) -> int:
        """The order of events."""
        osdep.on_user_signal(self._on_signal)
        self._debug_settings()
        self._disown_spool()
        if self._is_refused():
            say.debug("recovery has ended before this segment for this server process")
            return exits.END_OF_RECOVERY
        try:
            while True:
                smart = self._asked_to_end()
                rests = self._rests()
                self.fetcher.takes_unfinished = (bool(smart) and self.may_wait) or rests
                self.fetcher.takes_young = bool(smart) or self.ended or self.fetcher.takes_young
                self.fetcher.takes_at_once = (bool(smart) and self._was_handed_over()) or rests
                self.fetcher.takes_again = self.ended
                found = self._look()
                self.seconds = found.seconds
                status = self._act(found, smart)
                if status is not None:
                    return status
                if self.give_up_at is not None and time.monotonic() >= self.give_up_at:
                    raise self._end(self._given_up())
                # What asks for the end of recovery may have come since, and before the watch stood that would have told.
                if not self._asked_to_end() or smart:
                    self._pause()
        except _EndOfRecovery:
            return exits.END_OF_RECOVERY
        except _Unanswered:
            silent = f'archive "{self.options.archivelocation}" does not answer'
            return self._unknown(Found(UNAVAILABLE, 0, silent), "") or exits.NOT_IN_ARCHIVE

    def _is_refused(self) -> bool:
        """Whether recovery has ended, for the server process that asks, before this segment.

        One of an older timeline than that which was not there may be: the server asks for it next, and only a fast end leaves it.
        """
        if self.refused is None or not self.is_segment:
            return False
        name, fast = self.refused
        return self.name[8:] >= name[8:] and (fast or self.name[:8] >= name[:8])

    # What asks for the end of recovery

    def _on_signal(self) -> None:
        self.signalled = True
        self.waiter.wake()

    def _asked_to_end(self) -> str:
        """Why recovery should end once the archive is exhausted (a smart trigger); empty if nothing asks. A fast one raises."""
        if self.refused is not None or self.asker.kind == PG_REWIND:
            return ""
        smart = ""
        if self.signalled:
            smart = "SIGUSR1 (fast failover)"
            if self.is_segment:
                if osdep.pass_user_signal_on():
                    # To be ended: who signals both of us would else be told of the end of recovery twice.
                    time.sleep(_PASSED_ON)
                raise self._end(smart)
        path = self.options.trigger
        if path is not None:
            found = trigger.look(path, self.options.trust_trigger)
            if found.problem:
                self._object(f'trigger file "{path}" is ignored: it {found.problem}', found.hint)
            elif found.word and self._is_left_over(found):
                self._object(
                    f'trigger file "{path}" is ignored: it was there before this server was made a standby',
                    'If it is meant for this server, "touch" it; else remove it. recovery_end_command can do that in future.',
                )
            elif found.word and self.asker.standby_mode and not self.options.promote:
                self._object(
                    f'trigger file "{path}" does nothing: the server is in standby mode',
                    'Use --promote in restore_command to have it obeyed, or "pg_ctl promote".',
                )
            elif found.word == trigger.FAST:
                # History files are restored whatever the trigger says: the server needs them to choose its new timeline.
                if self.is_segment:
                    raise self._end(f'trigger file "{path}" says fast', found)
                smart = f'trigger file "{path}" says fast'
            elif found.word == trigger.SMART:
                smart = f'trigger file "{path}" says smart'
        # In standby mode the server sees to it itself, once we let it.
        if not smart and (self.may_wait or not self.asker.standby_mode) and self.asker.promote_requested():
            smart = "the server was asked to promote"
        return smart

    def _is_left_over(self, found: "trigger.Trigger") -> bool:
        """Whether a trigger file is an earlier failover's: older than recovery.signal and the like, which made this a standby."""
        return found.is_left_over(self.asker.told_at() if self.asker.kind == SERVER else None)

    def _given_up(self) -> str:
        return f"it has not come within {self.options.max_wait} s (MAXWAITTIME)"

    def _object(self, message: str, hint: str) -> None:
        """Warn of a trigger file that is not obeyed."""
        self._warn_once(message, "Recovery goes on as if it were not there.", hint)

    def _end(self, why: str, fast: "trigger.Trigger | None" = None) -> _EndOfRecovery:
        """Do what the end of recovery takes, and return what to raise. Raises StandbyError if the server has gone."""
        # An orphan must not use up a trigger file that is meant for the next server.
        self.asker.alive()
        if not self.is_segment:
            return _EndOfRecovery()
        remembered = True
        self._note_timeline()
        if not self.asker.standby_mode:
            say.log(f"recovery ends before segment {self.name}: {why}")
            remembered = self.memory is None or self.memory.refuse(self.name, fast is not None or self.signalled)
            self._note("end", self.name, why)
            self._end_look_ahead()
        elif self.memory is not None and self.memory.was_told(_PROMOTION):
            # Before it opens it asks once more, for the last segment that it has replayed.
            return _EndOfRecovery()
        elif self.options.promote and not self.signalled and not self.asker.promote_requested():
            from pystandby import failover

            say.log(f"the server is promoted before segment {self.name}: {why}")
            problem = failover.promote()
            if problem:
                say.warning(
                    f"could not promote the server: {problem}",
                    "It is tried again when the server asks for a segment next.",
                    'To do it by hand, use "pg_ctl promote" or SELECT pg_promote().',
                )
                return _EndOfRecovery()
            if self.memory is not None:
                self.memory.say_once(_PROMOTION)
            # A smart trigger is not remembered: segments that arrive before the server has seen the request are still welcome.
            remembered = fast is None or self.memory is None or self.memory.refuse(self.name, True)
            self._end_look_ahead()
        else:
            say.log(f"segment {self.name} is not waited for any more: {why}")
        if not remembered:
            say.warning(
                "could not write down that recovery ends here",
                "PostgreSQL 15 and later ask a second time, and that call will wait, or restore, once more.",
                "See whether pg_wal has room and belongs to the server's user.",
            )
        elif fast is not None and self.options.trigger and not trigger.empty(self.options.trigger, fast):
            say.log(
                f'trigger file "{self.options.trigger}" could not be emptied',
                "This server does not need it any more, but one started with it would end recovery at once.",
                "Remove it in recovery_end_command, or by hand.",
            )
        return _EndOfRecovery()

    def _end_look_ahead(self) -> None:
        """See to it that nothing after the end of recovery can be taken out of the spool any more."""
        if self.looks_ahead and os.path.exists(os.path.join(self.spool, "lock")):
            from pystandby import spool

            spool.end(self.spool)

    # What becomes of what was found

    def _look(self) -> Found:
        """Look at the archive, for as long as the server is there and nothing asks for the end of recovery at once."""
        try:
            return self.waiter.patiently(self._fetch, self.options.sleep, self._meanwhile, self._prepare)
        except BaseException:
            self.fetcher.abandon()
            raise

    def _prepare(self) -> None:
        """Import what is needed after a copy while the kernel makes it: half a millisecond, on another processor."""
        if self.is_segment and self.fetcher.verify == "pages":
            import mmap  # noqa: F401
        if self.is_segment and (self.options.restartwalfile is not None or self.options.keep):
            from pystandby import prune, spool  # noqa: F401
        if self.is_segment and self.memory is not None:
            try:
                from pystandby import journal  # noqa: F401
            except ImportError:
                # As in _note(), which says it.
                pass

    def _fetch(self) -> Found:
        self.waiter.arm()
        return self._spooled() or self.fetcher.fetch()

    def _disown_spool(self) -> None:
        """See to it that nothing is taken, nor by a shell before us, out of a spool that an earlier run of the server left."""
        if self.memory is not None and os.path.exists(os.path.join(self.spool, "lock")):
            from pystandby import spool

            spool.empty_foreign(self.spool, self.asker.identity())

    def _spooled(self) -> "Found | None":
        """The segment out of the spool; one look at the disk where it is not there."""
        if not self.looks_ahead or not os.path.exists(os.path.join(self.spool, "lock")):
            return None
        from pystandby import spool

        taken = spool.take(self.spool, self.name, self.fetcher.archive)
        if taken is None:
            return None
        found = Found(READY, 0)
        found.copy = taken
        found.spooled = True
        found.modified = taken.modified
        found.segment_size = taken.size
        return found

    def _act(self, found: Found, smart: str) -> "int | None":
        """The exit status that follows from a look at the archive; None where it has to be looked at again."""
        self._tell(found)
        if found.state == READY:
            return self._deliver(found, smart)
        if found.state == WRONG:
            raise StandbyError(exits.WRONG_SEGMENT, found.message, found.detail, found.hint)
        if found.state == FAILED:
            return self._failed(found)
        self.failures = 0
        if found.state == SETTLING:
            return None if self.may_wait or self._may_settle(found.seconds) else self._not_whole(found, smart)
        if found.state == DELAYED:
            if self.give_up_at is not None:
                # It has come: MAXWAITTIME is for what has not.
                self.give_up_at = time.monotonic() + found.seconds + self.options.max_wait
            return None if self.may_wait else self._not_there(smart)
        if found.state in (UNAVAILABLE, UNREADABLE, IN_USE):
            return self._unknown(found, smart)
        if found.state == UNFINISHED and smart and self.may_wait:
            return self._smart_at_unfinished(found, smart)
        if found.state == UNFINISHED and not self.may_wait:
            return self._not_whole(found, smart)
        if found.is_impossible:
            self._note_timeline()
            say.debug(f"{self.name} would lie before the beginning of its timeline")
            return exits.NOT_IN_ARCHIVE
        if not self.is_segment or not self.may_wait:
            return self._not_there(smart)
        if smart:
            raise self._end(f"{smart}, and the archive holds no more")
        if found.news is not None:
            self._tell_news(found.news)
        return None

    def _tell_news(self, news: "News") -> None:
        """Say once what timelines mean for the segment waited for, or raise the StandbyError that has the server restarted."""
        from pystandby import timelines

        if news.kind == timelines.HOPELESS:
            raise StandbyError(exits.NEW_TIMELINE, news.message, news.detail, news.hint)
        if news.kind == timelines.RESTART and self.options.on_new_timeline == "stop":
            if self.memory is None or self.memory.stop_once(news.key):
                raise StandbyError(exits.NEW_TIMELINE, news.message, news.detail, news.hint)
            news = news.in_vain()
        if news.key in self.warned:
            return
        self.warned.add(news.key)
        if self.memory is None or self.memory.say_once(news.key):
            (say.log if news.kind == timelines.TELL else say.warning)(news.message, news.detail, news.hint)

    def _note_timeline(self) -> None:
        """Remember that the server has asked for this timeline's segment before it asks for an older one's."""
        if self.memory is not None and self.is_segment and wal.timeline(self.name) > max(self.follows, 1):
            self.memory.note_follows(wal.timeline(self.name))
            if os.path.isdir(self.spool):
                from pystandby import spool

                spool.withdraw_older(self.spool, self.name)

    def _not_there(self, smart: str) -> int:
        say.debug(f"{self.name} is not in the archive")
        self._note_timeline()
        if smart and self.is_segment and self.asker.standby_mode:
            self._end(smart)
        return exits.NOT_IN_ARCHIVE

    def _not_whole(self, found: Found, smart: str) -> int:
        """The file is there, not whole yet, and not waited for: absent only to a server that asks again, or is done."""
        if self.asker.standby_mode and self.is_segment and not self.ended:
            return self._unfinished_in_standby_mode(found, smart)
        if self.ended:
            return self._not_there(smart)
        raise StandbyError(
            exits.ARCHIVE_UNAVAILABLE,
            found.message or f"{self.name} in the archive has not come to rest yet",
            "It is there, and not whole, and nothing is waited for.",
            "Try again later, or use --wait always.",
        )

    def _unfinished_in_standby_mode(self, found: Found, smart: str) -> int:
        """A server in standby mode replays what is in an unfinished segment, and asks again; nothing ends there by itself.

        So the last segment of a crashed primary, copied by hand, is handed over once it rests, as it may be promoted at any time
        without asking us. Not one before others that are there: it is damaged, or will be whole soon.
        """
        if found.copy is not None and found.is_last and self.memory is not None:
            if smart and self.options.promote and self._was_handed_over() and not self.memory.was_told(_PROMOTION):
                # All that is in it is replayed. The server asks for it once more before it opens.
                found.copy.discard()
                self._end(f"{smart}, and the archive holds no more")
                return exits.END_OF_RECOVERY
            if self.memory.say_once(self._handed_over()):
                say.log(
                    found.message,
                    "It does not change any more, and is restored as it is: in standby mode the server replays what is in it, "
                    "and asks for it again.",
                    "Put a whole copy in its place, if there is one.",
                )
            status = self._deliver(found, smart)
            return exits.NOT_IN_ARCHIVE if status is None else status
        if found.copy is not None:
            found.copy.discard()
        if smart and not found.is_last:
            self._warn_once(*_asked_for(found))
            return self._not_there("")
        if self.memory is not None and not self.fetcher.takes_unfinished:
            # Known to rest from the next look on, at the earliest: a promotion waits for what a copy under way may still bring.
            self.memory.rests(self.name, self.fetcher.appearance())
            smart = ""
        return self._not_there(smart)

    def _rests(self) -> bool:
        """Whether an unfinished segment has not changed for SLEEPTIME, over several calls of a server in standby mode."""
        if not self.asker.standby_mode or self.may_wait or self.memory is None or not self.is_segment:
            return False
        resting = self.memory.resting()
        if resting is None or resting[:2] != (self.name, self.fetcher.appearance()):
            return False
        self.fetcher.recall(resting[1], resting[2])
        return resting[2] >= self.options.sleep

    def _may_settle(self, seconds: float) -> bool:
        """Whether a file may take so many seconds to prove that it rests where nothing is waited for.

        Each call of a server in standby mode finds what the one before has seen of it; pg_rewind and a person do not ask again.
        """
        self.settles_by = self.settles_by or time.monotonic() + seconds + _BRIEFLY
        asks_again = self.asker.standby_mode and self.memory is not None
        return seconds <= _BRIEFLY or (not asks_again and time.monotonic() + seconds <= self.settles_by)

    def _unknown(self, found: Found, smart: str) -> "int | None":
        """The archive, or the file, cannot be read: unknown is not absent."""
        if self.may_wait and not smart:
            return None
        if self.ended:
            say.warning(f"{found.message}, so {self.name} is taken to be absent: recovery has ended")
            return exits.END_OF_RECOVERY
        if smart and self.may_wait and found.state != UNAVAILABLE:
            self._warn_once(
                f"{found.message}, and the end of recovery is asked for",
                "What is there was asked for as well, so it is waited for.",
                'Mend it, or write "fast" to the trigger file to end recovery without it.',
            )
            return None
        if smart:
            if self.may_wait and found.rested < max(_GRACE, self.options.sleep):
                self.seconds = 1
                return None
            say.warning(
                f"{found.message}, and the end of recovery is asked for",
                f"What the archive holds from {self.name} on is not replayed.",
            )
            raise self._end(smart)
        if self.asker.standby_mode and self.options.wait == "auto":
            return self._not_there(smart)
        raise StandbyError(exits.ARCHIVE_UNAVAILABLE, found.message, "Whether it holds the file is not known.", found.hint)

    def _smart_at_unfinished(self, found: Found, smart: str) -> "int | None":
        """The last segment of a crashed primary ends where the crash left it: replaying what is in it is what was asked for."""
        if found.rested < self.options.sleep and not self._was_handed_over():
            # Perhaps a copy under way, whose tail would be lost.
            return None
        if not found.is_last:
            self._warn_once(*_asked_for(found))
            return None
        if found.copy is None:
            say.warning(f"{found.message}", "The end of recovery is asked for, and it does not grow any more.")
            raise self._end(smart)
        say.warning(
            f"{found.message}",
            "The end of recovery is asked for, and it does not change any more: it is restored as it is, and the server "
            "replays what is in it.",
        )
        if self.memory is not None:
            # The server will ask for it once more before it opens.
            self.memory.say_once(self._handed_over())
        return self._deliver(found, smart)

    def _handed_over(self) -> str:
        return f"{self.name} is unfinished"

    def _was_handed_over(self) -> bool:
        return self.memory is not None and self.memory.was_told(self._handed_over())

    def _deliver(self, found: Found, smart: str) -> "int | None":
        assert found.copy is not None
        try:
            self.asker.alive()
        except StandbyError:
            found.copy.discard()
            raise
        try:
            found.copy.publish(self.options.xlogfilepath)
        except OSError as failure:
            if found.spooled:
                # The spool may be on another file system: then it is of no use, and nothing depends on it.
                self.looks_ahead = False
                self.seconds = 0
                return None
            return self._failed(self.fetcher.destination_failure(failure))
        if found.cut:
            self._say_once_log(found.cut)
        say.debug(f"{self.name} restored{', before the end of recovery' if smart else ''}")
        try:
            self._care_after(found)
        except Exception as failure:
            # The file is there: nothing that comes after it may make the server think otherwise, or stop it.
            say.warning(f"after {self.name} was restored: {type(failure).__name__}: {failure}", "The restore is not affected.")
        return exits.DELIVERED

    def _care_after(self, found: Found) -> None:
        """What is done once the file is where the server wants it: nothing that it would have to wait for long."""
        if self.is_segment:
            kind = "spool" if found.spooled else "archive"
            # An unfinished one is handed over again and again.
            self._note(kind, self.name, str(found.modified // 1_000_000 / 1000), once=found.state == UNFINISHED)
        if self.memory is not None and found.folder and found.folder != self.known_folder:
            self.memory.note_archive(self.options.archivelocation, found.folder)
        if self.memory is not None and (self.options.restartwalfile is not None or self.options.keep):
            say.again(self.memory.untold())
        if self.looks_ahead or self.options.restartwalfile is not None or self.options.keep:
            child = self.waiter.patiently(lambda: self._see_to_archive(found), self.options.sleep, self._hurry)
            if child:
                # That of an earlier run: the executable's shell sees only that there is one.
                assert self.memory is not None
                self.memory.forget_refusal()
                size = found.segment_size
                osdep.start_helper(lambda: self._look_ahead(size), lambda: self._look_ahead_elsewhere(size))

    def _look_ahead(self, segment_size: int) -> None:
        from pystandby import ahead

        ahead.run(self.options, self.asker, segment_size)

    def _look_ahead_elsewhere(self, segment_size: int) -> "tuple[str, dict[str, str]]":
        from pystandby import ahead

        return ahead.elsewhere(self.options, self.asker, segment_size)

    def _hurry(self, long: bool) -> None:
        if long:
            raise TimeoutError(f'archive "{self.options.archivelocation}" does not answer')

    def _see_to_archive(self, found: Found) -> bool:
        """Whether a child is to be started that looks ahead and removes what is no longer needed; without one, remove it here."""
        following = wal.neighbour(self.name, 1, found.segment_size) if self.looks_ahead else None
        oldest = self._oldest_kept(found)
        if self.looks_ahead and (oldest is not None or (following is not None and self.fetcher.archive.holds_alike(following))):
            from pystandby import spool

            # The server waits for us, and would wait for a listing of a hundred thousand files.
            alone = spool.note_position(self.spool, self.name)
            if alone is not None:
                return alone
        if oldest is not None:
            from pystandby import prune

            prune.prune(self.options.archivelocation, oldest)
            if self.memory is not None:
                self.memory.note_pruned(self.options.archivelocation, oldest)
        return False

    def _oldest_kept(self, found: Found) -> "str | None":
        """The oldest segment that a restart may need; None where nothing is to be removed, or that has been done."""
        options = self.options
        if not self.is_segment or (options.restartwalfile is None and not options.keep) or self.asker.kind == PG_REWIND:
            return None
        from pystandby import prune

        oldest = prune.cutoff(self.name, options.restartwalfile, options.keep, found.segment_size)
        if oldest is not None and self.memory is not None and self.memory.pruned(options.archivelocation) == oldest:
            return None
        return None if oldest is None or prune.is_paused(options.removal_pause) else oldest

    def _failed(self, found: Found) -> "int | None":
        """A copy failed: try again after 1, 2, 3... times SLEEPTIME, MAXRETRIES times."""
        self.failures += 1
        attempts = self.options.retries + 1
        if self.failures < attempts:
            self.seconds = self.failures * self.options.sleep
            say.warning(
                found.message,
                f"Try {self.failures} of {attempts}; the next in {self.seconds:.0f} seconds.",
                found.hint,
            )
            return None
        if self.options.on_failure == "end-recovery":
            say.warning(found.message, f"Try {self.failures} of {attempts}, the last.", found.hint)
            raise self._end("all copies failed, and --on-failure end-recovery was given")
        raise StandbyError(
            found.status,
            found.message,
            f"Try {self.failures} of {attempts}, the last. The server stops here and loses nothing.",
            found.hint or "Mend the cause, then start the server.",
        )

    # Waiting

    def _meanwhile(self, long: bool) -> None:
        """Something stirs during the look, or it is taking long: a large copy, or an archive that does not answer."""
        self.asker.alive()
        smart = self._asked_to_end()
        if not long or self.fetcher.progress() or self._is_being_spooled():
            return
        if self.state != _HANGING and self.may_wait:
            self.state = _HANGING
            self.hanging_since = time.monotonic()
            self._note("wait", self.name, _HANGING)
            say.warning(
                f'archive "{self.options.archivelocation}" does not answer',
                self._waits_for(),
                "See to the file system it is on.",
            )
        late = self.give_up_at is not None and time.monotonic() >= self.give_up_at
        if not self.may_wait:
            raise _Unanswered
        if late or (smart and time.monotonic() - self.hanging_since >= max(_GRACE, self.options.sleep)):
            raise self._end(smart or self._given_up())

    def _is_being_spooled(self) -> bool:
        """Whether the look waits for the child, which copies or judges this very segment: spool.take() does not wait for ever."""
        before = self.being_spooled
        self.being_spooled = self.looks_ahead and os.path.exists(os.path.join(self.spool, f"{self.name}.pystandby"))
        # It may have been finished just before this is asked, and not be taken yet.
        return before or self.being_spooled

    def _pause(self) -> None:
        """Wait until the next look is due, or something arrives."""
        if not self.watching and self.options.watch and self.seconds > _AT_ONCE:
            self._watch()
            if not self.failures:
                # Look once more before waiting: what came between the last look and the watch wakes nobody.
                return
            self.waiter.patiently(self.waiter.arm, self.options.sleep, self._meanwhile)
        until = time.monotonic() + self.seconds
        if self.give_up_at is not None:
            until = min(until, self.give_up_at)
        while True:
            woken = self.waiter.wait(min(until - time.monotonic(), self.options.sleep, osdep.HEARTBEAT))
            self.asker.alive()
            if (woken and not self.failures) or time.monotonic() >= until:
                return
            # Between two tries of a copy that failed, only what asks for the end at once counts: it raises.
            if self._asked_to_end() and not self.failures:
                return

    def _watch(self) -> None:
        self.watching = True
        folders = {self.options.archivelocation: None}
        names = {form for name in (self.name, *self.fetcher.telling_names()) for form in archive.names(name)}
        if self.options.trigger is not None:
            folders[os.path.dirname(self.options.trigger) or "."] = None
            names.add(os.path.basename(self.options.trigger))
        if self.asker.kind == SERVER:
            folders["."] = None
            names.update(("promote", "postmaster.pid"))
        self.waiter.watch(list(folders), frozenset(names))

    # What is said

    def _waits_for(self) -> str:
        """What an archive, or a file, that cannot be read means for recovery."""
        if not self.may_wait:
            return "The server looks elsewhere, and asks again."
        if self.give_up_at is not None:
            return f"Recovery waits for it, {self.options.max_wait} seconds at most (-w)."
        return "Recovery waits for it; nothing is taken for the end of WAL."

    def _tell(self, found: Found) -> None:
        """Say what has changed since the last look, once; in standby mode, where each look is a process, since the last one."""
        if found.state == SETTLING:
            return
        if found.state not in (UNFINISHED, IN_USE):
            self.unfinished_since = 0.0
        elif self.may_wait:
            # What cp is in the middle of is nothing to talk about.
            self.unfinished_since = self.unfinished_since or time.monotonic()
            left = self.unfinished_since + _BRIEFLY - time.monotonic()
            if left > 0:
                self.seconds = min(self.seconds, left)
                return
        before, self.state = self.state, found.state
        if found.state == before:
            return
        if found.state not in (READY, WRONG) and not found.is_impossible and not self.ended:
            self._note("wait", self.name, found.state, once=True)
        outage = f"outage of {self.options.archivelocation}"
        if found.state == UNAVAILABLE:
            if self.may_wait or (self.asker.standby_mode and self.memory is not None and self.memory.say_once(outage)):
                say.warning(found.message, self._waits_for(), found.hint if self.may_wait else "Mount it or mend it.")
        elif before in (UNAVAILABLE, _HANGING) or (
            self.asker.standby_mode and self.memory is not None and self.memory.unsay(outage)
        ):
            say.log(f'archive "{self.options.archivelocation}" can be read again')
        if before == UNREADABLE and found.state != UNAVAILABLE:
            say.log(f"{self.name} in the archive can be read")
        elif before == IN_USE and found.state != UNAVAILABLE:
            say.log(f"{self.name} in the archive is not held open by another program any more")
        elif before == UNFINISHED and found.state == READY:
            say.log(f"{self.name} in the archive is whole")
        if found.state == UNREADABLE and (self.may_wait or self.asker.standby_mode):
            self._warn_once(found.message, self._waits_for(), found.hint)
        elif found.state == UNFINISHED and self.may_wait:
            say.log(found.message, found.detail, found.hint)
        elif found.state == IN_USE and self.may_wait:
            say.log(found.message, f"It may still be being written. {self._waits_for()}")
        elif found.state == DELAYED:
            say.debug(f"{self.name} is held back for {found.seconds:.0f} seconds (--delay)")
            if found.message:
                self._warn_once(found.message, found.detail, found.hint)
        elif found.state == ABSENT and self.may_wait and self.is_segment:
            say.debug(f"waiting for {self.name}")

    def _note(self, kind: str, subject: str, detail: str, once: bool = False) -> None:
        """Leave a line, of a kind that journal.py names, in the journal of the server that asks; no other has one."""
        if self.memory is not None and self.is_segment and self.asker.data_directory is not None:
            try:
                from pystandby import journal

                (journal.note_once if once else journal.note)(self.spool, kind, subject, detail)
            except Exception as failure:
                # In the middle of an upgrade there may be no such module, and what has been restored is restored.
                say.debug(f"nothing is written into the journal: {failure!r}")

    def _warn_once(self, message: str, detail: str, hint: str) -> None:
        """Warn once for the server process, not once for each call."""
        if message not in self.warned:
            self.warned.add(message)
            if self.memory is None or self.memory.say_once(message):
                say.warning(message, detail, hint)

    def _say_once_log(self, message: str) -> None:
        """Say once for the server process what is no reason to worry."""
        if self.memory is None or self.memory.say_once(message):
            say.log(message)

    def _debug_settings(self) -> None:
        if not say.debugging:
            return
        options = self.options
        wait = f"at most {options.max_wait} seconds" if options.max_wait else "for ever"
        say.debug(
            f'archive "{options.archivelocation}", file {self.name}, destination "{options.xlogfilepath}", '
            f"restart segment {options.restartwalfile}, kept {options.keep}"
        )
        say.debug(
            f"asked by {self.asker.kind}{', standby mode' if self.asker.standby_mode else ''}, trigger file {options.trigger}, "
            f"waits {wait if self.may_wait and self.is_segment else 'not at all'}, looks every {options.sleep} seconds, "
            f"{options.retries} retries, verify {self.fetcher.verify}"
        )


def _asked_for(found: Found) -> "tuple[str, str, str]":
    """What to say of an unfinished segment before others when the end of recovery is asked for."""
    return (
        f"{found.message}, and the end of recovery is asked for",
        "Later segments are there, which were asked for as well, so it is waited for.",
        'Put a whole copy in its place, or write "fast" to the trigger file to end recovery before it.',
    )
