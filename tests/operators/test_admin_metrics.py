"""GET /admin/metrics: counts for administrators only."""

import asyncio

import msgspec
import pytest

from service.database.driver import Connection
from service.settings import Settings
from tests.conftest import Running, Starter
from tests.family import HEARTBEAT, PIN, Family, bearer
from tests.statement_counts import of_requests

URL = "/api/v1/admin/metrics"


async def test_administrator_right_comes_from_the_database(
    running: Running, connection: Connection, family: Family
) -> None:
    claimed = bearer(family.account, is_admin=True)
    answer = await running.client.get(URL, headers=claimed)
    assert (answer.status_code, answer.json()) == (403, {"detail": "Admin privileges required"})
    await connection.execute("update users set is_admin = true")
    assert (await running.client.get(URL, headers=family.bearer)).status_code == 200
    await connection.execute("update users set is_active = false")
    assert (await running.client.get(URL, headers=family.bearer)).status_code == 401


async def test_counts_heartbeats_and_cache_lookups(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("update users set is_admin = true")
    for _ in range(4):
        await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    shown = (await running.client.get(URL, headers=family.bearer)).json()
    assert shown["heartbeat"]["total_processed"] == 4
    assert shown["heartbeat"]["avg_db_ops_per_heartbeat"] == 5 / 4
    assert 0 < shown["heartbeat"]["p95_duration_ms"] <= shown["heartbeat"]["max_duration_ms"]
    assert shown["config_cache"] == {
        "hit_rate": 0.75,
        "total_hits": 3,
        "total_misses": 1,
        "total_invalidations": 0,
        "current_size": 1,
        "max_size": 100_000,
    }
    assert shown["pool"] == {"in_use": 0, "current_size": 2, "max_size": 4}
    assert shown["weekly_report"]["total_generated"] == 0


@pytest.mark.warm
async def test_statements_per_heartbeat_match_the_database(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    """In batches and alone, with rejected ones. The pool starts full, so it opens no connection."""
    running = await start(msgspec.structs.replace(settings, pool_min_size=settings.pool_max_size))
    await connection.execute("update users set is_admin = true")
    ran = await of_requests(connection)
    for many in (1, 7, 20):
        stranger = family.beat(profile_id=family.account)
        beats = [family.beat(), family.beat(profile_id=family.adult), stranger] * many
        await asyncio.gather(
            *(running.client.post(HEARTBEAT, json=beat, headers=family.bearer) for beat in beats)
        )
    ran = await of_requests(connection) - ran
    shown = (await running.client.get(URL, headers=family.bearer)).json()["heartbeat"]
    assert shown["total_processed"] == 2 * 28
    assert shown["total_refused"] == 28
    assert shown["avg_db_ops_per_heartbeat"] == round(ran / (3 * 28), 4)


async def test_counts_pin_attempts_and_reports(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("update users set is_admin = true")
    url = "/api/v1/parental-controls"
    await running.client.post(f"{url}/pin/verify", json={"pin": PIN}, headers=family.bearer)
    await running.client.get(f"{url}/weekly-report", headers=family.bearer)
    shown = (await running.client.get(URL, headers=family.bearer)).json()
    attempts = {"right": 1, "wrong": 0, "locked": 0, "refused": 0, "failed": 0}
    assert shown["pin"] == {
        "total_attempts": attempts,
        "total_hashed": 1,
        "waiting": 0,
        "worker_restarts": 0,
    }
    assert shown["weekly_report"]["total_generated"] == 1
    assert shown["weekly_report"]["avg_db_ops_per_report"] == 1
    assert shown["weekly_report"]["p95_duration_ms"] > 0
