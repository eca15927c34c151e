"""GET /decision, and the decision that a heartbeat brings back on request."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.database.driver import Connection
from tests.conftest import Running
from tests.family import HEARTBEAT, Family, add_family
from tests.players.test_heartbeat import beat

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)  # of the in-process clock, a Wednesday
SCHEDULE = """
    insert into viewing_schedules (
        profile_id, daily_limits, downtime, weekly_limit_minutes, week_starts_on,
        rollover_max_minutes, finish_minutes, updated_at
    )
    values ($1, $2, $3, $4, 'mon', $5, $6, now())
"""


async def schedule(
    connection: Connection,
    family: Family,
    *,
    limits: str | None = None,
    downtime: str = "[]",
    weekly: int | None = None,
    rollover: int = 0,
    finish: int = 0,
) -> None:
    await connection.execute(SCHEDULE, family.child, limits, downtime, weekly, rollover, finish)


async def used(connection: Connection, family: Family, seconds: int, days_ago: int = 0) -> None:
    """Sets the used seconds of a viewing day."""
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds) "
        "values (gen_random_uuid(), $1, $2, $3) "
        "on conflict (profile_id, reset_date) do update set used_seconds = excluded.used_seconds",
        family.child,
        NOON.date() - timedelta(days=days_ago),
        seconds,
    )


async def decided(running: Running, family: Family, query: str = "") -> dict[str, Any]:
    path = f"/api/v1/viewing-time/decision/{family.child}{query}"
    answer = await running.client.get(path, headers=family.bearer)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_decision_of_a_family_without_a_schedule(running: Running, family: Family) -> None:
    decision = await decided(running, family, "?minutes=121")
    rules = decision.pop("rules")
    assert decision == {
        "profile_id": str(family.child),
        "at": "2026-11-25T12:00:00Z",
        "enforcement": "allowed",
        "allowed": True,
        "reason": None,
        "limited_by": "daily_limit",
        "remaining_minutes": 120.0,
        "is_finishing": False,
        "allowed_until": "2026-11-25T14:00:00Z",
        "next_allowed_at": "2026-11-25T12:00:00Z",
        "fits": False,
    }
    assert [rule["rule"] for rule in rules] == [
        *("locked", "downtime", "daily_limit", "weekly_limit")
    ]
    assert rules[2] == {
        "rule": "daily_limit",
        "remaining_minutes": 120.0,
        "limit_minutes": 120.0,
        "used_minutes": 0.0,
        "carried_minutes": 0.0,
        "extended_minutes": 0.0,
        "starts_at": "2026-11-25T00:00:00Z",
        "ends_at": "2026-11-26T00:00:00Z",
        "is_lifted": False,
    }


async def test_decision_of_an_adult_has_no_rules(running: Running, family: Family) -> None:
    path = f"/api/v1/viewing-time/decision/{family.adult}?minutes=600"
    decision = (await running.client.get(path, headers=family.bearer)).json()
    assert (decision["allowed"], decision["rules"], decision["fits"]) == (True, [], True)


async def test_every_answer_follows_the_rule_that_blocks(
    running: Running, connection: Connection, family: Family
) -> None:
    await schedule(
        connection, family, downtime='[{"days": ["wed"], "start": "11:00", "end": "13:00"}]'
    )
    assert (await beat(running, family))["enforcement"] == "blocked"
    decision = await decided(running, family)
    assert (decision["reason"], decision["next_allowed_at"]) == ("downtime", "2026-11-25T13:00:00Z")
    path = f"/api/v1/viewing-time/playback-eligible/{family.child}"
    eligible = (await running.client.get(path, headers=family.bearer)).json()
    assert eligible == {
        "eligible": False,
        "remaining_minutes": 0.0,
        "reason": "Viewing is not allowed during downtime",
        "next_reset_at": "2026-11-26T00:00:00Z",
    }


async def test_weekly_limit_counts_earlier_days_in_one_statement(
    running: Running, connection: Connection, family: Family
) -> None:
    await schedule(connection, family, weekly=60)
    await used(connection, family, 1800, days_ago=1)
    await used(connection, family, 900, days_ago=2)
    verdict = await beat(running, family)
    assert (verdict["remaining_minutes"], verdict["enforcement"]) == (14.5, "warning_15")
    await used(connection, family, 2700, days_ago=1)
    verdict = await beat(running, family, session_id=verdict["session_id"])
    assert verdict["enforcement"] == "blocked"
    assert (await decided(running, family))["reason"] == "weekly_limit"


async def test_rollover_raises_the_limit_of_the_balance(
    running: Running, connection: Connection, family: Family
) -> None:
    await schedule(connection, family, rollover=30)
    path = f"/api/v1/viewing-time/balance/{family.child}"
    balance = (await running.client.get(path, headers=family.bearer)).json()
    assert (balance["limit_minutes"], balance["remaining_minutes"]) == (150, 150.0)


async def test_title_may_be_finished_and_another_may_not_start(
    running: Running, connection: Connection, family: Family
) -> None:
    await schedule(connection, family, finish=10)
    await used(connection, family, 7200 - 60)
    session = (await beat(running, family))["session_id"]
    await beat(running, family, session_id=session)
    verdict = await beat(running, family, session_id=session)
    assert (verdict["enforcement"], verdict["remaining_minutes"]) == ("warning_5", 9.5)
    decision = await decided(running, family, f"?title_id={family.title}&minutes=9")
    assert (decision["is_finishing"], decision["fits"]) == (True, True)
    assert (await decided(running, family, f"?title_id={family.lesson}"))["reason"] == "daily_limit"
    verdict = await beat(running, family)
    assert verdict["enforcement"] == "blocked"


async def test_exempt_lesson_is_blocked_at_the_limit_for_as_long_as_it_plays(
    running: Running, connection: Connection, family: Family
) -> None:
    await schedule(connection, family, finish=10)
    await used(connection, family, 7200)
    verdict = await beat(running, family, title_id=family.lesson)
    for _ in range(2):
        assert verdict["enforcement"] == "blocked"
        lesson = {"title_id": family.lesson, "session_id": verdict["session_id"]}
        verdict = await beat(running, family, **lesson)


@pytest.mark.parametrize("is_ended", [True, False])
async def test_only_the_open_session_of_a_title_may_finish_it(
    running: Running, connection: Connection, family: Family, is_ended: bool
) -> None:
    await connection.execute("update viewing_time_configs set educational_exempt = false")
    await schedule(connection, family, finish=10)
    await used(connection, family, 7200 - 60)
    session = (await beat(running, family))["session_id"]
    if is_ended:
        path = f"/api/v1/viewing-time/session/{session}/end"
        assert (await running.client.post(path, headers=family.bearer)).status_code == 200
    title = family.title if is_ended else family.lesson
    verdict = await beat(running, family, session_id=session, title_id=title)
    assert verdict["enforcement"] == "blocked"


async def test_unknown_title_is_404(running: Running, family: Family) -> None:
    path = f"/api/v1/viewing-time/decision/{family.child}?title_id={family.child}"
    answer = await running.client.get(path, headers=family.bearer)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Title not found"})


@pytest.mark.parametrize("minutes", ["0", "1441", "x", "1.5"])
async def test_minutes_out_of_bounds_are_422(
    running: Running, family: Family, minutes: str
) -> None:
    path = f"/api/v1/viewing-time/decision/{family.child}?minutes={minutes}"
    answer = await running.client.get(path, headers=family.bearer)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "minutes"]


@pytest.mark.parametrize("prefer", ["decision", "respond-async, Decision", "decision; x=1"])
async def test_heartbeat_brings_the_decision_on_request(
    running: Running, family: Family, prefer: str
) -> None:
    headers = {**family.bearer, "Prefer": prefer}
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
    assert answer.headers["preference-applied"] == "decision"
    decision = answer.json()["decision"]
    assert decision["remaining_minutes"] == answer.json()["remaining_minutes"] == 119.5
    assert decision == await decided(running, family)


@pytest.mark.parametrize("prefer", ["", "decisions", "wait=decision"])
async def test_heartbeat_without_the_preference_keeps_its_shape(
    running: Running, family: Family, prefer: str
) -> None:
    headers = {**family.bearer, "Prefer": prefer}
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
    assert "preference-applied" not in answer.headers
    assert "decision" not in answer.json()


async def test_lesson_that_is_exempt_is_not_stopped_by_the_limit(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, limit=60)
    decision = await decided(running, family, f"?title_id={family.lesson}&minutes=600")
    assert (decision["allowed_until"], decision["fits"]) == (None, True)


async def test_session_keeps_the_seconds_of_earlier_days(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    await connection.execute(
        "update viewing_sessions set total_seconds = 600, last_heartbeat_at = $2 where id = $1",
        session,
        NOON - timedelta(hours=13),
    )
    for _ in range(2):
        await beat(running, family, session_id=session)
    row = await connection.fetchrow("select total_seconds, earlier_days from viewing_sessions")
    assert row is not None
    assert tuple(row) == (660, '[["2026-11-24T23:00:00+00:00", 600]]')
