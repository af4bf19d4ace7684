"""A server of Windows goes down while its command waits: no signal tells that command, and nothing ends it with the server."""

from __future__ import annotations

from datetime import datetime

import pytest
from support.servers import SLOW, SOON, Server, eventually

from pystandby.cluster import StopMode
from windows.servers import WindowsScene, alive, kill, processes_in

pytest_plugins = ["windows.servers"]

pytestmark = pytest.mark.timeout(180)

AT_ONCE = 2.0
"""Seconds within which a server has stopped; without pystandby's help immediate takes 5, and fast for ever."""


def took(server: Server) -> float:
    """Seconds from a server's being asked to stop to its end, by its own log: pg_ctl's start and pauses are not in it."""
    times = {
        what: datetime.strptime(line[: len("2026-01-01 00:00:00.000")], "%Y-%m-%d %H:%M:%S.%f")
        for line in server.last_log().splitlines()
        for what in ("shutdown request", "database system is shut down")
        if what in line
    }
    return (times["database system is shut down"] - times["shutdown request"]).total_seconds()


def assert_nothing_left(server: Server) -> None:
    """See that no process of a server that has stopped is there, its commands included."""
    eventually(
        lambda: not processes_in(server.data_directory), "no process is left", SOON, lambda: str(processes_in(server.folder))
    )


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_a_stop_while_a_command_waits(scene: WindowsScene, mode: StopMode) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW, settings=scene.seen_at_once).begin()
    standby.until_waiting(4)
    standby.stop(mode)
    assert took(standby) < AT_ONCE, standby.tell()
    assert_nothing_left(standby)
    standby.assert_not_promoted()
    scene.feed(4)
    standby.begin()
    standby.until_rows(scene.stock.rows[4])
    assert standby.in_recovery()


def test_a_stop_before_the_server_is_consistent(scene: WindowsScene) -> None:
    standby = scene.standby("-s", SLOW).begin(connections=False)
    standby.until_waiting(0)
    standby.stop("fast")
    assert took(standby) < AT_ONCE, standby.tell()
    assert_nothing_left(standby)
    standby.assert_not_promoted()


def test_an_orphan_never_writes(scene: WindowsScene) -> None:
    """Its startup process is killed; before the command looks again, the segment is there, and it must not be delivered."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW, settings=scene.seen_at_once).begin()
    command = standby.until_waiting(4)
    scene.remember(command)
    with scene.held(command):
        kill(standby.startup_process())
        standby.until_down()
        assert alive(command)
        scene.feed(4)
        before = set((standby.data_directory / "pg_wal").iterdir())
    eventually(lambda: not alive(command), "the orphan has ended", SOON, standby.tell)
    assert set((standby.data_directory / "pg_wal").iterdir()) <= before
    assert_nothing_left(standby)
    standby.begin()
    standby.until_rows(scene.stock.rows[4])
    standby.assert_not_promoted()


def test_the_postmaster_is_killed(scene: WindowsScene) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW, settings=scene.seen_at_once).begin()
    standby.until_waiting(4)
    standby.kill()
    assert_nothing_left(standby)
    standby.assert_not_promoted()
    scene.feed(4)
    standby.begin()
    standby.until_rows(scene.stock.rows[4])
    standby.assert_not_promoted()
