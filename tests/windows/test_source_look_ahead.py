"""Look-ahead in a Windows Python: a process of its own, that the server waits for neither to answer nor to end."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from support import segments
from support.command import Standby, wait_until

from pystandby import osdep
from windows.fake_server import SOON, STOPPING, FakeServer, held, names, spooled

NAMES = names(5, 6)
AT_ONCE = ("--stable", "0")


@pytest.fixture
def full(standby: Standby) -> Standby:
    for name in NAMES:
        standby.put(name)
    return standby


def child(standby: Standby) -> int | None:
    """The process that looks ahead; None where there is none."""
    from pystandby import spool

    return spool.child(str(standby.data.wal / ".pystandby"))


def journal(standby: Standby) -> list[str]:
    """The second word of each line of the journal: by what a segment was restored."""
    return [line.split()[1] for line in (standby.data.wal / ".pystandby" / "journal").read_text().splitlines()]


def wait_for_the_spool(standby: Standby, wanted: list[str]) -> None:
    wait_until(lambda: spooled(standby) == wanted, f"{wanted} are spooled, not {spooled(standby)}")


def wait_for_its_end(pid: int, seconds: float = 30) -> None:
    wait_until(lambda: osdep.started(pid) is None, "the child has ended", seconds)


def test_what_comes_next_is_made_ready_and_taken(full: Standby) -> None:
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], *AT_ONCE) == (0, "", "")
        wait_for_the_spool(full, NAMES[1:])
        for name in NAMES[1:]:
            assert server.ask(name, *AT_ONCE) == (0, "", "")
            assert full.delivered() == segments.full(name)
    assert journal(full).count("spool") == len(NAMES) - 1


def test_young_segments_are_made_ready_once_they_have_rested(full: Standby) -> None:
    full.options = []
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], "-s", "2") == (0, "", "")
        for name in NAMES[1:]:
            full.put(name)
        wait_for_the_spool(full, NAMES[1:])


def test_a_rename_takes_what_is_ready_and_the_child_follows(full: Standby) -> None:
    # As restore_command = 'move "pg_wal\.pystandby\%f" "%p" || pystandby ...' does.
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], "--look-ahead", "2", *AT_ONCE) == (0, "", "")
        for taken, ready in ((NAMES[1], NAMES[2:4]), (NAMES[2], NAMES[3:5])):
            wait_until(lambda taken=taken: taken in spooled(full), "it is spooled")  # type: ignore[misc]
            (full.data.wal / ".pystandby" / taken).replace(full.restored)
            assert full.delivered() == segments.full(taken)
            wait_for_the_spool(full, ready)


def test_the_server_waits_for_the_restore_alone(full: Standby) -> None:
    # cmd.exe, and whoever reads the command's output, have their end while the child goes on.
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], "--look-ahead", "1", *AT_ONCE) == (0, "", "")
        wait_for_the_spool(full, NAMES[1:2])
        pid = child(full)
        assert pid is not None
        assert osdep.started(pid) is not None
        # Nobody holds what the command wrote into.
        for file in full.folder.glob("calls-*/1.std*"):
            file.unlink()


@pytest.mark.parametrize("fate", ["stopping", "gone", "startup process killed"])
def test_it_ends_with_the_server(full: Standby, fate: str) -> None:
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], "--look-ahead", "1", *AT_ONCE) == (0, "", "")
        wait_for_the_spool(full, NAMES[1:2])
        pid = child(full)
        assert pid is not None
        began = time.monotonic()
        if fate == "stopping":
            server.tell(STOPPING)
        elif fate == "gone":
            (full.data.path / "postmaster.pid").unlink()
        else:
            server.kill()
        wait_for_its_end(pid)
        assert time.monotonic() - began < SOON


def test_the_data_directory_can_be_removed_at_once(full: Standby) -> None:
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], "--look-ahead", "1", *AT_ONCE) == (0, "", "")
        wait_for_the_spool(full, NAMES[1:2])
        pid = child(full)
        assert pid is not None
    wait_for_its_end(pid)
    shutil.rmtree(full.data.path)
    assert not full.data.path.exists()


def test_a_fast_trigger_empties_the_spool(full: Standby) -> None:
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], "-t", full.trigger, *AT_ONCE) == (0, "", "")
        wait_for_the_spool(full, NAMES[1:])
        pid = child(full)
        full.pull_trigger("fast")
        assert server.ask(NAMES[1], "-t", full.trigger, *AT_ONCE).status == 1
        assert spooled(full) == []
        assert pid is not None
        wait_for_its_end(pid)


def test_the_verb_recovery_end_ends_it(full: Standby) -> None:
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], "--look-ahead", "1", *AT_ONCE) == (0, "", "")
        wait_for_the_spool(full, NAMES[1:2])
        pid = child(full)
        (full.data.path / "recovery.signal").unlink()
        assert server.start("recovery-end").result() == (0, "", "")
        assert not (full.data.wal / ".pystandby").exists()
        assert pid is not None
        wait_for_its_end(pid)


def test_what_has_changed_in_the_archive_is_withdrawn(full: Standby) -> None:
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], *AT_ONCE) == (0, "", "")
        wait_for_the_spool(full, NAMES[1:])
        other = segments.switched(NAMES[1])
        full.put(NAMES[1], other)
        assert server.ask(NAMES[1], *AT_ONCE).status == 0
        assert full.delivered() == other


def test_a_spooled_segment_keeps_its_files_time(full: Standby) -> None:
    os.utime(full.archive / NAMES[1], ns=(1_700_000_000_123_456_700, 1_700_000_000_123_456_700))
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], *AT_ONCE) == (0, "", "")
        wait_for_the_spool(full, NAMES[1:])
        found = (full.data.wal / ".pystandby" / NAMES[1]).stat().st_mtime_ns
        assert found == (full.archive / NAMES[1]).stat().st_mtime_ns


def test_a_spooled_segment_that_somebody_holds_is_copied_instead(full: Standby) -> None:
    with FakeServer(full) as server:
        assert server.ask(NAMES[0], *AT_ONCE) == (0, "", "")
        wait_for_the_spool(full, NAMES[1:])
        with held(full.data.wal / ".pystandby" / NAMES[1], share=3):
            assert server.ask(NAMES[1], *AT_ONCE).status == 0
    assert full.delivered() == segments.full(NAMES[1])


def test_it_prunes_by_the_restart_point(full: Standby) -> None:
    with FakeServer(full) as server:
        assert server.ask(NAMES[2], *AT_ONCE, restart=NAMES[1]).status == 0
        wait_until(lambda: full.archived() == NAMES[1:], "the first is removed")


@pytest.mark.parametrize("folder", ["with blanks & such", "mit Umläuten äöüß", "日本語"])
def test_paths_that_need_care(tmp_path: Path, folder: str) -> None:
    standby = Standby(tmp_path / folder)
    for name in NAMES[:3]:
        standby.put(name)
    with FakeServer(standby) as server:
        assert server.ask(NAMES[0], *AT_ONCE) == (0, "", "")
        wait_for_the_spool(standby, NAMES[1:3])
        assert server.ask(NAMES[1], *AT_ONCE) == (0, "", "")
