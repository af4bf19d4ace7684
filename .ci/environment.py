"""Make or update the virtual environment that make's targets use, and print its path, alone, on stdout.

    environment.py run|demo|bench|test|test-windows|lint    with what that target needs
    environment.py clean                 remove it, and what was built

Standard library only, because it runs before anything is installed. The environment gets the built wheel, not the
checkout: what is tested and shown is what users will install. It is `.venv` in the clone. When we are root it must be
of use to the ordinary user as whom PostgreSQL, and so the tests, run: then, if others may not enter the clone, it lies
in a folder of its own in the temporary folder, and a Python that others may not enter, such as pyenv's in root's home,
is not taken.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

CLONE = Path(__file__).resolve().parent.parent

IN_WHEEL = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "pystandby", "contrib/linux", "docs")
IN_WINDOWS_WHEEL = (*IN_WHEEL, "contrib/windows")
IN_SDIST = (*IN_WHEEL, "CHANGELOG.md", "Makefile", "tests", "bench", "contrib", ".ci")

WANTED = {
    # target: extras of the wheel, dependency groups of pyproject.toml
    "run": ((), ()),
    "demo": (("demo",), ()),
    "bench": (("demo", "compression"), ("test",)),  # the tests' support sets up Pgpool-II
    "test": (("demo",), ("test",)),
    "test-windows": (("demo",), ("test",)),
    "lint": ((), ("test", "lint")),  # mypy needs the types of what the tests import
}

BUILD_REQUIREMENTS = ("hatchling>=1.26", "markdown-it-py>=3")
WINDOWS_BUILD_REQUIREMENTS = ("ziglang>=0.13",)  # as hatch_build.py says


def main() -> int:
    """Do what the command line asks; return the exit status."""
    target = sys.argv[1] if len(sys.argv) > 1 else "run"
    os.umask(0o022)  # others must be able to read what root installs
    for variable in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"):
        # Without bytecode each start of the installed program would compile it again, and could not even save the
        # result.
        os.environ.pop(variable, None)
    if target == "clean":
        clean()
        return 0
    if target not in WANTED:
        fail(f'"{target}" is none of {", ".join(WANTED)}, clean')
    home = find_home()
    lock_file = home / ".work" / "lock"
    lock_file.parent.mkdir(exist_ok=True)
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once would install over each other
        environment = Environment(home)
        environment.build_and_install(with_sdist=target.startswith("test"))
        if target == "test-windows":
            environment.build_for_windows()
        environment.install_requirements(target)
    print(environment.folder)
    return 0


def say(text: str) -> None:
    """Tell the person who waits what takes so long."""
    print(f"LOG:  {text}", file=sys.stderr, flush=True)


def fail(message: str, detail: str = "", hint: str = "") -> NoReturn:
    """End with status 1 and an error in PostgreSQL's form."""
    print(f"ERROR:  {message}", file=sys.stderr)
    if detail:
        print(f"DETAIL:  {detail}", file=sys.stderr)
    if hint:
        print(f"HINT:  {hint}", file=sys.stderr)
    sys.exit(1)


def run(command: Sequence[str | Path], cwd: Path = CLONE) -> None:
    """Run a command whose output, all of it on stderr, matters only to a person."""
    if subprocess.run(command, check=False, cwd=cwd, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
        fail(f"failed: {' '.join(map(str, command))}")


# --- where -----------------------------------------------------------------------------------------------------------


def others_may_enter(folder: Path) -> bool:
    """Tell whether every user can get to what lies in `folder`."""
    return all(place.stat().st_mode & stat.S_IXOTH for place in (folder, *folder.parents))


def find_home() -> Path:
    """Return the folder that holds .venv and dist: the clone, or one outside it."""
    if os.access(CLONE, os.W_OK) and (os.geteuid() != 0 or others_may_enter(CLONE)):
        return CLONE
    return outside_home(make=True)


def outside_home(make: bool) -> Path:
    """Return the folder outside the clone, always the same for this clone and this user."""
    base = Path(os.environ.get("TMPDIR") or "/var/tmp").resolve()
    if not base.is_dir() or (os.geteuid() == 0 and not others_may_enter(base)):
        base = Path("/var/tmp")
    name = hashlib.sha256(os.fsencode(CLONE)).hexdigest()[:12]
    home = base / f"pystandby-{os.geteuid()}-{name}"
    if make:
        home.mkdir(mode=0o755, exist_ok=True)
        # The name can be foreseen, and the folder above is everybody's: we would run what others have put there.
        found = home.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            fail(f'"{home}" is not a folder that only we may write to', hint="Remove it.")
    return home


def clean() -> None:
    """Remove environments, what was built, and caches."""
    for home in (CLONE, outside_home(make=False)):
        if home.is_symlink() or not home.is_dir() or home.stat().st_uid != os.geteuid():
            continue
        for name in (".venv", ".work", "dist", "build", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"):
            shutil.rmtree(home / name, ignore_errors=True)
        if home != CLONE:
            home.rmdir()
    for folder in ("pystandby", "tests", "bench", ".ci"):
        for cache in (CLONE / folder).rglob("__pycache__"):
            shutil.rmtree(cache, ignore_errors=True)


# --- with which Python -----------------------------------------------------------------------------------------------


class Python(NamedTuple):
    """What an interpreter says of itself."""

    executable: str
    version: tuple[int, int]
    has_venv: bool
    has_ensurepip: bool
    pip: str

    @classmethod
    def ask(cls, command: str) -> Python | None:
        """Return what the interpreter of this name says of itself, or None if there is none."""
        question = """if True:
            import importlib.util, json, os, sys
            try:
                import pip
                version = pip.__version__
            except ImportError:
                version = ""
            has = [importlib.util.find_spec(name) is not None for name in ("venv", "ensurepip")]
            base = getattr(sys, "_base_executable", None) or sys.executable
            print(json.dumps([os.path.realpath(base), sys.version_info[:2], *has, version]))
        """
        try:
            answer = subprocess.run(
                [command, "-I", "-c", question], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
            executable, version, has_venv, has_ensurepip, pip = json.loads(answer.stdout)
        except (OSError, ValueError):
            return None
        return cls(executable, (version[0], version[1]), has_venv, has_ensurepip, pip)

    def unfit(self) -> str:
        """Say why it cannot be the environment's Python; nothing if it can."""
        if self.version < (3, 10):
            return "older than 3.10"
        if not self.has_venv:
            return "has no venv"
        if os.geteuid() == 0:
            # Tried, not computed: its folders may be open to all, and a shared library of it in root's home.
            try:
                entry = pwd.getpwnam("nobody")
                who: dict[str, Any] = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
                command = [self.executable, "-I", "-c", "import json, subprocess"]
                answer = subprocess.run(command, check=False, cwd="/", capture_output=True, text=True, **who)
            except (KeyError, OSError) as error:
                return f"others than root cannot run it: {error}"
            if answer.returncode:
                return f"others than root cannot run it: {answer.stderr.strip()}"
        return ""

    def can_install_for_others(self) -> bool:
        """Tell whether its pip knows --python: from 22.3 on."""
        numbers = [int(part) for part in re.findall(r"\d+", self.pip)[:2]]
        return numbers >= [22, 3]


def pythons() -> Iterator[tuple[str, Python]]:
    """Return the interpreters to choose from, best first; only $PYTHON, if it is set."""
    wanted = os.environ.get("PYTHON")
    newest_first = [f"python3.{minor}" for minor in range(14, 9, -1)]
    commands = [wanted] if wanted else ["python3", "/usr/bin/python3", *newest_first, sys.executable]
    for command in commands:
        found = Python.ask(command)
        if found:
            yield command, found


def choose_python() -> tuple[Python, Python | None]:
    """Return the environment's Python, and another one whose pip has to serve it if it has none of its own."""
    reasons = []
    without_pip = None
    for command, python in pythons():
        reason = python.unfit()
        if not reason and python.has_ensurepip:
            return python, None
        if not reason:
            # Debian splits ensurepip off into python3-venv.
            without_pip = without_pip or python
            reason = "has no ensurepip"
        reasons.append(f"{command} ({python.executable}): {reason}")
    if without_pip:
        for _, python in pythons():
            if python.can_install_for_others():
                return without_pip, python
    fail(
        "there is no Python to make a virtual environment with",
        "; ".join(reasons) or f"{os.environ.get('PYTHON')} does not run.",
        "Install Python 3.10 or later with venv (on Debian: python3-venv)"
        + (" where others than root can reach it." if os.geteuid() == 0 else "."),
    )


# --- what is in it ---------------------------------------------------------------------------------------------------


class Environment:
    """The virtual environment, and a stamp in it that says what it was made from."""

    def __init__(self, home: Path) -> None:
        self.folder = home / ".venv"
        self.dist = home / "dist"
        self.python = self.folder / "bin" / "python"
        self._stamp_file = self.folder / "pystandby-stamp.json"
        self._stamp: dict[str, Any] = {}
        try:
            self._stamp = json.loads(self._stamp_file.read_text())
        except (OSError, ValueError):
            pass
        if not self._works():
            self._make()
        self._pip = self._stamp["pip"]

    def _works(self) -> bool:
        # A stamp of another Python, or of another place: the clone was moved, or $PYTHON was named.
        if not self._stamp or self._stamp.get("folder") != str(self.folder):
            return False
        wanted = os.environ.get("PYTHON")
        if wanted:
            named = Python.ask(wanted)
            if named and named.executable != self._stamp.get("base"):
                return False
        return Python.ask(str(self.python)) is not None

    def _make(self) -> None:
        base, helper = choose_python()
        say(f"making {self.folder} with {base.executable}")
        shutil.rmtree(self.folder, ignore_errors=True)
        run([base.executable, "-I", "-m", "venv", *(["--without-pip"] if helper else []), self.folder])
        pip = [helper.executable, "-I", "-m", "pip", "--python", str(self.python)] if helper else []
        self._stamp = {"folder": str(self.folder), "base": base.executable, "requirements": {}}
        self._stamp["pip"] = pip or [str(self.python), "-I", "-m", "pip"]

    def _save(self) -> None:
        self._stamp_file.write_text(json.dumps(self._stamp, indent=1))

    def _install(self, *arguments: str | Path) -> None:
        run([*self._pip, "--disable-pip-version-check", "install", "--quiet", *arguments])

    def build_and_install(self, with_sdist: bool) -> None:
        """Build the source distribution and, from that, the wheel; install it. Nothing, if nothing changed."""
        wheel_state, sdist_state = digest(IN_WHEEL), digest(IN_SDIST)
        installed = self._stamp.get("wheel") == wheel_state
        built = self._stamp.get("sdist") == sdist_state and len(self._built()) == 2
        if installed and (built or not with_sdist):
            return
        if self._stamp.get("build") != [*BUILD_REQUIREMENTS]:
            self._install(*BUILD_REQUIREMENTS)
            self._stamp["build"] = [*BUILD_REQUIREMENTS]
            self._save()
        say("building the source distribution, and the wheel from it")
        wheel = self._build()
        if not installed:
            self._install("--force-reinstall", "--no-deps", wheel)
            self._install(wheel)
        self._stamp.update(wheel=wheel_state, sdist=sdist_state)
        self._save()

    def build_for_windows(self) -> None:
        """Build the wheel for Windows, into a folder of its own in dist; nothing, if nothing changed."""
        state, target = digest(IN_WINDOWS_WHEEL), self.dist / "windows"
        if self._stamp.get("windows") == state and list(target.glob("*.whl")):
            return
        self._install(*WINDOWS_BUILD_REQUIREMENTS)
        say("building the wheel for Windows")
        shutil.rmtree(target, ignore_errors=True)
        # zig compiles C's libraries of Windows when it is run for the first time.
        os.environ["ZIG_GLOBAL_CACHE_DIR"] = str(self.folder / "zig")
        os.environ["PYSTANDBY_WHEEL"] = "win_amd64"
        (sdist,) = self.dist.glob("pystandby-*.tar.gz")
        self._build_wheel(sdist, target)
        del os.environ["PYSTANDBY_WHEEL"]
        self._stamp["windows"] = state
        self._save()

    def _built(self) -> list[Path]:
        return list(self.dist.glob("pystandby-*"))

    def _build(self) -> Path:
        self.dist.mkdir(exist_ok=True)
        for old in self._built():
            old.unlink()
        run([*self._hatchling, "-d", self.dist, "-t", "sdist"])
        (sdist,) = self.dist.glob("pystandby-*.tar.gz")
        self._build_wheel(sdist, self.dist)
        (wheel,) = self.dist.glob("pystandby-*.whl")
        return wheel

    @property
    def _hatchling(self) -> list[str | Path]:
        return [self.python, "-I", "-m", "hatchling", "build"]

    def _build_wheel(self, sdist: Path, target: Path) -> None:
        # From the source distribution, not from the clone: so a file that it lacks is missed here, not by its users.
        with tempfile.TemporaryDirectory() as unpacked:
            with tarfile.open(sdist) as archive:
                # Our own, a moment old; the filter only keeps Python 3.12 from warning, and 3.11.2 does not know it.
                if hasattr(tarfile, "data_filter"):
                    archive.extractall(unpacked, filter="data")
                else:
                    archive.extractall(unpacked)
            run([*self._hatchling, "-d", target, "-t", "wheel"], cwd=Path(unpacked) / sdist.name.removesuffix(".tar.gz"))

    def install_requirements(self, target: str) -> None:
        """Install what `target` needs besides the wheel's own dependencies."""
        extras, groups = WANTED[target]
        # Nearly every call ends here: pyproject.toml is not even parsed.
        state = digest(("pyproject.toml",))
        if self._stamp["requirements"].get(target) == state:
            return
        project = read_pyproject(self.python)
        requirements = [line for extra in extras for line in project["project"]["optional-dependencies"][extra]]
        for group in groups:
            requirements += expand_group(project["dependency-groups"], group)
        requirements = list(dict.fromkeys(requirements))
        if requirements:
            say(f"installing {', '.join(requirements)}")
            self._install(*requirements)
        self._stamp["requirements"][target] = state
        self._save()


def read_pyproject(python: str | Path) -> dict[str, Any]:
    """Return what pyproject.toml says, read by the environment's Python."""
    # Ours may be 3.10, without tomllib; there, hatchling has brought tomli along.
    program = """if True:
        import json, sys
        try:
            import tomllib
        except ImportError:
            import tomli as tomllib
        with open(sys.argv[1], "rb") as file:
            print(json.dumps(tomllib.load(file)))
    """
    command: list[str | Path] = [python, "-I", "-c", program, CLONE / "pyproject.toml"]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return answer


def expand_group(groups: dict[str, list[Any]], name: str) -> list[str]:
    """Return the requirements of a dependency group (PEP 735), with those of the groups that it includes."""
    result: list[str] = []
    for item in groups[name]:
        result += expand_group(groups, item["include-group"]) if isinstance(item, dict) else [item]
    return result


def digest(names: Sequence[str]) -> str:
    """Return a hash of these files, and of all files in these folders: names, modes and contents."""
    result = hashlib.sha256()
    for name in names:
        top = CLONE / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                result.update(f"{path.relative_to(CLONE)} {path.stat().st_mode & 0o111}\n".encode())
                result.update(hashlib.sha256(path.read_bytes()).digest())
    return result.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
