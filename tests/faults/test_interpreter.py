"""What surrounds Python: no environment, odd paths, modules in the wrong places, imports that fail, exceptions anywhere.

Never a status from 1 to 125, and a restore wherever that is possible.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import injected, segments
from support.command import PYSTANDBY, RECOVERYXLOG, Argument, Result, Running, Standby, environment, run, start, wait_until

import pystandby
from pystandby import exits

pytestmark = pytest.mark.faults

NAME = segments.name(5)

PACKAGE = Path(pystandby.__file__).parent

_STANDARD_MODULES = """
    _thread abc bisect codecs collections contextlib ctypes dataclasses encodings enum errno fcntl functools genericpath
    importlib inspect io locale mmap os pathlib posixpath queue re runpy select shutil signal site sitecustomize stat string
    struct subprocess sys tempfile textwrap threading time token traceback types typing usercustomize warnings weakref zlib
"""

STANDARD_MODULES = _STANDARD_MODULES.split()
"""What the program imports, and some that Python imports by itself."""

THIRD_PARTY = ("click", "watchdog")

POISON = "import os\nos.write(2, b'POISONED\\n')\nos._exit(1)\n"
"""A module that must not be loaded: it would end recovery."""

AS_MODULE: list[Argument] = [sys.executable, "-m", "pystandby"]
AS_ISOLATED_MODULE: list[Argument] = [sys.executable, "-I", "-m", "pystandby"]

PROGRAMS: dict[str, list[Argument]] = {
    "pystandby": [PYSTANDBY],
    "pystandby-python": [injected.PYTHON_SCRIPT],
    "python -m": AS_MODULE,
    "python -I -m": AS_ISOLATED_MODULE,
}

each_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())


def never_ends_recovery(result: Result) -> None:
    assert not 1 <= result.status <= 125, result


def poison(folder: Path, *, ours: bool = True) -> None:
    """Fill a folder with modules that have the names of others."""
    names = [*STANDARD_MODULES, *THIRD_PARTY]
    if ours:
        names += ["pystandby", *(path.stem for path in PACKAGE.glob("*.py"))]
    for name in dict.fromkeys(names):
        (folder / f"{name}.py").write_text(POISON)
    for name in ("pystandby", "encodings", "click", "watchdog"):
        if name != "pystandby" or ours:
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(POISON)


def restores(standby: Standby, program: list[Argument], env: dict[str, str] | None = None) -> None:
    content = standby.put(NAME)
    result = run(*standby.command(NAME), cwd=standby.data.path, program=program, env=env)
    assert result == Result(exits.DELIVERED, "", "")
    assert standby.delivered() == content


def restores_and_waits(standby: Standby, program: list[Argument], env: dict[str, str] | None = None) -> None:
    """The whole way: a restore at once, one that is waited for, and click's help."""
    restores(standby, program, env)
    later = segments.name(6)
    with start(*standby.command(later, "-s", "60"), cwd=standby.data.path, program=program, env=env) as waiting:
        waiting.until_watching()
        content = standby.put(later)
        assert waiting.result() == Result(exits.DELIVERED, "", "")
    assert standby.delivered() == content
    (standby.archive / later).unlink()
    assert run("--help", cwd=standby.data.path, program=program, env=env).status == 0
    assert run("--no-such", cwd=standby.data.path, program=program, env=env).status == exits.USAGE


# --- the environment ----------------------------------------------------------------------------------------------------


@each_program
def test_no_environment(standby: Standby, program: list[Argument]) -> None:
    """env -i: not even PATH or a locale."""
    restores_and_waits(standby, ["/usr/bin/env", "-i", *program])


@pytest.mark.parametrize(
    "changes",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "xx_YY.NOSUCH"},
        {"LC_ALL": "tr_TR.UTF-8"},
        {"LANG": ""},
        {"TZ": ":/no/such/zone"},
        {"TZ": "XXX25YYY"},
        {"HOME": "/nonexistent"},
        {"HOME": ""},
        {"PATH": ""},
        {"TMPDIR": "/nonexistent"},
        {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
        {"PYTHONPATH": "/nonexistent:/dev/null::.:/proc/self/mem"},
        {"PYTHONPATH": "\udcff\udcfe"},
        {"PYTHONSTARTUP": "/nonexistent", "PYTHONUSERBASE": "/nonexistent", "PYTHONCASEOK": "1"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONDEVMODE": "1"},
        {"PYTHONOPTIMIZE": "2"},
        {"PYTHONINSPECT": "1"},
        {"PYTHONNODEBUGRANGES": "1", "PYTHONPYCACHEPREFIX": "/proc/nonexistent"},
        {"PYTHONTRACEMALLOC": "3", "PYTHONFAULTHANDLER": "1"},
    ],
    ids=lambda changes: " ".join(f"{name}={value}" for name, value in changes.items()).encode("ascii", "replace").decode(),
)
def test_odd_environments(standby: Standby, changes: dict[str, str]) -> None:
    env = environment(**changes)
    if "LC_ALL" in changes or "PYTHONPATH" in changes:
        restores_and_waits(standby, [PYSTANDBY], env)
    else:
        restores(standby, [PYSTANDBY], env)


STOPPING_PYTHON = {
    "PYTHONHOME": "/nonexistent",
    "PYTHONPLATLIBDIR": "odd",
    "PYTHONHASHSEED": "x",
    "PYTHONUTF8": "x",
    "PYTHONMALLOC": "bogus",
    "PYTHONTRACEMALLOC": "x",
    "PYTHONIOENCODING": "bogus",
    "PYTHONINTMAXSTRDIGITS": "x",
}
"""With these Python does not start, and ends in 1."""


@pytest.mark.parametrize("variable", STOPPING_PYTHON)
def test_variables_with_which_python_does_not_start(standby: Standby, variable: str) -> None:
    """Of the server's environment, where they may be meant for PL/Python: not for us."""
    env = environment(**{variable: STOPPING_PYTHON[variable]})
    restores(standby, [PYSTANDBY], env)
    # Else this would prove nothing.
    if variable == "PYTHONHOME":
        assert run("-c", "pass", program=[sys.executable], env=env).status == 1


def test_an_executable_named_in_the_environment(standby: Standby) -> None:
    content = standby.put(NAME)
    for variable in ("PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__"):
        result = run(*standby.command(NAME), cwd=standby.data.path, env=environment(**{variable: "/nonexistent"}))
        never_ends_recovery(result)
        if result.status == exits.DELIVERED:
            assert standby.delivered() == content


# --- modules in the wrong places ----------------------------------------------------------------------------------------


@each_program
def test_modules_in_the_data_directory(standby: Standby, program: list[Argument]) -> None:
    """The current directory: whoever can write a file there must not decide what we run, nor an extension's leftovers."""
    poison(standby.data.path)
    if program is AS_MODULE:
        # runpy itself is found before we can take the folder away: only the names of what comes later can be kept out.
        for name in ("runpy", "pkgutil", "importlib", *STANDARD_MODULES):
            (standby.data.path / f"{name}.py").unlink(missing_ok=True)
            shutil.rmtree(standby.data.path / name, ignore_errors=True)
        (standby.data.path / "pystandby.py").unlink()
        shutil.rmtree(standby.data.path / "pystandby")
    restores_and_waits(standby, program)


def test_python_m_prefers_the_current_directory_s_package(standby: Standby) -> None:
    """What "python -m" does before we come to be: documented, and the reason to use the executable, or -I."""
    poison(standby.data.path)
    assert run(*standby.command(NAME), cwd=standby.data.path, program=AS_MODULE).stderr == "POISONED\n"


def test_modules_in_pythonpath(standby: Standby, tmp_path: Path) -> None:
    folder = tmp_path / "poisoned"
    folder.mkdir()
    poison(folder)
    restores_and_waits(standby, [PYSTANDBY], environment(PYTHONPATH=f"{folder}:/nonexistent"))
    restores_and_waits(standby, AS_ISOLATED_MODULE, environment(PYTHONPATH=str(folder)))


def test_modules_in_the_user_s_own_folder(standby: Standby, tmp_path: Path) -> None:
    """~/.local/lib/pythonX.Y/site-packages of the server's user, which a virtual environment does not look at."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = tmp_path / "home" / ".local" / "lib" / version / "site-packages"
    folder.mkdir(parents=True)
    poison(folder)
    restores_and_waits(standby, [PYSTANDBY], environment(HOME=str(tmp_path / "home")))


# --- paths --------------------------------------------------------------------------------------------------------------

ODD_NAMES = {
    "blanks": b"two  words ",
    "quotes": b'it\'s "quoted"',
    "dollar": b"$HOME ${x} $(exit 1) `exit 1`",
    "shell": b"a;b&c|d>e<f*g?h[i]!j#k~l\\m",
    "line breaks": b"new\nline\r",
    "not UTF-8": b"\xff\xfe\x80",
    "UTF-8": "Ünïcödé €".encode(),
    "percent": b"100%",
    "dash": b"-d",
    "equals": b"--verify=none",
    "control": b"\x01\x1b[31m",
    "long": b"x" * 200,
}


@pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES.keys())
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_odd_paths(tmp_path: Path, odd: bytes, locale: str) -> None:
    """Archive, data directory and trigger file, in a folder of an odd name."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + odd))
    folder.mkdir()
    standby = Standby(folder)
    env = environment(LANG=locale, LC_ALL=locale)
    content = standby.put(NAME)
    words = standby.command(NAME, "-t", standby.trigger, "-d", to=standby.restored)
    result = run(*words, cwd=standby.data.path, env=env)
    assert result.status == exits.DELIVERED, result
    assert standby.delivered() == content
    standby.pull_trigger("fast")
    assert run(*words, cwd=standby.data.path, env=env).status == exits.END_OF_RECOVERY
    assert standby.trigger.read_bytes() == b""


@pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES.keys())
def test_odd_names_as_arguments(tmp_path: Path, odd: bytes) -> None:
    """As relative names, behind -- where they begin with a dash."""
    archive = os.fsdecode(odd)
    (tmp_path / archive).mkdir()
    content = segments.full(NAME)
    segments.put(tmp_path / archive, NAME, content)
    result = run("--verify", "pages", "--", archive, NAME, "delivered", cwd=tmp_path)
    assert result == Result(exits.DELIVERED, "", "")
    assert (tmp_path / "delivered").read_bytes() == content


@pytest.mark.parametrize("link", ["symbolic link", "link to a link", "found in PATH", "relative"])
def test_called_in_other_ways(standby: Standby, tmp_path: Path, link: str) -> None:
    """A symbolic link in /usr/local/bin to a virtual environment's executable, and what else people do."""
    content = standby.put(NAME)
    folder = tmp_path / "it's a bin"
    folder.mkdir()
    program: list[Argument] = [folder / "pystandby"]
    (folder / "first").symlink_to(PYSTANDBY)
    env = environment(PYTHONHOME="/nonexistent")
    if link == "symbolic link":
        (folder / "pystandby").symlink_to(PYSTANDBY)
    elif link == "link to a link":
        (folder / "pystandby").symlink_to("first")
    elif link == "found in PATH":
        (folder / "pystandby").symlink_to(PYSTANDBY)
        program = ["pystandby"]
        env["PATH"] = f"{folder}:/usr/bin:/bin"
    else:
        program = [os.path.relpath(PYSTANDBY, standby.data.path)]
    assert run(*standby.command(NAME), cwd=standby.data.path, program=program, env=env) == Result(0, "", "")
    assert standby.delivered() == content


# --- a damaged installation ---------------------------------------------------------------------------------------------


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A copy of the virtual environment's programs and packages, to be damaged: the folder with bin and the packages."""
    copy = tmp_path / "damaged"
    lib = packages(copy)
    shutil.copytree(PACKAGE, lib / "pystandby", ignore=shutil.ignore_patterns("__pycache__"))
    for name in THIRD_PARTY:
        found = Path(next(iter(sys.modules[name].__path__))) if name in sys.modules else package(name)
        shutil.copytree(found, lib / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "bin").mkdir()
    shutil.copy(PYSTANDBY, copy / "bin" / "pystandby")
    # As the installed one, but by an interpreter that has no packages of its own.
    body = injected.PYTHON_SCRIPT.read_text().partition("\n")[2]
    bare = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (copy / "bin" / "pystandby-python").write_text(f"#!{bare}\n{body}")
    (copy / "bin" / "pystandby-python").chmod(0o755)
    return copy


def packages(installation: Path) -> Path:
    """Where the packages of an installation are."""
    return installation / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def package(name: str) -> Path:
    import importlib.util

    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def modules() -> list[str]:
    return sorted(path.name for path in PACKAGE.glob("*.py"))


def test_the_copy_of_the_installation_works(standby: Standby, installation: Path) -> None:
    """Else the tests below would prove nothing."""
    restores_and_waits(standby, [installation / "bin" / "pystandby"])


@pytest.mark.parametrize(
    ("module", "damage"),
    [
        *((module, damage) for module in modules() for damage in ("missing", "half")),
        *((module, damage) for module in ("say.py", "watch.py", "launch.py") for damage in ("empty", "unreadable", "raising")),
    ],
)
def test_a_damaged_module(standby: Standby, installation: Path, module: str, damage: str) -> None:
    """A half-upgraded installation, whichever module it is: the restore works without it, or the server stops."""
    path = packages(installation) / "pystandby" / module
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_text("")
    elif damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\n(")
    elif damage == "unreadable":
        path.chmod(0)
    else:
        path.write_text("raise SystemExit(1)\n")
    program: list[Argument] = [installation / "bin" / "pystandby"]
    content = standby.put(NAME)
    restored = run(*standby.command(NAME, restart=segments.name(4)), cwd=standby.data.path, program=program)
    never_ends_recovery(restored)
    if restored.status == exits.DELIVERED:
        assert standby.delivered() == content
    else:
        assert standby.delivered() in (None, content)
        assert restored.stderr
    never_ends_recovery(run("..", "../x", "y", cwd=standby.data.path, program=program))
    with start(*standby.command(segments.name(6), "-s", "1", "-d"), cwd=standby.data.path, program=program) as waiting:
        wait_until(lambda: waiting.has_ended or bool(waiting.stderr), "it says something, or has ended")
        content = standby.put(segments.name(6))
        never_ends_recovery(waiting.result())


@pytest.mark.parametrize("package_name", THIRD_PARTY)
@pytest.mark.parametrize("damage", ["missing", "raising", "exiting"])
def test_a_damaged_dependency(standby: Standby, installation: Path, package_name: str, damage: str) -> None:
    """click and watchdog are not needed for what matters."""
    folder = packages(installation) / package_name
    if damage == "missing":
        shutil.rmtree(folder)
    else:
        (folder / "__init__.py").write_text("raise SystemExit(1)\n" if damage == "exiting" else "raise RuntimeError('broken')\n")
        for path in folder.glob("*/__init__.py"):
            path.write_text((folder / "__init__.py").read_text())
    if package_name == "watchdog":
        # Where it is not needed in the first place nobody would notice.
        (packages(installation) / "pystandby" / "inotify.py").unlink()
    program: list[Argument] = [installation / "bin" / "pystandby"]
    content = standby.put(NAME)
    result = run(*standby.command(NAME), cwd=standby.data.path, program=program)
    assert result == Result(exits.DELIVERED, "", "")
    with start(*standby.command(segments.name(6), "-s", "1"), cwd=standby.data.path, program=program) as waiting:
        if damage == "exiting":
            return
        if package_name == "watchdog":
            waiting.until_says("could not watch for what arrives")
        else:
            waiting.until_watching()
        content = standby.put(segments.name(6))
        assert waiting.result().status == exits.DELIVERED
    assert standby.delivered() == content
    usage = run("--no-such-option", cwd=standby.data.path, program=program)
    assert usage.status >= 200
    assert usage.stderr


def test_a_package_that_is_gone(standby: Standby, installation: Path) -> None:
    shutil.rmtree(packages(installation) / "pystandby")
    result = run(*standby.command(NAME), cwd=standby.data.path, program=[installation / "bin" / "pystandby"])
    assert result.status == exits.MODULE_MISSING
    assert result.stderr.startswith("ERROR:  pystandby cannot be started: ModuleNotFoundError")
    assert "HINT:  Install pystandby again" in result.stderr


@pytest.mark.parametrize("what", ["script", "interpreter", "rights"])
def test_an_executable_that_is_gone(standby: Standby, installation: Path, what: str) -> None:
    """Python replaced under its virtual environment, or half of a package removed: 126 or 127, as the shell says it."""
    script = installation / "bin" / "pystandby-python"
    if what == "script":
        script.unlink()
    elif what == "rights":
        script.chmod(0)
    else:
        script.write_text("#!/nonexistent/bin/python3\n" + script.read_text().partition("\n")[2])
    result = run(*standby.command(NAME), cwd=standby.data.path, program=[installation / "bin" / "pystandby"])
    assert result.status in (126, 127, *range(200, 256)), result


# --- an exception anywhere ----------------------------------------------------------------------------------------------


def calls_into_the_system() -> list[str]:
    """Every function of os, and of time, that our modules call, as found in their source."""
    found = set()
    for path in PACKAGE.glob("*.py"):
        if path.stem in ("cluster", "demo"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="os" | "time" | "fcntl" | "mmap" as module), attr=name)):
                    found.add(f"{module}.{name}")
    return sorted(found - {"os._exit"})


EXCEPTIONS = ("OSError(errno.EIO, 'injected')", "MemoryError()", "SystemExit(1)")


@pytest.mark.parametrize("function", calls_into_the_system())
def test_an_exception_from_any_call(standby: Standby, function: str) -> None:
    """Whatever it raises, whenever: at the first call or from a later one on, in a restore and in one that waits."""
    content = standby.put(NAME)
    for exception in EXCEPTIONS:
        for first in (1, 3):
            program = injected.program(standby.folder, raising(function, exception, first))
            words = standby.command(NAME, "-s", "1", "-r", "0", "-t", standby.trigger, restart=segments.name(4))
            with start(*words, cwd=standby.data.path, program=program) as restore:
                if ends_or_waits(restore):
                    result = restore.result()
                    never_ends_recovery(result)
                    assert result.status != exits.DELIVERED or standby.delivered() == content, (exception, first)
            standby.restored.unlink(missing_ok=True)
    program = injected.program(standby.folder, raising(function, "OSError(errno.EIO, 'injected')", 4))
    with start(*standby.command(segments.name(6), "-s", "1", "-r", "0"), cwd=standby.data.path, program=program) as waiting:
        later = standby.put(segments.name(6))
        if ends_or_waits(waiting):
            never_ends_recovery(waiting.result())
        assert standby.delivered() in (None, later)


def ends_or_waits(running: Running) -> bool:
    """Whether it ends; where what it cannot read keeps it waiting, it has said so."""
    wait_until(lambda: running.has_ended or "Recovery waits for it" in running.stderr, "it has ended, or waits")
    return running.has_ended


def raising(function: str, exception: str, first: int) -> str:
    """Code that has a function raise an exception when our own modules call it, from their ``first`` call on."""
    module, name = function.split(".")
    return f"""
        import {module}, sys
        def replaced(*arguments, real={function}, calls=[], **options):
            if {str(PACKAGE)!r} in sys._getframe(1).f_code.co_filename:
                calls.append(1)
                if len(calls) >= {first}:
                    raise {exception}
            return real(*arguments, **options)
        {module}.{name} = replaced
    """


OUR_FUNCTIONS = (
    "argv.parse", "osdep.use_standard_descriptors", "wal.kind", "run.restore", "asker.Asker.__init__", "fetch.Fetcher.__init__",
    "wait.Waiter.__init__", "memory.Memory.__init__", "memory.Memory.refused", "fetch.Fetcher.fetch", "archive.Archive.look",
    "ready.judge_head", "ready.judge_pages", "place.Copy.__init__", "place.Copy.fill", "place.Copy.publish", "prune.prune",
    "trigger.look", "wait.Waiter.wait", "wait.Waiter.arm", "say.debug", "asker.Asker.alive", "osdep.copy",
)  # fmt: skip


@pytest.mark.parametrize("function", OUR_FUNCTIONS)
def test_a_defect_of_our_own(standby: Standby, function: str) -> None:
    """An exception that nobody foresaw: 201 and where it came from, or a restore that does without."""
    content = standby.put(NAME)
    module, _, name = function.partition(".")
    for exception in ("ZeroDivisionError('a defect')", "SystemExit(0)", "SystemExit(1)"):
        code = f"""
            import pystandby.launch, pystandby.{module}
            def replaced(*arguments, **options):
                raise {exception}
            pystandby.{function} = replaced
        """
        program = injected.program(standby.folder, code)
        words = standby.command(NAME, "-s", "1", "-r", "0", "-d", "-t", standby.trigger, restart=segments.name(4))
        result = run(*words, cwd=standby.data.path, program=program)
        never_ends_recovery(result)
        if result.status == exits.DELIVERED:
            assert standby.delivered() == content, f"{name}: 0, and no file"
        elif "ZeroDivisionError" in exception:
            assert result.status == exits.UNEXPECTED, result
            assert "unexpected ZeroDivisionError: a defect" in result.stderr
            assert "injected.py" in result.stderr
        standby.restored.unlink(missing_ok=True)


def test_an_interrupt_at_any_time(standby: Standby) -> None:
    """SIGINT from a terminal: a person gave up, which is no end of recovery."""
    import signal

    with start(*standby.command(NAME, "-s", "60"), cwd=standby.data.path, as_server=False) as waiting:
        waiting.until_watching()
        waiting.signal(signal.SIGINT)
        assert waiting.result().status == exits.INTERRUPTED
    for _ in range(20):
        process = subprocess.Popen(
            [PYSTANDBY, *standby.command(NAME, "-s", "60")],
            cwd=standby.data.path,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
        assert status == exits.INTERRUPTED or status == -signal.SIGINT or status >= 126


def test_isolated_module_call(standby: Standby) -> None:
    """python -I -m pystandby: for those who call it so."""
    content = standby.put(NAME)
    assert run(standby.archive, NAME, RECOVERYXLOG, cwd=standby.data.path, program=AS_ISOLATED_MODULE) == Result(0, "", "")
    assert standby.delivered() == content
