"""The lock: its end, invalid times, adults, and unlocking."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.database.driver import Connection
from tests.conftest import Running, Starter
from tests.family import Family, add_family
from tests.parents.policy_changing import NOON, PROFILE, call, verdict


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application at noon on a Wednesday."""
    return await start(now=NOON)


async def shown(running: Running, family: Family) -> Any:
    answer = await call(running, family, "GET", "lock")
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"profile_id", "locked_until"}
    assert answer.json()["profile_id"] == str(family.child)
    return answer.json()["locked_until"]


async def put(running: Running, family: Family, **members: Any) -> Any:
    answer = await call(running, family, "PUT", "lock", members)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "profile_id": str(family.child),
        "locked_until": answer.json()["locked_until"],
    }
    return answer.json()["locked_until"]


async def test_a_lock_holds_until_its_time_and_the_last_one_counts(
    running: Running, family: Family
) -> None:
    assert await shown(running, family) is None
    assert await put(running, family, until="2026-11-25T20:00:00+02:00") == "2026-11-25T18:00:00Z"
    assert await put(running, family, until="2026-11-25T14:00Z") == "2026-11-25T14:00:00Z"
    assert await shown(running, family) == "2026-11-25T14:00:00Z"
    running.clock.fixed = datetime(2026, 11, 25, 14, tzinfo=UTC)
    assert await shown(running, family) is None


@pytest.mark.parametrize("members", [{}, {"until": None}])
async def test_a_lock_without_a_time_holds_until_the_next_reset(
    running: Running, connection: Connection, members: dict[str, Any]
) -> None:
    family = await add_family(connection, timezone="America/New_York", reset_hour=4)
    assert await put(running, family, **members) == "2026-11-26T09:00:00Z"
    running.clock.fixed = datetime(2026, 11, 26, 8, 59, 59, tzinfo=UTC)
    assert await put(running, family, **members) == "2026-11-26T09:00:00Z"
    running.clock.fixed = datetime(2026, 11, 26, 9, tzinfo=UTC)
    assert await put(running, family, **members) == "2026-11-27T09:00:00Z"


@pytest.mark.parametrize(
    ("seconds", "detail"),
    [
        (0, "until must be in the future"),
        (-1, "until must be in the future"),
        (366 * 86_400 + 1, "until must be at most 366 days ahead"),
    ],
)
async def test_a_lock_ends_in_the_future_within_366_days(
    running: Running, connection: Connection, family: Family, seconds: int, detail: str
) -> None:
    until = (running.clock() + timedelta(seconds=seconds)).isoformat()
    answer = await call(running, family, "PUT", "lock", {"until": until})
    assert (answer.status_code, answer.json()) == (422, {"detail": detail})
    assert await connection.fetchval("select count(*) from viewing_locks") == 0


async def test_a_lock_can_end_in_a_second_or_in_366_days(running: Running, family: Family) -> None:
    for length in (timedelta(seconds=1), timedelta(days=366)):
        until = (running.clock() + length).isoformat().replace("+00:00", "Z")
        assert await put(running, family, until=until) == until


@pytest.mark.parametrize(
    ("until", "kind"),
    [
        ("2026-11-25T20:00:00", "timezone_aware"),
        ("2026-11-26", "datetime_from_date_parsing"),
        ("tonight", "datetime_from_date_parsing"),
        ("", "datetime_from_date_parsing"),
        (1800000000, "datetime_type"),
        (True, "datetime_type"),
    ],
)
async def test_a_time_that_cannot_be_read_is_422_and_changes_nothing(
    running: Running, family: Family, until: object, kind: str
) -> None:
    before = await put(running, family)
    answer = await call(running, family, "PUT", "lock", {"until": until})
    [error] = answer.json()["detail"]
    assert answer.status_code == 422
    assert (error["type"], error["loc"]) == (kind, ["body", "until"])
    assert await shown(running, family) == before


@pytest.mark.parametrize("until", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
async def test_the_first_and_the_last_time_are_422(
    running: Running, family: Family, until: str
) -> None:
    assert (await call(running, family, "PUT", "lock", {"until": until})).status_code == 422


async def test_only_a_child_can_be_locked(
    running: Running, connection: Connection, family: Family
) -> None:
    url = f"{PROFILE}/{family.adult}/lock"
    for body in ({}, {"until": "2026-11-25T20:00:00Z"}):
        answer = await running.client.put(url, json=body, headers=family.bearer)
        assert answer.status_code == 422
        assert answer.json() == {"detail": "Only a child profile can be locked"}
    assert await connection.fetchval("select count(*) from viewing_locks") == 0
    stranger = await add_family(connection)
    answer = await running.client.put(url, json={}, headers=stranger.bearer)
    assert answer.status_code == 403


async def test_unlocking_twice_is_the_same_as_once(
    running: Running, connection: Connection, family: Family
) -> None:
    sibling = await add_family(connection)
    await put(running, family)
    kept = await put(running, sibling)
    for _ in range(2):
        answer = await call(running, family, "DELETE", "lock")
        assert answer.status_code == 200
        assert answer.json() == {"profile_id": str(family.child), "locked_until": None}
        assert await shown(running, family) is None
    assert await shown(running, sibling) == kept


async def test_a_lock_applies_to_the_next_heartbeat_on_every_instance(
    start: Starter, family: Family
) -> None:
    here, there = await start(now=NOON), await start(now=NOON)
    assert await verdict(there, family) == ("allowed", 119.5)
    await put(here, family, until="2026-11-25T12:30:00Z")
    assert await verdict(there, family) == ("blocked", 0.0)
    there.clock.fixed += timedelta(minutes=30)
    assert await verdict(there, family) == ("allowed", 118.5)
    await put(here, family)
    assert await verdict(there, family) == ("blocked", 0.0)
    answer = await call(here, family, "DELETE", "lock")
    assert answer.status_code == 200
    assert await verdict(there, family) == ("allowed", 117.5)
