"""The archive goes away under real servers, and comes back: no promotion, no row lost, and nobody told twice.

With pg_standby, cp and pgBackRest a standby whose archive is away for a few seconds promotes itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import segments
from support.matrix import scenario
from support.servers import QUICKLY, SLOW, Scene, eventually

pytest_plugins = ["support.servers"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

GONE, BACK = "cannot be read", "can be read again"


def move_away(scene: Scene) -> Callable[[], None]:
    aside = scene.folder / "elsewhere"
    scene.archive.rename(aside)

    def back() -> None:
        aside.rename(scene.archive)

    return back


def put_a_file_there(scene: Scene) -> Callable[[], None]:
    aside = scene.folder / "elsewhere"
    scene.archive.rename(aside)
    scene.archive.write_text("a file")

    def back() -> None:
        scene.archive.unlink()
        aside.rename(scene.archive)

    return back


def shut(scene: Scene) -> Callable[[], None]:
    scene.archive.chmod(0)
    return lambda: scene.archive.chmod(0o700)


def a_link_that_leads_nowhere(scene: Scene) -> Callable[[], None]:
    """As an automounter's: what it leads to is not mounted."""
    aside = scene.folder / "elsewhere"
    scene.archive.rename(aside)
    scene.archive.symlink_to(scene.folder / "not-mounted")

    def back() -> None:
        aside.rename(scene.folder / "not-mounted")

    return back


OUTAGES = [
    pytest.param(move_away, marks=scenario("archive away while it waits")),
    pytest.param(put_a_file_there),
    pytest.param(shut),
    pytest.param(a_link_that_leads_nowhere),
]


def archive_behind(scene: Scene) -> Path:
    """Where the archive's content is now."""
    aside = scene.folder / "elsewhere"
    return aside if aside.exists() else scene.archive


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.__name__)
def test_away_while_it_waits(scene: Scene, outage: Callable[[Scene], Callable[[], None]]) -> None:
    scene.feed(to=4)
    standby = scene.standby().begin()
    standby.until_waiting(5)
    back = outage(scene)
    standby.until_log(GONE)
    # More arrives, unseen; a few looks go by.
    behind = archive_behind(scene)
    behind.chmod(0o700)
    for name in scene.stock.names[5:8]:
        segments.put(behind, name, (scene.stock.archive / name).read_bytes())
    if outage is shut:
        behind.chmod(0)
    standby.assert_not_promoted()
    assert standby.in_recovery()
    back()
    standby.until_waiting(8)
    standby.assert_not_promoted()
    log = standby.log_text()
    # To put something into a folder that is shut it has to be opened for a moment, and that may be seen.
    assert log.count(GONE) in ((1, 2) if outage is shut else (1,)), standby.tell()
    assert log.count(BACK) == log.count(GONE), standby.tell()
    scene.trigger()
    standby.until_promoted(scene.stock.rows[7])


@scenario("archive away in the middle of a catch-up")
def test_away_in_the_middle_of_a_catch_up(scene: Scene) -> None:
    """Between two calls: the next one starts without ever having seen the archive."""
    scene.feed(to=7)
    standby = scene.standby("-s", "1").begin(connections=False)
    standby.until_restored(2)
    back = move_away(scene)
    standby.until_log(GONE)
    standby.assert_not_promoted()
    back()
    standby.until_waiting(8)
    standby.assert_not_promoted()
    assert standby.log_text().count(GONE) == 1, standby.tell()
    assert standby.log_text().count(BACK) == 1, standby.tell()
    scene.trigger()
    standby.until_promoted(scene.stock.rows[7])


def test_away_several_times(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby().begin()
    standby.until_waiting(4)
    for times in (1, 2):
        back = move_away(scene)
        standby.until_log(GONE, times)
        back()
        standby.until_log(BACK, times)
    scene.feed(4)
    standby.until_waiting(5)
    standby.assert_not_promoted()
    assert standby.log_text().count(GONE) == 2, standby.tell()


@scenario("archive away from before the start")
def test_away_from_before_the_start(scene: Scene) -> None:
    """Not even the history file that the server asks for first may be said to be absent: it would start on the wrong timeline."""
    scene.feed(to=3)
    back = move_away(scene)
    standby = scene.standby().begin(connections=False)
    standby.until_log(GONE)
    standby.assert_not_promoted()
    assert standby.is_running()
    back()
    standby.until_waiting(4)
    assert standby.log_text().count(GONE) == 1, standby.tell()
    assert standby.log_text().count(BACK) == 1, standby.tell()
    scene.trigger()
    standby.until_promoted(scene.stock.rows[3])


def test_an_archive_that_comes_later(scene: Scene) -> None:
    """Nobody has made its folder yet."""
    scene.archive.rmdir()
    standby = scene.standby().begin(connections=False)
    standby.until_log(GONE)
    scene.archive.mkdir(mode=0o700)
    scene.feed(to=3)
    standby.until_waiting(4)
    standby.assert_not_promoted()


def test_a_server_whose_archive_is_away_can_be_stopped(scene: Scene) -> None:
    move_away(scene)
    standby = scene.standby("-s", SLOW).begin(connections=False)
    standby.until_log(GONE)
    standby.stop("fast", 15)
    eventually(lambda: not standby.commands(), "the command has gone", 15, standby.tell)
    standby.assert_not_promoted()


def test_a_segment_that_cannot_be_read_yet(scene: Scene) -> None:
    """Made by another user with a tight umask: pg_standby's and cp's standby promotes, with four segments lost."""
    scene.feed(to=3)
    standby = scene.standby().begin()
    standby.until_waiting(4)
    content = scene.stock.read(4)
    hidden = scene.archive / "put.hidden"
    hidden.write_bytes(content)
    hidden.chmod(0)
    hidden.rename(scene.archive / scene.stock.names[4])
    scene.feed(5)
    standby.until_log("could not open")
    standby.assert_not_promoted()
    (scene.archive / scene.stock.names[4]).chmod(0o600)
    standby.until_waiting(6)
    standby.assert_not_promoted()
    log = standby.log_text()
    assert log.count("could not open") == 1, standby.tell()
    assert log.count("in the archive can be read") == 1, standby.tell()
    scene.trigger()
    standby.until_promoted(scene.stock.rows[5])


# --- the end of recovery is asked for meanwhile ----------------------------------------------------------------------


@pytest.mark.parametrize("word", ["smart", "fast"])
def test_failover_without_the_archive(scene: Scene, word: str) -> None:
    """Whoever asks for it wants the server up, archive or not; what that holds is said not to be replayed."""
    scene.feed(to=3)
    standby = scene.standby().begin()
    standby.until_waiting(4)
    move_away(scene)
    standby.until_log(GONE)
    scene.trigger(word)
    standby.until_promoted(scene.stock.rows[3])
    if word == "smart":
        assert "is not replayed" in standby.log_text()


def test_a_smart_failover_gives_the_archive_a_moment(scene: Scene) -> None:
    """It is back before the moment is over: then every row is wanted."""
    scene.feed(to=3)
    standby = scene.standby().begin()
    command = standby.until_waiting(4)
    back = move_away(scene)
    scene.together(command, word="smart")
    standby.until_log(GONE)
    for name in scene.stock.names[4:7]:
        segments.put(archive_behind(scene), name, (scene.stock.archive / name).read_bytes())
    back()
    standby.until_promoted(scene.stock.rows[6])


def test_maxwaittime_without_the_archive(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-w", "3").begin()
    standby.until_waiting(4)
    move_away(scene)
    standby.until_log(GONE)
    standby.until_promoted(scene.stock.rows[3])
    assert standby.log_text().count("MAXWAITTIME") == 1, standby.tell()


# --- standby mode ----------------------------------------------------------------------------------------------------


def test_standby_mode(scene: Scene) -> None:
    """The server itself asks again, and may stream meanwhile: so it gets its answer at once, and is told of an outage once."""
    scene.feed(to=4)
    standby = scene.standby(standby_mode=True, settings=QUICKLY).begin()
    standby.until_asked(5, 2)
    back = move_away(scene)
    standby.until_log(GONE)
    standby.until_asked(5, 5)
    assert standby.log_text().count(GONE) == 1, standby.tell()
    for name in scene.stock.names[5:8]:
        segments.put(archive_behind(scene), name, (scene.stock.archive / name).read_bytes())
    back()
    standby.until_rows(scene.stock.rows[7])
    assert standby.log_text().count(BACK) == 1, standby.tell()
    # The next outage is another one.
    move_away(scene)
    standby.until_log(GONE, times=2)
    standby.assert_not_promoted()
    assert "waiting for 0" not in standby.log_text()


def test_standby_mode_from_before_the_start(scene: Scene) -> None:
    """Without any WAL a server cannot start, in this mode as in the other. It may not be told that there is none."""
    scene.feed(to=3)
    back = move_away(scene)
    standby = scene.standby(standby_mode=True, settings=QUICKLY).begin(connections=False)
    standby.until_log(GONE)
    standby.assert_not_promoted()
    back()
    standby.until_rows(scene.stock.rows[3])
    standby.assert_not_promoted()
