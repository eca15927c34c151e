"""Exceptions: members, the range of days, the child's zone, invalid values."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from service.database.driver import Connection
from tests.conftest import Running, Starter
from tests.family import Family, add_family
from tests.parents.policy_changing import NOON, call, verdict

TODAY = "2026-11-25"


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application at noon on a Wednesday."""
    return await start(now=NOON)


async def shown(running: Running, family: Family, query: str = "") -> list[dict[str, Any]]:
    answer = await call(running, family, "GET", f"exceptions{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["profile_id"] == str(family.child)
    found: list[dict[str, Any]] = answer.json()["exceptions"]
    return found


async def put(running: Running, family: Family, day: str, **members: Any) -> dict[str, Any]:
    answer = await call(running, family, "PUT", f"exceptions/{day}", members)
    assert answer.status_code == 200, answer.text
    changed: dict[str, Any] = answer.json()
    return changed


async def delete(running: Running, family: Family, day: str) -> None:
    answer = await call(running, family, "DELETE", f"exceptions/{day}")
    assert (answer.status_code, answer.content) == (204, b""), answer.text


def days(entries: Sequence[dict[str, Any]]) -> list[str]:
    return [entry["date"] for entry in entries]


async def test_an_exception_keeps_the_usual_limit_unless_it_names_one(
    running: Running, family: Family
) -> None:
    now = running.clock().isoformat().replace("+00:00", "Z")
    expected = {
        "date": "2026-12-24",
        "changes_limit": False,
        "limit_minutes": None,
        "lifts_downtime": False,
        "updated_at": now,
    }
    assert await put(running, family, "2026-12-24") == expected
    expected["lifts_downtime"] = True
    assert await put(running, family, "2026-12-24", lifts_downtime="yes") == expected
    expected |= {"changes_limit": True, "limit_minutes": 240}
    assert await put(running, family, "2026-12-24", limit_minutes="240") == expected
    assert await put(running, family, "2026-12-24") == expected
    expected["limit_minutes"] = None
    assert await put(running, family, "2026-12-24", limit_minutes=None) == expected
    assert await shown(running, family) == [expected]


async def test_exceptions_are_listed_from_today_for_366_days(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    await put(running, stranger, "2026-12-01")
    for day in ("2027-11-26", TODAY, "2026-12-24"):
        await put(running, family, day)
    await connection.execute(
        "insert into viewing_exceptions (profile_id, day, changes_limit, lifts_downtime, "
        "updated_at) values ($1, '2026-11-24', false, true, now()), "
        "($1, '2027-11-27', false, true, now())",
        family.child,
    )
    assert days(await shown(running, family)) == [TODAY, "2026-12-24", "2027-11-26"]
    past = await shown(running, family, "?from=2026-11-24&to=2026-11-25")
    assert days(past) == ["2026-11-24", TODAY]
    assert days(await shown(running, family, "?to=2026-11-30")) == [TODAY]
    assert days(await shown(running, family, "?from=2027-11-27")) == ["2027-11-27"]
    assert days(await shown(running, family, "?from=2026-11-26T00:00:00Z&to=2027-11-27")) == [
        "2026-12-24",
        "2027-11-26",
        "2027-11-27",
    ]
    assert await shown(running, family, "?from=9999-12-31") == []


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("?from=2026-12-02&to=2026-12-01", "from must not be after to"),
        ("?to=2026-11-24", "from must not be after to"),
        ("?from=2026-12-01&to=2027-12-03", "Date range must not exceed 366 days"),
    ],
)
async def test_a_list_of_invalid_days_is_422(
    running: Running, connection: Connection, family: Family, query: str, detail: str
) -> None:
    answer = await call(running, family, "GET", f"exceptions{query}")
    assert (answer.status_code, answer.json()) == (422, {"detail": detail})
    stranger = await add_family(connection)
    url = f"/api/v1/parental-controls/profiles/{family.child}/exceptions{query}"
    assert (await running.client.get(url, headers=stranger.bearer)).status_code == 403


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize("text", ["soon", "0", "1798070400", ""])
async def test_a_query_that_is_not_a_date_is_422(
    running: Running, family: Family, name: str, text: str
) -> None:
    answer = await call(running, family, "GET", f"exceptions?{name}={text}")
    [error] = answer.json()["detail"]
    assert answer.status_code == 422
    assert (error["type"], error["loc"]) == ("date_from_datetime_parsing", ["query", name])


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_path_that_is_not_a_date_is_422(
    running: Running, family: Family, method: str
) -> None:
    for text, kind in {
        "tomorrow": "date_from_datetime_parsing",
        "2026-02-30": "date_from_datetime_parsing",
        "1798070400": "date_from_datetime_parsing",
        "2026-12-24T12:00": "date_from_datetime_inexact",
        "0000-01-01": "date_parsing",
    }.items():
        answer = await call(running, family, method, f"exceptions/{text}", {})
        [error] = answer.json()["detail"]
        assert answer.status_code == 422
        assert (error["type"], error["loc"]) == (kind, ["path", "date"])


async def test_a_day_can_be_today_or_up_to_366_days_ahead(
    running: Running, connection: Connection, family: Family
) -> None:
    for day, detail in {
        "2026-11-24": "The viewing day is over",
        "0001-01-01": "The viewing day is over",
        "2027-11-27": "date must be at most 366 days ahead",
        "9999-12-31": "date must be at most 366 days ahead",
    }.items():
        answer = await call(running, family, "PUT", f"exceptions/{day}", {"limit_minutes": 30})
        assert (answer.status_code, answer.json()) == (422, {"detail": detail})
    assert await connection.fetchval("select count(*) from viewing_exceptions") == 0
    for day in (TODAY, "2027-11-26"):
        assert (await put(running, family, day))["date"] == day


async def test_today_is_the_viewing_day_of_the_child(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, timezone="Pacific/Auckland", reset_hour=6)
    running.clock.fixed = datetime(2026, 11, 25, 16, 59, tzinfo=UTC)  # 05:59 on the next day
    assert (await put(running, family, TODAY))["date"] == TODAY
    running.clock.fixed = datetime(2026, 11, 25, 17, tzinfo=UTC)
    answer = await call(running, family, "PUT", f"exceptions/{TODAY}", {})
    assert (answer.status_code, answer.json()) == (422, {"detail": "The viewing day is over"})
    assert await shown(running, family) == []


@pytest.mark.parametrize(
    ("body", "kind", "name"),
    [
        ({"limit_minutes": 7}, "greater_than_equal", "limit_minutes"),
        ({"limit_minutes": 1455}, "less_than_equal", "limit_minutes"),
        ({"limit_minutes": "x"}, "int_parsing", "limit_minutes"),
        ({"lifts_downtime": None}, "bool_type", "lifts_downtime"),
        ({"lifts_downtime": "perhaps"}, "bool_parsing", "lifts_downtime"),
    ],
)
async def test_invalid_member_is_422_and_changes_nothing(
    running: Running, family: Family, body: dict[str, Any], kind: str, name: str
) -> None:
    before = await put(running, family, "2026-12-24", limit_minutes=1440)
    answer = await call(running, family, "PUT", "exceptions/2026-12-24", body)
    [error] = answer.json()["detail"]
    assert answer.status_code == 422
    assert (error["type"], error["loc"]) == (kind, ["body", name])
    assert await shown(running, family) == [before]


async def test_a_limit_is_a_multiple_of_15_minutes(
    running: Running, connection: Connection, family: Family
) -> None:
    answer = await call(running, family, "PUT", "exceptions/2026-12-24", {"limit_minutes": 20})
    assert answer.status_code == 422
    assert answer.json() == {"detail": "limit_minutes must be a multiple of 15 minutes"}
    assert await connection.fetchval("select count(*) from viewing_exceptions") == 0


async def test_deleting_an_exception_twice_is_the_same_as_once(
    running: Running, family: Family
) -> None:
    await put(running, family, "2026-12-24")
    kept = await put(running, family, "2026-12-25")
    for _ in range(2):
        await delete(running, family, "2026-12-24")
        assert await shown(running, family) == [kept]


async def test_the_exception_of_a_day_that_is_over_cannot_be_deleted(
    running: Running, connection: Connection, family: Family
) -> None:
    await put(running, family, TODAY)
    running.clock.fixed = datetime(2026, 11, 26, tzinfo=UTC)
    answer = await call(running, family, "DELETE", f"exceptions/{TODAY}")
    assert (answer.status_code, answer.json()) == (422, {"detail": "The viewing day is over"})
    assert await connection.fetchval("select count(*) from viewing_exceptions") == 1


async def test_an_exception_applies_to_the_next_heartbeat_on_every_instance(
    start: Starter, family: Family
) -> None:
    here, there = await start(now=NOON), await start(now=NOON)
    assert await verdict(there, family) == ("allowed", 119.5)
    await put(here, family, TODAY, limit_minutes=15)
    assert await verdict(there, family) == ("warning_15", 14.0)
    await put(here, family, TODAY, limit_minutes=None)
    assert await verdict(there, family) == ("allowed", None)
    await put(here, family, "2026-11-26", limit_minutes=15)
    await delete(here, family, TODAY)
    assert await verdict(there, family) == ("allowed", 118.0)


async def test_an_exception_lifts_the_downtime_of_its_day_until_it_is_deleted(
    running: Running, family: Family
) -> None:
    downtime = [{"days": ["wed", "thu"], "start": "11:00", "end": "13:00"}]
    answer = await call(running, family, "PUT", "schedule", {"downtime": downtime})
    assert answer.status_code == 200
    assert await verdict(running, family) == ("blocked", 0.0)
    await put(running, family, "2026-11-26", lifts_downtime=True)
    assert await verdict(running, family) == ("blocked", 0.0)
    await put(running, family, TODAY, lifts_downtime=True)
    assert await verdict(running, family) == ("allowed", 118.5)
    await delete(running, family, TODAY)
    assert await verdict(running, family) == ("blocked", 0.0)
