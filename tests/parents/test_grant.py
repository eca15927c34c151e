"""A grant lowers today's used minutes or lifts today's limit, and is recorded."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.database.driver import Connection
from tests.conftest import Running
from tests.family import PASSWORD_HASH, PIN, Family, add_family, used_seconds
from tests.parents.test_viewing_config import pin_token
from tests.players.test_heartbeat import beat

NOON = datetime(2027, 3, 3, 12, tzinfo=UTC)  # a Wednesday


def url(profile: UUID) -> str:
    return f"/api/v1/parental-controls/profiles/{profile}/viewing-time/grant"


async def grant(running: Running, family: Family, **members: Any) -> httpx.Response:
    return await running.client.post(url(family.child), json=members, headers=family.bearer)


async def use(connection: Connection, family: Family, seconds: int) -> None:
    """Stores the balance of the viewing day with `seconds` used."""
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
        "educational_seconds, is_unlimited_override, updated_at) "
        "values (gen_random_uuid(), $1, '2027-03-03', $2, 0, false, now())",
        family.child,
        seconds,
    )


async def stored_grants(connection: Connection) -> list[tuple[Any, ...]]:
    """All grants, oldest first."""
    rows = await connection.fetch(
        "select profile_id, granted_by_user_id, granted_minutes, is_remote, granted_at "
        "from time_grants order by granted_at"
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("used", "minutes", "left_used"), [(7200, 30, 5400), (600, 15, 0), (0, 120, 0)]
)
async def test_minutes_lower_used_seconds_but_not_below_zero(
    running: Running,
    connection: Connection,
    family: Family,
    used: int,
    minutes: int,
    left_used: int,
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, used)
    answer = await grant(running, family, minutes=minutes)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "granted_minutes": minutes,
            "remaining_minutes": 120 - left_used / 60,
            "is_unlimited_override": False,
        },
    )
    assert await used_seconds(connection, family.child) == left_used
    assert await stored_grants(connection) == [(family.child, family.account, minutes, True, NOON)]


@pytest.mark.parametrize("body", [{}, {"minutes": None}])
async def test_a_grant_without_minutes_lifts_todays_limit(
    running: Running, connection: Connection, family: Family, body: dict[str, Any]
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, 7200)
    assert (await beat(running, family))["enforcement"] == "blocked"
    unlimited = {
        "granted_minutes": None,
        "remaining_minutes": None,
        "is_unlimited_override": True,
    }
    assert (await grant(running, family, **body)).json() == unlimited
    assert (await beat(running, family))["enforcement"] == "allowed"
    later = await grant(running, family, minutes=15)
    assert later.json() == {**unlimited, "granted_minutes": 15}
    assert [row[2] for row in await stored_grants(connection)] == [None, 15]
    running.clock.fixed = datetime(2027, 3, 4, 12, tzinfo=UTC)
    assert (await beat(running, family))["remaining_minutes"] == 119.5


async def test_concurrent_heartbeats_are_kept(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, 7200)
    await asyncio.gather(
        *(beat(running, family) for _ in range(20)),
        *(grant(running, family, minutes=15) for _ in range(4)),
    )
    assert await used_seconds(connection, family.child) == 7200 + 20 * 30 - 4 * 15 * 60
    assert len(await stored_grants(connection)) == 4


async def test_grant_on_the_childs_device_takes_the_pin_or_its_token(
    running: Running, connection: Connection, family: Family
) -> None:
    assert (await grant(running, family, minutes=15, pin=PIN)).status_code == 200
    token = await pin_token(running, family)
    assert (await grant(running, family, minutes=15, pin_token=token)).status_code == 200
    assert [row[3] for row in await stored_grants(connection)] == [False, False]


async def test_with_a_wrong_pin_or_token_nothing_is_granted(
    running: Running, connection: Connection, family: Family
) -> None:
    token = await pin_token(running, family)
    await connection.execute("update users set pin_hash = $1", PASSWORD_HASH)
    for members, detail in (
        ({"pin": "0000"}, "Incorrect PIN"),
        ({"pin_token": "no token"}, "Invalid or expired PIN token"),
        ({"pin_token": token}, "Invalid or expired PIN token"),
    ):
        answer = await grant(running, family, minutes=15, **members)
        assert (answer.status_code, answer.json()) == (403, {"detail": detail})
    assert await stored_grants(connection) == []
    assert await connection.fetchval("select count(*) from viewing_time_balances") == 0


async def test_only_the_childs_own_parent_can_grant(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    for members in ({"minutes": 15}, {"minutes": 15, "pin": PIN}):
        answer = await running.client.post(url(family.child), json=members, headers=stranger.bearer)
        assert answer.status_code == 403
        assert answer.json() == {"detail": "Profile not found or access denied"}
    assert await stored_grants(connection) == []


@pytest.mark.parametrize("minutes", [14, 121, 0, -15, 15.5, 1e9, "abc", [15]])
async def test_bad_minutes_grant_nothing(
    running: Running, connection: Connection, family: Family, minutes: Any
) -> None:
    answer = await grant(running, family, minutes=minutes)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "minutes"]
    assert await stored_grants(connection) == []
