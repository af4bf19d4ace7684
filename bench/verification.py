"""What it takes to see that a segment is whole: the verdict on all its pages, in a process that runs already."""

from __future__ import annotations

import mmap
import random
import statistics
import time
from pathlib import Path

from bench.report import Section
from bench.timing import MS, progress
from bench.workload import Workload
from pystandby import ready

MEANING = """
The verdict on one 16 MB segment that lies in the cache, mapped anew each time, as a restore does it: every page header, the
records of the last page, and holes. *Full* is a segment whose pages are all used, *switched* one that `pg_switch_wal()` ended;
*fresh* one that changed less than half a second ago, where each sector is looked at for zeros as well. A full segment
is *doubtful* where all its pages are right but only a checksum could vouch for the record that its end cuts in two: restored
once at rest. `--verify none` in the table above is the same cost measured from outside, imports included.
"""


def measure(workload: Workload, copy_ms: float, rounds: int) -> Section:
    """Judge a full and a switched segment, at rest and fresh, in turns; ``copy_ms`` is what cp took."""
    progress(f"verification alone, {rounds} rounds")
    cases = {
        f"{kind}, {'at rest' if at_rest else 'fresh'}": (workload.archive / name, at_rest)
        for kind, name in (("full", workload.full), ("switched", workload.switched))
        for at_rest in (True, False)
    }
    found: dict[str, list[float]] = {case: [] for case in cases}
    verdicts: dict[str, str] = {}
    order = random.Random(4)
    for _ in range(rounds):
        for case in order.sample(list(cases), len(cases)):
            path, at_rest = cases[case]
            seconds, verdicts[case] = _judge(path, at_rest)
            found[case].append(seconds * MS)
    return Section(
        "2. Verification alone",
        MEANING,
        ("segment of 16 MB", "median ms", "÷ cp", "verdict", "runs"),
        [
            [case, f"{statistics.median(times):.2f}", f"{statistics.median(times) / copy_ms:.2f}", verdicts[case], str(rounds)]
            for case, times in found.items()
        ],
    )


def _judge(path: Path, at_rest: bool) -> tuple[float, str]:
    with path.open("rb") as file:
        began = time.perf_counter()
        with mmap.mmap(file.fileno(), 16 << 20, access=mmap.ACCESS_READ) as content:
            verdict = ready.judge_pages(content, path.name, at_rest)  # type: ignore[arg-type]  # as in pystandby.fetch
        return time.perf_counter() - began, verdict.state
