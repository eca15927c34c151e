"""The configuration cache: few statements, no stale entries, also after a lost connection."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from service.database.driver import Connection
from service.errors import ClientError, Overloaded
from service.parents import config_change
from service.settings import Settings
from service.viewing import config_changes, config_loader
from service.viewing.config_changes import CHANNEL
from service.viewing.policy import stored_policy
from service.viewing.rules import DEFAULTS
from tests.conftest import Running, Starter, in_process, logged
from tests.eventually import eventually
from tests.family import Family, add_family
from tests.faults.proxy import proxied
from tests.players.test_heartbeat import beat
from tests.statement_counts import runs

EVERYTHING = """
    insert into viewing_schedules (
        profile_id, daily_limits, downtime, weekly_limit_minutes, week_starts_on,
        rollover_max_minutes, finish_minutes, updated_at
    )
    values (
        $1, '{"mon": 60, "sun": null}',
        '[{"days": ["mon", "fri"], "start": "20:00", "end": "07:00"}]', 600, 'sat', 30, 10, now()
    )
"""
EXCEPTIONS = """
    insert into viewing_exceptions (
        profile_id, day, changes_limit, limit_minutes, lifts_downtime, updated_at
    )
    values
        ($1, '2026-11-20', true, 30, false, now()),
        ($1, '2026-12-24', true, null, true, now()),
        ($1, '2027-11-20', false, null, true, now())
"""
LOCK = "insert into viewing_locks values ($1, '2026-12-01 12:00:00.123456Z', now())"


async def limit(running: Running, family: Family) -> int | None:
    known = await running.context.configurations.get(family.account, family.child)
    return known.policy.configuration.weekday_limit_minutes


async def loads(connection: Connection) -> int:
    return await runs(connection, "viewing_config_load")


async def test_concurrent_misses_share_one_statement(
    running: Running, connection: Connection, family: Family
) -> None:
    before = await loads(connection)
    found = await asyncio.gather(*(limit(running, family) for _ in range(50)))
    assert set(found) == {120}
    assert await loads(connection) - before == 1
    await limit(running, family)
    assert await loads(connection) - before == 1


async def test_entry_expires_after_its_time_to_live(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    running = await start(msgspec.structs.replace(settings, config_cache_ttl_seconds=0.2))
    assert await limit(running, family) == 120
    await connection.execute("update viewing_time_configs set weekday_limit_minutes = 60")
    assert await limit(running, family) == 120
    await eventually(lambda: limit(running, family), until=lambda minutes: minutes == 60)


async def test_least_recently_used_entry_is_evicted_first(
    start: Starter, settings: Settings, connection: Connection
) -> None:
    running = await start(msgspec.structs.replace(settings, config_cache_max_size=2))
    first, second, third = [await add_family(connection) for _ in range(3)]
    for family in (first, second, first, third):
        await limit(running, family)
    assert running.context.configurations.size == 2
    misses = running.context.configurations.misses
    await limit(running, first)
    assert running.context.configurations.misses == misses
    await limit(running, second)
    assert running.context.configurations.misses == misses + 1


async def test_failures_are_not_cached(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = uuid4()
    for _ in range(2):
        with pytest.raises(ClientError):
            await running.context.configurations.get(stranger, family.child)
    assert running.context.configurations.size == 0
    await connection.execute("update users set is_active = false")
    with pytest.raises(ClientError):
        await limit(running, family)
    await connection.execute("update users set is_active = true")
    assert await limit(running, family) == 120


async def test_load_in_flight_during_a_change_is_not_cached(
    start: Starter, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order: the load reads the old row, the change commits, the load returns."""
    running, other = await start(), await start()
    has_read, may_return = asyncio.Event(), asyncio.Event()
    loader = running.context.configurations._loader
    pool = loader._pool

    class SlowPool:
        async def fetch(self, *arguments: Any) -> Any:
            row = await pool.fetch(*arguments)
            has_read.set()
            await may_return.wait()
            return row

    monkeypatch.setattr(loader, "_pool", SlowPool())
    early = asyncio.create_task(limit(running, family))
    await has_read.wait()
    monkeypatch.undo()
    url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
    body = {"weekday_limit_minutes": 15}
    assert (await other.client.put(url, json=body, headers=family.bearer)).status_code == 200
    after_the_change = asyncio.create_task(limit(running, family))
    await asyncio.sleep(0)
    may_return.set()
    assert await early == 120
    assert await after_the_change == 15
    assert await limit(running, family) == 15


async def test_a_change_whose_request_timed_out_invalidates_the_cache(
    start: Starter, settings: Settings, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await start()
    impatient = msgspec.structs.replace(settings, request_timeout_seconds=0.3)
    object.__setattr__(running.context, "settings", impatient)  # after the start, which may be slow
    maybe = config_change.UPDATE.maybe

    async def commit_and_hang(*arguments: Any) -> None:
        await maybe(*arguments)
        await asyncio.Event().wait()

    monkeypatch.setattr(config_change.UPDATE, "maybe", commit_and_hang)
    assert await limit(running, family) == 120
    url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
    body = {"weekday_limit_minutes": 15}
    assert (await running.client.put(url, json=body, headers=family.bearer)).status_code == 503
    await eventually(lambda: limit(running, family), until=lambda minutes: minutes == 15)


async def test_waiting_loads_are_bounded_like_heartbeats(
    start: Starter, settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await start(msgspec.structs.replace(settings, heartbeat_queue_max=5))
    families = [await add_family(connection) for _ in range(7)]
    sizes: list[int] = []
    may_load = asyncio.Event()
    load_all = config_loader.LOAD.all

    async def slowly(source: Any, accounts: Any, *arguments: Any) -> Any:
        sizes.append(len(accounts))
        await may_load.wait()
        return await load_all(source, accounts, *arguments)

    monkeypatch.setattr(config_loader.LOAD, "all", slowly)
    first = asyncio.create_task(limit(running, families[0]))
    await eventually(lambda: sizes)
    waiting = [asyncio.create_task(limit(running, family)) for family in families[1:6]]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await limit(running, families[6])
    for task in waiting[:3]:
        task.cancel()
    await asyncio.gather(*waiting[:3], return_exceptions=True)
    may_load.set()
    assert await asyncio.gather(first, *waiting[3:]) == [120] * 3
    assert sizes == [1, 2]
    assert await limit(running, families[6]) == 120


async def test_connection_that_cannot_listen_is_closed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Connection] = []

    async def add_listener(connection: Connection, *_: object) -> None:
        opened.append(connection)
        raise asyncpg.InterfaceError("it cannot")

    monkeypatch.setattr(asyncpg.Connection, "add_listener", add_listener)
    with pytest.raises(asyncpg.InterfaceError):
        await running.context.configurations.changes.listen()
    assert [connection.is_closed() for connection in opened] == [True]


async def test_a_lost_listener_clears_the_cache_and_listens_again(
    running: Running, connection: Connection, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    listening = "query like 'LISTEN%' and datname = current_database()"
    await limit(running, family)
    listener = running.context.configurations.changes.connection
    assert listener is not None
    assert await connection.fetchval("select pg_terminate_backend($1)", listener.get_server_pid())
    await eventually(lambda: not running.context.configurations.size)
    count = f"select count(*) from pg_stat_activity where {listening}"
    await eventually(lambda: connection.fetchval(count))
    # The cache is cleared once more when the instance listens again.
    await asyncio.sleep(0.1)
    assert await limit(running, family) == 120
    await connection.execute("update viewing_time_configs set weekday_limit_minutes = 30")
    payload = f"elsewhere {family.account} {family.child}"
    await connection.execute("select pg_notify($1, $2)", CHANNEL, payload)
    await eventually(lambda: not running.context.configurations.size)
    assert await limit(running, family) == 30


async def test_a_listening_connection_without_an_answer_is_replaced(
    settings: Settings, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_changes, "PING_INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(config_changes, "PING_TIMEOUT_SECONDS", 0.5)
    async with AsyncExitStack() as parts:
        proxy = await parts.enter_async_context(proxied(settings.database_url))
        through = msgspec.structs.replace(settings, database_url=proxy.dsn)
        running = await parts.enter_async_context(in_process(through))
        configurations = running.context.configurations
        swallowed = configurations.changes.connection
        proxy.turn("black hole")
        await asyncio.sleep(0.2)
        proxy.turn("ok")
        await parts.enter_async_context(asyncio.timeout(60))
        await eventually(lambda: configurations.changes.connection is not swallowed)
        # The cache is cleared once more when the instance listens again.
        await asyncio.sleep(0.1)
        while not configurations.size:
            with suppress(TimeoutError):  # other connections may be lost too
                await limit(running, family)
        await connection.execute("update viewing_time_configs set weekday_limit_minutes = 30")
        changed = f"elsewhere {family.account} {family.child}"
        await connection.execute("select pg_notify($1, $2)", CHANNEL, changed)
        await eventually(lambda: not configurations.size)
        assert await limit(running, family) == 30


async def test_an_unreadable_notification_clears_the_cache(
    running: Running, connection: Connection, family: Family
) -> None:
    await limit(running, family)
    await connection.execute("select pg_notify($1, $2)", CHANNEL, "clear")
    await eventually(lambda: not running.context.configurations.size)
    assert await limit(running, family) == 120


async def test_an_invalidation_is_logged_once(
    running: Running, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    await limit(running, family)
    url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
    with caplog.at_level("INFO", "viewing_time.config_cache"):
        await running.client.put(url, json={"timezone": "Asia/Tokyo"}, headers=family.bearer)
        await asyncio.sleep(0.2)
    [line] = caplog.records
    assert line.getMessage() == "config_cache_invalidated"
    assert vars(line)["fields"] == {"profile_id": str(family.child), "cause": "updated"}


async def test_profiles_that_miss_together_are_loaded_together(
    running: Running, connection: Connection
) -> None:
    families = [await add_family(connection) for _ in range(100)]
    stranger = uuid4()
    before = await loads(connection)
    *known, refused = await asyncio.gather(
        *(running.context.configurations.get(f.account, f.child) for f in families),
        running.context.configurations.get(stranger, families[0].child),
        return_exceptions=True,
    )
    assert isinstance(refused, ClientError)
    assert not [found for found in known if isinstance(found, BaseException)]
    assert await loads(connection) - before <= 2


async def test_a_beat_renews_an_ageing_configuration(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    running = await start(msgspec.structs.replace(settings, config_cache_ttl_seconds=2.0))
    session = (await beat(running, family))["session_id"]
    known = await running.context.configurations.get(family.account, family.child)
    before = await loads(connection)
    await connection.execute(
        "update viewing_time_configs set weekday_limit_minutes = 60, weekend_limit_minutes = 60"
    )
    assert (await beat(running, family, session_id=session))["remaining_minutes"] == 119.0
    for beats in range(3, 6):
        known.since -= 1.5
        verdict = await beat(running, family, session_id=session)
        # The first beat is still judged by the old limits, and renews the entry.
        assert verdict["remaining_minutes"] == (118.5 if beats == 3 else 60 - beats / 2)
    assert await loads(connection) == before
    assert running.context.configurations.misses == 1


async def test_a_beat_renews_the_policy_that_a_load_returns(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute(EVERYTHING, family.child)
    await connection.execute(EXCEPTIONS, family.child)
    await connection.execute(LOCK, family.child)
    await connection.execute("update viewing_time_configs set day_floor = '2026-11-25'")
    configurations = running.context.configurations
    entry = await configurations.get(family.account, family.child)
    loaded = entry.policy
    assert all((loaded.downtime, loaded.exceptions, loaded.locked_until, loaded.day_floor))
    entry.policy, entry.since = stored_policy(DEFAULTS), entry.since - 31
    await beat(running, family)
    assert entry.policy == loaded
    assert configurations.misses == 1


async def test_a_beat_renews_nothing_after_a_change(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    """In this order: the beat reads the old limits, the change commits, the beat returns."""
    running = await start(settings)
    session = (await beat(running, family))["session_id"]
    known = await running.context.configurations.get(family.account, family.child)
    known.since -= 31
    async with connection.transaction():
        await connection.execute("select from viewing_sessions for update")
        late = asyncio.create_task(beat(running, family, session_id=session))
        await eventually(lambda: running.context.writer.waiting)
        url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
        body = {"weekday_limit_minutes": 15, "weekend_limit_minutes": 15}
        answer = await running.client.put(url, json=body, headers=family.bearer)
        assert answer.status_code == 200
    assert (await late)["remaining_minutes"] == 119.0
    assert await limit(running, family) == 15
    assert (await beat(running, family, session_id=session))["remaining_minutes"] == 13.5


async def test_a_beat_of_an_adult_renews_its_entry(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    running = await start(msgspec.structs.replace(settings, config_cache_ttl_seconds=2.0))
    adult = {"profile_id": family.adult}
    session = (await beat(running, family, **adult))["session_id"]
    known = await running.context.configurations.get(family.account, family.adult)
    before = await loads(connection)
    for _ in range(4):
        known.since -= 1.5
        verdict = await beat(running, family, **adult, session_id=session)
        assert (verdict["enforcement"], verdict["used_minutes"]) == ("allowed", 0.0)
    assert await loads(connection) == before
    assert running.context.metrics.heartbeat_statements == 5
    stored = "select count(*) from viewing_time_configs where profile_id = $1"
    assert await connection.fetchval(stored, family.adult) == 0


async def test_an_adult_that_became_a_child_is_limited_after_a_renewal(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    running = await start(msgspec.structs.replace(settings, config_cache_ttl_seconds=2.0))
    adult = {"profile_id": family.adult}
    session = (await beat(running, family, **adult))["session_id"]
    known = await running.context.configurations.get(family.account, family.adult)
    await connection.execute("update profiles set is_kids = true where id = $1", family.adult)
    known.since -= 1.5
    for used in (0.5, 1.0):
        verdict = await beat(running, family, **adult, session_id=session)
        assert verdict["used_minutes"] == used
    stored = "select count(*) from viewing_time_configs where profile_id = $1"
    assert await connection.fetchval(stored, family.adult) == 1


@pytest.mark.parametrize(
    "row",
    [
        """insert into viewing_schedules (profile_id, downtime, updated_at)
        values ($1, '[{"days": ["wed"], "start": "7:5", "end": "24:00"}]', now())""",
        """insert into viewing_schedules (profile_id, daily_limits, updated_at)
        values ($1, '{"mon": "x"}', now())""",
        "insert into viewing_locks values ($1, 'infinity', now())",
        "update viewing_time_configs set day_floor = 'infinity' where profile_id = $1",
    ],
)
async def test_unreadable_rules_lock_their_profile_alone_and_are_logged_once(
    running: Running,
    connection: Connection,
    family: Family,
    row: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = await add_family(connection)
    await connection.execute(row, family.child)
    configurations = running.context.configurations
    for _ in range(3):
        ours, theirs = await asyncio.gather(beat(running, family), beat(running, other))
        assert (ours["enforcement"], theirs["enforcement"]) == ("blocked", "allowed")
        entry = await configurations.get(family.account, family.child)
        entry.since -= 31  # the next beat renews it
    path = f"/api/v1/viewing-time/decision/{family.child}"
    decision = (await running.client.get(path, headers=family.bearer)).json()
    assert (decision["reason"], decision["next_allowed_at"]) == ("locked", None)
    report = "/api/v1/parental-controls/weekly-report?zone=child"
    assert (await running.client.get(report, headers=family.bearer)).status_code == 200
    [fields] = logged(caplog, "policy_unreadable_locks_profile")
    assert fields["profile_id"] == str(family.child)
    assert not [line for line in caplog.records if line.exc_info]


async def test_one_profile_whose_load_fails_fails_alone(
    running: Running, connection: Connection
) -> None:
    families = [await add_family(connection) for _ in range(40)]
    await connection.execute("delete from viewing_time_configs")
    poisoned = families[20]
    await connection.execute(
        "alter table viewing_time_configs add constraint poisoned "
        f"check (profile_id <> '{poisoned.child}')"
    )
    found = await asyncio.gather(
        *(running.context.configurations.get(f.account, f.child) for f in families),
        return_exceptions=True,
    )
    failed = [f for f, one in zip(families, found, strict=True) if isinstance(one, BaseException)]
    assert failed == [poisoned]


async def test_locked_profile_delays_no_other_load(
    running: Running, connection: Connection
) -> None:
    families = [await add_family(connection) for _ in range(40)]
    await connection.execute("delete from viewing_time_configs")
    held = families[20]
    async with connection.transaction():
        await connection.execute("select from profiles where id = $1 for update", held.child)
        found = await asyncio.gather(
            *(running.context.configurations.get(f.account, f.child) for f in families),
            return_exceptions=True,
        )
    failed = [f for f, one in zip(families, found, strict=True) if isinstance(one, BaseException)]
    assert failed == [held]
    assert await limit(running, held) == 120


async def test_slow_reports_delay_no_load(
    running: Running, connection: Connection, family: Family
) -> None:
    pool = running.context.pool
    async with AsyncExitStack() as taken:
        for _ in range(pool.get_max_size()):
            await taken.enter_async_context(pool.acquire())
        assert (await beat(running, family))["enforcement"] == "allowed"


async def test_loads_of_one_account_are_bounded(
    running: Running, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = asyncio.Event()
    load_all = config_loader.LOAD.all

    async def slowly(*arguments: Any) -> Any:
        await may_load.wait()
        return await load_all(*arguments)

    monkeypatch.setattr(config_loader.LOAD, "all", slowly)
    get = running.context.configurations.get
    loads_of_account = [asyncio.create_task(get(family.account, uuid4())) for _ in range(120)]
    await asyncio.sleep(0.01)
    may_load.set()
    refused = await asyncio.gather(*loads_of_account, return_exceptions=True)
    statuses = [error.status for error in refused if isinstance(error, ClientError)]
    assert sorted(statuses) == [403] * 100 + [429] * 20
    assert await limit(running, family) == 120


async def test_a_look_finds_valid_entries_of_the_account_only_and_counts_hits(
    start: Starter, settings: Settings, family: Family
) -> None:
    running = await start(msgspec.structs.replace(settings, config_cache_ttl_seconds=60.0))
    configurations = running.context.configurations
    assert configurations.peek(family.account, family.child) is None
    known = await configurations.get(family.account, family.child)
    assert configurations.peek(family.account, family.child) is known
    assert configurations.peek(uuid4(), family.child) is None
    assert (configurations.hits, configurations.misses) == (1, 1)
    known.since -= 61
    assert configurations.peek(family.account, family.child) is None
    await configurations.get(family.account, family.child)
    configurations.trust(False)
    assert configurations.peek(family.account, family.child) is None
    assert configurations.hits == 1


async def test_a_profile_that_changes_its_account_is_never_found_by_the_former_one(
    running: Running, connection: Connection, family: Family
) -> None:
    other = await add_family(connection)
    configurations = running.context.configurations
    await configurations.get(family.account, family.child)
    await connection.execute(
        "update profiles set user_id = $2 where id = $1", family.child, other.account
    )
    await configurations.get(other.account, family.child)
    assert configurations.peek(family.account, family.child) is None
    with pytest.raises(ClientError):
        await configurations.get(family.account, family.child)
    assert configurations.size == 1
