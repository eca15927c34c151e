"""Reads that may be late come from a standby, and no request fails or is refused because of it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from bench.ports import free_port
from bench.replication import Server, shared_folder
from service.database import reads
from service.database.driver import Connection, Pool, translated
from service.settings import Settings
from tests.conftest import NOW, Running, Starter, in_memory, logged
from tests.eventually import eventually
from tests.family import Family, add_family
from tests.parents.test_history import add_sessions, history

REPORT: Final = "/api/v1/parental-controls/weekly-report"
TIMEOUT_SECONDS: Final = 240.0
DAY: Final = NOW.date().isoformat()


@asynccontextmanager
async def standby_of(dsn: str) -> AsyncIterator[Server]:
    with shared_folder(in_memory()) as folder:
        server = Server(folder / "standby")
        await server.copy(dsn, is_standby=True)
        await server.start(max_standby_streaming_delay="0")
        try:
            yield server
        finally:
            await server.stop()


@pytest.fixture(scope="module")
async def standby(postgres_dsn: str) -> AsyncIterator[Server]:
    """A standby of the PostgreSQL of this worker, with all its databases."""
    async with standby_of(postgres_dsn) as server:
        yield server


def name_of(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


@asynccontextmanager
async def standing_still(standby: Server, dsn: str) -> AsyncIterator[None]:
    """The standby shows the database as it is now until the block ends."""
    primary = await asyncpg.connect(dsn)
    await primary.execute("create table if not exists arrived (n int)")
    await primary.execute("set synchronous_commit = on; insert into arrived values (1)")
    await primary.close()
    await eventually(lambda: has_arrived(standby, name_of(dsn)))
    connection = await standby.connection(name_of(dsn))
    await connection.execute("select pg_wal_replay_pause()")
    try:
        yield
    finally:
        await connection.execute("select pg_wal_replay_resume()")
        await connection.close()


async def has_arrived(standby: Server, database: str) -> bool:
    """Whether the standby has the database, and in it the row of the table `arrived`."""
    try:
        connection = await standby.connection(database)
    except asyncpg.PostgresError:
        return False
    try:
        return bool(await connection.fetchval("select count(*) from arrived"))
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()


def reading(settings: Settings, standby: Server) -> Settings:
    """Settings with which the standby is read, and a slow one does not count as failed."""
    url = standby.dsn(name_of(settings.database_url))
    return msgspec.structs.replace(
        settings, database_read_url=url, request_timeout_seconds=TIMEOUT_SECONDS
    )


async def minutes_watched(running: Running, family: Family, **query: str) -> list[float]:
    """The minutes of today in the history and in the report, as JSON and as a page."""
    answer = await history(running, family, from_date=DAY, to_date=DAY, **query)
    assert answer.status_code == 200
    days = answer.json()["days"]
    report = await running.client.get(REPORT, params=query, headers=family.bearer)
    [child] = report.json()["profiles"]
    page = {**family.bearer, "Accept": "text/html"}
    assert (await running.client.get(REPORT, headers=page)).status_code == 200
    return [sum(day["total_minutes"] for day in days), child["total_minutes"]]


@pytest.mark.parametrize("query", [{}, {"zone": "child"}])
async def test_history_and_report_are_read_from_the_standby_and_nothing_else(
    start: Starter,
    settings: Settings,
    standby: Server,
    connection: Connection,
    family: Family,
    query: dict[str, str],
) -> None:
    running = await start(reading(settings, standby))
    balance = f"/api/v1/viewing-time/balance/{family.child}"
    await add_sessions(connection, family, NOW)
    async with standing_still(standby, settings.database_url):
        await add_sessions(connection, family, NOW)
        await connection.execute(
            "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds) "
            "values (gen_random_uuid(), $1, $2, 600)",
            family.child,
            NOW.date(),
        )
        assert await minutes_watched(running, family, **query) == [1.0, 1.0]
        used = (await running.client.get(balance, headers=family.bearer)).json()["used_minutes"]
        assert used == 10.0
    assert running.context.metrics.standby_reads == {
        "answered": 3,
        "refused": 0,
        "failed": 0,
        "skipped": 0,
    }


async def test_a_family_that_has_not_arrived_on_the_standby_is_not_refused(
    start: Starter, settings: Settings, standby: Server, connection: Connection
) -> None:
    running = await start(reading(settings, standby))
    async with standing_still(standby, settings.database_url):
        family = await add_family(connection)
        await add_sessions(connection, family, NOW)
        assert await minutes_watched(running, family) == [1.0, 1.0]
        other = await history(running, Family(account=family.account), from_date=DAY, to_date=DAY)
        assert other.status_code == 403
    assert running.context.metrics.standby_reads["refused"] == 4


async def test_a_read_that_replication_cancels_is_repeated_on_the_primary(
    start: Starter, settings: Settings, standby: Server, connection: Connection
) -> None:
    running = await start(reading(settings, standby))
    async with standing_still(standby, settings.database_url):
        pass  # from here on the standby has the database

    async def read(pool: Pool) -> str:
        with translated(pool):
            if pool is running.context.pool:
                return "primary"
            await pool.fetchval("select pg_sleep(110) from arrived")
            return "standby"

    task = asyncio.create_task(running.context.reads.run(read))
    observer = await standby.connection(name_of(settings.database_url))
    sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    await eventually(lambda: observer.fetchval(sleeping))
    await connection.execute("set synchronous_commit = on; drop table arrived")
    assert await task == "primary"
    assert running.context.metrics.standby_reads["failed"] == 1
    await observer.close()


async def test_a_standby_that_was_promoted_is_read_no_more(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    if connection.get_server_version().major < 14:
        pytest.skip("PostgreSQL 13 does not report that it was promoted")
    async with standby_of(settings.database_url) as promoted:
        running = await start(reading(settings, promoted))
        async with standing_still(promoted, settings.database_url):
            pass
        assert await minutes_watched(running, family) == [0.0, 0.0]
        await promoted.promote()
        await minutes_watched(running, family)  # the server reports it with its next result
        await add_sessions(connection, family, NOW)
        assert await minutes_watched(running, family) == [1.0, 1.0]
    assert running.context.metrics.standby_reads["failed"] >= 1


@pytest.mark.parametrize("state", ["stopped", "silent", "a primary"])
async def test_without_a_standby_the_service_starts_and_the_primary_is_read(
    start: Starter,
    settings: Settings,
    connection: Connection,
    family: Family,
    state: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, sends nothing
        port = silent.getsockname()[1] if state == "silent" else free_port()
        url = settings.database_url if state == "a primary" else f"postgresql://127.0.0.1:{port}/x"
        slow = msgspec.structs.replace(settings, database_read_url=url, request_timeout_seconds=5.0)
        running = await start(slow)
        await add_sessions(connection, family, NOW)
        assert await minutes_watched(running, family) == [1.0, 1.0]
    counts = running.context.metrics.standby_reads
    assert counts["failed"] >= 1
    assert counts["failed"] + counts["skipped"] == 3
    assert len(logged(caplog, "standby_failed")) == 1


async def test_a_standby_that_has_come_back_is_read_again_and_reported_once(
    start: Starter,
    settings: Settings,
    standby: Server,
    postgres_dsn: str,
    connection: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reads, "STANDBY_PAUSE_SECONDS", 0.0)
    running = await start(reading(settings, standby))
    async with standing_still(standby, settings.database_url):
        pass
    await standby.kill()
    for _ in range(2):
        assert await minutes_watched(running, family) == [0.0, 0.0]
    assert running.context.metrics.standby_reads["answered"] == 0
    # The primary of the tests logs no whole pages, so its log may not repair a standby.
    await standby.copy(postgres_dsn, is_standby=True)
    await standby.start(max_standby_streaming_delay="0")
    for _ in range(2):
        assert await minutes_watched(running, family) == [0.0, 0.0]
    assert running.context.metrics.standby_reads["answered"] == 6
    assert len(logged(caplog, "standby_failed")) == 1
    assert len(caplog.text.split("standby_reads_again")) == 2
