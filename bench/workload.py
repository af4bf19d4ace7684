"""Real WAL: a primary under load, its base backup, and the archive that a standby made of that has to replay."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.timing import progress
from pystandby.cluster import Cluster, Installation, owned_folder, shell_words
from pystandby.exits import UNEXPECTED, StandbyError

SEGMENT = 16 << 20

PATIENCE_S = 120.0

ACCOUNTS = 600_000
"""Rows of the table that transactions update at random: some 80 MB, enough for each to find a page of its own."""

SETTINGS: dict[str, str | int | bool] = {
    "shared_buffers": "128MB",
    "wal_level": "replica",
    "max_wal_senders": 4,
    "archive_mode": True,
    "max_wal_size": "1GB",
}

SCHEMA = (
    "CREATE TABLE accounts (aid int PRIMARY KEY, bid int, balance int, filler char(84))",
    "CREATE TABLE tellers (tid int PRIMARY KEY, balance int)",
    "CREATE TABLE history (tid int, aid int, delta int, moment timestamptz, filler char(22))",
    "CREATE TABLE bulk (id bigint PRIMARY KEY, note text)",
    f"INSERT INTO accounts SELECT i, i % 10, 0, '' FROM generate_series(1, {ACCOUNTS}) i",
    "INSERT INTO tellers SELECT i, 0 FROM generate_series(1, 100) i",
    f"""
    CREATE PROCEDURE transactions(wanted int) LANGUAGE plpgsql AS $$
    DECLARE
        account int; teller int; change int;
    BEGIN
        FOR i IN 1..wanted LOOP
            account := 1 + floor(random() * {ACCOUNTS}); teller := 1 + floor(random() * 100); change := floor(random() * 5000);
            UPDATE accounts SET balance = balance + change WHERE aid = account;
            UPDATE tellers SET balance = balance + change WHERE tid = teller;
            INSERT INTO history VALUES (teller, account, change, now(), '');
            COMMIT;
        END LOOP;
    END $$
    """,
)

TRANSACTIONS = "CALL transactions(10000)"
"""As pgbench's: each updates rows at random and commits."""

BULK_ROWS = 140_000
"""Rows of a bulk insert: some 42 MB of WAL, so that two parts of three are from these, and one from the transactions."""

BULK = "INSERT INTO bulk SELECT {first} + i, repeat(md5(i::text), 5) FROM generate_series(1, {rows}) i"


@dataclass
class Workload:
    """What the primary left: all in ``folder``, which must be there."""

    installation: Installation
    folder: Path
    segments: list[str] = field(default_factory=list)
    """The names of the segments that a standby replays, in order; the last one ends in XLOG_SWITCH, the others are full."""

    def __post_init__(self) -> None:
        self.archive = owned_folder(self.folder / "archive", None)
        self.backup = self.folder / "backup"
        self.primary = Cluster(self.installation, self.folder, "primary")

    def make(self, wanted: int) -> None:
        """Put the primary under load until it has written so many segments, and end it."""
        progress(f"making {wanted} segments of 16 MB with {self.installation}")
        primary = self.primary
        primary.initdb()
        archive = shell_words(self.archive)
        command = f"cp %p {archive}/.%f.part && mv {archive}/.%f.part {archive}/%f"
        primary.configure({**SETTINGS, "archive_command": command})
        primary.start()
        primary.psql(*SCHEMA, deadline_s=PATIENCE_S)
        primary.take_base_backup(self.backup)
        label = (self.backup / "backup_label").read_text(encoding="utf-8")
        found = re.search(r"START WAL LOCATION: .* \(file ([0-9A-F]{24})\)", label)
        if not found:
            raise StandbyError(UNEXPECTED, "there is no start of WAL in backup_label", label)
        self._load(wanted, found[1])
        last = primary.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        primary.psql("SELECT pg_switch_wal()")
        self._await_archived(last)
        primary.stop("immediate")
        shutil.rmtree(primary.socket_directory)
        for name in os.listdir(self.archive):
            # What was written before the backup, and its backup history file, no standby asks for.
            if len(name) != 24 or not found[1] <= name <= last:
                (self.archive / name).unlink()
        self.segments = sorted(os.listdir(self.archive))

    def _load(self, wanted: int, first: str) -> None:
        rows = 0
        batch = 0
        while self._written(first) < wanted:
            # A checkpoint now and then makes pages be logged in full again.
            if batch % 4 == 0:
                self.primary.psql("CHECKPOINT")
            self.primary.psql(TRANSACTIONS, BULK.format(first=rows, rows=BULK_ROWS), deadline_s=PATIENCE_S)
            rows += BULK_ROWS
            batch += 1

    def _written(self, first: str) -> int:
        """How many segments are full since the first one of the backup."""
        asked = (
            f"SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{int(first[8:16], 16):X}/{int(first[16:], 16) * SEGMENT:X}')"
        )
        return int(float(self.primary.psql(asked))) // SEGMENT

    def _await_archived(self, name: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not (self.archive / name).exists():
            if time.monotonic() > deadline or not self.primary.is_running():
                raise StandbyError(UNEXPECTED, f"the primary did not archive {name}", self.primary.log_tail())
            time.sleep(0.05)

    @property
    def full(self) -> str:
        """The name of a segment whose every page is used."""
        return self.segments[len(self.segments) // 2]

    @property
    def switched(self) -> str:
        """The name of the segment that pg_switch_wal() ended."""
        return self.segments[-1]
