"""The pool: warm before the first request, silent between statements, usable through a pooler."""

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from operator import eq
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec
import pytest

from bench.ports import free_port
from service.database.driver import Connection
from service.settings import Settings
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import PIN, Family, add_family, session_seconds
from tests.players.test_heartbeat import beat
from tests.statement_counts import of_requests

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


async def executed(connection: Connection) -> dict[str, int]:
    """The number of runs of each statement in this database."""
    rows = await connection.fetch(
        "select s.query, s.calls from pg_stat_statements as s "
        "join pg_database as d on d.oid = s.dbid where d.datname = current_database() "
        "and s.query !~ 'pg_stat_statements|is_writable'"  # a search of the outbox
    )
    return {row["query"]: row["calls"] for row in rows}


async def test_connections_are_open_before_the_first_request(
    running: Running, connection: Connection
) -> None:
    settings = running.context.settings
    backends = (
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and application_name like 'viewing-time%'"
    )
    # The connections of the pool, the writer, the loader, the listener, readiness and the outbox.
    expected = settings.pool_min_size + settings.heartbeat_connections + 4
    assert await connection.fetchval(backends) >= expected
    # The server may still be ending one that the start has closed.
    await eventually(lambda: connection.fetchval(backends), until=partial(eq, expected))


@pytest.mark.warm
async def test_a_request_is_one_round_trip(
    running: Running, connection: Connection, family: Family
) -> None:
    await beat(running, family)
    before = await of_requests(connection)
    await beat(running, family)
    url = f"/api/v1/viewing-time/balance/{family.child}"
    await running.client.get(url, headers=family.bearer)
    await running.client.get("/api/v1/parental-controls/weekly-report", headers=family.bearer)
    assert await of_requests(connection) - before == 3
    after = await executed(connection)
    assert not [query for query in after if query.upper().startswith(("BEGIN", "RESET", "COMMIT"))]


async def test_statements_are_planned_once(
    running: Running, connection: Connection, family: Family
) -> None:
    if connection.get_server_version().major < 14:
        pytest.skip("PostgreSQL 13 counts no plans")
    await asyncio.gather(*(beat(running, family) for _ in range(20)))
    rows = await running.context.pool.fetch(
        "select generic_plans, custom_plans from pg_prepared_statements"
    )
    assert rows
    assert {row["custom_plans"] for row in rows} == {0}


@asynccontextmanager
async def pooler(dsn: str, **more: str) -> AsyncIterator[str]:
    """PgBouncer in transaction mode in front of `dsn`, with `more` in its configuration."""
    assert PGBOUNCER is not None
    query = {name: values[0] for name, values in parse_qs(urlsplit(dsn).query).items()}
    database, port = urlsplit(dsn).path.removeprefix("/"), free_port()
    with TemporaryDirectory(prefix="vt-") as folder:
        nobody = pwd.getpwnam("nobody")
        as_root = os.geteuid() == 0
        Path(folder).chmod(0o755)
        (Path(folder) / "users").write_text(f'"{query["user"]}" ""\n')
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n{database} = host={query['host']} port={query['port']} "
            f"user={query['user']}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {folder}/users\npool_mode = transaction\n"
            + "".join(f"{name} = {value}\n" for name, value in more.items())
        )
        process = subprocess.Popen(
            [PGBOUNCER, str(configuration)],
            user=nobody.pw_uid if as_root else None,
            group=nobody.pw_gid if as_root else None,
            extra_groups=[] if as_root else None,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"postgresql://{query['user']}@127.0.0.1:{port}/{database}"
            await eventually(lambda: _is_reached(url))
            yield url
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 60)


async def _is_reached(url: str) -> bool:
    try:
        await (await asyncpg.connect(url, statement_cache_size=0)).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_one_locked_session_behind_a_pooler_delays_no_other(
    start: Starter, settings: Settings, connection: Connection
) -> None:
    async with pooler(settings.database_url) as url:
        pooled = {"database_url": url, "database_direct_url": settings.database_url}
        running = await start(msgspec.structs.replace(settings, statement_cache_size=0, **pooled))
        families = [await add_family(connection) for _ in range(21)]
        sessions = {family: (await beat(running, family))["session_id"] for family in families}
        async with connection.transaction():
            await connection.execute(
                "select from viewing_sessions where profile_id = $1 for update", families[0].child
            )
            for _ in range(3):
                first, *rest = await asyncio.gather(
                    *(beat(running, f, session_id=session) for f, session in sessions.items())
                )
                assert first["enforcement"] == "blocked"
                assert {verdict["enforcement"] for verdict in rest} == {"allowed"}
        assert await session_seconds(connection, families[0].child) == 30
        for family in families[1:]:
            assert await session_seconds(connection, family.child) == 4 * 30


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_the_service_works_through_a_pooler_in_transaction_mode(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    async with pooler(settings.database_url) as url:
        pooled = msgspec.structs.replace(
            settings,
            database_url=url,
            database_direct_url=settings.database_url,
            statement_cache_size=0,
        )
        running = await start(pooled)
        session = (await beat(running, family))["session_id"]
        await asyncio.gather(*(beat(running, family, session_id=session) for _ in range(50)))
        assert await session_seconds(connection, family.child) == 51 * 30
        parental = "/api/v1/parental-controls"
        answers = await asyncio.gather(
            *(
                running.client.get(f"{parental}/weekly-report", headers=family.bearer)
                for _ in range(20)
            ),
            running.client.post(f"{parental}/pin/verify", json={"pin": PIN}, headers=family.bearer),
        )
        assert {answer.status_code for answer in answers} == {200}
        assert running.context.metrics.heartbeats_failed_closed == 0
        # The notification of another instance's change bypasses the pooler.
        other = await start(msgspec.structs.replace(pooled, pool_min_size=1))
        change = f"{parental}/profiles/{family.child}/viewing-time"
        body = {"weekday_limit_minutes": 15, "weekend_limit_minutes": 15}
        await other.client.put(change, json=body, headers=family.bearer)
        await eventually(lambda: not running.context.configurations.size)
        verdict = await beat(running, family, session_id=session)
        assert verdict["enforcement"] == "blocked"
        await running.context.writer.stop()
