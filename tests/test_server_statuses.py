"""What PostgreSQL really does with each exit status of DESIGN.md's table, in recovery mode and in standby mode.

The statuses are provoked through the installed pystandby, at a segment in the middle of recovery: the server is consistent, and
anything from 1 to 125 would promote it there. tests/test_exits.py holds the numbers to the table.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from support import segments
from support.command import PYSTANDBY
from support.matrix import scenario
from support.servers import QUICKLY, SLOW, Scene, eventually

from pystandby import exits

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)

both_modes = pytest.mark.parametrize("standby_mode", [False, True], ids=["recovery-mode", "standby-mode"])


# --- 0 ---------------------------------------------------------------------------------------------------------------


@both_modes
def test_0_delivered(scene: Scene, standby_mode: bool) -> None:
    """The server replays it."""
    scene.feed(to=5)
    standby = scene.standby(standby_mode=standby_mode, settings=QUICKLY).begin()
    standby.until_log(f"{scene.stock.names[5]} restored")
    if standby_mode:
        standby.until_rows(scene.stock.rows[5])
    else:
        command = standby.until_waiting(6)
        scene.together(command, word="")
        standby.until_promoted(scene.stock.rows[5])


# --- 1: the end of recovery was asked for ----------------------------------------------------------------------------


def by_smart_trigger(scene: Scene, command: int) -> None:
    scene.trigger("smart")


def by_fast_trigger(scene: Scene, command: int) -> None:
    scene.trigger("fast")


def by_sigusr1(scene: Scene, command: int) -> None:
    os.kill(command, signal.SIGUSR1)


def by_maxwaittime(scene: Scene, command: int) -> None:
    """Nothing to do: it is over in two seconds."""


ENDS = [by_smart_trigger, by_fast_trigger, by_sigusr1, by_maxwaittime]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_1_end_of_recovery_in_recovery_mode(scene: Scene, end: Callable[[Scene, int], None]) -> None:
    """It ends there: the server is promoted with what it has replayed, once and for all."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW, *(["-w", "2"] if end is by_maxwaittime else [])).begin()
    command = standby.until_waiting(4)
    end(scene, command)
    standby.until_promoted(scene.stock.rows[3])
    assert "selected new timeline ID: 2" in standby.log_text()
    assert not (standby.data_directory / "recovery.signal").exists()


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_1_end_of_recovery_in_standby_mode(scene: Scene, end: Callable[[Scene, int], None]) -> None:
    """The server only asks again: no status promotes it, nothing is refused it later, and nothing is lost."""
    scene.feed(to=3)
    options = ["--wait", "always", "-s", "1", *(["-w", "2"] if end is by_maxwaittime else [])]
    standby = scene.standby(*options, standby_mode=True, settings=QUICKLY).begin()
    command = standby.until_waiting(4)
    end(scene, command)
    if end in (by_sigusr1, by_maxwaittime):
        standby.until_log("is not waited for any more")
        eventually(lambda: standby.asked(4) >= 2, "it asks again", tell=standby.tell)
    else:
        standby.until_log("does nothing: the server is in standby mode")
    scene.feed(4, 5)
    eventually(lambda: standby.asked(6) >= 1, "it goes on", tell=standby.tell)
    eventually(lambda: scene.stock.rows[4] <= standby.rows() <= scene.stock.rows[5], "the rows are there", tell=standby.tell)
    standby.assert_not_promoted()
    if end is by_fast_trigger:
        assert scene.trigger_file.read_text() == "fast"


# --- 1: not in the archive -------------------------------------------------------------------------------------------


@both_modes
def test_1_no_such_history_file(scene: Scene, standby_mode: bool) -> None:
    """The server starts on the timeline that it knows."""
    scene.feed(to=2)
    standby = scene.standby("-s", SLOW, standby_mode=standby_mode, settings=QUICKLY)
    # Less than one SLEEPTIME.
    standby.launch()
    standby.wait_for_start(30)
    if scene.stock.installation.version >= 12:
        standby.until_log("00000002.history is not in the archive")
    assert standby.sql("SELECT timeline_id FROM pg_control_checkpoint()") == [(1,)]
    standby.assert_not_promoted()


def test_1_wait_never_in_recovery_mode(scene: Scene) -> None:
    """Whoever asks not to wait gets what cp gives: the first segment that is not there ends recovery."""
    scene.feed(to=3)
    standby = scene.standby("--wait", "never").begin(connections=False)
    standby.until_log("selected new timeline ID: 2")
    standby.until_promoted(scene.stock.rows[3])


@pytest.mark.parametrize("wait", ["auto", "never"])
def test_1_without_waiting_in_standby_mode(scene: Scene, wait: str) -> None:
    """The server asks again until it is there."""
    scene.feed(to=3)
    standby = scene.standby("--wait", wait, standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 3)
    scene.feed(4, 5)
    standby.until_rows(scene.stock.rows[5])
    standby.assert_not_promoted()


@pytest.mark.parametrize("there", [True, False], ids=["there", "absent"])
def test_1_under_pg_rewind(scene: Scene, there: bool) -> None:
    """It asks for segments by their final names, backwards; for one that is absent it must have its answer, not wait."""
    installation = scene.stock.installation
    if not installation.has("pg_rewind") and installation.version not in (16, 18):
        pytest.skip(f"there is no pg_rewind for the {installation} that was asked for by hand")
    scene.feed(to=scene.stock.last)
    # pg_rewind refuses %r.
    command = scene.restore_command("-s", SLOW).removesuffix(" %r")
    primary = scene.primary()
    primary.configure({"restore_command": command})
    primary.begin()
    standby = scene.standby().begin()
    standby.until_waiting(primary.switch_wal())
    scene.trigger()
    standby.until_promoted(primary.rows())
    standby.stop()
    # The old primary goes on for a while, and needs WAL for its way back that only the archive holds.
    for _ in range(3):
        primary.sql("INSERT INTO ledger (note) SELECT 'too much' FROM generate_series(1, 50)")
        primary.switch_wal()
    primary.sql("CHECKPOINT")
    primary.stop()
    archived = set(os.listdir(scene.archive))
    for path in (primary.data_directory / "pg_wal").iterdir():
        if path.name in archived:
            path.unlink()
    if not there:
        scene.archive.rename(scene.folder / "elsewhere")
        scene.archive.mkdir()
    words: list[str | Path] = [installation.program("pg_rewind"), "-c", "--no-sync", "-D", primary.data_directory]
    # Less than one SLEEPTIME.
    answer = subprocess.run(
        [*words, "--source-pgdata", standby.data_directory],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        env=primary.environment(),
    )
    if there:
        assert answer.returncode == 0, answer.stderr
        assert "Done!" in answer.stderr
        assert "asked by pg_rewind" in answer.stderr
        assert "restored" in answer.stderr
    else:
        assert answer.returncode == 1, answer.stderr
        assert "could not restore file" in answer.stderr
        assert "is not in the archive" in answer.stderr


# --- from 200 on: the server stops -----------------------------------------------------------------------------------


class Failure(NamedTuple):
    """A status that stops the server."""

    name: str
    status: int
    provoke: Callable[[Scene], str]
    """Returns the restore_command for segment 4 alone."""
    says: str


def usage(*options: str) -> Callable[[Scene], str]:
    return lambda scene: scene.restore_command(*options)


def unexpected(scene: Scene) -> str:
    """A defect in the middle of the program."""
    program = (
        "import sys, pystandby.run; pystandby.run.restore = lambda options: 1 // 0; from pystandby.launch import start; start()"
    )
    return scene.restore_command(program=(sys.executable, "-c", program))


def module_missing(scene: Scene) -> str:
    """The scripts are there, and the package is not, as after half an upgrade."""
    return scripts_alone(scene, Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def interpreter_gone(scene: Scene) -> str:
    """The scripts are there, and the Python that they were installed for is not, as after an upgrade of the system."""
    return scripts_alone(scene, Path("/nonexistent/python3"))


def interpreter_damaged(scene: Scene) -> str:
    """The Python is there, and cannot start, as in the middle of an upgrade of the system: it ends in 1 by itself."""
    python = scene.folder / "damaged-python3"
    # -E, the first word, would have it find its standard library all the same.
    python.write_text(f'#!/bin/sh\nshift\nPYTHONHOME=/nonexistent exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    started = subprocess.run([python, "-E", "-c", "pass"], capture_output=True, text=True, check=False)
    assert started.returncode == 1, started
    return scripts_alone(scene, python)


def scripts_alone(scene: Scene, python: Path) -> str:
    """The executable's two scripts, for a Python of choice, without a package beside them."""
    folder = scene.folder / "bin"
    folder.mkdir()
    shutil.copy(PYSTANDBY, folder)
    body = PYSTANDBY.with_name("pystandby-python").read_text().partition("\n")[2]
    (folder / "pystandby-python").write_text(f"#!{python}\n{body}")
    (folder / "pystandby-python").chmod(0o755)
    return scene.restore_command(program=(folder / "pystandby",))


def dependency_missing(scene: Scene) -> str:
    """The package is there, and click is not."""
    program = "import sys; sys.modules['click'] = None; from pystandby.launch import start; start()"
    return scene.restore_command("-s1x", program=(sys.executable, "-c", program))


def destination_full(scene: Scene) -> str:
    scene.feed(4)
    return scene.restore_command("-r", "0", before="ulimit -f 64; ")


def source_broken(scene: Scene) -> str:
    """A file whose first byte cannot be read: an I/O error, without a disk that has one."""
    (scene.archive / scene.stock.names[4]).symlink_to("/proc/self/mem")
    return scene.restore_command("-r", "1")


def of_another_cluster(scene: Scene) -> str:
    content = bytearray(scene.stock.read(4))
    identifier = int.from_bytes(content[24:32], sys.byteorder)
    content[24:32] = (identifier ^ 0x5A5A).to_bytes(8, sys.byteorder)
    scene.put(scene.stock.names[4], bytes(content))
    return scene.restore_command()


def another_segment(scene: Scene) -> str:
    scene.put(scene.stock.names[4], scene.stock.read(5))
    return scene.restore_command()


def too_long(scene: Scene) -> str:
    scene.put(scene.stock.names[4], scene.stock.read(4) + bytes(8192))
    return scene.restore_command()


def new_timeline(scene: Scene) -> str:
    """Its history says that timeline 1 ended before segment 4."""
    left = segments.number(scene.stock.names[4]) << 20
    scene.put("00000002.history", segments.history((1, left)))
    return scene.restore_command("--on-new-timeline", "stop")


def archive_unavailable(scene: Scene) -> str:
    return scene.restore_command("--wait", "never", archive=Path("/nonexistent/archive"))


FAILURES = [
    Failure("usage-unknown-option", exits.USAGE, usage("--no-such-option"), 'unknown option "--no-such-option"'),
    Failure("usage-out-of-range", exits.USAGE, usage("-s", "0"), "from 1 to 60"),
    Failure("unexpected", exits.UNEXPECTED, unexpected, "unexpected ZeroDivisionError"),
    Failure("module-missing", exits.MODULE_MISSING, module_missing, "pystandby cannot be started"),
    Failure("interpreter-damaged", exits.MODULE_MISSING, interpreter_damaged, "No module named 'encodings'"),
    Failure("interpreter-gone", 127, interpreter_gone, "/nonexistent/python3"),
    Failure("dependency-missing", exits.MODULE_MISSING, dependency_missing, "a module cannot be imported"),
    Failure("destination", exits.DESTINATION_FAILED, destination_full, 'could not write "pg_wal/RECOVERYXLOG": File too large'),
    Failure("source", exits.SOURCE_FAILED, source_broken, "could not read"),
    Failure("another-clusters", exits.WRONG_SEGMENT, of_another_cluster, "is of another cluster"),
    Failure("another-segment", exits.WRONG_SEGMENT, another_segment, "holds another segment"),
    Failure("too-long", exits.WRONG_SEGMENT, too_long, "is too long"),
    Failure("archive-unavailable", exits.ARCHIVE_UNAVAILABLE, archive_unavailable, "cannot be read: No such file or directory"),
]

NEW_TIMELINE = Failure("new-timeline", exits.NEW_TIMELINE, new_timeline, "the archive has gone on to timeline 2")

IN_THE_MATRIX = ("another-segment-recovery", "another-segment-standby")

CASES = [
    *(
        pytest.param(
            failure,
            mode,
            id=(name := f"{failure.name}-{mode}"),
            marks=[scenario("a segment that can never become right")] if name in IN_THE_MATRIX else [],
        )
        for failure in FAILURES
        for mode in ("recovery", "standby")
    ),
    # In standby mode the server follows the new timeline by itself: see test_warm_standby.py.
    pytest.param(NEW_TIMELINE, "recovery", id="new-timeline-recovery"),
]


@pytest.mark.faults
@pytest.mark.parametrize(("failure", "mode"), CASES)
def test_failures_stop_the_server_and_lose_nothing(scene: Scene, failure: Failure, mode: str) -> None:
    standby_mode = mode == "standby"
    if failure.status == exits.UNEXPECTED:
        scene.allowed.append("This is a defect of pystandby")
    scene.feed(to=3)
    # Without look-ahead, which would have the segment ready before anything can be wrong with it.
    good = scene.restore_command("--look-ahead", "0")
    # After segment 3: the timeline's history is asked for before, and its absence must not be what stops the server.
    bad = failure.provoke(scene)
    name = scene.stock.names[4]
    history = "" if failure.status != exits.NEW_TIMELINE else "[ %f != 00000002.history ] || exit 1; "
    command = f"{history}if [ %f = {name} ]; then {bad}; else {good}; fi"
    standby = scene.standby(restore_command=command, standby_mode=standby_mode, settings=QUICKLY).begin(connections=False)
    log = standby.until_down()
    how = "command not found" if failure.status == 127 else f"child process exited with exit code {failure.status}"
    assert f'could not restore file "{name}" from archive: {how}' in log, log
    assert failure.says in log, log
    assert f"{scene.stock.names[3]} restored" in log, log
    standby.assert_not_promoted()
    assert standby.left_behind() == []
    # The cause is mended.
    (scene.archive / "00000002.history").unlink(missing_ok=True)
    (scene.archive / name).unlink(missing_ok=True)
    scene.feed(4, 5)
    standby.reconfigure({"restore_command": good})
    standby.begin()
    if standby_mode:
        standby.until_rows(scene.stock.rows[5])
    else:
        standby.until_waiting(6)
        scene.trigger()
        standby.until_promoted(scene.stock.rows[5])


@both_modes
def test_203_interrupted(scene: Scene, standby_mode: bool) -> None:
    """Under a server SIGINT is ignored (see test_signals_on_servers.py); where somebody sees to it that it is not, it stops."""
    scene.feed(to=3)
    program = (
        "import sys, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from pystandby.launch import start; start()"
    )
    command = scene.restore_command("--wait", "always", program=(sys.executable, "-c", program))
    standby = scene.standby(restore_command=command, standby_mode=standby_mode).begin()
    os.kill(standby.until_waiting(4), signal.SIGINT)
    assert f"exit code {exits.INTERRUPTED}" in standby.until_down()
    standby.assert_not_promoted()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGQUIT"])
def test_death_by_the_postmasters_signals_in_standby_mode(scene: Scene, how: str) -> None:
    """As in recovery mode (test_signals_on_servers.py): the server stops, and SIGTERM is taken for its own shutdown."""
    scene.feed(to=3)
    standby = scene.standby("--wait", "always", standby_mode=True).begin()
    os.kill(standby.until_waiting(4), signal.Signals[how])
    log = standby.until_down()
    assert how == "SIGTERM" or "exit code 131" in log, log
    standby.assert_not_promoted()


def test_on_failure_end_recovery_is_for_those_who_ask_for_it(scene: Scene) -> None:
    """pg_standby's documented behaviour: MAXRETRIES failed copies end recovery, and the server is promoted."""
    scene.feed(to=3)
    (scene.archive / scene.stock.names[4]).symlink_to("/proc/self/mem")
    standby = scene.standby("-r", "1", "--on-failure", "end-recovery").begin(connections=False)
    standby.until_log("selected new timeline ID: 2")
    standby.until_promoted(scene.stock.rows[3])
