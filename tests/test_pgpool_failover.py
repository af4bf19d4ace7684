"""Failovers by Pgpool-II with the scripts of contrib/linux/pgpool, on real servers: make test-pgpool."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from support.command import PYSTANDBY
from support.pgpool import FED, STREAMING, Node, Pool
from support.servers import eventually

pytest_plugins = ["support.pgpool"]

pytestmark = [pytest.mark.pgpool, pytest.mark.timeout(300)]


def begin(pool: Pool, *standbys: str, **settings: str | int | bool) -> list[Node]:
    """Servers, and Pgpool-II in front of them, which knows which of them is what."""
    nodes = pool.servers(*standbys)
    pool.begin(**settings)
    pool.until_nodes("up primary", *["up standby"] * len(standbys))
    return nodes


def assert_placeholders(pool: Pool, script: str, **expected: object) -> None:
    """See that a script was called with these values, all others as they may be."""
    lines = [line for line in pool.script_lines().splitlines() if f"{script} LOG:  called with" in line]
    words = [f"%{name}={value}" for name, value in expected.items()]
    assert any(all(f" {word} " in f"{line} " for word in words) for line in lines), (words, lines)


def test_the_tutorial(pool: Pool) -> None:
    """Pgpool-II's own first example: a standby goes and comes back, then the primary goes."""
    primary, standby = begin(pool, STREAMING)
    pool.sql("INSERT INTO ledger (note) VALUES ('both are there')")

    standby.stop("fast")
    pool.until_nodes("up primary", "down standby")
    pool.until_noticed("node 1, a standby, went down: nothing to promote")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('one is there')")
    assert_placeholders(pool, "failover.sh", d=1, h="127.0.0.1", p=standby.port, D=standby.data_directory, m=0, M=0, P=0)

    standby.begin()
    assert pool.pcp("pcp_attach_node", 1).status == 0, pool.tell()
    pool.until_nodes("up primary", "up standby")
    pool.until_noticed("node 1 is attached, a standby")
    assert_placeholders(pool, "failback.sh", d=1, m=0, P=0, r=primary.port, R=primary.data_directory, S=primary.port)
    standby.until_rows(102)

    primary.stop("fast")
    pool.until_nodes("down standby", "up primary")
    assert_placeholders(pool, "failover.sh", d=0, D=primary.data_directory, m=1, P=0, r=standby.port, R=standby.data_directory)
    assert_placeholders(pool, "follow_primary.sh", d=0, m=1, H="127.0.0.1", r=standby.port)
    pool.until_noticed("node 1 takes writes")
    pool.until_noticed("node 0, the old primary, is left detached")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('the other is there')")
    assert pool.eventually_sql("SELECT count(*) FROM ledger") == [(103,)]
    assert standby.rows() == 103
    # Which it makes for archive_timeout.
    standby.until_log("checkpoint starting: immediate force wait")


@pytest.mark.parametrize("crash", [False, True], ids=["stop", "crash"])
def test_a_smart_failover(pool: Pool, crash: bool) -> None:
    """A standby fed from the archive: all that was archived is there."""
    primary, standby = begin(pool, FED)
    primary.write_rows(50)
    standby.until_rows(150)
    for number in range(3):
        pool.sql(f"INSERT INTO ledger (note) VALUES ('through Pgpool-II {number}')")
    if crash:
        # What is not archived by then is lost: here, what is written after this.
        primary.archive_all()
        pool.sql("INSERT INTO ledger (note) VALUES ('lost')")
        primary.stop("immediate")
    else:
        # A stop archives the last segment as well.
        primary.stop("fast")
    pool.until_nodes("down standby", "up primary")
    assert pool.eventually_sql("SELECT count(*) FROM ledger") == [(153,)]
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('after the failover')")
    assert standby.rows() == 154
    assert not standby.in_recovery()
    assert not standby.trigger_file.exists(), "recovery_end_command removes it"
    pool.until_noticed("node 1 takes writes")
    assert "says smart" in pool.script_lines()
    # Called again, it does nothing.
    again = pool.call("failover.sh", *pool.placeholders(primary, standby, primary), "50%")
    assert again.status == 0, again
    assert "node 1 takes writes already: nothing to promote" in again.stderr
    assert " 50%" in again.stderr
    assert not standby.trigger_file.exists()


def stays_a_standby(pool: Pool, standby: Node) -> None:
    """See that nothing was done to it, and that it goes on as before."""
    assert not standby.trigger_file.exists()
    assert standby.in_recovery()
    standby.assert_not_promoted()
    # Pgpool-II, to which the script's status is nothing, has given the primary up, and goes on with what there is.
    pool.until_nodes("down standby", "up standby")
    assert pool.eventually_sql("SELECT count(*) FROM ledger") == [(100,)]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        pool.sql("INSERT INTO ledger (note) VALUES ('nobody takes this')")


def test_the_arbiter_says_no(pool: Pool) -> None:
    pool.configure(ARBITRATE='echo "asked about node $FAILED_NODE: $FAILED_HOST, and $NEW_DATA"; exit 3', FENCE="exit 9")
    primary, standby = begin(pool, FED, search_primary_node_timeout=2)
    primary.stop("fast")
    pool.until_noticed("ARBITRATE does not allow a failover (status 3)")
    assert f"asked about node 0: 127.0.0.1, and {standby.data_directory}" in pool.script_lines()
    assert "status 9" not in pool.script_lines(), "nothing is fenced for a failover that is not to be"
    stays_a_standby(pool, standby)
    # It hangs, and what it has started holds its output: no, and in time.
    pool.configure(ARBITRATE="sleep 1000 & sleep 1000", ARBITRATE_TIMEOUT="1")
    result = pool.call("failover.sh", *pool.placeholders(primary, standby, primary))
    assert result.status == 1
    assert "ARBITRATE does not allow a failover (status 124)" in result.stderr
    # Neither is set: the file as it is delivered only tells.
    for missing in ("ARBITRATE", "FENCE"):
        pool.configure(**{"ARBITRATE": "true", "FENCE": "true", missing: ""})
        result = pool.call("failover.sh", *pool.placeholders(primary, standby, primary))
        assert result.status == 1
        assert "this only tells: no failover" in result.stderr
    stays_a_standby(pool, standby)
    # The way back: the primary is started, and attached.
    primary.begin()
    assert pool.pcp("pcp_attach_node", 0).status == 0, pool.tell()
    pool.until_nodes("up primary", "up standby")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('as before')")
    assert primary.rows() == 101


IGNORES_SIGTERM = 'trap "" TERM; sleep 1000 & sleep 1000'


def test_the_fence_fails(pool: Pool) -> None:
    # Under Pgpool-II itself, whose signal mask the scripts inherit.
    pool.configure(FENCE=IGNORES_SIGTERM, FENCE_TIMEOUT="1")
    primary, standby = begin(pool, FED, search_primary_node_timeout=2)
    primary.stop("fast")
    pool.until_noticed("node 0, is not known to be stopped (FENCE, status 137): no failover")
    stays_a_standby(pool, standby)
    for settings, said in (
        ({"FENCE": "exit 7", "FENCE_TIMEOUT": "60"}, "node 0, is not known to be stopped (FENCE, status 7): no failover"),
        ({"ARBITRATE": IGNORES_SIGTERM, "ARBITRATE_TIMEOUT": "1"}, "ARBITRATE does not allow a failover (status 137)"),
    ):
        pool.configure(**settings)
        result = pool.call("failover.sh", *pool.placeholders(primary, standby, primary))
        assert result.status == 1
        assert said in result.stderr
    pool.configure(ARBITRATE="true", ARBITRATE_TIMEOUT="20")
    # It says that the old primary is stopped, which it is not.
    primary.begin()
    pool.configure(FENCE="true")
    result = pool.call("failover.sh", *pool.placeholders(primary, standby, primary))
    assert result.status == 1
    assert "node 0, still answers after FENCE: no failover" in result.stderr
    stays_a_standby(pool, standby)
    # Nor is it known, where it cannot be asked.
    programs = pool.folder / "programs"
    programs.mkdir()
    for program in ("psql", "pg_ctl"):
        (programs / program).symlink_to(standby.installation.program(program))
    pool.configure(BINDIR=str(programs))
    result = pool.call("failover.sh", *pool.placeholders(primary, standby, primary))
    assert result.status == 1
    assert "it is not known whether the old primary, node 0, answers after FENCE (pg_isready, status 127)" in result.stderr
    stays_a_standby(pool, standby)


def test_called_twice_at_once(pool: Pool) -> None:
    """One failover, and no call reports a failure."""
    primary, standby = pool.servers(FED)
    words = pool.placeholders(primary, standby, primary)
    with ThreadPoolExecutor(3) as calls:
        results = list(calls.map(lambda _: pool.call("failover.sh", *words), range(3)))
    assert [result.status for result in results] == [0, 0, 0], "".join(result.stderr for result in results)
    assert sum("takes writes already" in result.stderr for result in results) == 2
    assert sum("says smart" in result.stderr for result in results) == 1
    assert not primary.is_running()
    assert not standby.in_recovery()
    assert standby.sql("SELECT timeline_id FROM pg_control_checkpoint()") == [(2,)]
    standby.archive_all()
    assert [path.name for path in pool.archive.glob("*.history")] == ["00000002.history"]


def test_disallow_to_failover(pool: Pool) -> None:
    """Only a message, and when the primary is back all is as it was."""
    primary, standby = pool.servers(FED)
    pool.begin(backend_flag0="DISALLOW_TO_FAILOVER")
    pool.until_nodes("up primary", "up standby")
    primary.stop("fast")
    pool.until_logged("but failover is disallowed")
    assert not standby.trigger_file.exists()
    assert "failover.sh" not in pool.script_lines()
    primary.begin()
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('as before')")
    pool.until_nodes("up primary", "up standby")
    standby.assert_not_promoted()
    assert "failover.sh" not in pool.script_lines()


def test_pgpool_is_started_again_while_a_person_is_told(pool: Pool) -> None:
    """What is left in the background does not hold its ports."""
    done = pool.folder / "done"
    pool.configure(NOTIFY=f"cat >>{pool.notices}; until [ -e {done} ]; do sleep 0.1; done")
    _, standby = begin(pool, FED)
    standby.stop("fast")
    pool.until_noticed("node 1, a standby, went down: nothing to promote")
    pool.stop()
    standby.begin()
    pool.begin()
    pool.until_nodes("up primary", "up standby")
    assert not done.exists()
    done.touch()


def test_nothing_to_promote(pool: Pool) -> None:
    """Calls that are no reason for a failover, and calls that cannot be understood."""
    primary, standby = pool.servers(FED)
    for words, said in (
        (pool.placeholders(primary, None, primary), "no node is left: nothing to promote"),
        (pool.placeholders(primary, standby, None), "there was no primary: nothing to promote"),
        (pool.placeholders(standby, primary, primary), "node 1, a standby, went down: nothing to promote"),
    ):
        result = pool.call("failover.sh", *words)
        assert result.status == 0, result
        assert said in result.stderr
        pool.until_noticed(said)
    words = pool.placeholders(primary, standby, primary)
    for wrong in (words[:9], [*words[1:4], words[0], *words[4:]], ["", *words[1:]]):
        for script in ("failover.sh", "failback.sh", "follow_primary.sh"):
            result = pool.call(script, *wrong)
            assert result.status == 1, result
            assert "ERROR:  " in result.stderr
    # Up to 4.0 there are no %N and %S.
    result = pool.call("failback.sh", *pool.placeholders(standby, primary, primary)[:10])
    assert result.status == 0, result
    # A setting that cannot be meant, a standby that could not be triggered: known before the old primary is fenced.
    for name, right, value in (
        ("PROMOTE_TIMEOUT", "60", "10m"),
        ("PROMOTE_TIMEOUT", "60", "08"),
        ("FENCE_TIMEOUT", "60", "0"),
        ("ARBITRATE_TIMEOUT", "20", ""),
        ("REMOTE", "local", "Local"),
        ("CLUSTERING_MODE", "streaming_replication", "streaming"),
    ):
        pool.configure(**{name: value})
        result = pool.call("failover.sh", *words)
        assert result.status == 1, result
        assert f'ERROR:  {name} is "{value}": it must be ' in result.stderr
        pool.configure(**{name: right})
    elsewhere = pool.folder / "missing" / "trigger"
    standby.sql(f"ALTER SYSTEM SET restore_command = 'exec {PYSTANDBY} -t {elsewhere} {pool.archive} %f %p'")
    standby.sql("SELECT pg_reload_conf()")
    result = pool.call("failover.sh", *words)
    assert result.status == 1, result
    assert "node 1 could not be triggered: no failover" in result.stderr
    assert f'could not make trigger file "{elsewhere}"' in result.stderr
    assert primary.is_running()
    # A server that does not answer is no reason to promote it.
    standby.stop("fast")
    result = pool.call("failover.sh", *words)
    assert result.status == 1
    assert "does not say whether it is in recovery: no failover" in result.stderr
    assert primary.is_running()
    assert not standby.trigger_file.exists()


def test_a_second_standby_follows(pool: Pool) -> None:
    """It waits for the old timeline's next segment, and is started again; the old primary is left alone."""
    primary, first, second = begin(pool, FED, FED)
    primary.write_rows(50)
    primary.stop("fast")
    pool.until_nodes("down standby", "up primary", "up standby")
    pool.until_noticed("node 2 follows node 1, on timeline 2, and is attached")
    pool.until_noticed("node 0, the old primary, is left detached")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('on timeline 2')")
    first.archive_all()
    second.until_rows(151)
    assert second.in_recovery()
    # It is not promoted by what promoted the other, and can be the next.
    first.stop("fast")
    pool.until_nodes("down standby", "down standby", "up primary")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('on timeline 3')")
    assert second.rows() == 152


def test_it_follows_a_streaming_one_before_its_checkpoint(pool: Pool) -> None:
    """Which may take long: until then the new primary's pg_control has the old timeline."""
    primary, first, second = begin(pool, STREAMING, FED)
    ((checkpointer,),) = first.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    assert isinstance(checkpointer, int)
    os.kill(checkpointer, signal.SIGSTOP)
    try:
        primary.stop("fast")
        pool.until_noticed("node 2 follows node 1, on timeline 2, and is attached")
        assert first.sql("SELECT timeline_id FROM pg_control_checkpoint()") == [(1,)]
    finally:
        os.kill(checkpointer, signal.SIGCONT)
    pool.until_nodes("down standby", "up primary", "up standby")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('on timeline 2')")
    first.archive_all()
    second.until_rows(101)


def test_the_old_primary_comes_back_unfenced(pool: Pool) -> None:
    """Somebody starts it: Pgpool-II leaves it alone, the archive refuses it; attached by hand it gets the clients."""
    primary, standby = begin(pool, FED)
    primary.stop("fast")
    pool.until_nodes("down standby", "up primary")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('to the new primary')")
    standby.archive_all()

    primary.begin()
    primary.sql("INSERT INTO ledger (note) VALUES ('to the old primary')")
    primary.sql("SELECT pg_switch_wal()")
    primary.until_log("archive command failed")
    primary.until_log("has left timeline 1 at")
    # The health check does not look at a node that is down.
    pool.until_nodes("down standby", "up primary")
    pool.sql("INSERT INTO ledger (note) VALUES ('to the new primary')")
    assert (primary.rows(), standby.rows()) == (101, 102)

    # What docs/pgpool.md warns of: the lowest number wins, and what the new primary has is out of sight.
    assert pool.pcp("pcp_attach_node", 0).status == 0, pool.tell()
    pool.until_noticed("node 0 is attached, and takes writes besides the primary, node 1: detach and stop it at once")
    pool.until_nodes("up primary", "up standby")
    pool.eventually_sql("INSERT INTO ledger (note) VALUES ('split')")
    assert (primary.rows(), standby.rows()) == (102, 102)
    # Nothing of it has come into the archive, from which all can still be made anew.
    standby.archive_all()
    eventually(lambda: primary.log_text().count("has left timeline 1 at") > 1, "it is refused again", tell=primary.tell)
