"""Trigger files: what they say, whether they may say it, and emptying one that was obeyed. Ends nothing itself.

As pg_standby's CheckForExternalTrigger(): empty or beginning with "smart" is smart, beginning with "fast" is fast. /tmp, where
its manual had them, is everybody's, so there a trigger counts only if it can be nobody else's.
"""

import errno
import os
import stat
import time

from pystandby import osdep, say

SMART = "smart"
FAST = "fast"

_MADE_TOGETHER = 10.0
"""Seconds by which a trigger file may be older than recovery.signal and still be meant for this server: one script made both."""

_MOMENT = 0.01
"""How long, in seconds, a file may be empty because the shell that made it has not written its word yet."""


class Trigger:
    """What a look at a trigger file found: a word to obey, or why it is ignored, or neither.

    ``changed`` is osdep.changed_at() of one with a word.
    """

    __slots__ = ("changed", "hint", "identity", "problem", "word")

    def __init__(
        self,
        word: "str | None" = None,
        problem: str = "",
        hint: str = "",
        identity: "tuple[int, int] | None" = None,
        changed: "float | None" = None,
    ) -> None:
        self.word = word
        self.problem = problem
        self.hint = hint
        self.identity = identity
        self.changed = changed

    def is_left_over(self, told: "float | None") -> bool:
        """Whether it is an earlier failover's: older than ``told``, when the server was told to recover (Asker.told_at()).

        A time in the future says nothing: a clock was wrong, and the trigger file may be a new one.
        """
        if told is None or self.changed is None:
            return False
        return self.changed + _MADE_TOGETHER < told <= time.time()


def look(path: str, trusted: bool) -> Trigger:
    """Read a trigger file. ``trusted`` is --trust-trigger. Never raises for anything that the file can be."""
    shared = not trusted and _is_shared(path)
    try:
        descriptor = osdep.open_file(path, osdep.O_READ | (osdep.O_NOFOLLOW if shared else 0))
    except FileNotFoundError:
        return Trigger()
    except OSError as failure:
        if osdep.is_in_use(failure):
            return _held()
        return _unopened(path, shared, failure)
    try:
        status = os.fstat(descriptor)
        problem = _objection(status, shared)
        if problem:
            return Trigger(None, problem, _hint(path, shared))
        changed = osdep.changed_at(status, descriptor)
        word = os.read(descriptor, 32)
        until = time.monotonic() + _MOMENT
        while not word and 0 <= time.time() - status.st_mtime < _MOMENT and time.monotonic() < until:
            # Nobody can have it open for writing any more when this says so: the read comes after it.
            written = not osdep.may_be_open_for_writing(path, descriptor)
            word = os.read(descriptor, 32)
            if word or written:
                break
            time.sleep(_MOMENT / 10)
        if not word:
            if osdep.is_open_for_writing(path):
                # It may be about to say "fast".
                return _held()
            word = os.read(descriptor, 32)
    except OSError as failure:
        return Trigger(None, f"could not be read: {say.reason(failure)}", "Make it readable to the server's user.")
    finally:
        os.close(descriptor)
    identity = (status.st_dev, status.st_ino)
    if not word or word.startswith(b"smart"):
        return Trigger(SMART, identity=identity, changed=changed)
    if word.startswith(b"fast"):
        return Trigger(FAST, identity=identity, changed=changed)
    return Trigger(
        None,
        "has invalid content",
        'It must be empty or begin with "smart" or "fast", in lower case and at its very start.',
    )


def empty(path: str, found: Trigger) -> bool:
    """Empty the trigger file that ``found`` was read from, which makes it smart, as pg_standby did; False where that fails."""
    try:
        descriptor = osdep.open_file(path, os.O_WRONLY | osdep.O_CLOEXEC | osdep.O_BINARY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        # Another file by now, or a link to somebody's file put in its place: not the one that was obeyed.
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != found.identity:
            return False
        os.ftruncate(descriptor, 0)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def make(path: str, word: str, owner: "tuple[int, int] | None" = None) -> None:
    """Make a trigger file that says ``word``, whole at once, over one that is there. Raises OSError, and leaves nothing then.

    ``owner`` is the user and group that it is to belong to, None for our own. Everybody may read it: there is no secret in it,
    and a server that cannot is not promoted.
    """
    from pystandby import outfile

    outfile.put(path, f"{word}\n", owner)


def remove(path: str, trusted: bool) -> Trigger:
    """Remove a trigger file that may be obeyed. Returns ``problem`` and ``hint`` where it stays, neither if there is none now.

    What look() ignores because others may have put it there is theirs, and stays. A link is removed, never what it leads to.
    """
    shared = not trusted and _is_shared(path)
    try:
        status = os.lstat(path)
        is_own_link = stat.S_ISLNK(status.st_mode) and not shared
        problem = "" if is_own_link else _objection(status, shared)
        if problem:
            return Trigger(None, problem, _hint(path, shared))
        osdep.remove(path)
    except FileNotFoundError:
        pass
    except OSError as failure:
        return Trigger(None, f"could not be removed: {say.reason(failure)}", "Remove it by hand.")
    return Trigger()


def _is_shared(path: str) -> bool:
    """Whether others than root and we may make files in the trigger file's folder: everybody, or a stranger who owns it.

    Not whom a group is given to: that is the administrator's doing.
    """
    try:
        folder = os.stat(os.path.dirname(path) or ".")
    except OSError:
        return False
    return osdep.SHARED_FOLDERS and (bool(folder.st_mode & stat.S_IWOTH) or folder.st_uid not in (0, osdep.own_user()))


def _objection(status: os.stat_result, shared: bool) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is not a plain file"
    if shared and status.st_uid not in (0, osdep.own_user()):
        return f"belongs to user {status.st_uid}, in a directory that others may write to"
    if shared and status.st_nlink > 1:
        # A file of the server's own, linked here by somebody else.
        return "has another name elsewhere, in a directory that others may write to"
    return ""


def _unopened(path: str, shared: bool, failure: OSError) -> Trigger:
    """A trigger that cannot be opened: an empty one says what it says all the same."""
    try:
        status = os.lstat(path) if shared else os.stat(path)
    except FileNotFoundError:
        # A link that leads nowhere.
        return Trigger()
    except OSError:
        return Trigger(None, f"could not be read: {say.reason(failure)}", "Make it readable to the server's user.")
    if stat.S_ISLNK(status.st_mode):
        return Trigger(None, "is a symbolic link, in a directory that others may write to", _hint(path, shared))
    problem = _objection(status, shared)
    if problem:
        return Trigger(None, problem, _hint(path, shared))
    if status.st_size == 0 and failure.errno in (errno.EACCES, errno.EPERM):
        return Trigger(SMART, identity=(status.st_dev, status.st_ino), changed=osdep.changed_at(status))
    return Trigger(None, f"could not be read: {say.reason(failure)}", "Make it readable to the server's user.")


def _held() -> Trigger:
    return Trigger(None, "is held open by another program", "End that program, or make the file anew.")


def _hint(path: str, shared: bool) -> str:
    if not shared:
        return "Make it a plain file, empty or with a word in it."
    return (
        "Make it as root or as the server's own user, as a plain file; better, name a trigger file in a directory of the "
        "server's own with -t; --trust-trigger obeys it whoever made it."
    )
