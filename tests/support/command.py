"""Running the installed pystandby as PostgreSQL runs it, and waiting for what it does.

    data = DataDirectory(tmp_path / "data")                  what a restore_command sees of a server
    result = run(ARCHIVE, NAME, "pg_wal/RECOVERYXLOG", cwd=data.path)
    result.status, result.stdout, result.stderr

    with start("-s", "60", ..., cwd=data.path) as waiting:   in the background
        waiting.until_watching()
        segments.put(archive, NAME, content)
        result = waiting.result()

    with StartupProcess(data.path) as server:                several calls by one server process
        server.run(...); server.run(...)

    standby.put(NAME); standby.ask(NAME, "-s", "1")          the fixture: a data directory, an archive, a trigger file's folder

Each command is the leader of a session of its own, or in the session of its StartupProcess, never in the tests' own.
"""

from __future__ import annotations

import locale
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from support import segments

Argument = str | Path
"""One word of a command line."""

IS_WINDOWS = sys.platform == "win32"

PYSTANDBY = Path(sysconfig.get_path("scripts")) / ("pystandby.exe" if IS_WINDOWS else "pystandby")
"""The installed executable."""

PROGRAM: Sequence[Argument] = (PYSTANDBY,)
"""What is run where nothing else is said."""

DEADLINE = 60.0
"""Seconds after which something that should happen at once is taken to have failed; generous, because machines stall."""

RECOVERYXLOG = "pg_wal/RECOVERYXLOG"
RECOVERYHISTORY = "pg_wal/RECOVERYHISTORY"

NO_RESTART_POINT = "0" * 24


class Result(NamedTuple):
    """How a command ended: its exit status, or minus the signal it died of, and what it wrote."""

    status: int
    stdout: str
    stderr: str


def environment(**changes: str | None) -> dict[str, str]:
    """What a restore_command finds in its environment: the postmaster's. A change to None leaves the variable out."""
    of_system = {name: os.environ[name] for name in _OF_WINDOWS if name in os.environ}
    found: dict[str, str | None] = {
        **of_system,
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "LC_MESSAGES": "C",
        "PATH": f"{PYSTANDBY.parent}{os.pathsep}{_SYSTEM_PATH}",
        "PG_GRANDPARENT_PID": "1",
        "TZ": "UTC",
        **changes,
    }
    return {variable: value for variable, value in found.items() if value is not None}


_SYSTEM_PATH = os.environ["PATH"] if IS_WINDOWS else os.defpath

_OF_WINDOWS = (
    "SYSTEMROOT",
    "SYSTEMDRIVE",
    "WINDIR",
    "COMSPEC",
    "PATHEXT",
    "TEMP",
    "TMP",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
)
"""Without these, programs of Windows do not even find its libraries."""


class Running:
    """A command in the background; its output goes into files, so that it never waits for a reader."""

    def __init__(
        self,
        command: Sequence[Argument],
        cwd: Path | None,
        env: Mapping[str, str] | None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        # By name: on Windows who reads through the command's own open file moves the place where that writes.
        self._output = tempfile.TemporaryDirectory(prefix="output-", ignore_cleanup_errors=IS_WINDOWS)
        self._stdout = Path(self._output.name) / "stdout"
        self._stderr = Path(self._output.name) / "stderr"
        with self._stdout.open("wb") as own_stdout, self._stderr.open("wb") as own_stderr:
            try:
                self.process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=environment() if env is None else dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=own_stdout if stdout is None else stdout,
                    stderr=own_stderr if stderr is None else stderr,
                    start_new_session=True,
                )
            except OSError:
                self._output.cleanup()
                raise

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.kill()
            self.process.wait()
        self._output.cleanup()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return _content(self._stderr)

    @property
    def stdout(self) -> str:
        """What it has written to stdout so far."""
        return _content(self._stdout)

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def output_is_free(self) -> bool:
        """On Windows: whether no process has its output open any more, what it has started included."""
        try:
            self._stderr.rename(self._stderr.with_name("free"))
        except OSError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        """Signal the process that was started, which is the executable's shell."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the whole of it, as the kernel may at any moment: shell, Python and what looks ahead."""
        if sys.platform == "win32":
            self.process.kill()
        else:
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def python(self) -> int:
        """The process id of the Python that the executable's shell waits for; 0 while there is none."""
        return next((pid for pid in session(self.pid) if pid != self.pid and b"pystandby-python" in command_line(pid)), 0)

    def result(self, deadline: float = DEADLINE) -> Result:
        """Wait for its end."""
        try:
            self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"has not ended after {deadline} s; stderr so far:\n{self.stderr}") from None
        return Result(self.process.returncode, self.stdout, self.stderr)

    def until(self, condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
        """Wait until a condition is true, which has to be while the command is running."""
        end = time.monotonic() + deadline
        while not condition():
            if self.has_ended:
                if condition():
                    return
                raise AssertionError(f"ended with {self.process.returncode} before: {what}\n{self.stderr}")
            if time.monotonic() > end:
                raise AssertionError(f"not within {deadline} s: {what}; stderr so far:\n{self.stderr}")
            time.sleep(0.005)

    def until_says(self, text: str, times: int = 1) -> None:
        """Wait until stderr has a text so many times."""
        self.until(lambda: self.stderr.count(text) >= times, f'stderr has "{text}"')

    def until_watching(self, folders: int = 1) -> None:
        """Wait until it has asked the kernel to be woken when something stirs in so many folders."""
        self.until(lambda: watched_folders(self.pid) >= folders, f"{folders} folders are watched")


def session(leader: int) -> list[int]:
    """The processes of a session, that of its leader included; POSIX's."""
    if sys.platform == "win32":
        raise NotImplementedError
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getsid(int(name)) == leader:
                found.append(int(name))
        except OSError:
            continue
    return found


def command_line(pid: int) -> bytes:
    """The command line of a process, words ended by NUL; empty if it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def watched_folders(leader: int) -> int:
    """How many inotify watches the processes of a session have."""
    count = 0
    for pid in session(leader):
        try:
            for name in os.listdir(f"/proc/{pid}/fdinfo"):
                count += Path(f"/proc/{pid}/fdinfo/{name}").read_text().count("inotify wd:")
        except OSError:
            continue
    return count


def start(
    *arguments: Argument,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    program: Sequence[Argument] = PROGRAM,
    as_server: bool = True,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Running:
    """Start a command in the background. ``as_server``: with the umask and the ignored signals of a server's child."""
    command = [*program, *arguments]
    if as_server and not IS_WINDOWS:
        command = ["/bin/sh", "-c", 'umask 077; trap "" INT PIPE; exec "$@"', "sh", *command]
    return Running(command, cwd, env, stdout, stderr)


def run(
    *arguments: Argument,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    program: Sequence[Argument] = PROGRAM,
    as_server: bool = True,
    stdout: int | None = None,
    stderr: int | None = None,
    deadline: float = DEADLINE,
) -> Result:
    """Run a command to its end."""
    running = start(*arguments, cwd=cwd, env=env, program=program, as_server=as_server, stdout=stdout, stderr=stderr)
    with running:
        return running.result(deadline)


class StartupProcess:
    """A server's startup process: the session's leader, a shell, that runs one restore_command after the other."""

    _LOOP = 'umask 077; trap "" INT PIPE; while read -r file; do /bin/sh "$file" </dev/null; done'

    def __init__(self, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        if IS_WINDOWS:
            # Wine would start Linux's shell.
            raise NotImplementedError("tests/windows/fake_server.py has one for Windows")
        self._folder = tempfile.TemporaryDirectory(prefix="startup-")
        self._calls = 0
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", self._LOOP],
            cwd=cwd,
            env=environment() if env is None else dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> StartupProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if sys.platform != "win32":
            # The whole session: its leader's pid stays taken as long as one of it lives.
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Kill the startup process alone, which leaves the command it runs an orphan."""
        self._process.kill()
        self._process.wait()

    def run(self, *arguments: Argument, program: Sequence[Argument] = PROGRAM, deadline: float = DEADLINE) -> Result:
        """Run a command to its end; death by a signal comes as the shell's 128 + signal."""
        return self.start(*arguments, program=program).result(deadline)

    def start(self, *arguments: Argument, program: Sequence[Argument] = PROGRAM) -> Call:
        """Start a command; the next one starts when it has ended."""
        self._calls += 1
        file = Path(self._folder.name) / str(self._calls)
        words = " ".join(shlex.quote(str(word)) for word in (*program, *arguments))
        # In the shell between the two, which outlives a startup process that is killed.
        file.write_text(f"{words} >{file}.stdout 2>{file}.stderr\necho $? >{file}.status\n")
        assert self._process.stdin is not None
        self._process.stdin.write(f"{file}\n".encode())
        self._process.stdin.flush()
        return Call(file)


class Call:
    """A command that a StartupProcess runs."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def stderr(self) -> str:
        return self._read("stderr")

    @property
    def has_ended(self) -> bool:
        return self._read("status").endswith("\n")

    def _read(self, what: str) -> str:
        try:
            return Path(f"{self._file}.{what}").read_text(errors="surrogateescape")
        except FileNotFoundError:
            return ""

    def until_says(self, text: str) -> None:
        wait_until(lambda: text in self.stderr or self.has_ended, f'stderr has "{text}"')
        assert text in self.stderr

    def result(self, deadline: float = DEADLINE) -> Result:
        """Wait for its end."""
        wait_until(lambda: self.has_ended, "the command has ended", deadline)
        return Result(int(self._read("status")), self._read("stdout"), self.stderr)


class Installation:
    """An installation of its own, made of links to the tested one's dependencies and a copy of its package, to be damaged.

    On Windows, where users may not make links, of copies, the interpreter's included.
    """

    def __init__(self, folder: Path) -> None:
        self.bin = folder / PYSTANDBY.parent.name
        self.pystandby = self.bin / PYSTANDBY.name
        self.site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        self.package = self.site / "pystandby"
        self.bin.mkdir(parents=True)
        self.site.mkdir(parents=True)
        interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        if IS_WINDOWS:
            self.python = folder / interpreter.name
            without_packages = shutil.ignore_patterns("site-packages", "Scripts", "__pycache__")
            shutil.copytree(interpreter.parent, folder, ignore=without_packages, dirs_exist_ok=True)
            shutil.copy(PYSTANDBY, self.bin)
        else:
            self.python = self.bin / "python"
            self.python.symlink_to(interpreter)
            shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder)
        for script in PYSTANDBY.parent.glob("pystandby*"):
            if script.suffix == ".exe":
                continue
            copy = Path(shutil.copy(script, self.bin))
            first, rest = copy.read_text(encoding="utf-8").split("\n", 1)
            if "python" in first:
                copy.write_text(f"#!{self.python}\n{rest}", encoding="utf-8")
        installed = Path(sysconfig.get_path("purelib"))
        shutil.copytree(installed / "pystandby", self.package)
        for package in ("click", "watchdog", *(["colorama"] if IS_WINDOWS else [])):
            if IS_WINDOWS:
                shutil.copytree(installed / package, self.site / package)
            else:
                (self.site / package).symlink_to(installed / package)

    def run(self, *arguments: Argument, cwd: Path, env: Mapping[str, str] | None = None, deadline: float = DEADLINE) -> Result:
        return run(*arguments, cwd=cwd, env=env, program=[self.pystandby], deadline=deadline)

    def start(self, *arguments: Argument, cwd: Path) -> Running:
        return start(*arguments, cwd=cwd, program=[self.pystandby])


def wait_until(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.005)


class DataDirectory:
    """What a restore_command sees of a server's data directory, its current one."""

    def __init__(
        self, path: Path, version: str = "16", system_identifier: int = segments.SYSTEM_IDENTIFIER, standby_mode: bool = False
    ) -> None:
        self.path = path
        self.wal = path / "pg_wal"
        self.restored = self.wal / "RECOVERYXLOG"
        self.history = self.wal / "RECOVERYHISTORY"
        self.wal.mkdir(parents=True)
        path.chmod(0o700)
        (path / "PG_VERSION").write_text(f"{version}\n")
        (path / "global").mkdir()
        (path / "global" / "pg_control").write_bytes(system_identifier.to_bytes(8, "little") + bytes(504))
        (path / ("standby.signal" if standby_mode else "recovery.signal")).touch()

    def write_postmaster_pid(self, status: str = "ready", pid: int | None = None) -> None:
        """Write postmaster.pid as a server of version 10 and later does."""
        lines = [str(pid or os.getpid()), str(self.path), "1700000000", "5432", "/tmp", "localhost", "  5432001    32768", status]
        temporary = self.path / "postmaster.pid.new"
        temporary.write_text("".join(f"{line}\n" for line in lines))
        temporary.replace(self.path / "postmaster.pid")

    def left_behind(self) -> list[str]:
        """What is in pg_wal beside what a server expects there: a finished call leaves nothing but what it remembers."""
        expected = {"RECOVERYXLOG", "RECOVERYHISTORY", "archive_status", ".pystandby"}
        return sorted(entry.name for entry in self.wal.iterdir() if entry.name not in expected)


class Standby:
    """A server's data directory and an archive, and the restore_command between them."""

    def __init__(self, folder: Path, version: str = "16", standby_mode: bool = False) -> None:
        self.folder = folder
        self.archive = folder / "archive"
        self.archive.mkdir(parents=True)
        self.data = DataDirectory(folder / "data", version, standby_mode=standby_mode)
        self.restored = self.data.restored
        self.trigger = folder / "trigger" / "failover"
        self.trigger.parent.mkdir(mode=0o700)
        # Windows' default is to wait until the file has rested for some seconds: tests of that say so.
        self.options: list[Argument] = ["--stable", "0"] if IS_WINDOWS else []

    def put(self, name: str, content: bytes | None = None) -> bytes:
        """Put a file into the archive, by default a full segment of that name; return its content."""
        if content is None:
            content = segments.full(name)
        segments.put(self.archive, name, content)
        return content

    def pull_trigger(self, word: str = "") -> None:
        """Make the trigger file, whole at once."""
        segments.put(self.trigger.parent, self.trigger.name, word.encode())

    def command(self, name: str, *options: Argument, restart: str | None = None, to: Argument = RECOVERYXLOG) -> list[Argument]:
        """The words of restore_command = 'pystandby OPTIONS ARCHIVE %f %p %r'."""
        return [*self.options, *options, self.archive, name, to, *([] if restart is None else [restart])]

    def ask(self, name: str, *options: Argument, restart: str | None = None, to: Argument = RECOVERYXLOG) -> Result:
        """Ask for a file as the server does, and wait for the answer."""
        return run(*self.command(name, *options, restart=restart, to=to), cwd=self.data.path)

    def begin(self, name: str, *options: Argument, restart: str | None = None, to: Argument = RECOVERYXLOG) -> Running:
        """Ask for a file as the server does, and do not wait; for a with statement."""
        return start(*self.command(name, *options, restart=restart, to=to), cwd=self.data.path)

    def server(self) -> StartupProcess:
        """A server process that asks several times; for a with statement."""
        return StartupProcess(self.data.path)

    def delivered(self) -> bytes | None:
        """What is at %p; None for nothing."""
        try:
            return self.restored.read_bytes()
        except FileNotFoundError:
            return None

    def archived(self) -> list[str]:
        """The names in the archive."""
        return sorted(os.listdir(self.archive))


def _content(file: Path) -> str:
    if IS_WINDOWS:
        return file.read_text(encoding=locale.getpreferredencoding(False), errors="surrogateescape")
    return file.read_bytes().decode(errors="surrogateescape")
