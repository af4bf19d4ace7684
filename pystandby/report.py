"""pystandby report: what came into an archive and what was restored of it, over time, as SVG, by itself or in a page of HTML.

Three panels over one time axis: arrivals and restores, segments outstanding, and seconds from a file's arrival to its restore.
However many files there are, a panel has COLUMNS values: each the sum, or the worst, of its share of the time.
"""

import math
import time
from html import escape
from typing import TYPE_CHECKING

import click

from pystandby import journal, table
from pystandby.status import Look

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = 220

_WIDTH, _LEFT, _RIGHT = 960, 74, 16
_PANEL, _TITLE, _BOTTOM = 150, 40, 34
"""Pixels: of the drawing and its margins; of a panel's plot, of the title above it, and of the time axis."""

_SHORTEST = 60.0
"""Seconds that the time axis spans at least."""

_STEPS = (1, 5, 15, 60, 300, 900, 3600, 10800, 21600, 86400, 3 * 86400, 7 * 86400, 30 * 86400, 90 * 86400, 365 * 86400)
"""Seconds between two marks of the time axis."""

_STYLE = """
.back { fill: #ffffff } text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 14px }
.dim { fill: #57606a } .grid { stroke: #d0d7de } .axis { stroke: #8c959f } .came { fill: #8c959f } .restored { stroke: #0969da }
.behind { fill: #0969da } .late { fill: #bf8700 } .outage { fill: #cf222e; fill-opacity: .16 } .error { stroke: #cf222e }
.end { stroke: #1a7f37 } .line { fill: none; stroke-width: 1.5 } .mark { stroke-width: 1.5; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  .back { fill: #0d1117 } text { fill: #e6edf3 } .dim { fill: #9198a1 } .grid { stroke: #30363d } .axis { stroke: #6e7681 }
  .came { fill: #6e7681 } .restored { stroke: #4493f8 } .behind { fill: #4493f8 } .late { fill: #d29922 }
  .outage { fill: #f85149; fill-opacity: .22 } .error { stroke: #f85149 } .end { stroke: #3fb950 }
}
"""

_PAGE_STYLE = """
:root { color-scheme: light dark } body { margin: 2em auto; max-width: 62em; padding: 0 1em; font: 15px system-ui, sans-serif;
background: #ffffff; color: #24292f } pre { overflow-x: auto; font: 13px ui-monospace, monospace } svg { width: 100%;
height: auto }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } }
"""


class _History:
    """When segments came, when they were restored, and what went wrong meanwhile, in seconds since the epoch."""

    def __init__(self, look: Look, hours: "int | None") -> None:
        self.restored: dict[str, float] = {}
        self.came: dict[str, float] = {}
        for restore in look.restores:
            # Once more after a restart of the server: no news.
            self.restored.setdefault(restore.name, restore.at)
            if restore.arrived is not None:
                self.came.setdefault(restore.name, restore.arrived)
        if look.survey is not None:
            self.came.update((name, segment.modified) for name, segment in look.survey.segments.items())
        self.outstanding = set(look.outstanding() or ())
        self.errors = [event for event in look.events if event.kind == journal.ERROR]
        self.ends = [event for event in look.events if event.kind == journal.END]
        self.end = look.at
        self.outages = [(since, until if until is not None else self.end) for since, until in look.outages()]
        times = [*self.came.values(), *self.restored.values(), *(event.at for event in look.events)]
        self.is_empty = not times
        # Clocks go wrong: nothing that has come yet is drawn in the future.
        first = min([at for at in times if at <= self.end], default=self.end)
        self.start = min(first, self.end - _SHORTEST)
        if hours is not None:
            self.start = max(self.start, self.end - hours * 3600)

    def column(self, at: float) -> int:
        """The column of a time, which may lie outside: then below 0, or COLUMNS and more."""
        return math.floor((at - self.start) / (self.end - self.start) * COLUMNS) if at != self.end else COLUMNS - 1

    def counts(self, times: "list[float]") -> "list[float]":
        """How many of these times each column has."""
        values = [0.0] * COLUMNS
        for at in times:
            column = self.column(at)
            if 0 <= column < COLUMNS:
                values[column] += 1
        return values

    def behind(self) -> "list[float]":
        """The most segments that had come and were not restored yet, in each column."""
        steps: list[tuple[float, int]] = []
        for name, came in self.came.items():
            restored = self.restored.get(name)
            if restored is not None:
                steps += [(min(came, restored), 1), (restored, -1)]
            elif name in self.outstanding:
                steps.append((came, 1))
        values = [0.0] * COLUMNS
        level = filled = 0
        for at, step in sorted(steps):
            column = min(self.column(at), COLUMNS - 1)
            while filled <= column:
                values[filled] = max(values[filled], level)
                filled += 1
            level += step
            if column >= 0:
                values[column] = max(values[column], level)
        for column in range(filled, COLUMNS):
            values[column] = level
        return values

    def delays(self) -> "list[float]":
        """The longest time from arrival to restore of what was restored in each column."""
        values = [0.0] * COLUMNS
        for name, at in self.restored.items():
            column = self.column(at)
            if name in self.came and 0 <= column < COLUMNS:
                values[column] = max(values[column], at - self.came[name])
        return values


def page(look: Look, hours: "int | None" = None) -> str:
    """A page of HTML that needs no other file: the drawing, and the table of pystandby status."""
    answer = look.as_json()
    name = (answer["standby"] or {}).get("pgdata") or look.directory or ""
    shown = escape("\n".join(click.unstyle(line) for line in table.lines(answer)))
    title = escape(table.plain(f"pystandby report on {name}"))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_PAGE_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n'
        f"<p>{time.strftime('%Y-%m-%d %H:%M:%S %Z', time.localtime(look.at))}</p>\n{drawing(look, hours)}"
        f"<pre>{shown}</pre>\n</body>\n</html>\n"
    )


def drawing(look: Look, hours: "int | None" = None) -> str:
    """The drawing, as SVG."""
    history = _History(look, hours)
    height = 3 * (_TITLE + _PANEL) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">',
        "<title>Arrivals in the archive, restores, and how far the standby was behind</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="back" width="{_WIDTH}" height="{height}"/>',
    ]
    if history.is_empty:
        parts.append(
            f'<text x="{_WIDTH // 2}" y="{height // 2}" text-anchor="middle">Nothing has come, and nothing was restored.</text>'
        )
        return "\n".join([*parts, "</svg>", ""])
    span = table.duration((history.end - history.start) / COLUMNS)
    came, restored = history.counts(list(history.came.values())), history.counts(list(history.restored.values()))
    tops = [_TITLE + number * (_TITLE + _PANEL) for number in range(3)]
    parts += _axis(history, tops)
    most = max(*came, *restored)
    parts += _frame(tops[0], f"Segments in {span}: came (grey), restored (blue)", most, _count)
    parts += [_bars(tops[0], "came", came, most), _line(tops[0], "restored", restored, most)]
    behind = history.behind()
    parts += _frame(tops[1], "Segments outstanding: came, and not restored yet", max(behind), _count)
    parts.append(_bars(tops[1], "behind", behind, max(behind)))
    delays = history.delays()
    parts += _frame(tops[2], "From arrival to restore, the longest", max(delays), table.duration)
    parts.append(_bars(tops[2], "late", delays, max(delays)))
    return "\n".join([*parts, "</svg>", ""])


def _frame(top: int, title: str, most: float, text: "Callable[[float], str]") -> "list[str]":
    """A panel's title and its lines across, with what they stand for."""
    parts = [f'<text class="title" x="{_LEFT}" y="{top - 14}">{escape(title)}</text>']
    ceiling = _ceiling(most)
    for share in (0.0, 0.5, 1.0):
        y = top + _PANEL * (1 - share)
        parts += [
            f'<line class="{"axis" if share == 0 else "grid"}" x1="{_LEFT}" y1="{y:g}" x2="{_WIDTH - _RIGHT}" y2="{y:g}"/>',
            f'<text class="dim" x="{_LEFT - 8}" y="{y + 4:g}" text-anchor="end">{escape(text(ceiling * share))}</text>',
        ]
    return parts


def _axis(history: _History, tops: "list[int]") -> "list[str]":
    """What all panels share: the marks of time, the outages behind, errors and ends of recovery."""
    top, bottom = tops[0], tops[-1] + _PANEL
    parts = []
    for since, until in history.outages:
        left, right = _x(history, since), _x(history, until)
        if right > _LEFT:
            told = f"the archive could not be read from {_clock(since)} to {_clock(until)}"
            parts.append(
                f'<rect class="outage" x="{left:.1f}" y="{top}" width="{max(right - left, 2):.1f}" height="{bottom - top}">'
                f"<title>{told}</title></rect>"
            )
    span = history.end - history.start
    step = next((step for step in _STEPS if span / step <= 8), _STEPS[-1])
    form = "%H:%M:%S" if step < 60 else "%H:%M" if span < 86400 else "%m-%d %H:%M" if step < 86400 else "%Y-%m-%d"
    offset = time.localtime(history.start).tm_gmtoff
    at = math.ceil((history.start + offset) / step) * step - offset
    while at <= history.end:
        x = _x(history, at)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        if x < _WIDTH - 50:
            label = time.strftime(form, time.localtime(at))
            parts.append(f'<text class="dim" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
        at += step
    for kind, events in (("error", history.errors), ("end", history.ends)):
        # Some hundred are enough to see.
        for event in events[-200:]:
            if event.at >= history.start:
                x = _x(history, event.at)
                word = "error" if kind == "error" else "end of recovery"
                # XML allows no control characters, not even as references.
                told = escape(table.plain(f"{_clock(event.at)}: {word}, {event.subject} {event.detail}"))
                parts.append(
                    f'<line class="mark {kind}" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"><title>{told}</title></line>'
                )
    legend = [("outage", "red shade: archive not readable", history.outages), ("error", "red line: error", history.errors),
              ("end", "green line: end of recovery", history.ends)]  # fmt: skip
    told = ", ".join(text for _, text, found in legend if found)
    if told:
        parts.append(f'<text class="dim" x="{_WIDTH - _RIGHT}" y="{top - 14}" text-anchor="end">{told}</text>')
    return parts


def _bars(top: int, kind: str, values: "list[float]", most: float) -> str:
    """A bar for each column that has a value, in one path."""
    width = (_WIDTH - _LEFT - _RIGHT) / COLUMNS
    scale = _PANEL / _ceiling(most)
    path = "".join(
        f"M{_LEFT + number * width:.1f} {top + _PANEL}v{-max(value * scale, 1):.1f}h{width:.2f}v{max(value * scale, 1):.1f}z"
        for number, value in enumerate(values)
        if value > 0
    )
    return f'<path class="{kind}" d="{path}"/>'


def _line(top: int, kind: str, values: "list[float]", most: float) -> str:
    """A line in steps."""
    width = (_WIDTH - _LEFT - _RIGHT) / COLUMNS
    scale = _PANEL / _ceiling(most)
    path = "".join(f"V{top + _PANEL - value * scale:.1f}h{width:.2f}" for value in values)
    return f'<path class="line {kind}" d="M{_LEFT} {top + _PANEL}{path}"/>'


def _ceiling(most: float) -> float:
    """The end of an axis for values up to ``most``: 1, 2 or 5 times a power of ten, at least 1."""
    if most <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= most)


def _x(history: _History, at: float) -> float:
    share = (at - history.start) / (history.end - history.start)
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(share, 0.0), 1.0)


def _count(value: float) -> str:
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
