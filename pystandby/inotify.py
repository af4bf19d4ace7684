"""Being woken when something arrives, by Linux' own inotify(7): what watch.py does elsewhere by watchdog.

Importing watchdog takes four times a start of Python, which a standby that has caught up would pay for each segment. ctypes,
which calls the C library here, takes a quarter of one.
"""

import _thread
import ctypes
import errno
import os
import struct

from pystandby import osdep
from pystandby.folders import Folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MODIFY = 0x2
_ATTRIB = 0x4
_CLOSE_WRITE = 0x8
_MOVED_FROM = 0x40
_MOVED_TO = 0x80
_CREATE = 0x100
_DELETE = 0x200
_DELETE_SELF = 0x400
_MOVE_SELF = 0x800
_ONLY_DIRECTORY = 0x01000000

_STIRS = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF

_HEADER = struct.Struct("iIII")
"""struct inotify_event before the name: watch, mask, cookie, length of the name, NULs included."""

# Other systems have none of these: AttributeError or TypeError then, and watch.py is used.
_LIBC = ctypes.CDLL(None, use_errno=True)
_INIT, _ADD, _REMOVE = _LIBC.inotify_init1, _LIBC.inotify_add_watch, _LIBC.inotify_rm_watch


class Watch:
    """Watches folders, not what is below them, for names; calls ``wake``, from a thread of its own, when one of them stirs."""

    def __init__(self, folders: "list[str]", names: "frozenset[str]", wake: "Callable[[], None]") -> None:
        """Raises OSError where inotify has no instance left, RuntimeError where there is no thread."""
        self._names = frozenset(os.fsencode(name) for name in names)
        self._wake = wake
        self._folders = Folders(folders, self._add, self._remove)
        self._descriptor = _INIT(osdep.O_CLOEXEC)
        if self._descriptor < 0:
            raise _failure("inotify_init1")
        try:
            _thread.start_new_thread(self._listen, ())
        except RuntimeError:
            os.close(self._descriptor)
            raise

    def arm(self) -> "Exception | None":
        """See to it that all folders that are there are watched, before each look; why one cannot be, if so."""
        return self._folders.arm()

    def close(self) -> None:
        """Stop watching; the thread that listens goes on, and hears nothing more."""
        self._folders.forget()

    def _add(self, folder: str) -> int:
        number: int = _ADD(self._descriptor, os.fsencode(folder), _STIRS | _ONLY_DIRECTORY)
        if number < 0:
            raise _failure("inotify_add_watch")
        return number

    def _remove(self, number: object) -> None:
        _REMOVE(self._descriptor, number)

    def _listen(self) -> None:
        while True:
            try:
                events = os.read(self._descriptor, 65536)
            except OSError:
                return
            if self._concerns_us(events):
                self._wake()

    def _concerns_us(self, events: bytes) -> bool:
        """Whether one of the names stirred, or so much, or the folder itself, that nobody can tell."""
        at = 0
        while at < len(events):
            _, mask, _, length = _HEADER.unpack_from(events, at)
            at += _HEADER.size + length
            # Without a name: the folder itself stirred, or the queue overflowed.
            name = events[at - length : at].rstrip(b"\0")
            if name in self._names or (not name and mask & ~(_ATTRIB | _MODIFY)):
                return True
        return False


_LIMITS = {errno.EMFILE: "fs.inotify.max_user_instances", errno.ENOSPC: "fs.inotify.max_user_watches"}


def _failure(what: str) -> OSError:
    number = ctypes.get_errno()
    limit = f", sysctl {_LIMITS[number]}" if number in _LIMITS else ""
    return OSError(number, f"{what}: {os.strerror(number)}{limit}")
