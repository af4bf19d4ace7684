"""How soon a waiting restore reacts, and what waiting costs."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from bench.report import Bar, Section
from bench.standby import DESTINATION, Standby
from bench.timing import MS, progress, run, shell, spawn, tail, until, wait
from bench.workload import Workload
from pystandby.exits import UNEXPECTED, StandbyError

SETTLED = 0.1
"""Seconds that a restore is left to wait before something happens."""

MINUTE = 60.0

WATCHED = 3
"""Folders that a restore watches: the archive, the trigger file's, and the data directory."""

MEANING = """
*Arrival* is from the rename that gives a full segment, copied just before, its name in the archive, to the end of the
restore_command that waits for it; beside it the same restore of a segment that is there already and at rest, start of Python
included. *Trigger* is from the creation of an empty trigger file to the end with status 1. *Waiting* is a restore that waits for
{seconds:.0f} s, watching, with SLEEPTIME 5; its CPU time counts from its start, with all that it imports to watch, and the row
after it says what of that comes after the watch stands.{extrapolated} *Memory* is the most that it had in real memory (VmHWM).
"""


def measure(pystandby: Path, workload: Workload, folder: Path, repetitions: int, seconds: float) -> Section:
    """Let restores wait, and something happen; then let one wait in peace for so many seconds."""
    progress(f"reaction, {repetitions} times, and {seconds:g} s of waiting")
    name, following = workload.segments[1:3]
    standby = Standby(folder / "waiting", workload, [name])
    scene = _Scene(standby, workload, shlex.join([str(pystandby), "-t", str(standby.trigger), str(standby.archive)]), following)
    os.chdir(standby.data)
    there: list[float] = []
    arrivals: list[float] = []
    triggers: list[float] = []
    for number in range(-1, repetitions):
        measured = (scene.restore(name), scene.arrival(), scene.triggered())
        if number >= 0:
            for times, value in zip((there, arrivals, triggers), measured, strict=True):
                times.append(value * MS)
    cpu_before, cpu, memory = scene.wait(seconds)
    shutil.rmtree(standby.folder, ignore_errors=True)
    return _section(there, arrivals, triggers, (seconds, cpu_before * MS, cpu * MS, memory))


def _section(
    there: list[float], arrivals: list[float], triggers: list[float], waiting: tuple[float, float, float, float]
) -> Section:
    seconds, before, total, memory = waiting
    later = statistics.median(arrivals) - statistics.median(there)
    # What comes after the watch stands goes on in the same way for as long as it waits.
    after = (total - before) * MINUTE / seconds
    extrapolated = "" if seconds == MINUTE else f" Both are extrapolated from {seconds:g} s to 60."
    rows = [
        [title, f"{statistics.median(times):.1f}", f"{min(times):.1f} to {max(times):.1f}", str(len(times))]
        for title, times in (
            ("restore of a segment already there, ms", there),
            ("arrival to exit 0, ms", arrivals),
            ("trigger file to exit 1, ms", triggers),
        )
    ]
    rows.append(["waiting 60 s: CPU from its start, ms", f"{before + after:.1f}", "", "1"])
    rows.append(["of that, after the watch stands, ms", f"{after:.1f}", "", "1"])
    rows.append(["waiting: memory, MB", f"{memory:.1f}", "", "1"])
    return Section(
        "4. Reaction and waiting",
        MEANING.format(seconds=seconds, extrapolated=extrapolated),
        ("", "median", "least to most", "runs"),
        rows,
        [
            Bar("arrival, beyond the restore of one already there", later, 15, " ms"),
            Bar("trigger file to exit 1", statistics.median(triggers), 15, " ms"),
            Bar("CPU of 60 s of waiting, start included", before + after, 50, " ms"),
            Bar("memory of waiting", memory, 40, " MB"),
        ],
    )


class _Scene:
    """A restore that waits for a segment, in a stand-in for a data directory."""

    def __init__(self, standby: Standby, workload: Workload, start: str, awaited: str) -> None:
        self._standby = standby
        self._workload = workload
        self._start = start
        self._awaited = awaited

    def restore(self, name: str) -> float:
        """Seconds that the restore of a segment takes that is there."""
        self._standby.clear()
        result = run(self._command(name), self._standby.messages)
        self._expect(result.status, 0)
        return result.seconds

    def arrival(self) -> float:
        """Seconds from the rename of a new segment to the end of the restore that waits for it."""
        process = self._wait()
        part = self._standby.archive / f".{self._awaited}.part"
        shutil.copyfile(self._workload.archive / self._awaited, part)
        began = time.perf_counter()
        part.rename(self._standby.archive / self._awaited)
        status, _ = wait(process)
        seconds = time.perf_counter() - began
        self._expect(status, 0)
        (self._standby.archive / self._awaited).unlink()
        return seconds

    def triggered(self) -> float:
        """Seconds from the creation of a trigger file to the end of the restore that waits."""
        process = self._wait()
        began = time.perf_counter()
        os.close(os.open(self._standby.trigger, os.O_WRONLY | os.O_CREAT, 0o600))
        status, _ = wait(process)
        seconds = time.perf_counter() - began
        self._expect(status, 1)
        self._standby.trigger.unlink()
        # What is remembered there binds only the server process that it was refused to: that is us, each time.
        shutil.rmtree(self._standby.spool, ignore_errors=True)
        return seconds

    def wait(self, seconds: float) -> tuple[float, float, float]:
        """Let a restore wait in peace: seconds of CPU until the watch stood and in all, and MB at most."""
        process = self._wait()
        before = _cpu_seconds(process)
        time.sleep(seconds)
        after = _cpu_seconds(process)
        memory = _peak_memory(process)
        os.kill(process, signal.SIGTERM)
        status, _ = wait(process)
        self._expect(status, -signal.SIGTERM)
        return before, after, memory

    def _wait(self) -> int:
        """Start a restore and return its process id when it waits."""
        self._standby.clear()
        process = spawn(self._command(self._awaited), self._standby.messages)
        until(lambda: _watched_folders(process) >= WATCHED, "the restore watches", self._standby.messages)
        time.sleep(SETTLED)
        return process

    def _command(self, name: str) -> Sequence[str]:
        return shell(f"exec {self._start} {name} {DESTINATION}")

    def _expect(self, status: int, expected: int) -> None:
        if status != expected:
            raise StandbyError(UNEXPECTED, f"a restore ended with {status} instead of {expected}", tail(self._standby.messages))


def _both(process: int) -> list[int]:
    """The executable's shell and the Python that it waits for."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        children = []
    return [process, *(int(child) for child in children)]


def _watched_folders(process: int) -> int:
    """How many inotify watches a restore has."""
    count = 0
    for one in _both(process):
        try:
            for name in os.listdir(f"/proc/{one}/fdinfo"):
                count += Path(f"/proc/{one}/fdinfo/{name}").read_text().count("inotify wd:")
        except OSError:
            continue
    return count


def _cpu_seconds(process: int) -> float:
    """The CPU time of all threads of a restore so far, to the nanosecond: clock_getcpuclockid(3)."""
    return sum(time.clock_gettime((~one << 3) | 2) for one in _both(process))


def _peak_memory(process: int) -> float:
    """MB, of shell and Python; not ru_maxrss, in which a process inherits the size of the one that started it."""
    total = 0
    for one in _both(process):
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1])
    return total / 1024
