"""One restore of a segment that is there, as PostgreSQL runs it, beside cp, a bare Python and the peers."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers import find_peers
from bench.report import Bar, Section
from bench.standby import DESTINATION, Standby
from bench.timing import Contender, Run, Runs, alternate, median_ms, progress, run, shell, tenths_ms, until
from bench.workload import Workload

BARE, COPY, DEFAULT, SHELL_HIT, SPOOL_HIT = "bare `python -c pass`", "`cp`", "pystandby", "shell hit", "spool hit without `mv`"

SPOOLED = 8
"""Segments that a child of pystandby makes ready at once."""

AGE = 61.0
"""Seconds: what changed within a minute may still be written to, where the archive's clock is another, and is looked at twice."""

MEANING = """
Each row is one restore of a full 16 MB segment, from the call of `/bin/sh -c` to its end, with everything in the cache: what
a catch-up pays for each segment beside replaying it. *pystandby* is the drop-in, `exec pystandby -t TRIGGER ARCHIVE %f %p
%r`, with every page verified, of a segment older than a minute; the two rows below it say what verification costs. *shell
hit* is `mv pg_wal/.pystandby/%f %p || exec pystandby ...` with the segment in the spool; *spool hit without `mv`* the drop-in
with `--look-ahead 8`, whose child has made it ready: measured apart, in turns with a bare Python and a `cp` of its own. The
bare Python is started without a shell. *10 to 90 %* is between which times the middle four fifths of the runs lay, *CPU* the
median of user and system time.
"""


@dataclass
class Programs:
    """The installed pystandby, and the interpreter that it starts."""

    pystandby: Path

    @property
    def interpreter(self) -> str:
        """That of the first line of pystandby-python."""
        first = self.pystandby.with_name("pystandby-python").read_text(encoding="utf-8").partition("\n")[0]
        return first.removeprefix("#!").strip()


def measure(programs: Programs, workload: Workload, folder: Path, rounds: int) -> Section:
    """Run them all in turns."""
    progress(f"one restore of a segment that is there, {rounds} rounds")
    name = workload.full
    standby = Standby(folder / "hot", workload, [name])
    segment = standby.archive / name
    start = shlex.join([str(programs.pystandby), "-t", str(standby.trigger)])
    words = shlex.join([str(standby.archive), name, DESTINATION, name])

    def contender(title: str, command: Sequence[str]) -> Contender:
        def prepare() -> Sequence[str]:
            standby.clear()
            return command

        return Contender(title, standby.data, prepare, standby.check)

    def prepare_hit() -> Sequence[str]:
        standby.clear()
        standby.spool.mkdir(mode=0o700, exist_ok=True)
        shutil.copy2(segment, standby.spool)
        return shell(f"mv pg_wal/.pystandby/{name} {DESTINATION} 2>/dev/null || exec {start} --look-ahead {SPOOLED} {words}")

    until_old(segment)
    bare = Contender(BARE, standby.data, lambda: [programs.interpreter, "-c", "pass"])
    copy = contender(COPY, shell(f"cp {shlex.quote(str(segment))} {DESTINATION}"))
    peers, absent = find_peers(standby, workload, name)
    contenders = [
        bare,
        copy,
        contender(DEFAULT, shell(f"exec {start} {words}")),
        contender("pystandby --verify size", shell(f"exec {start} --verify size {words}")),
        contender("pystandby --verify none", shell(f"exec {start} --verify none {words}")),
        Contender(SHELL_HIT, standby.data, prepare_hit, standby.check),
        *[contender(title, shell(command)) for title, command in peers],
    ]
    runs = alternate(contenders, rounds, standby.messages)
    section = Section(
        "1. One restore of a segment that is there",
        MEANING,
        ("restore of 16 MB", "median ms", "10 to 90 %", "÷ cp", "÷ bare Python", "CPU ms", "runs"),
    )
    spooled = _with_child(programs, workload, folder, [bare, copy], rounds)
    for title in runs:
        _add(section, title, runs)
        if title == SHELL_HIT:
            _add(section, SPOOL_HIT, spooled)
    section.rows += [[f"{title}: {why}", *["-"] * 6] for title, why in absent]
    bare_and_copy = median_ms(runs[BARE]) + median_ms(runs[COPY])
    section.bars = [
        Bar("pystandby ÷ (bare Python + `cp`)", median_ms(runs[DEFAULT]) / bare_and_copy, 1.25),
        Bar("shell hit ÷ `cp`", median_ms(runs[SHELL_HIT]) / median_ms(runs[COPY]), 0.5),
    ]
    section.chart = [(title, median_ms(found)) for title, found in runs.items()]
    section.chart.insert(list(runs).index(SHELL_HIT) + 1, (SPOOL_HIT, median_ms(spooled[SPOOL_HIT])))
    shutil.rmtree(standby.folder)
    return section


def until_old(segment: Path) -> None:
    """Wait until a file is so old that whether it rests is beyond doubt, as what a catch-up restores is."""
    age = time.time() - segment.stat().st_ctime
    if age < AGE:
        progress(f"waiting until the segment is {AGE:.0f} s old")
        time.sleep(AGE - age)


def _add(section: Section, title: str, runs: Runs) -> None:
    found = runs[title]
    low, high = tenths_ms(found)
    middle = median_ms(found)
    section.rows.append(
        [
            title,
            f"{middle:.2f}",
            f"{low:.1f} to {high:.1f}",
            f"{middle / median_ms(runs[COPY]):.2f}",
            f"{middle / median_ms(runs[BARE]):.2f}",
            f"{median_ms([Run(0, run.cpu, 0) for run in found]):.1f}",
            str(len(found)),
        ]
    )


def _with_child(programs: Programs, workload: Workload, folder: Path, others: list[Contender], rounds: int) -> Runs:
    """The hits that a call itself takes out of the spool, in turns with others: apart, because of the child in the background."""
    middle = workload.segments.index(workload.full)
    names = workload.segments[max(0, middle - SPOOLED) :][: SPOOLED + 1]
    standby = Standby(folder / "spooled", workload, names)
    start = shlex.join([str(programs.pystandby), "--look-ahead", str(SPOOLED), "-t", str(standby.trigger), str(standby.archive)])
    ready: list[str] = []

    def prepare() -> Sequence[str]:
        standby.clear()
        if not ready:
            # A new run: one restore, and its child makes all the others ready.
            shutil.rmtree(standby.spool, ignore_errors=True)
            run(shell(f"exec {start} {names[0]} {DESTINATION}"), standby.messages)
            until(
                lambda: all((standby.spool / name).exists() for name in names[1:]), "the spool has been filled", standby.messages
            )
            standby.clear()
            ready.extend(names[:0:-1])
        name = ready.pop()
        return shell(f"exec {start} {name} {DESTINATION}")

    runs = alternate([*others, Contender(SPOOL_HIT, standby.data, prepare, standby.check)], rounds, standby.messages)
    os.chdir(folder)
    shutil.rmtree(standby.folder, ignore_errors=True)
    return runs
