"""Alive whatever happens; ready only with a database."""

import asyncpg
import msgspec

from service.database import Connection
from service.settings import Settings
from tests.conftest import Running, Starter


async def test_ready(running: Running) -> None:
    for path in ("/health/ready", "/health"):
        answer = await running.client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok", "checks": {"database": "ok"}}


async def test_not_ready_without_a_database_and_ready_again(
    start: Starter, settings: Settings, connection: Connection, postgres_dsn: str
) -> None:
    running = await start(msgspec.structs.replace(settings, pool_min_size=1, pool_max_size=1))
    name = await connection.fetchval("select current_database()")
    server = await asyncpg.connect(postgres_dsn)
    await server.execute(f"alter database {name} allow_connections false")
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    answer = await running.client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {"status": "degraded", "checks": {"database": "unreachable"}}
    assert (await running.client.get("/health/live")).json() == {"status": "ok"}
    await server.execute(f"alter database {name} allow_connections true")
    await server.close()
    assert (await running.client.get("/health/ready")).status_code == 200
