"""Standby mode on real servers: streaming, the archive and the look-ahead beside it, and a trigger file that really promotes."""

from __future__ import annotations

import pytest
from support import segments
from support.branches import LATEST
from support.matrix import scenario
from support.servers import MB, QUICKLY, SLOW, Scene, Server, archive_command, eventually

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)

SHELL_HIT = "mv pg_wal/.pystandby/%f %p 2>/dev/null || exec "

both_ways = pytest.mark.parametrize("look_ahead", [False, True], ids=["plain", "look-ahead"])


def command(scene: Scene, look_ahead: bool, *options: str) -> str:
    """A restore_command whose SLEEPTIME nobody could wait for."""
    words = ["-s", SLOW, *options, *(["--look-ahead", "8"] if look_ahead else [])]
    return scene.restore_command(*words, before=SHELL_HIT if look_ahead else "")


def from_primary(primary: Server) -> dict[str, str | int | bool]:
    return {**QUICKLY, "primary_conninfo": f"host={primary.socket_directory} port={primary.port} user=postgres"}


def streams(standby: Server) -> bool:
    return standby.sql("SELECT status FROM pg_stat_wal_receiver") == [("streaming",)]


def until_streaming(standby: Server) -> None:
    eventually(lambda: streams(standby), "it streams", tell=standby.tell)


def half(scene: Scene, segment: int) -> bytes:
    """A segment of which a crash left half."""
    return segments.zeros_from(scene.stock.read(segment), MB // 2)


# --- the archive and the stream --------------------------------------------------------------------------------------


@both_ways
def test_from_the_archive_to_the_stream_and_back(scene: Scene, look_ahead: bool) -> None:
    """The primary takes no more standbys, but goes on archiving; then it takes them again."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    settings = from_primary(primary)
    standby = scene.standby(restore_command=command(scene, look_ahead), standby_mode=True, settings=settings).begin()
    until_streaming(standby)
    primary.sql("INSERT INTO ledger (note) VALUES ('streamed')")
    standby.until_rows(primary.rows())
    primary.stop()
    primary.configure({"max_wal_senders": 0})
    primary.begin()
    for _ in range(4):
        primary.sql("INSERT INTO ledger (note) SELECT repeat(md5(i::text), 8) FROM generate_series(1, 300) i")
        primary.switch_wal()
    # Nothing but the archive can have brought these.
    standby.until_rows(primary.rows())
    assert not streams(standby)
    primary.stop()
    primary.configure({"max_wal_senders": 10})
    primary.begin()
    until_streaming(standby)
    primary.sql("INSERT INTO ledger (note) VALUES ('streamed again')")
    standby.until_rows(primary.rows())
    assert standby.fingerprint() == primary.fingerprint()
    standby.assert_not_promoted()
    assert "waits not at all" in standby.log_text()
    assert "waiting for 0" not in standby.log_text()


def test_the_look_ahead_serves_a_catch_up(scene: Scene) -> None:
    """What the shell takes, no pystandby is asked for."""
    scene.feed(to=scene.stock.last)
    standby = scene.standby(restore_command=command(scene, True), standby_mode=True, settings=QUICKLY).begin()
    standby.until_rows(scene.stock.rows[-1])
    asked = [number for number in range(scene.stock.last + 1) if standby.asked(number)]
    assert 0 in asked
    assert len(asked) < len(scene.stock.names), standby.tell()
    # It went with its work; what comes later is found all the same.
    last = segments.name(segments.number(scene.stock.names[-1]) + 1)
    eventually(lambda: standby.log_text().count(f"file {last},") > 2, "it asks on", tell=standby.tell)
    standby.assert_not_promoted()


# --- promoting -------------------------------------------------------------------------------------------------------


@both_ways
def test_a_smart_trigger_promotes_when_all_is_replayed(scene: Scene, look_ahead: bool) -> None:
    """It is there before the server starts to catch up."""
    scene.feed(to=scene.stock.last)
    restore = command(scene, look_ahead, "--promote")
    standby = scene.standby(restore_command=restore, standby_mode=True, settings=QUICKLY)
    scene.trigger("smart")
    standby.begin(connections=False)
    standby.until_promoted(scene.stock.rows[-1])
    spool = standby.data_directory / "pg_wal" / ".pystandby"
    eventually(lambda: not list(spool.glob("0*")), "nothing is left in the spool", tell=standby.tell)


def test_while_it_streams_nobody_looks_at_the_trigger_file(scene: Scene) -> None:
    """A server that streams does not run restore_command: pg_ctl promote is for that. When the primary goes, the file counts."""
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    restore = command(scene, False, "--promote")
    standby = scene.standby(restore_command=restore, standby_mode=True, settings=from_primary(primary)).begin()
    until_streaming(standby)
    scene.trigger("smart")
    for number in range(3):
        primary.sql(f"INSERT INTO ledger (note) VALUES ('streamed {number}')")
        standby.until_rows(primary.rows())
    standby.assert_not_promoted()
    assert streams(standby)
    rows = primary.rows()
    primary.stop("immediate")
    standby.until_promoted(rows)
    # The server asks for its last segment once more: that is not promoted again.
    assert standby.log_text().count("the server is promoted before segment") == 1, standby.tell()
    assert not (standby.data_directory / "promote").exists()


def test_pg_ctl_promote_while_it_streams(scene: Scene) -> None:
    scene.feed(to=scene.stock.last)
    primary = scene.primary().begin()
    restore = command(scene, True, "--promote")
    standby = scene.standby(restore_command=restore, standby_mode=True, settings=from_primary(primary)).begin()
    until_streaming(standby)
    standby.promote(60)
    standby.until_promoted(primary.rows())


def test_a_trigger_file_with_recovery_conf(scene11: Scene) -> None:
    """standby_mode = on, as up to version 11."""
    scene = scene11
    scene.feed(to=3)
    restore = command(scene, True, "--promote")
    standby = scene.standby(restore_command=restore, standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 2)
    scene.feed(4, 5)
    scene.trigger()
    standby.until_promoted(scene.stock.rows[5])


# --- the last segment of a primary that crashed ----------------------------------------------------------------------


def test_an_unfinished_last_segment_is_replayed_as_far_as_it_goes(scene: Scene) -> None:
    """Copied by hand. The server may be promoted without asking us: with what is in it, as with cp."""
    scene.feed(to=3)
    standby = scene.standby("-s", "1", standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 2)
    scene.put(scene.stock.names[4], half(scene, 4))
    rows = until_some_rows(standby, scene, 4)
    assert standby.log_text().count("It does not change any more, and is restored as it is") == 1, standby.tell()
    standby.promote(60)
    standby.until_promoted(rows)


def test_an_unfinished_last_segment_that_becomes_whole(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", "1", standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 2)
    scene.put(scene.stock.names[4], half(scene, 4))
    until_some_rows(standby, scene, 4)
    scene.feed(4, 5)
    standby.until_rows(scene.stock.rows[5])
    standby.assert_not_promoted()


def test_a_smart_trigger_waits_for_an_unfinished_last_segment_to_rest(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", "2", "--promote", standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 2)
    scene.put(scene.stock.names[4], half(scene, 4))
    scene.trigger("smart")
    standby.until_log("It does not change any more, and is restored as it is")
    standby.until_log("LOG:  database system is ready to accept connections")
    rows = standby.rows()
    assert is_about_half(scene, 4, rows), rows
    standby.until_promoted(rows)


def test_a_smart_trigger_does_not_end_before_segments_that_are_there(scene: Scene) -> None:
    """One of them is damaged: what comes behind it was asked for as well."""
    scene.feed(to=3)
    standby = scene.standby("-s", "1", "--promote", standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(4, 2)
    scene.feed(5, 6)
    scene.put(scene.stock.names[4], half(scene, 4))
    scene.trigger("smart")
    standby.until_log("Later segments are there, which were asked for as well")
    standby.assert_not_promoted()
    assert standby.rows() == scene.stock.rows[3]
    scene.feed(4)
    standby.until_promoted(scene.stock.rows[6])


def until_some_rows(standby: Server, scene: Scene, segment: int) -> int:
    """Wait until about half of a segment's rows are there; return how many."""
    # It asks again when it has replayed what was in it.
    standby.until_log(f"{scene.stock.names[segment]} restored", times=2)
    rows = standby.rows()
    assert is_about_half(scene, segment, rows), rows
    return rows


def is_about_half(scene: Scene, segment: int, rows: int) -> bool:
    before, after = scene.stock.rows[segment - 1], scene.stock.rows[segment]
    return abs(rows - (before + after) // 2) < (after - before) // 10


# --- two standbys, one after the other -------------------------------------------------------------------------------


@both_ways
@scenario("standby mode: following another through its promotion")
def test_one_standby_follows_another_through_its_promotion(scene: Scene, look_ahead: bool) -> None:
    """Streaming from the other, with an archive that the other fills: first the stream, then the archive alone."""
    scene.feed(to=5)
    first = scene.standby("--promote", name="first", standby_mode=True, settings={**QUICKLY, **LATEST})
    first.configure({"archive_mode": True, "archive_command": archive_command(scene.archive)})
    first.begin()
    first.until_rows(scene.stock.rows[5])
    restore = scene.restore_command(
        "-t", scene.folder / "nobody's", *(["--look-ahead", "8"] if look_ahead else []), before=SHELL_HIT if look_ahead else ""
    )
    second = scene.standby(
        restore_command=restore, name="second", standby_mode=True, settings={**from_primary(first), **LATEST}
    ).begin()
    until_streaming(second)
    scene.trigger("smart")
    first.until_promoted(scene.stock.rows[5])
    second.until_rows(first.rows())
    first.switch_wal()
    first.sql("INSERT INTO ledger (note) SELECT 'archived' FROM generate_series(1, 20)")
    rows = first.rows()
    # A shutdown archives the rest.
    first.stop()
    second.until_rows(rows)
    assert "selected new timeline" not in second.log_text()
