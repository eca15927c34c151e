"""Retention: what is too old goes, in batches, one run at a time; all else stays."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import msgspec
import pytest

from service.app import utc_now
from service.database.driver import Connection
from service.errors import NoAnswer
from service.platform import retention
from service.platform.retention import (
    Cutoffs,
    Removed,
    RetentionRefused,
    RetentionRunning,
    RetentionSchedule,
    count_expired,
    current_cutoffs,
    locked,
    refuse_mass_deletion,
    retain,
)
from service.settings import Settings
from tests.conftest import Starter
from tests.database.test_pool import PGBOUNCER, pooler
from tests.eventually import eventually
from tests.family import Family, add_family

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CUTOFFS = Cutoffs(NOW - timedelta(days=90), NOW.date() - timedelta(days=365))


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
    assert await count_expired(settings, CUTOFFS) == Removed(len(old), 2)
    assert len(await sessions(connection)) == 4
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed(len(old), 2)
    assert await sessions(connection) == {young, being_watched}
    assert await days(connection) == [date(2026, 11, 24), date(2025, 11, 24)]
    assert await count_expired(settings, CUTOFFS) == Removed()
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed()


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
    assert await count_expired(settings, CUTOFFS) == Removed(total, balances)
    assert await retain(settings, CUTOFFS, told.append) == Removed(total, balances)
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
        assert await retain(settings, CUTOFFS, lambda _: None) == Removed(1)
    assert await sessions(connection) == {held}
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed(1)


@pytest.mark.usefixtures("small_batches")
async def test_an_interrupted_run_keeps_what_it_did_and_the_next_one_ends_it(
    settings: Settings, connection: Connection, family: Family
) -> None:
    for _ in range(10):
        await add_session(connection, family, 100)
    reached = asyncio.Event()
    run = asyncio.create_task(retain(settings, CUTOFFS, lambda _: reached.set()))
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
            return await retain(settings, CUTOFFS, lambda _: None)
        except RetentionRunning:
            await asyncio.sleep(0.01)
    raise AssertionError("the lock is never given back")


async def test_never_two_at_once(
    settings: Settings, connection: Connection, family: Family
) -> None:
    await add_session(connection, family, 100)
    async with locked(settings):
        with pytest.raises(RetentionRunning):
            await retain(settings, CUTOFFS, lambda _: None)
        assert await count_expired(settings, CUTOFFS) == Removed(1)
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
    runs: Counter[str] = Counter()
    schedule = RetentionSchedule(chosen, utc_now, runs)
    await connection.execute("alter table viewing_sessions rename to away")
    schedule.start()
    try:
        await eventually(lambda: "retention_failed" in caplog.messages)
        await connection.execute("alter table away rename to viewing_sessions")
        for _ in range(2):
            await add_session(connection, family, 91)
            await eventually_empty(connection)
    finally:
        await schedule.stop()
    assert "retention_done" in caplog.messages
    assert runs["failed"] >= 1
    assert runs["done"] >= 1


@pytest.mark.parametrize("ahead", [400, 5.1 / 1440, -5.1 / 1440, -400])
async def test_a_service_whose_clock_differs_deletes_nothing_at_any_time(
    start: Starter,
    settings: Settings,
    connection: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    ahead: float,
) -> None:
    """Nor does the service count from its own clock where the two agree well enough."""
    for age in (10, 20_000):
        await add_session(connection, family, age)
    now = utc_now() + timedelta(days=ahead)
    runs: Counter[str] = Counter()
    chosen = msgspec.structs.replace(settings, retention_interval_hours=1)
    schedule = RetentionSchedule(chosen, lambda: now, runs)
    assert await schedule.run_once() == "refused"
    assert len(await sessions(connection)) == 2
    [line] = [record for record in caplog.records if record.message == "retention_refused"]
    error = line.__dict__["fields"]["error"]
    assert ("ahead of" if ahead > 0 else "behind") in error
    now = utc_now() + timedelta(minutes=4.9 if ahead > 0 else -4.9)
    assert await schedule.run_once() == "done"
    assert len(await sessions(connection)) == 1


async def test_ages_count_from_the_clock_of_the_database(settings: Settings) -> None:
    slow = utc_now() - timedelta(minutes=4)
    cutoffs = await current_cutoffs(settings, lambda: slow, 90, 365)
    lag = utc_now() - timedelta(days=90) - cutoffs.sessions
    assert timedelta(0) <= lag < timedelta(minutes=1)
    assert cutoffs.balances == (cutoffs.sessions + timedelta(days=90)).date() - timedelta(days=365)


@pytest.mark.parametrize("kind", ["sessions", "balances"])
async def test_more_than_half_of_a_table_needs_force(
    settings: Settings,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(retention, "MAX_UNCHECKED_ROWS", 3)
    if kind == "sessions":
        for age in (100, 100, 100, 100, 1, 1, 1):
            await add_session(connection, family, age)
    else:
        await add_balances(connection, family, 400, 401, 402, 403, 1, 2, 3)
    with pytest.raises(RetentionRefused, match=f"^4 of about 7 {kind} are .* --force"):
        await retain(settings, CUTOFFS, lambda _: None)
    assert len(await sessions(connection)) + len(await days(connection)) == 7
    removed = await retain(settings, CUTOFFS, lambda _: None, is_forced=True)
    assert sum(removed) == 4


async def test_half_of_a_table_or_a_thousand_rows_need_no_force(
    settings: Settings, connection: Connection, family: Family
) -> None:
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at) select gen_random_uuid(), $1, $2, 'd', $3, $3 "
        "from generate_series(1, 1001)",
        family.child,
        family.title,
        NOW - timedelta(days=100),
    )
    await refuse_mass_deletion(settings, Removed(1_000, 1_000))
    for removed in (Removed(1_001), Removed(0, 1_001)):
        with pytest.raises(RetentionRefused):
            await refuse_mass_deletion(settings, removed)
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at) select gen_random_uuid(), $1, $2, 'd', $3, $3 "
        "from generate_series(1, 1001)",
        family.child,
        family.title,
        NOW,
    )
    await refuse_mass_deletion(settings, Removed(1_001))
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed(1_001)


async def test_a_run_whose_lock_is_lost_ends(
    settings: Settings, connection: Connection, family: Family
) -> None:
    await add_session(connection, family, 100)

    async def cut() -> None:
        async with locked(settings) as (guard, working):
            await connection.execute("select pg_terminate_backend($1)", guard.get_server_pid())
            await eventually(guard.is_closed)
            await retention.count(working, CUTOFFS, guard)

    with pytest.raises(NoAnswer):
        await cut()
    assert len(await sessions(connection)) == 1


async def test_the_lock_outlasts_limits_of_transactions_and_keeps_no_vacuum_waiting(
    settings: Settings, connection: Connection
) -> None:
    limits = ["idle_in_transaction_session_timeout = 50"]
    limits += ["default_transaction_isolation = 'repeatable read'"]
    if connection.get_server_version().major >= 17:
        limits += ["transaction_timeout = 50"]
    name = await connection.fetchval("select current_database()")
    for limit in limits:
        await connection.execute(f"alter database {name} set {limit}")
    async with locked(settings) as (guard, working):
        await connection.fetchval("select pg_sleep(0.2)")
        assert not guard.is_closed()
        assert await locks(connection) == 1
        xmin = "select backend_xmin from pg_stat_activity where pid = $1"
        assert await connection.fetchval(xmin, guard.get_server_pid()) is None
        assert await retention.count(working, CUTOFFS, guard) == Removed()


async def locks(connection: Connection) -> int:
    count: int = await connection.fetchval(
        "select count(*) from pg_locks where locktype = 'advisory' and database = "
        "(select oid from pg_database where datname = current_database())"
    )
    return count


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_through_a_pooler_a_run_leaves_no_lock_behind(
    settings: Settings, connection: Connection, family: Family
) -> None:
    """Neither one that ends, nor one that is refused, nor one that is interrupted."""
    async with pooler(settings.database_url) as url:
        pooled = msgspec.structs.replace(settings, database_url=url, statement_cache_size=0)
        await add_session(connection, family, 100)
        assert await retain(pooled, CUTOFFS, lambda _: None) == Removed(1)
        assert await locks(connection) == 0
        await add_session(connection, family, 100)
        async with locked(pooled):
            assert await locks(connection) == 1
            with pytest.raises(RetentionRunning):
                await retain(pooled, CUTOFFS, lambda _: None)
            with pytest.raises(RetentionRunning):
                await retain(settings, CUTOFFS, lambda _: None)
        assert await locks(connection) == 0
        reached = asyncio.Event()
        run = asyncio.create_task(retain(pooled, CUTOFFS, lambda _: reached.set()))
        await reached.wait()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert await eventually_alone(pooled) == Removed()
        assert await locks(connection) == 0


@pytest.mark.parametrize("hours", [0, 1])
async def test_the_service_runs_it_only_where_an_interval_is_set(
    start: Starter, settings: Settings, connection: Connection, family: Family, hours: int
) -> None:
    await add_session(connection, family, 20_000)
    await start(msgspec.structs.replace(settings, retention_interval_hours=hours), now=utc_now())
    if hours:
        await eventually_empty(connection)
    else:
        await asyncio.sleep(0.1)
        assert len(await sessions(connection)) == 1
