"""A figure, its target, and the table of a run."""

from collections.abc import Sequence
from typing import Final

import msgspec

HEADINGS: Final = ("figure", "value", "target", "stretch", "")


class Target(msgspec.Struct, frozen=True):
    """A bound to keep, and an optional better one; upper bounds, with `at_least` lower bounds."""

    bound: float
    stretch: float | None = None
    at_least: bool = False

    def is_kept(self, value: float) -> bool:
        return self._keeps(value, self.bound)

    def verdict(self, value: float) -> str:
        """`met`, `stretch` (the better bound is kept too) or `MISSED`."""
        if self.stretch is not None and self._keeps(value, self.stretch):
            return "stretch"
        return "met" if self.is_kept(value) else "MISSED"

    def cell(self, bound: float | None) -> str:
        return "" if bound is None else f"{'≥' if self.at_least else '≤'} {number(bound)}"

    def _keeps(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound


class Figure(msgspec.Struct, frozen=True):
    """One line of the table.

    A figure with a `tolerance` is compared with the committed run: 0.1 allows it to be worse by
    a tenth. Only ratios within one run have one, because the speed of the machine drifts. Less is
    better, unless the figure `is_rate` or has a lower bound.
    """

    name: str
    value: float
    unit: str = ""
    target: Target | None = None
    tolerance: float = 0.0
    is_rate: bool = False

    @property
    def is_better_high(self) -> bool:
        return self.is_rate or (self.target is not None and self.target.at_least)

    def cells(self) -> tuple[str, ...]:
        """The texts under HEADINGS."""
        value = f"{number(self.value)} {self.unit}".rstrip()
        if self.target is None:
            return (self.name, value, "", "", "")
        bound, stretch = map(self.target.cell, (self.target.bound, self.target.stretch))
        return (self.name, value, bound, stretch, self.target.verdict(self.value))


def number(value: float) -> str:
    """Three significant digits without an exponent; thousands are separated."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    """The figures in columns, numbers to the right."""
    lines = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_line(cells, widths) for cells in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers, verdict = zip(cells, widths, strict=True)
    middle = (cell.rjust(width) for cell, width in numbers)
    return "  ".join((name[0].ljust(name[1]), *middle, verdict[0])).rstrip()
