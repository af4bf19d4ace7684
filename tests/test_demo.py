from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pystandby import demo
from pystandby.cluster import Account, Cluster, Installation
from pystandby.exits import StandbyError

PYSTANDBY = Path(sys.executable).parent / "pystandby"

pytestmark = pytest.mark.timeout(180)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYSTANDBY, "demo", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    # What the person who starts it has set for other servers must not matter.
    return {**os.environ, "PGDATA": "/nowhere", "PGHOST": "nowhere", "PGPORT": "1", "PGUSER": "nobody"}


def _folder(output: str) -> Path:
    found = re.search(r"everything is in (\S+)", output)
    assert found, output
    return Path(found[1])


def _processes_of(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            place = os.readlink(process / "cwd")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in place or str(folder) in command:
            found.append(f"{process.name} {command}")
    return found


def _assert_nothing_left(folder: Path) -> None:
    assert not folder.exists()
    assert _processes_of(folder) == []


def test_smart() -> None:
    answer = _run("--seconds", "3")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stderr == ""
    assert "pystandby" in answer.stdout.partition("restore_command = ")[2]
    segments = re.search(r"^segments +(\d+) of 2 MB archived since the base backup, (\d+) restored$", answer.stdout, re.M)
    assert segments, answer.stdout
    assert int(segments[1]) >= 2
    assert segments[1] == segments[2]
    assert re.search(r"^following +\d+ waited for: \d+ ms \(median; at most \d+\)", answer.stdout, re.M)
    assert re.search(r"^failover +smart trigger to first write: \d+\.\d\d s$", answer.stdout, re.M)
    assert re.search(r"^rows +\d+ on both servers, identical in all columns", answer.stdout, re.M)
    assert answer.stdout.endswith("The standby has taken over.\n")
    _assert_nothing_left(_folder(answer.stdout))


def test_fast() -> None:
    answer = _run("--seconds", "3", "--fast")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stderr == ""
    assert re.search(r"^failover +fast trigger to first write: \d+\.\d\d s$", answer.stdout, re.M)
    rows = re.search(r"exactly the first (\d+) of (\d+) transactions; (\d+) rows were left behind", answer.stdout)
    assert rows, answer.stdout
    assert 0 < int(rows[1]) < int(rows[2])
    assert int(rows[3]) > 0
    _assert_nothing_left(_folder(answer.stdout))


def test_keep() -> None:
    answer = _run("--seconds", "1", "--keep")
    folder = _folder(answer.stdout)
    try:
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert f"Kept, with both servers stopped: {folder}" in answer.stdout
        assert (folder / "primary" / "data" / "PG_VERSION").exists()
        assert (folder / "standby" / "log").exists()
        assert _processes_of(folder) == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running_until(text: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demonstration that has just printed `text`, and what it has printed up to there."""
    with subprocess.Popen(
        [PYSTANDBY, "demo", "--seconds", "12"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
    ) as process:
        assert process.stdout
        printed = ""
        try:
            for line in process.stdout:
                printed += line
                if text in line:
                    break
            else:
                pytest.fail(f"it never said {text!r}: {printed}")
            yield process, printed
        finally:
            if process.poll() is None:
                process.terminate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["everything is in", "primary     runs", "base backup taken", "outstanding  0"])
def test_interrupted(moment: str, number: signal.Signals) -> None:
    with _running_until(moment) as (process, printed):
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert f"LOG:  stopping both servers: {number.name}" in errors
        assert "WARNING" not in errors
        _assert_nothing_left(_folder(printed))


def test_nobody_reads_it() -> None:
    with _running_until("primary     runs") as (process, printed):
        assert process.stdout
        process.stdout.close()
        process.wait(60)
        assert process.stderr
        assert "Traceback" not in process.stderr.read()
        assert process.returncode == 1
        _assert_nothing_left(_folder(printed))


def test_no_such_postgresql() -> None:
    answer = _run("--postgres", "9")
    assert answer.returncode == 1
    assert "ERROR:  PostgreSQL 9 was not found\nDETAIL:  " in answer.stderr
    assert "HINT:  " in answer.stderr


def test_a_program_that_the_servers_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pystandby"
    program.write_text("#!/bin/sh\necho 'ERROR:  broken' >&2\nexit 202\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(StandbyError, match="the server cannot start this pystandby") as caught:
        demo._restore_program(None)
    assert caught.value.detail == f"{program} --version: ERROR:  broken"


def test_a_program_out_of_the_accounts_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pystandby"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    # As if we were root; what is done as the account is done as ourselves.
    monkeypatch.setattr(Account, "run_as", lambda _: {})
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(StandbyError, match="user somebody, as whom the servers run, cannot start") as caught:
        demo._restore_program(Account("somebody", 1, 1))
    assert "somebody can reach it" in caught.value.hint


LOG = """\
2026-01-01 00:00:10.000 UTC [7] LOG:  restored log file "000000010000000000000002" from archive
2026-01-01 00:00:10.020 UTC [7] LOG:  restored log file "000000010000000000000003" from archive
2026-01-01 00:00:11.000 UTC [7] LOG:  restored log file "000000010000000000000004" from archive
2026-01-01 00:00:12.000 UTC [7] LOG:  redo done at 0/4000028
2026-01-01 00:00:12.500 UTC [7] LOG:  restored log file "000000010000000000000004" from archive
2026-01-01 00:00:12.600 UTC [7] LOG:  restored log file "00000002.history" from archive
"""

MIDNIGHT = 1767225600.0


def test_restored_segments_are_read_from_the_log() -> None:
    # The last one is asked for again at the end of recovery; that is no second delivery.
    assert demo._restored(LOG) == {
        "000000010000000000000002": MIDNIGHT + 10,
        "000000010000000000000003": MIDNIGHT + 10.02,
        "000000010000000000000004": MIDNIGHT + 11,
    }


def test_archived_segments(tmp_path: Path) -> None:
    for name in (
        "000000010000000000000001",
        "000000010000000000000003",
        "000000010000000000000002",
        ".000000010000000000000004.part",
        "000000010000000000000002.00000028.backup",
        "000000020000000000000004",
        "00000002.history",
    ):
        (tmp_path / name).touch()
    assert list(demo._archived(tmp_path, "000000010000000000000002")) == [
        "000000010000000000000002",
        "000000010000000000000003",
    ]


def test_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = {2: MIDNIGHT, 3: MIDNIGHT + 1, 4: MIDNIGHT + 10.99}
    monkeypatch.setattr(
        demo, "_archived", lambda *_: {f"00000001000000000000000{number}": time for number, time in arrived.items()}
    )
    for number in arrived:
        (tmp_path / f"00000001000000000000000{number}").write_bytes(bytes(1 << 20))
    standby = Cluster(Installation(Path("/pg/16/bin"), 16), tmp_path, "s")
    standby.log.write_text(LOG)
    figures = demo._Figures(tmp_path, standby, "000000010000000000000002")
    # Segment 3 had been there for long when the server asked for it; segment 4 came while it waited.
    assert figures.caught_up == pytest.approx([0.02], abs=1e-4)
    assert figures.delivered == pytest.approx([0.01], abs=1e-4)
    assert dict(figures.lines())["segments"] == "3 of 1 MB archived since the base backup, 3 restored"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_line_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda fallback=(80, 24): os.terminal_size((20, 24)))
    stream = _Terminal()
    view = demo._View(stream)
    view.draw("first")
    view.draw("second " + "x" * 80)
    view.end()
    view.end()
    assert stream.getvalue() == "\r\x1b[K  0 s  first\r\x1b[K  0 s  second xxxxx\n"


def test_elsewhere_each_state_has_a_line() -> None:
    stream = io.StringIO()
    view = demo._View(stream)
    assert view.is_due()
    view.draw("first")
    assert not view.is_due()
    view.draw("second")
    view.end()
    assert stream.getvalue() == "  0 s  first\n  0 s  second\n"
