"""The map of slots, which every cell has: made once, then completed where cells lack rows.

A cell without a map is new. It gets the titles before the map, so another run continues an
interrupted copy.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from service.database import cell_titles
from service.database.cells import LIST_SLOTS, SLOTS
from service.database.driver import Connection
from service.database.statement import Statement


class HasAccountsRow(msgspec.Struct, frozen=True):
    has_accounts: bool


class NoRow(msgspec.Struct, frozen=True):
    pass


HAS_ACCOUNTS: Final = Statement("cell_has_accounts", HasAccountsRow)
WRITE: Final = Statement("cell_slots_write", NoRow)
SECONDS: Final = 60.0
FIRST_EPOCH: Final = 1

Map = dict[int, tuple[int, str]]  # by slot: epoch and cell


class MapRefused(Exception):
    """The map cannot be made or used; one sentence."""


async def complete(weights: Mapping[str, int], connections: Mapping[str, Connection]) -> list[str]:
    """Gives every reached cell the newest map, or makes the first; returns sentences about it.

    `weights` has all cells. Raises MapRefused.
    """
    known = {name: await read(connection) for name, connection in connections.items()}
    newest = merged(known)
    refuse_others(newest, weights)
    sentences = []
    if not newest:
        if missing := [name for name in weights if name not in connections]:
            raise MapRefused(
                f"Accounts are assigned to cells when all can be used; {missing[0]} cannot."
            )
        newest, sentence = await _made(weights, connections)
        sentences.append(sentence)
    if len(newest) != SLOTS:
        raise MapRefused(f"The cells know where {len(newest):,} of {SLOTS:,} slots are, not all.")
    source = next((name for name in connections if known[name]), newest[0][1])
    for name, connection in connections.items():
        if not known[name] and name != source:
            count = await cell_titles.copy(connections[source], connection)
            sentences.append(f"Cell {name} has received {count:,} titles.")
        rows = {
            slot: place for slot, place in newest.items() if known[name].get(slot, (0,)) < place
        }
        if rows:
            cells, epochs = (
                [cell for _, cell in rows.values()],
                [epoch for epoch, _ in rows.values()],
            )
            await WRITE.maybe(connection, [*rows], cells, epochs)
            sentences.append(f"Cell {name} has received {len(rows):,} slots of the map.")
    return sentences


async def read(connection: Connection) -> Map:
    """The map as one cell knows it."""
    return {row.slot: (row.epoch, row.cell) for row in await LIST_SLOTS.all(connection)}


def merged(known: Mapping[str, Map]) -> Map:
    """The newest row of each slot."""
    newest: Map = {}
    for each in known.values():
        for slot, place in each.items():
            newest[slot] = max(newest.get(slot, place), place)
    return newest


def refuse_others(newest: Map, cells: Collection[str]) -> None:
    """Raises MapRefused if a cell has slots, and is not one of `cells`."""
    for cell, count in sorted(Counter(cell for _, cell in newest.values()).items()):
        if cell not in cells:
            raise MapRefused(f"CELLS_FILE has no cell {cell}, which has {count:,} of 1,024 slots.")


async def _made(
    weights: Mapping[str, int], connections: Mapping[str, Connection]
) -> tuple[Map, str]:
    """The first map, and a sentence about it."""
    used = [
        name
        for name, connection in connections.items()
        if (await HAS_ACCOUNTS.one(connection, timeout=SECONDS)).has_accounts
    ]
    if len(used) > 1:
        raise MapRefused(
            f"Cells {used[0]} and {used[1]} both have accounts already, and only one cell may "
            "when accounts are first assigned to cells."
        )
    counts = shares(weights, {})
    owners = used * SLOTS or [name for name in weights for _ in range(counts[name])]
    sentence = (
        f"All accounts are in cell {used[0]}; `viewing-time cells spread` shares them."
        if used
        else "Accounts are shared by weight among the cells."
    )
    return {slot: (FIRST_EPOCH, cell) for slot, cell in enumerate(owners)}, sentence


def shares(weights: Mapping[str, int], has: Mapping[str, int]) -> dict[str, int]:
    """How many slots each cell should have; what division leaves goes where fewest slots move."""
    total = sum(weights.values())
    result = {name: SLOTS * weight // total for name, weight in weights.items()}

    def rank(name: str) -> tuple[int, bool]:
        return -(SLOTS * weights[name] % total), has.get(name, 0) <= result[name]

    for name in sorted(weights, key=rank)[: SLOTS - sum(result.values())]:
        result[name] += 1
    return result
