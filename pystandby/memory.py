"""What one server process must be told again, or not again, by later calls: each call is a process of its own.

    pg_wal/.pystandby/refused   the server process, and the first segment that it was refused
    pg_wal/.pystandby/said      the server process, and the warnings that it has had
    pg_wal/.pystandby/follows   the server process, and the newest timeline of which it was told that a segment is absent
    pg_wal/.pystandby/rests     the server process, an unfinished segment, what its file looks like, and since when it does
    pg_wal/.pystandby/stopped   for all server processes: the new timelines because of which one was stopped
    pg_wal/.pystandby/untold    the server process, and what the child that looks ahead has to say: the next call says it
    pg_wal/.pystandby/pruned    the archive's path, the server process, and the oldest segment that was left when it was pruned
    pg_wal/.pystandby/archive   for all server processes: the archive's path, and the folder found there at the last delivery

After a refusal PostgreSQL asks again: 15 and later twice for the same segment (recovery_prefetch), every version for the last
one that it replayed. Without the memory a fast failover turns into a smart one, and MAXWAITTIME is waited for twice.
"""

import os
import time

from pystandby import osdep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = ".pystandby"


class Memory:
    """The memory of one server process, beside the file that it wants; ``identity`` is Asker.identity, called when needed."""

    __slots__ = ("_folder", "_identity")

    def __init__(self, destination: str, identity: "Callable[[], str]") -> None:
        self._folder = os.path.join(os.path.dirname(destination), FOLDER)
        self._identity = identity

    def refused(self) -> "tuple[str, bool] | None":
        """The first segment that this server process was refused, and whether at once; None if recovery has not ended for it."""
        lines = self._read("refused", self._identity)
        return (lines[0], lines[1:] == ["fast"]) if lines else None

    def refuse(self, name: str, fast: bool) -> bool:
        """Remember that recovery ends at a segment, ``fast`` if it may be there; False where that cannot be written down."""
        return self._write("refused", [name, *(["fast"] if fast else [])], self._identity)

    def forget_refusal(self) -> None:
        """Forget what a server process that has gone was refused; to be called where refused() has found nothing for this one."""
        path = os.path.join(self._folder, "refused")
        words = (osdep.read_small(path, 1024) or b"").partition(b"\n")[0].decode("ascii", "replace").split()
        # As Asker.identity() has them: the run of the operating system, the startup process, and when that began.
        if (
            len(words) > 2
            and words[0] == (osdep.boot() or "-")
            and words[1].isdigit()
            and osdep.started(int(words[1])) == words[2]
        ):
            return
        try:
            os.unlink(path)
        except OSError:
            pass

    def say_once(self, what: str) -> bool:
        """Whether this server process has yet to be told of something, noting that it now is."""
        what = _line(what)
        said = self._read("said", self._identity)
        if what in said:
            return False
        self._write("said", [*said, what], self._identity)
        return True

    def was_told(self, what: str) -> bool:
        """Whether this server process was told of something."""
        return _line(what) in self._read("said", self._identity)

    def unsay(self, what: str) -> bool:
        """Whether this server process was told of something that is over now, noting that it is."""
        what = _line(what)
        said = self._read("said", self._identity)
        if what not in said:
            return False
        self._write("said", [word for word in said if word != what], self._identity)
        return True

    def follows(self) -> int:
        """The newest timeline of which this server process was told that a segment is absent; 0 if there is none."""
        lines = self._read("follows", self._identity)
        return int(lines[0]) if lines and lines[0].isdigit() else 0

    def note_follows(self, timeline: int) -> None:
        """Remember that this server process follows a timeline: it may be asking for an older one's segments next."""
        self._write("follows", [str(timeline)], self._identity)

    def resting(self) -> "tuple[str, str, float] | None":
        """The unfinished segment that rests() was told of last, what it looked like, and for how many seconds it has."""
        lines = self._read("rests", self._identity)
        try:
            return lines[0], lines[1], time.monotonic() - float(lines[2])
        except (IndexError, ValueError):
            return None

    def rests(self, name: str, appearance: str) -> float:
        """For how many seconds this server process has found an unfinished segment looking like this."""
        resting = self.resting()
        if resting is not None and resting[:2] == (name, appearance):
            return resting[2]
        self._write("rests", [name, appearance, repr(time.monotonic())], self._identity)
        return 0.0

    def stop_once(self, key: str) -> bool:
        """Whether no server process has been stopped for this yet, noting that one now is; False where that fails, too."""
        stopped = self._read("stopped", str)
        return key not in stopped and self._write("stopped", [*stopped, key], str)

    def leave_untold(self, messages: "list[tuple[str, str, str, str]]") -> None:
        """Leave messages (level, message, detail, hint) for the next call to say."""
        lines = [part.replace("\n", "\\n") for message in messages for part in message]
        self._write("untold", [*self._read("untold", self._identity), *lines], self._identity)

    def untold(self) -> "list[tuple[str, str, str, str]]":
        """The messages that leave_untold() was given since the last time this was asked."""
        lines = self._read("untold", self._identity)
        if not lines:
            return []
        try:
            os.unlink(os.path.join(self._folder, "untold"))
        except OSError:
            # They would be said again at every call.
            return []
        return list(zip(lines[::4], lines[1::4], lines[2::4], lines[3::4], strict=False))

    def archive(self, path: str) -> str:
        """What note_archive() was last told of the folder at a path; empty if nothing."""
        lines = self._read("archive", lambda: path)
        return lines[0] if lines else ""

    def note_archive(self, path: str, folder: str) -> None:
        """Remember the folder at the archive's path while it has files: one that is not mounted is not merely empty."""
        self._write("archive", [folder], lambda: path)

    def pruned(self, path: str) -> str:
        """The oldest segment left when this server process last had the archive at a path pruned; empty if it has not."""
        lines = self._read("pruned", lambda: f"{path} {self._identity()}")
        return lines[0] if lines else ""

    def note_pruned(self, path: str, oldest: str) -> None:
        """Remember that nothing older than a segment is left in an archive: listing it to find nothing would cost every call."""
        self._write("pruned", [oldest], lambda: f"{path} {self._identity()}")

    def _read(self, name: str, owner: "Callable[[], str]") -> "list[str]":
        content = osdep.read_small(os.path.join(self._folder, name), 65536) or b""
        lines = content.decode("utf-8", "surrogateescape").split("\n")
        # Another server's, the same one's before a restart, or half a file after a crash: nothing of it binds this one.
        return lines[1:-1] if len(lines) > 2 and not lines[-1] and lines[0] == _line(owner()) else []

    def _write(self, name: str, lines: "list[str]", owner: "Callable[[], str]") -> bool:
        path = os.path.join(self._folder, name)
        temporary = f"{path}.{os.getpid()}"
        content = "\n".join([_line(owner()), *lines, ""]).encode("utf-8", "surrogateescape")
        try:
            try:
                os.mkdir(self._folder, 0o700)
            except FileExistsError:
                pass
            with open(temporary, "wb", buffering=0) as file:
                file.write(content)
            osdep.replace(temporary, path)
        except OSError:
            try:
                os.unlink(temporary)
            except OSError:
                pass
            return False
        return True


def _line(text: str) -> str:
    """A text as one line: a path may hold line breaks, but never NUL."""
    return text.replace("\n", "\0")
