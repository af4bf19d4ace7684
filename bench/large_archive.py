"""A restore with %r from an archive of very many files, none of which is to be removed."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.report import Bar, Section
from bench.standby import DESTINATION, Standby
from bench.timing import Contender, alternate, median_ms, progress, shell, tenths_ms
from bench.workload import Workload
from pystandby import wal

FEW = 10

MEANING = """
The same restore, with `%r`, from an archive of ten files and from one of {many:,}; the files stand after the restart point, so
none is to be removed. Where the *restart point is the same* as in the call before, as in nearly every call of a server, the
archive was looked through already; where it *has moved on*, its names have to be read once.
"""


def measure(pystandby: Path, workload: Workload, folder: Path, rounds: int, many: int) -> Section:
    """Restore from both archives in turns, with a restart point that stays, and with one that moves each time."""
    progress(f"an archive of {many} files, {rounds} rounds")
    contenders = []
    standbys = []
    for count in (FEW, many):
        for moves in (False, True):
            title = _title(count, moves)
            standby = Standby(folder / f"large-{count}-{moves}", workload, [workload.full])
            _fill(standby, workload.full, count)
            contenders.append(_contender(title, standby, pystandby, workload.full, moves))
            standbys.append(standby)
    runs = alternate(contenders, rounds, folder / "large-messages")
    for standby in standbys:
        shutil.rmtree(standby.folder)
    section = Section(
        "5. Large archives",
        MEANING.format(many=many),
        ("restore of 16 MB with %r, nothing to prune", "median ms", "10 to 90 %", "÷ ten files", "runs"),
    )
    for moves in (False, True):
        few = median_ms(runs[_title(FEW, moves)])
        for count in (FEW, many):
            found = runs[_title(count, moves)]
            low, high = tenths_ms(found)
            ratio = median_ms(found) / few
            cells = [f"{median_ms(found):.2f}", f"{low:.1f} to {high:.1f}", f"{ratio:.2f}", str(len(found))]
            section.rows.append([_title(count, moves), *cells])
        section.bars.append(Bar(f"{many:,} files ÷ ten, {_point(moves)}", median_ms(runs[_title(many, moves)]) / few, 1.1))
    return section


def _point(moves: bool) -> str:
    return "restart point has moved on" if moves else "restart point is the same"


def _title(count: int, moves: bool) -> str:
    return f"{count:,} files, {_point(moves)}"


def _fill(standby: Standby, name: str, count: int) -> None:
    """Add empty files; none with the name that comes next, which look-ahead would take for a segment being written."""
    for distance in range(2, count + 1):
        following = wal.neighbour(name, distance, 16 << 20)
        assert following is not None
        (standby.archive / following).touch()


def _contender(title: str, standby: Standby, pystandby: Path, name: str, moves: bool) -> Contender:
    start = shlex.join([str(pystandby), "-t", str(standby.trigger), str(standby.archive), name, DESTINATION])
    points = _restart_points(name)

    def prepare() -> Sequence[str]:
        standby.clear()
        return shell(f"exec {start} {next(points) if moves else name}")

    return Contender(title, standby.data, prepare, standby.check)


def _restart_points(name: str) -> Iterator[str]:
    """Ever later segments on the way to a named one."""
    number = wal.segment_number(name, 16 << 20)
    for distance in range(min(number - 1, 10_000), -1, -1):
        point = wal.neighbour(name, -distance, 16 << 20)
        assert point is not None
        yield point
