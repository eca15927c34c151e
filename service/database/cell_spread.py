"""Moves accounts until each cell has its share of the slots, by weight.

A slot is given away when its accounts have been moved, by the cell that has it; the other cells
receive the new map after that. An interrupted run leaves accounts of a slot in both cells, each
with an entry that says where it is. The next run has the same plan for what is left.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from service.database import cell_map
from service.database.cell_moves import AccountRow as IdRow
from service.database.cell_moves import Cell, Moved, move_all
from service.database.cells import MAX_PAGE, AccountRow
from service.database.driver import translated
from service.database.statement import Statement

MAX_SLOTS: Final = 32  # that are given away together
MAX_ACCOUNTS: Final = 100  # that are moved together
MAX_ROUNDS: Final = 5  # while accounts are made in the slots
NO_ACCOUNT: Final = UUID(int=0)


class SlotAccountRow(msgspec.Struct, frozen=True):
    account_id: UUID
    size: int
    is_admin: bool


class GivenRow(msgspec.Struct, frozen=True):
    slot: int


ACCOUNTS: Final = Statement("cell_slot_accounts", SlotAccountRow)
HOLD: Final = Statement("cell_slots_hold", GivenRow)
GIVE: Final = Statement("cell_slots_give", GivenRow)
KEEP: Final = Statement("cell_entries_keep", IdRow)
ENTRIES: Final = Statement("cell_entries_list", AccountRow)
ADOPT_ENTRIES: Final = Statement("cell_entries_adopt", IdRow)
IMPLIED: Final = Statement("cell_entries_implied", IdRow)
DROP: Final = Statement("cell_entries_drop", IdRow)


class Step(NamedTuple):
    """Slots that one cell gives to another."""

    source: str
    target: str
    slots: list[int]


Progress = Callable[[Step, Moved], None]


async def known_slots(cells: Mapping[str, Cell]) -> cell_map.Map:
    """The map that the cells have together."""
    known = {cell.name: await cell_map.read(cell.connection) for cell in cells.values()}
    return cell_map.merged(known)


async def agreed(cells: Mapping[str, Cell]) -> cell_map.Map:
    """The map that the cells have together; writes it to each of them."""
    newest = await known_slots(cells)
    epochs, names = zip(*newest.values(), strict=True) if newest else ((), ())
    for cell in cells.values():
        await cell_map.WRITE.maybe(cell.connection, [*newest], names, epochs)
    return newest


def plan(weights: Mapping[str, int], newest: cell_map.Map) -> list[Step]:
    """The fewest slots to move, in steps of at most MAX_SLOTS; the same for the same map."""
    slots = {slot: cell for slot, (_, cell) in newest.items()}
    has = Counter(slots.values())
    wanted = cell_map.shares(weights, has)
    free = [name for name in weights for _ in range(has[name], wanted[name])]
    surplus = [
        (source, slot)
        for source in weights
        for slot in sorted(slot for slot in slots if slots[slot] == source)[wanted[source] :]
    ]
    moves = [(source, target, slot) for (source, slot), target in zip(surplus, free, strict=False)]
    steps = []
    for (source, target), group in groupby(moves, key=lambda move: move[:2]):
        numbers = [slot for *_, slot in group]
        for first in range(0, len(numbers), MAX_SLOTS):
            steps.append(Step(source, target, numbers[first : first + MAX_SLOTS]))
    return steps


async def give(
    source: Cell, target: Cell, slots: Sequence[int], max_rows: int, progress: Progress
) -> dict[UUID, str]:
    """Moves the accounts of slots and gives the slots away; returns accounts that cannot be moved.

    Their slots stay too. Raises DatabaseError.
    """
    refused: dict[UUID, str] = {}
    for _ in range(MAX_ROUNDS):
        await _move_accounts(source, target, slots, refused, max_rows, progress)
        await _copy_entries(source, target, slots)
        with translated(source.connection):
            async with source.connection.transaction():
                held = [row.slot for row in await HOLD.all(source.connection, slots, source.name)]
                given = await GIVE.all(source.connection, held, target.name)
        await agreed({cell.name: cell for cell in (source, target)})
        slots = sorted({*held} - {row.slot for row in given})
        if not slots or refused:
            return refused
    return {NO_ACCOUNT: "new accounts are made faster than they can be moved"}


async def _move_accounts(
    source: Cell,
    target: Cell,
    slots: Sequence[int],
    refused: dict[UUID, str],
    max_rows: int,
    progress: Progress,
) -> None:
    after, count = NO_ACCOUNT, MAX_PAGE
    while count == MAX_PAGE:
        page = await ACCOUNTS.all(source.connection, slots, after, MAX_PAGE)
        await KEEP.all(source.connection, [row.account_id for row in page if row.is_admin])
        for batch in _batches([row for row in page if not row.is_admin], max_rows):
            moved = await move_all(source, target, batch, refused)
            progress(Step(source.name, target.name, [*slots]), moved)
        after, count = page[-1].account_id if page else after, len(page)


def _batches(page: Sequence[SlotAccountRow], max_rows: int) -> Iterator[list[UUID]]:
    """Accounts with at most `max_rows` rows together, or one account."""
    batch: list[UUID] = []
    rows = 0
    for row in page:
        if batch and (rows + row.size > max_rows or len(batch) == MAX_ACCOUNTS):
            yield batch
            batch, rows = [], 0
        batch.append(row.account_id)
        rows += row.size
    if batch:
        yield batch


async def _copy_entries(source: Cell, target: Cell, slots: Sequence[int]) -> None:
    """Copies the entries of accounts of these slots that are in further cells."""
    rows = await ENTRIES.all(source.connection, slots)
    rows = [row for row in rows if row.cell != target.name]
    columns = [[getattr(row, name) for row in rows] for name in ("account_id", "cell", "epoch")]
    await ADOPT_ENTRIES.all(target.connection, *columns)


async def tidy(cells: Mapping[str, Cell]) -> None:
    """Deletes entries that say the same as the map, in the account's cell last.

    Until then a later run finds them there. Only if every cell answers: an older entry in another
    one would count again.
    """
    for cell in cells.values():
        while rows := await IMPLIED.all(cell.connection, MAX_PAGE):
            accounts = [row.account_id for row in rows]
            for other in (*(each for each in cells.values() if each is not cell), cell):
                await DROP.all(other.connection, accounts)
