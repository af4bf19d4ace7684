"""A real standby that catches up: what each segment takes, replay and restore together."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import time
from datetime import datetime
from pathlib import Path

from bench.report import Bar, Section
from bench.timing import MS, progress
from bench.workload import Workload
from pystandby import compression
from pystandby.cluster import Cluster, owned_folder, shell_words
from pystandby.exits import UNEXPECTED, StandbyError

IDEAL, COPY, PLAIN, AHEAD, SHELL_HIT = (
    "ideal: `mv` of a file on the same file system",
    "`cp`",
    "pystandby --look-ahead 0",
    "pystandby",
    "`mv ... \\|\\| exec pystandby`",
)
COMPRESSED = {ending: f"pystandby, from `{ending}` files" for ending in (".zst", ".lz4")}

PATIENCE_S = 300.0

MEANING = """
A real standby, made anew from the same base backup for each run, replays the same segments: a third of the WAL is from
transactions like pgbench's, the rest from bulk inserts. The time is that between the first and the last "restored log file"
line of its log, divided by the segments between them. *ideal* is what no restore_command can beat: the files are on the file
system of pg_wal already and are only renamed. *pystandby* is the drop-in, which looks ahead by default and whose launcher
takes what is ready itself; `mv` before it saves the start of that. The last rows are the drop-in again, from an archive that
`pystandby archive --compress` would have made: look-ahead decompresses on the other processor. Settings: `recovery_prefetch =
off` (15 and later, as README says), `fsync = off`, `shared_buffers = 128MB`. The ratios are between the medians of the runs.
"""

_RESTORED = re.compile(r'^(\S+ \S+) UTC \[\d+\] LOG:  restored log file "([0-9A-F]{24})" from archive$', re.MULTILINE)


def measure(pystandby: Path, workload: Workload, folder: Path, rounds: int) -> Section:
    """Let each way catch up once in every round."""
    place = owned_folder(folder / "catch", None)
    copies = place / "copies"
    trigger = owned_folder(place / "trigger", None) / "failover"
    archive = shell_words(workload.archive)
    plain = shell_words(pystandby, "-t", trigger)
    hit = "mv pg_wal/.pystandby/%f %p 2>/dev/null || "
    commands = {
        IDEAL: f"mv {shell_words(copies)}/%f %p",
        COPY: f"cp {archive}/%f %p",
        PLAIN: f"exec {plain} --look-ahead 0 {archive} %f %p",
        AHEAD: f"exec {plain} {archive} %f %p",
        SHELL_HIT: f"{hit}exec {plain} {archive} %f %p",
        **{way: f"exec {plain} {shell_words(place / ending)} %f %p" for ending, way in COMPRESSED.items()},
    }
    for ending in COMPRESSED:
        progress(f"an archive of {ending} files")
        _compress(workload, owned_folder(place / ending, None), ending)
    found: dict[str, list[float]] = {way: [] for way in commands}
    count = len(workload.segments)
    for number in range(rounds):
        # Each round begins with another one.
        ways = list(commands)
        for way in [*ways[number % len(ways) :], *ways[: number % len(ways)]]:
            progress(f"catch-up over {count} segments, round {number + 1} of {rounds}: {way.replace('`', '')}")
            if way == IDEAL:
                shutil.copytree(workload.archive, copies)
            found[way].append(_catch_up(workload, place, commands[way]) * MS)
            shutil.rmtree(copies, ignore_errors=True)
    shutil.rmtree(place)
    return _section(found, count)


def _compress(workload: Workload, target: Path, ending: str) -> None:
    """Make an archive of compressed files, as old as those that they are made of."""
    for file in workload.archive.iterdir():
        source = os.open(file, os.O_RDONLY)
        try:
            status = os.fstat(source)
            made = target / f"{file.name}{ending}"
            made.write_bytes(b"".join(compression.compressed(source, status.st_size, ending)))
            os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(source)


def _section(found: dict[str, list[float]], count: int) -> Section:
    medians = {way: statistics.median(times) for way, times in found.items()}
    section = Section(
        f"3. Catching up over {count} segments",
        MEANING,
        ("restore_command", "median ms per segment", "all runs", "÷ cp", "÷ ideal", "runs"),
    )
    for way, times in found.items():
        each = ", ".join(f"{value:.1f}" for value in times)
        ratios = [f"{medians[way] / medians[other]:.2f}" for other in (COPY, IDEAL)]
        section.rows.append([way, f"{medians[way]:.1f}", each, *ratios, str(len(times))])
    section.bars = [
        Bar("shell hit ÷ `cp`", medians[SHELL_HIT] / medians[COPY], 0.95),
        Bar("shell hit ÷ ideal", medians[SHELL_HIT] / medians[IDEAL], 1.10),
        Bar("pystandby ÷ `cp`", medians[AHEAD] / medians[COPY], 1.10),
        *(Bar(f"{way} ÷ from plain ones", medians[way] / medians[AHEAD], 1.10) for way in COMPRESSED.values()),
    ]
    section.chart = list(medians.items())
    return section


def _catch_up(workload: Workload, place: Path, restore_command: str) -> float:
    """Seconds per segment of one standby made for it."""
    standby = Cluster(workload.installation, place, "standby")
    subprocess.run(["cp", "-a", workload.backup, standby.data_directory], check=True)
    standby.make_standby(restore_command, archive_mode=False)
    if workload.installation.version >= 15:
        standby.configure({"recovery_prefetch": False})
    # What was written to make this run ready must not be written to the disk during it.
    os.sync()
    try:
        standby.launch()
        _until_restored(standby, workload.segments[-1])
        restored: dict[str, float] = {}
        for moment, name in _RESTORED.findall(standby.log_text()):
            restored.setdefault(name, datetime.strptime(moment, "%Y-%m-%d %H:%M:%S.%f").timestamp())
    finally:
        standby.stop("immediate")
    if list(restored) != workload.segments:
        raise StandbyError(UNEXPECTED, "the standby did not restore the segments in order", standby.log_tail())
    shutil.rmtree(standby.socket_directory)
    moments = list(restored.values())
    return (moments[-1] - moments[0]) / (len(moments) - 1)


def _until_restored(standby: Cluster, last: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    text = f'restored log file "{last}" from archive'
    while text not in standby.log_text():
        if not standby.is_running() or time.monotonic() > deadline:
            raise StandbyError(UNEXPECTED, f"the standby did not restore {last}", standby.log_tail())
        time.sleep(0.05)
