"""--delay: a standby that stays behind on purpose; and --removal-pause."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, RECOVERYHISTORY, Standby, run, wait_until
from support.servers import Scene, eventually

pytest_plugins = ["support.servers"]

NAME = segments.name(5)
NEXT = segments.name(6)

HOUR = "3600"


def aged(standby: Standby, name: str, seconds: float) -> bytes:
    """Put a segment into the archive that was archived so many seconds ago; return its content."""
    content = standby.put(name)
    then = time.time() - seconds
    os.utime(standby.archive / name, (then, then))
    return content


# What is held back ----------------------------------------------------------------------------------------------------


def test_an_old_one_is_restored_and_a_young_one_held_back(standby: Standby) -> None:
    content = aged(standby, NAME, 3610)
    assert standby.ask(NAME, "--delay", HOUR) == (0, "", "")
    assert standby.delivered() == content
    content = aged(standby, NEXT, 10)
    standby.restored.unlink()
    with standby.begin(NEXT, "--delay", HOUR, "-d", "-s", "1") as waiting:
        waiting.until_says(f"{NEXT} is held back for 35")
        waiting.until_watching()
        assert standby.delivered() is None
        # Time goes by.
        aged(standby, NEXT, 3610)
        assert waiting.result(30).status == 0
    assert standby.delivered() == content


def test_it_is_restored_when_its_time_has_come(standby: Standby) -> None:
    content = standby.put(NAME)
    began = time.time()
    # MAXWAITTIME is for what has not come.
    assert standby.ask(NAME, "--delay", "3", "-w", "1", "-s", "1") == (0, "", "")
    assert time.time() >= os.stat(standby.archive / NAME).st_mtime + 3 > began
    assert standby.delivered() == content


def test_what_has_not_come_is_given_up_all_the_same(standby: Standby) -> None:
    assert standby.ask(NAME, "--delay", "1", "-w", "1", "-s", "1").status == 1


@pytest.mark.parametrize("word", ["", "smart"])
def test_a_smart_trigger_ends_the_delay(standby: Standby, word: str) -> None:
    contents = {name: standby.put(name) for name in (NAME, NEXT)}
    options = ("--delay", HOUR, "-t", str(standby.trigger), "-s", "60")
    with standby.server() as server:
        waiting = server.start(*standby.command(NAME, *options, "-d"))
        waiting.until_says("is held back")
        standby.pull_trigger(word)
        assert waiting.result(30).status == 0
        assert standby.delivered() == contents[NAME]
        assert server.run(*standby.command(NEXT, *options)).status == 0
        assert server.run(*standby.command(segments.name(7), *options)).status == 1
        # The server asks once more for the last that it has replayed.
        standby.restored.unlink()
        assert server.run(*standby.command(NEXT, *options)).status == 0
        assert standby.delivered() == contents[NEXT]


def test_a_fast_trigger_leaves_what_is_held_back(standby: Standby) -> None:
    standby.put(NAME)
    with standby.begin(NAME, "--delay", HOUR, "-t", standby.trigger, "-s", "60", "-d") as waiting:
        waiting.until_says("is held back")
        waiting.until_watching(2)
        standby.pull_trigger("fast")
        assert waiting.result(30).status == 1
    assert standby.delivered() is None


def test_history_files_and_pg_rewind_are_not_held_back(standby: Standby) -> None:
    standby.put("00000002.history", segments.history((1, 5 << 20)))
    assert standby.ask("00000002.history", "--delay", HOUR, to=RECOVERYHISTORY).status == 0
    content = standby.put(NAME)
    assert standby.ask(NAME, "--delay", HOUR, to=f"{standby.data.path}/pg_wal/{NAME}").status == 0
    assert (standby.data.wal / NAME).read_bytes() == content


def test_in_standby_mode_the_server_asks_again(tmp_path: Path) -> None:
    standby = Standby(tmp_path, standby_mode=True)
    standby.put(NAME)
    assert standby.ask(NAME, "--delay", HOUR) == (1, "", "")
    aged(standby, NAME, 3700)
    assert standby.ask(NAME, "--delay", HOUR) == (0, "", "")


def test_what_can_never_be_it_is_said_at_once(standby: Standby) -> None:
    standby.put(NAME, segments.full(NEXT))
    assert standby.ask(NAME, "--delay", HOUR).status == 206


def test_a_time_in_the_future_is_warned_of(standby: Standby) -> None:
    aged(standby, NAME, -7200)
    with standby.begin(NAME, "--delay", "60", "-s", "1") as waiting:
        waiting.until_says("WARNING:  segment")
        assert "seconds in the future" in waiting.stderr
        assert "HINT:  Set the clocks right" in waiting.stderr
        aged(standby, NAME, 61)
        assert waiting.result(30).status == 0


def test_look_ahead_makes_nothing_ready_before_its_time(standby: Standby) -> None:
    spool = standby.data.wal / ".pystandby"
    for number in range(5, 8):
        aged(standby, segments.name(number), 7200)
    for number in range(8, 12):
        aged(standby, segments.name(number), 10)
    with standby.server() as server:
        options = ("--delay", HOUR, "--look-ahead", "8", "-s", "1")
        for number in range(5, 8):
            assert server.run(*standby.command(segments.name(number), *options)).status == 0
        waiting = server.start(*standby.command(segments.name(8), *options, "-d"))
        waiting.until_says("is held back")
        assert [name for name in os.listdir(spool) if len(name) == 24] == []


# --removal-pause ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["-k", "1"], []])
def test_removal_pause(standby: Standby, options: list[str]) -> None:
    old = [segments.name(number) for number in range(1, 5)]
    for name in old:
        standby.put(name)
    standby.put(NAME)
    pause = standby.folder / "pause"
    pause.symlink_to("/nowhere")
    restart = None if options else segments.name(4)
    with standby.server() as server:
        words = standby.command(NAME, *options, "--look-ahead", "0", "--removal-pause", pause, restart=restart)
        assert server.run(*words) == (0, "", "")
        assert standby.archived() == [*old, NAME]
        pause.unlink()
        assert server.run(*words) == (0, "", "")
        assert standby.archived() == [old[-1], NAME]


def test_removal_pause_with_look_ahead(standby: Standby) -> None:
    names = [segments.name(number) for number in range(1, 12)]
    for name in names:
        standby.put(name)
    pause = standby.folder / "pause"
    pause.touch()
    with standby.server() as server:
        options = ("--look-ahead", "2", "--removal-pause", pause, "-s", "1")
        for name in names[4:]:
            assert server.run(*standby.command(name, *options, restart=names[3])).status == 0
        assert standby.archived() == names
        # Without it the child, or a restore, removes them.
        pause.unlink()
        assert server.run(*standby.command(names[-1], *options, restart=names[3])).status == 0
        wait_until(lambda: standby.archived() == names[3:], "what is old is removed")


# Real servers -----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("word", ["smart", "fast"])
def test_a_delayed_standby(scene: Scene, word: str) -> None:
    """What was archived within the hour is not seen; a smart trigger has it all, a fast one what is old enough."""
    scene.feed(to=8)
    for number in range(5):
        os.utime(scene.archive / scene.stock.names[number], (1, 1))
    standby = scene.standby("--delay", HOUR, settings=scene.seen_at_once).begin()
    standby.until_rows(scene.stock.rows[4])
    standby.until_log(f"{scene.stock.names[5]} is held back")
    result = run("trigger", word, "--wait", "60", "--pgdata", standby.data_directory, program=[PYSTANDBY])
    assert result.status == 0, result
    eventually(lambda: not standby.in_recovery(), "it is promoted", tell=standby.tell)
    standby.until_promoted(scene.stock.rows[8 if word == "smart" else 4])
