"""Deletes accounts, profiles and titles: at once, or in batches if there are many rows.

A deletion that is too large for one request is a row of `pending_deletions` until it is done. Every
instance works on these rows. A batch is one short statement that locks the row, so instances take
turns, and a stop between two batches loses nothing.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from service.database.driver import Connection, Pool
from service.database.pool import connected
from service.database.statement import Statement
from service.database_errors import DatabaseError, Rejected
from service.errors import DELETION_ACCEPTED
from service.observing.supervision import stopped, supervised
from service.settings import Settings

logger = logging.getLogger("viewing_time.deletion")

Kind = Literal["account", "profile", "title"]

MAX_ROWS_AT_ONCE: Final = 5_000  # of each table, in a request: about 50 ms
BATCH_ROWS: Final = 1_000  # of each table: bounds how long a heartbeat waits for one of them
BATCH_SECONDS: Final = 60.0
POLL_SECONDS: Final = 30.0


class DeletedRow(msgspec.Struct, frozen=True):
    """`is_found` without `is_deleted`: there are too many rows, so the deletion is pending."""

    is_active: bool
    is_admin: bool
    is_found: bool
    is_deleted: bool


class AccountDeletedRow(DeletedRow, frozen=True):
    notifications: int


class ProfileDeletedRow(DeletedRow, frozen=True):
    account_id: UUID | None
    notified: str | None


class PendingRow(msgspec.Struct, frozen=True):
    kind: Kind
    id: UUID


class BatchRow(msgspec.Struct, frozen=True):
    is_claimed: bool
    sessions: int
    balances: int
    grants: int
    profiles: int


ACCOUNT: Final = Statement("account_delete", AccountDeletedRow)
PROFILE: Final = Statement("profile_delete", ProfileDeletedRow)
TITLE: Final = Statement("title_delete", DeletedRow)
STATEMENTS: Final[dict[Kind, Statement[Any]]] = {
    "account": ACCOUNT,
    "profile": PROFILE,
    "title": TITLE,
}
PENDING: Final = Statement("deletion_pending", PendingRow)
BATCH: Final = Statement("deletion_batch", BatchRow)


class Accepted(msgspec.Struct, frozen=True):
    """The response to a deletion that is pending."""

    detail: str = DELETION_ACCEPTED.text


async def delete(settings: Settings, kind: Kind, key: UUID, progress: Callable[[int], None]) -> int:
    """Deletes for an operator and returns the number of rows; `progress` gets the number so far.

    Raises LookupError if the record does not exist.
    """
    rows = 0

    def count(batch_rows: int) -> None:
        nonlocal rows
        rows += batch_rows
        progress(rows)

    async with connected(settings, BATCH_SECONDS) as connection:
        if not (await _finish(connection, kind, key)).is_found:
            raise LookupError(key)
        # A running service may work on the same deletion; batches of the two alternate.
        while not await work(connection, kind, key, count):
            await asyncio.sleep(0.1)
            if not (await _finish(connection, kind, key)).is_found:
                break
    return rows


async def work(
    connection: Connection, kind: Kind, key: UUID, progress: Callable[[int], None]
) -> bool:
    """Deletes batch by batch; `progress` gets the rows of each.

    Returns False if another instance is working on it. Sleeps after each batch for as long as it
    took, so that the database spends at most half of its time on deletions.
    """
    while True:
        started_at = monotonic()
        row = await BATCH.one(connection, kind, key, BATCH_ROWS, timeout=BATCH_SECONDS)
        if not row.is_claimed:
            return False
        rows = row.sessions + row.balances + row.grants + row.profiles
        if not rows:
            last = await _finish(connection, kind, key)
            return bool(last.is_deleted or not last.is_found)
        progress(rows)
        await asyncio.sleep(monotonic() - started_at)


async def _finish(connection: Connection, kind: Kind, key: UUID) -> DeletedRow:
    """Deletes the rest, if it is small enough for one statement."""
    row: DeletedRow = await STATEMENTS[kind].one(
        connection, None, True, key, MAX_ROWS_AT_ONCE, timeout=BATCH_SECONDS
    )
    return row


class Deletions:
    """Works on pending deletions: after a request of this instance, and every 30 seconds."""

    def __init__(self, settings: Settings, pool: Pool, outcomes: Counter[str]) -> None:
        self._settings = settings
        self._pool = pool
        self._outcomes = outcomes
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised("deletions", self._run())

    async def stop(self) -> None:
        """Interrupts the running deletion."""
        await stopped(self._task)

    def wake(self) -> None:
        """Called when a deletion has just become pending."""
        self._woken.set()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self._work()
            except DatabaseError as error:
                self._outcomes["failed"] += 1
                logger.warning("deletion_failed", extra={"fields": {"error": str(error)}})

    async def _work(self) -> None:
        pending = await PENDING.all(self._pool)
        if not pending:
            return
        async with connected(self._settings, BATCH_SECONDS) as connection:
            for entry in pending:
                await self._delete(connection, entry)

    async def _delete(self, connection: Connection, entry: PendingRow) -> None:
        """Works on one deletion; it is retried later if a row of another table refers to it."""
        batches: list[int] = []
        fields: dict[str, object] = {"kind": entry.kind}
        try:
            is_done = await work(connection, entry.kind, entry.id, batches.append)
        except Rejected as error:
            fields |= {"error": str(error)}
            self._outcomes["refused"] += 1
            logger.error("deletion_refused", extra={"fields": fields})
            return
        if is_done:
            self._outcomes["done"] += 1
            logger.info("deletion_done", extra={"fields": {**fields, "rows": sum(batches)}})
