"""What a run was made on, in words for its report."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pystandby import __version__
from pystandby.cluster import Installation, environment


def describe(folder: Path, installation: Installation, interpreter: str) -> list[tuple[str, str]]:
    """The machine, and the programs that were measured on it, in the folder where their files lay."""
    return [
        ("date", time.strftime("%Y-%m-%d %H:%M %Z")),
        ("CPU", f"{_processor()}, {len(os.sched_getaffinity(0))} cores"),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GB"),
        ("system", f"{_distribution()}, kernel {platform.release()}"),
        ("file system", f"{_file_system(folder)}; every file that is read is in the cache"),
        ("PostgreSQL", _first_line([str(installation.program("postgres")), "--version"], installation)),
        ("Python", _first_line([interpreter, "-VV"])),
        ("shell, cp", f"{Path('/bin/sh').resolve().name}, {_first_line(['cp', '--version'])}"),
        ("pystandby", __version__),
        ("load before", f"{os.getloadavg()[0]:.2f} (mean number of runnable processes in the minute before)"),
    ]


class Neighbours:
    """What other processes than ours, and other machines on the same host, took of the CPUs since this was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = self._taken()

    def describe(self) -> str:
        """Return it in words; our commands and servers must have ended."""
        seconds = time.monotonic() - self._began
        others, stolen = (max(0.0, now - then) / seconds for now, then in zip(self._taken(), self._before, strict=True))
        return f"other processes kept {others:.2f} cores busy on average, and {stolen:.2f} were withheld by the host"

    @staticmethod
    def _taken() -> tuple[float, float]:
        """Seconds of CPU that were not ours, and those that a host did not give: /proc/stat, getrusage(2)."""
        words = _read("/proc/stat").partition("\n")[0].split()[1:]
        ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in words] or [0.0] * 8
        user, nice, system, _, _, interrupts, soft_interrupts, stolen = ticks[:8]
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        ours = sum(usage.ru_utime + usage.ru_stime for usage in used)
        return user + nice + system + interrupts + soft_interrupts - ours, stolen


def _processor() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _distribution() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return sys.platform


def _file_system(folder: Path) -> str:
    best = ("/", "unknown")
    for line in _read("/proc/mounts").splitlines():
        _, place, kind, *_ = line.split()
        if folder.is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    return best[1]


def _first_line(command: Sequence[str], installation: Installation | None = None) -> str:
    libraries = installation.libdir if installation else None
    answer = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(libdir=libraries))
    return " ".join((answer.stdout or answer.stderr).split("\n")[0].split())


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
