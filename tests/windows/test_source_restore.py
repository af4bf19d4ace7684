"""restore_command in a Windows Python: what is there, what is waited for, who holds it, and what ends the wait."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, Standby, run, wait_until

from pystandby import osdep
from windows.fake_server import RECOVERYHISTORY, SERVER_STOPPING, SOON, STOPPING, FakeServer, held

NAME = segments.name(5)
NEXT = segments.name(6)
DELIVERED, NOT_THERE = 0, 1
AT_ONCE = ("--stable", "0", "--look-ahead", "0")


def test_a_segment_that_is_there(standby: Standby) -> None:
    content = standby.put(NAME)
    with FakeServer(standby) as server:
        assert server.ask(NAME, *AT_ONCE) == (DELIVERED, "", "")
    assert standby.delivered() == content
    assert standby.data.left_behind() == []
    # %p with a backslash is a server's: it has a journal.
    assert NAME in (standby.data.wal / ".pystandby" / "journal").read_text()


@pytest.mark.parametrize("slash", ["/", "\\"])
def test_over_the_one_before(standby: Standby, slash: str) -> None:
    with FakeServer(standby) as server:
        for name in (NAME, NEXT):
            content = standby.put(name)
            assert server.ask(name, *AT_ONCE, to=f"pg_wal{slash}RECOVERYXLOG") == (DELIVERED, "", "")
            assert standby.delivered() == content


def test_by_default_a_young_segment_has_to_rest_for_sleeptime(standby: Standby) -> None:
    standby.options = []
    standby.put(NAME)
    with FakeServer(standby) as server:
        began = time.monotonic()
        assert server.ask(NAME, "-s", "3").status == DELIVERED
        assert time.monotonic() - began > 2


def test_an_old_segment_need_not_prove_that_it_rests(standby: Standby) -> None:
    # By its change time, which copy does not set back as it does the modification time.
    standby.put(NAME)
    time.sleep(1.2)
    began = time.monotonic()
    with FakeServer(standby) as server:
        assert server.ask(NAME, "-s", "60", "--stable", "1").status == DELIVERED
    assert time.monotonic() - began < 30


def test_a_young_segment_with_an_old_modification_time_has_to_rest(standby: Standby) -> None:
    standby.options = []
    standby.put(NAME)
    os.utime(standby.archive / NAME, (1_000_000_000, 1_000_000_000))
    with FakeServer(standby) as server:
        began = time.monotonic()
        assert server.ask(NAME, "-s", "3").status == DELIVERED
        assert time.monotonic() - began > 2


def test_in_standby_mode_the_next_call_knows_how_long_it_rests(tmp_path: Path) -> None:
    standby = Standby(tmp_path, standby_mode=True)
    standby.put(NAME)
    with FakeServer(standby) as server:
        assert server.ask(NAME, "-s", "60", "--stable", "10").status == NOT_THERE
        deadline = time.monotonic() + 60
        while server.ask(NAME, "-s", "60", "--stable", "10").status == NOT_THERE:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("how", ["--watch", "--poll"])
def test_a_segment_that_arrives(standby: Standby, how: str) -> None:
    with FakeServer(standby) as server:
        call = server.begin(NAME, "-d", "-s", "1", how, *AT_ONCE)
        call.until_says(f"waiting for {NAME}")
        content = standby.put(NAME)
        assert call.result().status == DELIVERED
    assert standby.delivered() == content


def test_an_archive_that_goes_and_comes_back_while_it_is_watched(standby: Standby) -> None:
    with FakeServer(standby) as server:
        call = server.begin(NAME, "-d", "-s", "1", *AT_ONCE)
        call.until_says(f"waiting for {NAME}")
        standby.archive.rmdir()
        call.until_says("cannot be read")
        wait_until(lambda: made(standby.archive), "the archive is there again")
        content = standby.put(NAME)
        result = call.result()
    assert result.status == DELIVERED
    assert "can be read again" in result.stderr
    assert "Traceback" not in result.stderr
    assert standby.delivered() == content


def made(folder: Path) -> bool:
    """Make a folder, whose name is not free as long as somebody has the one before open; whether that is done."""
    try:
        folder.mkdir()
    except PermissionError:
        return False
    return True


def test_what_arrives_wakes_it(standby: Standby) -> None:
    with FakeServer(standby) as server:
        call = server.begin(NAME, "-d", "-s", "60", *AT_ONCE)
        call.until_says(f"waiting for {NAME}")
        standby.put(NAME)
        assert call.result(30).status == DELIVERED


@pytest.mark.parametrize("word", ["", "smart", "fast"])
def test_a_trigger_ends_the_wait(standby: Standby, word: str) -> None:
    with FakeServer(standby) as server:
        call = server.begin(NAME, "-d", "-s", "60", "-t", standby.trigger, *AT_ONCE)
        call.until_says(f"waiting for {NAME}")
        standby.pull_trigger(word)
        result = call.result(30)
        assert result.status == NOT_THERE
        assert f"recovery ends before segment {NAME}" in result.stderr
        # Asked a second time, as by PostgreSQL 15 and later, it knows.
        standby.put(NAME)
        assert server.ask(NAME, "-t", standby.trigger, *AT_ONCE) == (NOT_THERE, "", "")
    assert standby.delivered() is None
    assert standby.trigger.read_bytes() == (b"" if word == "fast" else word.encode())


def test_a_trigger_that_is_held_open_is_not_taken_for_an_empty_one(standby: Standby) -> None:
    standby.put(NAME)
    standby.pull_trigger("")
    with FakeServer(standby) as server:
        with held(standby.trigger, share=0, write=True):
            call = server.begin(NEXT, "-s", "1", "-t", standby.trigger, "--poll", *AT_ONCE)
            call.until_says("is held open by another program")
            assert not call.has_ended
        assert call.result().status == NOT_THERE


def test_maxwaittime_is_waited_for_once(standby: Standby) -> None:
    with FakeServer(standby) as server:
        began = time.monotonic()
        assert server.ask(NAME, "-w", "3", "-s", "1").status == NOT_THERE
        assert time.monotonic() - began > 2.5
        assert server.ask(NAME, "-w", "60", "-s", "1") == (NOT_THERE, "", "")


def test_history_files_are_not_waited_for(standby: Standby) -> None:
    with FakeServer(standby) as server:
        assert server.ask("00000002.history", to=RECOVERYHISTORY) == (NOT_THERE, "", "")


def test_wait_never_and_pg_rewind_take_a_young_segment(standby: Standby) -> None:
    standby.options = []
    content = standby.put(NAME)
    command = standby.command(NAME, "-s", "2", to=standby.data.wal / NAME)
    assert run(*command, cwd=standby.folder).status == DELIVERED
    assert (standby.data.wal / NAME).read_bytes() == content
    assert run(*standby.command(NEXT, to=standby.data.wal / NEXT), cwd=standby.folder).status == NOT_THERE


def test_a_torn_segment_is_waited_for(standby: Standby) -> None:
    whole = segments.full(NAME)
    standby.put(NAME, whole[: len(whole) // 2] + bytes(len(whole) // 2))
    with FakeServer(standby) as server:
        call = server.begin(NAME, "-s", "1", *AT_ONCE)
        call.until_says("It is taken to be still on its way")
        standby.put(NAME, whole)
        assert call.result().status == DELIVERED
    assert standby.delivered() == whole


@pytest.mark.parametrize("options", [("-k", "2"), ()])
def test_pruning(standby: Standby, options: tuple[str, ...]) -> None:
    for number in range(1, 6):
        standby.put(segments.name(number))
    with FakeServer(standby) as server:
        assert server.ask(NAME, *AT_ONCE, *options, restart=None if options else segments.name(3)).status == DELIVERED
    assert standby.archived() == [segments.name(number) for number in (3, 4, 5)]


def test_pruning_leaves_what_is_held_open_and_says_so(standby: Standby) -> None:
    for number in (1, 2, 5):
        standby.put(segments.name(number))
    with held(standby.archive / segments.name(1), share=3), FakeServer(standby) as server:
        result = server.ask(NAME, *AT_ONCE, restart=segments.name(3))
    assert result.status == DELIVERED
    assert "WARNING:  could not remove 1 old segments" in result.stderr
    assert standby.archived() == [segments.name(1), NAME]


def test_a_compressed_segment(standby: Standby) -> None:
    content = segments.full(NAME)
    (standby.archive / f"{NAME}.gz").write_bytes(gzip.compress(content, 1))
    with FakeServer(standby) as server:
        assert server.ask(NAME, *AT_ONCE) == (DELIVERED, "", "")
    assert standby.delivered() == content


# Held by others


@pytest.mark.parametrize("share", [0, 1, 3, 7], ids=["nothing", "reading", "writing", "everything"])
def test_a_segment_that_somebody_writes_to_is_not_taken(standby: Standby, share: int) -> None:
    content = standby.put(NAME)
    with FakeServer(standby) as server:
        with held(standby.archive / NAME, share=share, write=True):
            call = server.begin(NAME, "-s", "1", *AT_ONCE)
            call.until_says("is held open by another program")
            assert not call.has_ended
            assert standby.delivered() is None
        result = call.result()
    assert result.status == DELIVERED
    assert result.stderr.count("is held open by another program\n") == 1
    assert result.stderr.count("is not held open by another program any more") == 1
    assert standby.delivered() == content


def test_a_segment_with_a_locked_part_is_waited_for(standby: Standby) -> None:
    if sys.platform != "win32":
        raise NotImplementedError
    import msvcrt

    content = standby.put(NAME)
    with FakeServer(standby) as server:
        with (standby.archive / NAME).open("rb") as file:
            file.seek(1 << 20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 4096)
            if not _locks_count(standby.archive / NAME):
                pytest.skip("this system lets a locked part be read, as Wine does")
            call = server.begin(NAME, "-s", "1", *AT_ONCE)
            call.until_says("is held open by another program")
            assert not call.has_ended
        assert call.result().status == DELIVERED
    assert standby.delivered() == content


def _locks_count(path: Path) -> bool:
    """Whether nobody else can read a locked part of a file, as on Windows."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(1 << 20)
            file.read(1)
    except PermissionError:
        return True
    return False


def test_the_end_of_recovery_waits_for_what_is_being_written(standby: Standby) -> None:
    standby.put(NAME)
    standby.pull_trigger("smart")
    with FakeServer(standby) as server:
        with held(standby.archive / NAME, share=7, write=True):
            call = server.begin(NAME, "-s", "1", "-t", standby.trigger, *AT_ONCE)
            call.until_says("and the end of recovery is asked for")
            assert not call.has_ended
        assert call.result().status == DELIVERED


def test_reading_does_not_keep_others_from_removing(standby: Standby) -> None:
    standby.put(NAME)
    descriptor = osdep.open_file(str(standby.archive / NAME), osdep.O_READ)
    try:
        (standby.archive / NAME).replace(standby.archive / "elsewhere")
    finally:
        os.close(descriptor)


def test_a_destination_that_is_held_for_a_moment(standby: Standby) -> None:
    content = standby.put(NAME)
    standby.restored.write_bytes(b"old")
    with FakeServer(standby) as server:
        with held(standby.restored, share=3):
            call = server.begin(NAME, "-s", "1", *AT_ONCE)
            call.until_says("could not write")
        assert call.result().status == DELIVERED
    assert standby.delivered() == content
    assert standby.data.left_behind() == []


def test_replacing_is_tried_again_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    tries: list[float] = []
    replace = os.replace

    def counted(source: str, target: str) -> None:
        tries.append(time.monotonic())
        replace(source, target)

    monkeypatch.setattr(os, "replace", counted)
    thread = threading.Thread(target=osdep.replace, args=(str(tmp_path / "new"), str(tmp_path / "old")))
    with held(tmp_path / "old", share=3):
        thread.start()
        wait_until(lambda: len(tries) > 3, "it is tried again")
    thread.join()
    assert (tmp_path / "old").read_bytes() == b"new"


def test_a_destination_that_stays_held(standby: Standby) -> None:
    standby.put(NAME)
    standby.restored.write_bytes(b"old")
    with held(standby.restored, share=3), FakeServer(standby) as server:
        result = server.ask(NAME, "-s", "1", "-r", "1", *AT_ONCE)
    assert result.status == 204
    assert 'ERROR:  could not write "pg_wal\\RECOVERYXLOG"' in result.stderr
    assert standby.data.left_behind() == []


# Shutdown and orphans


@pytest.mark.parametrize("how", ["--watch", "--poll"])
def test_a_shutdown_ends_the_wait_at_once(standby: Standby, how: str) -> None:
    with FakeServer(standby) as server:
        call = server.begin(NAME, "-d", "-s", "60", how)
        call.until_says(f"waiting for {NAME}")
        began = time.monotonic()
        server.tell(STOPPING)
        result = call.result(30)
        assert time.monotonic() - began < SOON
    assert result.status == SERVER_STOPPING
    assert result.stderr.count("the server is shutting down") == 1


def test_a_shutdown_ends_the_wait_for_the_next_try(standby: Standby) -> None:
    standby.put(NAME)
    standby.restored.mkdir()
    with FakeServer(standby) as server:
        call = server.begin(NAME, "-s", "60", *AT_ONCE)
        call.until_says("could not write")
        began = time.monotonic()
        server.tell(STOPPING)
        assert call.result(30).status == SERVER_STOPPING
        assert time.monotonic() - began < SOON


def test_one_that_starts_when_its_server_has_gone_already(standby: Standby) -> None:
    """No postmaster.pid tells of that server any more; whoever started cmd.exe is not there either."""
    said = standby.folder / "said"
    line = f'cmd.exe /c ""{PYSTANDBY}" -s 60 "{standby.archive}" {NAME} pg_wal\\RECOVERYXLOG 2>"{said}""'
    start = "import subprocess, sys; subprocess.Popen(sys.argv[1], stdin=-3, stdout=-3, stderr=-3).returncode = 0"
    subprocess.run([sys.executable, "-c", start, line], check=True, cwd=standby.data.path, stdin=subprocess.DEVNULL)
    wait_until(lambda: said.exists() and b"the server that asked for this file has gone" in said.read_bytes(), "it has noticed")
    # Wait for its end: nothing is in the data directory, which can be renamed then.
    wait_until(lambda: not _is_in_use(standby.data.path), "it has left")
    standby.put(NAME)
    assert standby.delivered() is None


def test_the_number_of_a_server_that_has_gone_may_be_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever started cmd.exe is older than that."""
    with (
        subprocess.Popen("cmd.exe", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as shell,
        subprocess.Popen("cmd.exe", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as younger,
    ):
        assert osdep.started(shell.pid) != osdep.started(younger.pid)
        for child, parent, is_it in ((shell, younger, False), (younger, shell, True)):
            monkeypatch.setattr("pystandby.osdep_windows._parent", {os.getpid(): child.pid, child.pid: parent.pid}.get)
            found = osdep.startup_process(None)
            assert found is not None
            assert (found == parent.pid) == is_it
            assert (osdep.started(found) is not None) == is_it
        for process in (shell, younger):
            assert process.stdin is not None
            process.stdin.close()


def _is_in_use(folder: Path) -> bool:
    """Whether somebody works in a folder: it cannot be renamed then."""
    try:
        folder.rename(folder.with_name("renamed"))
    except PermissionError:
        return True
    folder.with_name("renamed").rename(folder)
    return False


@pytest.mark.parametrize("fate", ["startup process killed", "postmaster.pid gone", "another server"])
def test_an_orphan_leaves_and_writes_nothing(standby: Standby, fate: str) -> None:
    pid_file = standby.data.path / "postmaster.pid"
    with FakeServer(standby) as server:
        call = server.begin(NAME, "-d", "-s", "60", *AT_ONCE)
        call.until_says(f"waiting for {NAME}")
        if fate == "startup process killed":
            server.kill()
        elif fate == "postmaster.pid gone":
            pid_file.unlink()
        else:
            pid_file.write_text(pid_file.read_text().replace("1700000000", "1700000001"))
        call.until_says("the server that asked for this file has gone")
        standby.put(NAME)
        if fate != "startup process killed":
            assert call.result(30).status == 207
    assert standby.delivered() is None
    wait_until(lambda: standby.data.left_behind() == [], "nothing is left behind")
