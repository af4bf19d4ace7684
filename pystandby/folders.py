"""Which folders are watched, and whether each is still the one at its path: what inotify.py and watch.py have in common."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Folders:
    """Folders that come, go and are replaced, each watched while it is there. ``watch`` and ``unwatch`` do it, and raise."""

    def __init__(self, folders: "list[str]", watch: "Callable[[str], object]", unwatch: "Callable[[object], None]") -> None:
        self._folders = folders
        self._watch = watch
        self._unwatch = unwatch
        self._watched: dict[str, tuple[object, tuple[int, int]]] = {}

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
                    self._unwatch(watched[0])
                if identity is not None:
                    self._watched[folder] = (self._watch(folder), identity)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                # Away, or not to be read: no news beside what a look at it says.
                pass
            except Exception as failure:
                # OSError: no inotify left; RuntimeError, MemoryError: no thread.
                failed = failure
        return failed

    def forget(self) -> None:
        """Watch none of them any more."""
        for watch, _ in self._watched.values():
            self._unwatch(watch)
        self._watched.clear()
