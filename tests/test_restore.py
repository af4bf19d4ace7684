"""What a restore delivers, and what it answers where there is nothing to wait for."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from support import segments
from support.command import RECOVERYHISTORY, DataDirectory, Standby, run

NAME = segments.name(5)
NEXT = segments.name(6)

DELIVERED, NOT_THERE, WRONG, UNAVAILABLE = 0, 1, 206, 210

BACKUP = "000000010000000000000005.00000028.backup"

# Delivered byte for byte ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", segments.VERSIONS)
@pytest.mark.parametrize("make", [segments.full, segments.switched])
def test_a_segment_of_every_version(tmp_path: Path, version: str, make: object) -> None:
    standby = Standby(tmp_path, version)
    content = segments.full(NAME, version=version) if make is segments.full else segments.switched(NAME, version=version)
    standby.put(NAME, content)
    assert standby.ask(NAME) == (DELIVERED, "", "")
    assert standby.delivered() == content
    assert (standby.archive / NAME).read_bytes() == content


@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_a_segment_of_every_usual_size(standby: Standby, size: int) -> None:
    name = segments.name(5, size=size * segments.MB)
    content = standby.put(name, segments.switched(name, size=size * segments.MB, switch_at=8192 * 9 + 4000))
    assert standby.ask(name) == (DELIVERED, "", "")
    assert standby.delivered() == content


def test_a_full_segment_of_16_mb(standby: Standby) -> None:
    name = segments.name(0x123, timeline=7, size=16 * segments.MB)
    content = standby.put(name, segments.full(name, size=16 * segments.MB))
    assert standby.ask(name) == (DELIVERED, "", "")
    assert standby.delivered() == content


def test_one_after_the_other_over_the_one_before(standby: Standby) -> None:
    for number in range(5, 9):
        standby.put(segments.name(number))
    for number in range(5, 9):
        assert standby.ask(segments.name(number), restart=segments.name(5)) == (DELIVERED, "", "")
        assert standby.delivered() == segments.full(segments.name(number))


def test_the_first_segment_of_a_new_timeline(standby: Standby) -> None:
    # It begins with pages copied from the last one of the old.
    name = segments.name(5, timeline=3)
    content = standby.put(name, segments.full(name, old_timeline=2, old_pages=40))
    assert standby.ask(name) == (DELIVERED, "", "")
    assert standby.delivered() == content


def test_a_relative_archive(standby: Standby) -> None:
    content = standby.put(NAME)
    assert run("../archive", NAME, "pg_wal/RECOVERYXLOG", cwd=standby.data.path) == (DELIVERED, "", "")
    assert standby.delivered() == content
    shutil.copytree(standby.archive, standby.data.path / "demo")
    # A folder that is called like a verb.
    assert run("./demo", NAME, "pg_wal/RECOVERYXLOG", cwd=standby.data.path) == (DELIVERED, "", "")


def test_an_archive_with_a_slash_at_its_end(standby: Standby) -> None:
    content = standby.put(NAME)
    assert run(f"{standby.archive}/", NAME, "pg_wal/RECOVERYXLOG", cwd=standby.data.path) == (DELIVERED, "", "")
    assert standby.delivered() == content


def test_a_read_only_archive(standby: Standby) -> None:
    content = standby.put(NAME)
    (standby.archive / NAME).chmod(0o400)
    standby.archive.chmod(0o500)
    try:
        assert standby.ask(NAME) == (DELIVERED, "", "")
    finally:
        standby.archive.chmod(0o700)
    assert standby.delivered() == content


# History and backup files ---------------------------------------------------------------------------------------------


def test_a_history_file(standby: Standby) -> None:
    content = standby.put("00000002.history", segments.history((1, 0x5000000)))
    assert standby.ask("00000002.history", to=RECOVERYHISTORY) == (DELIVERED, "", "")
    assert standby.data.history.read_bytes() == content


def test_a_backup_file(standby: Standby) -> None:
    content = standby.put(BACKUP, segments.backup_history(NAME))
    assert standby.ask(BACKUP, to=RECOVERYHISTORY) == (DELIVERED, "", "")
    assert standby.data.history.read_bytes() == content


@pytest.mark.parametrize("name", ["00000002.history", BACKUP])
@pytest.mark.parametrize("options", [[], ["-w", "60"], ["--wait", "always"], ["-r", "3"]])
def test_one_that_is_not_there_is_never_waited_for(standby: Standby, name: str, options: list[str]) -> None:
    # SLEEPTIME is 60: had it looked twice, the deadline would be over.
    standby.put(NAME)
    result = run(*standby.command(name, "-s", "60", *options, to=RECOVERYHISTORY), cwd=standby.data.path, deadline=30)
    assert result == (NOT_THERE, "", "")
    assert not standby.data.history.exists()


def test_a_history_file_whose_last_line_has_no_end(standby: Standby) -> None:
    # Perhaps half written: delivered once it has rested.
    content = standby.put("00000002.history", b"1\t0/5000000\tno recovery target specified")
    assert standby.ask("00000002.history", to=RECOVERYHISTORY) == (DELIVERED, "", "")
    assert standby.data.history.read_bytes() == content


def test_an_empty_history_file(standby: Standby) -> None:
    standby.put("00000002.history", b"")
    assert standby.ask("00000002.history", to=RECOVERYHISTORY) == (DELIVERED, "", "")
    assert standby.data.history.read_bytes() == b""


# What can never become the segment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("too_much", [1, 8192, segments.MB, 15 * segments.MB])
def test_a_file_that_is_too_long(standby: Standby, too_much: int) -> None:
    standby.put(NAME, segments.full(NAME) + bytes(too_much))
    result = standby.ask(NAME)
    assert result.status == WRONG
    assert f"is too long: {segments.MB + too_much} bytes instead of {segments.MB}" in result.stderr
    assert standby.delivered() is None
    assert standby.data.left_behind() == []


def test_another_segment_under_its_name(standby: Standby) -> None:
    standby.put(NAME, segments.full(NEXT))
    result = standby.ask(NAME)
    assert result.status == WRONG
    assert f"holds another segment: the WAL at 0/600000 (segment {NEXT}), not at 0/500000" in result.stderr
    assert standby.delivered() is None


def test_another_timeline_under_its_name(standby: Standby) -> None:
    standby.put(NAME, segments.full(segments.name(5, timeline=2)))
    result = standby.ask(NAME)
    assert result.status == WRONG
    assert "is of timeline 2, not of timeline 1" in result.stderr
    assert standby.delivered() is None


def test_another_cluster_under_its_name(standby: Standby) -> None:
    standby.put(NAME, segments.full(NAME, system_identifier=42))
    result = standby.ask(NAME)
    assert result.status == WRONG
    assert f"its system identifier is 42, this server's {segments.SYSTEM_IDENTIFIER}" in result.stderr
    assert standby.delivered() is None


def test_what_is_wrong_says_what_to_do(standby: Standby) -> None:
    standby.put(NAME, segments.full(NEXT))
    lines = [line.partition(" pystandby ")[2] for line in standby.ask(NAME).stderr.splitlines()]
    assert [line.partition(":")[0] for line in lines] == ["ERROR", "DETAIL", "HINT"]
    assert "--verify size" in lines[2]


def test_what_is_wrong_is_not_retried(standby: Standby) -> None:
    standby.put(NAME, segments.full(NEXT))
    result = run(*standby.command(NAME, "-r", "5", "-s", "60"), cwd=standby.data.path, deadline=30)
    assert result.status == WRONG
    assert "Try 1" not in result.stderr


def test_a_folder_under_its_name(standby: Standby) -> None:
    (standby.archive / NAME).mkdir()
    result = standby.ask(NAME)
    assert result.status == WRONG
    assert "is not a plain file" in result.stderr


def test_a_fifo_under_its_name(standby: Standby) -> None:
    os.mkfifo(standby.archive / NAME)
    result = standby.ask(NAME)
    assert result.status == WRONG
    assert "is not a plain file" in result.stderr


def test_verify_size_overrules(standby: Standby) -> None:
    # An encrypted segment, say.
    size = 16 * segments.MB
    content = standby.put(NAME, bytes(range(256)) * (size // 256))
    assert standby.ask(NAME).status == WRONG
    assert standby.ask(NAME, "--verify", "size") == (DELIVERED, "", "")
    assert standby.delivered() == content


def test_verify_none_delivers_anything(standby: Standby) -> None:
    content = standby.put(NAME, b"anything")
    assert standby.ask(NAME, "--verify", "none") == (DELIVERED, "", "")
    assert standby.delivered() == content


# Where there is nothing to wait for -----------------------------------------------------------------------------------


def test_wait_never(standby: Standby) -> None:
    assert run(*standby.command(NAME, "--wait", "never", "-s", "60"), cwd=standby.data.path, deadline=30) == (NOT_THERE, "", "")
    content = standby.put(NAME)
    assert standby.ask(NAME, "--wait", "never") == (DELIVERED, "", "")
    assert standby.delivered() == content


def test_wait_never_does_not_take_what_is_unfinished(standby: Standby) -> None:
    standby.put(NAME, segments.full(NAME)[:-8192])
    result = run(*standby.command(NAME, "--wait", "never", "-s", "60"), cwd=standby.data.path, deadline=30)
    # 1 is for what is not there.
    assert result.status == UNAVAILABLE
    assert "of 1048576 bytes" in result.stderr
    assert standby.delivered() is None


def _standby_mode_by_signal(data: DataDirectory) -> None:
    (data.path / "recovery.signal").unlink()
    (data.path / "standby.signal").touch()


def _standby_mode_by_both(data: DataDirectory) -> None:
    # The server's own rule: standby.signal takes precedence.
    (data.path / "standby.signal").touch()


def _standby_mode_by_recovery_conf(data: DataDirectory) -> None:
    (data.path / "recovery.signal").unlink()
    (data.path / "PG_VERSION").write_text("11\n")
    (data.path / "recovery.conf").write_text("restore_command = 'x'\n  standby_mode = 'on'   # a comment\n")


@pytest.mark.parametrize("prepare", [_standby_mode_by_signal, _standby_mode_by_both, _standby_mode_by_recovery_conf])
def test_standby_mode_never_waits(standby: Standby, prepare: object) -> None:
    assert callable(prepare)
    prepare(standby.data)
    assert run(*standby.command(NAME, "-s", "60"), cwd=standby.data.path, deadline=30) == (NOT_THERE, "", "")
    standby.put(NEXT, segments.full(NEXT, version=(standby.data.path / "PG_VERSION").read_text().strip()))
    assert standby.ask(NEXT) == (DELIVERED, "", "")


@pytest.mark.parametrize(
    ("line", "standby_mode"),
    [
        ("standby_mode = on", True),
        ("standby_mode=on", True),
        ("standby_mode on", True),
        ("STANDBY_MODE = 'TRUE'", True),
        ("standby_mode = 'yes'", True),
        ("standby_mode = 1", True),
        ("standby_mode = t", True),
        ("standby_mode = 'off'", False),
        ("standby_mode = off", False),
        ("standby_mode = 0", False),
        ("standby_mode = 'no'", False),
        ("#standby_mode = on", False),
        ("standby_mode = on\nstandby_mode = off", False),
        ("standby_mode = off\nstandby_mode = on", True),
        ("restore_command = 'standby_mode = on'", False),
        ("", False),
    ],
)
def test_recovery_conf(standby: Standby, line: str, standby_mode: bool) -> None:
    (standby.data.path / "recovery.signal").unlink()
    (standby.data.path / "PG_VERSION").write_text("11\n")
    (standby.data.path / "recovery.conf").write_text(f"restore_command = 'pystandby'\n{line}\n")
    if standby_mode:
        assert run(*standby.command(NAME, "-s", "60"), cwd=standby.data.path, deadline=30).status == NOT_THERE
    else:
        with standby.begin(NAME, "-d", "-s", "60") as waiting:
            waiting.until_watching()
            assert "waiting for" in waiting.stderr


def test_wait_always_waits_in_standby_mode(tmp_path: Path) -> None:
    standby = Standby(tmp_path, standby_mode=True)
    with standby.begin(NAME, "--wait", "always", "-s", "60") as waiting:
        waiting.until_watching()
        content = standby.put(NAME)
        assert waiting.result(30) == (DELIVERED, "", "")
    assert standby.delivered() == content


def test_pg_rewind_never_waits(standby: Standby) -> None:
    target = DataDirectory(standby.folder / "target")
    destination = target.wal / NAME
    # Asked from anywhere, with an absolute path.
    assert run("-s", "60", standby.archive, NAME, destination, cwd=standby.folder, deadline=30) == (NOT_THERE, "", "")
    content = standby.put(NAME)
    assert run(standby.archive, NAME, destination, cwd=standby.folder) == (DELIVERED, "", "")
    assert destination.read_bytes() == content
    assert os.listdir(target.wal) == [NAME]


def test_pg_rewind_is_not_ended_by_a_trigger(standby: Standby) -> None:
    target = DataDirectory(standby.folder / "target")
    content = standby.put(NAME)
    standby.pull_trigger("fast")
    assert run("-t", standby.trigger, standby.archive, NAME, target.wal / NAME, cwd=standby.folder) == (DELIVERED, "", "")
    assert (target.wal / NAME).read_bytes() == content
    assert standby.trigger.read_bytes() == b"fast"


def test_pg_rewind_gets_no_wrong_segment(standby: Standby) -> None:
    target = DataDirectory(standby.folder / "target")
    standby.put(NAME, segments.full(NAME, system_identifier=42))
    assert run(standby.archive, NAME, target.wal / NAME, cwd=standby.folder).status == WRONG
    assert os.listdir(target.wal) == []


# By hand --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(standby: Standby) -> Path:
    folder = standby.folder / "elsewhere"
    folder.mkdir()
    return folder


def test_by_hand(standby: Standby, elsewhere: Path) -> None:
    content = standby.put(NAME)
    assert run(standby.archive, NAME, "copy", cwd=elsewhere) == (DELIVERED, "", "")
    assert (elsewhere / "copy").read_bytes() == content
    assert os.listdir(elsewhere) == ["copy"]


def test_by_hand_what_a_server_would_not_get_is_delivered_with_a_warning(standby: Standby, elsewhere: Path) -> None:
    torn = standby.put(NAME, segments.zeros_from(segments.full(NAME), 8192 * 60))
    result = run(standby.archive, NAME, "copy", cwd=elsewhere)
    assert result.status == DELIVERED
    assert (elsewhere / "copy").read_bytes() == torn
    assert "WARNING:" in result.stderr
    assert f"breaks off at offset {8192 * 60}" in result.stderr
    assert "DETAIL:" in result.stderr
    assert "--verify pages" in result.stderr
    assert "--verify size" in result.stderr
    assert run(standby.archive, NAME, "copy", "--verify", "size", cwd=elsewhere) == (DELIVERED, "", "")


def test_by_hand_the_check_can_be_asked_for(standby: Standby, elsewhere: Path) -> None:
    standby.put(NAME, segments.zeros_from(segments.full(NAME), 8192 * 60))
    result = run(standby.archive, NAME, "copy", "--verify", "pages", "-w", "1", "-s", "1", cwd=elsewhere)
    assert result.status == 1
    assert os.listdir(elsewhere) == []
    standby.put(NAME, segments.full(NEXT))
    assert run(standby.archive, NAME, "copy", "--verify", "pages", cwd=elsewhere).status == WRONG


def test_by_hand_a_short_file_is_waited_for(standby: Standby, elsewhere: Path) -> None:
    standby.put(NAME, segments.full(NAME)[:-1])
    begun = time.monotonic()
    assert run(standby.archive, NAME, "copy", "-w", "1", "-s", "1", cwd=elsewhere).status == 1
    assert time.monotonic() - begun >= 1
    assert os.listdir(elsewhere) == []


def test_a_partial_segment_by_hand(standby: Standby, elsewhere: Path) -> None:
    content = standby.put(f"{NAME}.partial", segments.unfinished(NAME))
    assert run(standby.archive, f"{NAME}.partial", "copy", cwd=elsewhere).status == DELIVERED
    assert (elsewhere / "copy").read_bytes() == content
