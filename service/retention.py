"""Deletes what is older than it may become: in small batches, one run at a time, on request or by
the clock. An interrupted run loses nothing: every batch is a transaction of its own, and the next
run finds what is left.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from time import monotonic
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from service.database import UNAVAILABLE, Connection, Statement, connect
from service.settings import Settings

logger = logging.getLogger("viewing_time.retention")

DAYS_LEAST: Final = 7  # leaves the weekly report whole, and any viewing day that is not over
BATCH_ROWS: Final = 5_000
BATCH_PROFILES: Final = 500
BATCH_SECONDS: Final = 60.0
FIRST: Final = UUID(int=0)
HOUR: Final = 3600.0


class LockRow(msgspec.Struct, frozen=True):
    is_taken: bool


class CountRow(msgspec.Struct, frozen=True):
    sessions: int
    balances: int
    next_profile: UUID | None


class BatchRow(msgspec.Struct, frozen=True):
    deleted: int
    next_profile: UUID | None


LOCK: Final = Statement("retention_lock", LockRow)
COUNT: Final = Statement("retention_count", CountRow)
SESSIONS: Final = Statement("retention_sessions", BatchRow)
BALANCES: Final = Statement("retention_balances", BatchRow)


class RetentionRunning(Exception):
    """Another run holds the lock."""


class Kept(NamedTuple):
    """What is kept: sessions from a moment on, balances from a viewing day on."""

    sessions: datetime
    balances: date


class Removed(NamedTuple):
    sessions: int = 0
    balances: int = 0


def kept(now: datetime, sessions_days: int, balances_days: int) -> Kept:
    """What is no older than so many days."""
    return Kept(now - timedelta(sessions_days), now.date() - timedelta(balances_days))


async def due(settings: Settings, keep: Kept) -> Removed:
    """Counts what a run would remove; removes nothing."""
    connection = await connect(settings)
    sessions = balances = 0
    try:
        async for row in _batches(connection, COUNT, *keep):
            sessions += row.sessions
            balances += row.balances
    finally:
        connection.terminate()
    return Removed(sessions, balances)


async def retain(settings: Settings, keep: Kept, progress: Callable[[Removed], None]) -> Removed:
    """Removes what is older; `progress` is told after each batch. Raises RetentionRunning."""
    removed = Removed()
    async with _alone(settings) as connection:
        async for row in _batches(connection, SESSIONS, keep.sessions, BATCH_ROWS):
            removed = Removed(removed.sessions + row.deleted)
            progress(removed)
        async for row in _batches(connection, BALANCES, keep.balances, BATCH_ROWS):
            removed = Removed(removed.sessions, removed.balances + row.deleted)
            progress(removed)
    return removed


@asynccontextmanager
async def _alone(settings: Settings) -> AsyncIterator[Connection]:
    """The connection that holds the lock, for as long as it lives; raises RetentionRunning."""
    connection = await connect(settings, BATCH_SECONDS, direct=True)
    try:
        if not (await LOCK.one(connection, timeout=BATCH_SECONDS)).is_taken:
            raise RetentionRunning
        yield connection
    finally:
        connection.terminate()


async def _batches(
    connection: Connection, statement: Statement[Any], *arguments: object
) -> AsyncIterator[Any]:
    """The rows of a statement that goes through all profiles, a range of them at a time.

    Rests as long as each took, so that the database is half idle at least.
    """
    from_profile: UUID | None = FIRST
    while from_profile is not None:
        begun = monotonic()
        row = await statement.one(
            connection, from_profile, BATCH_PROFILES, *arguments, timeout=BATCH_SECONDS
        )
        yield row
        from_profile = row.next_profile
        await asyncio.sleep(monotonic() - begun)


class RetentionSchedule:
    """Runs at start and every `retention_interval_hours` from then on; 0 is never.

    Instances need no agreement: whoever comes second finds the lock taken, or nothing left to do.
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._now = now
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._settings.retention_interval_hours:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Interrupts the run that is under way, if there is one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._once()
            await asyncio.sleep(HOUR * self._settings.retention_interval_hours)

    async def _once(self) -> None:
        days = (self._settings.retention_sessions_days, self._settings.retention_balances_days)
        try:
            removed = await retain(self._settings, kept(self._now(), *days), lambda _: None)
        except RetentionRunning:
            logger.info("retention_runs_elsewhere")
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            logger.warning("retention_failed", extra={"fields": {"error": str(error)}})
        else:
            logger.info("retention_done", extra={"fields": removed._asdict()})
