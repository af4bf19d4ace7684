"""Warm standbys on real servers: restoring, queries, and every way to the end of recovery. See support/servers.py."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from support import segments
from support.matrix import scenario
from support.servers import MB, QUICKLY, SLOW, SOON, Scene, Server, archive_command, eventually, watches

from pystandby.cluster import StopMode

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)


LATEST: dict[str, str | int | bool] = {"recovery_target_timeline": "latest"}
"""The default from 12 on."""


def needs_version(scene: Scene, version: int, otherwise: str) -> None:
    """Skip a test where an older version was asked for by hand: see VERSIONS."""
    if scene.stock.installation.version < version:
        pytest.skip(otherwise)


def seen_while_waiting(scene: Scene, standby: Server, replayed: int) -> bool:
    """Whether a query sees what it may while the segment after ``replayed`` is waited for.

    PostgreSQL 15 and later read ahead (recovery_prefetch): the end of the last segment is replayed only when the next one comes.
    """
    rows = standby.rows()
    reads_ahead = scene.stock.installation.version >= 15 and standby.sql("SHOW recovery_prefetch") != [("off",)]
    lowest = scene.stock.rows[replayed - 1] if reads_ahead else scene.stock.rows[replayed]
    return lowest <= rows <= scene.stock.rows[replayed]


# --- restoring -------------------------------------------------------------------------------------------------------


@scenario("following a primary at work")
def test_it_follows_a_primary_at_work(scene: Scene) -> None:
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    standby = scene.standby().begin()
    for _ in range(4):
        before = primary.rows()
        primary.sql("INSERT INTO ledger (note) SELECT repeat(md5(i::text), 30) FROM generate_series(1, 300) i")
        primary.sql("UPDATE ledger SET note = note || '!' WHERE id % 7 = 0")
        # The next one is waited for when this one has come.
        standby.until_waiting(primary.switch_wal())
        assert standby.in_recovery()
        assert before <= standby.rows() <= primary.rows()
    scene.trigger()
    standby.until_promoted(primary.rows())
    standby.sql("DELETE FROM ledger WHERE note = 'after the failover'")
    assert standby.fingerprint() == primary.fingerprint()


def test_segments_of_the_usual_size(scene16: Scene) -> None:
    scene16.feed(to=2)
    standby = scene16.standby().begin()
    standby.until_waiting(3)
    assert seen_while_waiting(scene16, standby, 2)
    scene16.feed(3, 4)
    command = standby.until_waiting(5)
    scene16.together(command, 5, 6, 7, word="fast")
    standby.until_promoted(scene16.stock.rows[4])


@pytest.mark.parametrize("prefetch", [pytest.param("default", marks=scenario("queries while it waits (hot standby)")), "off"])
def test_queries_are_answered_while_it_waits(scene: Scene, prefetch: str) -> None:
    settings: dict[str, str | int | bool] = {}
    if prefetch == "off":
        needs_version(scene, 15, "this server does not read ahead")
        settings["recovery_prefetch"] = "off"
    scene.feed(to=3)
    standby = scene.standby(settings=settings).begin()
    standby.until_waiting(4)
    assert seen_while_waiting(scene, standby, 3)
    scene.feed(4, 5)
    standby.until_waiting(6)
    # Replay goes on beside the wait only up to what was read.
    eventually(lambda: seen_while_waiting(scene, standby, 5), "the rows of segment 5 are seen", tell=standby.tell)
    assert standby.sql("SELECT count(*) FROM ledger WHERE note IS NULL") == [(0,)]
    assert standby.in_recovery()


@scenario("the last segment is seen before the next one comes")
def test_without_reading_ahead_the_backups_own_segment_is_enough(scene: Scene) -> None:
    prefetch: dict[str, str | int | bool] = {"recovery_prefetch": "off"} if scene.stock.installation.version >= 15 else {}
    scene.feed(0)
    standby = scene.standby(settings=prefetch).begin()
    standby.until_waiting(1)
    assert standby.rows() == scene.stock.rows[0]


@scenario("with recovery_prefetch the server opens one segment later")
def test_with_reading_ahead_the_server_opens_when_the_segment_after_the_backups_is_there(scene: Scene) -> None:
    scene.feed(0)
    standby = scene.standby().begin(connections=False)
    standby.until_waiting(1)
    assert "ready to accept read-only connections" not in standby.log_text()
    scene.feed(1)
    standby.until_log("ready to accept read-only connections")
    standby.until_waiting(2)
    assert seen_while_waiting(scene, standby, 1)


@scenario("restartpoints, and pruning by %r")
def test_a_restartpoint_has_old_segments_removed(scene: Scene) -> None:
    scene.feed(to=6)
    standby = scene.standby().begin()
    standby.until_waiting(7)
    eventually(lambda: seen_while_waiting(scene, standby, 6), "all is replayed", tell=standby.tell)
    # Nothing in the archive may go before a restartpoint: a restart begins at the backup's first segment.
    assert sorted(os.listdir(scene.archive)) == list(scene.stock.names[:7])
    standby.sql("CHECKPOINT")
    ((redo,),) = standby.sql("SELECT redo_wal_file FROM pg_control_checkpoint()")
    assert redo == scene.stock.names[3]
    # The call that waits for 7 was told of the restartpoint before.
    scene.feed(7, 8)
    standby.until_waiting(9)
    # By the look-ahead's child, so that the server does not wait for it.
    eventually(lambda: sorted(os.listdir(scene.archive)) == list(scene.stock.names[3:9]), "it is pruned", tell=standby.tell)
    # What is left is enough for a restart.
    standby.stop("immediate")
    standby.begin()
    standby.until_waiting(9, times=2)
    scene.trigger()
    standby.until_promoted(scene.stock.rows[8])


def test_history_files_are_not_waited_for(scene: Scene) -> None:
    """12 and later ask for one before anything else, and for two at the failover; pg_standby took 6 s for each with -s 1."""
    scene.feed(to=2)
    standby = scene.standby("-s", SLOW)
    # Each deadline is less than one SLEEPTIME.
    standby.launch()
    standby.wait_for_start(30)
    command = standby.until_waiting(3)
    assert "00000002.history is not in the archive" in standby.log_text() or scene.stock.installation.version < 12
    scene.together(command, 3, word="smart")
    standby.until_promoted(scene.stock.rows[3], deadline=30)


# --- the end of recovery ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [pytest.param("", marks=scenario("smart failover")), "smart", "smart\n"])
def test_smart_failover_replays_all_that_the_archive_holds(scene: Scene, word: str) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(4)
    scene.together(command, 4, 5, 6, 7, word=word)
    standby.until_promoted(scene.stock.rows[7], deadline=30)
    # Without a recovery_end_command it stays.
    assert scene.trigger_file.read_text() == word


@scenario("smart failover")
def test_smart_failover_with_nothing_more_in_the_archive(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    standby.until_waiting(4)
    scene.trigger("smart")
    standby.until_promoted(scene.stock.rows[3], deadline=30)


def test_smart_failover_replays_the_segment_that_a_crashed_primary_left(scene: Scene) -> None:
    """Copied by hand out of its pg_wal: of the full size, with nothing behind the last record."""
    scene.feed(to=3)
    standby = scene.standby().begin()
    standby.until_waiting(4)
    content = scene.stock.read(4)
    half = len(content) // 2
    scene.put(scene.stock.names[4], segments.zeros_from(content, half))
    standby.until_log("the rest is not written yet")
    standby.assert_not_promoted()
    scene.trigger("smart")
    eventually(lambda: "selected new timeline" in standby.log_text(), "it is promoted", tell=standby.tell)
    eventually(lambda: not standby.in_recovery(), "it takes writes", tell=standby.tell)
    rows = standby.rows()
    # About half of the segment's rows, each of them a transaction; all that came before.
    expected = (scene.stock.rows[3] + scene.stock.rows[4]) // 2
    assert abs(rows - expected) < (scene.stock.rows[4] - scene.stock.rows[3]) // 10, (rows, expected)


@scenario("fast failover")
def test_fast_failover_leaves_later_segments_alone(scene: Scene) -> None:
    """PostgreSQL 15 and later ask for the refused segment a second time: with pg_standby they got it, and all after it."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(4)
    scene.together(command, 4, 5, 6, 7, word="fast")
    standby.until_promoted(scene.stock.rows[3], deadline=30)
    assert set(scene.stock.names[4:8]) <= set(os.listdir(scene.archive))
    assert f"{scene.stock.names[4]} restored" not in standby.log_text()
    # Emptied, so that it is no fast trigger to whoever starts with it next.
    assert scene.trigger_file.read_text() == ""


@pytest.mark.parametrize("moment", [2, pytest.param(5, marks=scenario("fast failover in the middle of a catch-up")), 8])
def test_fast_failover_in_the_middle_of_a_catch_up(scene: Scene, moment: int) -> None:
    scene.feed(to=scene.stock.last)
    standby = scene.standby("-s", SLOW).begin(connections=False)
    standby.until_restored(moment)
    scene.trigger("fast")
    standby.until_log("ready to accept connections", deadline=30)
    found = re.search(r"recovery ends before segment (\w{24})", standby.log_text())
    assert found, standby.tell()
    names = [*scene.stock.names, segments.name(segments.number(scene.stock.names[-1]) + 1)]
    refused = names.index(found[1])
    assert refused > moment
    standby.until_promoted(scene.stock.rows[refused - 1])


@scenario("MAXWAITTIME")
def test_maxwaittime_is_waited_for_once(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-w", "2").begin()
    standby.until_waiting(4)
    scene.feed(4)
    # It counts from each segment anew.
    standby.until_waiting(5)
    standby.until_promoted(scene.stock.rows[4])
    log = standby.log_text()
    assert log.count(f"waiting for {scene.stock.names[5]}\n") == 1, standby.tell()
    assert log.count("MAXWAITTIME") == 1, standby.tell()
    assert not scene.trigger_file.exists()


def test_sigusr1_is_a_fast_failover(scene: Scene) -> None:
    """On PostgreSQL 15 and later pg_standby's second call waits on for ever."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    os.kill(standby.until_waiting(4), signal.SIGUSR1)
    standby.until_promoted(scene.stock.rows[3], deadline=30)
    assert "SIGUSR1" in standby.log_text()


@scenario("SIGUSR1")
def test_sigusr1_leaves_later_segments_alone(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(4)
    with scene.held(command):
        scene.feed(4, 5, 6)
        os.kill(command, signal.SIGUSR1)
    standby.until_promoted(scene.stock.rows[3], deadline=30)


def test_sigusr1_reaches_a_command_that_was_stopped(scene: Scene) -> None:
    """Of a stopped process any thread may get the signal, not only the one that Python's handlers run in."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(4)
    with scene.held(command):
        os.kill(command, signal.SIGUSR1)
    standby.until_promoted(scene.stock.rows[3], deadline=30)


@pytest.mark.parametrize("word", ["smart", "fast"])
@scenario("recovery_end_command")
def test_recovery_end_command_finds_the_trigger_file_and_removes_it(scene: Scene, word: str) -> None:
    scene.feed(to=3)
    seen = scene.folder / "seen"
    command = f"cp {scene.trigger_file} {seen}; rm -f {scene.trigger_file}"
    standby = scene.standby(settings={"recovery_end_command": command}).begin()
    standby.until_waiting(4)
    scene.trigger(word)
    standby.until_promoted(scene.stock.rows[3])
    assert not scene.trigger_file.exists()
    assert seen.read_text() == ("smart" if word == "smart" else "")


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("pg_ctl promote", marks=scenario("pg_ctl promote")),
        pytest.param("pg_promote()", marks=scenario("pg_promote()")),
    ],
)
def test_promotion_by_the_servers_own_means_is_a_smart_failover(scene: Scene, way: str) -> None:
    """In recovery mode the server does not look at it while a restore_command waits: with pg_standby it did nothing."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(4)
    with scene.held(command):
        scene.feed(4, 5)
        if way == "pg_ctl promote":
            standby.promote()
        else:
            assert standby.sql("SELECT pg_promote(false)") == [(True,)]
    standby.until_promoted(scene.stock.rows[5], deadline=30)
    # In this mode the server leaves the file "promote" where it is; the next start removes it before it looks at anything.
    standby.stop()
    standby.begin()
    assert not (standby.data_directory / "promote").exists()


def test_pg_promote_waits_for_it(scene: Scene) -> None:
    needs_version(scene, 12, "there is no pg_promote()")
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    standby.until_waiting(4)
    assert standby.sql("SELECT pg_promote(true, 50)") == [(True,)]
    standby.until_promoted(scene.stock.rows[3])


def test_a_trigger_file_with_invalid_content_is_ignored(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby().begin()
    standby.until_waiting(4)
    scene.trigger("FAST")
    standby.until_log("has invalid content")
    scene.feed(4, 5)
    standby.until_waiting(6)
    standby.assert_not_promoted()
    # Three processes have met it by now.
    assert standby.log_text().count("has invalid content") == 1, standby.tell()
    scene.trigger("smart")
    standby.until_promoted(scene.stock.rows[5])


# --- stopping and starting again -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "before"),
    [
        pytest.param("smart", "", marks=scenario("stop -m smart", "a waiting standby is started again")),
        pytest.param("fast", "", marks=scenario("stop -m fast", "a waiting standby is started again")),
        pytest.param("immediate", "", marks=scenario("stop -m immediate", "a waiting standby is started again")),
        pytest.param("fast", "exec ", marks=scenario("stop -m fast", "restore_command with exec")),
    ],
)
def test_a_waiting_standby_is_stopped_and_started_again(scene: Scene, mode: StopMode, before: str) -> None:
    """With ``exec`` the command is the startup process's own child; without, there is a shell between them."""
    scene.feed(to=3)
    # SLEEPTIME must not matter: it is the signal that ends the command.
    standby = scene.standby(restore_command=scene.restore_command("-s", SLOW, before=before)).begin()
    command = standby.until_waiting(4)
    standby.stop(mode, SOON)
    eventually(lambda: not standby.commands(), f"process {command} has gone", SOON, standby.tell)
    assert standby.left_behind() == []
    standby.assert_not_promoted()
    assert "exit code" not in standby.last_log(), standby.tell()
    scene.feed(4)
    standby.begin()
    command = standby.until_waiting(5)
    standby.assert_not_promoted()
    scene.together(command, 5, word="smart")
    standby.until_promoted(scene.stock.rows[5], deadline=30)


def test_stopped_again_and_again_in_the_middle_of_a_catch_up(scene16: Scene) -> None:
    """While it copies, judges, starts, or whatever it is at."""
    scene16.feed(to=scene16.stock.last)
    standby = scene16.standby("-s", SLOW)
    modes: tuple[StopMode, ...] = ("smart", "fast", "immediate")
    for number in range(2, 8):
        standby.begin(connections=False)
        standby.until_restored(number)
        standby.stop(modes[number % 3], SOON)
        eventually(lambda: not standby.commands(), "no command is left", SOON, standby.tell)
        standby.assert_not_promoted()
    standby.begin()
    following = segments.name(segments.number(scene16.stock.names[-1], 16 * MB) + 1, size=16 * MB)
    standby.until_waiting(following)
    # A copy that a signal ended is taken over by the next.
    assert standby.left_behind() == []
    scene16.trigger()
    standby.until_promoted(scene16.stock.rows[-1])


def test_the_same_while_a_segment_has_to_rest(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW, "--stable", "3600", settings={"hot_standby": False}).begin(connections=False)
    standby.until_log(f"file {scene.stock.names[0]},")
    eventually(lambda: any(map(watches, standby.commands())), "a command watches", tell=standby.tell)
    standby.stop("fast", SOON)
    eventually(lambda: not standby.commands(), "the command has gone", SOON, standby.tell)
    standby.assert_not_promoted()


def test_a_server_that_is_started_again_is_not_bound_by_an_earlier_refusal(scene: Scene) -> None:
    """A fast trigger, and the server ends before the promotion; without the trigger it is a standby again."""
    scene.feed(to=3)
    command = scene.restore_command("-s", SLOW)
    standby = scene.standby(restore_command=f"{command}; code=$?; [ $code != 1 ] || exit 250; exit $code")
    # The history file that is not there before the start: no reason to stop.
    if scene.stock.installation.version >= 12:
        standby.reconfigure({"recovery_target_timeline": "current"})
    standby.begin()
    waiting = standby.until_waiting(4)
    scene.together(waiting, 4, 5, word="fast")
    assert "exit code 250" in standby.until_down()
    assert (standby.data_directory / "pg_wal" / ".pystandby" / "refused").exists()
    scene.trigger_file.unlink()
    standby.begin()
    standby.until_waiting(6)
    standby.assert_not_promoted()


def test_what_an_earlier_failover_left_binds_no_other_server(scene: Scene) -> None:
    """A standby rebuilt out of the data directory of one that failed over: its .pystandby folder comes along."""
    scene.feed(to=3)
    first = scene.standby(name="first").begin()
    first.until_waiting(4)
    scene.trigger("fast")
    first.until_promoted(scene.stock.rows[3])
    first.stop()
    scene.trigger_file.unlink()
    second = scene.standby(name="second")
    shutil.copytree(first.data_directory / "pg_wal" / ".pystandby", second.data_directory / "pg_wal" / ".pystandby")
    scene.feed(4)
    second.begin()
    second.until_waiting(5)
    second.assert_not_promoted()


def test_a_trigger_file_left_over_from_an_earlier_failover(scene: Scene) -> None:
    """It counts, as with pg_standby: which is what recovery_end_command is for. But all of the archive is replayed first."""
    scene.feed(to=6)
    scene.trigger()
    standby = scene.standby("-s", SLOW).begin(connections=False)
    standby.until_log("ready to accept connections", deadline=30)
    standby.until_promoted(scene.stock.rows[6])


def test_a_fast_trigger_file_left_over_loses_nothing(scene: Scene) -> None:
    """At the first segment a refusal cannot promote: the server needs that segment, and stops."""
    scene.feed(to=6)
    scene.trigger("fast")
    standby = scene.standby().begin(connections=False)
    assert "FATAL" in standby.until_down()
    standby.assert_not_promoted()
    scene.trigger_file.unlink()
    standby.begin()
    standby.until_waiting(7)
    standby.assert_not_promoted()


# --- segments that are not whole -------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("kept", [8192, MB // 2, pytest.param(MB // 2 + 777, marks=scenario("torn segment")), MB - 8192])
def test_a_torn_segment_is_waited_for(scene: Scene, kept: int) -> None:
    """Of the full size, the rest zeros: with cp and with pg_standby the server promotes itself, and loses all after it."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    standby.until_waiting(4)
    # Everything after it is there: nothing but the segment itself is in the way.
    scene.feed(5, 6)
    scene.put(scene.stock.names[4], segments.zeros_from(scene.stock.read(4), kept))
    standby.until_log(f'{scene.stock.names[4]}" ')
    standby.until_log("It is taken to be still on its way")
    standby.assert_not_promoted()
    scene.feed(4)
    standby.until_waiting(7)
    standby.assert_not_promoted()
    scene.trigger()
    standby.until_promoted(scene.stock.rows[6], deadline=30)


@pytest.mark.faults
def test_a_copy_that_sets_the_size_first(scene: Scene) -> None:
    """As Windows' copy, rsync --preallocate and some network file systems do: one file, written in two goes."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    standby.until_waiting(4)
    content = scene.stock.read(4)
    with (scene.archive / scene.stock.names[4]).open("wb", buffering=0) as file:
        file.truncate(len(content))
        file.write(content[:300_000])
        standby.until_log("It is taken to be still on its way")
        standby.assert_not_promoted()
        file.write(content[300_000:])
    standby.until_waiting(5)
    standby.assert_not_promoted()
    scene.trigger()
    standby.until_promoted(scene.stock.rows[4], deadline=30)


def test_a_segment_that_grows(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    standby.until_waiting(4)
    content = scene.stock.read(4)
    with (scene.archive / scene.stock.names[4]).open("wb", buffering=0) as file:
        file.write(content[:30])
        standby.until_log("has 30 bytes so far")
        file.write(content[30:300_000])
        # The size is in the header: it is told once more what is missing, or not at all, but nothing happens.
        standby.assert_not_promoted()
        file.write(content[300_000:])
    standby.until_waiting(5)
    standby.assert_not_promoted()
    scene.trigger()
    standby.until_promoted(scene.stock.rows[4], deadline=30)


# --- another timeline ------------------------------------------------------------------------------------------------


def fail_over_another(scene: Scene) -> Path:
    """Bring up another standby of the same archive, which then archives its new timeline there; return its history file."""
    other = scene.standby("-t", scene.folder / "other-failover", name="other")
    other.configure({"archive_mode": True, "archive_command": archive_command(scene.archive)})
    other.begin()
    other.until_waiting(4)
    segments.put(scene.folder, "other-failover", b"")
    other.until_promoted(scene.stock.rows[3])
    other.sql("INSERT INTO ledger (note) SELECT 'new timeline' FROM generate_series(1, 50)")
    other.sql("SELECT pg_switch_wal()")
    history = scene.archive / "00000002.history"
    eventually(history.exists, "the history file is archived", tell=other.tell)
    eventually(lambda: list(scene.archive.glob("00000002" + "?" * 16)), "a segment is archived", tell=other.tell)
    return history


def test_a_new_timeline_is_told_of_once_and_waited_on(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby(settings=LATEST).begin()
    standby.until_waiting(4)
    fail_over_another(scene)
    standby.until_log("the archive has gone on to timeline 2")
    standby.assert_not_promoted()
    # A restart follows.
    standby.stop()
    standby.begin()
    standby.until_log("restored", times=5)
    following = segments.name(segments.number(scene.stock.names[5]), timeline=2)
    standby.until_waiting(following)
    eventually(lambda: standby.rows() in range(scene.stock.rows[3], scene.stock.rows[3] + 52), "it follows", tell=standby.tell)
    assert standby.log_text().count("the archive has gone on to timeline 2") == 1


@scenario("the same, recovery_target_timeline not set")
def test_on_a_new_timeline_a_server_without_recovery_target_timeline(scene: Scene) -> None:
    """Up to 11 it stays on its own timeline: started again, it waits there, and says why."""
    scene.feed(to=3)
    standby = scene.standby("--on-new-timeline", "stop").begin()
    standby.until_waiting(4)
    fail_over_another(scene)
    assert "exit code 209" in standby.until_down()
    standby.begin(connections=False)
    if scene.stock.version < 12:
        standby.until_log("it is not set to follow a new one")
        standby.until_waiting(4, times=2)
        standby.assert_not_promoted()
        standby.stop()
        standby.reconfigure(LATEST)
        standby.begin()
    standby.until_waiting(segments.name(segments.number(scene.stock.names[5]), timeline=2))
    scene.trigger()
    standby.until_promoted(scene.stock.rows[3] + 51, timeline=3)


@scenario("a new timeline in the archive")
def test_on_a_new_timeline_it_stops_and_the_next_start_follows(scene: Scene) -> None:
    """What a service manager's Restart=on-failure makes of it: a standby that follows every failover by itself."""
    scene.feed(to=3)
    standby = scene.standby("--on-new-timeline", "stop", settings=LATEST).begin()
    standby.until_waiting(4)
    fail_over_another(scene)
    assert "exit code 209" in standby.until_down()
    standby.assert_not_promoted()
    standby.begin()
    following = segments.name(segments.number(scene.stock.names[5]), timeline=2)
    standby.until_waiting(following)
    scene.trigger()
    standby.until_promoted(scene.stock.rows[3] + 51, timeline=3)


# --- standby mode ----------------------------------------------------------------------------------------------------


def streaming(standby: Server) -> bool:
    return standby.sql("SELECT status FROM pg_stat_wal_receiver") == [("streaming",)]


@scenario("standby mode: streaming, archive, streaming")
def test_in_standby_mode_streaming_starts(scene: Scene) -> None:
    """A command that waited would keep it from that."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    conninfo = f"host={primary.socket_directory} port={primary.port} user=postgres"
    standby = scene.standby("-s", SLOW, standby_mode=True, settings={**QUICKLY, "primary_conninfo": conninfo}).begin()
    eventually(lambda: streaming(standby), "it streams", tell=standby.tell)
    # No segment is full, or switched: this can only have come through the stream.
    primary.sql("INSERT INTO ledger (note) VALUES ('streamed')")
    standby.until_rows(primary.rows())
    # A trigger file says something to a server in recovery mode.
    scene.trigger("smart")
    # The primary goes, the archive is asked again and again, and once more there is a primary.
    primary.stop("fast")
    standby.until_log("does nothing: the server is in standby mode")
    log = standby.log_text()
    eventually(lambda: standby.log_text().count("asked by server") >= log.count("asked by server") + 5, "it asks on")
    primary.begin()
    eventually(lambda: streaming(standby), "it streams again", tell=standby.tell)
    primary.sql("INSERT INTO ledger (note) VALUES ('streamed again')")
    standby.until_rows(primary.rows())
    standby.assert_not_promoted()
    assert standby.log_text().count("does nothing: the server is in standby mode") == 1, standby.tell()
    assert "waiting for 0" not in standby.log_text()


@pytest.mark.parametrize("word", ["smart", "fast"])
def test_in_standby_mode_a_trigger_file_alone_does_nothing(scene: Scene, word: str) -> None:
    scene.feed(to=3)
    standby = scene.standby(standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 2)
    scene.trigger(word)
    standby.until_log("does nothing: the server is in standby mode")
    standby.until_asked(4, 5)
    scene.feed(4, 5)
    standby.until_rows(scene.stock.rows[5])
    standby.assert_not_promoted()
    assert standby.log_text().count("does nothing: the server is in standby mode") == 1, standby.tell()
    assert scene.trigger_file.read_text() == word


@scenario("standby mode: --promote")
def test_in_standby_mode_with_promote_a_smart_trigger_promotes(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("--promote", standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 2)
    # The trigger comes last: the segments are to be replayed first.
    scene.feed(4, 5, 6)
    scene.trigger("smart")
    standby.until_promoted(scene.stock.rows[6])


def test_in_standby_mode_with_promote_a_fast_trigger_promotes_at_once(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("--promote", standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 2)
    scene.trigger("fast")
    scene.feed(4, 5, 6)
    standby.until_log("the server is promoted before segment")
    found = re.search(r"the server is promoted before segment (\w{24})", standby.log_text())
    assert found, standby.tell()
    # A call that had looked for the trigger already may have got segment 4.
    assert found[1] in scene.stock.names[4:6]
    standby.until_promoted(scene.stock.rows[scene.stock.names.index(found[1]) - 1])
    assert scene.trigger_file.read_text() == ""


def test_in_standby_mode_pg_promote_works_as_ever(scene: Scene) -> None:
    needs_version(scene, 12, "there is no pg_promote()")
    scene.feed(to=3)
    standby = scene.standby(standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 2)
    assert standby.sql("SELECT pg_promote(true, 50)") == [(True,)]
    standby.until_promoted(scene.stock.rows[3])


@pytest.mark.faults
def test_in_standby_mode_a_torn_segment_is_not_replayed(scene: Scene) -> None:
    """The server would replay half of it; it is asked for again until it is whole."""
    scene.feed(to=3)
    standby = scene.standby(standby_mode=True, settings=QUICKLY).begin()
    scene.put(scene.stock.names[4], segments.zeros_from(scene.stock.read(4), MB // 2))
    scene.feed(5)
    standby.until_asked(4, 5)
    assert standby.rows() == scene.stock.rows[3]
    scene.feed(4)
    standby.until_rows(scene.stock.rows[5])
    standby.assert_not_promoted()


def test_in_standby_mode_the_server_follows_a_new_timeline_by_itself(scene: Scene) -> None:
    """So --on-new-timeline is not for it."""
    scene.feed(to=3)
    standby = scene.standby("--on-new-timeline", "stop", standby_mode=True, settings={**QUICKLY, **LATEST}).begin()
    standby.until_asked(4, 2)
    fail_over_another(scene)
    standby.until_rows(scene.stock.rows[3] + 51)
    assert "new target timeline is 2" in standby.log_text()
    assert "exit code" not in standby.log_text()
