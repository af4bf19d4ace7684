"""The standby's own faults: tried again, then the status that stops the server; nothing half written stays."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest
from support import injected, segments
from support.command import PYSTANDBY, RECOVERYXLOG, Argument, Result, Standby, run, start

from pystandby import exits

pytestmark = pytest.mark.faults

SIZE = 16 * segments.MB

NAME = segments.name(5, size=SIZE)


def limited(limits: str) -> list[Argument]:
    """The words of a program that runs pystandby under limits of the shell's ulimit."""
    return ["/bin/sh", "-c", f'{limits}; exec "$0" "$@"', PYSTANDBY]


def stops_the_server_and_leaves_nothing(standby: Standby, result: Result, why: str, tries: int) -> None:
    assert result.status == exits.DESTINATION_FAILED, result.stderr
    assert result.stderr.count(f'could not write "{RECOVERYXLOG}": {why}') == tries, result.stderr
    assert f"Try {tries} of {tries}, the last. The server stops here and loses nothing." in result.stderr
    assert standby.delivered() is None
    assert standby.data.left_behind() == []


# --- no room ------------------------------------------------------------------------------------------------------------


def test_the_file_size_limit(standby: Standby) -> None:
    """ulimit -f, as an init script may set it. The signal that comes with it must not kill us: that is tried again as well."""
    standby.put(NAME, segments.full(NAME, size=SIZE))
    result = run(*standby.command(NAME, "-s", "1", "-r", "1"), cwd=standby.data.path, program=limited("ulimit -f 8192"))
    stops_the_server_and_leaves_nothing(standby, result, os.strerror(errno.EFBIG), 2)


@pytest.fixture
def mounting() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("NOT TESTED: there is no unshare(1) to mount with as an ordinary user")
    answer = subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True, text=True)
    if answer.returncode:
        pytest.skip(f"NOT TESTED: an ordinary user may not mount here, in a namespace of their own: {answer.stderr.strip()}")


def in_namespace(script: str, standby: Standby, *words: Argument) -> Result:
    """Run a shell script where it may mount; $0 is pystandby, "$@" its words, the data directory the current one."""
    return run("-c", script, PYSTANDBY, *words, program=["unshare", "-Urm", "/bin/sh"], cwd=standby.data.path, as_server=False)


@pytest.mark.usefixtures("mounting")
def test_a_full_disk(standby: Standby) -> None:
    """A real one, of 4 MB: what was copied is removed again, and every try begins anew."""
    standby.put(NAME, segments.full(NAME, size=SIZE))
    script = """
        mount -t tmpfs -o size=4m wal pg_wal || exit 90
        "$0" "$@"
        echo "$?"
        find pg_wal -type f ! -path pg_wal/.pystandby/journal
    """
    result = in_namespace(script, standby, *standby.command(NAME, "-s", "1", "-r", "2"))
    assert result.stdout == f"{exits.DESTINATION_FAILED}\n", result
    assert result.stderr.count("No space left on device") == 3
    assert "Try 1 of 3; the next in 1 seconds." in result.stderr
    assert "Try 2 of 3; the next in 2 seconds." in result.stderr
    assert "Try 3 of 3, the last." in result.stderr
    assert result.stderr.count("Make room on the file system of pg_wal.") == 3


@pytest.mark.usefixtures("mounting")
def test_a_full_disk_on_which_room_is_made(standby: Standby) -> None:
    content = standby.put(NAME, segments.full(NAME, size=SIZE))
    said = standby.folder / "said"
    script = f"""
        mount -t tmpfs -o size=20m wal pg_wal || exit 90
        dd if=/dev/zero of=pg_wal/filler bs=1M count=18 2>/dev/null || exit 91
        "$0" "$@" 2>{said} & command=$!
        while ! grep -q "No space left" {said}; do kill -0 $command || exit 92; sleep 0.02; done
        rm pg_wal/filler
        wait $command || exit 93
        ls -A pg_wal
        cp pg_wal/RECOVERYXLOG {standby.folder}/delivered
    """
    result = in_namespace(script, standby, *standby.command(NAME, "-s", "1"))
    assert result.status == 0, (result, said.read_text())
    assert set(result.stdout.split()) <= {"RECOVERYXLOG", ".pystandby"}
    assert (standby.folder / "delivered").read_bytes() == content
    assert said.read_text().count("WARNING:") == 1


@pytest.mark.usefixtures("mounting")
def test_a_disk_that_is_full_already(standby: Standby) -> None:
    """Not even room for the memory of what was said: the answer is the same."""
    standby.put(NAME, segments.full(NAME, size=SIZE))
    script = """
        mount -t tmpfs -o size=1m wal pg_wal || exit 90
        dd if=/dev/zero of=pg_wal/filler bs=4k 2>/dev/null
        "$0" "$@"
        echo "$?"
        rm pg_wal/filler
        ls -A pg_wal
    """
    result = in_namespace(script, standby, *standby.command(NAME, "-s", "1", "-r", "0"))
    assert result.stdout.split("\n")[0] == str(exits.DESTINATION_FAILED), result
    assert "RECOVERYXLOG" not in result.stdout


@pytest.mark.usefixtures("mounting")
def test_a_fast_trigger_on_a_full_disk(standby: Standby) -> None:
    """Recovery ends all the same; what cannot be written down is said."""
    standby.pull_trigger("fast")
    script = """
        mount -t tmpfs -o size=64k wal pg_wal || exit 90
        dd if=/dev/zero of=pg_wal/filler bs=4k 2>/dev/null
        "$0" "$@"
        echo "$?"
    """
    result = in_namespace(script, standby, *standby.command(NAME, "-s", "1", "-t", standby.trigger))
    assert result.stdout == f"{exits.END_OF_RECOVERY}\n", result
    assert "could not write down that recovery ends here" in result.stderr
    assert standby.trigger.read_text() == "fast", "it has to say so again: the server will ask a second time"


@pytest.mark.usefixtures("mounting")
def test_a_read_only_disk(standby: Standby) -> None:
    """As Linux remounts one on which it has met errors."""
    standby.put(NAME, segments.full(NAME, size=SIZE))
    script = """
        mount -t tmpfs -o size=20m wal "$PWD/pg_wal" && mount -o remount,ro,bind "$PWD/pg_wal" || exit 90
        "$0" "$@"
        echo "$?"
        ls -A pg_wal
    """
    result = in_namespace(script, standby, *standby.command(NAME, "-s", "1", "-r", "1"))
    assert result.stdout == f"{exits.DESTINATION_FAILED}\n", result
    assert result.stderr.count("Read-only file system") == 2


@pytest.mark.usefixtures("mounting")
def test_a_read_only_archive(standby: Standby) -> None:
    """All that is needed of the archive is reading; what cannot be removed there is said and no more."""
    content = standby.put(NAME, segments.full(NAME, size=SIZE))
    old = segments.name(3, size=SIZE)
    standby.put(old, b"old")
    script = f"""
        mount --bind {standby.archive} {standby.archive} && mount -o remount,ro,bind {standby.archive} || exit 90
        exec "$0" "$@"
    """
    # Without look-ahead, whose child would say it by the next call.
    words = standby.command(NAME, "--look-ahead", "0", restart=segments.name(4, size=SIZE))
    result = in_namespace(script, standby, *words)
    assert result.status == exits.DELIVERED, result
    assert "could not remove 1 old segments" in result.stderr
    assert "Read-only file system" in result.stderr
    assert standby.delivered() == content


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "ESTALE", "EFBIG", "EINTR", "ENOMEM"])
@pytest.mark.parametrize("calls", ["write copy_file_range sendfile", "ftruncate", "replace"])
def test_any_error_while_writing(standby: Standby, error: str, calls: str) -> None:
    standby.put(NAME, segments.full(NAME, size=SIZE))
    code = "import fcntl\n" + f"fcntl.ioctl = failing(fcntl.ioctl, {str(standby.data.wal)!r}, errno.EOPNOTSUPP)\n"
    for call in calls.split():
        code += f"os.{call} = failing(os.{call}, {str(standby.data.wal / 'RECOVERYXLOG')!r}, errno.{error})\n"
    if calls == "ftruncate":
        # Only what somebody left is cut off.
        (standby.data.wal / "RECOVERYXLOG.pystandby").write_bytes(b"half a segment")
    program = injected.program(standby.folder, code)
    result = run(*standby.command(NAME, "-r", "0"), cwd=standby.data.path, program=program)
    stops_the_server_and_leaves_nothing(standby, result, os.strerror(getattr(errno, error)), 1)


def test_an_error_in_the_middle_of_the_copy(standby: Standby) -> None:
    """The kernel copies half and fails: the rest is copied in another way, or all of it again, and never half delivered."""
    content = standby.put(NAME, segments.full(NAME, size=SIZE))
    program = injected.program(
        standby.folder,
        """
        import fcntl
        def no_reflink(*arguments):
            raise OSError(errno.EOPNOTSUPP, "no reflink")
        fcntl.ioctl = no_reflink
        def half(source, target, count, *offsets, real=os.copy_file_range, calls=[]):
            calls.append(count)
            if len(calls) > 1:
                raise OSError(errno.EIO, "half way")
            return real(source, target, count // 2, *offsets)
        os.copy_file_range = half
        """,
    )
    result = run(*standby.command(NAME, "-s", "1"), cwd=standby.data.path, program=program)
    assert result.status == exits.DELIVERED
    assert standby.delivered() == content


def test_without_any_way_to_copy_in_the_kernel(standby: Standby) -> None:
    content = standby.put(NAME, segments.full(NAME, size=SIZE))
    program = injected.program(
        standby.folder,
        """
        import fcntl
        def refuse(*arguments):
            raise OSError(errno.ENOSYS, "not here")
        fcntl.ioctl = os.copy_file_range = os.sendfile = refuse
        """,
    )
    assert run(*standby.command(NAME), cwd=standby.data.path, program=program).status == exits.DELIVERED
    assert standby.delivered() == content


# --- no place -----------------------------------------------------------------------------------------------------------


def test_a_missing_folder(standby: Standby) -> None:
    standby.put(NAME, segments.full(NAME, size=SIZE))
    result = standby.ask(NAME, "-s", "1", "-r", "1", to="pg_xlog/RECOVERYXLOG")
    assert result.status == exits.DESTINATION_FAILED
    assert result.stderr.count("No such file or directory") == 2


def test_a_folder_that_is_made_between_two_tries(standby: Standby) -> None:
    content = standby.put(NAME, segments.full(NAME, size=SIZE))
    with standby.begin(NAME, "-s", "1", to="pg_xlog/RECOVERYXLOG") as waiting:
        waiting.until_says("No such file or directory")
        (standby.data.path / "pg_xlog").mkdir()
        assert waiting.result().status == exits.DELIVERED
    assert (standby.data.path / "pg_xlog" / "RECOVERYXLOG").read_bytes() == content


def test_a_folder_without_rights(standby: Standby) -> None:
    standby.put(NAME, segments.full(NAME, size=SIZE))
    standby.data.wal.chmod(0o500)
    try:
        result = standby.ask(NAME, "-s", "1", "-r", "0")
    finally:
        standby.data.wal.chmod(0o700)
    stops_the_server_and_leaves_nothing(standby, result, os.strerror(errno.EACCES), 1)


def test_a_folder_in_place_of_the_file(standby: Standby) -> None:
    standby.put(NAME, segments.full(NAME, size=SIZE))
    standby.restored.mkdir()
    result = standby.ask(NAME, "-s", "1", "-r", "0")
    assert result.status == exits.DESTINATION_FAILED
    assert "Is a directory" in result.stderr


def test_a_data_directory_that_is_removed(standby: Standby) -> None:
    """While the command waits: nothing to write into, and nobody who asks."""
    with standby.begin(NAME, "-s", "1", "-r", "0") as waiting:
        waiting.until_watching()
        standby.data.path.rename(standby.folder / "gone")
        shutil.rmtree(standby.folder / "gone")
        standby.put(NAME, segments.full(NAME, size=SIZE))
        assert waiting.result().status >= 200


def test_a_trigger_while_a_copy_is_tried_again(standby: Standby) -> None:
    """A fast trigger ends the pauses between tries, which grow; a smart one waits for the segment that is there."""
    content = standby.put(NAME, segments.full(NAME, size=SIZE))
    words = standby.command(NAME, "-s", "1", "-r", "100", "-t", standby.trigger, to="pg_xlog/RECOVERYXLOG")
    with start(*words, cwd=standby.data.path) as waiting:
        waiting.until_says("Try 2 of 101")
        standby.pull_trigger("fast")
        assert waiting.result().status == exits.END_OF_RECOVERY
    standby.pull_trigger("smart")
    with start(*words, cwd=standby.data.path) as waiting:
        waiting.until_says("Try 2 of 101")
        (standby.data.path / "pg_xlog").mkdir()
        assert waiting.result().status == exits.DELIVERED
    assert (standby.data.path / "pg_xlog" / "RECOVERYXLOG").read_bytes() == content


# --- too little of everything -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def test_few_descriptors(standby: Standby, present: bool) -> None:
    """However few: delivered, or waited for, or a status that stops the server.

    PostgreSQL itself wants 48; with less than these the shell fails before it comes to us.
    """
    content = segments.full(NAME, size=SIZE)
    if present:
        standby.put(NAME, content)
    delivered = 0
    for limit in (14, 16, 18, 24, 48) if present else (14, 18, 48):
        words = standby.command(NAME, "-s", "1", "-r", "0", *(() if present else ("-w", "1")))
        result = run(*words, cwd=standby.data.path, program=limited(f"ulimit -n {limit}"))
        if result.status == exits.DELIVERED and present:
            assert standby.delivered() == content
            delivered += 1
        elif result.status == exits.END_OF_RECOVERY and not present:
            assert "MAXWAITTIME" in result.stderr
        else:
            assert result.status >= 126 or result.status < 0, (limit, result)
            assert standby.delivered() is None or delivered
    assert delivered >= 4 or not present


@pytest.mark.parametrize("limit", range(3, 14))
def test_few_descriptors_for_python(standby: Standby, limit: int) -> None:
    """Once it runs; what it cannot load is named, and stops the server."""
    content = standby.put(NAME, segments.full(NAME, size=SIZE))
    program = injected.program(
        standby.folder,
        f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
        """,
    )
    result = run(*standby.command(NAME, "-s", "1", "-r", "0"), cwd=standby.data.path, program=program)
    if result.status == exits.DELIVERED:
        assert standby.delivered() == content
    else:
        assert result.status >= 200, result
        assert "Too many open files" in result.stderr or "pystandby cannot be started" in result.stderr
        assert limit < 8


def test_descriptors_that_run_out_while_it_waits(standby: Standby) -> None:
    """EMFILE says nothing of the archive: tried again, and found when there are some again."""
    content = standby.put(NAME, segments.full(NAME, size=SIZE))
    program = injected.program(
        standby.folder,
        f"""
        os.open = failing(os.open, {str(standby.archive)!r}, errno.EMFILE,
                          lambda: not _exists({str(standby.folder / "repaired")!r}))
        """,
    )
    with start(*standby.command(NAME, "-s", "1"), cwd=standby.data.path, program=program) as waiting:
        waiting.until_says("Too many open files")
        assert "archive" not in waiting.stderr.partition("Too many open files")[0].rpartition("could not open")[0]
        (standby.folder / "repaired").touch()
        assert waiting.result().status == exits.DELIVERED
    assert standby.delivered() == content


@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def test_little_memory(standby: Standby, present: bool) -> None:
    """From hardly enough to start Python, and too little for PostgreSQL, up to enough: recovery never ends of it."""
    content = segments.full(NAME, size=SIZE)
    if present:
        standby.put(NAME, content)
    delivered = 0
    for megabytes in (16, 20, 24, 28, 32, 36, 40, 44, 48, 64, 200) if present else (16, 24, 40, 48, 64, 80, 200):
        words = standby.command(NAME, "-s", "1", "-r", "0", *(() if present else ("-w", "1")))
        result = run(*words, cwd=standby.data.path, program=limited(f"ulimit -v {megabytes * 1024}"))
        if result.status == exits.DELIVERED and present:
            assert standby.delivered() == content
            standby.restored.unlink()
            delivered += 1
        elif result.status == exits.END_OF_RECOVERY and not present and "MAXWAITTIME" in result.stderr:
            delivered += 1
        else:
            assert result.status >= 126 or result.status < 0, (megabytes, result)
            assert standby.delivered() is None
    assert delivered >= 3


def test_no_room_for_a_thread(standby: Standby) -> None:
    """Without threads there is no patience with an archive that hangs, and no watching; all else works."""
    program = injected.program(
        standby.folder,
        """
        import _thread
        def refuse(*arguments, **options):
            raise RuntimeError("can't start new thread")
        _thread.start_new_thread = _thread.start_new = refuse
        """,
    )
    with start(*standby.command(NAME, "-s", "1"), cwd=standby.data.path, program=program) as waiting:
        waiting.until_says("could not watch for what arrives")
        content = standby.put(NAME, segments.full(NAME, size=SIZE))
        result = waiting.result()
    assert result.status == exits.DELIVERED
    assert result.stderr.count("WARNING:") == 1
    assert standby.delivered() == content


@pytest.mark.usefixtures("mounting")
def test_no_inotify_left(standby: Standby) -> None:
    """fs.inotify.max_user_instances used up: looking goes on, and that is said once."""
    said = standby.folder / "said"
    standby.put("new", segments.full(NAME, size=SIZE))
    script = f"""
        echo 0 >/proc/sys/user/max_inotify_instances || exit 90
        "$0" "$@" 2>{said} & command=$!
        while ! grep -q "could not watch" {said}; do kill -0 $command || exit 92; sleep 0.02; done
        mv {standby.archive}/new {standby.archive}/{NAME}
        wait $command
    """
    result = in_namespace(script, standby, *standby.command(NAME, "-s", "1"))
    assert result.status == exits.DELIVERED, (result, said.read_text())
    assert said.read_text().count("WARNING:") == 1
    assert "--poll" in said.read_text()
    assert standby.delivered() == segments.full(NAME, size=SIZE)


@pytest.mark.usefixtures("mounting")
def test_the_spool_does_not_fill_the_disk(standby: Standby) -> None:
    """Look-ahead leaves room for sixteen segments at least, however many it was asked to keep ready."""
    names = [segments.name(number) for number in range(2, 30)]
    for name in names:
        standby.put(name)
    least, most = standby.folder / "least", standby.folder / "most"
    script = f"""
        mount -t tmpfs -o size=24m wal "$PWD/pg_wal" || exit 90
        least=99999999 most=0
        for name in {" ".join(names[:6])}; do
            "$0" --look-ahead 64 {standby.archive} $name pg_wal/RECOVERYXLOG || exit 91
            cmp pg_wal/RECOVERYXLOG {standby.archive}/$name || exit 92
            while [ ! -e pg_wal/.pystandby/0* ]; do sleep 0.01; done 2>/dev/null
            for look in 1 2 3 4 5 6 7 8 9 10; do
                free=$(df -k --output=avail pg_wal | tail -n 1)
                ready=$(ls pg_wal/.pystandby | grep -c "^0")
                [ $free -lt $least ] && least=$free
                [ $ready -gt $most ] && most=$ready
                sleep 0.03
            done
        done
        echo $least >{least}
        echo $most >{most}
    """
    result = in_namespace(script, standby)
    assert result.status == 0, result
    assert int(least.read_text()) >= 15 << 10, "less than sixteen segments, the one restored among them"
    assert 1 <= int(most.read_text()) <= 8


def test_without_room_for_its_own_files_the_segment_is_delivered(standby: Standby) -> None:
    """Whatever keeps the memory and the spool from being written, the segment does without."""
    content = standby.put(NAME, segments.full(NAME, size=SIZE))
    (standby.data.wal / ".pystandby").write_text("no folder: nothing can be kept in it")
    assert standby.ask(NAME, "--look-ahead", "4").status == exits.DELIVERED
    assert standby.delivered() == content
