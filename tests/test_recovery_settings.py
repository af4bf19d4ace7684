"""What a server's recovery can be told, on each version: how it begins, where its settings stand, where it ends, what it runs."""

from __future__ import annotations

import os
import re

import pytest
from support import segments
from support.matrix import scenario
from support.servers import QUICKLY, SLOW, SOON, Scene, Server, eventually, processes_in, watches

from pystandby.cluster import choose_installation, shell_words

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)


# --- the base backup -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "exclusive",
    [
        pytest.param(False, marks=scenario("base backup by the backup functions"), id="non-exclusive"),
        pytest.param(True, marks=scenario("base backup by the exclusive backup functions"), id="exclusive"),
    ],
)
def test_a_base_backup_by_the_backup_functions(scene: Scene, exclusive: bool) -> None:
    """pg_start_backup and pg_stop_backup, from 15 on pg_backup_start and pg_backup_stop, by a script that copies the files."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    backup = primary.take_base_backup_by_functions(scene.folder / "backup", exclusive)
    assert (primary.data_directory / "backup_label").exists() is False, "the primary is out of its exclusive backup again"
    standby = scene.standby(backup=backup).begin(connections=False)
    primary.sql("INSERT INTO ledger (note) SELECT repeat(md5(i::text), 30) FROM generate_series(1, 300) i")
    standby.until_waiting(primary.switch_wal())
    scene.trigger("smart")
    standby.until_promoted(primary.rows())


# --- where its settings stand ----------------------------------------------------------------------------------------


@scenario("recovery.conf, standby_mode = off")
def test_a_recovery_conf_with_standby_mode_off(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW)
    recovery_conf = standby.data_directory / "recovery.conf"
    assert "standby_mode = off" in recovery_conf.read_text()
    standby.begin()
    command = standby.until_waiting(4)
    scene.together(command, 4, word="smart")
    standby.until_promoted(scene.stock.rows[4], deadline=30)
    assert not recovery_conf.exists()
    assert recovery_conf.with_suffix(".done").exists()
    # It is a primary for good: its next start asks for nothing.
    asked = standby.log_text().count("asked by server")
    standby.stop()
    standby.begin()
    assert not standby.in_recovery()
    assert standby.log_text().count("asked by server") == asked


@scenario("recovery.conf, standby_mode = on")
def test_a_recovery_conf_with_standby_mode_on(scene: Scene) -> None:
    """It is found there, not in postgresql.conf: the command must not wait, and the server asks again."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW, standby_mode=True)
    recovery_conf = standby.data_directory / "recovery.conf"
    assert "standby_mode = on" in recovery_conf.read_text()
    # Without wal_retrieve_retry_interval it asks every 5 s: less than SLEEPTIME, and often enough here.
    standby.configure(QUICKLY)
    standby.begin()
    standby.until_asked(4, 3)
    assert "waiting for 0" not in standby.log_text()
    scene.feed(4, 5)
    standby.until_rows(scene.stock.rows[5])
    standby.assert_not_promoted()
    standby.promote()
    standby.until_promoted(scene.stock.rows[5])
    assert not recovery_conf.exists()


@scenario("recovery.signal")
def test_recovery_signal(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(4)
    scene.together(command, 4, word="smart")
    standby.until_promoted(scene.stock.rows[4], deadline=30)
    assert not (standby.data_directory / "recovery.signal").exists()
    asked = standby.log_text().count("asked by server")
    standby.stop()
    standby.begin()
    assert not standby.in_recovery()
    assert standby.log_text().count("asked by server") == asked


@scenario("recovery.signal")
def test_a_recovery_conf_that_came_along_with_an_upgrade(scene: Scene) -> None:
    """The server says that it has no use for it, and does not start: nothing is asked for, nothing is lost."""
    scene.feed(to=3)
    standby = scene.standby()
    left_over = standby.write("recovery.conf", "standby_mode = off\n")
    standby.begin(connections=False)
    assert 'using recovery command file "recovery.conf" is not supported' in standby.until_down()
    standby.assert_not_promoted()
    left_over.unlink()
    standby.begin()
    standby.until_waiting(4)


@scenario("standby.signal")
def test_standby_signal(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW, standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 3)
    assert "waiting for 0" not in standby.log_text()
    scene.feed(4, 5)
    standby.until_rows(scene.stock.rows[5])
    standby.promote()
    standby.until_promoted(scene.stock.rows[5])
    assert not (standby.data_directory / "standby.signal").exists()


@scenario("standby.signal")
def test_standby_signal_counts_where_both_are(scene: Scene) -> None:
    """So it is standby mode, in which the command must not wait. The other file is for the start after the failover."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW, standby_mode=True, settings=QUICKLY)
    left_over = standby.write("recovery.signal", "")
    standby.begin()
    standby.until_asked(4, 3)
    assert "waiting for 0" not in standby.log_text()
    standby.promote()
    standby.until_promoted(scene.stock.rows[3])
    # The server has removed only the file that counted: started again, the new primary is a standby.
    assert left_over.exists()
    standby.stop()
    standby.begin(connections=False)
    standby.until_log("waiting for 00000002")


# --- where it ends ---------------------------------------------------------------------------------------------------


PROMOTE: dict[str, str | int | bool] = {"recovery_target_action": "promote"}

TARGETS = ["recovery_target_time", "recovery_target_name", "recovery_target_lsn"]


def ends_there(standby: Server, rows: int) -> None:
    """See that recovery has ended by itself, without a trigger."""
    standby.until_log("selected new timeline ID: 2")
    standby.until_promoted(rows)
    assert "recovery ends before" not in standby.last_log(), standby.tell()


@pytest.mark.parametrize("target", [pytest.param(target, marks=scenario(target)) for target in TARGETS])
def test_recovery_ends_at_its_target(scene: Scene, target: str) -> None:
    scene.feed(to=scene.stock.last)
    standby = scene.standby("-s", SLOW, settings={target: scene.stock.targets[target], **PROMOTE})
    standby.begin(connections=False)
    ends_there(standby, scene.stock.rows_at_target)
    assert "waiting for 0" not in standby.log_text(), standby.tell()


@scenario("recovery_target = immediate")
def test_recovery_ends_as_soon_as_the_backup_is_consistent(scene: Scene) -> None:
    scene.feed(to=scene.stock.last)
    standby = scene.standby("-s", SLOW, settings={"recovery_target": "immediate", **PROMOTE})
    standby.begin(connections=False)
    ends_there(standby, scene.stock.rows[0])


@scenario("recovery_target_name")
def test_a_pause_at_the_target(scene: Scene) -> None:
    """The default, recovery_target_action = pause: somebody looks first, and ends recovery then."""
    target = "recovery_target_name"
    scene.feed(to=scene.stock.last)
    standby = scene.standby("-s", SLOW, settings={target: scene.stock.targets[target]}).begin()
    standby.until_log("recovery has paused" if scene.stock.version < 13 else "pausing at the end of recovery")
    assert standby.rows() == scene.stock.rows_at_target
    standby.assert_not_promoted()
    standby.sql("SELECT pg_wal_replay_resume()")
    standby.until_promoted(scene.stock.rows_at_target)


@scenario("a target in the last segment that there is")
def test_a_target_in_the_last_segment_that_there_is(scene: Scene) -> None:
    """As it is after pg_create_restore_point() and pg_switch_wal().

    Where the server reads ahead, from 15 on, it asks for the segment after that before it comes to the target.
    """
    settings: dict[str, str | int | bool] = {"recovery_target_name": scene.stock.LAST_RESTORE_POINT, **PROMOTE}
    rows = scene.stock.rows[-1]
    scene.feed(to=scene.stock.last)
    if scene.stock.version >= 15:
        standby = scene.standby("-s", SLOW, settings=settings, name="reads-ahead").begin()
        command = standby.until_waiting(segments.name(segments.number(scene.stock.names[-1]) + 1))
        standby.assert_not_promoted()
        assert standby.rows() < rows
        # So does the next segment; a trigger needs none.
        scene.together(command, word="smart")
        standby.until_promoted(rows, deadline=30)
        assert "recovery stopping at restore point" in standby.log_text()
        scene.trigger_file.unlink()
        settings["recovery_prefetch"] = "off"
    standby = scene.standby("-s", SLOW, settings=settings).begin(connections=False)
    ends_there(standby, rows)
    assert "waiting for 0" not in standby.log_text(), standby.tell()


@scenario("failover before the target is reached")
def test_a_trigger_before_the_target_is_reached(scene: Scene) -> None:
    """Whoever asks for both gets the end of recovery up to 12; from 13 on the server stops, and goes on when it is started."""
    scene.feed(to=5)
    target = "recovery_target_name"
    standby = scene.standby("-s", SLOW, settings={target: scene.stock.targets[target], **PROMOTE}).begin()
    command = standby.until_waiting(6)
    scene.together(command, word="smart")
    if scene.stock.version < 13:
        standby.until_promoted(scene.stock.rows[5], deadline=30)
        return
    assert "FATAL:  recovery ended before configured recovery target was reached" in standby.until_down()
    standby.assert_not_promoted()
    scene.trigger_file.unlink()
    scene.feed(6, 7, 8, 9)
    standby.begin(connections=False)
    ends_there(standby, scene.stock.rows_at_target)


@pytest.mark.faults
@scenario("primary killed, its last segment copied by hand")
def test_the_last_segment_of_a_killed_primary_copied_by_hand(scene: Scene) -> None:
    """Every transaction that it had confirmed is there."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary()
    # What synchronous_commit = off confirms need not have been written.
    primary.configure({"synchronous_commit": True})
    primary.begin()
    standby = scene.standby().begin()
    primary.rows()
    current = primary.switch_wal()
    standby.until_waiting(current)
    rows = primary.rows()
    for _ in range(20):
        primary.sql("INSERT INTO ledger (note) SELECT repeat(md5(i::text), 8) FROM generate_series(1, 10) i")
    # Not by another look: with wal_log_hints that writes the pages that it looks at to WAL.
    rows += 200
    assert primary.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())") == [(current,)]
    primary.kill()
    scene.put(current, (primary.data_directory / "pg_wal" / current).read_bytes())
    standby.until_log(f'{current}" ')
    standby.assert_not_promoted()
    scene.trigger("smart")
    standby.until_promoted(rows)


# --- what it runs ----------------------------------------------------------------------------------------------------


@scenario("archive_cleanup_command")
def test_archive_cleanup_command_prunes_instead_of_restore_command(scene: Scene) -> None:
    """pg_archivecleanup with %r, and a restore_command without."""
    program = choose_installation(needs=("pg_archivecleanup",)).program("pg_archivecleanup")
    scene.feed(to=6)
    standby = scene.standby(
        restore_command=scene.restore_command().removesuffix(" %r"),
        settings={"archive_cleanup_command": f"{shell_words(program, scene.archive)} %r"},
    ).begin()
    standby.until_waiting(7)
    # With recovery_prefetch the end of segment 6 is replayed only when 7 comes; the checkpoint is in 3.
    eventually(lambda: standby.rows() >= scene.stock.rows[5], "all up to 5 is replayed", tell=standby.tell)
    assert sorted(os.listdir(scene.archive)) == list(scene.stock.names[:7])
    standby.sql("CHECKPOINT")
    eventually(lambda: sorted(os.listdir(scene.archive)) == list(scene.stock.names[3:7]), "it is pruned", tell=standby.tell)
    # What is left is enough for a restart, and for a failover.
    standby.stop("immediate")
    standby.begin()
    command = standby.until_waiting(7, times=2)
    scene.together(command, 7, word="smart")
    standby.until_promoted(scene.stock.rows[7])


@scenario("restore_command with exec")
def test_with_exec(scene: Scene) -> None:
    """The server's shell gives way to the command."""
    scene.feed(to=3)
    standby = scene.standby(restore_command=scene.restore_command("-s", SLOW, before="exec ")).begin()
    command = standby.until_waiting(4)
    assert not [line for line in processes_in(standby.data_directory).values() if re.match(r"\S*sh -c ", line)]
    scene.together(command, 4, 5, word="fast")
    standby.until_promoted(scene.stock.rows[3], deadline=30)


@scenario("restore_command with ||")
@pytest.mark.parametrize("word", ["smart", "fast"])
def test_after_another_command_has_failed(scene: Scene, word: str) -> None:
    """A copy nearby is tried first: what it has is not asked of us, and neither is what it fails at waited for by it."""
    nearby = scene.folder / "nearby"
    nearby.mkdir()
    scene.feed(0, 1, 3)
    (nearby / scene.stock.names[2]).write_bytes(scene.stock.read(2))
    command = scene.restore_command("-s", SLOW, before=f"cp {shell_words(nearby)}/%f %p 2>/dev/null || ")
    standby = scene.standby(restore_command=command).begin()
    waiting = standby.until_waiting(4)
    assert standby.asked(2) == 0
    standby.stop("fast", SOON)
    eventually(lambda: not standby.commands(), f"process {waiting} has gone", SOON, standby.tell)
    standby.begin()
    waiting = standby.until_waiting(4, times=2)
    scene.together(waiting, 4, word=word)
    standby.until_promoted(scene.stock.rows[4 if word == "smart" else 3], deadline=30)


@scenario("restore_command with 2>>log")
@pytest.mark.parametrize("word", ["smart", "fast"])
def test_with_a_log_file_of_its_own(scene: Scene, word: str) -> None:
    """As pg_standby's documentation had it."""
    scene.feed(to=3)
    log = scene.folder / "standby.log"
    standby = scene.standby(restore_command=scene.restore_command("-s", SLOW) + f" 2>>{shell_words(log)}").begin()

    def waits(times: int) -> int:
        if log.read_text().count(f"waiting for {scene.stock.names[4]}\n") < times:
            return 0
        return next((pid for pid in standby.commands() if watches(pid)), 0)

    eventually(lambda: waits(1), "it waits", tell=log.read_text)
    standby.stop("fast", SOON)
    eventually(lambda: not standby.commands(), "the command has gone", SOON, standby.tell)
    standby.assert_not_promoted()
    standby.begin()
    command = eventually(lambda: waits(2), "it waits again", tell=log.read_text)
    scene.together(command, 4, word=word)
    standby.until_promoted(scene.stock.rows[4 if word == "smart" else 3], deadline=30)
    assert "pystandby" not in standby.log_text()


@scenario("restore_command with %% for %")
def test_percent_signs(scene: Scene) -> None:
    """What is written so means the same in every version."""
    archive = scene.folder / "100% %r %f"
    archive.mkdir(mode=0o700)
    for name in scene.stock.names[:4]:
        segments.put(archive, name, (scene.stock.archive / name).read_bytes())
    seen = scene.folder / "seen"
    command = scene.restore_command(archive=archive)
    assert "100%% %%r %%f" in command
    end = f"date +%%Y >{shell_words(seen)}"
    standby = scene.standby(restore_command=command, settings={"recovery_end_command": end}).begin()
    standby.until_waiting(4)
    scene.trigger("smart")
    standby.until_promoted(scene.stock.rows[3])
    assert re.fullmatch(r"\d{4}\n", seen.read_text())


@scenario("a single % in recovery_end_command")
def test_a_single_percent_sign(scene: Scene) -> None:
    """From 16 on the server stops at it, in the middle of the failover; until then it is passed on."""
    scene.feed(to=3)
    seen = scene.folder / "seen"
    standby = scene.standby(settings={"recovery_end_command": f"date +%Y >{shell_words(seen)}"}).begin()
    standby.until_waiting(4)
    scene.trigger("smart")
    if scene.stock.version < 16:
        standby.until_promoted(scene.stock.rows[3])
        assert re.fullmatch(r"\d{4}\n", seen.read_text())
        return
    log = standby.until_down()
    assert 'FATAL:  invalid value for parameter "recovery_end_command"' in log, log
    # It had been promoted by then; with the command put right, or taken out, it starts and has every row.
    standby.reconfigure({"recovery_end_command": ""})
    standby.begin(connections=False)
    standby.until_promoted(scene.stock.rows[3], timeline=2)


@scenario("look-ahead, taken by the shell")
def test_segments_made_ready_are_taken_by_the_shell(scene: Scene) -> None:
    scene.feed(to=3)
    command = scene.restore_command("-s", SLOW, "--look-ahead", "8", before="mv pg_wal/.pystandby/%f %p 2>/dev/null || exec ")
    standby = scene.standby(restore_command=command).begin()
    standby.until_waiting(4)
    spool = standby.data_directory / "pg_wal" / ".pystandby"
    # The server replays nothing meanwhile, so that the child comes to hold all of them.
    standby.sql("SELECT pg_wal_replay_pause()")
    ahead = set(scene.stock.names[6:10])
    scene.feed(4, 5, 6, 7, 8, 9)
    eventually(lambda: ahead <= set(os.listdir(spool)), "four segments are ready", tell=standby.tell)
    standby.sql("SELECT pg_wal_replay_resume()")
    waiting = standby.until_waiting(10)
    assert [number for number in range(6, 10) if standby.asked(number)] == [], standby.tell()
    scene.together(waiting, 10, word="smart")
    standby.until_promoted(scene.stock.rows[10], deadline=30)
