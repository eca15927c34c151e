"""Balance and eligibility, by the viewing day of the child's zone."""

from datetime import UTC, datetime
from uuid import uuid4

from service.database.driver import Connection
from tests.conftest import Running
from tests.family import Family, add_family, bearer


async def test_balance_of_a_child(running: Running, connection: Connection, family: Family) -> None:
    running.clock.fixed = datetime(2026, 11, 24, 12, tzinfo=UTC)
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
        "educational_seconds, is_unlimited_override) "
        "values (gen_random_uuid(), $1, '2026-11-24', 7190, 95, false)",
        family.child,
    )
    answer = await running.client.get(
        f"/api/v1/viewing-time/balance/{family.child}", headers=family.bearer
    )
    assert answer.json() == {
        "profile_id": str(family.child),
        "is_child_profile": True,
        "has_limits": True,
        "used_minutes": 119.83,
        "educational_minutes": 1.58,
        "limit_minutes": 120,
        "remaining_minutes": 0.17,
        "is_unlimited_override": False,
        "next_reset_at": "2026-11-25T00:00:00Z",
        "warning_threshold_minutes": [15, 5],
    }


async def test_next_reset_across_a_clock_change(running: Running, connection: Connection) -> None:
    family = await add_family(connection, timezone="Europe/Berlin", reset_hour=2)
    running.clock.fixed = datetime(2026, 3, 28, 12, tzinfo=UTC)
    answer = await running.client.get(
        f"/api/v1/viewing-time/balance/{family.child}", headers=family.bearer
    )
    assert answer.json()["next_reset_at"] == "2026-03-29T01:00:00Z"


async def test_eligibility_ends_with_the_last_second(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = datetime(2026, 11, 24, 12, tzinfo=UTC)
    url = f"/api/v1/viewing-time/playback-eligible/{family.child}"
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
        "educational_seconds, is_unlimited_override) "
        "values (gen_random_uuid(), $1, '2026-11-24', 7199, 0, false)",
        family.child,
    )
    answer = await running.client.get(url, headers=family.bearer)
    assert (answer.json()["eligible"], answer.json()["remaining_minutes"]) == (True, 0.02)
    await connection.execute("update viewing_time_balances set used_seconds = 7200")
    answer = await running.client.get(url, headers=family.bearer)
    assert answer.json() == {
        "eligible": False,
        "remaining_minutes": 0.0,
        "reason": "Daily viewing time limit reached",
        "next_reset_at": "2026-11-25T00:00:00Z",
    }


async def test_other_accounts_get_403_and_store_nothing(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("delete from viewing_time_configs")
    stranger = await add_family(connection)
    for path in ("balance", "playback-eligible"):
        for profile in (family.child, uuid4()):
            url = f"/api/v1/viewing-time/{path}/{profile}"
            answer = await running.client.get(url, headers=bearer(stranger.account))
            assert answer.status_code == 403
            assert answer.json() == {"detail": "Profile not found or access denied"}
    stored = "select count(*) from viewing_time_configs where profile_id = $1"
    assert await connection.fetchval(stored, family.child) == 0


async def test_a_deactivated_account_is_refused_with_a_warm_cache(
    running: Running, connection: Connection, family: Family
) -> None:
    url = f"/api/v1/viewing-time/balance/{family.child}"
    assert (await running.client.get(url, headers=family.bearer)).status_code == 200
    await connection.execute("update users set is_active = false")
    answer = await running.client.get(url, headers=family.bearer)
    assert (answer.status_code, answer.json()) == (401, {"detail": "User not found or inactive"})


async def test_an_adult_has_no_limits_and_gets_no_configuration(
    running: Running, connection: Connection, family: Family
) -> None:
    answer = await running.client.get(
        f"/api/v1/viewing-time/balance/{family.adult}", headers=family.bearer
    )
    assert answer.json()["has_limits"] is False
    assert answer.json()["warning_threshold_minutes"] == [15, 5]
    assert await connection.fetchval("select count(*) from viewing_time_configs") == 1
