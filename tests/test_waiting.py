"""Waiting for a segment: woken at once by what arrives, looking all the same, and what ends the wait."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import segments
from support.command import Standby, start, watched_folders

from pystandby.wait import Waiter

NAME = segments.name(5)
NEXT = segments.name(6)

AT_ONCE = 30
"""Seconds, far below the SLEEPTIME of 60 that these tests use: whoever is not woken is late."""


# Woken by what arrives ------------------------------------------------------------------------------------------------


def _renamed(archive: Path, content: bytes) -> None:
    segments.put(archive, NAME, content)


def _moved_in(archive: Path, content: bytes) -> None:
    outside = archive.parent / "outside"
    outside.write_bytes(content)
    outside.rename(archive / NAME)


def _written(archive: Path, content: bytes) -> None:
    (archive / NAME).write_bytes(content)


def _written_in_pieces(archive: Path, content: bytes) -> None:
    with (archive / NAME).open("wb", buffering=0) as file:
        for start in range(0, len(content), 100_000):
            file.write(content[start : start + 100_000])
            os.fsync(file.fileno())


def _linked(archive: Path, content: bytes) -> None:
    (archive / "temporary").write_bytes(content)
    os.link(archive / "temporary", archive / NAME)
    (archive / "temporary").unlink()


def _written_over_its_final_size(archive: Path, content: bytes) -> None:
    # As Windows' copy and rsync --preallocate do.
    with (archive / NAME).open("wb", buffering=0) as file:
        file.truncate(len(content))
        os.fsync(file.fileno())
        for start in range(0, len(content), 100_000):
            file.write(content[start : start + 100_000])


ARRIVALS = [_renamed, _moved_in, _written, _written_in_pieces, _linked, _written_over_its_final_size]


@pytest.mark.parametrize("arrive", ARRIVALS)
def test_woken_when_it_arrives(standby: Standby, arrive: Callable[[Path, bytes], None]) -> None:
    content = segments.full(NAME)
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        assert not waiting.has_ended
        arrive(standby.archive, content)
        result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert standby.delivered() == content


def test_what_is_not_waited_for_does_not_end_the_wait(standby: Standby) -> None:
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        standby.put(segments.name(4))
        standby.put(NEXT)
        standby.put(f"{NAME}.partial", segments.full(NAME))
        standby.put("00000001.history", b"x\n")
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content


def test_waiting_is_silent(standby: Standby) -> None:
    with standby.begin(NAME, "-s", "1") as waiting:
        waiting.until_watching()
        standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")


def test_what_came_before_the_watch_stood_is_found(standby: Standby) -> None:
    # Between the first look and the watch: however the two fall together, nobody is woken by it later.
    for number in range(5, 25):
        name = segments.name(number)
        content = segments.full(name)
        with standby.begin(name, "-d", "-s", "60") as waiting:
            waiting.until_says("waiting for")
            standby.put(name, content)
            assert waiting.result(AT_ONCE).status == 0
        assert standby.delivered() == content


@pytest.mark.parametrize("arrive", ARRIVALS)
def test_poll(standby: Standby, arrive: Callable[[Path, bytes], None]) -> None:
    content = segments.full(NAME)
    with standby.begin(NAME, "-d", "-s", "1", "--poll") as waiting:
        waiting.until_says("waiting for")
        arrive(standby.archive, content)
        result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert standby.delivered() == content


def test_poll_watches_nothing(standby: Standby) -> None:
    with standby.begin(NAME, "-d", "-s", "1", "--poll", "-w", "3", "-t", standby.trigger) as waiting:
        waiting.until_says("waiting for")
        while not waiting.has_ended:
            assert watched_folders(waiting.pid) == 0
            time.sleep(0.01)
        assert waiting.result().status == 1


def test_an_archive_that_is_made_later(standby: Standby) -> None:
    standby.archive.rmdir()
    with standby.begin(NAME, "-s", "1") as waiting:
        waiting.until_says("cannot be read")
        standby.archive.mkdir()
        content = standby.put(NAME)
        result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert result.stderr.count("cannot be read") == 1
    assert result.stderr.count("can be read again") == 1
    assert standby.delivered() == content


def test_an_archive_that_is_replaced_is_watched(standby: Standby) -> None:
    # Mounted over, say: events of the old folder say nothing any more.
    with standby.begin(NAME, "-d", "-s", "2") as waiting:
        waiting.until_watching()
        standby.archive.rename(standby.folder / "old")
        standby.archive.mkdir()
        waiting.until(lambda: _watches(waiting.python, standby.archive), "the new folder is watched")
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE).status == 0
    assert standby.delivered() == content


def test_an_overflow_of_the_queue_loses_nothing(standby: Standby) -> None:
    """More stirs than the kernel keeps for us, and the segment's arrival is among what it drops."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    others = [standby.archive / name for name in ("one", "two")]
    for other in others:
        other.touch()
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        os.kill(waiting.python, signal.SIGSTOP)
        # Alternately: the kernel keeps only one of two equal events that follow each other.
        for _ in range(limit // 2 + 100):
            for other in others:
                os.utime(other)
        content = standby.put(NAME)
        os.kill(waiting.python, signal.SIGCONT)
        assert waiting.result(AT_ONCE).status == 0
    assert standby.delivered() == content


def _watches(pid: int, folder: Path) -> bool:
    """Whether a process has an inotify watch on a folder."""
    inode = f"ino:{folder.stat().st_ino:x} "
    try:
        return any(inode in Path(f"/proc/{pid}/fdinfo/{name}").read_text() for name in os.listdir(f"/proc/{pid}/fdinfo"))
    except OSError:
        return False


# Still being written --------------------------------------------------------------------------------------------------


def test_a_short_file_is_waited_for(standby: Standby) -> None:
    content = segments.full(NAME)
    with (standby.archive / NAME).open("wb", buffering=0) as file:
        file.write(content[:400_000])
        with standby.begin(NAME, "-s", "60") as waiting:
            waiting.until_says(f"has 400000 of {len(content)} bytes")
            waiting.until_watching()
            file.write(content[400_000:])
            file.close()
            result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert standby.delivered() == content
    # One line when it begins, one when it is over.
    assert result.stderr.count("LOG:") == 2
    assert result.stderr.count(f"{NAME} in the archive is whole") == 1
    assert "ERROR" not in result.stderr
    assert "WARNING" not in result.stderr


def test_one_that_shrinks_and_grows_is_said_once(standby: Standby) -> None:
    content = segments.full(NAME)
    path = standby.archive / NAME
    path.write_bytes(content[:400_000])
    with standby.begin(NAME, "-s", "1") as waiting:
        waiting.until_says("has 400000 of")
        waiting.until_watching()
        path.write_bytes(content[:100])
        path.write_bytes(content[:500_000])
        path.write_bytes(content)
        result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert standby.delivered() == content
    assert result.stderr.count("It is taken to be still on its way") == 1


def test_one_that_is_replaced_by_a_whole_one(standby: Standby) -> None:
    standby.put(NAME, segments.zeros_from(segments.full(NAME), 8192 * 100))
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_says("breaks off at offset 819200")
        waiting.until_watching()
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE).status == 0
    assert standby.delivered() == content


def test_one_that_goes_and_comes_back(standby: Standby) -> None:
    standby.put(NAME, segments.full(NAME)[:1000])
    with standby.begin(NAME, "-d", "-s", "1") as waiting:
        waiting.until_says("has 1000 of")
        waiting.until_watching()
        (standby.archive / NAME).unlink()
        waiting.until_says(f"waiting for {NAME}")
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE).status == 0
    assert standby.delivered() == content


def test_one_that_turns_out_too_long(standby: Standby) -> None:
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        standby.put(NAME, segments.full(NAME) + b"x")
        result = waiting.result(AT_ONCE)
    assert result.status == 206
    assert standby.delivered() is None


def test_one_that_cannot_be_opened_is_waited_for(standby: Standby) -> None:
    assert os.geteuid(), "to root no file is unreadable: run the tests as an ordinary user"
    content = standby.put(NAME)
    (standby.archive / NAME).chmod(0o000)
    with standby.begin(NAME, "-s", "1") as waiting:
        waiting.until_says("WARNING:  could not open")
        (standby.archive / NAME).chmod(0o600)
        result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert standby.delivered() == content
    assert result.stderr.count("could not open") == 1
    assert f"{NAME} in the archive can be read" in result.stderr


def test_stable(standby: Standby) -> None:
    content = standby.put(NAME)
    begun = time.monotonic()
    assert standby.ask(NAME, "--stable", "2", "-s", "60") == (0, "", "")
    # The file was made a moment before.
    assert time.monotonic() - begun > 1
    assert standby.delivered() == content


def test_stable_begins_again_when_the_file_changes(standby: Standby) -> None:
    content = segments.full(NAME)
    path = standby.archive / NAME
    path.write_bytes(content)
    with standby.begin(NAME, "--stable", "2", "-s", "60") as waiting:
        waiting.until_watching()
        for _ in range(5):
            time.sleep(0.5)
            last = time.monotonic()
            path.write_bytes(content)
        assert waiting.result(AT_ONCE).status == 0
        assert time.monotonic() - last >= 1.9
    assert standby.delivered() == content


# MAXWAITTIME ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["-s", "60"], ["-s", "1"], ["-s", "60", "--poll"], ["-s", "1", "--poll"]])
def test_maxwaittime(standby: Standby, options: list[str]) -> None:
    begun = time.monotonic()
    with standby.begin(NAME, "-w", "2", *options) as waiting:
        result = waiting.result(AT_ONCE)
    assert time.monotonic() - begun >= 2
    assert result.status == 1
    assert result.stdout == ""
    assert f"LOG:  recovery ends before segment {NAME}: it has not come within 2 s (MAXWAITTIME)" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert standby.delivered() is None


def test_one_last_look(standby: Standby) -> None:
    # With --poll and a SLEEPTIME of 60 there is no look between the first one and the last one.
    with standby.begin(NAME, "-d", "-w", "2", "-s", "60", "--poll") as waiting:
        waiting.until_says("waiting for")
        content = standby.put(NAME)
        result = waiting.result(AT_ONCE)
    assert result.status == 0
    assert standby.delivered() == content
    assert "recovery ends" not in result.stderr


def test_what_arrives_in_time_is_delivered(standby: Standby) -> None:
    with standby.begin(NAME, "-w", "60", "-s", "60") as waiting:
        waiting.until_watching()
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content


def test_maxwaittime_counts_for_a_file_that_stays_unfinished(standby: Standby) -> None:
    standby.put(NAME, segments.full(NAME)[:-8192])
    begun = time.monotonic()
    result = standby.ask(NAME, "-w", "2", "-s", "60")
    assert time.monotonic() - begun >= 2
    assert result.status == 1
    assert standby.delivered() is None


def test_maxwaittime_does_not_concern_what_is_there(standby: Standby) -> None:
    content = standby.put(NAME)
    assert standby.ask(NAME, "-w", "1") == (0, "", "")
    assert standby.delivered() == content


# Signals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name_of_signal", ["SIGTERM", "SIGQUIT"])
@pytest.mark.parametrize("options", [[], ["--poll"]])
def test_it_dies_of_a_signal_of_the_postmaster(standby: Standby, name_of_signal: str, options: list[str]) -> None:
    sent = signal.Signals[name_of_signal]
    with standby.begin(NAME, "-d", "-s", "60", *options) as waiting:
        waiting.until_says("waiting for")
        if not options:
            waiting.until_watching()
        waiting.signal(sent)
        result = waiting.result(AT_ONCE)
    assert result.status == -sent
    assert standby.data.left_behind() == []


def test_sigusr1_ends_recovery(standby: Standby) -> None:
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        waiting.signal(signal.SIGUSR1)
        result = waiting.result(AT_ONCE)
    assert result.status == 1
    assert f"LOG:  recovery ends before segment {NAME}: SIGUSR1 (fast failover)" in result.stderr


def test_sigusr1_is_remembered(standby: Standby) -> None:
    with standby.server() as server:
        call = server.start(*standby.command(NAME, "-d", "-s", "1", "--poll"))
        call.until_says("waiting for")
        pid = _child_of(server.pid)
        os.kill(pid, signal.SIGUSR1)
        assert call.result(AT_ONCE).status == 1
        standby.put(NAME)
        assert server.run(*standby.command(NAME), deadline=AT_ONCE) == (1, "", "")


def _child_of(leader: int) -> int:
    """The pystandby of a session."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != leader:
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[2]) == leader and b"/pystandby" in command:
                return int(entry)
    raise AssertionError("no pystandby in the session")


def test_sigint_from_a_terminal_does_not_end_recovery(standby: Standby) -> None:
    with start(*standby.command(NAME, "-s", "60"), cwd=standby.data.path, as_server=False) as waiting:
        waiting.until_watching()
        waiting.signal(signal.SIGINT)
        result = waiting.result(AT_ONCE)
    assert result.status == 203
    assert "ERROR:  interrupted" in result.stderr


def test_sigint_is_ignored_where_the_server_has_it_ignored(standby: Standby) -> None:
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        waiting.signal(signal.SIGINT)
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content


# What must not disturb it ---------------------------------------------------------------------------------------------


def test_a_fifo_for_a_history_file(standby: Standby) -> None:
    os.mkfifo(standby.archive / "00000002.history")
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        content = standby.put(NAME)
        assert waiting.result(AT_ONCE) == (0, "", "")
    assert standby.delivered() == content


def test_waiting_costs_nothing(standby: Standby) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with standby.begin(NAME, "-s", "1", "-w", "4", "-t", standby.trigger) as waiting:
        assert waiting.result().status == 1
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of 4 seconds; most of it is the start.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 2


# In-process: Waiter ---------------------------------------------------------------------------------------------------


def test_a_wake_ends_the_wait_under_way() -> None:
    waiter = Waiter()
    timer = threading.Timer(0.1, waiter.wake)
    timer.start()
    assert waiter.wait(60)
    timer.join()


def test_a_wake_ends_the_next_wait_and_no_other() -> None:
    waiter = Waiter()
    waiter.wake()
    waiter.wake()
    assert waiter.wait(60)
    assert not waiter.wait(0.01)


def test_a_wake_during_a_look_is_not_lost() -> None:
    # The look has passed what arrives now.
    waiter = Waiter()
    woken = threading.Event()

    def arrive() -> None:
        waiter.wake()
        time.sleep(0.1)
        woken.set()

    timer = threading.Timer(0.1, arrive)
    timer.start()
    assert waiter.patiently(woken.wait, 60, lambda long: None)
    assert waiter.wait(60)
    timer.join()


def test_a_wait_lasts_when_nothing_stirs() -> None:
    waiter = Waiter()
    done = threading.Event()

    def meanwhile(long: bool) -> None:
        done.set()
        time.sleep(0.2)

    timer = threading.Timer(0.1, waiter.wake)
    timer.start()
    waiter.patiently(done.wait, 60, meanwhile)
    timer.join()
    assert waiter.wait(60)
    for _ in range(3):
        begun = time.monotonic()
        assert not waiter.wait(0.2)
        assert time.monotonic() - begun > 0.19


def test_a_look_that_takes_long_is_told_of() -> None:
    waiter = Waiter()
    done = threading.Event()
    told: list[bool] = []

    def meanwhile(long: bool) -> None:
        told.append(long)
        if len(told) == 3:
            done.set()

    assert waiter.patiently(done.wait, 0.05, meanwhile)
    assert told == [True, True, True]


def test_what_a_look_raises_is_raised() -> None:
    def work() -> None:
        raise ValueError("from the look")

    with pytest.raises(ValueError, match="from the look"):
        Waiter().patiently(work, 60, lambda long: None)


def test_what_meanwhile_raises_is_raised() -> None:
    waiter = Waiter()
    done = threading.Event()

    def meanwhile(long: bool) -> None:
        raise ValueError("the server has gone")

    with pytest.raises(ValueError, match="the server has gone"):
        waiter.patiently(done.wait, 0.01, meanwhile)
    done.set()
