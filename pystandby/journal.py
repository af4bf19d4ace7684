"""What restores leave behind for a person to look at: a line for each segment restored, wait begun, error and end of recovery.

    pg_wal/.pystandby/journal      the latest lines, appended one by one
    pg_wal/.pystandby/journal.1    those before, from when it had grown to LARGEST bytes

    1764100000.123 archive 000000010000000000000005 1764099990.5    copied from the archive, where the file is of that time
    1764100000.456 spool 000000010000000000000006 1764099991.02     taken out of the spool by a restore
    1764100000.789 taken 000000010000000000000007 1764099992.125    taken out of the spool, as the child saw
    1764100001.012 wait 000000010000000000000008 absent           not to be had; in words of fetch.py why
    1764100002.345 error 205 could not read "..."                  the exit status, and what was said
    1764100003.678 end 000000010000000000000008 trigger file ...   recovery ended before this segment

Times are seconds since the epoch. A restore never fails over its line and never waits for it: it is written without fsync, by
one write(), and what a crash or a full disk makes of it is passed over when it is read. What the shell takes out of the spool
is told by the child; where there is none, only the server's own files tell of it.
"""

import os
import time

from pystandby import osdep, wal

ARCHIVE = "archive"
SPOOL = "spool"
TAKEN = "taken"
WAIT = "wait"
ERROR = "error"
END = "end"

RESTORED = (ARCHIVE, SPOOL, TAKEN)
"""The kinds of lines that a segment was restored by."""

KINDS = (*RESTORED, WAIT, ERROR, END)

LARGEST = 1 << 20
"""Bytes from which on a journal is put aside, over the one put aside before: some 15000 restores each."""

_LONGEST = 1000
"""Characters of an error that are kept."""

_TAIL = 2048
"""Bytes that hold the last lines."""


def note(folder: str, kind: str, subject: str, detail: str = "") -> None:
    """Append a line to the journal in a server's ``.pystandby``. Raises nothing, and leaves the line out where it cannot be."""
    text = f"{subject} {detail}"[:_LONGEST].rstrip().replace("\n", " ")
    line = f"{time.time():.3f} {kind} {text}\n".encode("utf-8", "surrogateescape")
    path = os.path.join(folder, "journal")
    try:
        try:
            descriptor = osdep.open_file(path, _APPEND, 0o600)
        except FileNotFoundError:
            os.mkdir(folder, 0o700)
            descriptor = osdep.open_file(path, _APPEND, 0o600)
        try:
            os.write(descriptor, line)
            size = os.lseek(descriptor, 0, os.SEEK_CUR)
        finally:
            os.close(descriptor)
        # Looked at once more: another may have put it aside meanwhile.
        if size > LARGEST and os.stat(path).st_size >= size:
            osdep.replace(path, f"{path}.1")
    except OSError:
        pass


# Whatever else somebody has put in its place must not be waited for, or written through.
_APPEND = osdep.O_READ | os.O_WRONLY | os.O_APPEND | os.O_CREAT | osdep.O_NOFOLLOW


def note_once(folder: str, kind: str, subject: str, detail: str = "") -> None:
    """Append a line, unless the last one of its subject, with none of another kind behind it, says the same.

    A server in standby mode asks every few seconds, for the same segment of one timeline after the other.
    """
    for line in reversed(_lines(os.path.join(folder, "journal"), _TAIL)):
        event = _event(line)
        if event is None or event.kind != kind:
            break
        if event.subject == subject:
            if event.detail == detail:
                return
            break
    note(folder, kind, subject, detail)


class Event:
    """One line: seconds since the epoch, its kind, a segment's name (of an error: its status), and what stands behind."""

    __slots__ = ("at", "detail", "kind", "subject")

    def __init__(self, at: float, kind: str, subject: str, detail: str) -> None:
        self.at = at
        self.kind = kind
        self.subject = subject
        self.detail = detail

    @property
    def arrived(self) -> "float | None":
        """Of a restored segment: the modification time of the archive's file; None where that is not known."""
        return _number(self.detail) or None


def read(folder: str) -> "tuple[list[Event], int]":
    """All that is left of the journal, oldest first, and how many lines of it cannot be understood. Raises OSError.

    A segment that a restore has taken out of the spool, and the child saw go, stands in the result once.
    """
    events: list[Event] = []
    damaged = 0
    latest: dict[str, float] = {}
    for line in _all_lines(folder):
        event = _event(line)
        if event is None:
            damaged += 1
            continue
        if event.kind in RESTORED:
            before = latest.get(event.subject)
            if event.kind == TAKEN and before is not None and abs(event.at - before) < _SAME:
                continue
            if event.kind != TAKEN and before is not None and event.at - before < _SAME:
                _drop_last_taken(events, event.subject)
            latest[event.subject] = event.at
        events.append(event)
    return events, damaged


def _all_lines(folder: str) -> "list[bytes]":
    """The lines of both files; read again where a restore puts one aside meanwhile, so that half of them would be in neither."""
    older, newer = os.path.join(folder, "journal.1"), os.path.join(folder, "journal")
    while True:
        before = _identity(older)
        lines = [*_lines(older, 4 * LARGEST, complain=True), *_lines(newer, 4 * LARGEST, complain=True)]
        if _identity(older) == before:
            return lines


def _identity(path: str) -> "tuple[int, int, int] | None":
    """What tells a file from another one of its name; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size


_SAME = 10.0
"""Seconds between what a restore and the child say of the same segment, at most."""


def _drop_last_taken(events: "list[Event]", subject: str) -> None:
    """Take out the last event of the child's about a segment."""
    for number in range(len(events) - 1, max(len(events) - 100, -1), -1):
        if (events[number].kind, events[number].subject) == (TAKEN, subject):
            del events[number]
            return


def _event(line: bytes) -> "Event | None":
    words = line.decode("utf-8", "surrogateescape").split(" ", 3)
    at = _number(words[0])
    if len(words) < 3 or not at or words[1] not in KINDS:
        return None
    if not (_number(words[2]) if words[1] == ERROR else wal.kind(words[2]) in (wal.SEGMENT, wal.PARTIAL)):
        return None
    return Event(at, words[1], words[2], words[3] if len(words) > 3 else "")


def _number(text: str) -> float:
    """A time in plain digits; 0 where it is none that can be."""
    whole, _, rest = text.partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) < 12 and (not rest or (rest.isascii() and rest.isdigit()))):
        return 0.0
    return float(text)


def _lines(path: str, size: int, complain: bool = False) -> "list[bytes]":
    """The whole lines among the last ``size`` bytes of a file; none where it is not there, or, unless told to ``complain``, not
    to be read.
    """
    try:
        descriptor = osdep.open_file(path, osdep.O_READ)
    except FileNotFoundError:
        return []
    except OSError:
        if complain:
            raise
        return []
    try:
        length = os.lseek(descriptor, 0, os.SEEK_END)
        start = os.lseek(descriptor, max(length - size, 0), os.SEEK_SET)
        content = b""
        while chunk := os.read(descriptor, size):
            content += chunk
            if len(content) >= size:
                break
    except OSError:
        if complain:
            raise
        return []
    finally:
        os.close(descriptor)
    lines = content.split(b"\n")
    return [line for line in lines[1 if start else 0 : -1] if line]
