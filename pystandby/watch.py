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

from pystandby.folders import Folders

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
        self._handler = _Handler(names, wake)
        self._observer = Observer()
        self._folders = Folders(folders, self._add, self._remove)
        self._observer.start()

    def arm(self) -> "Exception | None":
        """See to it that all folders that are there are watched, before each look; why one cannot be, if so."""
        return self._folders.arm()

    def close(self) -> None:
        """Stop watching, without waiting for the threads."""
        self._observer.stop()

    def _add(self, folder: str) -> ObservedWatch:
        return self._observer.schedule(self._handler, folder)

    def _remove(self, watch: object) -> None:
        assert isinstance(watch, ObservedWatch)
        try:
            self._observer.unschedule(watch)
        except KeyError:
            # Its folder went away, and the watch with it.
            pass
