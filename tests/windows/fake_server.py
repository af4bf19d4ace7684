"""A server as a restore_command of Windows sees it: a startup process below a postmaster, which runs commands by cmd.exe.

The test itself is the postmaster. For what takes no server: where one must be, tests/windows/test_server_*.py have real ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from support import segments
from support.command import DEADLINE, PROGRAM, Argument, Result, Standby, wait_until

from pystandby import osdep

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RECOVERYXLOG = "pg_wal\\RECOVERYXLOG"
"""%p, as a server has it on Windows."""

RECOVERYHISTORY = "pg_wal\\RECOVERYHISTORY"

STOPPING = "stopping"
"""PM_STATUS_STOPPING in postmaster.pid (src/include/utils/pidfile.h)."""

SERVER_STOPPING = 208

SOON = 5.0
"""Seconds in which something is seen that is looked for several times in one: less than any SLEEPTIME of these tests."""

_LOOP = """
import os, subprocess, sys
for line in sys.stdin:
    number, command = line.rstrip("\\n").split("\\t", 1)
    with open(number + ".stdout", "wb") as stdout, open(number + ".stderr", "wb") as stderr:
        status = subprocess.call(command, shell=True, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    with open(number + ".new", "w") as file:
        file.write(str(status))
    os.replace(number + ".new", number + ".status")
"""


class Call:
    """A command that the startup process runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since = time.monotonic()

    @property
    def stderr_bytes(self) -> bytes:
        """What it has written to stderr so far."""
        return self._read("stderr")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode("ascii", "backslashreplace")

    @property
    def has_ended(self) -> bool:
        return Path(f"{self._path}.status").exists()

    def _read(self, what: str) -> bytes:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                return Path(f"{self._path}.{what}").read_bytes()
            except FileNotFoundError:
                return b""
            except PermissionError:
                # It is just being renamed.
                assert time.monotonic() < deadline

    def until_says(self, text: str, times: int = 1) -> None:
        """Wait until stderr has a text so many times."""
        wait_until(lambda: self.stderr.count(text) >= times or self.has_ended, f'stderr has "{text}"')
        assert self.stderr.count(text) >= times, self.stderr

    def result(self, deadline: float = DEADLINE) -> Result:
        """Wait for its end."""
        wait_until(lambda: self.has_ended, f"the command has ended; stderr so far:\n{self.stderr}", deadline)
        return Result(int(self._read("status")), self._read("stdout").decode(), self.stderr)


class FakeServer:
    """A startup process; for a with statement."""

    def __init__(self, standby: Standby, status: str = "starting") -> None:
        self.standby = standby
        self._folder = standby.folder / f"calls-{time.monotonic_ns()}"
        self._folder.mkdir()
        self._calls = 0
        self.tell(status)
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", _LOOP],
            cwd=standby.data.path,
            stdin=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "TZ": "UTC"},
        )

    def tell(self, status: str) -> None:
        """Write postmaster.pid, whose last line says what the server is doing."""
        folder = self.standby.data.path
        lines = [os.getpid(), folder, 1700000000, 5432, "", "127.0.0.1", "  5432001    32768", status]
        temporary = folder / "postmaster.pid.new"
        temporary.write_bytes("".join(f"{line}\n" for line in lines).encode())
        osdep.replace(str(temporary), str(folder / "postmaster.pid"))

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Whatever still waits, or looks ahead, takes this for the end of the server.
        (self.standby.data.path / "postmaster.pid").unlink(missing_ok=True)
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(DEADLINE)
        finally:
            self._process.kill()

    def kill(self) -> None:
        """Kill the startup process alone, which leaves cmd.exe and the command behind."""
        self._process.kill()
        self._process.wait()

    def start(self, *words: Argument, program: Sequence[Argument] = PROGRAM) -> Call:
        """Start a command; the next one starts when it has ended."""
        self._calls += 1
        path = self._folder / str(self._calls)
        command = subprocess.list2cmdline([str(word) for word in (*program, *words)])
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\t{command}\n")
        self._process.stdin.flush()
        return Call(path)

    def begin(self, name: str, *options: Argument, restart: str | None = None, to: Argument = RECOVERYXLOG) -> Call:
        """Ask for a file as a server does, and do not wait."""
        return self.start(*self.standby.command(name, *options, restart=restart, to=to))

    def ask(self, name: str, *options: Argument, restart: str | None = None, to: Argument = RECOVERYXLOG) -> Result:
        """Ask for a file as a server does, and wait for the answer."""
        return self.begin(name, *options, restart=restart, to=to).result()


@contextmanager
def held(path: Path, *, share: int, write: bool = False) -> Iterator[int]:
    """A file held open by somebody: ``share`` is 1 for others may read, 2 write, 4 rename and remove, all of them added up."""
    if sys.platform != "win32":
        raise NotImplementedError
    import _winapi

    access = _winapi.GENERIC_READ | (_winapi.GENERIC_WRITE if write else 0)
    handle = _winapi.CreateFile(str(path), access, share, 0, 3, 0, 0)
    try:
        yield handle
    finally:
        _winapi.CloseHandle(handle)


def spooled(standby: Standby) -> list[str]:
    """The segments in a standby's spool."""
    folder = standby.data.wal / ".pystandby"
    return sorted(name for name in os.listdir(folder) if len(name) == 24) if folder.is_dir() else []


def names(first: int, count: int) -> list[str]:
    """The names of so many segments, one after the other."""
    return [segments.name(number) for number in range(first, first + count)]
