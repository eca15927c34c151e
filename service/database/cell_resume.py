"""Prepares a command that moves accounts: locks out others, and ends interrupted moves."""

from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

import msgspec

from service.database.cell_moves import MAX_SECONDS, SETTLE, Cell, NotMoved, discard
from service.database.statement import Statement

MAX_ARRIVING: Final = 500  # copies that are deleted at a time


class LockRow(msgspec.Struct, frozen=True):
    is_locked: bool
    seqscan: str


class MovedRow(msgspec.Struct, frozen=True):
    account_id: UUID
    epoch: int


class ArrivingRow(msgspec.Struct, frozen=True):
    account_id: UUID
    source: str


class ObstacleRow(msgspec.Struct, frozen=True):
    name: str


LOCK: Final = Statement("cell_move_lock", LockRow)
MOVED: Final = Statement("cell_move_moved", MovedRow)
OBSTACLE: Final = Statement("cell_move_obstacle", ObstacleRow)
ARRIVING: Final = Statement("cell_move_arriving", ArrivingRow)


async def lock(cells: Iterable[Cell]) -> None:
    """Locks out other commands until the connections end; raises NotMoved."""
    for cell in cells:
        if not (await LOCK.one(cell.connection, cell.name, timeout=MAX_SECONDS)).is_locked:
            raise NotMoved(f"another command moves accounts of cell {cell.name}")


async def check_obstacles(cell: Cell) -> None:
    """Raises NotMoved if accounts have rows in tables of the platform."""
    if row := await OBSTACLE.maybe(cell.connection):
        raise NotMoved(
            f"table {row.name} of cell {cell.name} refers to accounts, and its rows are not moved "
            "with them: drop its foreign key"
        )


async def resume(cells: Mapping[str, Cell], target: Cell) -> tuple[int, int]:
    """Ends the interrupted moves to a cell; returns how many, and how many must wait.

    Those wait whose source does not answer, because only the source knows whether they have moved.
    """
    rows = await ARRIVING.all(target.connection, 2**31 - 1)
    waiting = sum(row.source not in cells for row in rows)
    for source in cells.values():
        theirs = [row.account_id for row in rows if row.source == source.name]
        for first in range(0, len(theirs), MAX_ARRIVING):
            page = theirs[first : first + MAX_ARRIVING]
            moved = await MOVED.all(source.connection, page, target.name)
            for row in moved:
                await SETTLE.all(target.connection, [row.account_id], target.name, row.epoch)
            await discard(target, page)
    return len(rows) - waiting, waiting
