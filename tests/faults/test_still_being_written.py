"""A file that is still on its way is waited for: one line when that begins, one when it ends, and nothing handed over between."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from support import segments
from support.command import Result, Standby

from pystandby import exits

pytestmark = pytest.mark.faults

SIZE = 16 * segments.MB

NAME = segments.name(5, size=SIZE)

ON_ITS_WAY = "It is taken to be still on its way, and waited for."
IS_WHOLE = f"{NAME} in the archive is whole"


@pytest.fixture
def content() -> bytes:
    return segments.full(NAME, size=SIZE)


def begins_and_ends_once(result: Result) -> None:
    assert result.status == exits.DELIVERED
    assert result.stderr.count(ON_ITS_WAY) == 1, result.stderr
    assert result.stderr.count(IS_WHOLE) == 1, result.stderr
    assert len(messages(result.stderr)) == 2, result.stderr


def messages(stderr: str) -> list[str]:
    """The messages on stderr, without what belongs to each."""
    return [line for line in stderr.splitlines() if "DETAIL:" not in line and "HINT:" not in line]


def test_a_file_that_grows(standby: Standby, content: bytes) -> None:
    path = standby.archive / NAME
    with path.open("wb", buffering=0) as file, standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        for start in range(0, SIZE, SIZE // 8):
            file.write(content[start : start + SIZE // 8])
            waiting.until_says(ON_ITS_WAY)
            if start + SIZE // 8 < SIZE:
                assert not waiting.has_ended
                assert standby.delivered() is None
        result = waiting.result()
    begins_and_ends_once(result)
    assert standby.delivered() == content


def test_a_file_that_grows_a_byte_too_far_is_refused(standby: Standby, content: bytes) -> None:
    path = standby.archive / NAME
    path.write_bytes(content[: SIZE // 2])
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_says(ON_ITS_WAY)
        waiting.until_watching()
        segments.put(standby.archive, NAME, content + b"x")
        result = waiting.result()
    assert result.status == exits.WRONG_SEGMENT
    assert "is too long" in result.stderr


@pytest.mark.parametrize("order", ["forwards", "backwards", "at random", "head last"])
def test_a_copy_that_sets_the_size_first(standby: Standby, content: bytes, order: str) -> None:
    """Windows copy, robocopy, rsync --preallocate: full size at once, then filled in, in whatever order."""
    path = standby.archive / NAME
    piece = SIZE // 16
    starts = list(range(0, SIZE, piece))
    if order == "backwards":
        starts.reverse()
    elif order == "at random":
        random.Random(7).shuffle(starts)
    elif order == "head last":
        starts = [*starts[1:], 0]
    with path.open("wb", buffering=0) as file:
        file.truncate(SIZE)
        with standby.begin(NAME, "-s", "60") as waiting:
            waiting.until_says(ON_ITS_WAY)
            waiting.until_watching()
            for start in starts:
                assert not waiting.has_ended
                assert standby.delivered() is None
                os.pwrite(file.fileno(), content[start : start + piece], start)
            result = waiting.result()
    begins_and_ends_once(result)
    assert standby.delivered() == content


def test_a_copy_over_an_older_segment(standby: Standby, content: bytes) -> None:
    """Written into a file of the same name that held something else: old pages stand behind the new ones."""
    path = standby.archive / NAME
    older = segments.full(segments.name(2, size=SIZE), size=SIZE)
    path.write_bytes(content[: SIZE // 2] + older[SIZE // 2 :])
    with path.open("r+b", buffering=0) as file, standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_says("old WAL stands behind it")
        waiting.until_watching()
        for start in range(SIZE // 2, SIZE, SIZE // 8):
            assert not waiting.has_ended
            os.pwrite(file.fileno(), content[start : start + SIZE // 8], start)
        result = waiting.result()
    begins_and_ends_once(result)
    assert standby.delivered() == content


def test_polling_alone_finds_the_end_too(standby: Standby, content: bytes) -> None:
    path = standby.archive / NAME
    path.write_bytes(segments.zeros_from(content, SIZE // 3))
    with standby.begin(NAME, "-s", "1", "--poll") as waiting:
        waiting.until_says(ON_ITS_WAY)
        segments.put(standby.archive, NAME, content)
        result = waiting.result()
    begins_and_ends_once(result)
    assert standby.delivered() == content


def test_a_partial_copy_that_is_removed_and_comes_again(standby: Standby, content: bytes) -> None:
    path = standby.archive / NAME
    path.write_bytes(content[: SIZE // 2])
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_says(ON_ITS_WAY)
        waiting.until_watching()
        path.unlink()
        assert standby.delivered() is None
        standby.put(NAME, content)
        assert waiting.result().status == exits.DELIVERED
    assert standby.delivered() == content


def test_an_unreadable_file_is_waited_for(standby: Standby, content: bytes) -> None:
    """root's cp with umask 077, made readable later: pg_standby promoted, or gave up, here."""
    path = segments.put(standby.archive, NAME, content)
    path.chmod(0)
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_says(f'"{path}": Permission denied')
        waiting.until_watching()
        assert standby.delivered() is None
        path.chmod(0o600)
        result = waiting.result()
    assert result.status == exits.DELIVERED
    assert result.stderr.count("Permission denied") == 1
    assert result.stderr.count(f"{NAME} in the archive can be read") == 1
    assert len(messages(result.stderr)) == 2
    assert standby.delivered() == content


def test_an_unreadable_file_that_turns_out_unfinished(standby: Standby, content: bytes) -> None:
    path = standby.archive / NAME
    path.write_bytes(content[: SIZE // 2])
    path.chmod(0)
    with standby.begin(NAME, "-s", "1") as waiting:
        waiting.until_says("Permission denied")
        path.chmod(0o600)
        waiting.until_says(ON_ITS_WAY)
        standby.put(NAME, content)
        result = waiting.result()
    assert result.status == exits.DELIVERED
    said = [message.partition("pystandby ")[2] for message in messages(result.stderr)]
    assert len(said) == 4, said
    assert [line.split(":")[0] for line in said] == ["WARNING", "LOG", "LOG", "LOG"]
    assert standby.delivered() == content


# --- --stable -----------------------------------------------------------------------------------------------------------


def test_stable_waits_until_a_file_has_rested(standby: Standby, content: bytes) -> None:
    begun = time.time()
    standby.put(NAME, content)
    result = standby.ask(NAME, "-s", "60", "--stable", "2")
    assert result == Result(exits.DELIVERED, "", "")
    assert time.time() - begun >= 2
    assert time.time() - begun < 30, "not SLEEPTIME"


def test_stable_begins_anew_with_each_change(standby: Standby, content: bytes) -> None:
    path = segments.put(standby.archive, NAME, content)
    with standby.begin(NAME, "-s", "1", "--stable", "2") as waiting:
        for _ in range(6):
            # Half of what it has to rest: what is waited for is that nothing happens.
            time.sleep(0.5)
            os.utime(path)
            touched = time.time()
            assert not waiting.has_ended
        assert waiting.result().status == exits.DELIVERED
    assert time.time() - touched >= 2
    assert standby.delivered() == content


def test_stable_counts_from_when_the_file_got_here(standby: Standby, content: bytes) -> None:
    """cp -p and rsync -t set the modification time back: what counts is when the file last changed here."""
    path = segments.put(standby.archive, NAME, content)
    changed = time.time()
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert standby.ask(NAME, "-s", "1", "--stable", "2").status == exits.DELIVERED
    assert time.time() - changed >= 2


def test_a_file_from_the_future_is_delivered(standby: Standby, content: bytes) -> None:
    """A clock that goes wrong, here or at a file server, must not keep a segment back for ever."""
    path = segments.put(standby.archive, NAME, content)
    os.utime(path, (time.time() + 86400, time.time() + 86400))
    for options in ((), ("--stable", "1")):
        assert standby.ask(NAME, "-s", "1", *options).status == exits.DELIVERED
        assert standby.delivered() == content


# --- what else may happen while it is waited for ------------------------------------------------------------------------


def test_a_smart_trigger_takes_an_unfinished_segment_that_rests(standby: Standby, content: bytes) -> None:
    """The last segment of a primary that crashed ends where the crash left it: what is in it is replayed."""
    torn = standby.put(NAME, segments.zeros_from(content, SIZE // 2))
    with standby.begin(NAME, "-s", "1", "-t", standby.trigger) as waiting:
        waiting.until_says(ON_ITS_WAY)
        waiting.until_watching(2)
        standby.pull_trigger("smart")
        result = waiting.result()
    assert result.status == exits.DELIVERED
    assert "it is restored as it is" in result.stderr
    assert standby.delivered() == torn


def test_a_smart_trigger_waits_for_a_copy_that_goes_on(standby: Standby, content: bytes) -> None:
    """As long as it grows, somebody is writing it, and its tail must not be lost."""
    standby.pull_trigger("smart")
    path = standby.archive / NAME
    with path.open("wb", buffering=0) as file, standby.begin(NAME, "-s", "2", "-t", standby.trigger) as waiting:
        for start in range(0, SIZE, SIZE // 16):
            file.write(content[start : start + SIZE // 16])
            # More often than SLEEPTIME: what is waited for is that nothing happens.
            time.sleep(0.2)
            if start + SIZE // 16 < SIZE:
                assert not waiting.has_ended
        assert waiting.result().status == exits.DELIVERED
    assert standby.delivered() == content


def test_a_smart_trigger_does_not_skip_an_unfinished_segment(standby: Standby, content: bytes) -> None:
    """Later ones are there, and were asked for as well: so it is no last segment of a crashed primary."""
    standby.put(NAME, segments.zeros_from(content, SIZE // 2))
    standby.put(segments.name(6, size=SIZE), segments.full(segments.name(6, size=SIZE), size=SIZE))
    standby.pull_trigger("smart")
    with standby.begin(NAME, "-s", "1", "-t", standby.trigger) as waiting:
        waiting.until_says("Later segments are there")
        assert not waiting.has_ended
        assert standby.delivered() is None
        standby.put(NAME, content)
        assert waiting.result().status == exits.DELIVERED
    assert standby.delivered() == content


def test_a_smart_trigger_does_not_skip_an_unreadable_segment(standby: Standby, content: bytes) -> None:
    path = segments.put(standby.archive, NAME, content)
    path.chmod(0)
    standby.pull_trigger("smart")
    with standby.begin(NAME, "-s", "1", "-t", standby.trigger) as waiting:
        waiting.until_says("and the end of recovery is asked for")
        assert not waiting.has_ended
        path.chmod(0o600)
        assert waiting.result().status == exits.DELIVERED
    assert standby.delivered() == content


def test_a_fast_trigger_does_not_wait_for_it(standby: Standby, content: bytes) -> None:
    standby.put(NAME, segments.zeros_from(content, SIZE // 2))
    with standby.begin(NAME, "-s", "60", "-t", standby.trigger) as waiting:
        waiting.until_says(ON_ITS_WAY)
        waiting.until_watching(2)
        standby.pull_trigger("fast")
        assert waiting.result().status == exits.END_OF_RECOVERY
    assert standby.delivered() is None


def test_maxwaittime_passes_over_an_unfinished_segment(standby: Standby, content: bytes) -> None:
    standby.put(NAME, segments.zeros_from(content, SIZE // 2))
    result = standby.ask(NAME, "-s", "1", "-w", "1")
    assert result.status == exits.END_OF_RECOVERY
    assert "has not come within 1 s (MAXWAITTIME)" in result.stderr
    assert standby.delivered() is None


def test_where_waiting_is_ruled_out_an_unfinished_segment_is_not_taken_to_be_absent(standby: Standby, content: bytes) -> None:
    standby.put(NAME, segments.zeros_from(content, SIZE // 2))
    result = standby.ask(NAME, "--wait", "never")
    assert result.status == exits.ARCHIVE_UNAVAILABLE
    assert standby.delivered() is None


def test_in_standby_mode_an_unfinished_segment_is_not_there_yet(tmp_path: Path, content: bytes) -> None:
    """The server looks elsewhere and asks again by itself: a command that waits would keep it from streaming."""
    standby = Standby(tmp_path, standby_mode=True)
    standby.put(NAME, segments.zeros_from(content, SIZE // 2))
    assert standby.ask(NAME).status == exits.NOT_IN_ARCHIVE
    assert standby.delivered() is None
    standby.put(NAME, content)
    assert standby.ask(NAME).status == exits.DELIVERED
    assert standby.delivered() == content


def test_a_segment_that_is_replaced_during_the_copy(standby: Standby, content: bytes) -> None:
    """By another whole one, again and again: what is delivered is one of them, never half of each."""
    other = segments.full(NAME, size=SIZE, seed=1)
    standby.put(NAME, content)
    with standby.server() as server:
        for turn in range(10):
            call = server.start(standby.archive, NAME, "pg_wal/RECOVERYXLOG")
            while not call.has_ended:
                standby.put(NAME, other if turn % 2 else content)
            assert call.result().status == exits.DELIVERED
            assert standby.delivered() in (content, other)


def test_a_half_written_history_file_is_given_a_moment(standby: Standby) -> None:
    """History files are never waited for; but their text has no end yet while they are written."""
    name = "00000002.history"
    whole = segments.history((1, 0x5000000))
    path = standby.archive / name
    path.write_bytes(whole[:10])
    with standby.begin(name, "-s", "60", to="pg_wal/RECOVERYHISTORY") as waiting:
        waiting.until(lambda: not waiting.has_ended, "it is running")
        path.write_bytes(whole)
        assert waiting.result().status == exits.DELIVERED
    assert standby.data.history.read_bytes() == whole


def test_a_history_file_without_a_line_s_end_is_delivered_when_it_rests(standby: Standby) -> None:
    name = "00000002.history"
    standby.put(name, b"1\t0/5000000\tby hand")
    assert standby.ask(name, to="pg_wal/RECOVERYHISTORY").status == exits.DELIVERED
    assert standby.data.history.read_bytes() == b"1\t0/5000000\tby hand"
