"""Retention: deletes expired rows of viewing in small batches, one run at a time.

Each batch is its own transaction, so an interrupted run loses nothing and the next one continues.
Of a partitioned table of balances, whole months are dropped first; only rows of a month that is
partly expired are deleted.

A wrong clock or a wrong setting must not delete everything. Ages count from the database's clock,
and a run stops if this machine's clock differs. A run that would delete more than half of the
sessions or balances deletes nothing unless it is forced. Exceptions are not part of that check,
because most of them can be about the same holidays; neither are locks, which most parents use once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from service.database.driver import Connection
from service.database.pool import connected
from service.database.statement import Statement
from service.database_errors import NoAnswer
from service.platform.balance_months import add_months, dropped_months
from service.settings import Settings

MIN_DAYS: Final = 7  # keeps the days of the weekly report and every viewing day that is not over
BATCH_ROWS: Final = 5_000
BATCH_PROFILES: Final = 500
STATEMENT_SECONDS: Final = 60.0
FIRST_ID: Final = UUID(int=0)
MAX_CLOCK_DIFFERENCE: Final = timedelta(minutes=5)
MAX_SHARE: Final = 0.5  # of a table's rows
MAX_UNCHECKED_ROWS: Final = 1_000  # so that a small table can be emptied


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
    exceptions: int
    locks: int
    next_profile: UUID | None


class BatchRow(msgspec.Struct, frozen=True):
    deleted: int
    next_profile: UUID | None


class ExceptionsRow(msgspec.Struct, frozen=True):
    deleted: int
    locks: int
    next_profile: UUID | None


CLOCK: Final = Statement("retention_clock", ClockRow)
TOTALS: Final = Statement("retention_totals", TotalsRow)
LOCK: Final = Statement("retention_lock", LockRow)
COUNT_EXPIRED: Final = Statement("retention_count", CountRow)
DELETE_SESSIONS: Final = Statement("retention_sessions", BatchRow)
DELETE_BALANCES: Final = Statement("retention_balances", BatchRow)
DELETE_EXCEPTIONS: Final = Statement("retention_exceptions", ExceptionsRow)


class RetentionRunning(Exception):
    """Another run holds the lock."""


class RetentionRefused(Exception):
    """The clocks differ or too much is expired, so nothing was deleted; one sentence."""


class Cutoffs(NamedTuple):
    """Sessions before an instant are expired; balances, exceptions, locks before a viewing day."""

    sessions: datetime
    balances: date


class Removed(NamedTuple):
    sessions: int = 0
    balances: int = 0
    exceptions: int = 0
    locks: int = 0


async def current_cutoffs(
    settings: Settings, now: Callable[[], datetime], sessions_days: int, balances_days: int
) -> Cutoffs:
    """The cutoffs by the database's clock; raises RetentionRefused if this machine's differs."""
    async with connected(settings, STATEMENT_SECONDS) as connection:
        clock = (await CLOCK.one(connection, timeout=STATEMENT_SECONDS)).clock
    ahead = now() - clock
    if abs(ahead) > MAX_CLOCK_DIFFERENCE:
        direction = "ahead of" if ahead > timedelta(0) else "behind"
        raise RetentionRefused(
            f"The clock of this machine is {abs(ahead).total_seconds():,.0f} s {direction} the "
            "database's, so one of them is wrong: nothing was deleted."
        )
    clock = clock.astimezone(UTC)
    return Cutoffs(clock - timedelta(sessions_days), clock.date() - timedelta(balances_days))


async def count_expired(settings: Settings, cutoffs: Cutoffs) -> Removed:
    """Counts what a run would delete; deletes nothing."""
    async with connected(settings, STATEMENT_SECONDS) as connection:
        return await count(connection, cutoffs, connection)


async def refuse_mass_deletion(settings: Settings, removed: Removed) -> None:
    """Raises RetentionRefused if deleting `removed` has to be forced."""
    async with connected(settings, STATEMENT_SECONDS) as connection:
        totals = await TOTALS.one(connection, timeout=STATEMENT_SECONDS)
    counts = (
        ("sessions", removed.sessions, totals.sessions),
        ("balances", removed.balances, totals.balances),
    )
    excess = [
        f"{count:,} of about {total:,} {name}"
        for name, count, total in counts
        if count > max(MAX_SHARE * total, MAX_UNCHECKED_ROWS)
    ]
    if excess:
        raise RetentionRefused(
            f"{' and '.join(excess)} are old enough to be deleted, which is more than half: "
            "nothing was deleted. Run `viewing-time retain --force` if that is right."
        )


async def retain(
    settings: Settings,
    cutoffs: Cutoffs,
    progress: Callable[[Removed], None],
    *,
    is_forced: bool = False,
) -> Removed:
    """Deletes what is expired; calls `progress` after each batch.

    Raises RetentionRunning, RetentionRefused.
    """
    removed = Removed()
    async with locked(settings) as (guard, connection):
        if not is_forced:
            await refuse_mass_deletion(settings, await count(connection, cutoffs, guard))
        async for row in _batches(connection, guard, DELETE_SESSIONS, cutoffs.sessions, BATCH_ROWS):
            removed = removed._replace(sessions=removed.sessions + row.deleted)
            progress(removed)
        async for rows in dropped_months(connection, cutoffs.balances):
            removed = removed._replace(balances=removed.balances + rows)
            progress(removed)
        days = (cutoffs.balances, BATCH_ROWS)
        async for row in _batches(connection, guard, DELETE_BALANCES, *days):
            removed = removed._replace(balances=removed.balances + row.deleted)
            progress(removed)
        async for row in _batches(connection, guard, DELETE_EXCEPTIONS, *days):
            removed = removed._replace(
                exceptions=removed.exceptions + row.deleted, locks=removed.locks + row.locks
            )
            progress(removed)
        await add_months(connection)
    return removed


@asynccontextmanager
async def locked(settings: Settings) -> AsyncIterator[tuple[Connection, Connection]]:
    """The connection whose transaction holds the lock, and another to work on.

    Raises RetentionRunning.
    """
    async with connected(settings, STATEMENT_SECONDS, direct=True) as guard:
        transaction = guard.transaction(isolation="read_committed")
        await transaction.start()
        if not (await LOCK.one(guard, timeout=STATEMENT_SECONDS)).is_taken:
            raise RetentionRunning
        # A connection keeps the snapshot of its last statement until its next command.
        async with guard.transaction():
            pass
        async with connected(settings, STATEMENT_SECONDS, direct=True) as connection:
            yield guard, connection
        if not guard.is_closed():
            await transaction.commit()


async def count(connection: Connection, cutoffs: Cutoffs, guard: Connection) -> Removed:
    """Counts what is expired, as long as `guard` is connected."""
    removed = Removed()
    async for row in _batches(connection, guard, COUNT_EXPIRED, *cutoffs):
        removed = Removed(
            removed.sessions + row.sessions,
            removed.balances + row.balances,
            removed.exceptions + row.exceptions,
            removed.locks + row.locks,
        )
    return removed


async def _batches(
    connection: Connection, guard: Connection, statement: Statement[Any], *arguments: object
) -> AsyncIterator[Any]:
    """Runs a statement for one range of profiles after the other and yields its rows.

    Sleeps as long as each took, so that the database is idle half of the time. Raises NoAnswer once
    `guard`, which holds the lock, is closed.
    """
    from_profile: UUID | None = FIRST_ID
    while from_profile is not None:
        if guard.is_closed():
            raise NoAnswer("the connection that held the lock is closed")
        started_at = monotonic()
        batch = (from_profile, BATCH_PROFILES, *arguments)
        row = await statement.one(connection, *batch, timeout=STATEMENT_SECONDS)
        yield row
        from_profile = row.next_profile
        await asyncio.sleep(monotonic() - started_at)
