"""pystandby.exe, as pip installs it, and python -m pystandby: what starts them, and what their statuses are when nothing can."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, RECOVERYXLOG, Argument, Installation, Result, Standby, environment, run, wait_until

from pystandby import __version__, exits
from pystandby.options import VERBS

NAME = segments.name(5)
MISSING = segments.name(6)

LOW = ("archive", "archive-cleanup", "recovery-end")
"""Verbs of which a status above 125 would end the archiver, or take a server down."""

PLAIN = sorted(set(VERBS) - {*LOW})


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "installation")


def by_shell(command: str, cwd: Path) -> int:
    """The status of a command that a server would see, which runs it as pgwin32_system() in src/port/system.c does."""
    return subprocess.run(f'cmd.exe /c "{command}"', check=False, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL).returncode


def run_in(standby: Standby, installed: Installation, *words: Argument) -> Result:
    # No Python's folder in PATH, from which a damaged one would take its code.
    env = environment(PATH=os.path.join(os.environ["SYSTEMROOT"], "system32"))
    return installed.run(*words, cwd=standby.data.path, env=env)


def restore(installed: Installation, standby: Standby) -> Result:
    return run_in(standby, installed, *standby.command(NAME, "-r", "0", "--look-ahead", "0"))


# --- what it is ---------------------------------------------------------------------------------------------------------


def test_pip_has_installed_it() -> None:
    assert PYSTANDBY.read_bytes()[:2] == b"MZ"
    first = PYSTANDBY.with_name("pystandby-python").read_text(encoding="utf-8").partition("\n")[0]
    assert first == f"#!{sys.executable}"


def test_the_wheel_holds_it_and_nothing_of_another_system() -> None:
    (wheel,) = Path("dist/windows").glob("*.whl")
    assert wheel.name == f"pystandby-{__version__}-py3-none-win_amd64.whl"
    with zipfile.ZipFile(wheel) as archive:
        data = [name.partition(".data/")[2] for name in archive.namelist() if ".data/" in name]
    assert sorted(data) == ["scripts/pystandby-python", "scripts/pystandby.exe"]


def test_it_knows_every_verb() -> None:
    source = Path("contrib/windows/pystandby.c").read_text()
    low, plain = (re.findall(r'L"(.*?)"', line) for line in re.findall(r"_verbs\[\] = \{(.*)\}", source))
    assert low == list(LOW)
    assert sorted(plain) == PLAIN


@pytest.mark.parametrize("program", [[PYSTANDBY], [sys.executable, "-m", "pystandby"]], ids=["exe", "-m"])
def test_statuses_arrive(standby: Standby, program: list[Argument]) -> None:
    def ask(*words: Argument) -> Result:
        return run(*words, cwd=standby.data.path, program=program)

    content = standby.put(NAME)
    assert ask("--version") == (0, f"pystandby {__version__}\n", "")
    assert ask(*standby.command(NAME, "--look-ahead", "0")) == (exits.DELIVERED, "", "")
    assert standby.delivered() == content
    assert ask(*standby.command("00000002.history")) == (exits.NOT_IN_ARCHIVE, "", "")
    assert ask("-s", "99").status == exits.USAGE
    (standby.archive / MISSING).write_bytes(b"x" * (2 << 20))
    assert ask(*standby.command(MISSING)).status == exits.WRONG_SEGMENT
    assert ask("archive", "nowhere", "nothing", "nothing").status == 1
    assert ask("trigger", "smart", "--pgdata", "nowhere").status == 1
    assert ask("verify", "nowhere").status == 2


def test_the_shell_passes_them_on(standby: Standby) -> None:
    standby.put(NAME)

    def ask(name: str, *options: str) -> int:
        words = subprocess.list2cmdline([*options, "--stable", "0", "--look-ahead", "0", str(standby.archive)])
        return by_shell(f'"{PYSTANDBY}" {words} {name} "pg_wal\\RECOVERYXLOG"', standby.data.path)

    assert ask(NAME) == exits.DELIVERED
    assert ask(MISSING, "--wait", "never") == exits.NOT_IN_ARCHIVE
    assert ask(MISSING, "-s", "99") == exits.USAGE


# --- what cannot start --------------------------------------------------------------------------------------------------


def _no_package(installed: Installation) -> None:
    shutil.rmtree(installed.package)


def _empty_package(installed: Installation) -> None:
    shutil.rmtree(installed.package)
    installed.package.mkdir()


def _half_a_package(installed: Installation) -> None:
    (installed.package / "run.py").write_text("from pystandby.exits import of_another_version\n")
    (installed.package / "archiver.py").unlink()
    (installed.package / "cli.py").unlink()


def _no_script(installed: Installation) -> None:
    (installed.bin / "pystandby-python").unlink()


def _no_interpreter(installed: Installation) -> None:
    _with_interpreter(installed, r"C:\Python\python.exe")


def _interpreter_without_its_library(installed: Installation) -> None:
    """It ends with 1 by itself."""
    copy = installed.bin.parent / "bare"
    copy.mkdir()
    for pattern in ("python*.exe", "python3*.dll", "vcruntime*.dll"):
        for file in installed.python.parent.glob(pattern):
            shutil.copy(file, copy)
    _with_interpreter(installed, str(copy / "python.exe"))


def _interpreter_without_its_code(installed: Installation) -> None:
    """Windows does not get as far as to start it."""
    copy = installed.bin.parent / "bare"
    copy.mkdir()
    shutil.copy(installed.python, copy)
    _with_interpreter(installed, str(copy / "python.exe"))


def _no_first_line(installed: Installation) -> None:
    script = installed.bin / "pystandby-python"
    script.write_text(script.read_text(encoding="utf-8").partition("\n")[2], encoding="utf-8")


def _with_interpreter(installed: Installation, path: str) -> None:
    script = installed.bin / "pystandby-python"
    script.write_text(f"#!{path}\n" + script.read_text(encoding="utf-8").partition("\n")[2], encoding="utf-8")


@pytest.mark.faults
@pytest.mark.parametrize(
    "break_it",
    [
        _no_package,
        _empty_package,
        _half_a_package,
        _no_script,
        _no_interpreter,
        _interpreter_without_its_library,
        _interpreter_without_its_code,
        _no_first_line,
    ],
)
def test_what_cannot_start_stops_a_server_and_does_not_promote_it(
    installed: Installation, standby: Standby, break_it: object
) -> None:
    standby.put(NAME)
    assert restore(installed, standby).status == exits.DELIVERED
    standby.restored.unlink()
    assert callable(break_it)
    break_it(installed)
    result = restore(installed, standby)
    # PostgreSQL asks (status & 0xFFFFFF00) first: what Windows itself ends a process with counts as its crash.
    assert not 0 <= result.status <= 125, result
    assert not standby.restored.exists()
    if break_it is not _interpreter_without_its_code:
        assert "ERROR:  " in result.stderr or "Fatal Python error" in result.stderr
    words: list[Argument] = ["archive", NAME, RECOVERYXLOG]
    assert not 0 <= run_in(standby, installed, *words).status <= 125
    (standby.archive / NAME).rename(standby.folder / "to-archive")
    archived = run_in(standby, installed, "archive", standby.archive, standby.folder / "to-archive", NAME)
    assert archived.status == 1, archived
    assert standby.archived() == []


@pytest.mark.faults
def test_without_click_a_restore_goes_on_and_what_needs_it_stops_the_server(installed: Installation, standby: Standby) -> None:
    standby.put(NAME)
    shutil.rmtree(installed.site / "click")
    assert restore(installed, standby).status == exits.DELIVERED
    assert installed.run("-s", "99", cwd=standby.data.path).status == exits.MODULE_MISSING


def test_what_python_finds_in_the_environment_is_not_for_us(standby: Standby) -> None:
    standby.put(NAME)
    env = environment(PYTHONHOME=r"C:\nowhere", PYTHONPATH=r"C:\nowhere", PYTHONVERBOSE="1", PYTHONINSPECT="1")
    result = run(*standby.command(NAME, "--look-ahead", "0"), cwd=standby.data.path, env=env)
    assert result == (exits.DELIVERED, "", "")


def test_nothing_in_the_data_directory_takes_the_place_of_a_module(standby: Standby) -> None:
    standby.put(NAME)
    for name in ("os", "pystandby", "errno", "time"):
        (standby.data.path / f"{name}.py").write_text("raise SystemExit(1)\n")
    assert standby.ask(NAME, "--look-ahead", "0") == (exits.DELIVERED, "", "")


# --- words and paths ----------------------------------------------------------------------------------------------------

WORDS = [
    "a b",
    'a "quoted" word',
    "ends with a backslash\\",
    '\\"',
    "",
    "%PATH% ^ & | < >",
    "Gr\u00fc\u00dfe",
    "\u65e5\u672c",
]


def test_words_arrive_as_they_were_given(installed: Installation, tmp_path: Path) -> None:
    shown = "import sys; sys.stdout.buffer.write(ascii(sys.argv[1:]).encode())\n"
    (installed.bin / "pystandby-python").write_text(f"#!{installed.python}\n{shown}", encoding="utf-8")
    result = installed.run(*WORDS, cwd=tmp_path)
    assert result == (0, ascii(WORDS), "")


@pytest.mark.parametrize("folder", ["Program Files", "Gr\u00fc\u00dfe & mehr", "\u65e5\u672c \u8a9e"])
def test_it_may_be_installed_anywhere(tmp_path: Path, folder: str) -> None:
    installed = Installation(tmp_path / folder)
    standby = Standby(tmp_path / f"{folder} of a server")
    content = standby.put(NAME)
    assert restore(installed, standby) == (exits.DELIVERED, "", "")
    assert standby.delivered() == content
    _no_script(installed)
    result = restore(installed, standby)
    assert result.status == exits.MODULE_MISSING
    # In the ANSI code page, as the server's own messages.
    path = str(installed.bin / "pystandby-python").encode("mbcs", "replace").decode("mbcs")
    assert f'ERROR:  pystandby cannot be started: "{path}" cannot be opened: error 2 of Windows' in result.stderr


def test_an_interpreter_in_a_folder_with_blanks(installed: Installation, standby: Standby) -> None:
    copy = installed.bin.parent / "Program Files" / "Gr\u00fc\u00dfe"
    shutil.copytree(installed.python.parent, copy, ignore=shutil.ignore_patterns("Lib", "Scripts"))
    standby.put(NAME)
    for path in (str(copy / "python.exe"), f'"{copy / "python.exe"}"'):
        _with_interpreter(installed, path)
        assert restore(installed, standby) == (exits.DELIVERED, "", "")


def test_an_installation_that_was_moved_as_a_whole(installed: Installation, standby: Standby) -> None:
    """No installer has written a first line: the interpreter is the one beside it, or in the folder above."""
    standby.put(NAME)
    _with_interpreter(installed, "python")
    assert restore(installed, standby) == (exits.DELIVERED, "", "")
    installed.python.unlink()
    assert restore(installed, standby).status == exits.MODULE_MISSING


# --- its end ------------------------------------------------------------------------------------------------------------


def test_python_ends_with_it(standby: Standby) -> None:
    """However the executable ends: what nobody waits for any more is not to write into a data directory."""
    with standby.begin(NAME, "-d", "-s", "1", "--poll") as waiting:
        waiting.until_says("DEBUG:")
        # Python has the same file open as stderr.
        assert not waiting.output_is_free()
        waiting.process.kill()
        waiting.process.wait()
        wait_until(waiting.output_is_free, "Python has ended")
    assert standby.delivered() is None
