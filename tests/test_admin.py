"""What administrators are shown, and nobody else."""

from service.database import Connection
from tests.conftest import Running
from tests.family import Family, bearer

URL = "/api/v1/admin/metrics"


async def test_for_administrators_by_the_databases_word(
    running: Running, connection: Connection, family: Family
) -> None:
    claimed = bearer(family.account, is_admin=True)
    answer = await running.client.get(URL, headers=claimed)
    assert (answer.status_code, answer.json()) == (403, {"detail": "Admin privileges required"})
    await connection.execute("update users set is_admin = true")
    assert (await running.client.get(URL, headers=family.bearer)).status_code == 200
    await connection.execute("update users set is_active = false")
    assert (await running.client.get(URL, headers=family.bearer)).status_code == 401


async def test_counts_what_happened(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("update users set is_admin = true")
    beat = "/api/v1/viewing-time/heartbeat"
    for _ in range(4):
        await running.client.post(beat, json=family.beat(), headers=family.bearer)
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
        "max_size": 10_000,
    }
