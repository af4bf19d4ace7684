"""What a run found: tables with bars, as text for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Bar:
    """What was promised, in words, and what was measured; ``unit`` follows both numbers."""

    promise: str
    measured: float
    limit: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        return self.measured <= self.limit

    def cells(self) -> list[str]:
        digits = 2 if not self.unit else 1
        return [
            self.promise,
            f"{self.measured:.{digits}f}{self.unit}",
            f"{self.limit:.{digits}f}{self.unit}",
            "met" if self.is_met else "**not met**",
        ]


BAR_HEADER = ("bar", "measured", "at most", "")


@dataclass
class Section:
    """One measurement: its table, its bars, what its figures mean (Markdown), and what of it is drawn."""

    title: str
    meaning: str
    header: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    chart: list[tuple[str, float]] = field(default_factory=list)
    """Labels and milliseconds; none, and nothing is drawn."""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column to the left, the others to the right."""
    plain = [[cell.replace("*", "").replace("`", "") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in plain) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in plain
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table as Markdown."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *[[c.replace("|", "\\|") for c in row] for row in rows]))


def text(sections: Sequence[Section], machine: Sequence[tuple[str, str]]) -> str:
    """Everything, for the terminal."""
    parts = ["\n".join(f"{name:12}{value}" for name, value in machine)]
    for section in sections:
        parts.append(f"{section.title.upper()}\n\n{text_table(section.header, section.rows)}")
        if section.bars:
            parts.append(text_table(BAR_HEADER, [bar.cells() for bar in section.bars]))
    parts.append(_summary(sections).replace("**", ""))
    return "\n\n".join(parts)


def markdown(sections: Sequence[Section], machine: Sequence[tuple[str, str]], command: str, chart: str) -> str:
    """Everything, as a page of the documentation; ``chart`` is the name of the drawing beside it."""
    parts = [
        "# Benchmarks",
        f"""Written by `{command}`, which builds its own data with a real server and measures
everything on this page anew. The figures are those of one machine, other load included. What carries over to another are the
ratios: each is between two medians of one run, in which the programs took turns.""",
        f"{_summary(sections)}",
        f"![What each restore and each segment of a catch-up took]({chart})",
        markdown_table(("machine", ""), [list(row) for row in machine]).replace("---:", "---"),
    ]
    for section in sections:
        parts += [f"## {section.title}", markdown_table(section.header, section.rows)]
        if section.bars:
            parts.append(markdown_table(BAR_HEADER, [bar.cells() for bar in section.bars]))
        parts.append(section.meaning.strip())
    return "\n\n".join(parts) + "\n"


def _summary(sections: Sequence[Section]) -> str:
    bars = [(section, bar) for section in sections for bar in section.bars]
    missed = [(section, bar) for section, bar in bars if not bar.is_met]
    found = f"{len(bars) - len(missed)} of {len(bars)} bars are met"
    if not missed:
        return f"**{found}.**"
    lines = [f"- {section.title}: {bar.promise}: {bar.cells()[1]}, at most {bar.cells()[2]}" for section, bar in missed]
    return f"**{found}; not met:**\n\n" + "\n".join(lines)
