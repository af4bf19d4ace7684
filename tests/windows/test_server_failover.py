"""Warm standbys on Windows, fed from a WAL archive, from their first query to every way of bringing them up."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from support.command import PYSTANDBY, Argument, environment, run
from support.servers import SLOW, eventually

from windows.servers import WindowsScene, WindowsServer, with_clients, words_for_cmd

pytest_plugins = ["windows.servers"]

pytestmark = pytest.mark.timeout(180)


def begin_primary(scene: WindowsScene, archive_command: str) -> WindowsServer:
    """A primary that goes on where the stock ends."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary()
    primary.configure({"archive_command": archive_command})
    primary.begin()
    return primary


def fails_over(scene: WindowsScene, primary: WindowsServer, standby: WindowsServer) -> None:
    """Feed a standby by a primary, lose the primary, and bring the standby up by a smart trigger."""
    standby.begin()
    for _ in range(2):
        rows = primary.archive_rows()
        standby.until_rows(rows)
        assert standby.in_recovery()
    eventually(standby.commands, "a command waits", tell=standby.tell)
    # What is not archived yet is lost; what is archived is not.
    rows = primary.archive_rows()
    primary.stop("immediate")
    scene.trigger_file.touch()
    standby.until_promoted(rows)
    assert not scene.trigger_file.exists(), "recovery_end_command removes it"
    assert "archive command failed" not in primary.log_text(), primary.tell()


def test_the_lines_of_the_manual_page(scene: WindowsScene) -> None:
    """pg_standby's for Windows, with copy, del, no option but its own, and the name of the program exchanged."""
    archive = str(scene.archive)
    assert " " not in archive, "they have no quotes"
    primary = begin_primary(scene, rf"copy %p {archive}\%f")
    restore_command = rf"{PYSTANDBY} -d -s 1 -t {scene.trigger_file} {archive} %f %p %r 2>>standby.log"
    standby = scene.standby(
        restore_command=restore_command,
        settings={"recovery_end_command": f"del {scene.trigger_file}", **scene.seen_at_once},
    )
    fails_over(scene, primary, standby)
    assert "restored" in (standby.data_directory / "standby.log").read_text()


def test_a_failover_with_our_own_commands(scene: WindowsScene) -> None:
    primary = begin_primary(scene, f'{words_for_cmd(PYSTANDBY, "archive", scene.archive)} "%p" %f')
    recovery_end_command = words_for_cmd(PYSTANDBY, "recovery-end", "-t", scene.trigger_file)
    standby = scene.standby(settings={"recovery_end_command": recovery_end_command, **scene.seen_at_once})
    fails_over(scene, primary, standby)
    assert not list(scene.archive.glob("*.pystandby*")), "no half copy stays in the archive"


def test_a_smart_trigger(scene: WindowsScene) -> None:
    scene.feed(to=2)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(3)
    scene.together(command, 3, 4, word="smart\r\n")
    standby.until_promoted(scene.stock.rows[4])


def test_a_fast_trigger(scene: WindowsScene) -> None:
    scene.feed(to=2)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(3)
    scene.together(command, 3, 4, word="fast\r\n")
    standby.until_promoted(scene.stock.rows[2])
    assert scene.trigger_file.read_bytes() == b""


def test_pystandby_trigger(scene: WindowsScene) -> None:
    """By a person: it waits until the server takes writes, and says so."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    standby.until_waiting(4)
    scene.feed(4)
    words = ["trigger", "smart", "--wait", "90", "--pgdata", str(standby.data_directory)]
    result = run(*words, env=environment(**with_clients()), as_server=False, deadline=100)
    assert result.status == 0, result
    assert not standby.in_recovery()
    assert standby.rows() == scene.stock.rows[4]
    # What is not in recovery any more is not to be brought out of it.
    result = run(*words, env=environment(**with_clients()), as_server=False)
    assert result.status == 1, result
    assert "not in recovery" in result.stderr


def test_pg_ctl_promote(scene: WindowsScene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    standby.until_waiting(4)
    standby.promote()
    standby.until_promoted(scene.stock.rows[3])


def test_maxwaittime(scene: WindowsScene) -> None:
    scene.feed(to=3)
    began = time.monotonic()
    standby = scene.standby("-w", "2").begin(connections=False)
    standby.until_promoted(scene.stock.rows[3])
    assert time.monotonic() - began > 2
    assert "MAXWAITTIME" in standby.log_text()


def test_pruning(scene: WindowsScene) -> None:
    """%r is a file name of its own, and what a restart needs stays."""
    last = scene.stock.last
    scene.feed(to=last - 2)
    standby = scene.standby(settings=scene.seen_at_once).begin()
    standby.until_rows(scene.stock.rows[last - 2])
    assert (scene.archive / scene.stock.names[0]).exists()
    standby.sql("CHECKPOINT")
    # The command that waits was started before; the next one is told.
    for segment in (last - 1, last):
        scene.feed(segment)
        standby.until_rows(scene.stock.rows[segment])
    eventually(lambda: not (scene.archive / scene.stock.names[2]).exists(), "old segments are removed", tell=standby.tell)
    # Segment 3 has the checkpoint that the restartpoint was made of.
    assert sorted(path.name for path in scene.archive.iterdir()) == [*scene.stock.names[3:]]
    standby.stop("fast")
    standby.begin()
    standby.until_rows(scene.stock.rows[last])
    assert standby.in_recovery()


def test_the_archive_is_away_for_a_while(scene: WindowsScene) -> None:
    scene.feed(to=3)
    standby = scene.standby(settings=scene.seen_at_once).begin()
    standby.until_waiting(4)
    away = scene.archive.with_name("away")
    scene.archive.rename(away)
    standby.until_log("cannot be read")
    standby.assert_not_promoted()
    away.rename(scene.archive)
    standby.until_log("can be read again")
    scene.feed(to=5)
    standby.until_rows(scene.stock.rows[5])
    standby.assert_not_promoted()


def test_the_archive_is_not_there_at_the_start(scene: WindowsScene) -> None:
    scene.archive.rmdir()
    standby = scene.standby().begin(connections=False)
    standby.until_log("cannot be read")
    standby.assert_not_promoted()
    scene.archive.mkdir()
    scene.feed(to=3)
    standby.until_rows(scene.stock.rows[2])


def test_a_torn_segment(scene: WindowsScene) -> None:
    """Half of it and zeros, as copy leaves when it is killed: not handed over; mended later, it is."""
    scene.feed(to=3)
    whole = scene.stock.read(4)
    scene.put(scene.stock.names[4], whole[: len(whole) // 2] + bytes(len(whole) // 2))
    standby = scene.standby(settings=scene.seen_at_once).begin()
    standby.until_log("It is taken to be still on its way, and waited for.")
    assert standby.rows() == scene.stock.rows[3]
    standby.assert_not_promoted()
    scene.feed(4, 5)
    standby.until_rows(scene.stock.rows[5])
    standby.assert_not_promoted()


def test_another_clusters_segment(scene: WindowsScene) -> None:
    scene.feed(to=3)
    scene.put(scene.stock.names[4], scene.stock.read(5))
    standby = scene.standby().begin(connections=False)
    log = standby.until_down()
    assert "could not restore file" in log
    assert "exit code 206" in log
    standby.assert_not_promoted()
    scene.feed(4, 5)
    standby.begin()
    standby.until_rows(scene.stock.rows[4])


@pytest.mark.parametrize("there", [True, False], ids=["there", "missing"])
def test_the_form_that_stops_where_there_is_no_pystandby(scene: WindowsScene, there: bool) -> None:
    """docs/windows.md has it: cmd.exe by itself ends with 1 for a missing program, which promotes."""
    text = (Path(__file__).parents[2] / "docs" / "windows.md").read_text(encoding="utf-8")
    assert "'if exist C:\\\\pystandby\\\\Scripts\\\\pystandby.exe (C:" in text
    assert ") else exit 255'" in text
    scene.feed(to=3)
    program = PYSTANDBY if there else scene.folder / "none.exe"
    command = scene.restore_command("-s", SLOW, program=[program])
    standby = scene.standby(restore_command=f"if exist {words_for_cmd(program)} ({command}) else exit 255")
    if there:
        standby.begin()
        command_id = standby.until_waiting(4)
        scene.together(command_id, 4, word="smart")
        standby.until_promoted(scene.stock.rows[4])
    else:
        standby.begin(connections=False)
        assert "exit code 255" in standby.until_down()
        standby.assert_not_promoted()


def test_standby_mode(scene: WindowsScene) -> None:
    """With the server's own 5 s between two questions: what asks without a pause is deaf to pg_ctl promote on Windows."""
    scene.feed(to=3)
    standby = scene.standby(standby_mode=True).begin()
    standby.until_asked(4, more=1)
    assert standby.rows() == scene.stock.rows[3]
    scene.feed(4, 5)
    standby.until_rows(scene.stock.rows[5])
    assert standby.in_recovery()
    standby.promote()
    standby.until_promoted(scene.stock.rows[5])


def test_standby_mode_and_a_trigger(scene: WindowsScene) -> None:
    """There no exit status promotes: --promote has the server do it."""
    scene.feed(to=3)
    standby = scene.standby("--promote", standby_mode=True).begin()
    standby.until_asked(4, more=1)
    scene.feed(4)
    scene.trigger()
    standby.until_promoted(scene.stock.rows[4])


@pytest.mark.parametrize("program", [(PYSTANDBY,), (sys.executable, "-m", "pystandby")], ids=["exe", "module"])
def test_names_with_all_that_windows_allows(scene: WindowsScene, program: tuple[Argument, ...]) -> None:
    archive = scene.archive.rename(scene.folder / "WAL & more (1) 100% ^it's; a,b=!")
    scene.archive = archive
    scene.trigger_file = scene.folder / "fail over & out"
    scene.feed(to=2)
    standby = scene.standby(restore_command=scene.restore_command("-s", SLOW, program=program)).begin()
    command = standby.until_waiting(3)
    scene.together(command, 3, word="")
    standby.until_promoted(scene.stock.rows[3])
