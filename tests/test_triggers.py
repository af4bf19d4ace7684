"""Trigger files, and pg_ctl promote: what ends recovery, when, and what becomes of the file."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import segments
from support.command import IS_WINDOWS, RECOVERYHISTORY, Standby, run, wait_until, watched_folders

from pystandby import trigger

NAME = segments.name(5)
NEXT = segments.name(6)

AT_ONCE = 30
"""Seconds, far below the SLEEPTIME of 60: whoever is not woken is late."""

DELIVERED, END = 0, 1

SMART_WORDS = ["", "smart", "smart\n", "smartly", "smart fast"]
FAST_WORDS = ["fast", "fast\n", "fastest", "fast smart", "fast\0"]
INVALID_WORDS = [
    "FAST",
    "Fast",
    " fast",
    "\nfast",
    "\n",
    " ",
    "x",
    "smar",
    "fas",
    "SMART",
    " smart",
    "\tsmart",
    "\ufefffast",
    "\0fast",
    "0",
    "promote",
]


# Smart ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", SMART_WORDS)
def test_smart_delivers_what_is_there_and_ends_at_the_first_that_is_not(standby: Standby, word: str) -> None:
    standby.put(NAME)
    standby.put(NEXT)
    standby.pull_trigger(word)
    options = ("-t", standby.trigger, "-s", "60")
    with standby.server() as server:
        for name in (NAME, NEXT):
            assert server.run(*standby.command(name, *options)) == (DELIVERED, "", "")
            assert standby.delivered() == segments.full(name)
        standby.restored.unlink()
        result = server.run(*standby.command(segments.name(7), *options), deadline=AT_ONCE)
    assert result.status == END
    assert f"LOG:  recovery ends before segment {segments.name(7)}" in result.stderr
    assert f'trigger file "{standby.trigger}" says smart' in result.stderr
    assert standby.delivered() is None
    # The file stays as it is; removing it is recovery_end_command's.
    assert standby.trigger.read_bytes() == word.encode()


@pytest.mark.parametrize("word", ["", "smart", "fast"])
def test_a_trigger_ends_the_wait_at_once(standby: Standby, word: str) -> None:
    with standby.begin(NAME, "-t", standby.trigger, "-s", "60") as waiting:
        waiting.until_watching(2)
        standby.pull_trigger(word)
        result = waiting.result(AT_ONCE)
    assert result.status == END
    assert f"says {word or 'smart'}" in result.stderr


@pytest.mark.parametrize("word", ["", "smart", "fast"])
def test_a_trigger_ends_the_wait_of_one_that_polls(standby: Standby, word: str) -> None:
    with standby.begin(NAME, "-d", "-t", standby.trigger, "-s", "1", "--poll") as waiting:
        waiting.until_says("waiting for")
        standby.pull_trigger(word)
        result = waiting.result(AT_ONCE)
    assert result.status == END
    assert f"says {word or 'smart'}" in result.stderr


def test_a_trigger_made_by_touch(standby: Standby) -> None:
    with standby.begin(NAME, "-t", standby.trigger, "-s", "60") as waiting:
        waiting.until_watching(2)
        standby.trigger.touch()
        assert waiting.result(AT_ONCE).status == END


def test_a_trigger_made_by_echo(standby: Standby) -> None:
    # Empty for a moment.
    with standby.begin(NAME, "-t", standby.trigger, "-s", "60") as waiting:
        waiting.until_watching(2)
        subprocess.run(["/bin/sh", "-c", 'echo fast >"$1"', "sh", standby.trigger], check=True)
        assert waiting.result(AT_ONCE).status == END


def test_a_trigger_that_comes_while_the_watch_is_being_set_up(standby: Standby) -> None:
    # Too late for one look, and before the next can be woken: nobody may miss it.
    for number in range(5, 20):
        with standby.begin(segments.name(number), "-t", standby.trigger, "-s", "60") as waiting:
            while watched_folders(waiting.pid) == 0:
                pass
            standby.trigger.touch()
            assert waiting.result(AT_ONCE).status == END
        standby.trigger.unlink()


def test_smart_and_segments_that_arrive_together(standby: Standby) -> None:
    with standby.begin(NAME, "-t", standby.trigger, "-s", "60") as waiting:
        waiting.until_watching(2)
        content = standby.put(NAME)
        standby.pull_trigger()
        assert waiting.result(AT_ONCE).status == DELIVERED
    assert standby.delivered() == content


def test_smart_hands_over_the_last_segment_of_a_crashed_primary(standby: Standby) -> None:
    content = standby.put(NAME, segments.unfinished(NAME))
    standby.pull_trigger()
    result = standby.ask(NAME, "-t", standby.trigger, "-s", "1")
    assert result.status == DELIVERED
    assert standby.delivered() == content
    assert "WARNING:" in result.stderr
    assert "it is restored as it is" in result.stderr


def test_smart_waits_for_a_copy_under_way(standby: Standby) -> None:
    # What is being copied now is there in full in a moment.
    content = segments.full(NAME)
    standby.pull_trigger()
    with (standby.archive / NAME).open("wb", buffering=0) as file:
        file.write(content[:500_000])
        with standby.begin(NAME, "-t", standby.trigger, "-s", "20") as waiting:
            waiting.until_says("is held open by another program" if IS_WINDOWS else "has 500000 of")
            file.write(content[500_000:])
            file.close()
            assert waiting.result().status == DELIVERED
    assert standby.delivered() == content


def test_smart_and_a_short_file_that_stays_short(standby: Standby) -> None:
    # The server would refuse it by its size, and stop.
    standby.put(NAME, segments.full(NAME)[:500_000])
    standby.pull_trigger()
    result = standby.ask(NAME, "-t", standby.trigger, "-s", "1")
    assert result.status == END
    assert standby.delivered() is None
    assert "WARNING:" in result.stderr
    assert "has 500000 of" in result.stderr


# Fast -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", FAST_WORDS)
def test_fast_ends_at_once_whatever_is_there(standby: Standby, word: str) -> None:
    standby.put(NAME)
    standby.put(NEXT)
    standby.pull_trigger(word)
    with standby.server() as server:
        result = server.run(*standby.command(NEXT, "-t", standby.trigger))
        assert result.status == END
        assert f"LOG:  recovery ends before segment {NEXT}" in result.stderr
        assert f'trigger file "{standby.trigger}" says fast' in result.stderr
        assert standby.delivered() is None
        assert standby.trigger.read_bytes() == b""
        # The last one replayed, which every server asks for again.
        assert server.run(*standby.command(NAME, "-t", standby.trigger)) == (DELIVERED, "", "")
        assert standby.delivered() == segments.full(NAME)


def test_an_emptied_trigger_is_smart_for_the_next_server(standby: Standby) -> None:
    standby.put(NAME)
    standby.pull_trigger("fast")
    assert standby.ask(NAME, "-t", standby.trigger).status == END
    assert standby.ask(NAME, "-t", standby.trigger) == (DELIVERED, "", "")
    assert standby.ask(NEXT, "-t", standby.trigger, "-s", "60").status == END


def test_fast_keeps_the_files_inode_owner_and_mode(standby: Standby) -> None:
    standby.pull_trigger("fast")
    standby.trigger.chmod(0o640)
    before = standby.trigger.stat()
    assert standby.ask(NAME, "-t", standby.trigger).status == END
    after = standby.trigger.stat()
    assert (after.st_ino, after.st_mode, after.st_uid, after.st_size) == (before.st_ino, before.st_mode, before.st_uid, 0)


def test_a_fast_trigger_that_cannot_be_written_still_counts(standby: Standby) -> None:
    # Made by root, say.
    assert os.geteuid(), "root can write to every file: run the tests as an ordinary user"
    standby.put(NAME)
    standby.pull_trigger("fast")
    standby.trigger.chmod(0o400)
    with standby.server() as server:
        result = server.run(*standby.command(NAME, "-t", standby.trigger))
        assert result.status == END
        assert f'LOG:  trigger file "{standby.trigger}" could not be emptied' in result.stderr
        assert standby.trigger.read_bytes() == b"fast"
        assert server.run(*standby.command(NAME, "-t", standby.trigger)) == (END, "", "")
        assert standby.delivered() is None


def test_an_empty_trigger_that_cannot_be_read_is_smart(standby: Standby) -> None:
    assert os.geteuid(), "root can read every file: run the tests as an ordinary user"
    standby.trigger.touch(mode=0o000)
    assert standby.ask(NAME, "-t", standby.trigger, "-s", "60").status == END


def test_a_trigger_with_content_that_cannot_be_read_is_ignored(standby: Standby) -> None:
    assert os.geteuid(), "root can read every file: run the tests as an ordinary user"
    content = standby.put(NAME)
    standby.pull_trigger("fast")
    standby.trigger.chmod(0o000)
    result = standby.ask(NAME, "-t", standby.trigger)
    assert result.status == DELIVERED
    assert standby.delivered() == content
    assert f'WARNING:  trigger file "{standby.trigger}" is ignored: it could not be read: Permission denied' in result.stderr


# Neither --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", INVALID_WORDS)
def test_anything_else_is_ignored(standby: Standby, word: str) -> None:
    content = standby.put(NAME)
    standby.pull_trigger(word)
    result = standby.ask(NAME, "-t", standby.trigger)
    assert result.status == DELIVERED
    assert standby.delivered() == content
    assert result.stderr.count(f'WARNING:  trigger file "{standby.trigger}" is ignored: it has invalid content') == 1
    assert result.stderr.count("HINT:") == 1
    assert standby.trigger.read_bytes() == word.encode()


def test_invalid_content_is_said_once_while_waiting_and_can_be_mended(standby: Standby) -> None:
    standby.pull_trigger("FAST")
    with standby.begin(NAME, "-t", standby.trigger, "-s", "1") as waiting:
        waiting.until_says("has invalid content")
        waiting.until_watching(2)
        standby.pull_trigger("Fast")
        standby.pull_trigger("FASTER")
        standby.pull_trigger("fast")
        result = waiting.result(AT_ONCE)
    assert result.status == END
    assert result.stderr.count("has invalid content") == 1


def test_no_trigger_no_folder(standby: Standby) -> None:
    content = standby.put(NAME)
    assert standby.ask(NAME, "-t", standby.trigger) == (DELIVERED, "", "")
    assert standby.ask(NAME, "-t", "/nowhere/trigger") == (DELIVERED, "", "")
    assert standby.delivered() == content
    assert not standby.trigger.exists()


def test_a_trigger_folder_that_is_made_later(standby: Standby) -> None:
    late = standby.folder / "late" / "failover"
    with standby.begin(NAME, "-d", "-t", late, "-s", "1") as waiting:
        waiting.until_says("waiting for")
        waiting.until_watching()
        late.parent.mkdir(mode=0o700)
        late.touch()
        assert waiting.result(AT_ONCE).status == END


def test_a_relative_trigger_is_in_the_data_directory(standby: Standby) -> None:
    with standby.begin(NAME, "-t", "failover", "-s", "60") as waiting:
        waiting.until_watching(2)
        (standby.data.path / "failover").touch()
        assert waiting.result(AT_ONCE).status == END


@pytest.mark.parametrize("word", ["", "fast", "FAST"])
def test_history_files_are_delivered_whatever_the_trigger_says(standby: Standby, word: str) -> None:
    content = standby.put("00000002.history", segments.history((1, 0x5000000)))
    standby.pull_trigger(word)
    options = ("-t", standby.trigger)
    assert standby.ask("00000002.history", *options, to=RECOVERYHISTORY).status == DELIVERED
    assert standby.data.history.read_bytes() == content
    result = standby.ask("00000003.history", *options, to=RECOVERYHISTORY)
    assert result.status == END
    # A history file ends no recovery: the next segment does, and must find the trigger as it was.
    assert "recovery ends" not in result.stderr
    assert standby.trigger.read_bytes() == word.encode()


# In a folder of everybody's -------------------------------------------------------------------------------------------


@pytest.fixture
def shared(standby: Standby) -> Iterator[Standby]:
    standby.trigger.parent.chmod(0o1777)
    yield standby
    standby.trigger.parent.chmod(0o700)


def test_ones_own_plain_file_counts(shared: Standby) -> None:
    shared.pull_trigger("fast")
    assert shared.ask(NAME, "-t", shared.trigger).status == END
    assert shared.trigger.read_bytes() == b""


@pytest.mark.parametrize("what", ["link", "hard link", "folder", "fifo"])
def test_anything_else_in_a_folder_of_everybodys_is_ignored(shared: Standby, what: str) -> None:
    target = shared.folder / "target"
    target.write_bytes(b"fast")
    if what == "link":
        shared.trigger.symlink_to(target)
    elif what == "hard link":
        os.link(target, shared.trigger)
    elif what == "folder":
        shared.trigger.mkdir()
    else:
        os.mkfifo(shared.trigger)
    content = shared.put(NAME)
    result = shared.ask(NAME, "-t", shared.trigger)
    assert result.status == DELIVERED
    assert shared.delivered() == content
    assert f'WARNING:  trigger file "{shared.trigger}" is ignored' in result.stderr
    assert "--trust-trigger" in result.stderr
    assert target.read_bytes() == b"fast"


def test_trust_trigger(shared: Standby) -> None:
    target = shared.folder / "target"
    target.write_bytes(b"fast")
    shared.trigger.symlink_to(target)
    shared.put(NAME)
    assert shared.ask(NAME, "-t", shared.trigger, "--trust-trigger").status == END


def test_a_link_in_a_folder_of_ones_own_counts(standby: Standby) -> None:
    target = standby.folder / "target"
    target.write_bytes(b"fast")
    standby.trigger.symlink_to(target)
    standby.put(NAME)
    assert standby.ask(NAME, "-t", standby.trigger).status == END


@pytest.mark.parametrize("what", ["folder", "fifo", "dangling link"])
def test_what_is_no_file_is_no_trigger(standby: Standby, what: str) -> None:
    if what == "folder":
        standby.trigger.mkdir()
    elif what == "fifo":
        os.mkfifo(standby.trigger)
    else:
        standby.trigger.symlink_to(standby.folder / "nowhere")
    content = standby.put(NAME)
    result = standby.ask(NAME, "-t", standby.trigger)
    assert result.status == DELIVERED
    assert standby.delivered() == content
    assert ("is not a plain file" in result.stderr) == (what != "dangling link")


# pg_ctl promote -------------------------------------------------------------------------------------------------------


def test_a_promote_request_is_a_smart_trigger(standby: Standby) -> None:
    standby.put(NAME)
    promote = standby.data.path / "promote"
    promote.touch()
    with standby.server() as server:
        assert server.run(*standby.command(NAME)) == (DELIVERED, "", "")
        result = server.run(*standby.command(NEXT, "-s", "60"), deadline=AT_ONCE)
        assert result.status == END
        assert f"LOG:  recovery ends before segment {NEXT}: the server was asked to promote" in result.stderr
        # The server's own file; it removes it.
        assert promote.exists()
        assert server.run(*standby.command(NAME)) == (DELIVERED, "", "")


def test_a_promote_request_ends_the_wait_at_once(standby: Standby) -> None:
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching(2)
        (standby.data.path / "promote").touch()
        assert waiting.result(AT_ONCE).status == END


def test_a_promote_request_ends_the_wait_of_one_that_polls(standby: Standby) -> None:
    with standby.begin(NAME, "-d", "-s", "1", "--poll") as waiting:
        waiting.until_says("waiting for")
        (standby.data.path / "promote").touch()
        assert waiting.result(AT_ONCE).status == END


def test_a_file_called_promote_is_nothing_to_a_person(standby: Standby) -> None:
    elsewhere = standby.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "promote").touch()
    result = run("-d", "-w", "1", "-s", "1", standby.archive, NAME, "copy", cwd=elsewhere)
    assert result.status == END
    assert "MAXWAITTIME" in result.stderr


# Standby mode ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def streaming(tmp_path: Path) -> Standby:
    return Standby(tmp_path, standby_mode=True)


@pytest.mark.parametrize("word", ["", "fast"])
def test_in_standby_mode_a_trigger_does_nothing_without_promote(streaming: Standby, word: str) -> None:
    content = streaming.put(NAME)
    streaming.pull_trigger(word)
    with streaming.server() as server:
        result = server.run(*streaming.command(NAME, "-t", streaming.trigger))
        assert result.status == DELIVERED
        assert streaming.delivered() == content
        assert f'WARNING:  trigger file "{streaming.trigger}" does nothing: the server is in standby mode' in result.stderr
        assert "--promote" in result.stderr
        # Nothing is refused, remembered or emptied, and it is said once.
        assert server.run(*streaming.command(NEXT, "-t", streaming.trigger)) == (1, "", "")
        streaming.put(NEXT)
        assert server.run(*streaming.command(NEXT, "-t", streaming.trigger)) == (DELIVERED, "", "")
        assert streaming.trigger.read_bytes() == word.encode()
        assert not (streaming.data.path / "promote").exists()


class Postmaster:
    """A process that notes SIGUSR1, as the postmaster of a data directory."""

    def __init__(self, standby: Standby) -> None:
        self.signalled = standby.folder / "signalled"
        ready = standby.folder / "ready"
        script = 'trap "touch \\"$1\\"" USR1; touch "$2"; while :; do sleep 0.05; done'
        self.process = subprocess.Popen(["/bin/sh", "-c", script, "sh", self.signalled, ready], start_new_session=True)
        wait_until(ready.exists, "the trap is set")
        standby.data.write_postmaster_pid(pid=self.process.pid)

    def __enter__(self) -> Postmaster:
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def test_promote_with_a_smart_trigger(streaming: Standby) -> None:
    content = streaming.put(NAME)
    streaming.pull_trigger()
    options = ("-t", streaming.trigger, "--promote")
    with Postmaster(streaming) as postmaster, streaming.server() as server:
        assert server.run(*streaming.command(NAME, *options)).status == DELIVERED
        assert streaming.delivered() == content
        assert not (streaming.data.path / "promote").exists()
        result = server.run(*streaming.command(NEXT, *options))
        assert result.status == 1
        assert f"LOG:  the server is promoted before segment {NEXT}" in result.stderr
        assert (streaming.data.path / "promote").exists()
        wait_until(postmaster.signalled.exists, "the postmaster is signalled")
        assert streaming.trigger.exists()


def test_promote_with_a_fast_trigger(streaming: Standby) -> None:
    streaming.put(NAME)
    streaming.pull_trigger("fast")
    options = ("-t", streaming.trigger, "--promote")
    with Postmaster(streaming) as postmaster, streaming.server() as server:
        assert server.run(*streaming.command(NAME, *options)).status == 1
        assert streaming.delivered() is None
        assert (streaming.data.path / "promote").exists()
        wait_until(postmaster.signalled.exists, "the postmaster is signalled")
        assert server.run(*streaming.command(NAME, *options)).status == 1
        assert streaming.delivered() is None


# In-process: look and empty -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "expected"), [(SMART_WORDS, trigger.SMART), (FAST_WORDS, trigger.FAST), (INVALID_WORDS, None)])
def test_words(tmp_path: Path, words: list[str], expected: str | None) -> None:
    path = tmp_path / "trigger"
    for word in words:
        path.write_bytes(word.encode())
        found = trigger.look(str(path), trusted=False)
        assert found.word == expected, word
        assert bool(found.problem) == (expected is None)


@given(st.binary(max_size=64))
def test_any_content(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"trigger-{os.getpid()}"
    path.write_bytes(content)
    found = trigger.look(str(path), trusted=False)
    if content == b"" or content.startswith(b"smart"):
        assert found.word == trigger.SMART
    elif content.startswith(b"fast"):
        assert found.word == trigger.FAST
    else:
        assert found.word is None
        assert found.problem
    assert path.read_bytes() == content


def test_empty_only_what_was_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "trigger"
    path.write_bytes(b"fast")
    found = trigger.look(str(path), trusted=False)
    (tmp_path / "other").write_bytes(b"somebody's")
    path.unlink()
    path.symlink_to(tmp_path / "other")
    assert not trigger.empty(str(path), found)
    assert (tmp_path / "other").read_bytes() == b"somebody's"
    path.unlink()
    assert not trigger.empty(str(path), found)
    assert not path.exists()
    path.write_bytes(b"fast")
    os.utime(path)
    assert stat.S_ISREG(path.stat().st_mode)
    again = trigger.look(str(path), trusted=False)
    assert trigger.empty(str(path), again)
    assert path.read_bytes() == b""


def test_whoever_owns_the_folder_cannot_have_another_file_made_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By swapping the file that is being made for a link: root makes trigger files in folders of the server's user."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    path = tmp_path / "failover"
    write = os.write

    def swap(descriptor: int, content: bytes) -> int:
        temporary = Path(f"{path}.{os.getpid()}")
        temporary.unlink()
        temporary.symlink_to(secret)
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", swap)
    trigger.make(str(path), "smart")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text() == "secret"
