"""recovery_end_command: trigger file and spool are gone after a failover, and the new primary is never in danger."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, Argument, Installation, Result, Standby, run, wait_until
from support.matrix import scenario
from support.servers import Scene, Server, alive, eventually

pytest_plugins = ["support.servers"]

NAME = segments.name(5)


@pytest.fixture
def ended(standby: Standby) -> Standby:
    """A server whose recovery has ended: it removes its signal file before it runs recovery_end_command."""
    (standby.data.path / "recovery.signal").unlink()
    return standby


def end(standby: Standby, *options: Argument) -> Result:
    """Run recovery_end_command = 'pystandby recovery-end -t TRIGGERFILE'."""
    return run("recovery-end", "-t", standby.trigger, *options, cwd=standby.data.path)


def spool(standby: Standby) -> Path:
    return standby.data.wal / ".pystandby"


def fill_spool(standby: Standby) -> None:
    """Leave what restores leave behind them."""
    spool(standby).mkdir()
    for name in (NAME, f"{segments.name(6)}.pystandby", "refused", "said", "pruned", "archive", "position", "said.4711"):
        (spool(standby) / name).write_text("x\n")


def stays(result: Result, reason: str, hint: str = "HINT:") -> bool:
    """Whether a call ended with 1 and warned of what stays."""
    assert result.status == 1, result
    assert result.stderr.count("WARNING:") == 1, result.stderr
    assert reason in result.stderr, result.stderr
    assert hint in result.stderr, result.stderr
    return True


# What is removed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["", "smart", "fast\n", "nonsense"])
def test_the_trigger_file(ended: Standby, word: str) -> None:
    ended.pull_trigger(word)
    assert end(ended) == (0, "", "")
    assert not ended.trigger.exists()
    # Again, and where there never was one.
    assert end(ended) == (0, "", "")
    assert run("recovery-end", cwd=ended.data.path) == (0, "", "")


def test_the_spool_and_what_was_remembered(ended: Standby) -> None:
    fill_spool(ended)
    (ended.data.wal / NAME).write_text("the server's own")
    for _ in range(2):
        assert end(ended) == (0, "", "")
        assert sorted(os.listdir(ended.data.wal)) == [NAME]


def test_the_child_that_looks_ahead(standby: Standby) -> None:
    for number in range(5, 30):
        standby.put(segments.name(number))
    with standby.server() as server:
        assert server.run(*standby.command(NAME, "--look-ahead", "4")).status == 0
        lock = spool(standby) / "lock"
        wait_until(lambda: lock.exists() and lock.read_text() != "", "a child has the spool")
        child = int(lock.read_text().split()[0])
        wait_until((spool(standby) / segments.name(6)).exists, "it has made something ready")
        (standby.data.path / "recovery.signal").unlink()
        assert server.run("recovery-end", "-t", standby.trigger) == (0, "", "")
        assert not alive(child)
        assert not spool(standby).exists()


def test_before_version_10(ended: Standby) -> None:
    (ended.data.path / "pg_xlog" / ".pystandby").mkdir(parents=True)
    assert end(ended) == (0, "", "")
    assert os.listdir(ended.data.path / "pg_xlog") == []


def test_debug(ended: Standby) -> None:
    ended.pull_trigger()
    assert f'DEBUG:  trigger file "{ended.trigger}" is removed' in end(ended, "-d").stderr


def test_by_hand_in_another_directory(ended: Standby) -> None:
    ended.pull_trigger()
    fill_spool(ended)
    (ended.folder / "pg_wal" / ".pystandby").mkdir(parents=True)
    assert run("recovery-end", "-t", ended.trigger, cwd=ended.folder) == (0, "", "")
    assert not ended.trigger.exists()
    # Only a data directory has a spool of ours.
    assert (ended.folder / "pg_wal" / ".pystandby").exists()
    assert spool(ended).exists()


# What stays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recovery.signal", "standby.signal", "recovery.conf"])
def test_while_recovery_goes_on(ended: Standby, name: str) -> None:
    (ended.data.path / name).touch()
    ended.pull_trigger("fast")
    fill_spool(ended)
    before = sorted(os.listdir(spool(ended)))
    result = end(ended)
    assert result.status == 1
    assert "ERROR:  recovery has not ended" in result.stderr
    assert f"{name} is in the data directory" in result.stderr
    assert ended.trigger.read_text() == "fast"
    assert sorted(os.listdir(spool(ended))) == before


def test_a_link_of_ones_own(ended: Standby) -> None:
    target = ended.folder / "elsewhere"
    target.write_text("fast")
    ended.trigger.symlink_to(target)
    assert end(ended) == (0, "", "")
    assert not ended.trigger.is_symlink()
    assert target.read_text() == "fast"


@pytest.mark.parametrize("sticky", [0, stat.S_ISVTX])
def test_what_others_may_have_planted(ended: Standby, sticky: int) -> None:
    """In a directory that everybody may write to: a link, or a second name of a file of the server's own."""
    ended.trigger.parent.chmod(0o777 | sticky)
    victim = ended.data.path / "postgresql.conf"
    victim.write_text("precious")
    ended.trigger.symlink_to(victim)
    assert stays(end(ended), "is not a plain file, so it stays", "HINT:  Make it as root")
    assert ended.trigger.is_symlink()
    ended.trigger.unlink()
    os.link(victim, ended.trigger)
    assert stays(end(ended), "has another name elsewhere")
    assert ended.trigger.exists()
    assert victim.read_text() == "precious"
    # Whoever made it.
    assert end(ended, "--trust-trigger") == (0, "", "")
    assert not ended.trigger.exists()
    assert victim.read_text() == "precious"
    # One that would have been obeyed.
    ended.pull_trigger()
    assert end(ended) == (0, "", "")
    assert not ended.trigger.exists()


def test_a_directory(ended: Standby) -> None:
    ended.trigger.mkdir()
    fill_spool(ended)
    assert stays(end(ended), f'trigger file "{ended.trigger}" is not a plain file')
    assert ended.trigger.is_dir()
    # What can be done is done.
    assert not spool(ended).exists()


def test_no_right_to_remove_it(ended: Standby) -> None:
    assert os.geteuid(), "to root no folder is read-only: run the tests as an ordinary user"
    ended.pull_trigger()
    ended.trigger.parent.chmod(0o500)
    try:
        assert stays(end(ended), "could not be removed: Permission denied", "HINT:  Remove it by hand.")
    finally:
        ended.trigger.parent.chmod(0o700)
    assert end(ended) == (0, "", "")


def test_a_spool_that_is_none(ended: Standby) -> None:
    elsewhere = ended.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    spool(ended).symlink_to(elsewhere)
    assert stays(end(ended), "could not be removed: it is not a folder")
    assert os.listdir(elsewhere) == ["precious"]
    spool(ended).unlink()
    (spool(ended) / "a folder").mkdir(parents=True)
    assert stays(end(ended), "could not be removed")


# No status but 0 and 1 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["-x"], ["-t"], ["-t", ""], ["more"], ["--trigger"], ["-t", "x", "--no-such-option"], ["--trust-trigger=1"]]
)
def test_usage_error(ended: Standby, words: list[str]) -> None:
    result = run("recovery-end", *words, cwd=ended.data.path)
    assert result.status == 1
    assert "ERROR:" in result.stderr
    assert 'HINT:  Try "pystandby recovery-end --help"' in result.stderr


@pytest.mark.parametrize("package", ["click", "pystandby/recovery_end.py", "pystandby/spool.py", "pystandby/say.py"])
def test_a_damaged_installation(ended: Standby, package: str) -> None:
    broken = Installation(ended.folder / "broken")
    (broken.site / package).unlink()
    result = broken.run("recovery-end", "-t", ended.trigger, cwd=ended.data.path)
    assert result.status == 1
    assert "ERROR:" in result.stderr


# Real servers -----------------------------------------------------------------------------------------------------------


def prepared(scene: Scene, *options: Argument, standby_mode: bool = False, command: str = "") -> Server:
    """A standby with recovery_end_command, and segments up to the fourth."""
    standby = scene.standby(*options, standby_mode=standby_mode)
    standby.reconfigure({"recovery_end_command": command or f"exec {PYSTANDBY} recovery-end -t {scene.trigger_file}"})
    scene.feed(to=4)
    return standby.begin()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("word", ["", "fast\n"])
@scenario("pystandby recovery-end")
def test_after_a_failover(scene: Scene, word: str) -> None:
    standby = prepared(scene, "--look-ahead", "4")
    standby.until_waiting(5)
    scene.trigger(word)
    standby.until_promoted(scene.stock.rows[4])
    assert not scene.trigger_file.exists()
    assert not (standby.data_directory / "pg_wal" / ".pystandby").exists()
    assert "recovery_end_command" not in standby.log_text(), standby.tell()


@pytest.mark.timeout(300)
def test_after_a_failover_in_standby_mode(scene: Scene) -> None:
    standby = prepared(scene, "--promote", standby_mode=True)
    standby.until_rows(scene.stock.rows[4])
    scene.trigger()
    standby.until_promoted(scene.stock.rows[4])
    assert not scene.trigger_file.exists()
    assert not (standby.data_directory / "pg_wal" / ".pystandby").exists()


@pytest.mark.timeout(300)
def test_up_to_11(scene11: Scene) -> None:
    standby = prepared(scene11)
    standby.until_waiting(5)
    scene11.trigger("fast")
    standby.until_promoted(scene11.stock.rows[4])
    assert not scene11.trigger_file.exists()
    assert not (standby.data_directory / "pg_wal" / ".pystandby").exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["it cannot be removed", "the command line is wrong", "the package is missing"])
def test_no_failure_takes_the_new_primary_down(scene: Scene, what: str) -> None:
    folder = scene.folder / "triggers"
    folder.mkdir()
    scene.trigger_file = folder / "failover"
    command = f"exec {PYSTANDBY} recovery-end -t {scene.trigger_file}"
    if what == "the command line is wrong":
        command += " --no-such-option"
    elif what == "the package is missing":
        broken = Installation(scene.folder / "broken")
        (broken.package / "launch.py").unlink()
        command = f"exec {broken.pystandby} recovery-end -t {scene.trigger_file}"
    standby = prepared(scene, command=command)
    standby.until_waiting(5)
    # A real one, in a folder that is then closed.
    segments.put(folder, "failover", b"")
    if what == "it cannot be removed":
        folder.chmod(0o500)
    try:
        standby.until_promoted(scene.stock.rows[4])
        assert scene.trigger_file.exists()
    finally:
        folder.chmod(0o700)
    assert "WARNING:  recovery_end_command" in standby.log_text()
    eventually(standby.is_running, "it goes on")
