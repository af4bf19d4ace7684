"""Programs that a test runs beside PostgreSQL: this machine's, or unpacked from Debian's packages, without installing anything.

    FOLDER/debian-PACKAGE/usr/bin/...    the package and what it needs that is not installed here; FOLDER is kept.folder()
    FOLDER/apt/                          lists of packages, where the machine has none

An installed sshd would begin to serve the machine, and only root can install. A program that cannot be had is a failure of
whoever needs it, and never a reason to skip.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from support import kept

_FETCHING_MAY_TAKE_S = 100


@dataclass(frozen=True)
class Program:
    """A program's full path, and the folder that holds it as a machine's root would, None for a program of this machine's."""

    path: Path
    root: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variable that it needs to find its libraries."""
        if self.root is None:
            return {}
        folders = (f"{self.root}{place}/{platform.machine()}-linux-gnu" for place in ("/usr/lib", "/lib"))
        return {"LD_LIBRARY_PATH": os.pathsep.join(folders)}


def program(name: str, package: str) -> Program:
    """The program of this name, which is in this package of Debian's. Raises RuntimeError where it cannot be had."""
    places = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *places)))
    if found is not None:
        return Program(Path(found))
    base = kept.folder()
    root = base / f"debian-{package}"
    with kept.locked(base / f"debian-{package}.lock"):
        if not root.is_dir():
            _unpack(package, root)
    for place in places:
        path = Path(f"{root}{place}/{name}")
        if path.exists():
            return Program(path, root)
    raise RuntimeError(f"Debian's package {package} has no {name}")


def _unpack(package: str, root: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError(f"neither is the program of Debian's package {package} here, nor apt-get to fetch it: install it")
    work = root.with_name(f"{root.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    (work / "debs").mkdir(parents=True)
    try:
        try:
            _download(package, [], work / "debs")
        except RuntimeError:
            # This machine's lists are absent or old.
            _download(package, _own_lists(), work / "debs")
        for deb in (work / "debs").iterdir():
            _run(["dpkg-deb", "--extract", str(deb), str(work / "root")], work)
        (work / "root").rename(root)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(package: str, options: list[str], work: Path) -> None:
    """Download the packages that an installation would bring here."""
    told = _run(["apt-get", *options, "--quiet", "--simulate", "--no-install-recommends", "install", package], work)
    wanted = re.findall(r"^Inst (\S+) ", told, re.MULTILINE)
    if package not in wanted:
        raise RuntimeError(f"{package}'s program is not here, though apt-get takes the package for installed:\n{told}")
    _run(["apt-get", *options, "--quiet", "download", *wanted], work)


def _own_lists() -> list[str]:
    """Options that have apt-get use lists of our own, which are fetched."""
    place = kept.folder() / "apt"
    options = [word for name in ("State::lists", "Cache") for word in ("-o", f"Dir::{name}={place / name}")]
    with kept.locked(place.with_suffix(".lock")):
        for name in ("State::lists/partial", "Cache/archives/partial"):
            (place / name).mkdir(parents=True, exist_ok=True)
        _run(["apt-get", *options, "--quiet", "update"], place)
    return options


def _run(command: list[str], cwd: Path) -> str:
    answer = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_FETCHING_MAY_TAKE_S,
    )
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {answer.returncode}:\n{answer.stdout}")
    return answer.stdout
