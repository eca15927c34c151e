"""Retention deletes expired rows in batches, one run at a time, and nothing else."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from uuid import UUID

import msgspec
import pytest

from service.app import utc_now
from service.database.driver import Connection
from service.database.ids import time_ordered_id
from service.database.statement import files
from service.database_errors import NoAnswer
from service.platform import retention, retention_schedule
from service.platform.retention import (
    Cutoffs,
    Removed,
    RetentionRefused,
    RetentionRunning,
    count_expired,
    current_cutoffs,
    locked,
    refuse_mass_deletion,
    retain,
)
from service.platform.retention_schedule import RetentionSchedule
from service.settings import Settings
from tests.balance_shapes import shape as shape
from tests.conftest import Starter
from tests.database.test_pool import PGBOUNCER, pooler
from tests.eventually import eventually
from tests.family import Family, add_family

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
# Each promise holds for a table of balances with partitions and for one without.
pytestmark = pytest.mark.usefixtures("shape")
CUTOFFS = Cutoffs(
    NOW - timedelta(days=90), NOW.date() - timedelta(days=365), NOW - timedelta(days=30)
)


async def add_session(
    connection: Connection, family: Family, days: float, beaten: float | None = None
) -> UUID:
    """Adds a session that started `days` ago, with its last heartbeat `beaten` days ago."""
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


async def add_exceptions(connection: Connection, family: Family, *days: int) -> None:
    await connection.executemany(
        "insert into viewing_exceptions values ($1, $2, true, null, false, $3)",
        [(family.child, NOW.date() - timedelta(days=day), NOW) for day in days],
    )


async def add_lock(connection: Connection, family: Family, ended: datetime) -> None:
    await connection.execute("insert into viewing_locks values ($1, $2, $2)", family.child, ended)


async def add_requests(
    connection: Connection, family: Family, *days: int, status: str = "approved"
) -> None:
    await connection.executemany(
        "insert into viewing_requests (id, account_id, profile_id, status, reset_date, "
        "requested_at, expires_at) values (gen_random_uuid(), $1, $2, $3, $4, $5, $5)",
        [
            (family.account, family.child, status, NOW.date() - timedelta(days=day), NOW)
            for day in days
        ],
    )


async def add_events(
    connection: Connection,
    family: Family,
    *ages: timedelta,
    position: int | None = None,
    delivered: bool = False,
) -> None:
    """Adds an event of each age at NOW; its id is that of its time."""
    await connection.executemany(
        "insert into viewing_events (id, account_id, profile_id, type, occurred_at, data, "
        "position, delivered_at) values ($1, $2, $3, 'lock.cleared', $4, '{}', $5, $6)",
        [
            (
                time_ordered_id(NOW - age),
                family.account,
                family.child,
                NOW,
                position,
                NOW if delivered else None,
            )
            for age in ages
        ],
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


async def test_only_expired_rows_are_deleted(
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


async def test_exceptions_and_locks_expire_with_balances(
    settings: Settings, connection: Connection, family: Family
) -> None:
    other = await add_family(connection)
    await add_exceptions(connection, family, -30, 0, 365, 366, 400)
    end_of_day = datetime.combine(CUTOFFS.balances, time.min, UTC)
    await add_lock(connection, family, end_of_day - timedelta(seconds=1))
    await add_lock(connection, other, end_of_day)
    assert await count_expired(settings, CUTOFFS) == Removed(exceptions=2, locks=1)
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed(exceptions=2, locks=1)
    left = await connection.fetch("select day from viewing_exceptions order by day desc")
    assert [NOW.date() - row["day"] for row in left] == [timedelta(d) for d in (-30, 0, 365)]
    assert await connection.fetchval("select profile_id from viewing_locks") == other.child
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed()


async def test_requests_that_are_over_expire_with_balances(
    settings: Settings, connection: Connection, family: Family
) -> None:
    for status in ("approved", "denied", "expired"):
        await add_requests(connection, family, 0, 365, 366, 400, status=status)
    await add_requests(connection, family, 500, status="pending")
    assert await count_expired(settings, CUTOFFS) == Removed(requests=6)
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed(requests=6)
    left = await connection.fetch("select reset_date from viewing_requests order by 1")
    assert [(NOW.date() - row[0]).days for row in left] == [500, 365, 365, 365, 0, 0, 0]
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed()


async def test_events_expire_by_the_time_of_their_ids(
    settings: Settings, connection: Connection, family: Family
) -> None:
    days, moment = timedelta(days=30), timedelta(milliseconds=1)
    await add_events(connection, family, days + moment, days * 2, days * 500, position=1)
    await add_events(connection, family, days - moment, days / 2, timedelta(0), position=2)
    assert await count_expired(settings, CUTOFFS) == Removed(events=3)
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed(events=3)
    left = await connection.fetch("select position from viewing_events")
    assert [row["position"] for row in left] == [2, 2, 2]
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed()


async def test_a_new_event_is_not_older_than_the_moment_before_it(
    settings: Settings, connection: Connection, family: Family
) -> None:
    before = await connection.fetchval("select clock_timestamp() - interval '1 millisecond'")
    await connection.execute(
        "insert into viewing_events (account_id, type, occurred_at, data) "
        "values ($1, 'pin.locked', now(), '{}')",
        family.account,
    )
    cutoffs = Cutoffs(CUTOFFS.sessions, CUTOFFS.balances, before)
    assert await retain(settings, cutoffs, lambda _: None) == Removed()
    after = await connection.fetchval("select clock_timestamp() + interval '1 millisecond'")
    cutoffs = Cutoffs(CUTOFFS.sessions, CUTOFFS.balances, after)
    assert await retain(settings, cutoffs, lambda _: None) == Removed(events=1)


@pytest.mark.parametrize(("webhook_from", "undelivered"), [(None, 0), (5, 2)])
async def test_expired_events_that_the_webhook_has_not_received_are_deleted_and_counted(
    settings: Settings,
    connection: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    webhook_from: int | None,
    undelivered: int,
) -> None:
    """An event from before the first start with a webhook is not sent to it."""
    old = timedelta(days=100_000 / 24)
    for position, delivered in ((5, False), (6, False), (None, False), (7, True)):
        await add_events(connection, family, old, position=position, delivered=delivered)
    await connection.execute("update viewing_event_feed set webhook_from = $1", webhook_from)
    expected = Removed(events=4, undelivered=undelivered)
    assert await count_expired(settings, CUTOFFS) == expected
    caplog.set_level("INFO")
    schedule = RetentionSchedule(settings, utc_now, Counter())
    assert await schedule.run_once() == "done"
    [line] = [record for record in caplog.records if record.message == "retention_done"]
    fields = line.__dict__["fields"]
    assert (fields["events"], fields["undelivered"]) == (4, undelivered)
    assert await connection.fetchval("select count(*) from viewing_events") == 0


async def test_expired_events_that_are_parked_or_being_sent_count_as_undelivered(
    settings: Settings, connection: Connection, family: Family
) -> None:
    """They are before `webhook_from`, which moves up to the first event that is left."""
    for position in (1, 2, 3):
        await add_events(connection, family, timedelta(days=40), position=position)
    await connection.execute("update viewing_event_feed set webhook_from = 3")
    await connection.execute("update viewing_events set parked_at = now() where position = 1")
    await connection.execute("update viewing_events set delivery_id = id where position = 2")
    expected = Removed(events=3, undelivered=2)
    assert await count_expired(settings, CUTOFFS) == expected
    assert await retain(settings, CUTOFFS, lambda _: None) == expected


@pytest.mark.usefixtures("small_batches")
async def test_batches_cover_every_event_and_request(
    settings: Settings, connection: Connection, family: Family
) -> None:
    """A locked event is skipped."""
    ages = [timedelta(days=40, seconds=number) for number in range(10)]
    await add_events(connection, family, *ages, timedelta(days=1), position=1)
    await add_requests(connection, family, *range(366, 373))
    reported: list[Removed] = []
    assert await count_expired(settings, CUTOFFS) == Removed(requests=7, events=10)
    async with connection.transaction():
        await connection.execute(
            "select from viewing_events where id = (select id from viewing_events order by id "
            "offset 4 limit 1) for update"
        )
        removed = await retain(settings, CUTOFFS, reported.append)
        assert removed == Removed(requests=7, events=9)
    steps = [after.events - before.events for before, after in pairwise(reported)]
    assert max(steps) == 3
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed(events=1)
    assert await connection.fetchval("select count(*) from viewing_events") == 1


@pytest.mark.parametrize("statement", ["retention_events", "retention_events_count"])
@pytest.mark.parametrize("mode", ["force_generic_plan", "auto"])
async def test_expired_events_are_found_by_their_ids(
    connection: Connection, family: Family, statement: str, mode: str
) -> None:
    """The table is not scanned, whether nothing is due or a full batch."""
    await connection.execute(
        "insert into viewing_events (id, account_id, type, occurred_at, data, position) "
        "select (lpad(to_hex(1700000000000 + 60000 * n), 12, '0') || repeat('0', 20))::uuid, $1, "
        "'x', now(), '{}', n from generate_series(1::int8, 50000) as n",
        family.account,
    )
    await connection.execute("vacuum (analyze) viewing_events")
    await connection.execute(f"set plan_cache_mode = {mode}")
    prepared = await connection.prepare((files("sql") / f"{statement}.sql").read_text())
    for before in ("2020-01-01Z", "2023-12-10Z"):
        arguments = f"'{UUID(int=0)}', 5000, '{before}'"
        for _ in range(6):
            async with rolled_back(connection):
                rows = await connection.fetch(
                    f"explain (analyze, timing off) execute {prepared.get_name()}({arguments})"
                )
        plan = "\n".join(row[0] for row in rows)
        assert "Seq Scan on viewing_events " not in plan, plan
        assert "viewing_events_pkey" in plan, plan


@asynccontextmanager
async def rolled_back(connection: Connection) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    yield
    await transaction.rollback()


@pytest.mark.usefixtures("small_batches")
async def test_batches_cover_every_exception(settings: Settings, connection: Connection) -> None:
    families = [await add_family(connection) for _ in range(5)]
    for one, count in zip(families, (7, 0, 1, 3, 4), strict=True):
        await add_exceptions(connection, one, 1, *range(366, 366 + count))
        await add_lock(connection, one, NOW - timedelta(days=400))
    reported: list[Removed] = []
    expired = Removed(exceptions=15, locks=5)
    assert await count_expired(settings, CUTOFFS) == expired
    assert await retain(settings, CUTOFFS, reported.append) == expired
    steps = [after.exceptions - before.exceptions for before, after in pairwise(reported)]
    assert max(steps) == 3
    assert await connection.fetchval("select count(*) from viewing_exceptions") == len(families)


async def test_rows_that_a_parent_is_changing_are_skipped(
    settings: Settings, connection: Connection, family: Family
) -> None:
    await add_exceptions(connection, family, 400)
    await add_lock(connection, family, NOW - timedelta(days=400))
    async with connection.transaction():
        await connection.execute("select from viewing_exceptions for update")
        await connection.execute("select from viewing_locks for update")
        assert await retain(settings, CUTOFFS, lambda _: None) == Removed()
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed(exceptions=1, locks=1)


async def test_holidays_that_expire_together_need_no_force(
    settings: Settings, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_UNCHECKED_ROWS", 3)
    await add_exceptions(connection, family, *range(400, 410))
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed(exceptions=10)


@pytest.mark.usefixtures("small_batches")
async def test_batches_cover_every_profile(settings: Settings, connection: Connection) -> None:
    """Profiles with more rows than a batch, fewer, none, and the lowest possible id."""
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
    reported: list[Removed] = []
    assert await count_expired(settings, CUTOFFS) == Removed(total, balances)
    assert await retain(settings, CUTOFFS, reported.append) == Removed(total, balances)
    steps = [after.sessions - before.sessions for before, after in pairwise(reported)]
    assert max(steps) == 3
    assert reported[-1] == Removed(total, balances)
    assert len(await sessions(connection)) == len(counts)


async def test_locked_session_is_skipped(
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
async def test_interrupted_run_keeps_its_batches_and_the_next_run_continues(
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
    assert await retain_when_unlocked(settings) == Removed(left)


async def retain_when_unlocked(settings: Settings) -> Removed:
    """Runs retention as soon as the server has released the lock of the run before."""

    async def removed() -> Removed | None:
        try:
            return await retain(settings, CUTOFFS, lambda _: None)
        except RetentionRunning:
            return None

    found: Removed | None = await eventually(removed, until=lambda found: found is not None)
    assert found is not None
    return found


async def test_only_one_run_at_a_time(
    settings: Settings, connection: Connection, family: Family
) -> None:
    await add_session(connection, family, 100)
    async with locked(settings):
        with pytest.raises(RetentionRunning):
            await retain(settings, CUTOFFS, lambda _: None)
        assert await count_expired(settings, CUTOFFS) == Removed(1)
    assert await retain_when_unlocked(settings) == Removed(1)


async def until_empty(connection: Connection) -> None:
    await eventually(lambda: sessions(connection), until=lambda left: not left)


async def test_schedule_continues_after_a_failed_run(
    settings: Settings,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(retention_schedule, "HOUR", 0.01)
    scheduled = msgspec.structs.replace(settings, retention_interval_hours=1)
    runs: Counter[str] = Counter()
    schedule = RetentionSchedule(scheduled, utc_now, runs)
    await connection.execute("alter table viewing_sessions rename to renamed")
    schedule.start()
    try:
        await eventually(lambda: "retention_failed" in caplog.messages)
        await connection.execute("alter table renamed rename to viewing_sessions")
        for _ in range(2):
            await add_session(connection, family, 91)
            await until_empty(connection)
    finally:
        await schedule.stop()
    assert "retention_done" in caplog.messages
    assert runs["failed"] >= 1
    assert runs["done"] >= 1


@pytest.mark.parametrize("ahead", [400, 5.1 / 1440, -5.1 / 1440, -400])
async def test_nothing_is_deleted_if_the_clocks_differ(
    start: Starter,
    settings: Settings,
    connection: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    ahead: float,
) -> None:
    """If they agree, ages still do not count from the clock of the service."""
    for age in (10, 20_000):
        await add_session(connection, family, age)
    now = utc_now() + timedelta(days=ahead)
    runs: Counter[str] = Counter()
    scheduled = msgspec.structs.replace(settings, retention_interval_hours=1)
    schedule = RetentionSchedule(scheduled, lambda: now, runs)
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
    cutoffs = await current_cutoffs(settings, lambda: slow, 90, 365, 30)
    lag = utc_now() - timedelta(days=90) - cutoffs.sessions
    assert timedelta(0) <= lag < timedelta(minutes=1)
    assert cutoffs.balances == (cutoffs.sessions + timedelta(days=90)).date() - timedelta(days=365)
    assert cutoffs.events == cutoffs.sessions + timedelta(days=60)


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


async def test_run_ends_when_its_lock_is_lost(
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


async def test_lock_ignores_transaction_limits_and_holds_no_snapshot(
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
async def test_no_lock_remains_behind_a_pooler(
    settings: Settings, connection: Connection, family: Family
) -> None:
    """After a run that ended, was refused or was interrupted."""
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
        assert await retain_when_unlocked(pooled) == Removed()
        assert await locks(connection) == 0


@pytest.mark.parametrize("hours", [0, 1])
async def test_service_runs_retention_only_with_an_interval(
    start: Starter, settings: Settings, connection: Connection, family: Family, hours: int
) -> None:
    await add_session(connection, family, 20_000)
    await start(msgspec.structs.replace(settings, retention_interval_hours=hours), now=utc_now())
    if hours:
        await until_empty(connection)
    else:
        await asyncio.sleep(0.1)
        assert len(await sessions(connection)) == 1
