"""Complaints that families have about comparable systems, and which rule is reported when several
apply; each over HTTP."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import combinations, permutations
from random import Random
from typing import Any, Final

import httpx
import pytest

from service.database.driver import Connection
from service.http import auth
from tests.conftest import Running
from tests.family import HEARTBEAT, PIN_HASH, Family, add_family

VIEWING: Final = "/api/v1/viewing-time"
PARENTAL: Final = "/api/v1/parental-controls"
NOON: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)  # a Wednesday
EVERY_DAY: Final = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEST: Final = ("UTC", "America/New_York", "Pacific/Niue")  # midnight comes no earlier than in UTC
RULES: Final = ("locked", "downtime", "daily_limit", "weekly_limit")


@dataclass(frozen=True)
class Home:
    """A parent and a child with 120 minutes a day; viewing days begin at midnight, UTC."""

    running: Running
    connection: Connection
    family: Family

    async def send(self, method: str, url: str, body: Any = None, **options: Any) -> httpx.Response:
        """Sends a parent's request about the child."""
        url = url if url.startswith("/") else f"{PARENTAL}/profiles/{self.family.child}/{url}"
        headers = self.family.bearer | options.pop("headers", {})
        options = options if body is None else options | {"json": body}
        return await self.running.client.request(method, url, headers=headers, **options)

    async def change(self, method: str, url: str, body: Any = None) -> Any:
        """The same; it must succeed."""
        answer = await self.send(method, url, body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def use(self, seconds: int, day: date | None = None) -> None:
        """Adds to the seconds that the child has used on a day."""
        await self.connection.execute(
            "insert into viewing_time_balances as b (id, profile_id, reset_date, used_seconds, "
            "educational_seconds, is_unlimited_override) "
            "values (gen_random_uuid(), $1, $2, $3, 0, false) "
            "on conflict (profile_id, reset_date) do update "
            "set used_seconds = b.used_seconds + excluded.used_seconds",
            self.family.child,
            day or self.running.clock().date(),
            seconds,
        )

    async def beat(self, **members: Any) -> Any:
        answer = await self.send("POST", HEARTBEAT, self.family.beat(**members))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def decision(self, **query: Any) -> Any:
        url = f"{VIEWING}/decision/{self.family.child}"
        answer = await self.send("GET", url, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def minutes_left(self) -> float | None:
        decision = await self.decision()
        left: float | None = decision["remaining_minutes"]
        return left

    def token(self) -> str:
        return auth.pin_token(self.running.context, self.family.account, PIN_HASH)

    def tomorrow(self) -> None:
        self.running.clock.fixed += timedelta(days=1)


@pytest.fixture
async def home(running: Running, connection: Connection) -> Home:
    running.clock.fixed = NOON
    return Home(running, connection, await add_family(connection))


@pytest.mark.parametrize("mode", ["credit", "extend"])
async def test_a_bonus_on_an_exhausted_day_lasts_for_its_minutes_only(
    home: Home, mode: str
) -> None:
    """The complaint: a bonus on an exhausted day unlocks the whole day."""
    await home.use(7200)
    assert (await home.beat())["enforcement"] == "blocked"
    await home.change("POST", "viewing-time/grant", {"minutes": 15, "mode": mode})
    answer = await home.beat()
    beats, session_id = 1, answer["session_id"]
    while answer["enforcement"] != "blocked":
        answer = await home.beat(session_id=session_id)
        beats += 1
    # The blocked beat before the grant was counted too.
    assert beats == 15 * 2 - 1
    assert (await home.decision())["reason"] == "daily_limit"


@pytest.mark.parametrize("minutes", [15, None, 480])
async def test_an_exception_of_today_applies_today_and_not_tomorrow(
    home: Home, minutes: int | None
) -> None:
    """The complaint: "only today" is ignored."""
    await home.change("PUT", "exceptions/2026-11-25", {"limit_minutes": minutes})
    assert await home.minutes_left() == minutes
    home.tomorrow()
    assert await home.minutes_left() == 120


async def test_what_a_parent_grants_or_locks_today_ends_with_the_day(home: Home) -> None:
    """The complaint: "only today" is ignored."""
    await home.change("POST", "viewing-time/grant", {"minutes": 30, "mode": "extend"})
    assert await home.minutes_left() == 150
    await home.change("POST", "viewing-time/grant", {"minutes": None})
    assert await home.minutes_left() is None
    await home.change("PUT", "lock", {"until": None})
    blocked = await home.decision()
    assert blocked["reason"] == "locked"
    assert blocked["next_allowed_at"] == "2026-11-26T00:00:00Z"
    home.tomorrow()
    assert await home.minutes_left() == 120


async def test_downtime_that_is_lifted_today_returns_tomorrow(home: Home) -> None:
    """The complaint: "only today" is ignored."""
    window = {"days": EVERY_DAY, "start": "11:00", "end": "13:00"}
    await home.change("PUT", "schedule", {"downtime": [window]})
    assert (await home.beat())["enforcement"] == "blocked"
    await home.change("PUT", "exceptions/2026-11-25", {"lifts_downtime": True})
    assert (await home.beat())["enforcement"] == "allowed"
    home.tomorrow()
    assert (await home.decision())["reason"] == "downtime"


async def block(home: Home, *rules: str, limit: tuple[str, ...] = ()) -> None:
    """Makes each of `rules` block at noon, and each of `limit` leave ten minutes."""
    schedule: dict[str, Any] = {}
    today = 3600 if "daily_limit" in rules else 3000
    if {"daily_limit"} & {*rules, *limit}:
        schedule["daily_limits"] = {"wed": 60}
    if {"weekly_limit"} & {*rules, *limit}:
        schedule["weekly_limit_minutes"] = 240
        left = 0 if "weekly_limit" in rules else 600
        await home.use(240 * 60 - today - left, date(2026, 11, 24))
    if "downtime" in rules:
        schedule["downtime"] = [{"days": ["wed"], "start": "11:00", "end": "14:00"}]
    elif "downtime" in limit:
        schedule["downtime"] = [{"days": ["wed"], "start": "12:10", "end": "14:00"}]
    if schedule:
        await home.change("PUT", "schedule", schedule)
    if "locked" in rules:
        await home.change("PUT", "lock", {"until": "2026-11-25T13:00:00Z"})
    await home.use(today)


OFF: Final[dict[str, tuple[str, str, Any]]] = {
    "locked": ("DELETE", "lock", None),
    "downtime": ("PUT", "schedule", {"downtime": []}),
    "daily_limit": ("PUT", "schedule", {"daily_limits": dict.fromkeys(EVERY_DAY)}),
    "weekly_limit": ("PUT", "schedule", {"weekly_limit_minutes": None}),
}


@pytest.mark.parametrize("rule", RULES)
async def test_a_rule_that_is_switched_off_blocks_no_longer(home: Home, rule: str) -> None:
    """The complaint: time switched off still blocks."""
    await block(home, rule)
    session_id = (await home.beat())["session_id"]
    assert (await home.beat(session_id=session_id))["enforcement"] == "blocked"
    await home.change(*OFF[rule])
    assert (await home.beat(session_id=session_id))["enforcement"] == "allowed"
    assert (await home.decision())["reason"] is None


async def test_nothing_limits_a_child_whose_rules_are_all_switched_off(home: Home) -> None:
    """The complaint: time switched off still blocks."""
    await block(home, *RULES)
    for request in OFF.values():
        await home.change(*request)
    decision = await home.decision()
    assert (decision["allowed"], decision["remaining_minutes"]) == (True, None)
    assert (decision["limited_by"], decision["allowed_until"]) == (None, None)


SENTENCES: Final = {
    "locked": "A parent has locked this profile",
    "downtime": "Viewing is not allowed during downtime",
    "daily_limit": "Daily viewing time limit reached",
    "weekly_limit": "Weekly viewing time limit reached",
}
ENDS: Final = {
    "locked": "2026-11-25T13:00:00Z",
    "downtime": "2026-11-25T14:00:00Z",
    "daily_limit": "2026-11-26T00:00:00Z",
    "weekly_limit": "2026-11-30T00:00:00Z",
}


@pytest.mark.parametrize("rule", RULES)
async def test_a_refusal_names_its_rule_and_its_end(home: Home, rule: str) -> None:
    """The complaint: the refusal gives no reason."""
    await block(home, rule)
    answer = await home.send("GET", f"{VIEWING}/playback-eligible/{home.family.child}")
    assert (answer.json()["eligible"], answer.json()["reason"]) == (False, SENTENCES[rule])
    decision = await home.decision()
    assert (decision["reason"], decision["next_allowed_at"]) == (rule, ENDS[rule])
    headers = {"Prefer": "decision"}
    answer = await home.send("POST", HEARTBEAT, home.family.beat(), headers=headers)
    assert answer.headers["Preference-Applied"] == "decision"
    assert answer.json()["enforcement"] == "blocked"
    told = answer.json()["decision"]
    assert (told["reason"], told["next_allowed_at"]) == (rule, ENDS[rule])


async def test_the_last_minutes_of_an_episode_are_not_cut_off(home: Home) -> None:
    """The complaint: the child is cut off in the last minutes of an episode."""
    await home.change("PUT", "schedule", {"finish_minutes": 10})
    await home.use(7140)
    answers = [await home.beat()]
    session_id = answers[0]["session_id"]
    for _ in range(22):
        answers.append(await home.beat(session_id=session_id))
    shown = [(answer["enforcement"], answer["remaining_minutes"]) for answer in answers]
    assert shown[:3] == [("warning_5", 0.5), ("warning_5", 10.0), ("warning_5", 9.5)]
    assert shown[20:] == [("warning_5", 0.5), ("blocked", 0.0), ("blocked", 0.0)]


async def test_another_episode_does_not_begin_in_the_grace(home: Home) -> None:
    """The complaint: the child is cut off in the last minutes of an episode."""
    await home.change("PUT", "schedule", {"finish_minutes": 10})
    await home.use(7170)
    session_id = (await home.beat())["session_id"]
    assert (await home.beat(session_id=session_id))["enforcement"] == "warning_5"
    other = await home.beat(session_id=session_id, title_id=home.family.lesson)
    assert other["enforcement"] == "blocked"
    assert (await home.beat())["enforcement"] == "blocked"


async def test_an_exempt_title_does_not_go_on_after_the_limit(home: Home) -> None:
    """It would go on for ever, because it uses nothing."""
    await home.change("PUT", "schedule", {"finish_minutes": 10})
    await home.use(7170)
    assert (await home.beat())["enforcement"] == "warning_5"
    assert (await home.beat(title_id=home.family.lesson))["enforcement"] == "blocked"


async def test_an_ended_session_may_not_be_finished(home: Home) -> None:
    await home.change("PUT", "schedule", {"finish_minutes": 10})
    await home.use(7140)
    session_id = (await home.beat())["session_id"]
    await home.change("POST", f"{VIEWING}/session/{session_id}/end")
    assert (await home.beat(session_id=session_id))["enforcement"] == "blocked"


CHANGES: Final[list[tuple[str, str, Any]]] = [
    ("PUT", "viewing-time", {"weekday_limit_minutes": None}),
    ("PUT", "viewing-time", {"timezone": "Asia/Tokyo"}),
    ("PUT", "schedule", {"daily_limits": {"wed": None}}),
    ("PUT", "exceptions/2026-11-25", {"limit_minutes": None}),
    ("DELETE", "exceptions/2026-11-25", None),
    ("PUT", "lock", {"until": "2026-11-25T12:00:01Z"}),
    ("DELETE", "lock", None),
    ("POST", "viewing-time/grant", {"minutes": 120}),
    ("POST", "viewing-time/grant", {"minutes": 120, "mode": "extend"}),
    ("POST", "viewing-time/grant", {"minutes": None}),
    ("PUT", f"{PARENTAL}/strict", {"enabled": False}),
]


REFUSED: Final = (403, {"detail": "Valid PIN token required"})
INVALID: Final = (403, {"detail": "Invalid or expired PIN token"})  # of a grant


async def test_a_child_cannot_give_itself_more_time(home: Home) -> None:
    """The complaint: the child can give itself more time."""
    proof = {"pin_token": home.token()}
    await home.change("PUT", f"{PARENTAL}/strict", {"enabled": True} | proof)
    await home.change("PUT", "exceptions/2026-11-25", {"limit_minutes": 15} | proof)
    await home.change("PUT", "lock", {"until": None} | proof)
    before = await home.decision()
    for method, url, body in CHANGES:
        answer = await home.send(method, url, body)
        assert (answer.status_code, answer.json()) == REFUSED, (method, url)
        answer = await home.send(method, url, (body or {}) | {"pin_token": "guessed"})
        assert (answer.status_code, answer.json()) in (REFUSED, INVALID), (method, url)
    assert await home.decision() == before
    for method, url, body in CHANGES:
        await home.change(method, url, (body or {}) | proof)


@pytest.mark.parametrize(
    "moved", [{"timezone": "Pacific/Kiritimati"}, {"reset_hour": 13}, {"timezone": "Pacific/Niue"}]
)
async def test_moving_the_day_gives_a_strict_family_no_second_allowance(
    home: Home, moved: dict[str, Any]
) -> None:
    """The complaint: the child can give itself more time."""
    proof = {"pin_token": home.token()}
    await home.change("PUT", f"{PARENTAL}/strict", {"enabled": True} | proof)
    await home.use(6000)
    await home.change("PUT", "viewing-time", moved | proof)
    assert await home.minutes_left() == 20


@pytest.mark.parametrize("seed", range(4))
async def test_no_series_of_moves_gives_a_strict_family_a_second_allowance(
    running: Running, connection: Connection, seed: int
) -> None:
    """Until midnight the child stays blocked, wherever its day is moved, and however often."""
    random = Random(seed)
    for _ in range(8):
        running.clock.fixed = NOON
        home = Home(running, connection, await add_family(connection))
        strict = {"enabled": True, "pin_token": home.token()}
        await home.change("PUT", f"{PARENTAL}/strict", strict)
        await home.use(7200)
        moves: list[tuple[float, dict[str, Any]]] = []
        for hours in sorted(random.uniform(0, 11.9) for _ in range(6)):
            running.clock.fixed = NOON + timedelta(hours=hours)
            moved: dict[str, Any] = {"timezone": random.choice(WEST)}
            if random.random() < 0.5:
                moved = {"reset_hour": random.randrange(24)}
            moves.append((hours, moved))
            await home.change("PUT", "viewing-time", moved | {"pin_token": home.token()})
            assert await home.minutes_left() == 0, (seed, moves)
            assert (await home.beat())["enforcement"] == "blocked", (seed, moves)


# Precedence


@pytest.mark.parametrize(("first", "second"), [*combinations(RULES, 2)])
async def test_the_first_of_two_rules_that_block_is_reported(
    home: Home, first: str, second: str
) -> None:
    await block(home, first, second)
    decision = await home.decision()
    assert decision["reason"] == first
    assert [rule["rule"] for rule in decision["rules"]] == [*RULES]


@pytest.mark.parametrize(
    ("blocking", "limiting"), [pair for pair in permutations(RULES, 2) if pair[1] != "locked"]
)
async def test_the_rule_that_blocks_is_reported_and_not_the_one_that_limits(
    home: Home, blocking: str, limiting: str
) -> None:
    await block(home, blocking, limit=(limiting,))
    assert (await home.decision())["reason"] == blocking


@pytest.mark.parametrize(("first", "second"), [*combinations(RULES[1:], 2)])
async def test_the_first_of_two_rules_that_run_out_together_is_reported(
    home: Home, first: str, second: str
) -> None:
    await block(home, limit=(first, second))
    decision = await home.decision()
    assert (decision["enforcement"], decision["reason"]) == ("warning_15", None)
    assert (decision["remaining_minutes"], decision["allowed_until"]) == (
        10.0,
        "2026-11-25T12:10:00Z",
    )
    home.running.clock.fixed += timedelta(minutes=10)
    await home.use(600)
    assert (await home.decision())["reason"] == first


@pytest.mark.parametrize(("smaller", "larger"), [*permutations(RULES[1:], 2)])
async def test_the_smaller_of_two_remaining_times_counts(
    home: Home, smaller: str, larger: str
) -> None:
    """`larger` leaves ten minutes, and `smaller` five."""
    await block(home, limit=(smaller, larger))
    match smaller:
        case "downtime":
            window = {"days": ["wed"], "start": "12:05", "end": "14:00"}
            await home.change("PUT", "schedule", {"downtime": [window]})
        case "weekly_limit":
            await home.use(300, date(2026, 11, 23))
        case _:
            await home.use(300)
            await home.use(-300, date(2026, 11, 24))
    decision = await home.decision()
    assert (decision["enforcement"], decision["remaining_minutes"]) == ("warning_5", 5.0)
    home.running.clock.fixed += timedelta(minutes=5)
    await home.use(300)
    assert (await home.decision())["reason"] == smaller
