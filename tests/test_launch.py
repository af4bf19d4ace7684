"""Starting: whatever stands in the environment or the current directory, a restore works, or the server stops."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import segments
from support.command import PYSTANDBY, Installation, Standby, environment, run, start

from pystandby import exits, launch

NAME = segments.name(5)

SHADOWS = ["pystandby", "os", "sys", "errno", "time", "stat", "struct", "mmap", "wal", "run", "say", "argv", "click", "watchdog",
           "signal", "encodings", "codecs", "io", "site", "sitecustomize", "usercustomize", "threading", "queue"]  # fmt: skip
"""Names of modules, ours and the standard library's, that others may use for files of their own."""


def shadow(folder: Path) -> None:
    """Make modules of these names that end the process with 0, which would promote a server."""
    for module in SHADOWS:
        (folder / f"{module}.py").write_text("import os\nos._exit(0)\n")


# Environment ----------------------------------------------------------------------------------------------------------

VARIABLES: list[dict[str, str]] = [
    {"PYTHONHOME": "/nowhere"},
    {"PYTHONHOME": "/usr"},
    {"PYTHONPATH": "{shadows}"},
    {"PYTHONPATH": "{shadows}:/nowhere::"},
    {"PYTHONHASHSEED": "not a number"},
    {"PYTHONSTARTUP": "{shadows}/os.py"},
    {"PYTHONINSPECT": "1"},
    {"PYTHONWARNINGS": "error"},
    {"PYTHONVERBOSE": "1"},
    {"PYTHONIOENCODING": "no-such-encoding"},
    {"PYTHONUTF8": "2"},
    {"PYTHONMALLOC": "no-such-allocator"},
    {"PYTHONOPTIMIZE": "2"},
    {"PYTHONDEVMODE": "1"},
    {"PYTHONTRACEMALLOC": "x"},
    {"PYTHONINTMAXSTRDIGITS": "1"},
    {"PYTHONPLATLIBDIR": "nowhere"},
    {"PYTHONEXECUTABLE": "/nowhere"},
    {"PYTHONCASEOK": "1"},
    {"PYTHONSAFEPATH": "1"},
    {"PYTHONDONTWRITEBYTECODE": "1"},
    {"PYTHONNOUSERSITE": "1"},
    {"PYTHONUSERBASE": "{shadows}"},
    {"LC_ALL": "C", "LANG": "C"},
    {"LC_ALL": "no_such_LOCALE.utf8"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"TZ": "No/Such/Zone"},
    {"TZ": ":/dev/null"},
    {"HOME": "/nowhere"},
    {"HOME": ""},
    {"PATH": ""},
    {"TMPDIR": "/nowhere"},
    {"BASH_ENV": "{shadows}/os.py", "ENV": "{shadows}/os.py"},
    {"VIRTUAL_ENV": "/nowhere", "__PYVENV_LAUNCHER__": "/nowhere"},
    {"CDPATH": "/"},
    {"IFS": "/py"},
    {"PAGER": "x", "ODD": "\udcff\n="},
]


@pytest.mark.parametrize("variables", VARIABLES, ids=[" ".join(variables) for variables in VARIABLES])
def test_whatever_the_environment_holds_a_restore_works(standby: Standby, variables: dict[str, str]) -> None:
    shadows = standby.folder / "shadows"
    shadows.mkdir()
    shadow(shadows)
    content = standby.put(NAME)
    env = environment(**{name: value.replace("{shadows}", str(shadows)) for name, value in variables.items()})
    assert run(*standby.command(NAME), cwd=standby.data.path, env=env) == (0, "", "")
    assert standby.delivered() == content
    # Waiting, and watching; and click, with a usage error.
    name = segments.name(6)
    with start(*standby.command(name, "-s", "60"), cwd=standby.data.path, env=env) as waiting:
        waiting.until_watching()
        content = standby.put(name)
        assert waiting.result(30) == (0, "", "")
    assert standby.delivered() == content
    assert run(*standby.command(NAME, "--no-such-option"), cwd=standby.data.path, env=env).status == exits.USAGE


def test_no_environment(standby: Standby) -> None:
    content = standby.put(NAME)
    assert run(*standby.command(NAME), cwd=standby.data.path, env={}) == (0, "", "")
    assert standby.delivered() == content
    assert run("--help", env={}).status == 0
    assert run(*standby.command(segments.name(6), "-w", "1", "-s", "1"), cwd=standby.data.path, env={}).status == 1


# Current directory ----------------------------------------------------------------------------------------------------


def test_modules_in_the_data_directory(standby: Standby) -> None:
    shadow(standby.data.path)
    content = standby.put(NAME)
    assert standby.ask(NAME) == (0, "", "")
    assert standby.delivered() == content
    assert standby.ask(segments.name(6), "-w", "1", "-s", "1").status == 1
    assert standby.ask(NAME, "--no-such-option").status == exits.USAGE
    standby.restored.unlink()
    module: list[str | Path] = [PYSTANDBY.with_name("python"), "-m", "pystandby"]
    # "-m" finds the package in the current directory first; that is Python's, and why restore_command has the script.
    (standby.data.path / "pystandby.py").unlink()
    for name in SHADOWS:
        if name in sys.stdlib_module_names:
            (standby.data.path / f"{name}.py").unlink(missing_ok=True)
    result = run(*standby.command(NAME), program=module, cwd=standby.data.path)
    assert result == (0, "", "")
    assert standby.delivered() == content


def test_a_current_directory_that_is_gone(standby: Standby) -> None:
    content = standby.put(NAME)
    gone = standby.folder / "gone"
    destination = standby.folder / "copy"
    gone.mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    program: list[str | Path] = ["/bin/sh", "-c", script, "sh", gone, PYSTANDBY]
    # A shell has something to say about it.
    assert run(standby.archive, NAME, destination, program=program).status == 0
    assert destination.read_bytes() == content


# How it is called -----------------------------------------------------------------------------------------------------


def test_through_links(standby: Standby) -> None:
    content = standby.put(NAME)
    one = standby.folder / "usr" / "pystandby"
    other = standby.folder / "other-name"
    one.parent.mkdir()
    one.symlink_to(PYSTANDBY)
    other.symlink_to("usr/pystandby")
    for link in (one, other):
        standby.restored.unlink(missing_ok=True)
        assert run(*standby.command(NAME), program=[link], cwd=standby.data.path) == (0, "", "")
        assert standby.delivered() == content


def test_by_its_name_alone(standby: Standby) -> None:
    content = standby.put(NAME)
    assert run(*standby.command(NAME), program=["pystandby"], cwd=standby.data.path) == (0, "", "")
    assert standby.delivered() == content
    # As restore_command has it, with a link on the PATH.
    links = standby.folder / "links"
    links.mkdir()
    (links / "pystandby").symlink_to(PYSTANDBY)
    env = environment(PATH=f"{links}:/usr/bin:/bin")
    command = f"pystandby {standby.archive} {NAME} pg_wal/RECOVERYXLOG"
    assert run("-c", command, program=["/bin/sh"], cwd=standby.data.path, env=env) == (0, "", "")


def test_by_a_relative_path(standby: Standby) -> None:
    content = standby.put(NAME)
    (standby.data.path / "bin").symlink_to(PYSTANDBY.parent)
    assert run(*standby.command(NAME), program=["bin/pystandby"], cwd=standby.data.path) == (0, "", "")
    assert standby.delivered() == content


def test_in_a_folder_with_blanks(standby: Standby) -> None:
    # No "#!" line can name an interpreter there: pip writes two lines of shell instead.
    content = standby.put(NAME)
    installed = Installation(standby.folder / "my  environment")
    script = installed.bin / "pystandby-python"
    rest = script.read_text().split("\n", 1)[1]
    script.write_text(f"#!/bin/sh\n'''exec' \"{installed.python}\" \"$0\" \"$@\"\n' '''\n{rest}")
    assert installed.run(*standby.command(NAME), cwd=standby.data.path) == (0, "", "")
    assert standby.delivered() == content
    assert installed.run(*standby.command(NAME, "-x"), cwd=standby.data.path).status == exits.USAGE
    # No -E can be given there.
    for variables in VARIABLES:
        env = environment(**{name: value for name, value in variables.items() if "{" not in value})
        result = installed.run(*standby.command(NAME), cwd=standby.data.path, env=env)
        assert result.status == 0 or result.status > 125, (variables, result)


def test_without_write_access_to_the_installation(standby: Standby) -> None:
    # As under a server, whose user owns nothing of it: no byte code can be saved.
    content = standby.put(NAME)
    installed = Installation(standby.folder / "installed")
    shutil.rmtree(installed.package / "__pycache__", ignore_errors=True)
    installed.package.chmod(0o500)
    try:
        assert installed.run(*standby.command(NAME), cwd=standby.data.path) == (0, "", "")
    finally:
        installed.package.chmod(0o700)
    assert standby.delivered() == content


def test_the_process_that_the_server_starts_is_the_one_that_waits(standby: Standby) -> None:
    # No shell stays between the two: the signals of the postmaster would end that and leave us behind.
    with standby.begin(NAME, "-s", "60") as waiting:
        waiting.until_watching()
        waiting.signal(signal.SIGTERM)
        assert waiting.result(30).status == -signal.SIGTERM


@pytest.mark.parametrize("size", [1, 20_000])
def test_arguments_of_any_size(standby: Standby, size: int) -> None:
    content = standby.put(NAME)
    assert standby.ask(NAME, *["-d", "-c"] * (size // 2), "-t", "x" * size).status == 0
    assert standby.delivered() == content


# In-process: the boundary ---------------------------------------------------------------------------------------------


def _main(code: str) -> subprocess.CompletedProcess[str]:
    """Run launch.main() with a restore that does something else."""
    script = f"from pystandby import run, launch\ndef restore(options):\n    {code}\nrun.restore = restore\n"
    script += "import sys\nsys.exit(launch.main(['archive-1', '000000010000000000000005', 'x']))\n"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("status", [0, 1, 200, 210, 255])
def test_main_returns_the_status(status: int) -> None:
    assert _main(f"return {status}").returncode == status


def test_main_says_what_a_foreseen_failure_says() -> None:
    result = _main("from pystandby.exits import StandbyError; raise StandbyError(210, 'the message', 'the detail', 'the hint')")
    assert result.returncode == 210
    assert [line.partition(" pystandby ")[2] for line in result.stderr.splitlines()] == [
        "ERROR:  the message",
        "DETAIL:  the detail",
        "HINT:  the hint",
    ]


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        ("KeyboardInterrupt", exits.INTERRUPTED),
        ("ImportError('x')", exits.MODULE_MISSING),
        ("ModuleNotFoundError('x')", exits.MODULE_MISSING),
        ("SystemExit(0)", exits.UNEXPECTED),
        ("Exception", exits.UNEXPECTED),
    ],
)
def test_main_raises_nothing(raised: str, status: int) -> None:
    result = _main(f"raise {raised}")
    assert result.returncode == status
    assert "Traceback" not in result.stderr


def test_main_goes_on_without_stdout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # As under pythonw, and where stdout was closed before Python started.
    (tmp_path / NAME).write_bytes(segments.full(NAME))
    monkeypatch.setattr(sys, "stdout", None)
    assert launch.main([str(tmp_path), NAME, str(tmp_path / "copy")]) == 0
    assert os.path.getsize(tmp_path / "copy") == segments.MB


@pytest.mark.parametrize("module", ["launch", "exits", "run"])
def test_the_module_of_a_damaged_package(standby: Standby, module: str) -> None:
    """Python's own status for it, 1, would be the end of recovery."""
    standby.put(NAME)
    broken = Installation(standby.folder / "broken")
    (broken.package / f"{module}.py").unlink()
    result = run("-m", "pystandby", *standby.command(NAME), cwd=standby.data.path, program=[broken.python])
    assert result.status == exits.MODULE_MISSING
    assert "ERROR:  " in result.stderr
