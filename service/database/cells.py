"""Which cell an account is in: the map of slots, and the accounts that were moved on their own.

See migration 0038. A process reads the map of every cell that it reaches, and corrects it when a
cell answers that an account is elsewhere, so it needs no message about a move.
"""

import asyncio
import sys
from collections.abc import Collection
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

from service.database.driver import Source
from service.database.statement import Statement
from service.database_errors import DatabaseError, WrongTables

SLOTS: Final = 1024
MAX_PAGE: Final = 1_000  # accounts in one answer, and between two turns of other tasks
UNDEFINED_TABLE: Final = "42P01"  # SQLSTATE


class NameRow(msgspec.Struct, frozen=True):
    name: str


class StateRow(msgspec.Struct, frozen=True):
    state: str


class SlotRow(msgspec.Struct, frozen=True):
    slot: int
    cell: str
    epoch: int


class AccountRow(msgspec.Struct, frozen=True):
    account_id: UUID
    cell: str
    epoch: int


class PlaceRow(msgspec.Struct, frozen=True):
    account_cell: str | None
    account_epoch: int | None
    has_entry: bool
    slot_cell: str | None
    slot_epoch: int | None


class DoubledRow(msgspec.Struct, frozen=True):
    accounts: int


DOUBLED: Final = Statement("check_cell_accounts", DoubledRow)
NAME: Final = Statement("cell_name", NameRow)
STATE: Final = Statement("cell_map_state", StateRow)
LIST_SLOTS: Final = Statement("cell_slots", SlotRow)
LIST_ACCOUNTS: Final = Statement("cell_accounts", AccountRow)
FIND: Final = Statement("cell_of_account", PlaceRow)


def slot(account_id: UUID) -> int:
    """The slot of an account, from 0 to 1023: as `viewing_cell_slot` of migration 0038."""
    digest = sha256(account_id.bytes).digest()
    return digest[0] * 4 + digest[1] // 64


async def check_name(source: Source, cell: str) -> None:
    """Raises WrongTables if the tables are not those of this cell; "" is a service with one."""
    try:
        row = await NAME.maybe(source)
    except DatabaseError as error:
        if error.sqlstate != UNDEFINED_TABLE:
            raise
        row = None
    name = "" if row is None else row.name
    if name == cell:
        return
    if not cell:
        raise WrongTables(f"the tables are cell {name} of several: set CELLS_FILE")
    if not name:
        raise WrongTables(f"cell {cell} is not made yet: run `viewing-time migrate`")
    raise WrongTables(f"the database of cell {cell} answers as cell {name}: correct CELLS_FILE")


async def check_accounts(source: Source, cell: str) -> None:
    """Raises WrongTables if an account is in this cell and in another one, as the entries say."""
    row = await DOUBLED.maybe(source)
    if row is not None and row.accounts:
        raise WrongTables(
            f"{row.accounts:,} accounts are in cell {cell} and in another one: delete them from "
            "the one that does not have their latest viewing"
        )


class Directory:
    """Where accounts are, as far as this process knows."""

    def __init__(self) -> None:
        self._slots: list[tuple[int, str]] = [(-1, "")] * SLOTS  # epoch and cell
        self._accounts: dict[int, tuple[int, str]] = {}  # by `UUID.int`, which needs least memory
        self._states: dict[str, StateRow | None] = {}  # of the cells that were read

    def cell(self, account_id: UUID) -> str:
        """The name of the account's cell; empty if no reachable cell knows it."""
        place = self._accounts.get(account_id.int) if self._accounts else None
        return (place or self._slots[slot(account_id)])[1]

    @property
    def cells(self) -> set[str]:
        """Every cell that has a slot or an account; "" has the slots that no cell knows."""
        return {cell for _, cell in [*self._slots, *self._accounts.values()]}

    def check(self, names: Collection[str]) -> None:
        """Raises WrongTables if the map is not that of the cells with these names."""
        if "" in self.cells:
            raise WrongTables("the cells have no map: run `viewing-time migrate`")
        if missing := sorted(self.cells.difference(names)):
            slots = sum(cell == missing[0] for _, cell in self._slots)
            raise WrongTables(
                f"CELLS_FILE has no cell {missing[0]}, which has {slots} of {SLOTS} slots: add it"
            )

    async def read(self, source: Source, cell: str) -> bool:
        """Adds what a cell knows; False if nothing there has changed since it was read."""
        state = await STATE.maybe(source)
        if cell in self._states and self._states[cell] == state:
            return False
        for row in await LIST_SLOTS.all(source):
            self._adopt_slot(row.slot, row.epoch, row.cell)
        await self._forget_implied(cell)
        last, count = UUID(int=0), MAX_PAGE
        while count == MAX_PAGE:
            rows = await LIST_ACCOUNTS.all(source, last, MAX_PAGE)
            for account in rows:
                self._adopt_account(account.account_id, account.epoch, account.cell)
            count = len(rows)
            last = rows[-1].account_id if rows else last
        self._states[cell] = state
        return True

    async def _forget_implied(self, cell: str) -> None:
        """Forgets accounts of a cell that has their slot: it may have deleted their entries."""
        for number, account in enumerate([*self._accounts], 1):
            place = self._accounts.get(account)  # another task may have changed it
            if place and place[1] == cell == self._slots[slot(UUID(int=account))][1]:
                del self._accounts[account]
            if not number % MAX_PAGE:
                await asyncio.sleep(0)

    async def find(self, source: Source, account_id: UUID) -> None:
        """Adds what a cell that did not find an account knows about its place."""
        number = slot(account_id)
        row = await FIND.maybe(source, account_id, number)
        if row is not None and row.slot_cell is not None and row.slot_epoch is not None:
            self._adopt_slot(number, row.slot_epoch, row.slot_cell)
        if row is not None and row.account_cell is not None and row.account_epoch is not None:
            self._adopt_account(account_id, row.account_epoch, row.account_cell)
        elif row is not None and not row.has_entry:  # it was deleted as equal to the map
            self._accounts.pop(account_id.int, None)

    def _adopt_slot(self, number: int, epoch: int, cell: str) -> None:
        self._slots[number] = max(self._slots[number], (epoch, cell))

    def _adopt_account(self, account_id: UUID, epoch: int, cell: str) -> None:
        place = (epoch, sys.intern(cell))
        self._accounts[account_id.int] = max(self._accounts.get(account_id.int, place), place)
