"""A change of the configuration: limits of past days are kept, days of strict accounts move."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

from service.database.driver import Connection
from service.http import auth
from service.parents.config_change import MAX_TRIES, UPDATE, Effects, Members, effects
from service.viewing import rules
from service.viewing.policy import stored_policy
from service.viewing.rules import Configuration
from tests.conftest import Running, Starter
from tests.family import HEARTBEAT, PIN_HASH, Family, add_family, cheap_hash
from tests.parents.policy_changing import NOON

REFUSED = {"detail": "Valid PIN token required"}
NOTHING = Members(False, None, False, None, None, None, None)
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application at noon on a Wednesday."""
    return await start(now=NOON)


async def make_strict(connection: Connection, family: Family) -> None:
    await connection.execute(
        "insert into viewing_strict_accounts (account_id, since) values ($1, now())", family.account
    )


async def put(
    running: Running, family: Family, body: dict[str, Any], *, has_token: bool = True
) -> httpx.Response:
    token = auth.pin_token(running.context, family.account, PIN_HASH) if has_token else None
    url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
    headers = {**family.bearer, **({"X-PIN-Token": token} if token else {})}
    return await running.client.put(url, json=body, headers=headers)


async def change(running: Running, family: Family, **body: Any) -> None:
    answer = await put(running, family, body)
    assert answer.status_code == 200, answer.text


async def beat(running: Running, family: Family, **members: Any) -> dict[str, Any]:
    answer = await running.client.post(
        HEARTBEAT, json=family.beat(**members), headers=family.bearer
    )
    verdict: dict[str, Any] = answer.json()
    assert answer.status_code == 200, answer.text
    return verdict


async def left(running: Running, family: Family) -> float:
    """The remaining minutes."""
    path = f"/api/v1/viewing-time/balance/{family.child}"
    minutes: float = (await running.client.get(path, headers=family.bearer)).json()[
        "remaining_minutes"
    ]
    return minutes


async def use(connection: Connection, family: Family, day: str, minutes: int) -> None:
    """Adds a balance of `minutes`."""
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
        "educational_seconds, is_unlimited_override, updated_at) "
        "values (gen_random_uuid(), $1, $2, $3, 0, false, now())",
        family.child,
        date.fromisoformat(day),
        60 * minutes,
    )


async def balances(connection: Connection, family: Family) -> dict[str, tuple[int, int | None]]:
    """The used minutes and the kept limit of each day."""
    rows = await connection.fetch(
        "select reset_date::text, used_seconds / 60, limit_minutes from viewing_time_balances "
        "where profile_id = $1 order by 1",
        family.child,
    )
    return {day: (used, limit) for day, used, limit in rows}


async def floor(connection: Connection, family: Family) -> str | None:
    day: str | None = await connection.fetchval(
        "select day_floor::text from viewing_time_configs where profile_id = $1", family.child
    )
    return day


@pytest.mark.parametrize(
    ("old", "new", "now", "days"),
    [
        (("Europe/Berlin", 6), ("America/New_York", 6), "2026-11-25T07:00", (25, 24)),
        (("Europe/Berlin", 6), ("America/New_York", 6), "2026-11-25T12:00", (25, 25)),
        (("America/New_York", 6), ("Europe/Berlin", 6), "2026-11-25T07:00", (24, 25)),
        (("UTC", 6), ("UTC", 12), "2026-11-25T10:00", (25, 24)),
        (("UTC", 12), ("UTC", 6), "2026-11-25T10:00", (24, 25)),
        (("UTC", 6), ("UTC", 6), "2026-11-25T10:00", (25, 25)),
        (("Etc/GMT+12", 23), ("Pacific/Kiritimati", 0), "2026-11-25T10:30", (23, 26)),
        (("Mars/Base", 6), ("UTC", 6), "2026-11-25T10:00", (25, 25)),
    ],
)
def test_a_change_of_zone_or_reset_hour_moves_the_viewing_day(
    old: tuple[str, int], new: tuple[str, int], now: str, days: tuple[int, int]
) -> None:
    policy = stored_policy(Configuration(120, 180, old[1], True, old[0]), None)
    found = effects(policy, NOTHING._replace(timezone=new[0], reset_hour=new[1]), at(now))
    assert (found.old_day, found.new_day) == tuple(date(2026, 11, day) for day in days)
    assert found[:5] == (120, 180, old[1], old[0], None)
    assert (found.past_days, found.past_limits) == ((), ())


def test_the_old_viewing_day_is_not_before_the_floor() -> None:
    policy = stored_policy(Configuration(120, 180, 12, True, "UTC"), '{"day_floor":"2026-11-25"}')
    members = NOTHING._replace(reset_hour=6)
    for now, day in (("2026-11-25T10:00", 25), ("2026-11-26T12:00", 26)):
        found = effects(policy, members, at(now))
        assert found.old_day == found.new_day == date(2026, 11, day)


def test_a_new_limit_keeps_those_of_the_fourteen_days_before() -> None:
    policy = stored_policy(Configuration(60, None, 6, True, "UTC"), None)
    members = NOTHING._replace(sets_weekend=True, weekend_limit_minutes=30)
    found = effects(policy, members, at("2026-11-25T10:00"))
    assert [*found.past_days] == [date(2026, 11, 25) - n * DAY for n in range(1, 15)]
    by_day = dict(zip(found.past_days, found.past_limits, strict=True))
    assert by_day[date(2026, 11, 24)] == 60
    assert by_day[date(2026, 11, 22)] == by_day[date(2026, 11, 14)] == -1
    assert (found.old_day, found.new_day) == (None, None)


def test_a_change_of_another_member_has_no_effect_on_days() -> None:
    policy = stored_policy(rules.DEFAULTS, None)
    found = effects(policy, NOTHING._replace(educational_exempt=False), at("2026-11-25T10:00"))
    assert found == Effects(120, 180, 6, "UTC")


async def test_kept_limits_are_those_before_the_first_change(
    running: Running, connection: Connection, family: Family
) -> None:
    for day in ("2026-11-10", "2026-11-11", "2026-11-24", "2026-11-25"):
        await use(connection, family, day, 90)
    await change(running, family, weekday_limit_minutes=60)
    kept = {"2026-11-10": (90, None), "2026-11-11": (90, 120), "2026-11-24": (90, 120)}
    assert await balances(connection, family) == {**kept, "2026-11-25": (90, None)}
    running.clock.fixed += DAY
    await change(running, family, weekday_limit_minutes=None, weekend_limit_minutes=None)
    kept["2026-11-25"] = (90, 60)
    assert await balances(connection, family) == kept
    running.clock.fixed += DAY
    await use(connection, family, "2026-11-26", 300)
    await change(running, family, weekday_limit_minutes=15)
    assert await balances(connection, family) == {**kept, "2026-11-26": (300, -1)}


async def test_other_members_keep_no_limits(
    running: Running, connection: Connection, family: Family
) -> None:
    await use(connection, family, "2026-11-24", 90)
    await change(running, family, educational_exempt=False)
    await change(running, family, reset_hour=3, timezone="Europe/Berlin")
    assert await balances(connection, family) == {"2026-11-24": (90, None)}


async def test_a_kept_limit_is_that_of_the_exception_of_its_day(
    running: Running, connection: Connection, family: Family
) -> None:
    for day, changes, limit in (
        ("2026-11-12", True, 45),
        ("2026-11-13", True, None),
        ("2026-11-23", False, None),
        ("2026-11-24", True, 30),
    ):
        await use(connection, family, day, 90)
        await connection.execute(
            "insert into viewing_exceptions (profile_id, day, changes_limit, limit_minutes, "
            "lifts_downtime, updated_at) values ($1, $2, $3, $4, false, now())",
            family.child,
            date.fromisoformat(day),
            changes,
            limit,
        )
    await change(running, family, weekday_limit_minutes=60)
    assert await balances(connection, family) == {
        "2026-11-12": (90, 45),
        "2026-11-13": (90, -1),
        "2026-11-23": (90, 120),
        "2026-11-24": (90, 30),
    }


async def test_in_a_strict_account_the_used_time_moves_forward_with_the_day(
    running: Running, connection: Connection, family: Family
) -> None:
    await change(running, family, reset_hour=12)
    await make_strict(connection, family)
    running.clock.fixed = at("2026-11-25T10:00")
    await use(connection, family, "2026-11-24", 90)
    assert await left(running, family) == 30.0
    await change(running, family, reset_hour=6)
    assert await left(running, family) == 30.0
    assert await balances(connection, family) == {"2026-11-24": (0, 0), "2026-11-25": (90, None)}
    assert (await beat(running, family))["remaining_minutes"] == 29.5
    assert await floor(connection, family) is None
    running.clock.fixed = at("2026-11-26T06:00")
    assert await left(running, family) == 120.0


async def test_other_accounts_get_the_allowance_of_the_new_day(
    running: Running, connection: Connection, family: Family
) -> None:
    await change(running, family, reset_hour=12)
    running.clock.fixed = at("2026-11-25T10:00")
    await use(connection, family, "2026-11-24", 90)
    await change(running, family, reset_hour=6)
    assert await left(running, family) == 120.0
    assert await balances(connection, family) == {"2026-11-24": (90, None)}
    await change(running, family, reset_hour=12)
    assert await left(running, family) == 30.0
    assert await floor(connection, family) is None


@pytest.mark.parametrize(
    ("zone", "reset_hour", "new", "now", "catches_up", "ends"),
    [
        (
            "Europe/Berlin",
            6,
            {"timezone": "America/New_York"},
            "2026-11-25T07:00",
            "2026-11-25T11:00",
            "2026-11-26T11:00",
        ),
        (
            "UTC",
            6,
            {"reset_hour": 12},
            "2026-11-25T10:00",
            "2026-11-25T12:00",
            "2026-11-26T12:00",
        ),
    ],
)
async def test_in_a_strict_account_the_day_does_not_move_back(
    running: Running,
    connection: Connection,
    zone: str,
    reset_hour: int,
    new: dict[str, Any],
    now: str,
    catches_up: str,
    ends: str,
) -> None:
    family = await add_family(connection, timezone=zone, reset_hour=reset_hour)
    await make_strict(connection, family)
    running.clock.fixed = at(now)
    await use(connection, family, "2026-11-24", 10)
    await use(connection, family, "2026-11-25", 90)
    assert await left(running, family) == 30.0
    await change(running, family, **new)
    assert await floor(connection, family) == "2026-11-25"
    assert await left(running, family) == 30.0
    assert (await beat(running, family))["remaining_minutes"] == 29.5
    running.clock.fixed = at(catches_up) - timedelta(seconds=1)
    assert await left(running, family) == 29.5
    running.clock.fixed = at(catches_up)
    assert await left(running, family) == 29.5
    running.clock.fixed = at(ends) - timedelta(seconds=1)
    assert await left(running, family) == 29.5
    running.clock.fixed = at(ends)
    assert await left(running, family) == 120.0
    await change(running, family, weekday_limit_minutes=60)
    assert await floor(connection, family) == "2026-11-25"
    await change(running, family, reset_hour=0)
    assert await floor(connection, family) is None


@pytest.mark.parametrize("was_child", [True, False])
async def test_an_adult_of_a_strict_account_has_no_floor(
    running: Running, connection: Connection, family: Family, was_child: bool
) -> None:
    await make_strict(connection, family)
    if was_child:
        await connection.execute("update viewing_time_configs set day_floor = '2026-11-26'")
    await connection.execute("update profiles set is_kids = false")
    for reset_hour in (18, 0, 18):
        await change(running, family, reset_hour=reset_hour)
        assert await floor(connection, family) is None


async def test_back_and_forth_a_strict_account_gains_nothing(
    running: Running, connection: Connection, family: Family
) -> None:
    await make_strict(connection, family)
    running.clock.fixed = at("2026-11-25T10:00")
    await use(connection, family, "2026-11-25", 90)
    for body in (
        {"reset_hour": 12},
        {"reset_hour": 6},
        {"timezone": "Pacific/Kiritimati"},
        {"timezone": "America/New_York"},
        {"timezone": "UTC", "reset_hour": 0},
        {"timezone": "Etc/GMT+12", "reset_hour": 23},
        {"timezone": "Pacific/Kiritimati", "reset_hour": 0},
        {"timezone": "Etc/GMT+12", "reset_hour": 23},
        {"timezone": "Europe/Berlin", "reset_hour": 6},
    ):
        await change(running, family, **body)
        assert await left(running, family) == 30.0
    assert sum(used for used, _ in (await balances(connection, family)).values()) == 90


async def test_days_that_a_change_skips_carry_nothing_over(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, timezone="Etc/GMT+12", reset_hour=23)
    await make_strict(connection, family)
    await connection.execute(
        "insert into viewing_schedules (profile_id, rollover_max_minutes, updated_at) "
        "values ($1, 60, now())",
        family.child,
    )
    running.clock.fixed = at("2026-11-25T10:30")
    await use(connection, family, "2026-11-23", 90)
    assert await left(running, family) == 30.0
    await change(running, family, timezone="Pacific/Kiritimati", reset_hour=0)
    assert await balances(connection, family) == {
        "2026-11-23": (0, 0),
        "2026-11-24": (0, 0),
        "2026-11-25": (0, 0),
        "2026-11-26": (90, None),
    }
    assert await left(running, family) == 30.0


async def test_everything_of_the_day_moves(
    running: Running, connection: Connection, family: Family
) -> None:
    await change(running, family, reset_hour=12)
    await make_strict(connection, family)
    running.clock.fixed = at("2026-11-25T10:00")
    await use(connection, family, "2026-11-24", 90)
    await use(connection, family, "2026-11-25", 5)
    await connection.execute(
        "update viewing_time_balances set educational_seconds = 60, extended_minutes = 15, "
        "is_unlimited_override = reset_date = '2026-11-24', "
        "latest_credit_seconds = 1"
    )
    await change(running, family, reset_hour=6)
    rows = await connection.fetch(
        "select used_seconds, educational_seconds, extended_minutes, is_unlimited_override "
        "from viewing_time_balances order by reset_date"
    )
    assert [tuple(row) for row in rows] == [(0, 0, None, False), (5700, 120, 30, True)]


async def test_the_grants_of_the_day_move_with_it(
    running: Running, connection: Connection, family: Family
) -> None:
    await change(running, family, reset_hour=12)
    await make_strict(connection, family)
    running.clock.fixed = at("2026-11-25T10:00")
    await use(connection, family, "2026-11-24", 90)
    for day, undone in ((23, None), (24, None), (24, running.clock.fixed), (25, None)):
        await connection.execute(
            "insert into time_grants (id, profile_id, granted_by_user_id, granted_minutes, "
            "is_remote, granted_at, reset_date, mode, effect_seconds, undone_at) "
            "values (gen_random_uuid(), $1, $2, 15, true, now(), $3, 'extend', 900, $4)",
            family.child,
            family.account,
            date(2026, 11, day),
            undone,
        )
    await change(running, family, reset_hour=6)
    days = await connection.fetch("select reset_date from time_grants order by 1")
    assert [row[0].day for row in days] == [23, 24, 25, 25]


@pytest.mark.parametrize("attempt", range(3))
async def test_beats_during_a_move_lose_nothing(
    start: Starter, connection: Connection, family: Family, attempt: int
) -> None:
    instances = here, there = await start(), await start()
    await change(here, family, reset_hour=12)
    await make_strict(connection, family)
    for running in instances:
        running.clock.fixed = at("2026-11-25T10:00")
    sessions = [(await beat(running, family))["session_id"] for running in instances]

    async def watch(running: Running, session: str) -> None:
        for _ in range(20):
            await beat(running, family, session_id=session)

    async def move() -> None:
        await asyncio.sleep(0.02 * attempt)
        await change(there, family, reset_hour=6)

    watching = (watch(running, sessions[n % 2]) for n, running in enumerate(instances * 2))
    await asyncio.gather(move(), *watching)
    rows = await connection.fetch(
        "select reset_date::text, used_seconds from viewing_time_balances order by reset_date"
    )
    assert [tuple(row) for row in rows] == [("2026-11-24", 0), ("2026-11-25", 30 * 82)]


@pytest.mark.parametrize("is_strict", [True, False])
async def test_a_change_computed_from_an_old_configuration_is_tried_again(
    running: Running, connection: Connection, family: Family, is_strict: bool
) -> None:
    """As if another instance had changed it and its notification had not arrived yet."""
    if is_strict:
        await make_strict(connection, family)
    running.clock.fixed = at("2026-11-25T10:00")
    await use(connection, family, "2026-11-24", 90)
    assert await left(running, family) == 120.0
    await connection.execute("update viewing_time_configs set reset_hour = 12")
    await change(running, family, reset_hour=6, weekday_limit_minutes=60)
    days: dict[str, tuple[int, int | None]] = {"2026-11-24": (90, 120)}
    if is_strict:
        days = {"2026-11-24": (0, 0), "2026-11-25": (90, None)}
    assert await balances(connection, family) == days


async def test_a_change_that_others_always_overtake_is_503(
    running: Running, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await running.context.configurations.get(family.account, family.child)
    stale = msgspec.structs.replace(entry.policy.configuration, reset_hour=9)
    tries = 0

    async def get(*_: object) -> Any:
        nonlocal tries
        tries += 1
        return msgspec.structs.replace(entry, policy=stored_policy(stale, None))

    monkeypatch.setattr(running.context.configurations, "get", get)
    answer = await put(running, family, {"weekday_limit_minutes": 60})
    assert (answer.status_code, tries) == (503, MAX_TRIES)
    assert answer.headers["retry-after"] == "1"
    assert await connection.fetchval("select weekday_limit_minutes from viewing_time_configs") == (
        120
    )


@pytest.mark.parametrize(
    "body",
    [
        {"weekday_limit_minutes": 60},
        {"weekend_limit_minutes": None},
        {"timezone": "Europe/Berlin"},
        {"reset_hour": 7},
        {"educational_exempt": False},
        {},
    ],
    ids=str,
)
async def test_in_a_strict_account_every_change_needs_the_pin(
    running: Running, connection: Connection, family: Family, body: dict[str, Any]
) -> None:
    await make_strict(connection, family)
    rows = "select c::text from viewing_time_configs as c"
    before = await connection.fetchval(rows)
    stranger = await add_family(connection)
    foreign = auth.pin_token(running.context, stranger.account, PIN_HASH)
    for token in ({}, {"pin_token": "x"}, {"pin_token": foreign}):
        answer = await put(running, family, {**body, **token}, has_token=False)
        assert (answer.status_code, answer.json()) == (403, REFUSED)
    old = auth.pin_token(running.context, family.account, PIN_HASH)
    await connection.execute(
        "update users set pin_hash = $2 where id = $1", family.account, cheap_hash("9999")
    )
    answer = await put(running, family, {**body, "pin_token": old}, has_token=False)
    assert (answer.status_code, answer.json()) == (403, REFUSED)
    assert await connection.fetchval(f"{rows} where profile_id = $1", family.child) == before
    await connection.execute(
        "update users set pin_hash = $2 where id = $1", family.account, PIN_HASH
    )
    assert (
        await put(running, family, {**body, "pin_token": old}, has_token=False)
    ).status_code == 200


async def test_in_other_accounts_a_token_matters_only_where_it_did_before(
    running: Running, connection: Connection, family: Family
) -> None:
    for token in (None, "x", auth.pin_token(running.context, family.account, cheap_hash("9999"))):
        body = {"weekday_limit_minutes": 60, "timezone": "Europe/Berlin", "pin_token": token}
        assert (await put(running, family, body, has_token=False)).status_code == 200
        answer = await put(running, family, {"reset_hour": 3, "pin_token": token}, has_token=False)
        assert answer.status_code == 403
        assert answer.json() == {"detail": "Valid PIN token required to change: reset_hour"}
    assert (await put(running, family, {"reset_hour": 3})).status_code == 200


@pytest.mark.warm
async def test_a_change_of_a_watched_profile_is_one_statement(
    running: Running, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    await beat(running, family)
    misses = running.context.configurations.misses
    runs = 0
    maybe = UPDATE.maybe

    async def counted(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        return await maybe(*arguments)

    monkeypatch.setattr(UPDATE, "maybe", counted)
    await change(running, family, weekday_limit_minutes=60, timezone="Europe/Berlin")
    assert (runs, running.context.configurations.misses) == (1, misses)
