"""Retention: deletes expired rows of viewing in small batches, one run at a time.

Each batch is its own transaction, so an interrupted run loses nothing and the next one continues.
Of a partitioned table of balances, whole months are dropped first; only rows of a month that is
partly expired are deleted.

A wrong clock or a wrong setting must not delete everything. Ages count from the database's clock,
and a run stops if this machine's clock differs. A run that would delete more than half of the
sessions or balances deletes nothing unless it is forced. Exceptions are not part of that check,
because most of them can be about the same holidays; neither are locks, which most parents use once,
nor requests and events, which are copies of what happened.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Any, Final, NamedTuple
from uuid import UUID

from service.database.driver import Connection
from service.database.pool import connected
from service.database.statement import Statement
from service.database_errors import NoAnswer
from service.platform.balance_months import add_months, dropped_months
from service.platform.retention_statements import (
    CLOCK,
    COUNT_EVENTS,
    COUNT_EXPIRED,
    DELETE_BALANCES,
    DELETE_EVENTS,
    DELETE_EXCEPTIONS,
    DELETE_REQUESTS,
    DELETE_SESSIONS,
    LOCK,
    TOTALS,
)
from service.settings import Settings

MIN_DAYS: Final = 7  # keeps the days of the weekly report and every viewing day that is not over
BATCH_ROWS: Final = 5_000
BATCH_PROFILES: Final = 500
STATEMENT_SECONDS: Final = 60.0
FIRST_ID: Final = UUID(int=0)
MAX_CLOCK_DIFFERENCE: Final = timedelta(minutes=5)
MAX_SHARE: Final = 0.5  # of a table's rows
MAX_UNCHECKED_ROWS: Final = 1_000  # so that a small table can be emptied


class RetentionRunning(Exception):
    """Another run holds the lock."""


class RetentionRefused(Exception):
    """The clocks differ or too much is expired, so nothing was deleted; one sentence."""


class Cutoffs(NamedTuple):
    """Sessions and events before an instant are expired; the rest before a viewing day."""

    sessions: datetime
    balances: date  # also exceptions, locks and requests
    events: datetime


class Removed(NamedTuple):
    sessions: int = 0
    balances: int = 0
    exceptions: int = 0
    locks: int = 0
    requests: int = 0
    events: int = 0
    undelivered: int = 0  # of the events: the webhook has not received them


async def current_cutoffs(
    settings: Settings,
    now: Callable[[], datetime],
    sessions_days: int,
    balances_days: int,
    events_days: int,
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
    return Cutoffs(
        clock - timedelta(sessions_days),
        clock.date() - timedelta(balances_days),
        clock - timedelta(events_days),
    )


async def count_expired(settings: Settings, cutoffs: Cutoffs) -> Removed:
    """Counts what a run would delete; deletes nothing."""
    async with connected(settings, STATEMENT_SECONDS) as connection:
        removed = await count(connection, cutoffs, connection)
        events = (COUNT_EVENTS, BATCH_ROWS, cutoffs.events)
        async for row in _batches(connection, connection, *events):
            removed = _plus(removed, events=row.events, undelivered=row.undelivered)
    return removed


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
        profiles, days = BATCH_PROFILES, (cutoffs.balances, BATCH_ROWS)
        expired = (DELETE_SESSIONS, profiles, cutoffs.sessions, BATCH_ROWS)
        async for row in _batches(connection, guard, *expired):
            progress(removed := _plus(removed, sessions=row.deleted))
        async for rows in dropped_months(connection, cutoffs.balances):
            progress(removed := _plus(removed, balances=rows))
        async for row in _batches(connection, guard, DELETE_BALANCES, profiles, *days):
            progress(removed := _plus(removed, balances=row.deleted))
        async for row in _batches(connection, guard, DELETE_EXCEPTIONS, profiles, *days):
            progress(removed := _plus(removed, exceptions=row.deleted, locks=row.locks))
        async for row in _batches(connection, guard, DELETE_REQUESTS, profiles, *days):
            progress(removed := _plus(removed, requests=row.deleted))
        async for row in _batches(connection, guard, DELETE_EVENTS, BATCH_ROWS, cutoffs.events):
            progress(removed := _plus(removed, events=row.deleted, undelivered=row.undelivered))
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
    expired = (COUNT_EXPIRED, BATCH_PROFILES, cutoffs.sessions, cutoffs.balances)
    async for row in _batches(connection, guard, *expired):
        removed = _plus(
            removed,
            sessions=row.sessions,
            balances=row.balances,
            exceptions=row.exceptions,
            locks=row.locks,
            requests=row.requests,
        )
    return removed


def _plus(removed: Removed, **counts: int) -> Removed:
    """`removed` with more rows of some kinds."""
    return removed._replace(**{name: getattr(removed, name) + n for name, n in counts.items()})


async def _batches(
    connection: Connection,
    guard: Connection,
    statement: Statement[Any],
    size: int,
    *arguments: object,
) -> AsyncIterator[Any]:
    """Runs a statement for one range of `size` ids after the other and yields its rows.

    Sleeps as long as each took, so that the database is idle half of the time. Raises NoAnswer once
    `guard`, which holds the lock, is closed.
    """
    from_id: UUID | None = FIRST_ID
    while from_id is not None:
        if guard.is_closed():
            raise NoAnswer("the connection that held the lock is closed")
        started_at = monotonic()
        row = await statement.one(connection, from_id, size, *arguments, timeout=STATEMENT_SECONDS)
        yield row
        from_id = row.next_id
        await asyncio.sleep(monotonic() - started_at)
