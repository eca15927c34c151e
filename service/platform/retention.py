"""Deletes what is older than it may become: in small batches, one run at a time.

An interrupted run loses nothing: every batch is a transaction of its own, and the next run finds
what is left.

A wrong clock or a wrong number of days must not delete everything: ages count from the database's
clock, which this machine's must confirm, and a run that would delete more than half of a table
deletes nothing unless it is forced.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from service.database.driver import Connection, translated
from service.database.pool import connect
from service.database.statement import Statement
from service.errors import NoAnswer
from service.settings import Settings

MIN_DAYS: Final = 7  # leaves the weekly report whole, and any viewing day that is not over
BATCH_ROWS: Final = 5_000
BATCH_PROFILES: Final = 500
BATCH_SECONDS: Final = 60.0
FIRST: Final = UUID(int=0)
MAX_CLOCK_DIFFERENCE: Final = timedelta(minutes=5)
MAX_SHARE: Final = 0.5  # of a table's rows
MAX_ROWS_WHATEVER_SHARE: Final = 1_000  # so that a small table can be emptied


class ClockRow(msgspec.Struct, frozen=True):
    clock: datetime


class TotalsRow(msgspec.Struct, frozen=True):
    sessions: int
    balances: int


class LockRow(msgspec.Struct, frozen=True):
    is_taken: bool
    idle_limit: str
    transaction_limit: str | None


class CountRow(msgspec.Struct, frozen=True):
    sessions: int
    balances: int
    next_profile: UUID | None


class BatchRow(msgspec.Struct, frozen=True):
    deleted: int
    next_profile: UUID | None


CLOCK: Final = Statement("retention_clock", ClockRow)
TOTALS: Final = Statement("retention_totals", TotalsRow)
LOCK: Final = Statement("retention_lock", LockRow)
COUNT: Final = Statement("retention_count", CountRow)
SESSIONS: Final = Statement("retention_sessions", BatchRow)
BALANCES: Final = Statement("retention_balances", BatchRow)


class RetentionRunning(Exception):
    """Another run holds the lock."""


class RetentionRefused(Exception):
    """Nothing was deleted, because of a clock or a share: one sentence."""


class Kept(NamedTuple):
    """What is kept: sessions from a moment on, balances from a viewing day on."""

    sessions: datetime
    balances: date


class Removed(NamedTuple):
    sessions: int = 0
    balances: int = 0


def kept(clock: datetime, sessions_days: int, balances_days: int) -> Kept:
    """What is no older than so many days."""
    return Kept(clock - timedelta(sessions_days), clock.date() - timedelta(balances_days))


async def kept_by_the_database(
    settings: Settings, now: Callable[[], datetime], sessions_days: int, balances_days: int
) -> Kept:
    """What is no older than so many days by the database's clock.

    Raises RetentionRefused where the clock of this machine differs: one of the two is wrong.
    """
    connection = await connect(settings)
    try:
        clock = (await CLOCK.one(connection, timeout=BATCH_SECONDS)).clock
    finally:
        connection.terminate()
    ahead = now() - clock
    if abs(ahead) > MAX_CLOCK_DIFFERENCE:
        how = "ahead of" if ahead > timedelta(0) else "behind"
        raise RetentionRefused(
            f"The clock of this machine is {abs(ahead).total_seconds():,.0f} s {how} the "
            "database's, so one of them is wrong: nothing was deleted."
        )
    return kept(clock.astimezone(UTC), sessions_days, balances_days)


async def due(settings: Settings, keep: Kept) -> Removed:
    """Counts what a run would remove; removes nothing."""
    connection = await connect(settings, BATCH_SECONDS)
    try:
        return await _due(connection, keep)
    finally:
        connection.terminate()


async def refuse_too_much(settings: Settings, removed: Removed) -> None:
    """Raises RetentionRefused where removing so much needs to be forced."""
    connection = await connect(settings, BATCH_SECONDS)
    try:
        totals = await TOTALS.one(connection, timeout=BATCH_SECONDS)
    finally:
        connection.terminate()
    counts = zip(removed, (totals.sessions, totals.balances), Removed._fields, strict=True)
    excess = [
        f"{count:,} of about {total:,} {name}"
        for count, total, name in counts
        if count > max(MAX_SHARE * total, MAX_ROWS_WHATEVER_SHARE)
    ]
    if excess:
        raise RetentionRefused(
            f"{' and '.join(excess)} are old enough to be deleted, which is more than half: "
            "nothing was deleted. Run `viewing-time retain --force` if that is right."
        )


async def retain(
    settings: Settings, keep: Kept, progress: Callable[[Removed], None], *, is_forced: bool = False
) -> Removed:
    """Removes what is older; `progress` is called after each batch.

    Raises RetentionRunning, RetentionRefused.
    """
    removed = Removed()
    async with _alone(settings) as (guard, connection):
        if not is_forced:
            await refuse_too_much(settings, await _due(connection, keep, guard))
        async for row in _batches(connection, guard, SESSIONS, keep.sessions, BATCH_ROWS):
            removed = Removed(removed.sessions + row.deleted)
            progress(removed)
        async for row in _batches(connection, guard, BALANCES, keep.balances, BATCH_ROWS):
            removed = Removed(removed.sessions, removed.balances + row.deleted)
            progress(removed)
    return removed


@asynccontextmanager
async def _alone(settings: Settings) -> AsyncIterator[tuple[Connection, Connection]]:
    """The connection whose transaction holds the lock, and one to work on.

    Raises RetentionRunning.
    """
    guard = await connect(settings, BATCH_SECONDS, direct=True)
    try:
        transaction = guard.transaction(isolation="read_committed")
        with translated(guard):
            await transaction.start()
        if not (await LOCK.one(guard, timeout=BATCH_SECONDS)).is_taken:
            raise RetentionRunning
        # Until a further command, the server keeps that statement open, and its snapshot with it.
        with translated(guard):
            async with guard.transaction():
                pass
        connection = await connect(settings, BATCH_SECONDS, direct=True)
        try:
            yield guard, connection
        finally:
            connection.terminate()
        if not guard.is_closed():
            with translated(guard):
                await transaction.commit()
    finally:
        guard.terminate()


async def _due(connection: Connection, keep: Kept, guard: "Connection | None" = None) -> Removed:
    sessions = balances = 0
    async for row in _batches(connection, guard, COUNT, *keep):
        sessions += row.sessions
        balances += row.balances
    return Removed(sessions, balances)


async def _batches(
    connection: Connection,
    guard: "Connection | None",
    statement: Statement[Any],
    *arguments: object,
) -> AsyncIterator[Any]:
    """The rows of a statement that goes through all profiles, a range of them at a time.

    Rests as long as each took, so that the database is half idle at least. Ends with an error once
    the connection that holds the lock is closed.
    """
    from_profile: UUID | None = FIRST
    while from_profile is not None:
        if guard is not None and guard.is_closed():
            raise NoAnswer("the session that held the lock has ended")
        begun = monotonic()
        row = await statement.one(
            connection, from_profile, BATCH_PROFILES, *arguments, timeout=BATCH_SECONDS
        )
        yield row
        from_profile = row.next_profile
        await asyncio.sleep(monotonic() - begun)
