"""Pgpool-II in front of real servers, with the scripts of contrib/linux/pgpool: for tests and for the bench. PYTEST_DONT_REWRITE

    pytest_plugins = ["support.pgpool"]                 in a test module: the fixture `pool`

    primary, standby = pool.servers(FED)                a primary, and a standby that is fed from the archive; started
    pool.configure(ARBITRATE="true", FENCE=...)         in the scripts' settings file
    pool.begin()                                        Pgpool-II, with the sample's pgpool.conf; until it knows the primary
    primary.stop("fast")
    pool.until_nodes("down standby", "up primary")
    pool.sql("INSERT ...")                              through Pgpool-II

Debian's: /usr/sbin/pgpool, and PostgreSQL 15 with the extension pgpool_recovery. Everything listens on 127.0.0.1 and in one
temporary folder, and is stopped when the test ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from pystandby.cluster import temporary_folder
from support.command import PYSTANDBY, Result, environment
from support.installations import installation_named
from support.servers import DEADLINE, NEVER_SAID, SOON, Server, archive_command, eventually, processes_in

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "contrib" / "linux" / "pgpool"

PGPOOL = Path("/usr/sbin/pgpool")

POSTGRES = "debian15"

HOST = "127.0.0.1"

FED, STREAMING = "fed from the archive", "streaming"
"""The two kinds of standby."""

STOP_IT = '"$BINDIR/pg_ctl" stop -D "$FAILED_DATA" -m immediate -s || [ ! -e "$FAILED_DATA/postmaster.pid" ]'
"""A FENCE for servers of this machine: stops what runs, and can be run again."""

HEALTH_CHECK = {"health_check_period": 1, "health_check_max_retries": 1, "health_check_retry_delay": 1}
"""Quicker than the sample's; what is tested does not depend on it."""

PCP_PASSWORD = "pcp-password"


# --- free ports ------------------------------------------------------------------------------------------------------


class Ports:
    """Ports of 127.0.0.1 that nobody else takes as long as this object lives: neither another test nor another run.

    They are below those that the kernel gives to connections. Each is ours by an abstract Unix socket, which goes with us.
    """

    FIRST, LAST = 10_000, 30_000

    def __init__(self) -> None:
        self._marks: list[socket.socket] = []
        self._next = self.FIRST + hash((os.getpid(), time.monotonic())) % (self.LAST - self.FIRST)

    def take(self) -> int:
        """Return a free one."""
        for _ in range(self.LAST - self.FIRST):
            port = self._next = self._next + 1 if self._next < self.LAST else self.FIRST
            mark = socket.socket(socket.AF_UNIX)
            try:
                mark.bind(f"\0pystandby-test-port-{port}")
                with socket.socket() as listener:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind((HOST, port))
            except OSError:
                mark.close()
                continue
            self._marks.append(mark)
            return port
        raise AssertionError("there is no free port")

    def close(self) -> None:
        for mark in self._marks:
            mark.close()


# --- a server --------------------------------------------------------------------------------------------------------


class Node(Server):
    """A backend of Pgpool-II: it listens to TCP, and may be stopped and started by others than the test, namely the scripts."""

    number: int
    data_name = "data"

    @property
    def data_directory(self) -> Path:
        return self.socket_directory / self.data_name

    @property
    def log(self) -> Path:
        # Where START of the settings has it written.
        return self.socket_directory / f"{self.data_name}.log"

    @property
    def trigger_file(self) -> Path:
        return self.socket_directory / f"{self.data_name}.failover"

    def connection(self) -> psycopg.Connection[tuple[object, ...]]:
        return connection(self.port)

    def launch(self, *extra: str) -> None:
        # Where it listens stands in its postgresql.conf, from which pg_ctl starts it.
        assert not self.is_running()
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                [self.installation.program("postgres"), "-D", self.data_directory, *extra],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.socket_directory,
                env=self.environment(),
                start_new_session=True,
            )

    def is_running(self) -> bool:
        if self._server and self._server.poll() is not None:
            self._server = None
        return super().is_running()

    def abort(self) -> None:
        if self.is_running():
            self.stop("immediate", 20)

    def write_rows(self, count: int) -> None:
        """Add rows, and have them archived."""
        self.sql(f"INSERT INTO ledger (note) SELECT 'row ' || i FROM generate_series(1, {count}) i")
        self.archive_all()

    def archive_all(self) -> None:
        """End the segment, and wait until it is archived."""
        ((segment,),) = self.sql("SELECT pg_walfile_name(pg_switch_wal())")

        def archived() -> bool:
            return self.sql(f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver") == [(True,)]

        eventually(archived, f"{segment} is archived", tell=self.tell)

    def until_up(self, in_recovery: bool) -> None:
        """Wait until it takes connections, in recovery or not."""

        def up() -> bool:
            try:
                return self.in_recovery() is in_recovery
            except psycopg.Error:
                return False

        eventually(up, f"{self.name} is up, in recovery: {in_recovery}", tell=self.tell)


def connection(port: int, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
    """A connection to a server or to Pgpool-II, with autocommit."""
    return psycopg.connect(
        host=HOST,
        port=port,
        user="postgres",
        dbname=database,
        autocommit=True,
        connect_timeout=10,
        # A client whose server is gone must not wait for the kernel to find out.
        options="-c statement_timeout=30s",
    )


# --- what servers are made of ----------------------------------------------------------------------------------------


def make_stock(target: Path) -> None:
    """Make the folder ``target``: primary, backup and archive, of a cluster that has what Pgpool-II needs."""
    short = temporary_folder()
    try:
        primary = Server(installation_named(POSTGRES), short, "primary")
        archive = short / "archive"
        archive.mkdir(mode=0o700)
        primary.initdb(segment_mb=1)
        primary.configure(
            {
                "archive_mode": True,
                "archive_command": archive_command(archive),
                "wal_level": "replica",
                "autovacuum": False,
                "max_connections": 40,
                "wal_retrieve_retry_interval": "200ms",
            }
        )
        primary.begin()
        try:
            primary.psql("CREATE EXTENSION pgpool_recovery", database="template1")
            primary.sql("CREATE ROLE pgpool LOGIN IN ROLE pg_monitor")
            primary.sql("CREATE TABLE ledger (id bigserial PRIMARY KEY, note text NOT NULL)")
            primary.sql("INSERT INTO ledger (note) SELECT md5(i::text) FROM generate_series(1, 100) i")
            backup = primary.take_base_backup(short / "backup")
            primary.stop("fast")
        finally:
            primary.abort()
        work = target.with_name(target.name + ".new")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        shutil.move(primary.data_directory, work / "primary")
        shutil.move(backup, work / "backup")
        shutil.move(archive, work / "archive")
        work.rename(target)
    finally:
        shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(scope="session")
def pool_stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make_stock() makes, once for a session and all its workers."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    target = base / "pool-stock"
    with (base / "pool-stock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            make_stock(target)
    return target


# --- Pgpool-II and its nodes -----------------------------------------------------------------------------------------


class Pool:
    """Pgpool-II, the scripts, the nodes, an archive; all in one folder."""

    def __init__(self, stock: Path) -> None:
        self._stock = stock
        self._ports = Ports()
        self.folder = temporary_folder()
        self.archive = self.folder / "archive"
        shutil.copytree(stock / "archive", self.archive)
        self.scripts = self.folder / "scripts"
        shutil.copytree(SCRIPTS, self.scripts)
        self.port, self.pcp_port = self._ports.take(), self._ports.take()
        self.script_log = self.folder / "scripts.log"
        self.notices = self.folder / "notices"
        self.nodes: list[Node] = []
        self.password_file = self.folder / "pcppass"
        self.sockets = self.folder / "s"
        self.sockets.mkdir(mode=0o700)
        self._log = self.folder / "pgpool.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.allowed: list[str] = []
        """What servers' logs may hold though it is in NEVER_SAID."""
        self.configure(
            BINDIR=str(installation_named(POSTGRES).bindir),
            PYSTANDBY=str(PYSTANDBY),
            ARCHIVE=str(self.archive),
            REMOTE="local",
            PCP_HOST=HOST,
            PCP_PORT=str(self.pcp_port),
            ARBITRATE="true",
            FENCE=STOP_IT,
            NOTIFY=f"cat >>{self.notices}",
            LOG=str(self.script_log),
            # What a slow machine needs, and no test waits for.
            PROMOTE_TIMEOUT="60",
            FOLLOW_TIMEOUT="60",
        )

    def take_port(self) -> int:
        """A port that stays free of others until the end."""
        return self._ports.take()

    # Settings

    def configure(self, **settings: str) -> None:
        """Change settings of the scripts."""
        file = self.scripts / "pystandby-pgpool.conf"
        text = file.read_text()
        for name, value in settings.items():
            quoted = "'" + value.replace("'", "'\\''") + "'"
            text, count = re.subn(rf"^{name}=.*$", lambda _, line=f"{name}={quoted}": line, text, flags=re.MULTILINE)  # type: ignore[misc]
            assert count == 1, f"{name} is not a setting"
        file.write_text(text)

    def _write_pgpool_conf(self, settings: dict[str, str | int | bool]) -> Path:
        """The sample, filled in as its comments tell, and after it what a test wants otherwise."""
        lines = []
        for line in (self.scripts / "pgpool.conf").read_text().splitlines():
            found = re.match(r"backend_(hostname|port|data_directory|flag)(\d) = ", line)
            if found and int(found[2]) >= len(self.nodes):
                continue
            if found and found[1] != "flag":
                node = self.nodes[int(found[2])]
                value = {"hostname": f"'{HOST}'", "port": node.port, "data_directory": f"'{node.data_directory}'"}[found[1]]
                lines.append(f"{found[0]}{value}")
            else:
                lines.append(line.replace("/etc/pystandby-pgpool", str(self.scripts)))
        assert str(self.scripts) in "\n".join(lines)
        own: dict[str, str | int | bool] = {
            "listen_addresses": HOST,
            "pcp_listen_addresses": HOST,
            "port": self.port,
            "pcp_port": self.pcp_port,
            "socket_dir": str(self.sockets),
            "pcp_socket_dir": str(self.sockets),
            "wd_ipc_socket_dir": str(self.sockets),
            "pid_file_name": str(self.folder / "pgpool.pid"),
            "logdir": str(self.folder),
            "num_init_children": 4,
            **HEALTH_CHECK,
            **settings,
        }
        for name, given in own.items():
            shown = ("on" if given else "off") if isinstance(given, bool) else given if isinstance(given, int) else f"'{given}'"
            lines.append(f"{name} = {shown}")
        file = self.folder / "pgpool.conf"
        file.write_text("\n".join(lines) + "\n")
        return file

    # Servers

    def servers(self, *standbys: str) -> list[Node]:
        """Make and start a primary and standbys of these kinds; return them all."""
        primary = self.primary()
        for kind in standbys:
            self.standby(kind)
        for node in self.nodes:
            node.begin()
        assert primary.rows() == 100
        for node in self.nodes[1:]:
            node.until_rows(100)
        return self.nodes

    def primary(self) -> Node:
        """Make a primary."""
        return self._node("primary")

    def give_own_archive(self, node: Node) -> None:
        """Have a node archive to a folder of its own, as in native replication."""
        own = self.archive / f"{HOST}-{node.port}"
        own.mkdir()
        node.configure({"archive_command": f"exec {PYSTANDBY} archive {own} %p %f"})

    def standby(self, kind: str) -> Node:
        """Make a standby."""
        primary = self.nodes[0]
        node = self._node("backup")
        # As recovery_1st_stage writes it; here before anything has been recovered.
        settings: dict[str, str | int | bool] = {
            "restore_command": f"exec {PYSTANDBY} -t {node.trigger_file} {self.archive} %f %p",
            "recovery_end_command": f"{PYSTANDBY} recovery-end -t {node.trigger_file} || exit 1",
            "recovery_prefetch": False,
        }
        if kind == STREAMING:
            settings["primary_conninfo"] = f"host={HOST} port={primary.port} user=postgres"
        node.configure({**settings, "hot_standby": True})
        node.write("standby.signal" if kind == STREAMING else "recovery.signal", "")
        return node

    def new_node(self) -> Node:
        """A node that Pgpool-II knows of, and that does not exist yet."""
        node = Node(installation_named(POSTGRES), self.folder, f"node{len(self.nodes)}", port=self._ports.take())
        node.number = len(self.nodes)
        self.nodes.append(node)
        return node

    def _node(self, source: str) -> Node:
        node = self.new_node()
        subprocess.run(["cp", "-pR", self._stock / source, node.data_directory], check=True)
        node.data_directory.chmod(0o700)
        node.configure(
            {
                "listen_addresses": HOST,
                "port": node.port,
                "unix_socket_directories": str(self.sockets),
                "archive_command": f"exec {PYSTANDBY} archive {self.archive} %p %f",
            }
        )
        # README: each stage is called in the data directory, and comes along with a base backup.
        for stage in ("recovery_1st_stage", "recovery_2nd_stage", "pgpool_remote_start"):
            node.write(stage, f'#!/bin/sh\nexec {self.scripts}/{stage} "$@"\n').chmod(0o755)
        return node

    # Pgpool-II

    def environment(self) -> dict[str, str]:
        """That of Pgpool-II, and of those who call its scripts and programs."""
        # ~/.pcppass would be the user's own: its home is that of the user database.
        return environment(PCPPASSFILE=str(self.password_file), PATH=os.environ.get("PATH", os.defpath))

    def begin(self, **settings: str | int | bool) -> None:
        """Start it, and wait until it knows all nodes as they are."""
        md5 = hashlib.md5(PCP_PASSWORD.encode(), usedforsecurity=False).hexdigest()
        (self.folder / "pcp.conf").write_text(f"pgpool:{md5}\n")
        self.password_file.write_text(f"*:*:pgpool:{PCP_PASSWORD}\n")
        self.password_file.chmod(0o600)
        conf = self._write_pgpool_conf(settings)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PGPOOL, "-n", "-D", "-f", conf, "-F", self.folder / "pcp.conf"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment(),
                start_new_session=True,
            )

    def log_text(self) -> str:
        """All that it has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def script_lines(self) -> str:
        """All that the scripts have logged."""
        return self.script_log.read_text() if self.script_log.exists() else ""

    def noticed(self) -> str:
        """All that a person was told."""
        return self.notices.read_text() if self.notices.exists() else ""

    def until_noticed(self, text: str, times: int = 1) -> None:
        """Wait until a person was told this."""
        eventually(lambda: self.noticed().count(text) >= times, f'"{text}" is told', tell=self.tell)

    def until_logged(self, text: str, deadline: float = DEADLINE) -> None:
        """Wait until Pgpool-II's log, which has the scripts' lines as well, holds this."""
        eventually(lambda: text in self.log_text(), f'"{text}" is logged', deadline, self.tell)

    def tell(self) -> str:
        """What is known, for a failed test."""
        tails = [f"The log of {node.name}:\n{node.log_tail(30)}" for node in self.nodes]
        pgpool = "\n".join(self.log_text().splitlines()[-60:])
        return "\n".join([f"The scripts' log:\n{self.script_lines()}", f"The log of Pgpool-II:\n{pgpool}", *tails])

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement through it."""
        with connection(self.port) as through:
            cursor = through.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def eventually_sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement through it as soon as it lets us: during a failover it does not, or breaks the connection."""
        found: list[list[tuple[object, ...]]] = []
        problem = [""]

        def done() -> bool:
            try:
                found.append(self.sql(statement))
            except psycopg.Error as error:
                problem[0] = str(error)
                return False
            return True

        eventually(done, f"{statement} is done", tell=lambda: f"{problem[0]}\n{self.tell()}", every=0.05)
        return found[0]

    def show_nodes(self) -> list[str]:
        """What SHOW pool_nodes says of each: "up primary"; none, while it cannot be asked."""
        try:
            with connection(self.port) as through:
                cursor = through.execute("SHOW pool_nodes")
                names = [column.name for column in cursor.description or ()]
                rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except psycopg.Error:
            return []
        return [f"{row['status']} {row['role']}" for row in rows]

    def until_nodes(self, *expected: str, deadline: float = DEADLINE) -> None:
        """Wait until SHOW pool_nodes says this of the nodes."""
        seen: list[list[str]] = [[]]

        def right() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.tell()
            seen[0] = self.show_nodes()
            return seen[0] == list(expected)

        eventually(right, f"the nodes are {expected}", deadline, lambda: f"{seen[0]}\n{self.tell()}", every=0.05)

    def pcp(self, program: str, *words: str | int, deadline: float = DEADLINE) -> Result:
        """Run one of its pcp programs."""
        command = [program, "-w", "-h", HOST, "-p", str(self.pcp_port), "-U", "pgpool", *map(str, words)]
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline,
            env=self.environment(),
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def call(self, script: str, *words: str | int | Path, deadline: float = DEADLINE) -> Result:
        """Call a script as Pgpool-II would."""
        done = subprocess.run(
            ["/bin/sh", self.scripts / script, *map(str, words)],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline,
            cwd=self.folder,
            env=self.environment(),
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def placeholders(self, failed: Node, new: Node | None, old_primary: Node | None) -> list[str | int | Path]:
        """The words that Pgpool-II calls failover.sh with."""
        lowest = self.nodes[0].number
        ours: Sequence[str | int | Path] = [failed.number, HOST, failed.port, failed.data_directory]
        place: Sequence[str | int | Path] = [-1, "", lowest, -1, "", ""]
        if new is not None:
            place = [new.number, HOST, lowest, old_primary.number if old_primary else -1, new.port, new.data_directory]
        return [*ours, *place, *([HOST, old_primary.port] if old_primary else ["", ""])]

    # The end

    def stop(self) -> None:
        """Stop Pgpool-II, its clients or not."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                pass
        # What was left of its session: children, and a script that it waited for.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._process = None

    def close(self) -> list[str]:
        """Stop and remove everything; return what should not have been."""
        problems = []
        self.stop()
        for node in self.nodes:
            try:
                node.abort()
            except Exception as error:
                problems.append(f"{node.name} could not be stopped: {error}")
        end = time.monotonic() + SOON
        while (left := processes_in(self.folder)) and time.monotonic() < end:
            time.sleep(0.01)
        for pid, line in left.items():
            problems.append(f"left running: {line}")
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for node in self.nodes:
            for text in NEVER_SAID:
                if text in node.log_text() and text not in self.allowed:
                    problems.append(f'the log of {node.name} has "{text}":\n{node.log_text()}')
        for line in self.script_lines().splitlines():
            if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ \[\d+\] \w+(\.sh)? (LOG|WARNING|ERROR):  ", line):
                problems.append(f"not a line for a log: {line}")
        self._ports.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return problems


@pytest.fixture
def pool(pool_stock: Path) -> Iterator[Pool]:
    """Pgpool-II and nodes for one test."""
    made = Pool(pool_stock)
    problems = ["the test was interrupted"]
    try:
        yield made
    finally:
        problems = made.close()
    assert not problems, "\n".join(problems)
