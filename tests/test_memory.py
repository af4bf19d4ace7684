"""Refusals are remembered for the server process that got them, and for no other."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support import segments
from support.command import RECOVERYHISTORY, Standby, run

from pystandby.memory import Memory

A, B, C = segments.name(5), segments.name(6), segments.name(7)


@pytest.fixture
def full(standby: Standby) -> Standby:
    for name in (A, B, C):
        standby.put(name)
    return standby


# What a server sees ---------------------------------------------------------------------------------------------------


def test_a_fast_failover_stays_fast(full: Standby) -> None:
    # PostgreSQL 15 and later ask twice for the segment at which recovery ends, all ask once more for the one before.
    with full.server() as server:
        fast = full.command(B, "-t", full.trigger)
        assert server.run(*full.command(A, "-t", full.trigger)).status == 0
        full.pull_trigger("fast")
        first = server.run(*fast)
        assert first.status == 1
        assert f"LOG:  recovery ends before segment {B}" in first.stderr
        assert full.trigger.read_bytes() == b""
        full.restored.unlink()
        assert server.run(*fast) == (1, "", "")
        assert full.delivered() is None
        assert server.run(*full.command(C, "-t", full.trigger)) == (1, "", "")
        assert full.delivered() is None
        assert server.run(*full.command(A, "-t", full.trigger, restart="0" * 24)) == (0, "", "")
        assert full.delivered() == segments.full(A)
        # And the histories, from which it chooses its new timeline.
        full.put("00000002.history", segments.history((1, 0x5000000)))
        assert server.run(*full.command("00000002.history", "-t", full.trigger, to=RECOVERYHISTORY)).status == 0
        assert server.run(*full.command("00000003.history", "-t", full.trigger, to=RECOVERYHISTORY)).status == 1


def test_maxwaittime_is_waited_for_once(standby: Standby) -> None:
    with standby.server() as server:
        ask = standby.command(B, "-w", "1", "-s", "1")
        assert server.run(*ask).status == 1
        # With nothing to end its wait this one would never return.
        for_ever = standby.command(B)
        assert server.run(*for_ever, deadline=30) == (1, "", "")
        # Nor does what arrives later change it.
        standby.put(B)
        assert server.run(*for_ever, deadline=30) == (1, "", "")
        assert standby.delivered() is None


def test_the_segment_before_is_not_waited_for(standby: Standby) -> None:
    # Asked for again at the end of recovery, and pruned meanwhile: waiting for it would freeze the failover.
    with standby.server() as server:
        assert server.run(*standby.command(B, "-w", "1", "-s", "1")).status == 1
        assert server.run(*standby.command(A), deadline=30).status == 1


def test_a_smart_failover_is_remembered(standby: Standby) -> None:
    standby.put(A)
    standby.pull_trigger()
    with standby.server() as server:
        assert server.run(*standby.command(A, "-t", standby.trigger)).status == 0
        assert server.run(*standby.command(B, "-t", standby.trigger)).status == 1
        assert standby.trigger.exists()
        standby.put(B)
        standby.trigger.unlink()
        assert server.run(*standby.command(B, "-t", standby.trigger), deadline=30).status == 1
        assert server.run(*standby.command(A, "-t", standby.trigger)).status == 0


def test_a_later_timeline_is_refused_too(standby: Standby) -> None:
    other = "00000002" + B[8:]
    standby.put(other, segments.full(other))
    with standby.server() as server:
        assert server.run(*standby.command(B, "-w", "1", "-s", "1")).status == 1
        assert server.run(*standby.command(other), deadline=30).status == 1
        assert standby.delivered() is None


@pytest.mark.parametrize("fast", [True, False])
def test_the_same_segment_of_an_older_timeline(standby: Standby, fast: bool) -> None:
    # A server that follows timeline 2 asks for each segment there first, and then on timeline 1: what is there is left out by a
    # fast end alone.
    newer = "00000002" + B[8:]
    contents = {name: standby.put(name) for name in (A, B, C)}
    standby.pull_trigger("fast" if fast else "")
    with standby.server() as server:
        assert server.run(*standby.command(newer, "-t", standby.trigger)).status == 1
        for name in (B, C):
            result = server.run(*standby.command(name, "-t", standby.trigger), deadline=30)
            assert result.status == (1 if fast else 0)
            assert standby.delivered() == (None if fast else contents[name])
        # Not waited for: recovery has ended.
        assert server.run(*standby.command(segments.name(segments.number(C) + 1), "-s", "60"), deadline=30).status == 1
        assert server.run(*standby.command(A), deadline=30).status == 0


def test_another_server_process_is_not_bound(full: Standby) -> None:
    full.pull_trigger("fast")
    with full.server() as server:
        assert server.run(*full.command(B, "-t", full.trigger)).status == 1
        full.trigger.unlink()
        # At the same time, in a session of its own.
        assert full.ask(B, "-t", full.trigger) == (0, "", "")
        assert server.run(*full.command(B)).status == 1
    # And the same one started again.
    full.restored.unlink()
    with full.server() as server:
        assert server.run(*full.command(B, "-t", full.trigger)) == (0, "", "")
        assert full.delivered() == segments.full(B)
        assert server.run(*full.command(C)) == (0, "", "")


def test_a_server_process_that_has_the_number_of_an_old_one_is_not_bound(full: Standby) -> None:
    # A process id comes back after a while: the time of the start tells the two apart.
    full.pull_trigger("fast")
    with full.server() as server:
        assert server.run(*full.command(B, "-t", full.trigger)).status == 1
        memory = full.data.wal / ".pystandby" / "refused"
        identity, rest = memory.read_text().split("\n", 1)
        assert str(server.pid) in identity.split()
        words = identity.split()
        started = words.index(str(server.pid)) + 1
        assert re.fullmatch(r"\d+", words[started]), identity
        words[started] = str(int(words[started]) - 1)
        memory.write_text(f"{' '.join(words)}\n{rest}")
        full.trigger.unlink()
        assert server.run(*full.command(B)) == (0, "", "")


def test_a_restarted_machine_is_not_bound(full: Standby) -> None:
    # Containers start their servers with the same process id at the same tick after each start.
    full.pull_trigger("fast")
    with full.server() as server:
        assert server.run(*full.command(B, "-t", full.trigger)).status == 1
        memory = full.data.wal / ".pystandby" / "refused"
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert boot in memory.read_text()
        memory.write_text(memory.read_text().replace(boot, "0" * len(boot)))
        full.trigger.unlink()
        assert server.run(*full.command(B)) == (0, "", "")


@pytest.mark.parametrize("content", [b"", b"\n", b"x", bytes(1000), b"\xff\xfe\n\xff\n", b"a\nb\nc\n"])
def test_a_damaged_memory_binds_nobody(full: Standby, content: bytes) -> None:
    folder = full.data.wal / ".pystandby"
    folder.mkdir()
    for name in ("refused", "said", "archive"):
        (folder / name).write_bytes(content)
    assert full.ask(A) == (0, "", "")
    assert full.delivered() == segments.full(A)


def test_half_a_memory_binds_nobody(full: Standby) -> None:
    full.pull_trigger("fast")
    with full.server() as server:
        assert server.run(*full.command(B, "-t", full.trigger)).status == 1
        memory = full.data.wal / ".pystandby" / "refused"
        memory.write_bytes(memory.read_bytes()[:-1])
        full.trigger.unlink()
        assert server.run(*full.command(B)) == (0, "", "")


def test_a_restore_that_ends_nothing_remembers_no_refusal(full: Standby) -> None:
    with full.server() as server:
        assert server.run(*full.command(A)).status == 0
        assert server.run(*full.command("00000002.history", to=RECOVERYHISTORY)).status == 1
        assert server.run(*full.command(segments.name(9), "--wait", "never")).status == 1
        assert server.run(*full.command(segments.name(9), "-x")).status == 200
        assert not (full.data.wal / ".pystandby" / "refused").exists()
        full.put(segments.name(9))
        assert server.run(*full.command(segments.name(9))).status == 0


def test_a_person_is_not_bound_and_leaves_no_memory(full: Standby) -> None:
    elsewhere = full.folder / "elsewhere"
    elsewhere.mkdir()
    full.pull_trigger("fast")
    assert run("-t", full.trigger, full.archive, B, "copy", cwd=elsewhere).status == 1
    full.trigger.unlink()
    assert run("-t", full.trigger, full.archive, A, "copy", "--verify", "pages", cwd=elsewhere) == (0, "", "")
    assert os.listdir(elsewhere) == ["copy"]


# Where it cannot be written down --------------------------------------------------------------------------------------


def test_a_memory_that_cannot_be_written_leaves_the_trigger_fast(full: Standby) -> None:
    # Emptied it would be smart, and the second call would hand over what the first refused.
    assert os.geteuid(), "to root no folder is read-only: run the tests as an ordinary user"
    full.pull_trigger("fast")
    full.data.wal.chmod(0o500)
    try:
        with full.server() as server:
            first = server.run(*full.command(B, "-t", full.trigger))
            assert first.status == 1
            assert "WARNING:  could not write down that recovery ends here" in first.stderr
            assert full.trigger.read_bytes() == b"fast"
            assert server.run(*full.command(B, "-t", full.trigger)).status == 1
            assert full.delivered() is None
    finally:
        full.data.wal.chmod(0o700)


def test_a_memory_that_cannot_be_written_does_not_harm_a_restore(full: Standby) -> None:
    (full.data.wal / ".pystandby").write_text("a file where the folder should be")
    assert full.ask(A) == (0, "", "")
    assert full.delivered() == segments.full(A)


def test_the_memory_is_the_servers_own(full: Standby) -> None:
    full.pull_trigger("fast")
    with full.server() as server:
        assert server.run(*full.command(B, "-t", full.trigger)).status == 1
    folder = full.data.wal / ".pystandby"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "refused").stat().st_mode & 0o077 == 0
    # No temporary file of it stays.
    assert set(os.listdir(folder)) - {"archive", "journal"} == {"refused"}


# Warnings -------------------------------------------------------------------------------------------------------------


def test_a_warning_is_said_once_for_a_server_process(full: Standby) -> None:
    full.pull_trigger("FAST")
    warning = f'trigger file "{full.trigger}" is ignored'
    with full.server() as server:
        assert warning in server.run(*full.command(A, "-t", full.trigger)).stderr
        assert server.run(*full.command(B, "-t", full.trigger)) == (0, "", "")
        assert server.run(*full.command(C, "-t", full.trigger)) == (0, "", "")
    with full.server() as server:
        assert warning in server.run(*full.command(A, "-t", full.trigger)).stderr


# In-process: Memory ---------------------------------------------------------------------------------------------------


def test_memory(tmp_path: Path) -> None:
    destination = str(tmp_path / "RECOVERYXLOG")
    mine = Memory(destination, lambda: "me 1")
    other = Memory(destination, lambda: "other 2")
    assert mine.refused() is None
    assert mine.refuse(A, fast=True)
    assert mine.refused() == (A, True)
    assert other.refused() is None
    assert other.refuse(B, fast=False)
    assert (mine.refused(), other.refused()) == (None, (B, False))


def test_said(tmp_path: Path) -> None:
    destination = str(tmp_path / "RECOVERYXLOG")
    mine = Memory(destination, lambda: "me 1")
    odd = "ä \udcff archive"
    assert [mine.say_once(odd), mine.say_once("b"), mine.say_once(odd), mine.say_once("b")] == [True, True, False, False]
    assert [mine.unsay(odd), mine.unsay(odd), mine.say_once(odd)] == [True, False, True]
    assert mine.say_once("b") is False
    assert Memory(destination, lambda: "me 2").say_once("b") is True


@pytest.mark.parametrize("message", ["two\nlines", "two\n\nlines\n", "\n", "\r\n"])
def test_a_message_of_several_lines_is_said_once(tmp_path: Path, message: str) -> None:
    # A file name may hold a line break, and a warning names files.
    memory = Memory(str(tmp_path / "RECOVERYXLOG"), lambda: "me 1")
    assert [memory.say_once(message), memory.say_once(message)] == [True, False]


@pytest.mark.parametrize("path", ["/mnt/archive", "/mnt/two\nlines", "/mnt/ä \udcff"])
def test_the_archives_folder(tmp_path: Path, path: str) -> None:
    destination = str(tmp_path / "RECOVERYXLOG")
    memory = Memory(destination, lambda: "me 1")
    assert memory.archive(path) == ""
    memory.note_archive(path, "1:2")
    # Known to the next server process as well: the one before may have been stopped by the outage.
    assert Memory(destination, lambda: "me 2").archive(path) == "1:2"
    assert memory.archive("/mnt/other") == ""
