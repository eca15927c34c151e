"""Liveness always passes; readiness needs a writable database with the current schema."""

import asyncio
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from service.database.driver import Connection
from service.database.pool import replace_idle
from service.database_errors import Unavailable
from service.operators import readiness
from service.settings import Settings
from service.viewing.heartbeat_statement import HeartbeatStatement
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family
from tests.statement_counts import of_requests, runs

READY = {"status": "ok", "checks": {"database": "ok"}}
OTHERS = (
    "select pg_terminate_backend(pid) from pg_stat_activity "
    "where datname = current_database() and pid <> pg_backend_pid()"
)


async def until(running: Running, status: int) -> httpx.Response:
    """The first readiness response with this status."""
    return await eventually(
        lambda: running.client.get("/health/ready"),
        until=lambda answer: answer.status_code == status,
    )


async def test_ready_with_a_database(running: Running) -> None:
    for path in ("/health/ready", "/health"):
        answer = await running.client.get(path)
        assert answer.status_code == 200
        assert answer.json() == READY


async def test_probe_runs_no_statement(running: Running, connection: Connection) -> None:
    checks = ("health_ping", "schema_tables", "migration_applied")
    await running.context.readiness.stop()
    await running.context.configurations.stop()  # it pings its connection
    before = await of_requests(connection), await runs(connection, *checks)
    for _ in range(50):
        assert (await running.client.get("/health/ready")).json() == READY
    assert (await of_requests(connection), await runs(connection, *checks)) == before


async def test_not_ready_without_a_database_and_ready_again(
    start: Starter,
    settings: Settings,
    connection: Connection,
    postgres_dsn: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = await start(msgspec.structs.replace(settings, pool_min_size=1, pool_max_size=1))
    name = await connection.fetchval("select current_database()")
    server = await asyncpg.connect(postgres_dsn)
    await server.execute(f"alter database {name} allow_connections false")
    await connection.execute(OTHERS)
    answer = await until(running, 503)
    assert answer.json() == {"status": "degraded", "checks": {"database": "unreachable"}}
    assert running.context.readiness.is_ready is False
    assert (await running.client.get("/health/live")).json() == {"status": "ok"}
    await server.execute(f"alter database {name} allow_connections true")
    await server.close()
    await until(running, 200)
    assert running.context.readiness.is_ready is True
    assert "request_failed" not in [line.getMessage() for line in caplog.records]
    [failure, recovery] = [line for line in caplog.records if line.name == "viewing_time.readiness"]
    assert (failure.getMessage(), recovery.getMessage()) == ("not_ready", "ready")
    assert "not currently accepting connections" in vars(failure)["fields"]["error"]


async def test_lost_connection_of_the_check_is_replaced(
    running: Running, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        await connection.execute(OTHERS)
        await running.context.readiness.check()
        assert (await running.client.get("/health/ready")).json() == READY
    assert [line for line in caplog.records if line.name == "viewing_time.readiness"] == []


async def test_exhausted_pool_does_not_make_an_instance_unready(
    start: Starter, settings: Settings
) -> None:
    running = await start(msgspec.structs.replace(settings, pool_min_size=1, pool_max_size=1))
    async with running.context.pool.acquire():
        await running.context.readiness.check()
        assert (await running.client.get("/health/ready")).json() == READY


async def test_read_only_server_is_not_ready(running: Running, connection: Connection) -> None:
    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {name} set default_transaction_read_only = on")
    await connection.execute(OTHERS)
    await running.context.readiness.check()
    answer = await running.client.get("/health/ready")
    assert answer.json()["checks"] == {"database": "unreachable"}
    await connection.execute(f"alter database {name} reset default_transaction_read_only")
    await running.context.readiness.check()
    assert (await running.client.get("/health/ready")).json() == READY


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (
            "create table kept as select * from _yoyo_migration "
            "where migration_id = (select max(migration_id) from _yoyo_migration); "
            "delete from _yoyo_migration using kept "
            "where kept.migration_id = _yoyo_migration.migration_id",
            "insert into _yoyo_migration select * from kept",
        ),
        ("alter table time_grants rename to gone", "alter table gone rename to time_grants"),
    ],
)
async def test_missing_or_outdated_schema_is_not_ready(
    running: Running,
    connection: Connection,
    change: str,
    back: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await connection.execute(change)
    answer = await until(running, 503)
    assert answer.json() == {
        "status": "degraded",
        "checks": {"database": "ok", "schema": "outdated"},
    }
    [line] = [line for line in caplog.records if line.getMessage() == "not_ready"]
    assert vars(line)["fields"]["error"]
    await connection.execute(back)
    assert (await until(running, 200)).json() == READY


async def test_stuck_heartbeats_are_not_ready(
    start: Starter, settings: Settings, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "MIN_STUCK_SECONDS", 0.1)
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.05)
    running = await start(msgspec.structs.replace(settings, request_timeout_seconds=1.0))
    writer, go_on = running.context.writer, asyncio.Event()
    send = writer._send

    async def stuck(*arguments: Any) -> None:
        await go_on.wait()
        await send(*arguments)

    monkeypatch.setattr(writer, "_send", stuck)
    beat = family.beat()
    await running.client.post(HEARTBEAT, json=beat, headers=family.bearer)
    answer = await until(running, 503)
    assert answer.json()["checks"] == {"database": "ok", "heartbeats": "stuck"}
    go_on.set()
    await until(running, 200)


async def test_first_check_precedes_the_first_request(
    start: Starter, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise Unavailable("unreachable")

    monkeypatch.setattr(readiness.ReadinessWatch, "_check_database", fails)
    running = await start(settings)
    answer = await running.client.get("/health/ready")
    assert answer.json() == {"status": "degraded", "checks": {"database": "unreachable"}}


async def test_checks_time_out_and_do_not_overlap(
    start: Starter, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await start(settings)
    monkeypatch.setattr(readiness, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(readiness, "RECHECK_SECONDS", 0.01)
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.01)
    concurrent: list[int] = []
    running_checks = 0

    async def hangs(*_: object) -> None:
        nonlocal running_checks
        running_checks += 1
        concurrent.append(running_checks)
        try:
            await asyncio.sleep(1000)
        finally:
            running_checks -= 1

    monkeypatch.setattr(readiness.ReadinessWatch, "_check_database", hangs)
    await until(running, 503)
    await eventually(lambda: len(concurrent) >= 4)
    assert set(concurrent) == {1}


async def test_after_an_outage_no_request_uses_a_connection_from_before(
    running: Running,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They can lead to a machine that is gone, which only a time-out would show."""
    used: list[int] = []
    record = HeartbeatStatement.record

    async def recorded(self: HeartbeatStatement, lane: Connection, *others: Any) -> None:
        used.append(lane.get_server_pid())
        await record(self, lane, *others)

    async def fails(_: object) -> None:
        raise Unavailable("no answer in time")

    monkeypatch.setattr(HeartbeatStatement, "record", recorded)
    before = {row["pid"] for row in await connection.fetch("select pid from pg_stat_activity")}
    with monkeypatch.context() as outage:
        outage.setattr(readiness.ReadinessWatch, "_check_database", fails)
        await until(running, 503)
    await until(running, 200)
    for _ in range(running.context.settings.heartbeat_connections + 1):
        await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    async with running.context.pool.acquire() as pooled:
        used.append(pooled.get_server_pid())
    assert before.isdisjoint(used)


async def test_idle_connections_to_the_old_primary_are_closed(
    running: Running, connection: Connection
) -> None:
    """They are closed at once, not at their next use."""
    served = "select pid from pg_stat_activity where datname = current_database() and pid <> $1"
    own = connection.get_server_pid()
    before = {row[0] for row in await connection.fetch(served, own)}
    pool = running.context.pool
    async with pool.acquire() as one, pool.acquire() as another:
        pooled = {one.get_server_pid(), another.get_server_pid()}
    assert pooled <= before
    await pool.expire_connections()
    await replace_idle(pool)
    await eventually(
        lambda: connection.fetch(served, own),
        until=lambda rows: not pooled & {row[0] for row in rows},
    )
    assert pool.get_idle_size() == 2
