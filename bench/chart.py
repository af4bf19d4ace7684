"""The drawing: horizontal bars as SVG, written by hand, legible on a light and on a dark page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.report import Section

WIDTH, LABELS, VALUES = 860, 300, 110
"""Of the whole drawing, of the labels on the left, and of the values on the right, in pixels."""

ROW, BAR, TITLE, GAP = 26, 16, 34, 18
"""Heights in pixels: of a row, of the bar in it, of a panel's title, and between two panels."""

CUT_OFF = 4
"""Medians of a panel's values beyond which a bar is cut off."""

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 14px }
.ours { fill: #0969da } .theirs { fill: #8c959f }
.axis { stroke: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .ours { fill: #4493f8 } .theirs { fill: #6e7681 }
}
"""


def draw(sections: Sequence[Section]) -> str:
    """Draw a panel for each section that has something to draw."""
    drawn = [section for section in sections if section.chart]
    parts: list[str] = []
    top = 0
    for section in drawn:
        parts += _panel(section, top)
        top += TITLE + ROW * len(section.chart) + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" role="img">'
    title = "<title>Medians in milliseconds; shorter is better</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _panel(section: Section, top: int) -> list[str]:
    # One that takes many times as long as the others must not make them all too small to compare: it is cut off.
    middle_value = statistics.median(value for _, value in section.chart)
    longest = max(value for _, value in section.chart if value <= CUT_OFF * middle_value)
    scale = (WIDTH - LABELS - VALUES) / longest
    parts = [f'<text class="title" x="8" y="{top + 22}">{escape(section.title)}, median ms (shorter is better)</text>']
    for number, (label, value) in enumerate(section.chart):
        y = top + TITLE + number * ROW
        plain = label.replace("`", "")
        ours = "pystandby" in plain or (" hit" in plain and "barman" not in plain)
        kind = "ours" if ours else "theirs"
        middle = y + BAR - 3
        width = min(value, longest) * scale
        cut = " (cut off)" if value > longest else ""
        parts += [
            f'<text x="{LABELS - 10}" y="{middle}" text-anchor="end">{escape(plain)}</text>',
            f'<rect class="{kind}" x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>',
            f'<text x="{LABELS + width + 6:.1f}" y="{middle}">{value:.1f}{cut}</text>',
        ]
    bottom = top + TITLE + len(section.chart) * ROW - ROW + BAR + 4
    parts.append(f'<line class="axis" x1="{LABELS}" y1="{top + TITLE - 4}" x2="{LABELS}" y2="{bottom}"/>')
    return parts
