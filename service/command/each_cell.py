"""A command in every cell: its output names the cell, and a failure keeps no other cell waiting."""

from collections.abc import Callable, Sequence

import click

from service.settings import Settings


def say(cell: Settings, text: str) -> None:
    """Prints a line about a cell, which is named if there are several."""
    click.echo(f"cell {cell.cell}: {text}" if cell.cell else text)


def failures(cells: Sequence[Settings], run: Callable[[Settings], None]) -> list[str]:
    """Runs in every cell; returns a sentence for each that failed."""
    failed = []
    for cell in cells:
        try:
            run(cell)
        except click.ClickException as error:
            if not cell.cell:
                raise
            failed.append(f"cell {cell.cell}: {error.message}")
    return failed


def end(failed: list[str]) -> None:
    """Raises ClickException if something failed."""
    if failed:
        raise click.ClickException("\n".join(failed))


def in_each(cells: Sequence[Settings], run: Callable[[Settings], None]) -> None:
    """Runs in every cell; raises ClickException at the end if one failed."""
    end(failures(cells, run))
