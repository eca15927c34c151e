"""Retention: what is too old goes, in batches, one run at a time; all else stays."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import msgspec
import pytest

from service import retention
from service.database import Connection
from service.retention import (
    Removed,
    RetentionRunning,
    RetentionSchedule,
    due,
    kept,
    retain,
)
from service.settings import Settings
from tests.conftest import Starter
from tests.family import Family, add_family

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEEP = kept(NOW, 90, 365)


async def add_session(
    connection: Connection, family: Family, days: float, beaten: float | None = None
) -> UUID:
    """A session that was begun so many days ago, and beaten last so many days ago."""
    session: UUID = await connection.fetchval(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at) values (gen_random_uuid(), $1, $2, 'd', $3, $4) returning id",
        family.child,
        family.title,
        NOW - timedelta(days=days),
        NOW - timedelta(days=days if beaten is None else beaten),
    )
    return session


async def add_balances(connection: Connection, family: Family, *days: int) -> None:
    await connection.executemany(
        "insert into viewing_time_balances (id, profile_id, reset_date) "
        "values (gen_random_uuid(), $1, $2)",
        [(family.child, NOW.date() - timedelta(days=day)) for day in days],
    )


async def sessions(connection: Connection) -> set[UUID]:
    return {row["id"] for row in await connection.fetch("select id from viewing_sessions")}


async def days(connection: Connection) -> list[date]:
    rows = await connection.fetch("select reset_date from viewing_time_balances order by 1 desc")
    return [row["reset_date"] for row in rows]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 3)
    monkeypatch.setattr(retention, "BATCH_PROFILES", 2)


async def test_what_is_old_goes_and_the_rest_stays(
    settings: Settings, connection: Connection, family: Family
) -> None:
    old = [await add_session(connection, family, 90.01) for _ in range(2)]
    young = await add_session(connection, family, 89.99)
    being_watched = await add_session(connection, family, 100, beaten=1)
    await add_balances(connection, family, 0, 365, 366, 400)
    assert await due(settings, KEEP) == Removed(len(old), 2)
    assert len(await sessions(connection)) == 4
    assert await retain(settings, KEEP, lambda _: None) == Removed(len(old), 2)
    assert await sessions(connection) == {young, being_watched}
    assert await days(connection) == [date(2026, 11, 24), date(2025, 11, 24)]
    assert await due(settings, KEEP) == Removed()
    assert await retain(settings, KEEP, lambda _: None) == Removed()


@pytest.mark.usefixtures("small_batches")
async def test_every_profile_is_reached_in_batches(
    settings: Settings, connection: Connection
) -> None:
    """Profiles with more than a batch, less, none, and the lowest id there can be."""
    families = [await add_family(connection) for _ in range(4)]
    await connection.execute(
        "insert into profiles (id, user_id, name, is_kids) values ($1, $2, 'first', true)",
        UUID(int=0),
        families[0].account,
    )
    counts = dict(
        zip((*families, replace(families[0], child=UUID(int=0))), (7, 0, 1, 3, 4), strict=True)
    )
    for one, count in counts.items():
        for _ in range(count):
            await add_session(connection, one, 91)
        await add_session(connection, one, 1)
        await add_balances(connection, one, *range(360, 360 + 2 * count))
    total = sum(counts.values())
    balances = sum(max(0, 2 * count - 6) for count in counts.values())
    told: list[Removed] = []
    assert await due(settings, KEEP) == Removed(total, balances)
    assert await retain(settings, KEEP, told.append) == Removed(total, balances)
    steps = [after.sessions - before.sessions for before, after in pairwise(told)]
    assert max(steps) == 3
    assert told[-1] == Removed(total, balances)
    assert len(await sessions(connection)) == len(counts)


async def test_a_session_that_somebody_holds_is_passed_over(
    settings: Settings, connection: Connection, family: Family
) -> None:
    held = await add_session(connection, family, 100)
    await add_session(connection, family, 100)
    async with connection.transaction():
        await connection.execute("select from viewing_sessions where id = $1 for update", held)
        assert await retain(settings, KEEP, lambda _: None) == Removed(1)
    assert await sessions(connection) == {held}
    assert await retain(settings, KEEP, lambda _: None) == Removed(1)


@pytest.mark.usefixtures("small_batches")
async def test_an_interrupted_run_keeps_what_it_did_and_the_next_one_ends_it(
    settings: Settings, connection: Connection, family: Family
) -> None:
    for _ in range(10):
        await add_session(connection, family, 100)
    reached = asyncio.Event()
    run = asyncio.create_task(retain(settings, KEEP, lambda _: reached.set()))
    await reached.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    left = len(await sessions(connection))
    assert 0 < left < 10
    assert await eventually_alone(settings) == Removed(left)


async def eventually_alone(settings: Settings) -> Removed:
    """A run, as soon as the server has seen that the one before it is gone."""
    for _ in range(500):
        try:
            return await retain(settings, KEEP, lambda _: None)
        except RetentionRunning:
            await asyncio.sleep(0.01)
    raise AssertionError("the lock is never given back")


async def test_never_two_at_once(
    settings: Settings, connection: Connection, family: Family
) -> None:
    await add_session(connection, family, 100)
    async with retention._alone(settings):
        with pytest.raises(RetentionRunning):
            await retain(settings, KEEP, lambda _: None)
        assert await due(settings, KEEP) == Removed(1)
    assert await eventually_alone(settings) == Removed(1)


async def eventually_empty(connection: Connection) -> None:
    for _ in range(1000):
        if not await sessions(connection):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing was deleted")


async def test_a_schedule_runs_again_and_again_whatever_happens(
    settings: Settings,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(retention, "HOUR", 0.01)
    chosen = msgspec.structs.replace(settings, retention_interval_hours=1)
    schedule = RetentionSchedule(chosen, lambda: NOW)
    await connection.execute("alter table viewing_sessions rename to away")
    schedule.start()
    try:
        while "retention_failed" not in caplog.messages:
            await asyncio.sleep(0.01)
        await connection.execute("alter table away rename to viewing_sessions")
        for _ in range(2):
            await add_session(connection, family, 91)
            await eventually_empty(connection)
    finally:
        await schedule.stop()
    assert "retention_done" in caplog.messages


@pytest.mark.parametrize("hours", [0, 1])
async def test_the_service_runs_it_only_where_an_interval_is_set(
    start: Starter, settings: Settings, connection: Connection, family: Family, hours: int
) -> None:
    await add_session(connection, family, 20_000)
    await start(msgspec.structs.replace(settings, retention_interval_hours=hours))
    if hours:
        await eventually_empty(connection)
    else:
        await asyncio.sleep(0.1)
        assert len(await sessions(connection)) == 1
