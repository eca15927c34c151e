"""An uncached profile is treated like a cached one: twins live the same random days.

One twin's policy is always cached before a heartbeat, the other's never. All answers and all rows
must be equal, except ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, Literal

import msgspec
import pytest
from msgspec.structs import replace

from service.database.driver import Connection
from service.settings import Settings
from tests.conftest import Running, Starter
from tests.family import HEARTBEAT, Family, add_family

ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia")
# Before a change of clocks in some of the zones, before the end of a year, and an ordinary day.
BEGINS: Final = ("2026-10-24 11:00", "2026-03-28 20:00", "2026-12-30 20:00", "2026-11-25 00:00")
STEPS: Final = 40
SCHEDULE: Final = """
    insert into viewing_schedules (
        profile_id, daily_limits, downtime, weekly_limit_minutes, week_starts_on,
        rollover_max_minutes, finish_minutes, updated_at
    )
    values ($1, $2, $3, $4, $5, $6, $7, now())
"""
EXCEPTION: Final = """
    insert into viewing_exceptions (
        profile_id, day, changes_limit, limit_minutes, lifts_downtime, updated_at
    )
    values ($1, $2, true, $3, true, now())
"""
BALANCE: Final = """
    insert into viewing_time_balances (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        extended_minutes, limit_minutes, updated_at
    )
    values (gen_random_uuid(), $1, $2, $3, 0, $4, $5, $6, '2026-01-01Z')
"""
SESSIONS: Final = """
    select
        title_id, device_id, is_educational, started_at, last_heartbeat_at, ended_at,
        total_seconds, paused_at, earlier_days
    from viewing_sessions where profile_id = $1 order by started_at, total_seconds, ended_at
"""
BALANCES: Final = """
    select reset_date, used_seconds, educational_seconds, updated_at
    from viewing_time_balances where profile_id = $1 order by reset_date
"""


@dataclass
class Twin:
    """One of two profiles with equal policies; `sessions` are in step with the other's."""

    family: Family
    is_cached: bool
    sessions: list[str] = field(default_factory=list)

    async def beat(
        self, running: Running, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        """Sends a beat; returns the status, and the answer without ids."""
        configurations, family = running.context.configurations, self.family
        profile = family.adult if body.get("is_adult") else family.child
        configurations.drop(family.account, profile)
        if self.is_cached:
            await configurations.get(family.account, profile)
        sent = {name: value for name, value in body.items() if name != "is_adult"}
        number = sent.pop("session", None)
        if number is not None:
            sent["session_id"] = self.sessions[number]
        answer = await running.client.post(
            HEARTBEAT,
            json=family.beat(profile_id=profile, **sent),
            headers={**family.bearer, **headers},
        )
        shown = answer.json()
        session = shown.pop("session_id", None)
        if answer.status_code == 200 and session not in self.sessions:
            self.sessions.append(session)
        if "decision" in shown:
            del shown["decision"]["profile_id"]
        return answer.status_code, shown


async def add_policy(connection: Connection, family: Family, random: Random, at: datetime) -> None:
    """Stores random rules of parents, and what the child has used in the last days."""
    today = at.date()
    if random.random() < 0.7:
        windows = [{"days": ["mon", "wed", "sat"], "start": "20:00", "end": "07:00"}]
        await connection.execute(
            SCHEDULE,
            family.child,
            msgspec.json.encode({"mon": 30, "sat": None}).decode(),
            msgspec.json.encode(windows * random.randrange(2)).decode(),
            random.choice([None, 60, 300]),
            random.choice(["mon", "thu", "sun"]),
            random.choice([0, 60]),
            random.choice([0, 15]),
        )
    if random.random() < 0.3:
        day = today + timedelta(days=random.randrange(-1, 3))
        await connection.execute(EXCEPTION, family.child, day, random.choice([None, 15]))
    if random.random() < 0.2:
        until = at + timedelta(hours=random.randrange(30))
        await connection.execute(
            "insert into viewing_locks values ($1, $2, now())", family.child, until
        )
    if random.random() < 0.2:
        await connection.execute(
            "update viewing_time_configs set day_floor = $2 where profile_id = $1",
            family.child,
            today + timedelta(days=random.randrange(-1, 2)),
        )
    for ago in range(9):
        used = random.choice([0, 1500, 3600, 7200])
        extra = (random.random() < 0.1, random.choice([None, 15]), random.choice([None, -1, 60]))
        if random.random() < 0.7:
            day = today - timedelta(days=ago)
            await connection.execute(BALANCE, family.child, day, used, *extra)


def step(random: Random, number: int, sessions: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The body and the headers of a random heartbeat."""
    body: dict[str, Any] = {
        "is_adult": random.random() < 0.15,
        "is_paused": random.random() < 0.1,
        "exclusive": random.random() < 0.3,
        "device_id": random.choice(["tv-1", "tv-2"]),
    }
    if sessions and random.random() < 0.8:
        body["session"] = random.randrange(max(0, sessions - 3), sessions)
    headers = {"Prefer": "decision"}
    if random.random() < 0.3:
        headers["Idempotency-Key"] = f"key-{random.randrange(number // 2, number + 1)}"
    return body, headers


@pytest.mark.parametrize("credit", ["beats", "clock"])
@pytest.mark.parametrize("seed", range(8))
async def test_twins_get_equal_answers_and_equal_rows(
    start: Starter,
    settings: Settings,
    connection: Connection,
    credit: Literal["beats", "clock"],
    seed: int,
) -> None:
    random = Random(f"{credit} {seed}")
    running = await start(replace(settings, credit=credit))
    at = datetime.fromisoformat(BEGINS[seed % len(BEGINS)]).replace(tzinfo=UTC)
    place: dict[str, Any] = {
        "timezone": random.choice(ZONES),
        "reset_hour": random.choice([0, 2, 6, 23]),
        "limit": random.choice([None, 60, 120]),
        "exempt": random.random() < 0.5,
    }
    twins = [Twin(await add_family(connection, **place), is_cached) for is_cached in (True, False)]
    state = random.getstate()
    for twin in twins:
        random.setstate(state)
        await add_policy(connection, twin.family, random, at)
    is_lesson = random.choices([True, False], k=STEPS)
    for number in range(STEPS):
        at += timedelta(seconds=random.choice([1, 17, 30, 30, 300, 301, 3600, 7200]))
        running.clock.fixed = at
        body, headers = step(random, number, len(twins[0].sessions))
        answers = []
        for twin in twins:
            family = twin.family
            title = family.lesson if is_lesson[number] else family.title
            answers.append(await twin.beat(running, {**body, "title_id": title}, headers))
        assert answers[0] == answers[1], (number, at, body, headers)
    for query in (SESSIONS, BALANCES):
        for profile in ("child", "adult"):
            cached, uncached = [
                [tuple(row) for row in await connection.fetch(query, getattr(t.family, profile))]
                for t in twins
            ]
            titles = {twins[1].family.title: twins[0].family.title}
            titles[twins[1].family.lesson] = twins[0].family.lesson
            assert cached == [tuple(titles.get(value, value) for value in row) for row in uncached]
