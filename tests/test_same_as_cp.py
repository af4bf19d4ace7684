"""What a server makes of an archive does not depend on whether pystandby or cp restores it; but for cases where cp does harm.

With a smart trigger, or a recovery target, a server under pystandby ends its recovery where it would end it under cp: at the same
LSN, on the same timeline, with the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
from support import segments
from support.branches import LATEST, make_branch, start_of, text_lsn
from support.command import PYSTANDBY
from support.servers import MB, QUICKLY, Scene, Server, eventually

from pystandby.cluster import shell_words

pytest_plugins = ["support.servers"]

pytestmark = pytest.mark.timeout(300)

Settings = Mapping[str, str | int | bool]


class Outcome(NamedTuple):
    """How a recovery ended: where its new timeline begins, by its history file, and what is in the table."""

    history: str
    fingerprint: object


def restore_commands(scene: Scene) -> dict[str, str]:
    """Both of them, and pystandby with all that makes it fast."""
    ours = shell_words(str(PYSTANDBY), "-d", "-s", "1", "-t", str(scene.trigger_file))
    archive = shell_words(str(scene.archive))
    return {
        "cp": f"cp {archive}/%f %p",
        "pystandby": f"{ours} {archive} %f %p",
        "look-ahead": f"mv pg_wal/.pystandby/%f %p 2>/dev/null || exec {ours} --look-ahead 8 {archive} %f %p",
    }


def promoted(scene: Scene, name: str, command: str, settings: Settings) -> Outcome:
    """Let a server recover until it is promoted."""
    # Made anew for each: one that is older than the server's recovery.signal would not count.
    scene.trigger()
    server = scene.standby(name=name, restore_command=command, settings=settings).begin(connections=False)
    server.until_log("LOG:  database system is ready to accept connections")
    histories = sorted((server.data_directory / "pg_wal").glob("*.history"))
    # The reason in it has the time, which differs.
    lines = [line.split()[:2] for line in histories[-1].read_text().splitlines() if line.strip()]
    found = Outcome(f"{histories[-1].name}: {lines}", server.fingerprint())
    server.stop()
    return found


# --- archives --------------------------------------------------------------------------------------------------------


def everything(scene: Scene) -> None:
    scene.feed(to=scene.stock.last)


def a_gap(scene: Scene) -> None:
    """Nothing behind it is replayed."""
    scene.feed(to=scene.stock.last)
    (scene.archive / scene.stock.names[5]).unlink()


def odd_files(scene: Scene) -> None:
    scene.feed(to=6)
    names = scene.stock.names
    scene.put(f"{names[7]}.partial", scene.stock.read(7))
    scene.put(f"{names[0]}.00000028.backup", segments.backup_history(names[0]))
    scene.put(f"{names[8]}.gz", b"x")
    scene.put(f"00000002{names[2][8:]}", scene.stock.read(2))
    (scene.archive / f"{names[7]}.d").mkdir()
    scene.put("00000009.history", segments.history((8, start_of(scene, 3))))


def a_new_timeline(scene: Scene) -> None:
    """At a segment's end; the old primary has lived on."""
    scene.feed(to=3)
    branch = make_branch(scene, scene.archive)
    scene.feed(to=7)
    branch.publish(scene)


def a_new_timeline_within_a_segment(scene: Scene) -> None:
    scene.feed(to=4)
    branch = make_branch(scene, scene.archive, at=start_of(scene, 4) + MB // 2)
    scene.feed(to=7)
    branch.publish(scene)


def a_new_timeline_without_history(scene: Scene) -> None:
    a_new_timeline(scene)
    (scene.archive / "00000002.history").unlink()


def target(scene: Scene, settings: Settings) -> Settings:
    return {**settings, "recovery_target_action": "promote"}


CASES: list[tuple[Callable[[Scene], None], Callable[[Scene], Settings]]] = [
    (everything, lambda scene: LATEST),
    (everything, lambda scene: target(scene, {"recovery_target": "immediate"})),
    (everything, lambda scene: target(scene, {"recovery_target_lsn": text_lsn(start_of(scene, 5) + MB // 3)})),
    (
        everything,
        lambda scene: target(
            scene, {"recovery_target_lsn": text_lsn(start_of(scene, 5)), "recovery_target_inclusive": False, **LATEST}
        ),
    ),
    (a_gap, lambda scene: LATEST),
    (odd_files, lambda scene: LATEST),
    (a_new_timeline, lambda scene: LATEST),
    (a_new_timeline, lambda scene: {"recovery_target_timeline": "current"}),
    (a_new_timeline, lambda scene: target(scene, {**LATEST, "recovery_target_lsn": text_lsn(start_of(scene, 2) + 2000)})),
    (a_new_timeline_within_a_segment, lambda scene: LATEST),
    (a_new_timeline_within_a_segment, lambda scene: {"recovery_target_timeline": "1"}),
    (a_new_timeline_without_history, lambda scene: LATEST),
]


ALTERNATELY = ("pystandby", "look-ahead")


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{CASES[number][0].__name__}-{number}")
def test_recovery_ends_in_the_same_place(scene: Scene, number: int) -> None:
    fill, settings = CASES[number]
    fill(scene)
    commands = restore_commands(scene)
    ours = ALTERNATELY[(number + scene.stock.installation.version // 2) % 2]
    found = {name: promoted(scene, name, commands[name], settings(scene)) for name in ("cp", ours)}
    assert found[ours] == found["cp"]


FILLS = (everything, a_gap, odd_files, a_new_timeline, a_new_timeline_within_a_segment)


@pytest.mark.parametrize("number", range(len(FILLS)), ids=lambda number: FILLS[number].__name__)
def test_standby_mode_comes_to_the_same_place(scene: Scene, number: int) -> None:
    """Where it asks for the same file again and again."""
    FILLS[number](scene)
    commands = restore_commands(scene)
    ours = ALTERNATELY[(number + scene.stock.installation.version // 2) % 2]
    found = {}
    for name in ("cp", ours):
        calls = scene.folder / f"{name}-calls"
        settings = {**LATEST, **QUICKLY}
        server = scene.standby(
            name=name, restore_command=f"echo %f >> {calls}; {commands[name]}", standby_mode=True, settings=settings
        ).begin()
        eventually(lambda: at_its_end(server), "it has come to its end", tell=server.tell)  # noqa: B023 - asked at once
        asked = {word for word in calls.read_text().split() if len(word) == 24}
        found[name] = (server.sql("SELECT pg_last_wal_replay_lsn()"), server.fingerprint(), asked)
        assert server.in_recovery()
        server.stop()
    assert found[ours] == found["cp"]


def at_its_end(server: Server) -> bool:
    return server.log_text().count("waiting for WAL to become available") > 3


# --- where cp does harm ----------------------------------------------------------------------------------------------

# Beside what is said in docs/reliability.md of archives that are away, and of segments that are another's.


@pytest.mark.faults
def test_safer_than_cp_with_a_torn_segment(scene: Scene) -> None:
    """cp's server takes the tear for the end of WAL and is promoted there; ours waits for the whole segment."""
    scene.feed(to=scene.stock.last)
    scene.put(scene.stock.names[4], segments.zeros_from(scene.stock.read(4), MB // 2))
    commands = restore_commands(scene)
    with_cp = scene.standby(name="cp", restore_command=commands["cp"]).begin(connections=False)
    with_cp.until_log("selected new timeline ID: 2")
    with_ours = scene.standby(name="ours", restore_command=commands["pystandby"]).begin(connections=False)
    with_ours.until_log("It is taken to be still on its way")
    with_ours.assert_not_promoted()
    scene.feed(to=4)
    scene.put(scene.stock.names[4], scene.stock.read(4))
    scene.trigger()
    with_ours.until_promoted(scene.stock.rows[-1])


def test_safer_than_cp_where_a_history_file_comes_before_its_segments(scene: Scene) -> None:
    """cp's server replays the old timeline past the fork, and calls that the new one's past; ours ends at the fork."""
    scene.feed(to=4)
    branch = make_branch(scene, scene.archive, at=start_of(scene, 4) + MB // 2)
    scene.feed(to=7)
    branch.publish(scene, branch.history)
    scene.trigger()
    found = {}
    for name, command in restore_commands(scene).items():
        scene.trigger()
        server = scene.standby(name=name, restore_command=command, settings=LATEST).begin(connections=False)
        server.until_log("LOG:  database system is ready to accept connections")
        found[name] = server.rows()
        server.stop()
    assert found == {"cp": scene.stock.rows[7], "pystandby": branch.rows_before, "look-ahead": branch.rows_before}
