"""A stand-in for a standby's data directory: what a restore_command sees of it, and this process in the server's place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench.workload import Workload

DESTINATION = "pg_wal/RECOVERYXLOG"


class Standby:
    """A data directory without a server, an archive with some of the workload's segments, and a folder for the trigger file."""

    def __init__(self, folder: Path, workload: Workload, archived: list[str]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.archive = folder / "archive"
        self.trigger = folder / "trigger" / "failover"
        self.messages = folder / "messages"
        for made in (folder, self.data, self.archive, self.trigger.parent, self.data / "global", self.data / "pg_wal"):
            made.mkdir(mode=0o700)
        shutil.copy(workload.backup / "PG_VERSION", self.data)
        shutil.copy(workload.backup / "global" / "pg_control", self.data / "global")
        (self.data / "recovery.signal").touch()
        lines = [str(os.getpid()), str(self.data), "1700000000", "5432", "/tmp", "", "5432001 32768", "ready"]
        (self.data / "postmaster.pid").write_text("".join(f"{line}\n" for line in lines))
        for name in archived:
            shutil.copy2(workload.archive / name, self.archive)

    @property
    def restored(self) -> Path:
        return self.data / DESTINATION

    @property
    def spool(self) -> Path:
        return self.data / "pg_wal" / ".pystandby"

    def clear(self) -> None:
        """Take away what was restored, as the server does before it asks."""
        self.restored.unlink(missing_ok=True)

    def check(self) -> str:
        """Say what is wrong with what was restored; nothing if nothing is."""
        if not self.restored.exists():
            return "nothing was restored"
        size = self.restored.stat().st_size
        return "" if size == 16 << 20 else f"{size} bytes were restored"
