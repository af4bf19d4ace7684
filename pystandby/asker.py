"""Who is asking for the file, and whether they are still there: a server, pg_rewind, or a person.

Told from %p, the current directory and the process group, so that one restore_command serves all of them.
"""

import os

from pystandby import osdep, wal
from pystandby.exits import SERVER_GONE, SERVER_STOPPING, StandbyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SERVER = "server"
PG_REWIND = "pg_rewind"
PERSON = "person"

_WAL_FOLDERS = ("pg_wal", "pg_xlog")


_REACHED = {1002: (56, 136), 1100: (48, 128), 1201: (48, 136), 1300: (48, 136), 1700: (48, 136), 1800: (48, 136)}
"""By pg_control_version, of 10 to 18: where pg_control has checkPointCopy.ThisTimeLineID, and minRecoveryPoint before its own."""

RECOVERY_FILES = ("recovery.signal", "standby.signal", "recovery.conf")
"""What puts a server into recovery: it removes or renames these before it takes writes, and before it runs recovery_end_command
(StartupXLOG() in src/backend/access/transam/xlog.c, exitArchiveRecovery() up to 14)."""


class Asker:
    """Who asks for ``name`` to be put at ``destination``. Looks once; alive() looks again.

    ``data_directory`` is None for a person elsewhere; ``server_version`` is PG_VERSION times 100 (903 for 9.3, 1600 for 16).
    """

    __slots__ = (
        "_leader",
        "_leader_started",
        "_postmaster",
        "_postmaster_started",
        "data_directory",
        "kind",
        "server_version",
        "standby_mode",
    )

    def __init__(self, name: str, destination: str) -> None:
        folder, base = os.path.split(destination)
        self.standby_mode = False
        self.data_directory: str | None = None
        self._leader: int | None = None
        self._leader_started: str | None = None
        self._postmaster: list[bytes] | None = None
        self._postmaster_started: str | None = None
        self.kind = PERSON
        version = osdep.read_small("PG_VERSION", 16)
        if version is not None:
            self.data_directory = ""
        parent = os.path.dirname(folder)
        if base in ("RECOVERYXLOG", "RECOVERYHISTORY"):
            self.kind = SERVER
            if version is None and os.path.basename(folder) in _WAL_FOLDERS:
                # A wrapper that changes the directory, and gives %p in full.
                version = osdep.read_small(os.path.join(parent, "PG_VERSION"), 16)
                self.data_directory = parent if version is not None else None
            if self.data_directory is not None:
                self.standby_mode = in_standby_mode(self.data_directory or "")
            self._postmaster = self._postmaster_lines()[:3] or None
            self._postmaster_started = self._started_postmaster()
            if self.data_directory is not None:
                self._leader = osdep.startup_process(self._postmaster_pid())
            if self._leader is not None:
                self._leader_started = osdep.started(self._leader)
        elif base == name and os.path.basename(folder) in _WAL_FOLDERS:
            version = osdep.read_small(os.path.join(parent, "PG_VERSION"), 16)
            if version is not None:
                self.kind = PG_REWIND
                self.data_directory = parent
        self.server_version = version_number(version)

    def in_full(self, full: "Callable[[str], str]") -> "Asker":
        """The same with the data directory's path made ``full``, for a process that has another current directory."""
        other = Asker.__new__(Asker)
        for attribute in Asker.__slots__:
            setattr(other, attribute, getattr(self, attribute))
        other.data_directory = full(self.data_directory or ".") if self.data_directory is not None else None
        return other

    def alive(self) -> None:
        """Return while the server that asked is there and running; for others always.

        Raises StandbyError with SERVER_GONE or SERVER_STOPPING. An orphan must not touch the data directory, where a new server
        may be at work; and on Windows a command that waits on blocks the shutdown.
        """
        if self.kind != SERVER:
            return
        lines = self._postmaster_lines()
        gone = self._postmaster is not None and lines[:3] != self._postmaster
        if gone and not lines and os.path.exists(self._path("postmaster.pid")):
            # No descriptor left to read it with: that says nothing of the server.
            gone = False
        # One that was killed leaves its file; its startup process lives on because it waits for us, and keeps a new server out.
        gone = gone or _has_gone(self._postmaster_started, self._started_postmaster())
        if self._leader is not None:
            started = osdep.started(self._leader)
            gone = gone or started is None or _has_gone(self._leader_started, started)
        if gone:
            raise StandbyError(
                SERVER_GONE,
                "the server that asked for this file has gone",
                "Nothing is written into its data directory any more.",
            )
        # Line 8 of postmaster.pid, LOCK_FILE_LINE_PM_STATUS (src/include/utils/pidfile.h). Where the server signals us when we
        # are to go, it is not for us: in a smart shutdown it says so while recovery goes on until the last session has ended.
        if not osdep.SHUTDOWN_SIGNALS_US and len(lines) > 7 and lines[7].strip() == b"stopping":
            raise StandbyError(
                SERVER_STOPPING,
                "the server is shutting down",
                "It is left by a status that does not end recovery: the server calls that FATAL, and goes down as asked.",
            )

    def identity(self) -> str:
        """What tells this server process from every other, before and after; as long as it is asked of a living one."""
        if self._leader is None and self._postmaster is None:
            # Nobody is known to ask, as on Windows without a server: each call is of another one.
            own = os.getpid()
            return f"- {own} {osdep.started(own)}"
        words = [
            osdep.boot(),
            str(self._leader),
            self._leader_started or "",
            *(line.decode("ascii", "replace").strip() for line in (self._postmaster or [])[::2]),
        ]
        return " ".join(word or "-" for word in words)

    def system_identifier(self) -> "int | None":
        """The cluster's own, from the first eight bytes of global/pg_control; None where that cannot be read."""
        if self.data_directory is None:
            return None
        raw = osdep.read_small(os.path.join(self.data_directory, "global", "pg_control"), 8)
        return int.from_bytes(raw, osdep.BYTE_ORDER) if raw is not None and len(raw) == 8 else None

    def promote_requested(self) -> bool:
        """Whether pg_ctl promote or pg_promote() asked this server to end recovery.

        In recovery mode the server itself does not look while a restore_command runs: CheckForStandbyTrigger() is for standby
        mode only (src/backend/access/transam/xlogrecovery.c).
        """
        return self.kind == SERVER and self.data_directory is not None and os.path.exists(self._path("promote"))

    def has_recovered(self) -> bool:
        """Whether the server is past its recovery: it removes what asked for it before it reads its old timeline's history."""
        is_server = self.kind == SERVER and self.data_directory is not None
        return is_server and not any(os.path.exists(self._path(name)) for name in RECOVERY_FILES)

    def told_at(self) -> "float | None":
        """When the server was told to recover, by the modification time of the file that says so; None if that is not known.

        Not by recovery.conf, which is edited for other reasons as well.
        """
        for name in RECOVERY_FILES[:2]:
            try:
                return os.stat(self._path(name)).st_mtime
            except OSError:
                continue
        return None

    def _path(self, name: str) -> str:
        """A file of the data directory, or, where that is not known, of the current one."""
        return os.path.join(self.data_directory or "", name)

    def _started_postmaster(self) -> "str | None":
        """When the process that postmaster.pid names started; None if there is none. A single-user server's is negative."""
        pid = self._postmaster_pid()
        return osdep.started(pid) if pid is not None else None

    def _postmaster_pid(self) -> "int | None":
        pid = (self._postmaster or [b""])[0].strip().lstrip(b"-")
        return int(pid) if pid.isdigit() else None

    def promoted(self) -> bool:
        """Whether the server that asked has come up: its startup process has ended, its postmaster takes connections."""
        lines = self._postmaster_lines()
        return lines[:3] == self._postmaster and len(lines) > 7 and lines[7].strip() == b"ready"

    def restart_segment(self, segment_size: int) -> "str | None":
        """The segment that a restart would begin with, as %r; None where that is not known.

        The redo pointer and timeline of ControlFileData.checkPointCopy (src/include/catalog/pg_control.h), which stand eight
        bytes further on up to version 10. Only of use once recovery has begun, when the server has set it.
        """
        if self.data_directory is None:
            return None
        raw = osdep.read_small(os.path.join(self.data_directory, "global", "pg_control"), 64)
        if raw is None or len(raw) < 64:
            return None
        version = int.from_bytes(raw[8:12], osdep.BYTE_ORDER)
        if version not in _REACHED:
            # A newer server's may stand elsewhere.
            return None
        at = 40 if version >= 1100 else 48
        redo = int.from_bytes(raw[at : at + 8], osdep.BYTE_ORDER)
        timeline = int.from_bytes(raw[at + 8 : at + 12], osdep.BYTE_ORDER)
        return wal.segment_name(timeline, redo // segment_size, segment_size)

    def reached(self) -> "list[tuple[int, int]]":
        """How far each timeline has come in the data directory, as (timeline, LSN); empty where that is not known.

        A server does not start on a timeline that left one of these before (StartupXLOG() in
        src/backend/access/transam/xlog.c, InitWalRecovery() since 15): behind the last restartpoint's record, by
        ControlFileData.checkPoint, and at minRecoveryPoint (src/include/catalog/pg_control.h).
        """
        if self.data_directory is None or os.path.exists(self._path("backup_label")):
            # A base backup that has not been looked at yet begins where its label says, not where its pg_control does.
            return []
        raw = osdep.read_small(os.path.join(self.data_directory, "global", "pg_control"), 160)
        if raw is None or len(raw) < 160:
            return []

        def number(at: int, size: int) -> int:
            return int.from_bytes(raw[at : at + size], osdep.BYTE_ORDER)

        layout = _REACHED.get(number(8, 4))
        if layout is None:
            return []
        timeline_at, minimum_at = layout
        found = [(number(timeline_at, 4), number(32, 8) + 1)]
        minimum = number(minimum_at, 8)
        return [*found, (number(minimum_at + 8, 4), minimum)] if minimum else found

    def _postmaster_lines(self) -> "list[bytes]":
        content = osdep.read_small(self._path("postmaster.pid"), 8192)
        return content.splitlines() if content else []


def in_standby_mode(data_directory: str) -> bool:
    """Whether a server retries by itself: standby.signal, or standby_mode in recovery.conf."""
    if os.path.exists(os.path.join(data_directory, "standby.signal")):
        return True
    mode = False
    for line in (osdep.read_small(os.path.join(data_directory, "recovery.conf"), 1 << 16) or b"").splitlines():
        name, _, value = line.partition(b"#")[0].replace(b"=", b" ", 1).strip().partition(b" ")
        if name.lower() == b"standby_mode":
            # As parse_bool(): any unambiguous beginning of a word for true.
            word = value.strip().strip(b"'").strip().lower()
            mode = word in (b"on", b"1") or (word != b"" and (b"true".startswith(word) or b"yes".startswith(word)))
    return mode


def version_number(content: "bytes | None") -> "int | None":
    """PG_VERSION as a number; None where it is not one."""
    major, _, minor = (content or b"").strip().partition(b".")
    if not major.isdigit():
        return None
    return int(major) * 100 + (int(minor) if minor.isdigit() else 0)


def _has_gone(before: "str | None", now: "str | None") -> bool:
    """Whether a process is not there any more, by osdep.started() before and now. None before: it was not known to be there."""
    return before is not None and (now is None or ("" not in (before, now) and now != before))
