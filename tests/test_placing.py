"""Putting the file where the server wants it: whole or not at all, never through a link, nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import segments
from support.command import Standby, run, wait_until

from pystandby import osdep
from pystandby.place import SUFFIX, Copy

NAME = segments.name(5)


# What may be in the way -----------------------------------------------------------------------------------------------


def test_a_file_left_over_is_replaced(standby: Standby) -> None:
    content = standby.put(NAME)
    standby.restored.write_bytes(b"left over" * 1000)
    before = standby.restored.stat().st_ino
    assert standby.ask(NAME) == (0, "", "")
    assert standby.delivered() == content
    # Replaced, not written into: somebody may have the old one open.
    assert standby.restored.stat().st_ino != before


def test_a_file_left_over_that_is_read_only_is_replaced(standby: Standby) -> None:
    content = standby.put(NAME)
    standby.restored.write_bytes(b"left over")
    standby.restored.chmod(0o000)
    assert standby.ask(NAME) == (0, "", "")
    assert standby.delivered() == content


def test_a_link_is_replaced_and_never_followed(standby: Standby) -> None:
    content = standby.put(NAME)
    target = standby.folder / "target"
    target.write_bytes(b"somebody's")
    standby.restored.symlink_to(target)
    assert standby.ask(NAME) == (0, "", "")
    assert not standby.restored.is_symlink()
    assert standby.delivered() == content
    assert target.read_bytes() == b"somebody's"


def test_a_link_that_leads_nowhere_is_replaced(standby: Standby) -> None:
    content = standby.put(NAME)
    target = standby.folder / "target"
    standby.restored.symlink_to(target)
    assert standby.ask(NAME) == (0, "", "")
    assert not standby.restored.is_symlink()
    assert standby.delivered() == content
    assert not target.exists()


def test_a_hard_link_is_not_written_through(standby: Standby) -> None:
    content = standby.put(NAME)
    other = standby.folder / "other"
    other.write_bytes(b"somebody's")
    os.link(other, standby.restored)
    assert standby.ask(NAME) == (0, "", "")
    assert standby.delivered() == content
    assert other.read_bytes() == b"somebody's"


def test_what_is_delivered_is_a_copy(standby: Standby) -> None:
    # The server recycles what it is given and overwrites it: through a link that would be the archive's own file.
    content = standby.put(NAME)
    for option in ("-c", "-l"):
        assert standby.ask(NAME, option) == (0, "", "")
        assert not standby.restored.is_symlink()
        assert standby.restored.stat().st_nlink == 1
        assert standby.restored.stat().st_ino != (standby.archive / NAME).stat().st_ino
        standby.restored.write_bytes(bytes(len(content)))
        assert (standby.archive / NAME).read_bytes() == content


def test_a_segment_behind_a_link_in_the_archive_is_delivered(standby: Standby) -> None:
    # Archives spread over file systems do this; a copy of what the link leads to is what is wanted.
    elsewhere = standby.folder / "elsewhere"
    elsewhere.mkdir()
    content = segments.full(NAME)
    segments.put(elsewhere, NAME, content)
    (standby.archive / NAME).symlink_to(elsewhere / NAME)
    assert standby.ask(NAME) == (0, "", "")
    assert not standby.restored.is_symlink()
    assert standby.delivered() == content


def test_an_absolute_destination(standby: Standby) -> None:
    content = standby.put(NAME)
    assert standby.ask(NAME, to=standby.restored) == (0, "", "")
    assert standby.delivered() == content


def test_a_destination_without_a_folder(standby: Standby) -> None:
    content = standby.put(NAME)
    assert standby.ask(NAME, to="RECOVERYXLOG") == (0, "", "")
    assert (standby.data.path / "RECOVERYXLOG").read_bytes() == content


def test_a_folder_at_the_destination_is_an_error(standby: Standby) -> None:
    standby.put(NAME)
    standby.restored.mkdir()
    (standby.restored / "x").touch()
    result = standby.ask(NAME, "-r", "0")
    assert result.status == 204
    assert 'could not write "pg_wal/RECOVERYXLOG": Is a directory' in result.stderr
    assert os.listdir(standby.restored) == ["x"]
    assert standby.data.left_behind() == []


# The temporary file ---------------------------------------------------------------------------------------------------


def test_nothing_is_left_behind(standby: Standby) -> None:
    standby.put(NAME)
    standby.put("00000002.history", segments.history((1, 0x6000000)))
    assert standby.ask(NAME).status == 0
    assert standby.ask("00000002.history", to="pg_wal/RECOVERYHISTORY").status == 0
    assert standby.ask("00000003.history", to="pg_wal/RECOVERYHISTORY").status == 1
    standby.put(segments.name(6), segments.zeros_from(segments.full(segments.name(6)), 8192 * 50))
    assert standby.ask(segments.name(6), "-w", "1", "-s", "1").status == 1
    standby.put(segments.name(7), segments.full(segments.name(8)))
    assert standby.ask(segments.name(7)).status == 206
    standby.pull_trigger("fast")
    assert standby.ask(segments.name(5), "-t", standby.trigger).status == 1
    assert standby.data.left_behind() == []


def test_the_file_is_the_server_users_own(standby: Standby) -> None:
    standby.put(NAME)
    (standby.archive / NAME).chmod(0o444)
    assert standby.ask(NAME) == (0, "", "")
    # With the umask of a server: nobody else may read it. And the server must be able to recycle it.
    assert standby.restored.stat().st_mode & 0o777 == 0o600


def test_a_temporary_file_left_by_one_that_was_killed_is_taken_over(standby: Standby) -> None:
    content = standby.put(NAME)
    left = Path(f"{standby.restored}{SUFFIX}")
    left.write_bytes(b"half" * (1 << 20))
    assert standby.ask(NAME) == (0, "", "")
    assert standby.delivered() == content
    assert standby.data.left_behind() == []


@pytest.mark.parametrize("what", ["link", "dangling link", "folder", "fifo", "unreadable", "hard link"])
def test_something_else_under_the_temporary_name(standby: Standby, what: str) -> None:
    content = standby.put(NAME)
    temporary = Path(f"{standby.restored}{SUFFIX}")
    target = standby.folder / "target"
    target.write_bytes(b"somebody's")
    if what == "link":
        temporary.symlink_to(target)
    elif what == "dangling link":
        temporary.symlink_to(standby.folder / "nowhere")
    elif what == "folder":
        temporary.mkdir()
    elif what == "fifo":
        os.mkfifo(temporary)
    elif what == "unreadable":
        temporary.touch(mode=0o000)
    else:
        os.link(target, temporary)
    assert standby.ask(NAME, "-r", "0") == (0, "", "")
    assert standby.delivered() == content
    assert standby.restored.is_file()
    assert not standby.restored.is_symlink()
    assert target.read_bytes() == b"somebody's"
    assert not (standby.folder / "nowhere").exists()


def test_an_orphan_still_writing_cannot_spoil_ours(standby: Standby) -> None:
    content = standby.put(NAME)
    temporary = Path(f"{standby.restored}{SUFFIX}")
    with temporary.open("wb") as orphan:
        assert osdep.lock(orphan.fileno())
        assert standby.ask(NAME, "-r", "0") == (0, "", "")
        orphan.write(b"spoilt" * 100_000)
        orphan.flush()
        assert standby.delivered() == content
    # The orphan's, for the next one to take over.
    assert standby.data.left_behind() in ([], [temporary.name])


def test_killed_while_copying_the_next_call_is_right(standby: Standby) -> None:
    # Large enough to be caught in the middle: the copy is stopped as soon as it has begun to grow.
    size = 256 * segments.MB
    name = segments.name(5, size=size)
    head = segments.full(name, size=segments.MB)
    path = standby.archive / name
    # What is in it does not matter here; "none" delivers it as it is, and holes cost nothing.
    path.write_bytes(head)
    os.truncate(path, size)
    temporary = Path(f"{standby.restored}{SUFFIX}")

    def copied() -> int:
        try:
            return temporary.stat().st_blocks + temporary.stat().st_size
        except FileNotFoundError:
            return 0

    caught = 0
    for _ in range(20):
        with standby.begin(name, "--verify", "none") as copying:
            while copied() == 0 and not copying.has_ended:
                pass
            copying.kill()
            result = copying.result()
        if result.status == -signal.SIGKILL:
            caught += 1
            assert not standby.restored.exists()
        else:
            assert result.status == 0
            standby.restored.unlink()
        if caught == 3:
            break
    assert caught, "was never caught while copying"
    assert standby.ask(name, "--verify", "none") == (0, "", "")
    assert standby.restored.stat().st_size == size
    with standby.restored.open("rb") as file:
        assert file.read(len(head)) == head
    assert standby.data.left_behind() == []


@pytest.mark.parametrize("name_of_signal", ["SIGTERM", "SIGQUIT"])
def test_stopped_while_copying_leaves_no_half_segment(standby: Standby, name_of_signal: str) -> None:
    sent = signal.Signals[name_of_signal]
    size = 256 * segments.MB
    name = segments.name(5, size=size)
    with (standby.archive / name).open("wb") as file:
        file.truncate(size)
    temporary = Path(f"{standby.restored}{SUFFIX}")
    for _ in range(20):
        with standby.begin(name, "--verify", "none") as copying:
            while not temporary.exists() and not copying.has_ended:
                pass
            copying.signal(sent)
            status = copying.result().status
        if status == -sent:
            assert not standby.restored.exists()
            return
        assert status == 0
    raise AssertionError("was never caught while copying")


def test_the_destination_is_never_half_there(standby: Standby) -> None:
    # Somebody who looks at the destination all the time sees nothing, or the whole file.
    size = 64 * segments.MB
    name = segments.name(5, size=size)
    with (standby.archive / name).open("wb") as file:
        file.truncate(size)
    looker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys\n"
            "sizes = set()\n"
            "print('looking', flush=True)\n"
            "while not os.path.exists('stop'):\n"
            "    try:\n"
            "        sizes.add(os.stat('pg_wal/RECOVERYXLOG').st_size)\n"
            "    except FileNotFoundError:\n"
            "        sizes.add(None)\n"
            "print(sorted(sizes, key=str))\n",
        ],
        cwd=standby.data.path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert looker.stdout is not None
        assert looker.stdout.readline() == "looking\n"
        for _ in range(3):
            assert standby.ask(name, "--verify", "none") == (0, "", "")
            time.sleep(0.02)
            standby.restored.unlink()
        (standby.data.path / "stop").touch()
        assert looker.stdout.read() == f"[{size}, None]\n"
    finally:
        looker.kill()
        looker.wait()
        looker.stdout.close() if looker.stdout else None


# Retries --------------------------------------------------------------------------------------------------------------


def test_the_folder_is_missing_and_comes_back(standby: Standby) -> None:
    content = standby.put(NAME)
    wal = standby.data.wal
    wal.rename(standby.folder / "away")
    with standby.begin(NAME, "-r", "1", "-s", "1") as trying:
        trying.until_says("Try 1 of 2; the next in 1 seconds.")
        (standby.folder / "away").rename(wal)
        result = trying.result()
    assert result.status == 0
    assert 'WARNING:  could not write "pg_wal/RECOVERYXLOG": No such file or directory' in result.stderr
    assert standby.delivered() == content


def test_retries_wait_one_two_three_times_sleeptime(standby: Standby) -> None:
    standby.put(NAME)
    begun = time.monotonic()
    result = standby.ask(NAME, "-r", "2", "-s", "1", to="pg_wal/missing/RECOVERYXLOG")
    assert time.monotonic() - begun >= 3
    assert result.status == 204
    lines = [line.partition(" pystandby ")[2] for line in result.stderr.splitlines()]
    what = 'could not write "pg_wal/missing/RECOVERYXLOG": No such file or directory'
    assert lines == [
        f"WARNING:  {what}",
        "DETAIL:  Try 1 of 3; the next in 1 seconds.",
        f"WARNING:  {what}",
        "DETAIL:  Try 2 of 3; the next in 2 seconds.",
        f"ERROR:  {what}",
        "DETAIL:  Try 3 of 3, the last. The server stops here and loses nothing.",
        "HINT:  Mend the cause, then start the server.",
    ]


def test_no_retries(standby: Standby) -> None:
    standby.put(NAME)
    result = standby.ask(NAME, "-r", "0", to="pg_wal/missing/RECOVERYXLOG")
    assert result.status == 204
    assert "Try 1 of 1, the last." in result.stderr
    assert "WARNING" not in result.stderr


def test_on_failure_end_recovery(standby: Standby) -> None:
    standby.put(NAME)
    result = standby.ask(NAME, "-r", "0", "--on-failure", "end-recovery", to="pg_wal/missing/RECOVERYXLOG")
    assert result.status == 1
    assert "could not write" in result.stderr
    assert "--on-failure end-recovery" in result.stderr


def test_a_read_only_folder(standby: Standby) -> None:
    if os.geteuid() == 0:
        raise AssertionError("to root no folder is read-only: run the tests as an ordinary user")
    standby.put(NAME)
    standby.data.wal.chmod(0o500)
    try:
        result = standby.ask(NAME, "-r", "0")
    finally:
        standby.data.wal.chmod(0o700)
    assert result.status == 204
    assert 'could not write "pg_wal/RECOVERYXLOG": Permission denied' in result.stderr


def test_a_file_size_limit(standby: Standby) -> None:
    standby.put(NAME)
    result = run(
        "-c",
        'ulimit -f 100; trap "" XFSZ; exec "$@"',
        "sh",
        "pystandby",
        *standby.command(NAME, "-r", "0"),
        program=["/bin/sh"],
        cwd=standby.data.path,
    )
    assert result.status == 204
    assert os.strerror(errno.EFBIG) in result.stderr
    assert not standby.restored.exists()
    assert standby.data.left_behind() == []


def test_a_fast_trigger_ends_the_retries(standby: Standby) -> None:
    standby.put(NAME)
    with standby.begin(NAME, "-r", "9", "-s", "1", "-t", standby.trigger, to="pg_wal/missing/RECOVERYXLOG") as trying:
        trying.until_says("Try 1 of 10")
        standby.pull_trigger("fast")
        result = trying.result(30)
    assert result.status == 1
    assert "says fast" in result.stderr


# In-process: Copy -----------------------------------------------------------------------------------------------------


def test_copy_publish(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    destination = tmp_path / "destination"
    with source.open("rb") as file:
        copy = Copy(str(destination))
        copy.fill(file.fileno(), 100_000)
        assert copy.size == 100_000
        assert not destination.exists()
        copy.publish(str(destination))
    assert destination.read_bytes() == source.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["destination", "source"]


def test_copy_discard(tmp_path: Path) -> None:
    copy = Copy(str(tmp_path / "destination"))
    copy.discard()
    copy.discard()
    assert os.listdir(tmp_path) == []


def test_copy_of_a_source_that_ends_before(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    with source.open("rb") as file:
        copy = Copy(str(tmp_path / "destination"))
        copy.fill(file.fileno(), 5000)
        assert copy.size == 1000
        copy.discard()


def test_copy_over_a_longer_one_left_behind(tmp_path: Path) -> None:
    (tmp_path / f"destination{SUFFIX}").write_bytes(b"y" * 5000)
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    with source.open("rb") as file:
        copy = Copy(str(tmp_path / "destination"))
        copy.fill(file.fileno(), 1000)
        copy.publish(str(tmp_path / "destination"))
    assert (tmp_path / "destination").read_bytes() == b"x" * 1000


def test_two_copies_at_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    destination = str(tmp_path / "destination")
    with source.open("rb") as file:
        one, other = Copy(destination), Copy(destination)
        one.fill(file.fileno(), 1000)
        other.publish(destination)
        one.publish(destination)
    assert (tmp_path / "destination").read_bytes() == b"x" * 1000
    assert sorted(os.listdir(tmp_path)) == ["destination", "source"]


def test_a_failed_publish_leaves_nothing(tmp_path: Path) -> None:
    destination = tmp_path / "destination"
    copy = Copy(str(destination))
    destination.mkdir()
    # Windows says that access is denied.
    with pytest.raises((IsADirectoryError, PermissionError)):
        copy.publish(str(destination))
    assert os.listdir(tmp_path) == ["destination"]
    wait_until(lambda: copy.descriptor < 0, "the descriptor is closed", 1)
