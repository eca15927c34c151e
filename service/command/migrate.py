"""The command `migrate`: applies and rolls back; asks before a rollback that does harm."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence

import click

from service.command import environment
from service.command.cell_connections import connected_cells
from service.command.each_cell import end, failures, in_each, say
from service.database import cell_map, cures, migrate
from service.database_errors import DatabaseError
from service.settings import Settings


def apply(cells: Sequence[Settings], *, is_brief: bool = False) -> bool:
    """Applies the pending migrations in every cell; returns whether there were any.

    A brief output counts the migrations instead of listing them. With several cells, they are named
    and get the map of accounts.
    """
    count, made = 0, []

    def apply_to(cell: Settings) -> None:
        nonlocal count
        dsn, variable = environment.place(cell)
        with one_sentence(variable):
            names = migrate.migrate(dsn, cell.database_schema, cell.cell)
        for name in names if not is_brief else ():
            say(cell, f"applied {name}")
        count += len(names)
        made.append(cell)

    failed = failures(cells, apply_to)
    if is_brief and count:
        click.echo(f"Applied {count} migrations.")
    if cells[0].cell:
        failed += asyncio.run(_complete_map(cells, made))
    end(failed)
    return bool(count)


def apply_to_serve(cells: Sequence[Settings]) -> None:
    """Applies likewise; a failure of one of several cells is printed, and the others are served."""
    try:
        apply(cells)
    except click.ClickException as error:
        if not cells[0].cell:
            raise
        error.show()


async def _complete_map(cells: Sequence[Settings], made: Sequence[Settings]) -> list[str]:
    """Completes the map of accounts in the cells that are made; returns sentences of failures."""
    weights = {cell.cell: cell.cell_weight for cell in cells}
    async with connected_cells(made, cell_map.SECONDS) as opened:
        failed = [f"cell {name}: {reason}." for name, reason in opened.down.items()]
        try:
            for sentence in await cell_map.complete(weights, opened.connections):
                click.echo(sentence)
        except cell_map.MapRefused as refusal:
            failed.append(str(refusal))
        except DatabaseError as error:
            failed.append(f"The map of accounts cannot be completed: {cures.sentence(error)}.")
    return failed


def show(cells: Sequence[Settings]) -> None:
    """Lists the migrations of every cell, applied or pending."""

    def show_of(cell: Settings) -> None:
        for name, applied in _listing(cell):
            say(cell, f"{'applied' if applied else 'pending':<8} {name}")

    in_each(cells, show_of)


def _listing(cell: Settings) -> list[tuple[str, bool]]:
    dsn, variable = environment.place(cell)
    with one_sentence(variable):
        return migrate.listing(dsn, cell.database_schema)


def roll_back(cells: Sequence[Settings], target: str | None, *, yes: bool) -> None:
    """Rolls back the latest migration, or `target` and all later ones, in every cell.

    Nothing is rolled back if a cell cannot be reached.
    """
    applied: dict[str, list[str]] = {}

    def read(cell: Settings) -> None:
        applied[cell.cell] = [name for name, is_applied in _listing(cell) if is_applied]

    def roll_back_in(cell: Settings) -> None:
        dsn, variable = environment.place(cell)
        names = []
        if not cell.cell or latest in applied[cell.cell]:
            with one_sentence(variable):
                names = migrate.rollback(
                    dsn,
                    latest or None,
                    lambda plan: yes or _confirmed(plan),
                    cell.database_schema,
                    cell.cell,
                )
        for name in names:
            say(cell, f"rolled back {name}")
        if not names:
            say(cell, "Nothing is applied.")

    latest = target or ""
    if cells[0].cell:
        in_each(cells, read)
        everywhere = {name for names in applied.values() for name in names}
        latest = latest or max(everywhere, default="")
        if target and target not in everywhere:
            raise click.ClickException(f"Migration {target} is not applied.")
    in_each(cells, roll_back_in)


def _confirmed(plan: migrate.Plan) -> bool:
    """Asks before a rollback that breaks a running service, or drops what this version needs."""
    harm = [
        f"{name} drops what this version needs: {', '.join(dropped)}."
        for name, dropped in plan.harmful.items()
    ]
    if plan.services:
        harm.append(f"A service is running: it has {plan.services} open connections.")
    if not harm:
        return True
    for sentence in harm:
        click.echo(sentence, err=True)
    names = ", ".join(plan.ids)
    if not _is_interactive():
        raise click.ClickException(
            f"Nothing was rolled back; pass --yes to roll back {names} anyway."
        )
    return click.confirm(f"Roll back {names}?", abort=True, err=True)


def _is_interactive() -> bool:
    """Whether standard input is a terminal, where a person can answer."""
    return sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def one_sentence(variable: str) -> Iterator[None]:
    """Turns errors of a migration into one sentence."""
    try:
        yield
    except migrate.UnreachableError as error:
        raise click.ClickException(
            f"Cannot use the database at {variable}: {error.reason}."
        ) from error
    except migrate.MigrationError as error:
        raise click.ClickException(str(error)) from error
