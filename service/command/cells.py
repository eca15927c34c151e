"""The commands `cells list` and `cells move-account`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from uuid import UUID

import click
import msgspec

from service import database_url
from service.cells_file import cells
from service.command.cell_connections import connected_cells
from service.database import cell_moves, cell_resume, cell_spread, cures, schema
from service.database.cell_moves import Cell, Moved, NotMoved
from service.database.statement import Statement
from service.database_errors import DatabaseError
from service.settings import Settings, SettingsError

SetUp = Callable[[], Settings]


class CensusRow(msgspec.Struct, frozen=True):
    accounts: int
    moved_in: int
    moved_out: int
    mirrors: int
    arriving: int


CENSUS: Final = Statement("cell_census", CensusRow)


@click.group("cells")
def cells_command() -> None:
    """List the cells of CELLS_FILE, and move accounts between them."""


@cells_command.command("list")
@click.pass_obj
def list_command(set_up: SetUp) -> None:
    """List the cells, where they are and what they have; exit 1 if one does not answer."""
    every = all_cells(set_up())
    with one_sentence():
        is_complete = asyncio.run(_list(every))
    raise click.exceptions.Exit(not is_complete)


async def _list(every: Sequence[Settings]) -> bool:
    async with opened(every) as found:
        slots = [cell for _, cell in (await cell_spread.known_slots(found.up)).values()]
        for settings in every:
            name = settings.cell
            if name in found.up:
                state = await _described(found.up[name], slots.count(name))
            else:
                state = f"does not answer: {found.down[name]}"
            click.echo(f"{name} (weight {settings.cell_weight}, {_place(settings)}): {state}")
        return not found.down


async def census(cell: Cell) -> CensusRow:
    """Counts the accounts of a cell; raises DatabaseError."""
    return await CENSUS.one(cell.connection, timeout=cell_moves.MAX_SECONDS)


async def _described(cell: Cell, slots: int) -> str:
    """The contents of a cell."""
    state = await schema.state(cell.connection)
    row = await census(cell)
    facts = [
        f"{slots:,} slots",
        f"{row.accounts:,} accounts",
        f"{row.moved_in:,} moved here",
        f"{row.moved_out:,} moved away",
    ]
    if row.mirrors:
        facts.append(f"{row.mirrors:,} administrators of other cells")
    if row.arriving:
        facts.append(f"{row.arriving:,} copies of an interrupted move, which the next one removes")
    return ", ".join([*facts, state.error or "schema of this version"])


def _place(settings: Settings) -> str:
    """The host, database and schema of a cell, without a password."""
    address = database_url.read(settings.database_url)
    where = f"{','.join(host for host, _ in address.hosts)}/{address.database}"
    return f"{where} schema {settings.database_schema}" if settings.database_schema else where


@cells_command.command("move-account")
@click.argument("account", type=click.UUID)
@click.option("--to", "target", metavar="CELL", required=True, help="The cell to move it to.")
@click.pass_obj
def move_command(set_up: SetUp, account: UUID, target: str) -> None:
    """Move ACCOUNT with all that belongs to it to another cell, while services run."""
    every = all_cells(set_up())
    if target not in [settings.cell for settings in every]:
        raise click.ClickException(f"CELLS_FILE has no cell {target}.")
    with one_sentence():
        click.echo(asyncio.run(_move(every, account, target)))


async def _move(every: Sequence[Settings], account: UUID, target: str) -> str:
    async with opened(every) as found:
        if target in found.down:
            raise NotMoved(f"cell {target} does not answer: {found.down[target]}")
        await begin(found)
        homes = [
            cell
            for cell in found.up.values()
            if (await cell_moves.CHECK.all(cell.connection, [account]))[0].is_here
        ]
        if not homes:
            others = f"; cells {', '.join(found.down)} do not answer" if found.down else ""
            raise NotMoved(f"no cell has it{others}")
        if homes == [found.up[target]]:
            return f"The account is in cell {target} already."
        moved = await cell_moves.move(homes[0], found.up[target], [account])
        if not found.down:
            await cell_spread.tidy(found.up)
        return f"moved from cell {homes[0].name} to cell {target}, and verified: {counts(moved)}"


class OpenCells(msgspec.Struct, frozen=True):
    """The cells that answer, by name, and why the others do not."""

    up: dict[str, Cell]
    down: dict[str, str]


@asynccontextmanager
async def opened(every: Sequence[Settings]) -> AsyncIterator[OpenCells]:
    async with connected_cells(every, cell_moves.MAX_SECONDS) as found:
        up = {name: Cell(name, connection) for name, connection in found.connections.items()}
        yield OpenCells(up, found.down)


async def begin(found: OpenCells) -> list[str]:
    """Locks out other commands and ends interrupted moves; returns sentences about those that wait.

    Raises NotMoved.
    """
    await cell_resume.lock(found.up.values())
    sentences = []
    for cell in found.up.values():
        await cell_resume.check_obstacles(cell)
        ended, waiting = await cell_resume.resume(found.up, cell)
        if ended:
            click.echo(f"cell {cell.name}: ended {ended:,} interrupted moves", err=True)
        if waiting:
            sentences.append(
                f"Cell {cell.name} has copies of {waiting:,} accounts whose cell does not answer; "
                "they are kept until it does."
            )
    return sentences


def counts(moved: Moved) -> str:
    return (
        f"{moved.accounts:,} accounts, {moved.sessions:,} sessions with {moved.seconds:,} seconds"
    )


def all_cells(settings: Settings) -> tuple[Settings, ...]:
    """The settings of several cells."""
    try:
        every = cells(settings)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    if not every[0].cell:
        raise click.ClickException("CELLS_FILE is not set, so there is one cell.")
    return every


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turns errors into one sentence and exit code 1."""
    try:
        yield
    except NotMoved as reason:
        raise click.ClickException(f"Nothing was moved: {reason}.") from reason
    except DatabaseError as error:
        raise click.ClickException(f"Cannot use a cell: {cures.sentence(error)}.") from error
