"""Look-ahead: segments made ready by a child of the restore, and taken by a restore or by the shell before it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, Call, Standby, StartupProcess, wait_until
from support.servers import Scene, alive, eventually

from pystandby import ahead, exits, osdep
from pystandby.asker import Asker
from pystandby.options import Options

pytest_plugins = ["support.servers"]

NAMES = [segments.name(number) for number in range(2, 40)]

SHELL_HIT = "mv pg_wal/.pystandby/%f %p 2>/dev/null || exec "


def spool(standby: Standby) -> Path:
    return standby.data.wal / ".pystandby"


def spooled(standby: Standby) -> list[str]:
    """The segments in the spool that a rename may take."""
    try:
        return sorted(name for name in os.listdir(spool(standby)) if len(name) == 24)
    except FileNotFoundError:
        return []


def child(standby: Standby) -> int:
    """The process that looks ahead; 0 if none does."""
    try:
        pid = int((spool(standby) / "lock").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return 0
    return pid if alive(pid) else 0


def ask(server: StartupProcess, standby: Standby, name: str, *options: str, restart: str | None = None) -> Call:
    return server.start(*standby.command(name, "--look-ahead", "4", "-s", "1", *options, restart=restart))


def restored(server: StartupProcess, standby: Standby, name: str, *options: str, restart: str | None = None) -> bytes | None:
    """What a restore that must succeed delivers."""
    result = ask(server, standby, name, *options, restart=restart).result()
    assert result.status == 0, result.stderr
    return standby.delivered()


def test_the_next_ones_are_made_ready_and_taken(standby: Standby) -> None:
    contents = {name: standby.put(name) for name in NAMES[:9]}
    with standby.server() as server:
        for name in NAMES[:9]:
            assert restored(server, standby, name) == contents[name]
            ahead = [later for later in NAMES[:9] if later > name][:4]
            wait_until(lambda ahead=ahead: set(ahead) <= set(spooled(standby)), f"{ahead} are ready")  # type: ignore[misc]
            assert len(spooled(standby)) <= 4
        # With nothing left to do the child goes by itself.
        wait_until(lambda: child(standby) == 0, "the child has gone")
    assert spooled(standby) == []


def test_a_rename_by_the_shell_moves_it_on(standby: Standby) -> None:
    contents = {name: standby.put(name) for name in NAMES[:20]}
    with standby.server() as server:
        restored(server, standby, NAMES[0])
        for name in NAMES[1:20]:
            wait_until(lambda name=name: name in spooled(standby), f"{name} is ready")  # type: ignore[misc]
            os.replace(spool(standby) / name, standby.restored)
            assert standby.delivered() == contents[name]


def test_a_hit_needs_no_archive(standby: Standby) -> None:
    contents = {name: standby.put(name) for name in NAMES[:3]}
    with standby.server() as server:
        restored(server, standby, NAMES[0])
        wait_until(lambda: NAMES[1] in spooled(standby), "the next is ready")
        standby.archive.rename(standby.folder / "away")
        assert restored(server, standby, NAMES[1]) == contents[NAMES[1]]


def test_what_has_changed_in_the_archive_is_withdrawn(standby: Standby) -> None:
    for name in NAMES[:4]:
        standby.put(name)
    with standby.server() as server:
        restored(server, standby, NAMES[0])
        wait_until(lambda: spooled(standby) == NAMES[1:4], "all are ready")
        other = segments.full(NAMES[2], seed=7)
        standby.put(NAMES[2], other)
        restored(server, standby, NAMES[1])
        assert restored(server, standby, NAMES[2]) == other
        (standby.archive / NAMES[3]).unlink()
        # Gone from the archive: not delivered out of the spool either, but waited for.
        call = ask(server, standby, NAMES[3], "-w", "1")
        assert call.result().status == 1


def test_an_unfinished_one_is_not_made_ready(standby: Standby) -> None:
    for name in NAMES[:2]:
        standby.put(name)
    standby.put(NAMES[2], segments.zeros_from(segments.full(NAMES[2]), 300_000))
    with standby.server() as server:
        restored(server, standby, NAMES[0])
        wait_until(lambda: child(standby) == 0 or spooled(standby) == [NAMES[1]], "what is whole is ready")
        restored(server, standby, NAMES[1])
        wait_until(lambda: child(standby) == 0, "the child has gone")
        assert spooled(standby) == []
        whole = segments.full(NAMES[2])
        waiting = ask(server, standby, NAMES[2], "-d")
        waiting.until_says("breaks off")
        standby.put(NAMES[2], whole)
        assert waiting.result().status == 0
        assert standby.delivered() == whole


@pytest.mark.parametrize("word", ["fast", ""])
def test_after_the_end_of_recovery_nothing_can_be_taken(standby: Standby, word: str) -> None:
    for name in NAMES[: 12 if word else 3]:
        standby.put(name)
    with standby.server() as server:
        restored(server, standby, NAMES[0], "-t", str(standby.trigger))
        wait_until(lambda: NAMES[2] in spooled(standby), "two are ready")
        standby.pull_trigger(word)
        if not word:
            restored(server, standby, NAMES[1], "-t", str(standby.trigger))
            restored(server, standby, NAMES[2], "-t", str(standby.trigger))
        following = NAMES[1 if word else 3]
        assert ask(server, standby, following, "-t", str(standby.trigger)).result().status == 1
        assert spooled(standby) == []
        assert child(standby) == 0
        assert ask(server, standby, following, "-t", str(standby.trigger)).result().status == 1


def test_a_fast_trigger_empties_the_spool_without_a_call(standby: Standby) -> None:
    for name in NAMES[:12]:
        standby.put(name)
    with standby.server() as server:
        restored(server, standby, NAMES[0], "-t", str(standby.trigger))
        wait_until(lambda: len(spooled(standby)) == 4, "the spool is full")
        standby.pull_trigger("fast")
        wait_until(lambda: spooled(standby) == [] and child(standby) == 0, "the spool is empty, the child has gone")
        # It is the restore's to empty.
        assert standby.trigger.read_text() == "fast"


def test_a_killed_child_is_replaced(standby: Standby) -> None:
    contents = {name: standby.put(name) for name in NAMES[:12]}
    with standby.server() as server:
        restored(server, standby, NAMES[0])
        wait_until(lambda: len(spooled(standby)) == 4, "the spool is full")
        killed = child(standby)
        os.kill(killed, signal.SIGKILL)
        for name in NAMES[1:12]:
            assert restored(server, standby, name) == contents[name]
        assert child(standby) != killed


def test_the_spool_of_an_earlier_server_process_is_not_used(standby: Standby) -> None:
    for name in NAMES[:6]:
        standby.put(name)
    with standby.server() as server:
        restored(server, standby, NAMES[0])
        wait_until(lambda: len(spooled(standby)) == 4, "the spool is full")
        first = child(standby)
    wait_until(lambda: not alive(first), "the child has gone with its server")
    assert spooled(standby) != []
    # Rebuilt meanwhile, with the same names, sizes and times.
    times = {name: (standby.archive / name).stat() for name in NAMES[:6]}
    rebuilt = {name: standby.put(name, segments.full(name, seed=9)) for name in NAMES[:6]}
    for name, status in times.items():
        os.utime(standby.archive / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    with standby.server() as server:
        for name in NAMES[1:6]:
            assert restored(server, standby, name) == rebuilt[name]


def test_no_room_no_rights_no_spool(standby: Standby) -> None:
    contents = {name: standby.put(name) for name in NAMES[:4]}
    (standby.data.wal / ".pystandby").write_text("a file in its place")
    with standby.server() as server:
        for name in NAMES[:4]:
            assert restored(server, standby, name) == contents[name]


def test_it_crosses_the_boundary_of_a_log_number_and_of_a_timeline(standby: Standby) -> None:
    last_of_log = segments.number("00000001000000000000" + "0FFF")
    names = [segments.name(number) for number in (last_of_log - 1, last_of_log, last_of_log + 1)]
    newer = [segments.name(number, timeline=2) for number in (last_of_log + 2, last_of_log + 3)]
    switch = (last_of_log + 2) * segments.MB + 4096
    for name in names + newer:
        standby.put(name)
    standby.put("00000002.history", segments.history((1, switch)))
    with standby.server() as server:
        restored(server, standby, names[0])
        wait_until(lambda: spooled(standby) == sorted(names[1:] + newer), "all are ready")


def test_old_segments_are_removed_by_the_child(standby: Standby) -> None:
    for name in NAMES[:12]:
        standby.put(name)
    control = standby.data.path / "global" / "pg_control"

    def restart_at(name: str) -> None:
        """What a restartpoint does: ControlFileData.checkPointCopy of version 11 and later."""
        content = bytearray(control.read_bytes())
        content[8:12] = (1300).to_bytes(4, "little")
        content[40:48] = (segments.number(name) * segments.MB).to_bytes(8, "little")
        content[48:52] = (1).to_bytes(4, "little")
        control.write_bytes(content)

    restart_at(NAMES[2])
    with standby.server() as server:
        for name in NAMES[:4]:
            restored(server, standby, name, restart=NAMES[0])
        for name in NAMES[4:8]:
            wait_until(lambda name=name: name in spooled(standby), f"{name} is ready")  # type: ignore[misc]
            os.replace(spool(standby) / name, standby.restored)
        wait_until(lambda: NAMES[1] not in standby.archived(), "what precedes the restart point is removed")
        assert standby.archived() == NAMES[2:12]


def test_what_somebody_removed_from_the_spool_was_not_taken(standby: Standby) -> None:
    """-k counts from what the server has, not from what is missing: else segments go that it has yet to ask for."""
    contents = {name: standby.put(name) for name in NAMES[:16]}
    with standby.server() as server:
        assert restored(server, standby, NAMES[4], "-k", "2") == contents[NAMES[4]]
        wait_until(lambda: child(standby) != 0, "the child is at work")
        for count in (8, 12, 15):
            # The child goes on behind what is gone, as if it had been taken, and removes old segments each second.
            wait_until(lambda count=count: NAMES[count] in spooled(standby) or not child(standby), "it has gone on")  # type: ignore[misc]
            for name in spooled(standby):
                (spool(standby) / name).unlink()
        wait_until(lambda: not child(standby), "the child has ended")
        assert standby.archived() == NAMES[2:16]
        for name in NAMES[5:16]:
            assert restored(server, standby, name, "-k", "2") == contents[name]


def test_a_child_whose_server_has_gone_prunes_nothing(standby: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new server may be at work: nothing may change in its data directory or in its archive."""
    for name in NAMES[:4]:
        standby.put(name)
    monkeypatch.chdir(standby.data.path)
    spool(standby).mkdir()
    monkeypatch.setattr(osdep, "startup_process", lambda postmaster: os.getpid())
    options = Options().for_file(NAMES[3], "pg_wal/RECOVERYXLOG")
    options.archivelocation, options.keep, options.look_ahead = str(standby.archive), 1, 4
    asker = Asker(options.nextwalfile, options.xlogfilepath)
    looks: list[str] = []

    def goes_after_one_look(asker: Asker) -> None:
        looks.append("")
        if len(looks) > 1:
            raise exits.StandbyError(exits.SERVER_GONE, "gone", "")

    monkeypatch.setattr(Asker, "alive", goes_after_one_look)
    ahead.run(options, asker, segments.MB)
    assert len(looks) == 2
    assert standby.archived() == NAMES[:4]
    assert not (spool(standby) / "pruned").exists()


@pytest.mark.parametrize("options", [["--look-ahead", "0"], ["--verify", "size"]], ids=" ".join)
@pytest.mark.parametrize("first", [NAMES[0], "00000002.history"])
def test_no_call_leaves_an_earlier_runs_spool_to_the_shell(standby: Standby, options: list[str], first: str) -> None:
    spool(standby).mkdir()
    (spool(standby) / "lock").write_text("1\nanother server process\n")
    (spool(standby) / NAMES[1]).write_bytes(bytes(segments.MB))
    standby.put(NAMES[0])
    assert standby.ask(first, *options).status in (0, 1)
    assert spooled(standby) == []


def test_a_refusal_of_an_earlier_run_does_not_turn_hits_off(standby: Standby) -> None:
    for name in NAMES[:4]:
        standby.put(name)
    spool(standby).mkdir()
    (spool(standby) / "refused").write_text(f"another server process\n{NAMES[0]}\n")
    with standby.server() as server:
        assert restored(server, standby, NAMES[0]) is not None
        assert not (spool(standby) / "refused").exists()


def test_a_left_over_trigger_file_does_not_end_it(standby: Standby) -> None:
    """A fast trigger of an earlier failover, which the restores ignore."""
    for name in NAMES[:6]:
        standby.put(name)
    standby.pull_trigger("fast")
    made = time.monotonic()
    # What was made within ten seconds of recovery.signal may have been made for it.
    wait_until(lambda: time.monotonic() > made + 10.5, "the trigger file is old")
    os.utime(standby.data.path / "recovery.signal")
    with standby.server() as server:
        assert restored(server, standby, NAMES[0], "-t", str(standby.trigger)) is not None
        wait_until(lambda: set(NAMES[1:5]) <= set(spooled(standby)), "the next ones are ready")


def test_two_servers_on_one_archive(tmp_path: Path) -> None:
    """Each has a spool and a child of its own."""
    one, other = Standby(tmp_path / "one"), Standby(tmp_path / "other")
    other.archive.rmdir()
    other.archive.symlink_to(one.archive)
    contents = {name: one.put(name) for name in NAMES[:6]}
    with one.server() as first, other.server() as second:
        for name in NAMES[:6]:
            assert restored(first, one, name) == contents[name]
            assert restored(second, other, name) == contents[name]
            if name == NAMES[0]:
                for standby in (one, other):
                    wait_until(lambda standby=standby: set(NAMES[1:5]) <= set(spooled(standby)), "the next are ready")  # type: ignore[misc]
                assert child(one) != child(other)


def test_a_spool_on_another_file_system(standby: Standby) -> None:
    """What cannot be renamed into place is copied from the archive, as without look-ahead."""
    other = Path(tempfile.mkdtemp(dir="/dev/shm"))
    assert other.stat().st_dev != standby.data.wal.stat().st_dev, "/dev/shm is no file system of its own: test this elsewhere"
    try:
        spool(standby).symlink_to(other)
        contents = {name: standby.put(name) for name in NAMES[:6]}
        with standby.server() as server:
            for name in NAMES[:6]:
                assert restored(server, standby, name) == contents[name]
                assert standby.data.left_behind() == []
    finally:
        shutil.rmtree(other)


def test_without_it_nothing_is_made(standby: Standby) -> None:
    for name in NAMES[:4]:
        standby.put(name)
    with standby.server() as server:
        for name in NAMES[:3]:
            assert server.run(*standby.command(name, "--look-ahead", "0")).status == 0
    assert spooled(standby) == []


# On real servers


@pytest.mark.parametrize("shell_hit", [False, True], ids=["plain", "shell"])
@pytest.mark.parametrize("word", ["", "fast"], ids=["smart", "fast"])
def test_a_standby_catches_up_and_fails_over(scene: Scene, shell_hit: bool, word: str) -> None:
    scene.feed(to=6)
    command = scene.restore_command("--look-ahead", "8", before=SHELL_HIT if shell_hit else "")
    standby = scene.standby(restore_command=command).begin()
    waiting = standby.until_waiting(7)
    scene.together(waiting, 7, 8, 9, 10, word=word)
    standby.until_promoted(scene.stock.rows[6 if word else 10])
    # The child has gone with recovery, and has left nothing.
    wal = standby.data_directory / "pg_wal" / ".pystandby"
    eventually(lambda: not [name for name in os.listdir(wal) if name.startswith("0000")], "the spool is empty")


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_the_child_goes_with_its_server(scene: Scene, mode: str) -> None:
    scene.feed(to=10)
    # Replay is held up, so that the child has something to hold ready.
    command = scene.restore_command("--look-ahead", "2")
    standby = scene.standby(restore_command=command, settings={"recovery_min_apply_delay": "1h"}).begin(connections=False)
    spool = standby.data_directory / "pg_wal" / ".pystandby"

    def held() -> int:
        """The child, once it holds what it should."""
        names = os.listdir(spool) if spool.exists() else []
        ready = [name for name in names if len(name) == 24]
        pid = int((spool / "lock").read_text().split()[0]) if len(ready) == 2 else 0
        return pid if pid and alive(pid) else 0

    child = eventually(held, "two segments are ready, and the child is there", tell=standby.tell)
    standby.stop(mode)  # type: ignore[arg-type]
    eventually(lambda: not alive(child), "the child has gone", tell=standby.tell)
    # And it begins anew with the server.
    standby.begin(connections=False)
    eventually(held, "two segments are ready again", tell=standby.tell)


def counted(folder: Path) -> tuple[Path, Path]:
    """The executable, and a file that has a line with the words of each call for which a Python is started."""
    programs = folder / "counted"
    programs.mkdir()
    calls = programs / "calls"
    shutil.copy(PYSTANDBY, programs)
    script = PYSTANDBY.with_name("pystandby-python")
    python = script.read_text().partition("\n")[0].removeprefix("#!")
    counting = programs / "pystandby-python"
    counting.write_text(f'#!/bin/sh\necho "$*" >>{calls}\nexec {python} -E -S {script} "$@"\n')
    counting.chmod(0o755)
    return programs / "pystandby", calls


@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
@pytest.mark.parametrize("before", ["", "mv pg_wal/.pystandby/%f %p 2>/dev/null || "], ids=["plain", "shell"])
@pytest.mark.parametrize("word", ["", "fast"], ids=["smart", "fast"])
def test_what_is_ready_is_taken_without_python(scene: Scene, shell: str, before: str, word: str) -> None:
    """While the server replays, the child makes ready what comes next: not one of those then needs a Python."""
    program, calls = counted(scene.folder)
    scene.feed(to=10)
    # Without -d, which has Python tell of every segment.
    plain = f"exec {shell} {program} -s 1 -t {scene.trigger_file} {scene.archive} %f %p %r"
    command = f"exec {shell} -c '{before}{plain}'"
    standby = scene.standby(restore_command=command, settings={"recovery_min_apply_delay": "1h"}).begin(connections=False)
    spool = standby.data_directory / "pg_wal" / ".pystandby"

    def ready() -> list[str]:
        """What is ready once it is eight segments, as many as there are by default."""
        names = [name for name in os.listdir(spool) if len(name) == 24] if spool.exists() else []
        return names if len(names) == 8 else []

    held = eventually(ready, "eight segments are ready", tell=standby.tell)
    before = calls.read_text()
    standby.reconfigure({"recovery_min_apply_delay": 0})
    os.kill(int((standby.data_directory / "postmaster.pid").read_text().split()[0]), signal.SIGHUP)
    standby.until_log(f'restored log file "{scene.stock.names[10]}" from archive')
    assert before
    # One may have been asked for while it was being made ready.
    started = calls.read_text().removeprefix(before)
    assert not [name for name in held if name in started], started
    scene.trigger(word)
    standby.until_promoted(scene.stock.rows[10])


@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
def test_the_shells_statuses_arrive(scene: Scene, shell: str) -> None:
    scene.feed(to=3)
    scene.put(scene.stock.names[4], b"x" * segments.MB * 2)
    command = f"exec {shell} -c '{scene.restore_command(before=SHELL_HIT)}'"
    standby = scene.standby(restore_command=command).begin(connections=False)
    log = standby.until_down()
    assert "exit code 206" in log
    standby.assert_not_promoted()
    assert str(PYSTANDBY) in command
