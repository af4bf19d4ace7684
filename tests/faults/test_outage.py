"""The archive is away: waited for, said once, and never taken for the end of WAL. With servers: test_outage_on_servers.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import injected, segments
from support.command import PYSTANDBY, Argument, Result, Running, Standby, run, start, wait_until

from pystandby import exits

pytestmark = pytest.mark.faults

NAME = segments.name(5)
HISTORY = "00000002.history"

CANNOT_BE_READ = "cannot be read:"
AGAIN = "can be read again"
NO_ANSWER = "does not answer"

# Ways for an archive to be away, each with how to bring it back.

Back = Callable[[], object]


def moved(archive: Path) -> Back:
    archive.rename(archive.with_name("elsewhere"))
    return lambda: archive.with_name("elsewhere").rename(archive)


def unreadable(archive: Path) -> Back:
    archive.chmod(0)
    return lambda: archive.chmod(0o700)


def a_file_in_its_place(archive: Path) -> Back:
    archive.rename(archive.with_name("elsewhere"))
    archive.write_text("not a folder")

    def back() -> None:
        archive.unlink()
        archive.with_name("elsewhere").rename(archive)

    return back


def link_to_nowhere(archive: Path) -> Back:
    archive.rename(archive.with_name("elsewhere"))
    archive.symlink_to("nowhere")

    def back() -> None:
        (archive.parent / "next").symlink_to("elsewhere")
        (archive.parent / "next").replace(archive)

    return back


def link_to_itself(archive: Path) -> Back:
    archive.rename(archive.with_name("elsewhere"))
    archive.symlink_to(archive)

    def back() -> None:
        archive.unlink()
        archive.with_name("elsewhere").rename(archive)

    return back


WAYS = (moved, unreadable, a_file_in_its_place, link_to_nowhere, link_to_itself)

each_way = pytest.mark.parametrize("away", WAYS, ids=lambda way: way.__name__)


@each_way
def test_away_before_the_start(standby: Standby, away: Callable[[Path], Back]) -> None:
    content = standby.put(NAME)
    back = away(standby.archive)
    with standby.begin(NAME, "-s", "1") as waiting:
        waiting.until_says(CANNOT_BE_READ)
        assert standby.delivered() is None
        back()
        result = waiting.result()
    said_once_each(result)
    assert standby.delivered() == content


@each_way
def test_away_in_the_middle(standby: Standby, away: Callable[[Path], Back]) -> None:
    content = segments.full(NAME)
    with standby.begin(NAME, "-s", "1", "-d") as waiting:
        waiting.until_says(f"waiting for {NAME}")
        back = away(standby.archive)
        waiting.until_says(CANNOT_BE_READ)
        back()
        waiting.until_says(AGAIN)
        assert not waiting.has_ended
        standby.put(NAME, content)
        result = waiting.result()
    said_once_each(result)
    assert standby.delivered() == content


def said_once_each(result: Result) -> None:
    assert result.status == exits.DELIVERED
    assert result.stderr.count("WARNING:") == 1, result.stderr
    assert result.stderr.count(CANNOT_BE_READ) == 1
    assert result.stderr.count(AGAIN) == 1


def test_each_outage_is_said(standby: Standby) -> None:
    """Once when it goes and once when it is back, however often it does."""
    with standby.begin(NAME, "-s", "1", "-d") as waiting:
        waiting.until_says(f"waiting for {NAME}")
        for times in (1, 2, 3):
            back = moved(standby.archive)
            waiting.until_says(CANNOT_BE_READ, times)
            back()
            waiting.until_says(AGAIN, times)
        standby.put(NAME)
        result = waiting.result()
    assert result.status == exits.DELIVERED
    assert result.stderr.count("WARNING:") == 3


@each_way
def test_a_history_file_is_not_said_to_be_absent(standby: Standby, away: Callable[[Path], Back]) -> None:
    """Of an archive that is away nothing is known: to say "not there" would put a new server on the wrong timeline."""
    content = standby.put(HISTORY, segments.history((1, 0x5000000)))
    back = away(standby.archive)
    with standby.begin(HISTORY, "-s", "1", to="pg_wal/RECOVERYHISTORY") as waiting:
        waiting.until_says(CANNOT_BE_READ)
        assert not waiting.has_ended
        back()
        assert waiting.result().status == exits.DELIVERED
    assert standby.data.history.read_bytes() == content


@each_way
def test_where_waiting_is_ruled_out_it_is_an_error(standby: Standby, away: Callable[[Path], Back]) -> None:
    standby.put(NAME)
    back = away(standby.archive)
    result = standby.ask(NAME, "--wait", "never")
    back()
    assert result.status == exits.ARCHIVE_UNAVAILABLE
    assert CANNOT_BE_READ in result.stderr


def test_in_standby_mode_the_server_may_stream_meanwhile(tmp_path: Path) -> None:
    """1 at once, because the server asks again by itself and a command that waits blocks streaming; one warning in all."""
    standby = Standby(tmp_path, standby_mode=True)
    content = standby.put(NAME)
    back = moved(standby.archive)
    with standby.server() as server:
        words = standby.command(NAME)
        first, second = server.run(*words), server.run(*words)
        back()
        third = server.run(*words)
    assert (first.status, second.status, third.status) == (1, 1, 0)
    assert first.stderr.count("WARNING:") == 1
    assert second.stderr == ""
    assert third.stderr.count(AGAIN) == 1
    assert standby.delivered() == content


def test_maxwaittime_goes_on_during_an_outage(standby: Standby) -> None:
    """Whoever gives MAXWAITTIME asks for the end of recovery by then, whatever the reason."""
    moved(standby.archive)
    result = standby.ask(NAME, "-s", "1", "-w", "1")
    assert result.status == exits.END_OF_RECOVERY
    assert CANNOT_BE_READ in result.stderr
    assert "MAXWAITTIME" in result.stderr


def test_a_fast_trigger_during_an_outage(standby: Standby) -> None:
    moved(standby.archive)
    with standby.begin(NAME, "-s", "60", "-t", standby.trigger) as waiting:
        waiting.until_says(CANNOT_BE_READ)
        waiting.until_watching()
        standby.pull_trigger("fast")
        assert waiting.result().status == exits.END_OF_RECOVERY


def test_a_smart_trigger_during_a_short_outage_loses_nothing(standby: Standby) -> None:
    """What is in the archive was asked for: the trigger waits a while for it to come back."""
    content = standby.put(NAME)
    back = moved(standby.archive)
    with standby.begin(NAME, "-s", "60", "-t", standby.trigger) as waiting:
        waiting.until_says(CANNOT_BE_READ)
        waiting.until_watching()
        standby.pull_trigger("smart")
        time.sleep(1)  # what is waited for is that nothing happens
        assert not waiting.has_ended
        back()
        assert waiting.result().status == exits.DELIVERED
    assert standby.delivered() == content


def test_a_smart_trigger_during_a_long_outage_ends_recovery(standby: Standby) -> None:
    """Long: 30 seconds. Here 3, so that the test does not take as long."""
    moved(standby.archive)
    standby.pull_trigger("smart")
    begun = time.monotonic()
    program = injected.program(standby.folder, with_a_grace_of(3))
    result = run(*standby.command(NAME, "-s", "1", "-t", standby.trigger), cwd=standby.data.path, program=program)
    assert result.status == exits.END_OF_RECOVERY
    assert time.monotonic() - begun >= 3
    assert "the end of recovery is asked for" in result.stderr


def with_a_grace_of(seconds: int) -> str:
    return f"import pystandby.launch, pystandby.run\npystandby.run._GRACE = {seconds}.0\n"


def test_stopped_during_an_outage(standby: Standby) -> None:
    moved(standby.archive)
    for number in (signal.SIGTERM, signal.SIGQUIT):
        with standby.begin(NAME, "-s", "60") as waiting:
            waiting.until_says(CANNOT_BE_READ)
            waiting.signal(number)
            assert waiting.result(10).status == -number


# --- errors of the file system under the archive ------------------------------------------------------------------------

ERRORS = ("EIO", "ESTALE", "ENODEV", "ENOTCONN", "EHOSTDOWN", "ETIMEDOUT", "ENXIO", "EREMOTEIO", "ECONNRESET")


@pytest.mark.parametrize("error", ERRORS)
def test_a_dead_file_server(standby: Standby, error: str) -> None:
    """Every system call on the archive fails, then works again."""
    content = standby.put(NAME)
    repaired = standby.folder / "repaired"
    program = injected.program(
        standby.folder,
        f"""
        for name in ("open", "stat", "scandir", "listdir", "lstat"):
            setattr(os, name, failing(getattr(os, name), {str(standby.archive)!r}, errno.{error},
                                      lambda: not _exists({str(repaired)!r})))
        """,
    )
    with start(*standby.command(NAME, "-s", "1"), cwd=standby.data.path, program=program) as waiting:
        waiting.until_says(f'archive "{standby.archive}" cannot be read: {os.strerror(getattr(__import__("errno"), error))}')
        assert standby.delivered() is None
        repaired.touch()
        result = waiting.result()
    said_once_each(result)
    assert standby.delivered() == content


@pytest.mark.parametrize("error", ["EIO", "ESTALE", "EACCES", "EPERM", "EBUSY", "ETXTBSY", "EMLINK", "EOVERFLOW"])
def test_a_file_that_cannot_be_opened(standby: Standby, error: str) -> None:
    """The archive is there, one file of it gives an error: a bad block, a stale handle, a lock. Waited for, said once."""
    content = standby.put(NAME)
    repaired = standby.folder / "repaired"
    program = injected.program(
        standby.folder,
        f"""
        os.open = failing(os.open, {str(standby.archive / NAME)!r}, errno.{error}, lambda: not _exists({str(repaired)!r}))
        """,
    )
    with start(*standby.command(NAME, "-s", "1"), cwd=standby.data.path, program=program) as waiting:
        waiting.until_says(f'"{standby.archive / NAME}": ')
        assert standby.delivered() is None
        repaired.touch()
        result = waiting.result()
    assert result.status == exits.DELIVERED
    assert result.stderr.count("WARNING:") == 1
    assert standby.delivered() == content


READERS = ("read", "pread", "preadv", "readinto", "sendfile", "copy_file_range")


@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
def test_a_file_that_cannot_be_read(standby: Standby, error: str) -> None:
    """It can be opened, and reading it fails: tried MAXRETRIES times, then the status that stops the server."""
    standby.put(NAME)
    program = injected.program(standby.folder, unreadable_content(standby, error))
    result = run(*standby.command(NAME, "-s", "1", "-r", "1"), cwd=standby.data.path, program=program)
    assert result.status == exits.SOURCE_FAILED
    assert result.stderr.count("could not read") == 2
    assert "Try 1 of 2; the next in 1 seconds." in result.stderr
    assert standby.delivered() is None
    assert standby.data.left_behind() == []


def test_a_file_that_can_be_read_again(standby: Standby) -> None:
    content = standby.put(NAME)
    program = injected.program(standby.folder, unreadable_content(standby, "EIO"))
    with start(*standby.command(NAME, "-s", "1"), cwd=standby.data.path, program=program) as waiting:
        waiting.until_says("could not read")
        (standby.folder / "repaired").touch()
        assert waiting.result().status == exits.DELIVERED
    assert standby.delivered() == content


def test_on_failure_end_recovery_is_pg_standbys_way(standby: Standby) -> None:
    standby.put(NAME)
    program = injected.program(standby.folder, unreadable_content(standby, "EIO"))
    words = standby.command(NAME, "-s", "1", "-r", "0", "--on-failure", "end-recovery")
    result = run(*words, cwd=standby.data.path, program=program)
    assert result.status == exits.END_OF_RECOVERY
    assert "--on-failure end-recovery" in result.stderr


def unreadable_content(standby: Standby, error: str) -> str:
    return f"""
        for name in {READERS!r}:
            if hasattr(os, name):
                setattr(os, name, failing(getattr(os, name), {str(standby.archive / NAME)!r}, errno.{error},
                                          lambda: not _exists({str(standby.folder / "repaired")!r})))
        """


# --- a file system that does not answer at all --------------------------------------------------------------------------

each_call = pytest.mark.parametrize("call", ["open", "stat", "read", "fstat"])


def begin_hanging(standby: Standby, call: str, *options: Argument, path: Path | None = None, code: str = "") -> Running:
    """Ask for the segment with a function of the operating system that does not come back for anything in the archive."""
    code += f"os.{call} = hanging(os.{call}, {str(path or standby.archive)!r}, {str(standby.folder / 'answers')!r})"
    program = injected.program(standby.folder, code)
    if call == "stat":
        # The folder is asked only where the file is not there.
        (standby.archive / NAME).unlink()
    running = start(*standby.command(NAME, *options), cwd=standby.data.path, program=program)
    wait_until((standby.folder / "answers.reached").exists, "the command has asked the dead file system")
    return running


@each_call
def test_an_archive_that_hangs_is_waited_for(standby: Standby, call: str) -> None:
    content = standby.put(NAME)
    with begin_hanging(standby, call, "-s", "1") as waiting:
        waiting.until_says(NO_ANSWER)
        (standby.folder / "answers").touch()
        standby.put(NAME, content)
        result = waiting.result()
    assert result.status == exits.DELIVERED
    assert result.stderr.count(NO_ANSWER) == 1
    assert result.stderr.count("WARNING:") == 1
    assert result.stderr.count(AGAIN) == 1
    assert standby.delivered() == content


@each_call
def test_sigterm_works_while_the_archive_hangs(standby: Standby, call: str) -> None:
    standby.put(NAME)
    for number in (signal.SIGTERM, signal.SIGQUIT):
        with begin_hanging(standby, call, "-s", "60") as waiting:
            waiting.signal(number)
            assert waiting.result(10).status == -number
        (standby.folder / "answers.reached").unlink()
        standby.put(NAME)
    assert standby.delivered() is None


@pytest.mark.parametrize("call", ["open", "stat"])
def test_a_fast_trigger_works_while_the_archive_hangs(standby: Standby, call: str) -> None:
    standby.put(NAME)
    with begin_hanging(standby, call, "-s", "1", "-t", standby.trigger) as waiting:
        waiting.until_says(NO_ANSWER)
        standby.pull_trigger("fast")
        assert waiting.result().status == exits.END_OF_RECOVERY
    assert standby.delivered() is None


def test_sigusr1_works_while_the_archive_hangs(standby: Standby) -> None:
    standby.put(NAME)
    with begin_hanging(standby, "open", "-s", "60") as waiting:
        waiting.signal(signal.SIGUSR1)
        assert waiting.result().status == exits.END_OF_RECOVERY


@pytest.mark.parametrize("promote", [False, True], ids=["trigger", "pg_ctl promote"])
def test_a_smart_trigger_works_while_the_archive_hangs(standby: Standby, promote: bool) -> None:
    """It gives the archive the same grace as in any other outage."""
    standby.put(NAME)
    with begin_hanging(standby, "open", "-s", "1", "-t", standby.trigger, code=with_a_grace_of(3)) as waiting:
        if promote:
            (standby.data.path / "promote").touch()
        else:
            standby.pull_trigger("smart")
        assert waiting.result().status == exits.END_OF_RECOVERY
    assert standby.delivered() is None


def test_maxwaittime_works_while_the_archive_hangs(standby: Standby) -> None:
    standby.put(NAME)
    with begin_hanging(standby, "stat", "-s", "1", "-w", "2") as waiting:
        result = waiting.result()
    assert result.status == exits.END_OF_RECOVERY
    assert "MAXWAITTIME" in result.stderr


def test_the_server_s_end_is_noticed_while_the_archive_hangs(standby: Standby) -> None:
    """Killed -9, its startup process takes nobody along: the command leaves by itself."""
    standby.put(NAME)
    program = injected.program(
        standby.folder, f"os.open = hanging(os.open, {str(standby.archive)!r}, {str(standby.folder / 'answers')!r})"
    )
    with standby.server() as server:
        call = server.start(*standby.command(NAME, "-s", "1"), program=program)
        wait_until((standby.folder / "answers.reached").exists, "the command has asked the dead file system")
        pid = hung_commands(standby)
        assert len(pid) == 1
        server.kill()
        wait_until(lambda: hung_commands(standby) == [], "the orphan has left")
        del call
    (standby.folder / "answers").touch()
    assert standby.delivered() is None


def hung_commands(standby: Standby) -> list[int]:
    """The processes of ours that ask this archive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(standby.archive) in words and not words[0].endswith(b"sh"):
                found.append(int(entry.name))
    return found


def test_an_archive_that_hangs_after_the_delivery(standby: Standby) -> None:
    """The segment is where the server wants it, and nothing else is left to be decided."""
    content = standby.put(NAME)
    code = ""
    for call in ("open", "stat", "lstat", "scandir", "listdir"):
        code += (
            f"os.{call} = hanging(os.{call}, {str(standby.archive)!r}, {str(standby.folder / 'answers')!r}, "
            f"lambda: _exists({str(standby.restored)!r}))\n"
        )
    program = injected.program(standby.folder, code)
    result = run(*standby.command(NAME, "-s", "1"), cwd=standby.data.path, program=program)
    assert result.status == exits.DELIVERED
    assert standby.delivered() == content


def test_an_archive_that_hangs_while_it_is_pruned(standby: Standby) -> None:
    content = standby.put(NAME)
    standby.put(segments.name(3))
    for call in ("listdir", "unlink"):
        program = injected.program(
            standby.folder, f"os.{call} = hanging(os.{call}, {str(standby.archive)!r}, {str(standby.folder / 'answers')!r})"
        )
        result = run(*standby.command(NAME, "-s", "1", restart=segments.name(4)), cwd=standby.data.path, program=program)
        assert result.status == exits.DELIVERED
        assert standby.delivered() == content
        assert segments.name(3) in standby.archived()


def test_a_trigger_file_on_a_dead_file_system_does_not_keep_sigterm_out(standby: Standby) -> None:
    """Nothing can be learnt of it, so the command waits; but the server can be stopped."""
    with begin_hanging(standby, "open", "-s", "60", "-t", standby.trigger, path=standby.trigger) as waiting:
        waiting.signal(signal.SIGTERM)
        assert waiting.result(10).status == -signal.SIGTERM


def test_a_next_timeline_s_history_file_that_hangs(standby: Standby) -> None:
    """A FIFO of that name: a look at it must not wait for whoever writes."""
    os.mkfifo(standby.archive / HISTORY)
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        content = standby.put(NAME)
        assert waiting.result().status == exits.DELIVERED
    assert standby.delivered() == content


# --- unmounted ----------------------------------------------------------------------------------------------------------


def needs_namespaces() -> None:
    answer = subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True, text=True)
    if answer.returncode:
        pytest.skip(f"NOT TESTED: an ordinary user may not mount here, in a namespace of their own: {answer.stderr.strip()}")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="NOT TESTED: there is no unshare(1) to mount with")
def test_unmounted_and_mounted_again(standby: Standby, tmp_path: Path) -> None:
    """An unmounted archive leaves its empty mount point behind, which must not be taken for an empty archive."""
    needs_namespaces()
    first, second = NAME, segments.name(6)
    (tmp_path / "first").write_bytes(segments.full(first))
    (tmp_path / "second").write_bytes(segments.full(second))
    history = standby.folder / "history"
    script = f"""
        set -e
        mount -t tmpfs -o size=20m archive {standby.archive}
        mkdir {standby.archive}/wal
        cp {tmp_path}/first {standby.archive}/{first}
        cd {standby.data.path}
        "$0" {standby.archive} {first} pg_wal/RECOVERYXLOG
        mv pg_wal/RECOVERYXLOG {tmp_path}/delivered-first
        umount {standby.archive}
        "$0" -s 1 {standby.archive} {second} pg_wal/RECOVERYXLOG 2>{tmp_path}/said & command=$!
        "$0" --wait never {standby.archive} {HISTORY} pg_wal/RECOVERYHISTORY 2>/dev/null && exit 90 || echo $? >{history}
        while ! grep -q "{CANNOT_BE_READ}" {tmp_path}/said; do kill -0 $command; sleep 0.05; done
        test ! -e pg_wal/RECOVERYXLOG
        mount -t tmpfs -o size=20m archive {standby.archive}
        cp {tmp_path}/second {standby.archive}/{second}.new
        mv {standby.archive}/{second}.new {standby.archive}/{second}
        wait $command
        mv pg_wal/RECOVERYXLOG {tmp_path}/delivered-second
    """
    result = run("-c", script, PYSTANDBY, program=["unshare", "-Urm", "/bin/sh"], as_server=False)
    assert result.status == 0, (result.stderr, (tmp_path / "said").read_text())
    assert (tmp_path / "delivered-first").read_bytes() == (tmp_path / "first").read_bytes()
    assert (tmp_path / "delivered-second").read_bytes() == (tmp_path / "second").read_bytes()
    assert (tmp_path / "said").read_text().count(CANNOT_BE_READ) == 1
    assert history.read_text().strip() == str(exits.ARCHIVE_UNAVAILABLE)
