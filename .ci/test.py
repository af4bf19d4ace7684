"""Run the tests against the installed wheel: test.py [OPTION] [ARGUMENT OF PYTEST]...

Run by the environment's own Python. The tests are copied to a folder of their own first: there the clone's `pystandby`
cannot get in the way of the installed one, and as root the copy can belong to the ordinary user as whom the tests run.
Tests marked `root` need root; they run in a second pytest, as root, if there are any.

--mark EXPRESSION: only tests with these marks.

--matrix [--check]: only tests of a scenario, on all versions of PostgreSQL; see tests/support/matrix.py. When nothing failed and
nothing was left out, docs/compatibility.md gets the table of this run; with --check the run fails instead if the page has another
one.

--pgpool: only the tests with Pgpool-II, which nothing else runs.

--windows: in a Python for Windows, under Wine: see wine.py.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent

STAGED = (
    "tests",
    "contrib",
    "docs",
    "bench",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "pyproject.toml",
)

NO_TESTS_COLLECTED = 5  # pytest's exit status


def main() -> int:
    """Return the first pytest's status that is not 0."""
    arguments = sys.argv[1:]
    mark = "not pgpool and "
    if arguments[:1] == ["--mark"]:
        mark += f"({arguments[1]}) and "
        arguments = arguments[2:]
    elif arguments[:1] == ["--pgpool"]:
        mark = "pgpool and "
        arguments = arguments[1:]
    matrix = arguments[:1] == ["--matrix"]
    check = matrix and arguments[1:2] == ["--check"]
    if matrix:
        mark = "scenario and "
        arguments = arguments[2 if check else 1 :]
    windows = arguments[:1] == ["--windows"]
    if windows:
        arguments = arguments[1:]
    as_root = os.geteuid() == 0
    user = ordinary_user() if as_root else None
    os.umask(0o022)
    for variable in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "PYTHONUNBUFFERED"):
        os.environ.pop(variable, None)
    # Not activated, but found by a shell: restore_command = 'pystandby ...'.
    bindir = str(Path(sys.executable).parent)
    os.environ["PATH"] = bindir + os.pathsep + os.environ.get("PATH", os.defpath)
    # /tmp rather than TMPDIR: a socket's path may have 107 bytes, and others than root must get there.
    stage = Path(tempfile.mkdtemp(prefix="psbt-", dir="/tmp"))
    try:
        fill(stage)
        if windows:
            import wine

            wine.fill(stage)
        prefix: list[str] = []
        if user:
            subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", stage], check=True)
            as_user = Path(__file__).with_name("as_user.py")
            prefix = [sys.executable, "-I", str(as_user), user.pw_name, str(stage / "home")]
            print(f"LOG:  the tests run as user {user.pw_name}, in {stage}", flush=True)
        workers = str(min(8, max(2, os.cpu_count() or 2)))
        if windows:
            return wine.run(stage, prefix, ["-n", workers, "--dist", "worksteal", *arguments])
        table = stage / "table.md"
        if matrix:
            # They wait more than they work, and there are many.
            workers = str(min(8, 2 * (os.cpu_count() or 2)))
            arguments = [f"--matrix={table}", *arguments]
        ordinary = ["-n", workers, "--dist", "worksteal", "-m", mark + "not root", f"--basetemp={stage}/tmp"]
        status = pytest(stage, prefix, [*ordinary, *arguments])
        if matrix:
            return take_table(table, check) if status == 0 and table.exists() else status
        if not as_root:
            print("WARNING:  the tests marked root were NOT run: they need root", flush=True)
        elif status in (0, NO_TESTS_COLLECTED):
            status = pytest_as_root(stage, mark + "root", arguments) or status
        return status
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def pytest(stage: Path, prefix: list[str], arguments: list[str]) -> int:
    """Run pytest in the stage and return its status."""
    command = [*prefix, sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, check=False, cwd=stage, stdin=subprocess.DEVNULL).returncode


def pytest_as_root(stage: Path, mark: str, arguments: list[str]) -> int:
    """Run the tests marked root among those that were asked for; none is as good."""
    selection = ["-p", "no:cacheprovider", f"--basetemp={stage}/tmp-root", "-m", mark, *arguments]
    counted = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *selection],
        check=False,
        cwd=stage,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if counted.returncode == NO_TESTS_COLLECTED:
        return 0
    print("LOG:  the tests marked root", flush=True)
    return pytest(stage, [], selection)


def take_table(made: Path, check: bool) -> int:
    """Put the table that a run of the matrix has made into the clone's page, or only compare; return the exit status."""
    table = made.read_text()
    first, last = table.splitlines()[0], table.splitlines()[-1]
    page = CLONE / "docs" / "compatibility.md"
    before = page.read_text()
    after = before.partition(first)[0] + table.rstrip("\n") + before.partition(last)[2]
    if after == before:
        print(f"LOG:  {page} has this table", flush=True)
        return 0
    if check:
        print(f"ERROR:  {page} has another table\nHINT:  Run make test-matrix and commit what it writes there.", flush=True)
        return 1
    page.write_text(after)
    print(f"LOG:  {page} is written anew: commit it", flush=True)
    return 0


def fill(stage: Path) -> None:
    """Copy everything that tests look at."""
    stage.chmod(0o755)
    (stage / "home").mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in STAGED:
        source = CLONE / name
        if source.is_dir():
            shutil.copytree(source, stage / name, ignore=unwanted)
        elif source.exists():
            shutil.copy2(source, stage / name)
    built = Path(sys.executable).parent.parent.parent / "dist"
    shutil.copytree(built, stage / "dist")


def ordinary_user() -> pwd.struct_passwd:
    """Return whom root runs the tests as."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    sys.exit("ERROR:  there is no user postgres or nobody to run the tests as\nHINT:  Run them as an ordinary user.")


if __name__ == "__main__":
    sys.exit(main())
