"""Where messages go is full, closed, or has no reader: the restore goes on, and the status stays what it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, RECOVERYXLOG, Argument, Result, Standby, run

from pystandby import exits

pytestmark = pytest.mark.faults

NAME = segments.name(5)

REDIRECTIONS = {
    "closed stderr": "2>&-",
    "closed stdout": ">&-",
    "everything closed": "<&- >&- 2>&-",
    "full disk": ">/dev/full 2>/dev/full",
    "full disk, nothing else": "<&- >/dev/full 2>/dev/full",
    "read-only stderr": "2</dev/null",
}

each_redirection = pytest.mark.parametrize("redirection", REDIRECTIONS.values(), ids=REDIRECTIONS.keys())


def redirected(redirection: str) -> list[Argument]:
    return ["/bin/sh", "-c", f'exec "$0" "$@" {redirection}', PYSTANDBY]


@each_redirection
def test_a_restore(standby: Standby, redirection: str) -> None:
    """With -d, which says much; a message must never land in the segment, whose descriptor could be number 2."""
    content = standby.put(NAME)
    result = run(*standby.command(NAME, "-d"), cwd=standby.data.path, program=redirected(redirection))
    assert result.status == exits.DELIVERED
    assert standby.delivered() == content
    assert (standby.archive / NAME).read_bytes() == content
    assert standby.data.left_behind() == []


@each_redirection
def test_every_other_status(standby: Standby, redirection: str) -> None:
    program = redirected(redirection)
    history = run(*standby.command("00000002.history", "-d"), cwd=standby.data.path, program=program)
    assert history.status == exits.NOT_IN_ARCHIVE
    standby.put(NAME, b"x" * (1 << 20))
    assert run(*standby.command(NAME, "-d"), cwd=standby.data.path, program=program).status == exits.WRONG_SEGMENT
    (standby.archive / NAME).unlink()
    assert run(*standby.command(NAME, "-dw1", "-s1"), cwd=standby.data.path, program=program).status == exits.END_OF_RECOVERY
    assert run("--no-such-option", cwd=standby.data.path, program=program).status == exits.USAGE
    assert run("..", "../x", RECOVERYXLOG, cwd=standby.data.path, program=program).status == exits.USAGE
    assert run(cwd=standby.data.path, program=program).status == exits.USAGE


@pytest.fixture
def pipe_without_reader() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("as_server", [True, False], ids=["SIGPIPE ignored", "SIGPIPE kills"])
def test_a_pipe_without_a_reader(standby: Standby, pipe_without_reader: int, as_server: bool) -> None:
    """The logging collector has died. Under a server SIGPIPE is ignored; a script may have left it at its default."""
    content = standby.put(NAME)
    for stream in ("stdout", "stderr"):
        streams = {stream: pipe_without_reader}
        result = run(*standby.command(NAME, "-d"), cwd=standby.data.path, as_server=as_server, **streams)  # type: ignore[arg-type]
        assert result.status == exits.DELIVERED
        assert standby.delivered() == content
        standby.restored.unlink()
        history = standby.command("00000002.history", "-d")
        result = run(*history, cwd=standby.data.path, as_server=as_server, **streams)  # type: ignore[arg-type]
        assert result.status == exits.NOT_IN_ARCHIVE


def test_a_full_pipe_that_nobody_reads_holds_up_the_restore_but_loses_nothing(standby: Standby, tmp_path: Path) -> None:
    """A stuck log reader: writing to it blocks, as it blocks the server itself; the answer is right once it is read."""
    content = standby.put(NAME)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(65536))
    except BlockingIOError:
        pass
    os.set_blocking(writer, True)
    command = [PYSTANDBY, *standby.command(NAME, "-d")]
    process = subprocess.Popen(command, cwd=standby.data.path, stderr=writer, stdin=subprocess.DEVNULL, start_new_session=True)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        pipe.read()
    assert process.wait(60) == exits.DELIVERED
    assert standby.delivered() == content


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("-V",)])
def test_help_that_cannot_be_written_is_an_error(words: tuple[str, ...]) -> None:
    """Of a person's: Python itself would end in 120."""
    assert run(*words, program=redirected(">/dev/full")).status >= 200
    assert run(*words).status == 0


@pytest.mark.parametrize(
    "path", [b"new\nline", b"carriage\rreturn", b"\xff\xfe", b"\x1b[2Jescape", "Ünïcödé €".encode()], ids=repr
)
def test_odd_bytes_in_what_is_said(standby: Standby, path: bytes) -> None:
    """A message stays one line for each of its parts, and names the path."""
    odd = os.fsdecode(os.fsencode(standby.folder) + b"/" + path)
    os.mkdir(odd)
    result: Result = run(odd, NAME, RECOVERYXLOG, "-w1", "-s1", "-d", "-t", f"{odd}/failover", cwd=standby.data.path)
    assert result.status == exits.END_OF_RECOVERY
    lines = result.stderr.splitlines()
    assert all("pystandby" in line for line in lines), lines
