"""Signals and deaths on real servers, while a restore_command waits: nothing is promoted, nothing lost, nobody left behind.

What the server does by itself is in postgres-facts.md, section 3: when its startup process dies it goes down at once, and leaves
the command an orphan, which could write into the data directory even when a new server works there.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from support import segments
from support.matrix import scenario
from support.servers import SLOW, SOON, Scene, Server, alive, eventually, processes_in

pytest_plugins = ["support.servers"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def content_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What is in a data directory: inode, size and time of each file."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if not path.is_dir():
            found[str(path.relative_to(folder))] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def until_gone(command: int, server: Server) -> None:
    """Wait for the end of an orphan, which comes with its next look: SLEEPTIME is 1."""
    eventually(lambda: not alive(command), f"the orphaned command {command} has gone", SOON, server.tell)


def until_left(server: Server, *stay: int) -> None:
    """Wait until nobody but ``stay`` is in the data directory: a child that looked ahead goes a moment after the server."""

    def is_left() -> bool:
        found = processes_in(server.data_directory)
        return not any(pid not in stay and not re.match(r"\S*sh ", line) for pid, line in found.items())

    eventually(is_left, f"nobody but {stay} is in the data directory", SOON, server.tell)


def comes_back(scene: Scene, standby: Server, replayed: int) -> None:
    """Start the server again, and see that nothing was lost."""
    standby.begin()
    command = standby.until_waiting(
        replayed + 1, times=standby.log_text().count(f"waiting for {scene.stock.names[replayed + 1]}\n")
    )
    standby.assert_not_promoted()
    scene.together(command, word="smart")
    standby.until_promoted(scene.stock.rows[replayed])


# --- the server dies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [pytest.param("SIGKILL", marks=scenario("startup process killed")), "SIGTERM"])
def test_the_startup_process_is_killed(scene: Scene, how: str) -> None:
    scene.feed(to=3)
    standby = scene.standby().begin()
    command = scene.remember(standby.until_waiting(4))
    os.kill(standby.startup_process(), signal.Signals[how])
    standby.until_down()
    until_gone(command, standby)
    until_left(standby)
    before = content_of(standby.data_directory)
    # Nobody is there any more who could take it.
    scene.feed(4)
    assert content_of(standby.data_directory) == before
    assert standby.left_behind() == []
    standby.assert_not_promoted()
    comes_back(scene, standby, 4)


def test_an_orphan_writes_nothing(scene: Scene) -> None:
    """It is found out only when it wakes up: then its segment is there, and the server is not."""
    scene.feed(to=3)
    standby = scene.standby().begin()
    command = scene.remember(standby.until_waiting(4))
    os.kill(command, signal.SIGSTOP)
    os.kill(standby.startup_process(), signal.SIGKILL)
    standby.until_down()
    until_left(standby, command)
    scene.feed(4)
    before = content_of(standby.data_directory)
    os.kill(command, signal.SIGCONT)
    until_gone(command, standby)
    assert content_of(standby.data_directory) == before


def test_an_orphan_writes_nothing_under_a_new_server(scene: Scene) -> None:
    """The new server asks another archive, so that whatever appears can only be the orphan's."""
    scene.feed(to=3)
    standby = scene.standby().begin()
    orphan = scene.remember(standby.until_waiting(4))
    os.kill(orphan, signal.SIGSTOP)
    os.kill(standby.startup_process(), signal.SIGKILL)
    standby.until_down()
    other = scene.folder / "other"
    other.mkdir()
    for name in scene.stock.names[:4]:
        segments.put(other, name, (scene.stock.archive / name).read_bytes())
    standby.reconfigure({"restore_command": scene.restore_command(archive=other)})
    standby.begin()
    standby.until_log(f"waiting for {scene.stock.names[4]}\n", times=2)
    wal = standby.data_directory / "pg_wal"
    before = content_of(wal)
    scene.feed(4)
    os.kill(orphan, signal.SIGCONT)
    until_gone(orphan, standby)
    assert content_of(wal) == before
    assert not (wal / "RECOVERYXLOG").exists()
    assert len(standby.commands()) == 1
    standby.assert_not_promoted()
    # The new server's own command was not disturbed.
    segments.put(other, scene.stock.names[4], scene.stock.read(4))
    standby.until_waiting(5)


def test_a_trigger_file_does_not_make_an_orphan_do_anything(scene: Scene) -> None:
    scene.feed(to=3)
    standby = scene.standby().begin()
    command = scene.remember(standby.until_waiting(4))
    os.kill(command, signal.SIGSTOP)
    os.kill(standby.startup_process(), signal.SIGKILL)
    standby.until_down()
    scene.trigger("fast")
    os.kill(command, signal.SIGCONT)
    until_gone(command, standby)
    assert scene.trigger_file.read_text() == "fast", "the trigger is for the next server"
    assert "recovery ends" not in standby.log_text()
    scene.trigger_file.unlink()
    comes_back(scene, standby, 3)


@scenario("postmaster killed")
def test_the_postmaster_is_killed(scene: Scene) -> None:
    """As by the kernel when memory runs out. The startup process lives on, and no new server can start, while a command waits."""
    scene.feed(to=3)
    standby = scene.standby().begin()
    command = scene.remember(standby.until_waiting(4))
    startup = scene.remember(standby.startup_process())
    standby.kill()
    eventually(lambda: not alive(command), "the command has gone", SOON, standby.tell)
    eventually(lambda: not alive(startup), "the startup process has gone", SOON, standby.tell)
    standby.assert_not_promoted()
    scene.feed(4)
    comes_back(scene, standby, 4)


def test_the_postmaster_is_killed_and_the_trigger_is_pulled(scene: Scene) -> None:
    """Nothing of it may come true without a postmaster."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = scene.remember(standby.until_waiting(4))
    startup = scene.remember(standby.startup_process())
    os.kill(command, signal.SIGSTOP)
    standby.kill()
    scene.feed(4)
    scene.trigger("smart")
    os.kill(command, signal.SIGCONT)
    eventually(lambda: not alive(command), "the command has gone", SOON, standby.tell)
    eventually(lambda: not alive(startup), "the startup process has gone", SOON, standby.tell)
    standby.assert_not_promoted()
    assert f"{scene.stock.names[4]} restored" not in standby.log_text()
    scene.trigger_file.unlink()
    comes_back(scene, standby, 4)


def test_a_command_that_is_deaf_to_sigterm_leaves_all_the_same(scene: Scene) -> None:
    """It sees by itself that the server goes down, or is gone; so it has to be on Windows, where no signal comes."""
    scene.feed(to=3)
    standby = scene.standby(restore_command=scene.restore_command(before="trap '' TERM; ")).begin()
    command = scene.remember(standby.until_waiting(4))
    standby.stop("fast", SOON)
    until_gone(command, standby)
    until_left(standby)
    assert re.search("pystandby ERROR:  the server (is shutting down|that asked for this file has gone)", standby.log_text())
    before = content_of(standby.data_directory)
    scene.feed(4)
    assert content_of(standby.data_directory) == before
    standby.assert_not_promoted()
    comes_back(scene, standby, 4)


# --- the command dies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGTERM", "SIGQUIT", "SIGKILL", "SIGHUP", "SIGSEGV"])
def test_a_command_that_a_signal_kills_stops_the_server(scene: Scene, how: str) -> None:
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(4)
    os.kill(command, signal.Signals[how])
    log = standby.until_down()
    number = signal.Signals[how].value
    # Of SIGTERM the server says nothing: it is what a shutdown looks like.
    assert how == "SIGTERM" or f"exit code {128 + number}" in log or f"signal {number}" in log, log
    standby.assert_not_promoted()
    scene.feed(4)
    comes_back(scene, standby, 4)


def test_a_command_killed_while_it_copies(scene: Scene) -> None:
    """The half copy that it leaves is nobody's segment; the next call makes it anew."""
    scene.feed(to=3)
    standby = scene.standby().begin()
    command = standby.until_waiting(4)
    os.kill(command, signal.SIGKILL)
    standby.until_down()
    half = standby.data_directory / "pg_wal" / "RECOVERYXLOG.pystandby"
    half.write_bytes(scene.stock.read(5)[:500_000])
    scene.feed(4)
    comes_back(scene, standby, 4)
    assert not half.exists()


@pytest.mark.parametrize("how", ["SIGINT", "SIGPIPE"])
def test_signals_that_do_nothing(scene: Scene, how: str) -> None:
    """The server ignores them, and so do its children; a SIGINT ended recovery with pg_standby."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(4)
    os.kill(command, signal.Signals[how])
    scene.feed(4)
    standby.until_waiting(5)
    assert not alive(command)
    standby.assert_not_promoted()


@scenario("restore_command changed by a reload")
def test_a_reload_does_not_disturb(scene: Scene) -> None:
    """From 14 on the next segment is asked for with the new one; before, a restart it takes."""
    scene.feed(to=3)
    standby = scene.standby("-s", SLOW).begin()
    command = standby.until_waiting(4)
    standby.reconfigure({"restore_command": scene.restore_command("-w", "1")})
    assert standby.sql("SELECT pg_reload_conf()") == [(True,)]
    standby.until_log("received SIGHUP")
    # The child that has looked ahead for an earlier one may still be going.
    eventually(lambda: standby.commands() == [command], "only the command that waited goes on", tell=standby.tell)
    scene.feed(4)
    if scene.stock.version < 14:
        standby.until_waiting(5)
        assert "waits 1 second" not in standby.log_text()
        standby.assert_not_promoted()
        standby.stop()
        standby.begin(connections=False)
    standby.until_promoted(scene.stock.rows[4])
