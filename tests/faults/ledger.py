"""A model of a family's viewing in plain Python, and a generator of random requests.

The model is written from the contract without code of the service. Both must agree in every
response, and in every row at the end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any, Final
from uuid import uuid4
from zoneinfo import ZoneInfo

from service.database.driver import Connection
from service.http import auth
from tests.conftest import Running
from tests.family import PIN_HASH, Family, add_family

START: Final = datetime(2026, 10, 24, 20, tzinfo=UTC)  # the clocks go back in Europe that night
ZONES: Final = ("UTC", "Europe/Vienna", "America/New_York", "Asia/Kathmandu", "Pacific/Auckland")
VIEWING: Final = "/api/v1/viewing-time"
PARENTAL: Final = "/api/v1/parental-controls/profiles"
MAX_ATTEMPTS: Final = 500
PAUSE_SECONDS: Final = 0.02
SETTLE_SECONDS: Final = 0.3


@dataclass
class Session:
    """A viewing session: seconds counted, and since when it is paused."""

    seconds: int = 0
    paused: datetime | None = None
    is_open: bool = True


@dataclass
class Day:
    """The seconds that a child has used on one viewing day."""

    used: int = 0
    educational: int = 0
    unlimited: bool = False


@dataclass
class Model:
    """One child."""

    family: Family
    weekday: int | None = 120
    weekend: int | None = 120
    reset_hour: int = 0
    exempt: bool = True
    zone: str = "UTC"
    sessions: dict[str, Session] = field(default_factory=dict)
    days: dict[date, Day] = field(default_factory=dict)
    counted: int = 0

    def today(self, now: datetime) -> date:
        wall = now.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)
        return (wall - timedelta(hours=self.reset_hour)).date()

    def limit(self, now: datetime) -> int | None:
        return self.weekend if self.today(now).isoweekday() > 5 else self.weekday

    def day(self, now: datetime) -> Day:
        return self.days.setdefault(self.today(now), Day())

    def start(self, session_id: str) -> None:
        for other in self.sessions.values():
            other.is_open = False
        self.sessions[session_id] = Session()

    def count(self, session_id: str, now: datetime, *, paused: bool, lesson: bool) -> None:
        session = self.sessions[session_id]
        if session.paused is None or (now - session.paused).total_seconds() <= 300:
            session.seconds += 30
            self.counted += 30
            if lesson and self.exempt:
                self.day(now).educational += 30
            else:
                self.day(now).used += 30
        if not paused:
            session.paused = None
        elif session.paused is None:
            session.paused = now

    def remaining(self, now: datetime) -> float | None:
        limit = self.limit(now)
        if limit is None or self.day(now).unlimited:
            return None
        return round(max(0, limit * 60 - self.day(now).used) / 60, 2)

    def enforcement(self, now: datetime) -> str:
        left = self.remaining(now)
        levels = ((0, "blocked"), (5, "warning_5"), (15, "warning_15"))
        return next(
            (level for bound, level in levels if left is not None and left <= bound), "allowed"
        )


@dataclass
class Life:
    """Random requests of one child and its parent; each response is compared with the model."""

    running: Running
    model: Model
    random: Random
    repeats: int = 0

    @property
    def now(self) -> datetime:
        return self.running.clock()

    async def step(self) -> None:
        steps: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.beat, 30),
            (self.end, 1),
            (self.grant, 2),
            (self.configure, 2),
            (self.look, 2),
        ]
        selected = self.random.choices([s for s, _ in steps], [weight for _, weight in steps])
        await selected[0]()

    async def request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The response to an idempotent request, which is retried after a 503."""
        for _ in range(MAX_ATTEMPTS):
            answer = await self._once(method, path, body)
            if answer is not None:
                return answer
            await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError("never answered")

    async def _once(self, method: str, path: str, body: Any = None) -> dict[str, Any] | None:
        """The response; None for a 503, after which it is unknown what was done."""
        headers = self.model.family.bearer
        answer = await self.running.client.request(method, path, json=body, headers=headers)
        if answer.status_code == 503:
            self.repeats += 1
            return None
        assert answer.status_code == 200, answer.text
        verdict: dict[str, Any] = answer.json()
        return verdict

    async def beat(self) -> None:
        """One heartbeat, retried with one key until it is acknowledged, sometimes once more."""
        session_id = None
        if self.model.sessions and self.random.random() < 0.9:
            recent = [*self.model.sessions][-3:]
            session_id = recent[-1] if self.random.random() < 0.9 else self.random.choice(recent)
        lesson, paused = self.random.random() < 0.3, self.random.random() < 0.2
        body = self.model.family.beat(
            session_id=session_id,
            is_paused=paused,
            title_id=self.model.family.lesson if lesson else self.model.family.title,
        )
        headers = {**self.model.family.bearer, "Idempotency-Key": uuid4().hex}
        verdict = await self._acknowledged(body, headers)
        if session_id is None:
            self.model.start(verdict["session_id"])
        self.model.count(verdict["session_id"], self.now, paused=paused, lesson=lesson)
        expected = {
            "session_id": session_id or verdict["session_id"],
            "enforcement": self.model.enforcement(self.now),
            "remaining_minutes": self.model.remaining(self.now),
            "used_minutes": round(self.model.day(self.now).used / 60, 2),
            "is_educational": lesson,
        }
        assert verdict == expected
        if self.random.random() < 0.2:
            assert await self._acknowledged(body, headers) == expected

    async def _acknowledged(self, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """The first response of a counted heartbeat; a failure is `blocked` with nothing used."""
        for _ in range(MAX_ATTEMPTS):
            answer = await self.running.client.post(
                f"{VIEWING}/heartbeat", json=body, headers=headers
            )
            verdict: dict[str, Any] = answer.json()
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 200 and (
                verdict["enforcement"] != "blocked" or verdict["used_minutes"]
            ):
                return verdict
            self.repeats += 1
            await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError("never acknowledged")

    async def end(self) -> None:
        if self.model.sessions:
            session_id = [*self.model.sessions][-1]
            ended = await self.request("POST", f"{VIEWING}/session/{session_id}/end")
            self.model.sessions[session_id].is_open = False
            assert ended["total_seconds"] == self.model.sessions[session_id].seconds

    async def grant(self) -> None:
        """One grant, without a retry; after a 503 the balance shows whether it was committed."""
        minutes = self.random.choice([15, 30, 60, None])
        path = f"{PARENTAL}/{self.model.family.child}/viewing-time/grant"
        granted = await self._once("POST", path, {"minutes": minutes})
        day = self.model.day(self.now)
        used, unlimited = day.used, day.unlimited
        if minutes is None:
            day.unlimited = True
        else:
            day.used = max(0, day.used - minutes * 60)
        if granted is not None:
            assert granted == {
                "granted_minutes": minutes,
                "remaining_minutes": self.model.remaining(self.now),
                "is_unlimited_override": day.unlimited,
            }
        elif not await self._was_done(day):
            day.used, day.unlimited = used, unlimited

    async def _was_done(self, day: Day) -> bool:
        """Whether the balance agrees with `day`, after statements that still run have ended."""
        path = f"{VIEWING}/balance/{self.model.family.child}"
        await self.request("GET", path)
        await asyncio.sleep(SETTLE_SECONDS)
        balance = await self.request("GET", path)
        stored = (balance["used_minutes"], balance["is_unlimited_override"])
        return stored == (round(day.used / 60, 2), day.unlimited)

    async def configure(self) -> None:
        """Changes random members, with a PIN token, which some of them need."""
        family = self.model.family
        change: dict[str, Any] = {
            "weekday_limit_minutes": self.random.choice([None, 15, 30, 45, 120]),
            "weekend_limit_minutes": self.random.choice([None, 15, 60, 180]),
            "timezone": self.random.choice(ZONES),
            "reset_hour": self.random.randrange(24),
            "educational_exempt": self.random.random() < 0.5,
        }
        change = {k: v for k, v in change.items() if self.random.random() < 0.4}
        pin_token = auth.pin_token(self.running.context, family.account, PIN_HASH)
        path = f"{PARENTAL}/{family.child}/viewing-time"
        await self.request("PUT", path, {**change, "pin_token": pin_token})
        names = {
            "weekday_limit_minutes": "weekday",
            "weekend_limit_minutes": "weekend",
            "timezone": "zone",
            "educational_exempt": "exempt",
        }
        for name, value in change.items():
            setattr(self.model, names.get(name, name), value)

    async def look(self) -> None:
        balance = await self.request("GET", f"{VIEWING}/balance/{self.model.family.child}")
        day = self.model.days.get(self.model.today(self.now), Day())
        assert balance["used_minutes"] == round(day.used / 60, 2)
        assert balance["educational_minutes"] == round(day.educational / 60, 2)
        assert balance["remaining_minutes"] == self.model.remaining(self.now)
        assert balance["limit_minutes"] == self.model.limit(self.now)


async def add_lives(
    running: Running, connection: Connection, random: Random, families: int
) -> list[Life]:
    """Families of one service, on an evening before the clocks change."""
    running.clock.fixed = START
    return [
        Life(running, Model(await add_family(connection)), Random(random.random()))
        for _ in range(families)
    ]


async def live(lives: list[Life], random: Random) -> None:
    """Moves the clock, then runs one step of each concurrently."""
    clock = lives[0].running.clock
    clock.fixed += timedelta(seconds=random.choice([30, 30, 30, 60, 290, 301, 3600, 6 * 3600]))
    await asyncio.gather(*(life.step() for life in lives))


async def cut(connection: Connection) -> None:
    """Ends every connection of the service to the test's database."""
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )


async def settle(connection: Connection, model: Model) -> None:
    """Asserts that the rows of a child are those of the model."""
    child = model.family.child
    sessions = await connection.fetch(
        "select id, total_seconds, paused_at, ended_at is null as is_open "
        "from viewing_sessions where profile_id = $1",
        child,
    )
    assert {str(row["id"]): Session(*[*row][1:]) for row in sessions} == model.sessions
    days = await connection.fetch(
        "select reset_date, used_seconds, educational_seconds, is_unlimited_override "
        "from viewing_time_balances where profile_id = $1",
        child,
    )
    stored = {row["reset_date"]: Day(*[*row][1:]) for row in days}
    empty = Day()
    assert {d: day for d, day in stored.items() if day != empty} == {
        d: day for d, day in model.days.items() if day != empty
    }
    assert sum(row["total_seconds"] for row in sessions) == model.counted
