"""The command `cells spread`."""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final

import click

from service.command.cells import (
    SetUp,
    all_cells,
    begin,
    census,
    counts,
    one_sentence,
    opened,
)
from service.database import cell_map, cell_spread, cures
from service.database.cell_moves import Cell, Moved
from service.database.cell_spread import Step
from service.database.cells import SLOTS
from service.database_errors import DatabaseError
from service.settings import Settings

MAX_BATCH: Final = 10_000
PROGRESS_SECONDS: Final = 1.0


@click.command("spread")
@click.option(
    "--batch",
    default=2_000,
    show_default=True,
    type=click.IntRange(1, MAX_BATCH),
    help="How many rows to move together, about; their heartbeats wait meanwhile.",
)
@click.option("--without", metavar="CELL", multiple=True, help="Empty this cell.")
@click.pass_obj
def spread_command(set_up: SetUp, batch: int, without: tuple[str, ...]) -> None:
    """Move accounts until each cell has its share by weight, while services run.

    It can be interrupted at any time and run again. The exit code is 0 if nothing is left to do.
    """
    every = all_cells(set_up())
    names = {settings.cell for settings in every}
    if set(without) - names:
        raise click.ClickException("--without needs the name of a cell of CELLS_FILE.")
    if not names - set(without):
        raise click.ClickException("--without leaves no cell for the accounts.")
    progress = Progress()
    with one_sentence():
        problems = asyncio.run(spread(every, batch, without, progress))
    click.echo(f"moved and verified: {counts(progress.total)}")
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.exceptions.Exit(1)
    click.echo("Every cell has its share.")


async def spread(
    every: Sequence[Settings], batch: int, without: Sequence[str], progress: "Progress"
) -> list[str]:
    """Moves what it can; returns a sentence for everything that is left."""
    weights = {each.cell: each.cell_weight * (each.cell not in without) for each in every}
    async with opened(every) as found:
        problems = [f"Cell {name} does not answer: {why}." for name, why in found.down.items()]
        problems += await begin(found)
        newest = await cell_spread.agreed(found.up)
        if unplanned := _unplanned(weights, newest):
            return [*problems, unplanned]
        for step in cell_spread.plan(weights, newest):
            if not {step.source, step.target} <= found.up.keys():
                problems.append(f"Not moved: {_named(step)}.")
                continue
            ends = found.up[step.source], found.up[step.target]
            try:
                refused = await cell_spread.give(*ends, step.slots, batch, progress)
            except DatabaseError as error:
                problems.append(f"Not moved: {_named(step)}: {cures.sentence(error)}.")
                continue
            problems += [
                f"Account {account} stays in cell {step.source}: {why}."
                for account, why in refused.items()
            ]
        try:
            await cell_spread.agreed(found.up)
            if not found.down:
                await cell_spread.tidy(found.up)
            problems += [await _left(found.up[name]) for name in without if name in found.up]
        except DatabaseError as error:
            problems.append(f"Not every cell has the new map: {cures.sentence(error)}.")
    return [problem for problem in problems if problem]


async def _left(cell: Cell) -> str:
    """Why a cell is not empty; empty if it is."""
    if not (count := (await census(cell)).accounts):
        return ""
    return (
        f"Cell {cell.name} still has {count:,} accounts that are not moved by their slots: move "
        "them with `viewing-time cells move-account`, or delete those of administrators."
    )


def _unplanned(weights: Mapping[str, int], newest: cell_map.Map) -> str:
    """Why no plan can be made; empty if one can."""
    if len(newest) < SLOTS:
        return "No cell that answers has the whole map of accounts: run `viewing-time migrate`."
    try:
        cell_map.refuse_others(newest, weights)
    except cell_map.MapRefused as refusal:
        return f"{refusal} Add it again, and empty it with `viewing-time cells spread --without`."
    return ""


class Progress:
    """Prints once a second what has been moved."""

    def __init__(self) -> None:
        self.total = Moved(0, 0, 0)
        self._printed_at = monotonic()

    def __call__(self, step: Step, moved: Moved) -> None:
        self.total = self.total.plus(moved)
        if monotonic() - self._printed_at >= PROGRESS_SECONDS:
            self._printed_at = monotonic()
            click.echo(f"{_named(step)}; moved so far: {counts(self.total)}", err=True)


def _named(step: Step) -> str:
    first, last = step.slots[0], step.slots[-1]
    return f"slots {first} to {last} of cell {step.source}, to cell {step.target}"
