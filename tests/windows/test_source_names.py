"""Names and messages in a Windows Python: paths that Windows has and others have not, and what the server's log gets to see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import segments
from support.command import PROGRAM, Standby, environment, run

from pystandby import argv, osdep, server, trigger
from pystandby.asker import SERVER, Asker
from windows.fake_server import FakeServer

NAME = segments.name(5)
USAGE = 200
AT_ONCE = ("--stable", "0", "--look-ahead", "0")


@pytest.mark.parametrize("folder", ["with blanks", "ampersand & more", "per%cent", "(brackets)", "Umläute äöüß", "日本語 łódź"])
def test_folders(tmp_path: Path, folder: str) -> None:
    standby = Standby(tmp_path / folder)
    content = standby.put(NAME)
    # Not through cmd.exe, whose own rules are contrib/windows' matter.
    result = run(*standby.command(NAME, *AT_ONCE, to="pg_wal\\RECOVERYXLOG"), cwd=standby.data.path)
    assert result == (0, "", "")
    assert standby.delivered() == content


@pytest.mark.parametrize("form", ["{0}", "{0}\\", "\\\\?\\{0}", "/"])
def test_ways_to_name_an_archive(standby: Standby, form: str) -> None:
    content = standby.put(NAME)
    path = standby.archive.as_posix() if form == "/" else form.format(standby.archive)
    with FakeServer(standby) as server:
        assert server.start(*AT_ONCE, path, NAME, "pg_wal\\RECOVERYXLOG").result() == (0, "", "")
    assert standby.delivered() == content


def test_a_share(standby: Standby) -> None:
    drive, rest = os.path.splitdrive(standby.archive)
    share = f"\\\\localhost\\{drive[0].lower()}${rest}"
    if not os.path.isdir(share):
        pytest.skip("this system has no administrator's share")
    content = standby.put(NAME)
    with FakeServer(standby) as server:
        assert server.start(*AT_ONCE, share, NAME, "pg_wal\\RECOVERYXLOG").result().status == 0
    assert standby.delivered() == content


def test_a_share_that_cannot_be_reached_is_waited_for(standby: Standby) -> None:
    with FakeServer(standby) as server:
        share = "\\\\no-such-server.invalid\\archive"
        call = server.start("-s", "1", "-t", standby.trigger, share, NAME, "pg_wal\\RECOVERYXLOG")
        call.until_says('WARNING:  archive "\\\\no-such-server.invalid\\archive" cannot be read')
        assert not call.has_ended
        standby.pull_trigger("fast")
        assert call.result().status == 1


@pytest.mark.parametrize("destination", ["pg_wal\\RECOVERYXLOG", "pg_wal/RECOVERYXLOG", "C:\\data\\pg_wal\\RECOVERYXLOG"])
def test_a_servers_destination(destination: str) -> None:
    assert Asker(NAME, destination).kind == SERVER
    assert argv.is_restore(["archive", NAME, destination])


@pytest.mark.parametrize("name", ["nul", "NUL", "pg_wal\\nul", "nul.txt", "CON", "com1", "LPT9.x"])
def test_a_device_as_destination(standby: Standby, name: str) -> None:
    standby.put(NAME)
    result = run(*standby.command(NAME, *AT_ONCE, to=name), cwd=standby.data.path)
    assert result.status == USAGE
    assert f"ERROR:  destination {name} is the name of a device" in result.stderr


@pytest.mark.parametrize("name", ["null", "com", "COM10", "console", "RECOVERYXLOG", "C:\\con\\arch"])
def test_what_only_looks_like_a_device(name: str) -> None:
    assert osdep.path_problem(name) == ""


def test_a_device_as_archive(standby: Standby) -> None:
    result = run("nul", NAME, "pg_wal\\RECOVERYXLOG", cwd=standby.data.path)
    assert result.status == USAGE
    assert "ERROR:  archive nul is the name of a device" in result.stderr


def test_a_device_as_trigger_file(standby: Standby) -> None:
    found = trigger.look("nul", trusted=False)
    assert (found.word, found.problem) == (None, "is not a plain file")


def test_a_backslash_before_a_quotation_mark(standby: Standby) -> None:
    # restore_command = 'pystandby "C:\archive\" %f "%p"': Windows takes \" for a quotation mark in the name.
    command = f'"{sys.executable}" -m pystandby "{standby.archive}\\" {NAME} "pg_wal\\RECOVERYXLOG"'
    done = subprocess.run(command, check=False, cwd=standby.data.path, env=environment(), capture_output=True, text=True)
    assert done.returncode == USAGE


def test_a_quotation_mark_in_a_path(standby: Standby) -> None:
    result = run(f'{standby.archive}"', NAME, "pg_wal\\RECOVERYXLOG", cwd=standby.data.path)
    assert result.status == USAGE
    assert "has a quotation mark in it" in result.stderr


def test_pystandby_in_a_command_line_of_cmd_exe() -> None:
    program = "C:\\Program Files (x86)\\x\\pystandby.exe"
    command = f'move "pg_wal\\.pystandby\\%f" "%p" >nul 2>&1 || "{program}" -t C:\\t "\\\\s\\a b" %f "%p"'
    words = [program, "-t", "C:\\t", "\\\\s\\a b", "%f", "%p"]
    assert server.pystandby_in(f"{command} 2>>log") == words
    assert server.pystandby_in('"C:\\Python\\python.exe" -m pystandby "C:\\a" %f "%p"') == ["pystandby", "C:\\a", "%f", "%p"]
    assert server.pystandby_in('copy "C:\\a\\%f" "%p"') == []
    assert server.words_of('"-D" "C:\\Program Files\\data"') == ["-D", "C:\\Program Files\\data"]


# What the log gets


def test_messages_are_in_the_systems_code_page(tmp_path: Path) -> None:
    import codecs

    if sys.platform != "win32":
        raise NotImplementedError
    standby = Standby(tmp_path / "é 日")
    command = [*PROGRAM, *map(str, standby.command(NAME, "-d", "--wait", "never", to="pg_wal\\RECOVERYXLOG"))]
    done = subprocess.run(command, check=False, cwd=standby.data.path, env=environment(), capture_output=True)
    assert done.returncode == 1
    # As the server's own, which are not UTF-8; what the code page lacks can be read all the same.
    assert codecs.mbcs_encode(f'archive "{standby.archive}"', "backslashreplace")[0] in done.stderr
    assert f'destination "pg_wal{os.sep}RECOVERYXLOG"'.encode() in done.stderr


def test_lines_bear_an_offset_and_no_long_name_of_a_zone(standby: Standby) -> None:
    command = standby.command(NAME, "-d", "--wait", "never", to="pg_wal\\RECOVERYXLOG")
    for zone, offset in (("UTC0", "+00"), ("XST-5:30", "+05:30"), ("YST4", "-04")):
        result = run(*command, cwd=standby.data.path, env=environment(TZ=zone))
        assert f" {offset} [" in result.stderr.splitlines()[0]


# Files that others hold


def test_a_locked_file_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = osdep.open_file(str(path), os.O_RDWR | os.O_CREAT)
    other = osdep.open_file(str(path), os.O_RDWR)
    try:
        os.write(descriptor, b"123\n")
        assert osdep.lock(descriptor)
        assert not osdep.lock(other)
        assert osdep.read_small(str(path), 16) == b"123\n"
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 4
    finally:
        os.close(descriptor)
    try:
        assert osdep.lock(other)
    finally:
        os.close(other)


def test_an_appended_line_goes_behind_what_others_appended(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    one = osdep.open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    other = osdep.open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        for descriptor, line in ((one, b"a\n"), (other, b"b\n"), (one, b"c\n")):
            os.write(descriptor, line)
    finally:
        os.close(one)
        os.close(other)
    assert Path(path).read_bytes() == b"a\nb\nc\n"


def test_processes() -> None:
    own = osdep.started(os.getpid())
    assert own
    assert osdep.started(os.getpid()) == own
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert osdep.started(child.pid) not in (None, "", own)
        child.communicate(b"\n")
        # Its handle is open still, which keeps its number from others.
        assert osdep.started(child.pid) is None
    assert osdep.startup_process(os.getpid()) is None
    assert osdep.startup_process(None) is None
    assert osdep.startup_process(os.getppid()) == os.getpid()
    assert osdep.own_user() == os.stat(__file__).st_uid
