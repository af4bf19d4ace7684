"""Starting commands as a server's startup process does, and taking their time.

This process is the leader of a session of its own, as the startup process is, and its commands stay in its process group: a
pystandby takes them for calls by one server process. They are started by posix_spawn(), so that the size of this process, which
PostgreSQL's does not have, costs nothing.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pystandby.cluster import environment
from pystandby.exits import UNEXPECTED, StandbyError

MS = 1000.0

DEADLINE = 30.0
"""Seconds after which something that takes milliseconds is taken to have failed."""

WARM_UP = 2
"""Rounds that are run before those that count: they bring files into the cache, and bytecode onto the disk."""

_running: set[int] = set()


class Run(NamedTuple):
    """How a command ended, and what it took: seconds on the clock, and of CPU with all its children that it waited for."""

    status: int
    seconds: float
    cpu: float


def shell(line: str) -> list[str]:
    """The words by which PostgreSQL runs a restore_command: system(3)."""
    return ["/bin/sh", "-c", line]


def spawn(words: Sequence[str], messages: Path) -> int:
    """Start a command in the current directory; what it says goes to the end of the file ``messages``. Returns its process id."""
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    process = os.posix_spawn(
        words[0],
        list(words),
        _environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(messages), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    _running.add(process)
    return process


def wait(process: int) -> tuple[int, float]:
    """Wait for the end of a command: its exit status, or minus the signal it died of, and its seconds of CPU."""
    _, status, usage = os.wait4(process, 0)
    _running.discard(process)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def run(words: Sequence[str], messages: Path) -> Run:
    """Run a command to its end."""
    began = time.perf_counter()
    status, cpu = wait(spawn(words, messages))
    return Run(status, time.perf_counter() - began, cpu)


def end_all() -> None:
    """Kill the commands that still run."""
    for process in list(_running):
        try:
            os.kill(process, signal.SIGKILL)
            wait(process)
        except (ProcessLookupError, ChildProcessError):
            _running.discard(process)


def _environment() -> Mapping[str, str]:
    """A postmaster's, without PYTHONDONTWRITEBYTECODE and its like."""
    global _found
    if _found is None:
        _found = environment()
    return _found


_found: dict[str, str] | None = None


@dataclass(frozen=True)
class Contender:
    """A command that takes part: ``prepare`` makes everything ready and returns its words; ``check`` says what went wrong."""

    name: str
    folder: Path
    prepare: Callable[[], Sequence[str]]
    check: Callable[[], str] = str


Runs = dict[str, list[Run]]
"""The runs that counted, by the contender's name."""


def alternate(contenders: Sequence[Contender], rounds: int, messages: Path) -> Runs:
    """Run each contender once in every round, each round in another order. Raises StandbyError when one does not deliver."""
    order = random.Random(4)
    results: Runs = {contender.name: [] for contender in contenders}
    for number in range(-WARM_UP, rounds):
        for contender in order.sample(contenders, len(contenders)):
            os.chdir(contender.folder)
            words = contender.prepare()
            result = run(words, messages)
            problem = f"status {result.status}" if result.status else contender.check()
            if problem:
                raise StandbyError(UNEXPECTED, f"{contender.name}: {problem}", tail(messages), f"It was: {' '.join(words)}")
            if number >= 0:
                results[contender.name].append(result)
    return results


def tail(file: Path, lines: int = 10) -> str:
    """The last lines of a file."""
    try:
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def median_ms(runs: Sequence[Run]) -> float:
    """The median of the runs' milliseconds."""
    return statistics.median(run.seconds for run in runs) * MS


def tenths_ms(runs: Sequence[Run]) -> tuple[float, float]:
    """The milliseconds that a tenth of the runs remained below, and that a tenth exceeded."""
    values = sorted(run.seconds for run in runs)
    return values[len(values) // 10] * MS, values[-1 - len(values) // 10] * MS


def until(condition: Callable[[], bool], what: str, messages: Path, every: float = 0.005, deadline: float = DEADLINE) -> None:
    """Wait until a condition is true. Raises StandbyError when that takes too long."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise StandbyError(UNEXPECTED, f"not within {deadline:g} s: {what}", tail(messages))
        time.sleep(every)


def progress(text: str) -> None:
    """Tell the person who waits what is being done."""
    print(f"LOG:  {text}", file=sys.stderr, flush=True)
