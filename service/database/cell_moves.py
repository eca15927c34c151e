"""Moves accounts from one cell to another, while services run.

The source's transaction locks all rows of the accounts, so that heartbeats wait. It stays open
while the target's transaction writes the rows, reads them back and commits. Then the source's
transaction deletes its rows, and its commit is the switch: until then the accounts are in the
source, after it in the target. A process that dies before the switch leaves a copy that `arrives`
in the target; `resume` deletes it. After the switch, `resume` notes that the accounts have arrived.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from service.database.driver import Connection
from service.database.pool import limited
from service.database.statement import Statement
from service.database_errors import (
    DatabaseError,
    Deadlock,
    LockTimeout,
    Rejected,
    UniqueViolation,
)

MAX_SECONDS: Final = 30.0  # of a statement, and of the two transactions of a move
MAX_ATTEMPTS: Final = 20  # while other transactions hold rows of the accounts
RETRY_SECONDS: Final = 0.02  # after the first attempt; longer after each further one


class HeldRow(msgspec.Struct, frozen=True):
    is_held: bool


class CheckRow(msgspec.Struct, frozen=True):
    account_id: UUID
    is_here: bool
    is_admin: bool
    is_pending: bool
    has_others: bool
    moved_to: str | None
    epoch: int


class TableRow(msgspec.Struct, frozen=True):
    name: str
    contents: str
    rows: int
    seconds: int


class CountRow(msgspec.Struct, frozen=True):
    rows: int


class EpochRow(msgspec.Struct, frozen=True):
    epoch: int


class ClaimedRow(msgspec.Struct, frozen=True):
    locks: int


class NotifiedRow(msgspec.Struct, frozen=True):
    notifications: int


class AccountRow(msgspec.Struct, frozen=True):
    account_id: UUID


HOLD: Final = Statement("cell_move_hold", HeldRow)
CHECK: Final = Statement("cell_move_check", CheckRow)
READ: Final = Statement("cell_move_read", TableRow)
DISCARD: Final = Statement("cell_move_discard", CountRow)
ARRIVE: Final = Statement("cell_move_arrive", EpochRow)
WRITE: Final = Statement("cell_move_write", CountRow)
CLAIM: Final = Statement("cell_move_claim", ClaimedRow)
LEAVE: Final = Statement("cell_move_leave", NotifiedRow)
REMOVE: Final = Statement("cell_move_remove", CountRow)
SETTLE: Final = Statement("cell_move_settle", AccountRow)


class Cell(NamedTuple):
    """A cell that answers."""

    name: str
    connection: Connection


class Moved(NamedTuple):
    accounts: int
    sessions: int
    seconds: int

    def plus(self, other: "Moved") -> "Moved":
        return Moved(*map(sum, zip(self, other, strict=True)))


class NotMoved(Exception):
    """Why accounts stay where they are, in one sentence."""


async def move_all(
    source: Cell, target: Cell, accounts: Sequence[UUID], refused: dict[UUID, str]
) -> Moved:
    """Moves accounts together, or in ever smaller parts if one of them cannot be moved.

    Adds those to `refused`, with the reason. Raises DatabaseError.
    """
    try:
        return await move(source, target, accounts)
    except NotMoved as reason:
        if len(accounts) == 1:
            refused[accounts[0]] = str(reason)
            return Moved(0, 0, 0)
    half = len(accounts) // 2
    first = await move_all(source, target, accounts[:half], refused)
    return first.plus(await move_all(source, target, accounts[half:], refused))


async def move(source: Cell, target: Cell, accounts: Sequence[UUID]) -> Moved:
    """Moves accounts in one step; raises NotMoved if one of them cannot be, DatabaseError.

    Other transactions go first: if they hold rows, it is tried again.
    """
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            await asyncio.sleep(attempt * RETRY_SECONDS)
        try:
            moved, epoch = await _switch(source, target, accounts)
        except (LockTimeout, Deadlock):
            continue
        except Rejected as error:
            raise NotMoved(_sentence(target, error)) from error
        await SETTLE.all(target.connection, accounts, target.name, epoch)
        return moved
    raise NotMoved(f"other transactions held its rows each of {MAX_ATTEMPTS} times")


async def _switch(source: Cell, target: Cell, accounts: Sequence[UUID]) -> tuple[Moved, int]:
    """The source's transaction; returns what was moved, and the epoch of the entries."""
    connection = source.connection
    async with limited(connection, MAX_SECONDS):
        if not (await HOLD.one(connection, accounts, timeout=MAX_SECONDS)).is_held:
            raise LockTimeout("a profile was added meanwhile")
        epoch = _epoch(await CHECK.all(connection, accounts))
        tables = await READ.all(connection, accounts, False)
        try:
            epoch = await _copy(source, target, accounts, epoch, tables)
            await LEAVE.maybe(connection, accounts, target.name, epoch)
            removed = await REMOVE.one(connection, accounts, timeout=MAX_SECONDS)
            if removed.rows != _total(tables):
                raise LockTimeout("another transaction changed rows meanwhile")
        except (DatabaseError, NotMoved):
            # The source has the accounts, because its transaction cannot commit any more.
            with suppress(DatabaseError):
                await discard(target, accounts)
            raise
    sessions = next(table for table in tables if table.name == "viewing_sessions")
    return Moved(len(accounts), sessions.rows, sessions.seconds), epoch


async def _copy(
    source: Cell, target: Cell, accounts: Sequence[UUID], epoch: int, tables: list[TableRow]
) -> int:
    """The target's transaction; returns the epoch of the entries. Raises NotMoved."""
    connection = target.connection
    async with limited(connection, MAX_SECONDS):
        await DISCARD.one(connection, accounts, timeout=MAX_SECONDS)
        arrived = await ARRIVE.one(connection, accounts, source.name, epoch, timeout=MAX_SECONDS)
        names, contents = zip(*((table.name, table.contents) for table in tables), strict=True)
        await WRITE.one(connection, names, contents, timeout=MAX_SECONDS)
        await CLAIM.one(connection, accounts, timeout=MAX_SECONDS)
        copies = {copy.name: copy for copy in await READ.all(connection, accounts, True)}
        for table in tables:
            if table.name != "titles" and table != copies[table.name]:
                raise NotMoved(
                    f"table {table.name} of cell {target.name} does not store its rows as cell "
                    f"{source.name} does: give both the same columns"
                )
    return arrived.epoch


def _total(tables: Iterable[TableRow]) -> int:
    return sum(table.rows for table in tables if table.name != "titles")


def _epoch(rows: list[CheckRow]) -> int:
    """The epoch of the next entries; raises NotMoved if one of the accounts cannot be moved."""
    for row in rows:
        if row.moved_to:
            raise NotMoved(f"it has been moved to cell {row.moved_to}")
        if not row.is_here:
            raise NotMoved("it is not there")
        if row.is_admin:
            raise NotMoved("it is an administrator's")
        if row.is_pending:
            raise NotMoved("it, or a profile of it, is being deleted: move it after that")
        if row.has_others:
            raise NotMoved("grants connect it with another account")
    return max(row.epoch for row in rows)


def _sentence(target: Cell, error: Rejected) -> str:
    """Why a cell refuses rows of an account; no value, because it can be a secret."""
    if isinstance(error, UniqueViolation) and "email" in error.constraint:
        return f"another account of cell {target.name} has its e-mail address"
    if isinstance(error, UniqueViolation) and error.constraint == "profiles_pkey":
        return f"another account of cell {target.name} has a profile with the id of one of its"
    return f"cell {target.name} refuses its rows: {error.constraint or error.column or error}"


async def discard(target: Cell, accounts: Sequence[UUID]) -> None:
    """Deletes copies that an attempt has left, of accounts that the source still has."""
    await DISCARD.one(target.connection, accounts, timeout=MAX_SECONDS)
