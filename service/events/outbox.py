"""Numbers the events of all instances (see migration 0035), and reads them for the streams.

Every instance looks for events without a position four times a second. The one that gets the lock
of the feed numbers them. It has a connection of its own, so that slow requests do not delay events.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from time import monotonic
from typing import Final
from uuid import UUID

import msgspec

from service.database.driver import Connection
from service.database.pool import connected
from service.database.statement import Statement
from service.database_errors import DatabaseError, Deadlock, LockTimeout, ReadOnly
from service.events.event import EventRow
from service.events.expiry import expire
from service.events.stream import Streams
from service.observing.supervision import stopped, supervised
from service.settings import Settings

logger = logging.getLogger("viewing_time.events")

TICK_SECONDS: Final = 0.25
STATEMENT_SECONDS: Final = 5.0
MAX_NUMBERED: Final = 5_000  # in one transaction: about 100 ms
EXPIRY_SECONDS: Final = 5.0
MAX_READ: Final = 1_000  # events that one statement reads for all streams
CHECK_SECONDS: Final = 30.0  # between two checks of the accounts that have streams
MAX_CHECKED: Final = 1_000  # accounts in one statement
RECONNECT_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.0)


class FeedRow(msgspec.Struct, frozen=True):
    position: int
    has_new: bool
    is_writable: bool


class OpenedRow(msgspec.Struct, frozen=True):
    position: int


class LockedRow(msgspec.Struct, frozen=True):
    position: int
    webhook_from: int | None
    idle_limit: str


class NumberedRow(msgspec.Struct, frozen=True):
    position: int
    numbered: int


class AccountRow(msgspec.Struct, frozen=True):
    account_id: UUID


READ: Final = Statement("event_feed_read", FeedRow)
OPEN: Final = Statement("event_feed_open", OpenedRow)
LOCK: Final = Statement("event_feed_lock", LockedRow)
NUMBER: Final = Statement("event_number", NumberedRow)
NEW: Final = Statement("event_new", EventRow)
CHECK: Final = Statement("event_account_check", AccountRow)


class Outbox:
    """Numbers events, gives them to the streams, and ends requests whose day is over."""

    def __init__(self, settings: Settings, now: Callable[[], datetime], streams: Streams) -> None:
        self._settings = settings
        self._streams = streams
        self._failures = 0  # in a row
        self._is_first = True  # search on a connection
        self._has_searched = asyncio.Event()
        self._now = now
        self._next_expiry = monotonic() + EXPIRY_SECONDS
        self._next_check = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns after the first search, or after the first failure."""
        self._task = supervised("events", self._run())
        await self._has_searched.wait()

    async def stop(self) -> None:
        await stopped(self._task)

    async def _run(self) -> None:
        while True:
            try:
                async with connected(
                    self._settings, STATEMENT_SECONDS, by_index=True
                ) as connection:
                    await self._work(connection)
            except DatabaseError as error:
                fields = {"error": f"{type(error).__name__}: {error}", "tries": self._failures}
                logger.warning("events_connection_failed", extra={"fields": fields})
            self._has_searched.set()
            await asyncio.sleep(RECONNECT_SECONDS[min(self._failures, len(RECONNECT_SECONDS) - 1)])
            self._failures += 1

    async def _work(self, connection: Connection) -> None:
        """Raises DatabaseError when the connection is lost.

        While a long transaction of another program is open, the database reads every event that was
        numbered since. So a pause is at least four times as long as the statements before it.
        """
        self._is_first = True
        await OPEN.maybe(connection)
        while True:
            began = monotonic()
            await self.search(connection)
            await self._check_accounts(connection, began)
            await self._expire(connection, began)
            self._failures = 0
            self._has_searched.set()
            await asyncio.sleep(max(TICK_SECONDS, 4 * (monotonic() - began)))

    async def search(self, connection: Connection) -> None:
        """Numbers new events, unless another instance does it, and gives them to the streams."""
        feed = await READ.maybe(connection)
        if feed is None:
            await OPEN.maybe(connection)
            return
        if not feed.is_writable:
            raise ReadOnly("the server is read-only")
        if self._is_first or feed.position < (self._streams.position or 0):
            self._restart(feed.position)
        position = max(feed.position, await number(connection) if feed.has_new else 0)
        await self._dispatch(connection, position)

    def _restart(self, position: int) -> None:
        self._is_first = False
        if self._streams.position is not None:
            fields = {"before": self._streams.position, "position": position}
            logger.warning("event_streams_restarted", extra={"fields": fields})
        self._streams.restart(position)

    async def _dispatch(self, connection: Connection, position: int) -> None:
        """Gives the events up to `position`, or later ones, to the streams."""
        streams, count = self._streams, MAX_READ
        while streams.accounts and count == MAX_READ and position > (streams.position or 0):
            rows = await NEW.all(connection, streams.position, MAX_READ)
            streams.add(rows)
            count = len(rows)
        streams.position = max(position, streams.position or 0)

    async def _expire(self, connection: Connection, now: float) -> None:
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRY_SECONDS
            # The connection is kept, because streams end with it; the next search tries again.
            with suppress(LockTimeout, Deadlock):
                await expire(connection, self._now())

    async def _check_accounts(self, connection: Connection, now: float) -> None:
        """Ends the streams of accounts that have become inactive."""
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        accounts = self._streams.accounts
        for first in range(0, len(accounts), MAX_CHECKED):
            page = accounts[first : first + MAX_CHECKED]
            active = {row.account_id for row in await CHECK.all(connection, page)}
            for account_id in set(page) - active:
                self._streams.finish(account_id)


async def number(connection: Connection) -> int:
    """Numbers all committed events, unless another transaction has locked the feed.

    Returns the highest position that it gave, or 0.
    """
    position, numbered = 0, MAX_NUMBERED
    while numbered == MAX_NUMBERED:
        async with connection.transaction():
            # A statement of its own: the next one sees all events committed before the lock.
            if await LOCK.maybe(connection) is None:
                break
            row = await NUMBER.one(connection, MAX_NUMBERED, timeout=STATEMENT_SECONDS)
        position, numbered = row.position, row.numbered
    return position
