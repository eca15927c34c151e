"""The configuration: defaults, subsets, sensitive members, changes that apply everywhere."""

import asyncio
from typing import Any

import pytest

from service.database.driver import Connection
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, PIN, Family, add_family, bearer


def url(family: Family) -> str:
    return f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"


async def remaining(running: Running, family: Family) -> float | None:
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    left: float | None = answer.json()["remaining_minutes"]
    return left


async def pin_token(running: Running, family: Family) -> str:
    answer = await running.client.post(
        "/api/v1/parental-controls/pin/verify", json={"pin": PIN}, headers=family.bearer
    )
    token: str = answer.json()["pin_token"]
    return token


async def test_concurrent_first_reads_store_the_defaults_once(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("delete from viewing_time_configs")
    answers = await asyncio.gather(
        *(running.client.get(url(family), headers=family.bearer) for _ in range(20))
    )
    assert {a.status_code for a in answers} == {200}
    assert len({a.text for a in answers}) == 1
    assert await connection.fetchval("select count(*) from viewing_time_configs") == 1


async def test_absent_members_stay_unchanged(
    running: Running, connection: Connection, family: Family
) -> None:
    async def put(body: dict[str, Any]) -> Any:
        answer = await running.client.put(url(family), json=body, headers=family.bearer)
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert (await put({"weekday_limit_minutes": 60}))["weekend_limit_minutes"] == 120
    assert (await put({"weekend_limit_minutes": None}))["weekday_limit_minutes"] == 60
    shown = await put({"timezone": "Asia/Kathmandu"})
    assert (shown["weekend_limit_minutes"], shown["timezone"]) == (None, "Asia/Kathmandu")
    row = await connection.fetchrow(
        "select weekday_limit_minutes, weekend_limit_minutes, reset_hour, timezone "
        "from viewing_time_configs"
    )
    assert tuple(row or ()) == (60, None, 0, "Asia/Kathmandu")


async def test_concurrent_changes_of_different_members_both_succeed(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("delete from viewing_time_configs")
    bodies = [{"weekday_limit_minutes": 45}, {"weekend_limit_minutes": 75}]
    await asyncio.gather(
        *(running.client.put(url(family), json=body, headers=family.bearer) for body in bodies)
    )
    row = await connection.fetchrow(
        "select weekday_limit_minutes, weekend_limit_minutes from viewing_time_configs"
    )
    assert tuple(row or ()) == (45, 75)


async def test_a_change_applies_to_the_next_heartbeat(running: Running, family: Family) -> None:
    assert await remaining(running, family) == 119.5
    body = {"weekday_limit_minutes": 15, "weekend_limit_minutes": 15}
    await running.client.put(url(family), json=body, headers=family.bearer)
    assert await remaining(running, family) == 14.0


async def test_a_change_reaches_the_other_instance_within_a_second(
    start: Starter, family: Family
) -> None:
    here, there = await start(), await start()
    assert await remaining(there, family) == 119.5
    body = {"weekday_limit_minutes": 15, "weekend_limit_minutes": 15}
    await here.client.put(url(family), json=body, headers=family.bearer)
    await eventually(lambda: not there.context.configurations.size)
    assert await remaining(there, family) == 14.0


@pytest.mark.parametrize("member", ["reset_hour", "educational_exempt"])
async def test_a_pin_token_is_invalid_after_the_pin_has_changed(
    running: Running, connection: Connection, family: Family, member: str
) -> None:
    token = await pin_token(running, family)
    body = {member: 1, "pin_token": token}
    assert (
        await running.client.put(url(family), json=body, headers=family.bearer)
    ).status_code == 200
    change = {"new_pin": "9999", "current_pin": PIN}
    await running.client.post("/api/v1/parental-controls/pin", json=change, headers=family.bearer)
    answer = await running.client.put(url(family), json=body, headers=family.bearer)
    assert answer.status_code == 403
    assert answer.json() == {"detail": f"Valid PIN token required to change: {member}"}


async def test_pin_token_with_only_the_claims_of_the_contract_is_accepted(
    running: Running, family: Family
) -> None:
    claims = {"purpose": "pin_verified", "jti": "1", "exp": int(running.clock().timestamp()) + 300}
    token = bearer(family.account, **claims)["Authorization"].removeprefix("Bearer ")
    body = {"reset_hour": 3, "pin_token": token}
    answer = await running.client.put(url(family), json=body, headers=family.bearer)
    assert (answer.status_code, answer.json()["reset_hour"]) == (200, 3)
    grant = {"minutes": 15, "pin_token": token}
    answer = await running.client.post(f"{url(family)}/grant", json=grant, headers=family.bearer)
    assert answer.status_code == 200


async def test_a_limit_is_checked_before_the_pin_token(running: Running, family: Family) -> None:
    for member in ("weekday_limit_minutes", "weekend_limit_minutes"):
        body = {"reset_hour": 7, member: 20}
        answer = await running.client.put(url(family), json=body, headers=family.bearer)
        assert answer.status_code == 422
        assert answer.json() == {"detail": f"{member} must be a multiple of 15 minutes"}


async def test_the_pin_token_of_another_account_is_rejected(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    body = {"reset_hour": 5, "pin_token": await pin_token(running, stranger)}
    answer = await running.client.put(url(family), json=body, headers=family.bearer)
    assert answer.status_code == 403
    assert await connection.fetchval("select max(reset_hour) from viewing_time_configs") == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"weekday_limit_minutes": 14}, 422),
        ({"weekday_limit_minutes": 495}, 422),
        ({"weekday_limit_minutes": 20}, 422),
        ({"weekday_limit_minutes": 15.5}, 422),
        ({"weekday_limit_minutes": -15}, 422),
        ({"weekday_limit_minutes": 1e9}, 422),
        ({"weekday_limit_minutes": "abc"}, 422),
        ({"timezone": "Mars/Base"}, 422),
        ({"timezone": "a\0b"}, 422),
        ({"timezone": "posix/UTC"}, 422),
        ({"timezone": "right/Europe/Berlin"}, 422),
        ({"timezone": "posixrules"}, 422),
        ({"timezone": "localtime"}, 422),
        ({"timezone": "europe/berlin"}, 422),
        ({"timezone": None}, 422),
        ({"reset_hour": None}, 422),
        ({"educational_exempt": None}, 422),
        ({"reset_hour": 24}, 422),
    ],
)
async def test_bad_values_change_nothing(
    running: Running, connection: Connection, family: Family, body: dict[str, Any], status: int
) -> None:
    rows = "select md5(string_agg(c::text, '')) from viewing_time_configs as c"
    before = await connection.fetchval(rows)
    answer = await running.client.put(url(family), json=body, headers=family.bearer)
    assert answer.status_code == status
    assert await connection.fetchval(rows) == before


async def test_another_account_gets_403_instead_of_validation_errors(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    for body, own, foreign in (
        ({"weekday_limit_minutes": 14}, 422, 422),
        ({"weekday_limit_minutes": 20}, 422, 403),
        ({"reset_hour": 7}, 403, 403),
    ):
        answer = await running.client.put(url(family), json=body, headers=family.bearer)
        assert answer.status_code == own
        answer = await running.client.put(url(family), json=body, headers=stranger.bearer)
        assert answer.status_code == foreign
        if body != {"weekday_limit_minutes": 14}:
            assert answer.json() == {"detail": "Profile not found or access denied"}
    await connection.execute("update users set is_active = false")
    answer = await running.client.put(url(family), json={"reset_hour": 99}, headers=family.bearer)
    assert answer.status_code == 401
