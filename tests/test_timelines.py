"""Timelines on real servers: what a standby makes of history files and segments that come in any order, and from anywhere."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from support import segments
from support.branches import LATEST, Branch, make_branch, start_of
from support.matrix import scenario
from support.servers import QUICKLY, SLOW, Scene, Server, archive_command, eventually

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)

STOP = ("--on-new-timeline", "stop")


def on(timeline: int, name: str) -> str:
    """A segment's name on another timeline."""
    return f"{timeline:08X}{name[8:]}"


def stopped_for_a_timeline(standby: Server) -> None:
    """Wait until it has stopped because of a new timeline."""
    assert "exit code 209" in standby.until_down(), standby.tell()
    assert_recovering(standby)


def assert_recovering(standby: Server) -> None:
    """See that it was never promoted, on whatever timeline it is."""
    assert "selected new timeline" not in standby.log_text(), standby.tell()
    name = "recovery.conf" if standby.stock.version < 12 else "recovery.signal"
    assert (standby.data_directory / name).exists() or standby.configured_standby_mode


def branch_after(scene: Scene, segment: int) -> Branch:
    """A timeline that begins where a segment of the stock has ended."""
    scene.feed(to=segment)
    branch = make_branch(scene, scene.archive)
    assert branch.forked_at == start_of(scene, segment + 1)
    assert branch.rows_before == scene.stock.rows[segment]
    return branch


def branch_within(scene: Scene, segment: int) -> Branch:
    """A timeline that begins in the middle of a full segment of the stock, which is in the archive as a whole."""
    assert segment in scene.stock.FULL
    scene.feed(to=segment)
    branch = make_branch(scene, scene.archive, at=start_of(scene, segment) + scene.stock.size // 2)
    assert start_of(scene, segment) < branch.forked_at < start_of(scene, segment + 1)
    assert scene.stock.rows[segment - 1] < branch.rows_before < scene.stock.rows[segment]
    return branch


# --- a standby that waits on the old timeline ------------------------------------------------------------------------


@scenario("a new timeline in the archive")
def test_the_history_file_comes_before_the_segments(scene: Scene) -> None:
    branch = branch_after(scene, 3)
    standby = scene.standby(*STOP, "-s", SLOW, settings=LATEST).begin()
    standby.until_waiting(4)
    branch.publish(scene, branch.history)
    stopped_for_a_timeline(standby)
    assert "the archive has gone on to timeline 2, which left timeline 1 at" in standby.log_text()
    standby.begin(connections=False)
    # It follows: it waits where the new timeline begins, and not on the old one.
    standby.until_waiting(branch.names[0])
    assert_recovering(standby)
    branch.publish(scene)
    standby.until_waiting(on(2, scene.stock.names[5]))
    scene.trigger()
    standby.until_promoted(branch.rows, timeline=3)
    assert standby.log_text().count("exit code 209") == 1


@scenario("a new timeline in the archive")
def test_the_segments_come_before_the_history_file(scene: Scene) -> None:
    """Without the history file nobody knows what they are; with it, everything is there already."""
    branch = branch_after(scene, 3)
    standby = scene.standby(*STOP, settings=LATEST).begin()
    waiting = standby.until_waiting(4)
    branch.publish(scene, *branch.names)
    # Nor does a start make anything of them.
    standby.stop()
    standby.begin()
    assert standby.until_waiting(4, times=2) != waiting
    assert "timeline 2" not in standby.log_text()
    branch.publish(scene, branch.history)
    stopped_for_a_timeline(standby)
    standby.begin()
    standby.until_waiting(on(2, scene.stock.names[5]))
    scene.trigger()
    standby.until_promoted(branch.rows, timeline=3)


def test_a_switch_in_the_middle_of_a_segment(scene: Scene) -> None:
    """The second standby waits for that very segment, of which the old primary archived no more."""
    branch = branch_within(scene, 4)
    (scene.archive / scene.stock.names[4]).unlink()
    standby = scene.standby(*STOP, "-s", SLOW, settings=LATEST).begin()
    standby.until_waiting(4)
    branch.publish(scene)
    stopped_for_a_timeline(standby)
    standby.begin()
    standby.until_waiting(on(2, segments.name(segments.number(branch.names[-1]) + 1)))
    scene.trigger()
    standby.until_promoted(branch.rows, timeline=3)


def test_without_the_option_it_is_told_of_once_and_waits_on(scene: Scene) -> None:
    branch = branch_after(scene, 3)
    standby = scene.standby(settings=LATEST).begin()
    standby.until_waiting(4)
    branch.publish(scene)
    standby.until_log("the archive has gone on to timeline 2")
    # As where the old primary lives on.
    scene.feed(4, 5)
    standby.until_waiting(6)
    assert_recovering(standby)
    assert standby.log_text().count("WARNING:  the archive has gone on to timeline 2") == 1, standby.tell()


def test_a_history_file_that_is_half_copied_says_nothing(scene: Scene) -> None:
    """Cut off within the LSN it would name a point long past."""
    branch = branch_after(scene, 3)
    content = (branch.folder / branch.history).read_bytes()
    cut = content[: content.index(b"/") + 3]
    assert re.fullmatch(rb"1\t\w/\w\w", cut), cut
    standby = scene.standby(*STOP, settings=LATEST).begin()
    standby.until_waiting(4)
    scene.put(branch.history, cut)
    scene.feed(4)
    standby.until_waiting(5)
    assert "timeline 2" not in standby.log_text()


# --- following is not always possible --------------------------------------------------------------------------------


def test_what_was_replayed_past_the_fork_is_lost_with_the_memory(scene: Scene) -> None:
    """The first standby was brought up by a fast trigger; the second had replayed more by then, but kept none of it on disk."""
    branch = branch_after(scene, 3)
    scene.feed(to=6)
    # Nothing but a stop or a restartpoint writes pages out.
    standby = scene.standby(*STOP, settings={**LATEST, "bgwriter_lru_maxpages": 0, "shared_buffers": "64MB"}).begin()
    standby.until_waiting(7)
    branch.publish(scene)
    stopped_for_a_timeline(standby)
    assert "pg_ctl restart -m immediate" in standby.log_text()
    standby.begin()
    standby.until_waiting(on(2, scene.stock.names[5]))
    scene.trigger()
    standby.until_promoted(branch.rows, timeline=3)


def test_a_standby_that_has_gone_past_the_fork_is_not_stopped(scene: Scene) -> None:
    """It could not come up again: that is told instead, and true."""
    branch = branch_after(scene, 3)
    scene.feed(to=6)
    standby = scene.standby(*STOP, settings=LATEST).begin()
    standby.until_waiting(7)
    # A stop writes out what was replayed.
    standby.stop()
    standby.begin()
    standby.until_waiting(7, times=2)
    ((reached,),) = standby.sql("SELECT min_recovery_end_lsn FROM pg_control_recovery()")
    branch.publish(scene)
    standby.until_log("This server cannot follow")
    assert f"its data directory holds changes of timeline 1 up to {reached}." in standby.log_text()
    scene.feed(7)
    standby.until_waiting(8)
    assert_recovering(standby)
    assert standby.log_text().count("This server cannot follow") == 1, standby.tell()
    # What PostgreSQL says to it.
    standby.stop()
    standby.begin(connections=False)
    standby.until_log("FATAL:  requested timeline 2 ")
    standby.until_down()


def test_a_server_that_is_not_set_to_follow_is_stopped_only_once(scene: Scene) -> None:
    """Else a service manager would start and stop it for ever."""
    branch = branch_after(scene, 3)
    standby = scene.standby(*STOP, settings={"recovery_target_timeline": "current"}).begin()
    standby.until_waiting(4)
    branch.publish(scene)
    stopped_for_a_timeline(standby)
    standby.begin()
    standby.until_log("it is not set to follow a new one")
    standby.until_waiting(4, times=2)
    standby.stop()
    standby.reconfigure(LATEST)
    standby.begin()
    standby.until_waiting(on(2, scene.stock.names[5]))
    scene.trigger()
    standby.until_promoted(branch.rows, timeline=3)


def test_a_stray_history_file_of_no_child(scene: Scene) -> None:
    """Timeline 3 comes from 1, while 2 is followed: the server goes on, but could not be started again."""
    two = branch_after(scene, 3)
    two.publish(scene)
    standby = scene.standby(*STOP, settings=LATEST).begin()
    standby.until_waiting(on(2, scene.stock.names[5]))
    scene.put("00000003.history", segments.history((1, start_of(scene, 2))))
    standby.until_log("timeline 3 in the archive does not descend from timeline 2")
    following = make_next(scene, on(2, scene.stock.names[5]), two)
    standby.until_waiting(following)
    assert_recovering(standby)
    assert standby.log_text().count("does not descend") == 1, standby.tell()
    # As it says: a start fails, and does not once the file is gone.
    standby.stop()
    standby.begin(connections=False)
    assert "exit code 209" in standby.until_down()
    assert "this server cannot follow timeline 3" in standby.log_text()
    for place in (scene.archive, standby.data_directory / "pg_wal"):
        (place / "00000003.history").unlink()
    standby.begin()
    standby.until_waiting(following, times=2)
    assert_recovering(standby)


def make_next(scene: Scene, name: str, branch: Branch) -> str:
    """Have the branch's server go on by one segment, and archive it; return the name of the next."""
    server = branch.server.begin()
    server.sql("INSERT INTO ledger (note) VALUES ('more')")
    server.sql("SELECT pg_switch_wal()")
    made = branch.folder / name
    eventually(made.exists, f"{name} is archived", tell=server.tell)
    scene.put(name, made.read_bytes())
    server.stop()
    return segments.name(segments.number(name) + 1, timeline=branch.timeline)


# --- the old timeline goes on past the fork --------------------------------------------------------------------------

# With cp the server is given the old timeline's segment where the new one's is not there yet, replays what is no part of the
# new timeline, and can never come back to it: see test_same_as_cp.py.


@pytest.mark.parametrize("within", [False, True], ids=["at-a-boundary", "within-a-segment"])
def test_in_recovery_mode_the_new_timelines_segment_is_waited_for(scene: Scene, within: bool) -> None:
    branch = branch_within(scene, 4) if within else branch_after(scene, 3)
    scene.feed(to=7)
    branch.publish(scene, branch.history)
    standby = scene.standby("-s", SLOW, settings=LATEST).begin(connections=False)
    standby.until_waiting(branch.names[0])
    standby.until_log(f"segment {branch.names[0]} is waited for, while the archive holds {scene.stock.names[4]}")
    branch.publish(scene)
    standby.until_waiting(segments.name(segments.number(branch.names[-1]) + 1, timeline=2))
    scene.trigger()
    standby.until_promoted(branch.rows, timeline=3)


@pytest.mark.parametrize("word", ["smart", "fast"])
@pytest.mark.parametrize("within", [False, True], ids=["at-a-boundary", "within-a-segment"])
def test_a_failover_before_the_new_timelines_segment_has_come(scene: Scene, within: bool, word: str) -> None:
    """Up to the fork, and no further: a smart one with what the old timeline's segment holds before it."""
    branch = branch_within(scene, 4) if within else branch_after(scene, 3)
    scene.feed(to=7)
    branch.publish(scene, branch.history)
    standby = scene.standby("-s", SLOW, settings=LATEST).begin(connections=False)
    standby.until_waiting(branch.names[0])
    scene.trigger(word)
    standby.until_promoted(branch.rows_before if word == "smart" else scene.stock.rows[3], timeline=3)
    history = (standby.data_directory / "pg_wal" / "00000003.history").read_text().split()
    assert history[0] == "1"


@pytest.mark.parametrize("within", [False, True], ids=["at-a-boundary", "within-a-segment"])
@pytest.mark.parametrize("options", [(), ("--look-ahead", "8")], ids=["plain", "look-ahead"])
def test_in_standby_mode_replay_stops_at_the_fork(scene: Scene, within: bool, options: tuple[str, ...]) -> None:
    branch = branch_within(scene, 4) if within else branch_after(scene, 3)
    scene.feed(to=7)
    branch.publish(scene, branch.history)
    hit = "mv pg_wal/.pystandby/%f %p 2>/dev/null || exec " if options else ""
    command = scene.restore_command(*options, before=hit)
    standby = scene.standby(restore_command=command, standby_mode=True, settings={**LATEST, **QUICKLY}).begin()
    standby.until_rows(branch.rows_before)
    eventually(lambda: standby.log_text().count(f"file {branch.names[0]},") > 3, "it is asked for again", tell=standby.tell)
    assert standby.rows() == branch.rows_before
    branch.publish(scene)
    standby.until_rows(branch.rows)
    assert_recovering(standby)


def test_in_standby_mode_what_was_spooled_of_the_old_timeline_is_withdrawn(scene: Scene) -> None:
    """The history file comes while segments of the old timeline lie ready, past the fork."""
    branch = branch_within(scene, 4)
    scene.feed(to=4)
    (scene.archive / scene.stock.names[4]).unlink()
    command = scene.restore_command("--look-ahead", "8", before="mv pg_wal/.pystandby/%f %p 2>/dev/null || exec ")
    standby = scene.standby(restore_command=command, standby_mode=True, settings={**LATEST, **QUICKLY}).begin()
    standby.until_rows(scene.stock.rows[3])
    standby.until_asked(4, 2)
    spool = standby.data_directory / "pg_wal" / ".pystandby"
    with scene.held(standby.startup_process()):
        # As a child has them that was faster than the server.
        for number in (4, 5):
            (spool / scene.stock.names[number]).write_bytes(scene.stock.read(number))
        branch.publish(scene, branch.history)
    scene.feed(4, 5)
    eventually(lambda: standby.log_text().count(f"file {branch.names[0]},") > 3, "it is asked for again", tell=standby.tell)
    standby.until_rows(branch.rows_before)
    branch.publish(scene)
    standby.until_rows(branch.rows)


def test_a_restart_on_the_old_timeline_goes_past_the_fork(scene: Scene) -> None:
    """Whoever sets recovery_target_timeline to it wants it whole: nothing of what another process was told binds this one."""
    branch = branch_within(scene, 4)
    scene.feed(to=7)
    branch.publish(scene, branch.history)
    standby = scene.standby(settings=LATEST).begin(connections=False)
    standby.until_waiting(branch.names[0])
    standby.stop()
    standby.reconfigure({"recovery_target_timeline": "1"})
    standby.begin()
    standby.until_waiting(8)
    scene.trigger()
    standby.until_promoted(scene.stock.rows[7], timeline=3)


# --- several failovers, one after the other --------------------------------------------------------------------------


def chain(scene: Scene) -> list[Branch]:
    """Three timelines, each begun by a server that followed the one before; none of them is in the archive yet."""
    scene.feed(to=3)
    branches = [make_branch(scene, scene.archive)]
    for timeline in (3, 4):
        full = scene.folder / f"archive{timeline}"
        full.mkdir()
        for source in (scene.archive, *(branch.folder for branch in branches)):
            for path in source.iterdir():
                if len(path.name) in (16, 24):
                    segments.put(full, path.name, path.read_bytes())
        branches.append(make_branch(scene, full, timeline=timeline))
    return branches


@scenario("a chain of three promotions")
def test_a_chain_of_three_promotions(scene: Scene) -> None:
    """A standby follows each by a restart; one that is made afterwards, all of them at once."""
    branches = chain(scene)
    follower = scene.standby(*STOP, settings=LATEST, name="follower").begin()
    follower.until_waiting(4)
    for number, branch in enumerate(branches, 1):
        # In either order.
        branch.publish(scene, *([branch.history] if number % 2 else branch.names))
        branch.publish(scene)
        stopped_for_a_timeline(follower)
        follower.begin(connections=False)
        after = segments.name(segments.number(branch.names[-1]) + 1, timeline=branch.timeline)
        follower.until_waiting(after)
        eventually(
            lambda branch=branch: branch.rows_before <= follower.rows() <= branch.rows,  # type: ignore[misc]
            f"timeline {branch.timeline} is replayed",
            tell=follower.tell,
        )
    late = scene.standby("-t", scene.folder / "late-failover", *STOP, settings=LATEST, name="late").begin()
    late.until_waiting(after)
    assert "exit code 209" not in late.log_text()
    scene.trigger()
    follower.until_promoted(branches[-1].rows, timeline=5)
    segments.put(scene.folder, "late-failover", b"")
    late.until_promoted(branches[-1].rows, timeline=5)


# --- the old primary comes back --------------------------------------------------------------------------------------


def test_an_old_primary_is_rebuilt_where_an_earlier_failover_left_its_traces(scene: Scene) -> None:
    """Its trigger file, and by way of pg_rewind the new primary's memory of it: neither may bring this one up."""
    scene.feed(to=scene.stock.last)
    old = scene.primary()
    # pg_rewind refuses %r.
    old.configure({"restore_command": scene.restore_command().removesuffix(" %r")})
    old.begin()
    # The file stays: there is no recovery_end_command.
    new = scene.standby(name="new")
    new.configure({"archive_mode": True, "archive_command": archive_command(scene.archive)})
    new.begin()
    new.until_waiting(old.switch_wal())
    scene.trigger("smart")
    pulled = time.monotonic()
    new.until_promoted(old.rows())
    old.sql("INSERT INTO ledger (note) VALUES ('lost')")
    new.stop()
    old.stop()
    rewind(old, new)
    memory = old.data_directory / "pg_wal" / ".pystandby" / "refused"
    assert memory.exists(), "pg_rewind copies it"
    # Nobody rebuilds a server faster than that; ten seconds are the grace for one script that makes both files.
    time.sleep(max(0.0, pulled + 11 - time.monotonic()))
    old.configured_standby_mode = False
    old.make_standby(scene.restore_command(), archive_mode=False, recovery_target_timeline="latest")
    new.begin()
    # It takes connections when it has replayed all that pg_rewind found, some of which is not archived yet.
    old.begin(connections=False)
    for _ in range(2):
        following = on(2, new.switch_wal())
        old.until_waiting(following)
    assert "was there before this server was made a standby" in old.log_text()
    assert old.log_text().count("is ignored") == 1, old.tell()
    assert_recovering_since_last_start(old)
    # Made anew it counts.
    scene.trigger_file.touch()
    old.until_promoted(new.rows(), timeline=3)


def rewind(target: Server, source: Server) -> None:
    """Turn a server that was stopped back to where another left its timeline."""
    program = target.installation.program("pg_rewind")
    words: list[str | Path] = [program, "-c", "--no-sync", "-D", target.data_directory, "--source-pgdata", source.data_directory]
    answer = subprocess.run(
        words, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=target.environment()
    )
    assert answer.returncode == 0, answer.stderr


def assert_recovering_since_last_start(server: Server) -> None:
    """See that it was not promoted since it was started last."""
    assert "selected new timeline" not in server.last_log(), server.tell()
    assert server.in_recovery()
