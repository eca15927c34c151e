"""The schedule: defaults, subsets, invalid values, and the limits that past days keep."""

import asyncio
from datetime import date, timedelta
from typing import Any

import pytest

from service.database.driver import Connection
from tests.conftest import Running, Starter
from tests.family import HEARTBEAT, Family, add_family
from tests.parents.policy_changing import NOON, call, verdict

DEFAULTS: dict[str, Any] = {
    "daily_limits": None,
    "downtime": [],
    "weekly_limit_minutes": None,
    "week_starts_on": "mon",
    "rollover_max_minutes": 0,
    "finish_minutes": 0,
}
EVERYTHING: dict[str, Any] = {
    "daily_limits": {"mon": 15, "wed": 1440, "sun": None},
    "downtime": [
        {"days": ["mon", "fri"], "start": "20:00", "end": "06:30"},
        {"days": ["sun"], "start": "00:00", "end": "00:00"},
    ],
    "weekly_limit_minutes": 10080,
    "week_starts_on": "sun",
    "rollover_max_minutes": 240,
    "finish_minutes": 60,
}
WINDOW = {"days": ["mon"], "start": "20:00", "end": "06:30"}


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application at noon on a Wednesday."""
    return await start(now=NOON)


async def shown(running: Running, family: Family) -> dict[str, Any]:
    answer = await call(running, family, "GET", "schedule")
    assert answer.status_code == 200, answer.text
    members: dict[str, Any] = answer.json()
    assert members.pop("profile_id") == str(family.child)
    return members


async def put(running: Running, family: Family, **members: Any) -> dict[str, Any]:
    answer = await call(running, family, "PUT", "schedule", members)
    assert answer.status_code == 200, answer.text
    changed: dict[str, Any] = answer.json()
    del changed["profile_id"]
    return changed


async def test_a_profile_without_a_schedule_has_the_defaults_and_stores_none(
    running: Running, connection: Connection, family: Family
) -> None:
    assert await shown(running, family) == {**DEFAULTS, "updated_at": None}
    assert await connection.fetchval("select count(*) from viewing_schedules") == 0


async def test_every_member_is_stored_and_returned(running: Running, family: Family) -> None:
    changed = await put(running, family, **EVERYTHING)
    now = running.clock().isoformat().replace("+00:00", "Z")
    assert changed == {**EVERYTHING, "updated_at": now}
    assert list(changed["daily_limits"]) == ["mon", "wed", "sun"]
    assert await shown(running, family) == changed


async def test_absent_members_stay_unchanged(running: Running, family: Family) -> None:
    first = await put(running, family, finish_minutes=10)
    assert first == {**DEFAULTS, "finish_minutes": 10, "updated_at": first["updated_at"]}
    await put(running, family, **EVERYTHING)
    for name, value in {
        "daily_limits": {"tue": 30},
        "downtime": [WINDOW],
        "weekly_limit_minutes": 15,
        "week_starts_on": "wed",
        "rollover_max_minutes": 0,
        "finish_minutes": 0,
    }.items():
        before = await shown(running, family)
        assert await put(running, family, **{name: value}) == {**before, name: value}


async def test_null_clears_daily_and_weekly_limits(running: Running, family: Family) -> None:
    before = await put(running, family, **EVERYTHING)
    cleared: dict[str, Any] = {"daily_limits": None, "weekly_limit_minutes": None}
    assert await put(running, family, **cleared) == {**before, **cleared}
    assert (await put(running, family, daily_limits={}))["daily_limits"] == {}


async def test_concurrent_changes_of_different_members_both_succeed(
    running: Running, family: Family
) -> None:
    await asyncio.gather(
        put(running, family, finish_minutes=5), put(running, family, rollover_max_minutes=30)
    )
    after = await shown(running, family)
    assert (after["finish_minutes"], after["rollover_max_minutes"]) == (5, 30)


async def test_values_are_read_leniently(running: Running, family: Family) -> None:
    changed = await put(
        running, family, daily_limits={"mon": "30"}, finish_minutes="5", weekly_limit_minutes=60.0
    )
    assert (changed["daily_limits"], changed["finish_minutes"]) == ({"mon": 30}, 5)
    assert changed["weekly_limit_minutes"] == 60


@pytest.mark.parametrize(
    ("body", "kind", "loc"),
    [
        ({"daily_limits": 60}, "dict_type", ["daily_limits"]),
        ({"daily_limits": [60]}, "dict_type", ["daily_limits"]),
        ({"daily_limits": {"someday": 60}}, "enum", ["daily_limits", "someday", "[key]"]),
        ({"daily_limits": {"MON": 60}}, "enum", ["daily_limits", "MON", "[key]"]),
        ({"daily_limits": {"mon": 7}}, "greater_than_equal", ["daily_limits", "mon"]),
        ({"daily_limits": {"mon": 1455}}, "less_than_equal", ["daily_limits", "mon"]),
        ({"daily_limits": {"mon": 15.5}}, "int_from_float", ["daily_limits", "mon"]),
        ({"downtime": None}, "list_type", ["downtime"]),
        ({"downtime": WINDOW}, "list_type", ["downtime"]),
        ({"downtime": [WINDOW] * 25}, "too_long", ["downtime"]),
        ({"downtime": [WINDOW] * 22}, "too_long", ["downtime"]),
        ({"downtime": [None]}, "model_attributes_type", ["downtime", 0]),
        ({"downtime": [{**WINDOW, "days": []}]}, "too_short", ["downtime", 0, "days"]),
        ({"downtime": [{**WINDOW, "days": ["mon"] * 8}]}, "too_long", ["downtime", 0, "days"]),
        ({"downtime": [WINDOW, {**WINDOW, "days": ["x"]}]}, "enum", ["downtime", 1, "days", 0]),
        ({"downtime": [{"days": ["mon"], "start": "20:00"}]}, "missing", ["downtime", 0, "end"]),
        *[
            ({"downtime": [{**WINDOW, name: text}]}, kind, ["downtime", 0, name])
            for name in ("start", "end")
            for text, kind in {
                "24:00": "string_pattern_mismatch",
                "7:5": "string_pattern_mismatch",
                "07:60": "string_pattern_mismatch",
                "": "string_pattern_mismatch",
                "07:05\n": "string_too_long",
                "07:05:00": "string_too_long",
            }.items()
        ],
        ({"weekly_limit_minutes": 10095}, "less_than_equal", ["weekly_limit_minutes"]),
        ({"weekly_limit_minutes": 7}, "greater_than_equal", ["weekly_limit_minutes"]),
        ({"week_starts_on": "monday"}, "enum", ["week_starts_on"]),
        ({"week_starts_on": None}, "enum", ["week_starts_on"]),
        ({"rollover_max_minutes": 241}, "less_than_equal", ["rollover_max_minutes"]),
        ({"rollover_max_minutes": -1}, "greater_than_equal", ["rollover_max_minutes"]),
        ({"rollover_max_minutes": None}, "int_type", ["rollover_max_minutes"]),
        ({"finish_minutes": 61}, "less_than_equal", ["finish_minutes"]),
        ({"finish_minutes": 0.5}, "int_from_float", ["finish_minutes"]),
    ],
)
async def test_invalid_value_is_422_at_its_place_and_changes_nothing(
    running: Running, family: Family, body: dict[str, Any], kind: str, loc: list[object]
) -> None:
    before = await put(running, family, **EVERYTHING)
    answer = await call(running, family, "PUT", "schedule", {**body, "finish_minutes": 1} | body)
    assert answer.status_code == 422
    [error] = answer.json()["detail"]
    assert (error["type"], error["loc"]) == (kind, ["body", *loc])
    assert await shown(running, family) == before


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"daily_limits": {"sun": 20, "tue": 61}}, "daily_limits.tue"),
        ({"weekly_limit_minutes": 601}, "weekly_limit_minutes"),
    ],
)
async def test_limits_are_multiples_of_15_minutes(
    running: Running, connection: Connection, family: Family, body: dict[str, Any], name: str
) -> None:
    answer = await call(running, family, "PUT", "schedule", {**body, "finish_minutes": 1})
    assert answer.status_code == 422
    assert answer.json() == {"detail": f"{name} must be a multiple of 15 minutes"}
    assert await connection.fetchval("select count(*) from viewing_schedules") == 0
    stranger = await add_family(connection)
    answer = await running.client.put(
        f"/api/v1/parental-controls/profiles/{family.child}/schedule",
        json=body,
        headers=stranger.bearer,
    )
    assert answer.status_code == 403


async def test_a_window_can_have_21_entries_and_every_day(running: Running, family: Family) -> None:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    windows = [{"days": days, "start": "23:59", "end": "00:00"}] * 21
    assert (await put(running, family, downtime=windows))["downtime"] == windows


async def limits_of_days(connection: Connection, family: Family) -> dict[date, int | None]:
    rows = await connection.fetch(
        "select reset_date, limit_minutes from viewing_time_balances where profile_id = $1",
        family.child,
    )
    return {row["reset_date"]: row["limit_minutes"] for row in rows}


async def add_balances(connection: Connection, family: Family, *days: date) -> None:
    await connection.executemany(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
        "educational_seconds, is_unlimited_override) values (gen_random_uuid(), $1, $2, 0, 0, "
        "false)",
        [(family.child, day) for day in days],
    )


async def test_past_days_keep_the_limit_that_was_in_force(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    today, kept, earlier, old = (date(2026, 11, day) for day in (25, 24, 22, 10))
    for one in (family, stranger):
        await add_balances(connection, one, today, kept, earlier, old)
    await connection.execute(
        "update viewing_time_balances set limit_minutes = -1 where reset_date = $1", kept
    )
    await put(running, family, finish_minutes=5, weekly_limit_minutes=600)
    unchanged = {today: None, kept: -1, earlier: None, old: None}
    assert await limits_of_days(connection, family) == unchanged
    await put(running, family, daily_limits={"wed": 15, "sun": 15})
    assert await limits_of_days(connection, family) == {**unchanged, earlier: 120}
    assert await limits_of_days(connection, stranger) == unchanged


async def test_a_past_day_with_an_exception_keeps_the_limit_of_the_exception(
    running: Running, connection: Connection, family: Family
) -> None:
    excepted, lifted = date(2026, 11, 24), date(2026, 11, 23)
    await add_balances(connection, family, excepted, lifted)
    await connection.execute(
        "insert into viewing_exceptions (profile_id, day, changes_limit, limit_minutes, "
        "lifts_downtime, updated_at) values ($1, $2, true, 240, false, now()), "
        "($1, $3, false, null, true, now())",
        family.child,
        excepted,
        lifted,
    )
    await put(running, family, daily_limits={"wed": 15})
    assert await limits_of_days(connection, family) == {excepted: None, lifted: 120}


async def test_past_days_without_a_limit_are_kept_as_unlimited(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, limit=None)
    await add_balances(connection, family, date(2026, 11, 24))
    await put(running, family, daily_limits={"wed": 15})
    assert await limits_of_days(connection, family) == {date(2026, 11, 24): -1}


async def test_a_refused_change_keeps_no_limit(
    running: Running, connection: Connection, family: Family
) -> None:
    await add_balances(connection, family, date(2026, 11, 24))
    await connection.execute(
        "insert into viewing_strict_accounts (account_id, since) values ($1, now())", family.account
    )
    answer = await call(running, family, "PUT", "schedule", {"daily_limits": {}})
    assert answer.status_code == 403
    assert await limits_of_days(connection, family) == {date(2026, 11, 24): None}


async def test_each_member_applies_to_the_next_heartbeat_on_every_instance(
    start: Starter, connection: Connection
) -> None:
    here, there = await start(now=NOON), await start(now=NOON)
    family = await add_family(connection, limit=None)
    assert await verdict(there, family) == ("allowed", None)
    await put(here, family, daily_limits={"wed": 60})
    assert await verdict(there, family) == ("allowed", 59.0)
    await put(here, family, weekly_limit_minutes=15)
    assert await verdict(there, family) == ("warning_15", 13.5)
    await put(here, family, downtime=[{"days": ["wed"], "start": "12:04", "end": "12:05"}])
    assert await verdict(there, family) == ("warning_5", 4.0)
    there.clock.fixed += timedelta(minutes=4)
    assert await verdict(there, family) == ("blocked", 0.0)
    there.clock.fixed += timedelta(minutes=1)
    assert await verdict(there, family) == ("warning_15", 12.0)
    await put(here, family, daily_limits=None, weekly_limit_minutes=None, downtime=[])
    assert await verdict(there, family) == ("allowed", None)


async def test_a_title_may_be_finished_and_minutes_left_are_carried_over(
    running: Running, connection: Connection, family: Family
) -> None:
    await put(running, family, daily_limits={"wed": 15}, rollover_max_minutes=30)
    # Monday and Tuesday have 120 minutes each, so Wednesday gets 30 more.
    assert await verdict(running, family) == ("allowed", 44.5)
    await put(running, family, rollover_max_minutes=0, finish_minutes=10)
    await connection.execute("update viewing_time_balances set used_seconds = 15 * 60")
    await connection.execute("update viewing_sessions set total_seconds = 15 * 60")
    answer = await running.client.post(
        HEARTBEAT,
        json=family.beat(session_id=await connection.fetchval("select id from viewing_sessions")),
        headers=family.bearer,
    )
    assert answer.json()["enforcement"] == "warning_5"
    assert answer.json()["remaining_minutes"] == 9.5
    assert await verdict(running, family) == ("blocked", 0.0)
