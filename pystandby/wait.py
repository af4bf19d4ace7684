"""Waiting: until something stirs, or the next look is due; and for a look that does not come back. Knows nothing of archives.

Looking goes on beside watching: a network file system tells nobody what another machine wrote there.
"""

import _thread
import time

from pystandby import osdep, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pystandby import inotify, watch

    T = TypeVar("T")


class Waiter:
    """One process's waiting. wake() may be called from a signal handler or another thread."""

    __slots__ = ("_alarm", "_stirred", "_watch")

    def __init__(self) -> None:
        # A lock that is held until somebody wakes us: threading.Event without the import of threading.
        self._alarm = _thread.allocate_lock()
        self._alarm.acquire()
        self._stirred = False
        self._watch: inotify.Watch | watch.Watch | None = None

    def wake(self) -> None:
        """End the wait under way, or the next one."""
        self._stirred = True
        self._ring()

    def _ring(self) -> None:
        try:
            self._alarm.release()
        except RuntimeError:
            # It rings already.
            pass

    def wait(self, seconds: float) -> bool:
        """Wait until woken or for so many seconds; whether woken."""
        until = time.monotonic() + seconds
        # The end of a look rings too, and may do so late: not a reason to wake up.
        while not self._stirred and self._alarm.acquire(timeout=max(until - time.monotonic(), 0.0)):
            pass
        woken, self._stirred = self._stirred, False
        return woken

    def patiently(
        self,
        work: "Callable[[], T]",
        interval: float,
        meanwhile: "Callable[[bool], None]",
        beside: "Callable[[], None] | None" = None,
    ) -> "T":
        """Do ``work`` in a thread and return what it returns, calling ``meanwhile`` when something stirs before.

        That is given True at the end of every ``interval`` seconds. A stat() on a dead NFS server comes back in hours or never;
        trigger file and shutdown must work all the same. ``beside`` is done once meanwhile, as what takes no time of its own.
        Raises what ``work`` raises, and what the others do, which leaves the thread to its fate. ``meanwhile`` is called with
        False as well where the shutdown of the server has to be looked for (osdep.HEARTBEAT).
        """
        result: list[T] = []
        failure: list[BaseException] = []

        def worker() -> None:
            try:
                result.append(work())
            except BaseException as error:
                failure.append(error)
            self._ring()

        # What stirred before this look is found by it; what stirs from here on may be too late for it, and ends the next wait.
        self._stirred = False
        try:
            with osdep.UserSignalHeld():
                _thread.start_new_thread(worker, ())
        except RuntimeError:
            # No thread to be had: then without the patience.
            return work()
        due = time.monotonic() + interval
        if beside is not None:
            beside()
        while not result and not failure:
            self._alarm.acquire(timeout=min(max(due - time.monotonic(), 0.0), osdep.HEARTBEAT))
            if not result and not failure:
                late = time.monotonic() >= due
                if late:
                    due += interval
                meanwhile(late)
        if failure:
            raise failure[0]
        return result[0]

    def watch(self, folders: "list[str]", names: "frozenset[str]") -> None:
        """Be woken when one of these names stirs in one of these folders. Where that is impossible, say so and do without."""
        try:
            try:
                from pystandby.inotify import Watch
            except (ImportError, OSError, AttributeError, TypeError):
                # Not Linux, or a C library without it.
                osdep.find_packages()
                from pystandby.watch import Watch  # type: ignore[assignment]

            with osdep.UserSignalHeld():
                self._watch = Watch(folders, names, self.wake)
        except Exception as failure:
            self._unwatchable(failure)

    def arm(self) -> None:
        """See to it that the folders are watched, where they have been replaced too; to be called before each look."""
        if self._watch is not None:
            failure = self._watch.arm()
            if failure is not None:
                self._watch.close()
                self._watch = None
                self._unwatchable(failure)

    @staticmethod
    def _unwatchable(failure: Exception) -> None:
        say.warning(
            f"could not watch for what arrives: {str(failure) or type(failure).__name__}",
            "Segments and the trigger file are found all the same, at the next look, every SLEEPTIME seconds.",
            "To do without watching and without this warning, use --poll.",
        )
