"""Being woken when something arrives, where inotify.py cannot: the adaptor to watchdog. Judges nothing, and replaces no look.

Where the operating system cannot watch (a network file system, no inotify left, a folder that is not there), looking every
SLEEPTIME goes on and finds everything, later.
"""

import os

from watchdog.events import (
    EVENT_TYPE_CLOSED,
    EVENT_TYPE_CREATED,
    EVENT_TYPE_DELETED,
    EVENT_TYPE_MODIFIED,
    EVENT_TYPE_MOVED,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# "attrib", a file made readable, was "modified" up to watchdog 6, which has no name for it.
_ARRIVALS = (EVENT_TYPE_CREATED, EVENT_TYPE_MOVED, EVENT_TYPE_CLOSED, EVENT_TYPE_MODIFIED, EVENT_TYPE_DELETED, "attrib")


class _Handler(FileSystemEventHandler):
    """Passes on events of the names waited for only: a log in a watched folder would wake us for each line of our own."""

    def __init__(self, names: "frozenset[str]", wake: "Callable[[], None]") -> None:
        self._names = names
        self._wake = wake

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.event_type not in _ARRIVALS:
            return
        for path in (event.src_path, event.dest_path):
            if path and os.path.basename(os.fsdecode(path)) in self._names:
                self._wake()
                return


class Watch:
    """Watches folders, not what is below them, for names; calls ``wake``, from a thread of its own, when one of them stirs."""

    def __init__(self, folders: "list[str]", names: "frozenset[str]", wake: "Callable[[], None]") -> None:
        self._folders = folders
        self._handler = _Handler(names, wake)
        self._observer = Observer()
        self._watched: dict[str, tuple[ObservedWatch, tuple[int, int]]] = {}
        self._observer.start()

    def arm(self) -> "Exception | None":
        """Watch every folder that is there and not watched yet, or another one by now; why one cannot be, if so.

        To be called before each look: what arrives before the watch stands is found by that look.
        """
        failed: Exception | None = None
        for folder in self._folders:
            try:
                status = os.stat(folder)
                identity = (status.st_dev, status.st_ino)
            except OSError:
                identity = None
            watched = self._watched.get(folder)
            if watched and watched[1] == identity:
                continue
            try:
                if watched:
                    del self._watched[folder]
                    self._observer.unschedule(watched[0])
                if identity is not None:
                    self._watched[folder] = (self._observer.schedule(self._handler, folder), identity)
            except KeyError:
                pass
            except Exception as failure:
                # OSError: no inotify left; RuntimeError, MemoryError: no thread.
                failed = failure
        return failed

    def close(self) -> None:
        """Stop watching, without waiting for the threads."""
        self._observer.stop()
