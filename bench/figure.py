"""A figure, its target, the table."""

from collections.abc import Sequence
from typing import Final

import msgspec

HEADINGS: Final = ("figure", "value", "reach", "beyond", "")


class Target(msgspec.Struct, frozen=True):
    """The bounds to keep: upper ones, or lower ones with `at_least`."""

    reach: float
    beyond: float | None = None
    at_least: bool = False

    def verdict(self, value: float) -> str:
        if self.beyond is not None and self._keeps(value, self.beyond):
            return "beyond"
        return "reached" if self._keeps(value, self.reach) else "MISSED"

    def cell(self, bound: float | None) -> str:
        return "" if bound is None else f"{'≥' if self.at_least else '≤'} {number(bound)}"

    def _keeps(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound


class Figure(msgspec.Struct, frozen=True):
    """One line of the table."""

    name: str
    value: float
    unit: str = ""
    target: Target | None = None

    def cells(self) -> tuple[str, ...]:
        """The texts under HEADINGS."""
        value = f"{number(self.value)} {self.unit}".rstrip()
        if self.target is None:
            return (self.name, value, "", "", "")
        reach, beyond = map(self.target.cell, (self.target.reach, self.target.beyond))
        return (self.name, value, reach, beyond, self.target.verdict(self.value))


def number(value: float) -> str:
    """Three significant digits and no exponent; thousands told apart."""
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
