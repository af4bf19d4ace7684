"""Timelines: what history files say of a segment - before its timeline began, left behind by a newer one, past a fork.

A server asks for the segment of its newest timeline first, and for that of an older one only when it is told that there is none
(XLogFileReadAnyTLI() in src/backend/access/transam/xlogrecovery.c). It does not look whether what it then gets goes on past the
point where the newer timeline left the older one. Loaded only where a segment is absent, or a server was told that one is.
"""

import os

from pystandby import osdep, ready, wal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pystandby.archive import Archive
    from pystandby.asker import Asker

_MOST = 1000
"""Timelines that are looked for at most: a folder that has a file of every name must not keep us for ever."""

_LARGEST_HISTORY = 1 << 20


TELL = "tell"
WARN = "warn"
RESTART = "restart"
"""A restart of the server would have it follow the newer timeline."""

HOPELESS = "hopeless"
"""The server cannot come up on the timeline that it was told to follow."""


class News:
    """What the archive's newest timeline means for a segment that is waited for.

    ``key`` tells it from other news, ``kind`` is one of the words above.
    """

    __slots__ = ("detail", "hint", "key", "kind", "message")

    def __init__(self, kind: str, key: str, message: str, detail: str, hint: str) -> None:
        self.kind = kind
        self.key = key
        self.message = message
        self.detail = detail
        self.hint = hint

    def in_vain(self) -> "News":
        """The same for a server that was stopped because of it before, and came back to where it was."""
        detail = "The server was stopped for that before, and asks for the old timeline again: it is not set to follow a new one."
        hint = "Set recovery_target_timeline = 'latest' (in recovery.conf up to version 11), then restart the standby server."
        return News(WARN, f"{self.key} in vain", self.message, detail, hint)


def history(folder: str, timeline: int) -> "dict[int, int]":
    """Where the timelines before a timeline were left, by its history file in a folder; empty where that does not tell."""
    return wal.history_switch_points(osdep.read_small(os.path.join(folder, f"{timeline:08X}.history"), _LARGEST_HISTORY) or b"")


def archived_history(archive: "Archive", timeline: int) -> "dict[int, int]":
    """As history(), by the file in an archive, where it may be compressed."""
    return wal.history_switch_points(archive.head(f"{timeline:08X}.history", _LARGEST_HISTORY) or b"")


def left_at(pg_wal: str, followed: int, timeline: int) -> "int | None":
    """The LSN at which the timeline that a server follows left an older one; None if it has not, or that is not known.

    By the history file in the server's own ``pg_wal``, where it keeps the one that it goes by (readTimeLineHistory() in
    src/backend/access/transam/timeline.c): the archive's may be another by now.
    """
    return history(pg_wal, followed).get(timeline) if followed > timeline else None


def began_later(pg_wal: str, name: str, segment_size: int) -> bool:
    """Whether the named segment ends before its timeline begins, so that it cannot exist, and the server must ask elsewhere.

    Servers since the minor releases of 2020 or so know that by themselves, and do not ask for it.
    """
    points = history(pg_wal, wal.timeline(name))
    return bool(points) and segment_size > 0 and wal.segment_number(name, segment_size) < max(points.values()) // segment_size


def news(archive: "Archive", pg_wal: str, name: str, segment_size: int, asker: "Asker") -> "News | None":
    """What there is to say of timelines to whoever waits for the named segment; None if nothing."""
    mine = wal.timeline(name)
    newest = mine
    # As findNewestTimeLine(): the first that is not there ends the search.
    while newest < mine + _MOST and archive.holds(f"{newest + 1:08X}.history"):
        newest += 1
    hopeless = _hopeless(pg_wal, mine, asker)
    if hopeless is not None or newest == mine:
        return hopeless or _fork(archive, pg_wal, name, segment_size)
    points = archived_history(archive, newest)
    if not points:
        # Half written, perhaps.
        return None
    if mine not in points:
        return News(
            WARN,
            f"{newest} is no child of {mine}",
            f"timeline {newest} in the archive does not descend from timeline {mine}, which is replayed here",
            f"Recovery goes on with timeline {mine}. With recovery_target_timeline = latest the server could not be started "
            f"again: timeline {newest} is not a child of its history.",
            f"If nothing writes timeline {newest} any more, remove {newest:08X}.history from the archive; else make this standby "
            "anew, from a base backup of the server that does.",
        )
    left = points[mine]
    if not segment_size or (wal.segment_number(name, segment_size) + 1) * segment_size <= left:
        # Still to come on the timeline waited on.
        return None
    message = (
        f"the archive has gone on to timeline {newest}, which left timeline {mine} at {ready.lsn(left)}, before the end of "
        f"segment {name}"
    )
    for timeline, reached in asker.reached():
        if reached > points.get(timeline, reached if timeline == newest else 0):
            return News(
                WARN,
                f"{newest} after {mine} cannot be followed",
                message,
                f"This server cannot follow: its data directory holds changes of timeline {timeline} up to {ready.lsn(reached)}.",
                f"Make this standby anew, from a base backup of timeline {newest}, or stop it and use pg_rewind.",
            )
    hint = (
        "Restart the standby server: with recovery_target_timeline = latest it follows the new timeline. With "
        "--on-new-timeline stop it stops by itself, for a service manager to start it again."
    )
    if left < wal.segment_number(name, segment_size) * segment_size:
        hint += (
            ' By hand use "pg_ctl restart -m immediate": any other stop first writes to disk what was replayed past that point, '
            "and the server could not follow any more."
        )
    return News(
        RESTART,
        f"{newest} after {mine}",
        message,
        "Unless its old primary lives on, the segment waited for will not come on the old timeline.",
        hint,
    )


def _hopeless(pg_wal: str, mine: int, asker: "Asker") -> "News | None":
    """What to say to a server that was started on a timeline which its data directory is not part of.

    It finds that out when it has read its last checkpoint; which it asks for on that timeline, and we would wait for in vain.
    """
    points = history(pg_wal, mine)
    for timeline, reached in asker.reached():
        # A later one that descends from this was reached by way of it.
        descends = timeline > mine and mine in history(pg_wal, timeline)
        if timeline != mine and not descends and points and reached > points.get(timeline, 0):
            left = "does not descend from it"
            if timeline in points:
                left = f"left timeline {timeline} at {ready.lsn(points[timeline])}"
            return News(
                HOPELESS,
                f"{mine} cannot be followed",
                f"this server cannot follow timeline {mine}, which it was started on",
                f"Its data directory holds changes of timeline {timeline} up to {ready.lsn(reached)}; timeline {mine} {left}.",
                f"If nothing writes timeline {mine} any more, remove {mine:08X}.history from the archive and from pg_wal, and "
                f"start the server again; else make this standby anew, from a base backup of timeline {mine}, or use pg_rewind.",
            )
    return None


def _fork(archive: "Archive", pg_wal: str, name: str, segment_size: int) -> "News | None":
    """What to say where an older timeline's segment lies beside the one that is waited for."""
    points = history(pg_wal, wal.timeline(name))
    for older in sorted(points, reverse=True):
        there = f"{older:08X}{name[8:]}"
        if segment_size and points[older] < (wal.segment_number(name, segment_size) + 1) * segment_size and archive.holds(there):
            return News(
                TELL,
                f"{name} beside {there}",
                f"segment {name} is waited for, while the archive holds {there}",
                f"Timeline {wal.timeline(name)} left timeline {older} at {ready.lsn(points[older])}: what {there} holds after "
                "that is no part of it.",
                f"If nothing writes timeline {wal.timeline(name)} any more, start the standby server with "
                f"recovery_target_timeline = '{older}'.",
            )
    return None
