"""Finds what is wrong with a run: error responses, missed targets, worse ratios.

A run with error responses is refused: errors are often faster, so the figures would be wrong.
"""

from collections.abc import Sequence

from bench.figure import Figure, number
from bench.harness import Window
from bench.report import Report


def errors(windows: Sequence[Window], unaccounted: int) -> list[str]:
    """A sentence for each window with error answers, and one for heartbeats that were lost."""
    found = [
        f"{window.question}: {window.outcome.errors:,} of {window.outcome.completed:,} answers of "
        f"{window.peer} were errors, the first: {_short(window.outcome.first_error)}"
        for window in windows
        if window.outcome.errors
    ]
    if unaccounted:
        found.append(f"{unaccounted:,} heartbeats differ between answers and tables")
    return found


def missed(figures: Sequence[Figure]) -> list[str]:
    """A sentence for each figure that misses its target."""
    return [
        f"{figure.name}: {number(figure.value)} {figure.unit}".rstrip()
        + f", target {figure.target.cell(figure.target.bound)}"
        for figure in figures
        if figure.target and not figure.target.is_kept(figure.value)
    ]


def regressions(figures: Sequence[Figure], committed: Report) -> list[str]:
    """A sentence for each figure that got worse by more than its tolerance."""
    before = {figure.name: figure.value for figure in committed.figures}
    return [
        f"{figure.name}: {number(figure.value)} now, {number(old)} in the committed run, "
        f"{times:.2f} times as bad (tolerance {1 + figure.tolerance:.2f})"
        for figure in figures
        if figure.tolerance
        and (old := before.get(figure.name))
        and (times := _times_as_bad(figure, old)) > 1 + figure.tolerance
    ]


def _times_as_bad(figure: Figure, old: float) -> float:
    better, worse = (old, figure.value)
    if figure.is_better_high:
        better, worse = worse, better
    return worse / better if better else float("inf")


def _short(response: str) -> str:
    """The status line and the body of a response, or the reason why there is none."""
    head, _, body = response.partition("\r\n\r\n")
    return " ".join([head.partition("\r\n")[0], body]).strip()[:300]
