"""Draws the figures that have a target: the share of each bound that is used up."""

from collections.abc import Sequence
from html import escape
from math import inf
from typing import Final

from bench.figure import Figure, Target, number

WIDTH: Final = 900
NAMES: Final = 430  # where the bars begin
BOUND: Final = 640  # where the bound is
ROW: Final = 24
TOP: Final = 96
STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.page { fill: #ffffff } .quiet { fill: #59636e } .rule { stroke: #59636e; stroke-dasharray: 3 3 }
.kept { fill: #2c7a4b } .missed { fill: #c0392b }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .page { fill: #0d1117 } .quiet { fill: #9198a1 }
  .rule { stroke: #9198a1 } .kept { fill: #3fb950 } .missed { fill: #f85149 }
}
"""


def chart(heading: str, figures: Sequence[Figure]) -> str:
    """An SVG with a bar for each figure that has a target; the dashed line is the bound."""
    rows = [(figure, figure.target) for figure in figures if figure.target]
    height = TOP + ROW * len(rows) + 16
    lines = [_text(16, 24 + 18 * n, line, "quiet") for n, line in enumerate(heading.split("\n"))]
    bars = [_bar(figure, target, TOP + ROW * n) for n, (figure, target) in enumerate(rows)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>Heartbeat figures against their bounds</title><style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            *lines,
            *bars,
            f'<line class="rule" x1="{BOUND}" x2="{BOUND}" y1="{TOP - 10}" y2="{height - 12}"/>',
            "</svg>\n",
        ]
    )


def strain(value: float, target: Target) -> float:
    """The share of the bound that is used up: less is better, 1 just keeps it."""
    part, whole = (target.bound, value) if target.at_least else (value, target.bound)
    return part / whole if whole else (inf if part else 0.0)


def _bar(figure: Figure, target: Target, y: int) -> str:
    used = strain(figure.value, target)
    width = min(used * (BOUND - NAMES), WIDTH - NAMES - 130)
    kind = "kept" if used <= 1 else "missed"
    value = f"{number(figure.value)} {figure.unit} ({target.cell(target.bound)})".replace("  ", " ")
    return (
        _text(16, y + 12, figure.name)
        + f'<rect class="{kind}" x="{NAMES}" y="{y}" width="{width:.1f}" height="15" rx="2"/>'
        + _text(max(NAMES + width, BOUND) + 8, y + 12, value)
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'
