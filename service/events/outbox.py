"""Numbers the events of all instances: see migration 0035.

Every instance looks for events without a position four times a second. The one that gets the lock
of the feed numbers them. It has a connection of its own, so that slow requests do not delay events.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Final

import msgspec

from service.database.driver import Connection
from service.database.pool import connected
from service.database.statement import Statement
from service.database_errors import DatabaseError, ReadOnly
from service.events.expiry import expire
from service.observing.supervision import stopped, supervised
from service.settings import Settings

logger = logging.getLogger("viewing_time.events")

TICK_SECONDS: Final = 0.25
EXPIRY_SECONDS: Final = 5.0
STATEMENT_SECONDS: Final = 5.0
MAX_NUMBERED: Final = 5_000  # in one transaction: about 100 ms
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


READ: Final = Statement("event_feed_read", FeedRow)
OPEN: Final = Statement("event_feed_open", OpenedRow)
LOCK: Final = Statement("event_feed_lock", LockedRow)
NUMBER: Final = Statement("event_number", NumberedRow)


class Outbox:
    """Numbers events, and ends requests whose day is over, until it is stopped."""

    def __init__(self, settings: Settings, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._now = now
        self._next_expiry = monotonic() + EXPIRY_SECONDS
        self._failures = 0  # in a row
        self._has_searched = asyncio.Event()
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
        while True:
            began = monotonic()
            await self.tick(connection)
            self._failures = 0
            self._has_searched.set()
            if began >= self._next_expiry:
                self._next_expiry = began + EXPIRY_SECONDS
                await expire(connection, self._now())
            await asyncio.sleep(max(TICK_SECONDS, 4 * (monotonic() - began)))

    async def tick(self, connection: Connection) -> None:
        """Numbers new events, if there are any and no other instance is doing it."""
        feed = await READ.maybe(connection)
        if feed is None:
            await OPEN.maybe(connection)
        elif not feed.is_writable:
            raise ReadOnly("the server is read-only")
        elif feed.has_new:
            await number(connection)


async def number(connection: Connection) -> None:
    """Numbers all committed events, unless another transaction has locked the feed."""
    numbered = MAX_NUMBERED
    while numbered == MAX_NUMBERED:
        async with connection.transaction():
            # A statement of its own: the next one sees all events committed before the lock.
            if await LOCK.maybe(connection) is None:
                return
            row = await NUMBER.one(connection, MAX_NUMBERED, timeout=STATEMENT_SECONDS)
        numbered = row.numbered
