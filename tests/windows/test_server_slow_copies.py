"""A segment whose copy has the final size from the beginning is handed to a server when it is whole, and not before."""

from __future__ import annotations

import time

import pytest
from support.servers import Server, eventually

from windows.servers import WindowsScene
from windows.slow_copy import BACKWARD, ENDS_FIRST, EXCLUSIVE, FORWARD, LOCKED, PIECES, READABLE, SHARED, SlowCopy

pytest_plugins = ["windows.servers"]

pytestmark = pytest.mark.timeout(240)

SLEEPTIME = 1

A_WHILE = 2.5 * SLEEPTIME
"""Seconds in which pystandby looks several times, and a file that nobody writes to has long come to rest."""


def stays_out(standby: Server, segment: int) -> None:
    """See that a segment is not handed over for a while."""
    end = time.monotonic() + A_WHILE
    while time.monotonic() < end:
        assert f"{standby.stock.names[segment]} restored" not in standby.log_text(), standby.tell()
        time.sleep(0.1)
    standby.assert_not_promoted()


@pytest.mark.parametrize(
    ("others", "order"), [(READABLE, FORWARD), (SHARED, ENDS_FIRST), (EXCLUSIVE, BACKWARD), (LOCKED, FORWARD)]
)
def test_a_slow_copy(scene: WindowsScene, others: str, order: str) -> None:
    """The file is shown with its size; half written; all but the last piece; all of it, and still open where that can be told."""
    segment = 4
    scene.feed(to=segment - 1)
    standby = scene.standby("--stable", str(SLEEPTIME), settings=scene.seen_at_once).begin()
    standby.until_waiting(segment)
    name = scene.stock.names[segment]
    with SlowCopy(scene.stock.archive / name, scene.archive / name, others, order) as copy:
        stays_out(standby, segment)
        copy.write(PIECES - 1)
        stays_out(standby, segment)
        copy.write(1)
        copy.close()
    standby.until_rows(scene.stock.rows[segment])
    assert standby.in_recovery()
    scene.feed(segment + 1)
    standby.until_rows(scene.stock.rows[segment + 1])
    standby.assert_not_promoted()


def test_a_copy_that_is_killed(scene: WindowsScene) -> None:
    """Nobody has it open any more, and its size and time rest; its pages tell that it is not whole."""
    scene.feed(to=3)
    standby = scene.standby("--stable", str(SLEEPTIME), settings=scene.seen_at_once).begin()
    standby.until_waiting(4)
    name = scene.stock.names[4]
    with SlowCopy(scene.stock.archive / name, scene.archive / name, READABLE) as copy:
        copy.write(PIECES // 2)
    stays_out(standby, 4)
    (scene.archive / name).unlink()
    scene.feed(4)
    standby.until_rows(scene.stock.rows[4])
    standby.assert_not_promoted()


def test_a_segment_has_to_rest_by_default(scene: WindowsScene) -> None:
    """For SLEEPTIME, as pg_standby had it, whatever its pages say; with --stable 0 not at all."""
    sleeptime = 3
    scene.feed(to=3)
    restore_command = scene.restore_command("-s", str(sleeptime))
    assert restore_command.count("--stable 0 ") == 1
    standby = scene.standby(restore_command=restore_command.replace("--stable 0 ", ""), settings=scene.seen_at_once).begin()
    standby.until_waiting(4)
    name = scene.stock.names[4]
    with SlowCopy(scene.stock.archive / name, scene.archive / name, READABLE) as copy:
        copy.write()
        copy.close()
        written = time.monotonic()
    eventually(lambda: f"{name} restored" in standby.log_text(), "it is restored", tell=standby.tell)
    assert time.monotonic() - written > 0.9 * sleeptime
    standby.until_rows(scene.stock.rows[4])
    # Told that what is there is whole: at once.
    standby.stop("fast")
    standby.reconfigure({"restore_command": scene.restore_command("-s", "60")})
    standby.begin()
    standby.until_waiting(5)
    scene.feed(5)
    standby.until_rows(scene.stock.rows[5], deadline=40)


def test_verification_by_size_alone_waits_for_who_writes(scene: WindowsScene) -> None:
    """Nothing looks at its pages; a program that has it open for writing is seen all the same."""
    scene.feed(to=3)
    standby = scene.standby("--verify", "size", "--stable", str(SLEEPTIME), settings=scene.seen_at_once).begin()
    standby.until_waiting(4)
    name = scene.stock.names[4]
    with SlowCopy(scene.stock.archive / name, scene.archive / name, READABLE) as copy:
        copy.write(PIECES // 2)
        stays_out(standby, 4)
        copy.write(PIECES // 2)
        copy.close()
    standby.until_rows(scene.stock.rows[4])
    standby.assert_not_promoted()
