"""The events of heartbeats: the statement announces what the service decides, and only once."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import msgspec
import pytest

from service.database.driver import Connection
from service.viewing import announcements
from service.viewing.announcements import ALWAYS, NEVER
from service.viewing.config_entries import Entry
from service.viewing.decision import Decision, PastDay, Usage, decide
from service.viewing.policy import UNLIMITED, Policy, stored_policy, usage_from, viewing_day
from service.viewing.rules import DAY, Configuration
from tests.conftest import NOW, Running, Starter
from tests.family import HEARTBEAT, Family, add_family
from tests.viewing.test_decision import policy

ANNOUNCE = """
select viewing_announce(
    $1::int[], array[1], array[$2::uuid], array[$3::date], array[$2::uuid], array[$4::int],
    array[$5::bool], $6::uuid[], $7::int[], $8::int[], $9::int[], $10::int[], $11::date[],
    $12::int[], $13::bool[], $14::int[], $15::int[], array[$16::text], $17::timestamptz
)
"""
TAKEN = "delete from viewing_events returning type, data, account_id, cause"
EVENTS = "select type, data from viewing_events order by seq"


def an_entry(policy: Policy) -> Entry:
    return Entry(1, 2, True, policy, 0.0, 0.0)


def expected(decision: Decision) -> list[tuple[str, object]]:
    match decision.enforcement:
        case "allowed":
            return []
        case "blocked":
            return [("viewing.blocked", decision.binding)]
        case "warning_15":
            return [("viewing.warning", 15)]
    return [("viewing.warning", 5)]


def some_policy(random: Random, now: datetime) -> Policy:
    """A policy with some of the rules, most of them close to what is used."""
    limits = [None, 15, 30, 60, 120]
    day = now.date()
    schedule = {
        "daily_limits": random.choice(
            [None, {"thu": random.choice(limits), "wed": random.choice(limits)}]
        ),
        "downtime": random.choice(
            [
                (),
                [{"days": ["thu"], "start": "12:10", "end": "13:00"}],
                [{"days": ["thu"], "start": "11:00", "end": "12:04"}],
                [{"days": ["thu"], "start": "20:00", "end": "21:00"}],
            ]
        ),
        "weekly_limit_minutes": random.choice([None, None, 60, 120, 180]),
        "week_starts_on": random.choice(["mon", "wed", "thu"]),
        "rollover_max_minutes": random.choice([0, 0, 15, 60]),
        "finish_minutes": random.choice([0, 0, 20]),
    }
    stored = {
        "schedule": random.choice([None, schedule, schedule]),
        "exceptions": random.choice(
            [None, [(day.isoformat(), True, random.choice(limits), random.random() < 0.5)]]
        ),
        "locked_until": random.choice([None, None, None, now + timedelta(minutes=1), now]),
    }
    limit = random.choice(limits)
    return stored_policy(
        Configuration(limit, limit, 6, True, random.choice(["UTC", "Europe/Berlin"])),
        msgspec.json.encode(stored).decode(),
    )


def some_usage(random: Random, policy: Policy, day: date) -> Usage:
    first = usage_from(policy, day)
    week = []
    if first is not None:
        for number in range((day - first).days):
            if random.random() < 0.8:
                past = (30 * random.randrange(0, 300), random.random() < 0.1)
                kept = random.choice([None, None, 30, 60, UNLIMITED])
                week.append(PastDay(first + number * DAY, *past, random.choice([0, 15]), kept))
    used = 30 * random.randrange(0, 320)
    added = random.choice([0, 0, 15, 60])
    session = random.choice([0, 30, 900, 9000]) if first is not None else 0
    return Usage(day, used, random.random() < 0.1, added, week, session)


async def announce(
    connection: Connection, child: object, usage: Usage, rules: str | None, now: datetime
) -> Any:
    week = usage.week
    columns = [list(column) for column in zip(*week, strict=True)] if week else [None] * 5
    return await connection.fetchval(
        ANNOUNCE,
        [1],
        child,
        usage.day,
        usage.used_seconds,
        usage.is_unlimited,
        [child] if usage.extended_minutes else None,
        [usage.extended_minutes] if usage.extended_minutes else None,
        [1],
        [usage.session_seconds],
        [1] * len(week) if week else None,
        *columns,
        rules,
        now,
    )


def is_due(usage: Usage, announce_from: int) -> bool:
    credited = usage.used_seconds - 60 * usage.extended_minutes
    return (ALWAYS if usage.is_unlimited else credited) >= announce_from


async def test_the_statement_announces_what_the_service_decides(
    connection: Connection, family: Family
) -> None:
    seed = 20261127
    print("seed", seed)
    random = Random(seed)
    found: dict[str, int] = {}
    for _ in range(3000):
        now = NOW.replace(year=2026, month=11, day=26, hour=12) + timedelta(
            seconds=random.randrange(0, 600)
        )
        policy = some_policy(random, now)
        day = viewing_day(policy, now)
        usage, entry = some_usage(random, policy, day), an_entry(policy)
        if random.random() < 0.5:  # an earlier beat has been decided
            before = msgspec.structs.replace(usage, used_seconds=max(0, usage.used_seconds - 30))
            announcements.remember(entry, before, decide(policy, before, now), ALWAYS)
        announce_from, rules = announcements.due(entry, day, now)
        decision = decide(policy, usage, now)
        announced = announcements.announced(entry, day)
        written = []
        if is_due(usage, announce_from):
            await announce(connection, family.child, usage, rules, now)
            for kind, data, account, _ in await connection.fetch(TAKEN):
                members = msgspec.json.decode(data)
                assert members.pop("viewing_date") == day.isoformat()
                assert account == family.account
                [value] = members.values()
                written.append((kind, value))
        announcements.remember(entry, usage, decision, ALWAYS)
        has_news = announcements.announced(entry, day) != announced
        story = (policy, usage, now, announce_from, rules)
        if has_news or written:
            assert written == expected(decision), story
        outcome = f"{decision.enforcement} {decision.reason} {bool(written)}"
        found[outcome] = found.get(outcome, 0) + 1
    for outcome in (
        "allowed None False",
        "warning_15 None True",
        "warning_5 None True",
        "blocked locked True",
        "blocked downtime True",
        "blocked daily_limit True",
        "blocked weekly_limit True",
    ):
        assert found[outcome] > 30, found


def test_a_child_far_from_its_limits_is_not_looked_at() -> None:
    plain = an_entry(policy(120))
    thursday = date(2026, 11, 26)
    noon = datetime(2026, 11, 26, 12, tzinfo=UTC)
    assert announcements.due(plain, thursday, noon)[0] == 7200 - 900
    assert announcements.due(an_entry(policy(None)), thursday, noon) == (NEVER, None)
    night = [{"days": ["thu"], "start": "20:00", "end": "21:00"}]
    assert announcements.due(an_entry(policy(None, downtime=night)), thursday, noon)[0] == NEVER


def test_what_was_announced_is_looked_at_again_on_the_next_day_only() -> None:
    rules, noon = policy(60), datetime(2026, 11, 26, 12, tzinfo=UTC)
    entry, day = an_entry(rules), date(2026, 11, 26)
    for used, announce_from in ((2700, 3300), (3300, 3600), (3600, NEVER)):
        usage = Usage(day, used)
        announcements.remember(entry, usage, decide(rules, usage, noon), ALWAYS)
        assert announcements.due(entry, day, noon)[0] == announce_from
    assert announcements.due(entry, day + DAY, noon + DAY)[0] == 2700


async def beat(running: Running, family: Family, **members: Any) -> dict[str, Any]:
    body = family.beat() | members
    answer = await running.client.post(HEARTBEAT, json=body, headers=family.bearer)
    assert answer.status_code == 200, answer.text
    verdict: dict[str, Any] = answer.json()
    return verdict


async def events(connection: Connection) -> list[tuple[str, dict[str, Any]]]:
    return [(row[0], msgspec.json.decode(row[1])) for row in await connection.fetch(EVENTS)]


async def use(connection: Connection, family: Family, seconds: int) -> None:
    await connection.execute(
        "update viewing_time_balances set used_seconds = $2 where profile_id = $1",
        family.child,
        seconds,
    )


async def test_warnings_and_the_block_are_announced_once_a_day(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    day = running.clock.fixed.date().isoformat()
    for used in (6270, 6300, 6330, 6870, 6900, 7170, 7200, 6270, 6870, 7170):
        await use(connection, family, used)
        await beat(running, family, session_id=session)
    told = [
        ("viewing.warning", {"viewing_date": day, "minutes": 15}),
        ("viewing.warning", {"viewing_date": day, "minutes": 5}),
        ("viewing.blocked", {"viewing_date": day, "reason": "daily_limit"}),
    ]
    assert await events(connection) == told
    # Another instance, which remembers nothing, announces nothing again.
    running.context.configurations.clear("test")
    assert (await beat(running, family, session_id=session))["enforcement"] == "blocked"
    assert (await beat(running, family, session_id=session))["enforcement"] == "blocked"
    assert await events(connection) == told


async def test_the_first_beat_of_an_uncached_profile_announces_a_warning_of_a_week_without_viewing(
    start: Starter, connection: Connection
) -> None:
    family = await add_family(connection, limit=None)
    await connection.execute(
        "insert into viewing_schedules (profile_id, downtime, weekly_limit_minutes, updated_at) "
        "values ($1, '[]', 15, now())",
        family.child,
    )
    running = await start()
    assert (await beat(running, family))["enforcement"] == "warning_15"
    assert [kind for kind, _ in await events(connection)] == ["viewing.warning"]


async def test_a_warning_is_announced_although_earlier_days_have_changed(
    start: Starter, connection: Connection
) -> None:
    family = await add_family(connection, limit=None)
    await connection.execute(
        "insert into viewing_schedules (profile_id, downtime, weekly_limit_minutes, updated_at) "
        "values ($1, '[]', 120, now())",
        family.child,
    )
    running = await start()
    session = (await beat(running, family))["session_id"]
    assert (await beat(running, family, session_id=session))["enforcement"] == "allowed"
    await connection.execute(  # as an import does
        "insert into viewing_time_balances "
        "(id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override, "
        "updated_at) values (gen_random_uuid(), $1, $2, 6300, 0, false, now())",
        family.child,
        (NOW - DAY).date(),
    )
    for _ in range(2):
        last = await beat(running, family, session_id=session)
        assert last["enforcement"] == "warning_15"
    assert [kind for kind, _ in await events(connection)] == ["viewing.warning"]


@pytest.mark.parametrize("how", ["lock", "limit", "downtime", "weekly"])
async def test_the_first_beat_of_an_uncached_profile_announces_a_block(
    start: Starter, connection: Connection, how: str
) -> None:
    family = await add_family(connection, limit=15)
    running = await start()
    session = (await beat(running, family))["session_id"]
    await connection.execute("delete from viewing_events")
    if how == "lock":
        await connection.execute(
            "insert into viewing_locks values ($1, $2, $2)", family.child, NOW + DAY
        )
    elif how == "limit":
        await use(connection, family, 900)
    else:
        await connection.execute(
            "insert into viewing_schedules (profile_id, downtime, weekly_limit_minutes, "
            "daily_limits, updated_at) values ($1, $2, $3, $4, now())",
            family.child,
            '[{"days":["mon","tue","wed","thu","fri","sat","sun"],"start":"00:00","end":"00:00"}]'
            if how == "downtime"
            else "[]",
            15 if how == "weekly" else None,
            '{"mon":null,"tue":null,"wed":null,"thu":null,"fri":null,"sat":null,"sun":null}',
        )
        await use(connection, family, 900)
    running.context.configurations.clear("test")
    assert (await beat(running, family, session_id=session))["enforcement"] == "blocked"
    [(kind, data)] = await events(connection)
    reasons = {"lock": "locked", "limit": "daily_limit", "weekly": "weekly_limit"}
    assert (kind, data["reason"]) == ("viewing.blocked", reasons.get(how, how))


async def test_many_instances_announce_once(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start() for _ in range(3)]
    await beat(instances[0], family)
    await use(connection, family, 7170)
    await asyncio.gather(*(beat(one, family) for one in instances for _ in range(4)))
    kinds = [kind for kind, _ in await events(connection)]
    assert kinds.count("viewing.blocked") == 1


async def test_a_refused_beat_announces_nothing(
    running: Running, connection: Connection, family: Family
) -> None:
    await beat(running, family)
    await use(connection, family, 7170)
    unknown = family.beat() | {"session_id": str(family.title)}
    answer = await running.client.post(HEARTBEAT, json=unknown, headers=family.bearer)
    assert answer.status_code == 404
    assert await events(connection) == []


async def test_a_device_that_ends_the_session_of_another_one_displaces_it(
    running: Running, connection: Connection, family: Family
) -> None:
    first = (await beat(running, family))["session_id"]
    await beat(running, family)  # the same device again
    assert await events(connection) == []
    second = (await beat(running, family, device_id="tablet"))["session_id"]
    [(kind, data)] = await events(connection)
    assert kind == "session.displaced"
    assert data["session_id"] not in (first, second)
    # A session that was left behind an hour ago.
    running.clock.fixed += timedelta(hours=1)
    await beat(running, family)
    assert len(await events(connection)) == 1


async def test_a_beat_that_announces_nothing_opens_no_table_of_events(
    running: Running, connection: Connection, family: Family
) -> None:
    await beat(running, family)
    scans = "select coalesce(seq_scan, 0) + coalesce(idx_scan, 0) from pg_stat_user_tables "
    scans += "where relname = 'viewing_events'"
    before = await connection.fetchval(scans)
    for _ in range(5):
        await beat(running, family)
    assert await connection.fetchval(scans) == before
