"""Children who watch to their limits and ask for more, and parents who decide.

Each request goes to a random instance and may fail. A heartbeat is repeated until it is
acknowledged; anything else is not, because the tables say what was done.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final
from uuid import UUID, uuid4

import httpx

from service.database.driver import Connection
from tests.family import HEARTBEAT, PASSWORD, PIN, Family, add_family, far_reset_hour
from tests.faults.causes import DOOMED_DEVICE, DOOMED_MINUTES

LIMIT_MINUTES: Final = 15
REQUESTS: Final = "/api/v1/viewing-time/requests"
PARENTAL: Final = "/api/v1/parental-controls"
BEAT_PAUSE_SECONDS: Final = 0.08
REST_SECONDS: Final = 0.1
SLACK: Final = timedelta(seconds=2)  # a statement ends soon after its process
WRONG_PIN: Final = "9999"
NO_ANSWER: Final = httpx.Response(503)
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass
class Service:
    """The instances, as a client sees them."""

    client: httpx.AsyncClient
    urls: list[str]
    errors: list[str] = field(default_factory=list)
    unanswered: int = 0
    is_closing: bool = False

    async def call(
        self,
        random: Random,
        family: Family,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """The response; 503 also without one, when it is unknown what was done."""
        url, sent = random.choice(self.urls) + path, family.bearer | (headers or {})
        try:
            answer = await self.client.request(method, url, json=body, headers=sent)
        except httpx.TransportError:
            answer = NO_ANSWER
        if answer.status_code == 408:  # this process was too busy to send the body in time
            answer = NO_ANSWER
        self.unanswered += answer.status_code == 503
        if answer.status_code >= 500 and answer.status_code != 503:
            self.errors.append(f"{method} {path} {answer.status_code} {answer.text}")
        return answer


@dataclass
class Child:
    """A child and its players.

    `seen` are the warnings and blocks in answers: minutes, or the rule. `unknown` are the times of
    heartbeats without a verdict, which may have been counted all the same.
    """

    service: Service
    random: Random
    family: Family
    profile: UUID
    has_rules: bool  # besides the daily limit
    seen: set[str] = field(default_factory=set)
    unknown: list[tuple[datetime, datetime]] = field(default_factory=list)
    requests: set[str] = field(default_factory=set)
    _session: str | None = None
    _device: str = "tv"

    async def live(self) -> None:
        while not self.service.is_closing:
            await self.watch()
            if self.seen and self.random.random() < 0.05:
                await self.ask()
            await asyncio.sleep(BEAT_PAUSE_SECONDS * self.random.uniform(0.5, 2))

    async def watch(self) -> None:
        """One heartbeat, repeated until it is counted; some begin a session on another device."""
        if self.random.random() < 0.03:
            assert not await self._beat(None, DOOMED_DEVICE, uuid4().hex)
        if self._session is None or self.random.random() < 0.05:
            self._session, self._device = None, self.random.choice(["tv", "tablet"])
        key = uuid4().hex
        while not await self._beat(self._session, self._device, key):
            await asyncio.sleep(BEAT_PAUSE_SECONDS)

    async def _beat(self, session: str | None, device: str, key: str) -> bool:
        """Whether the heartbeat was counted; the answer to a failed one has no decision."""
        body = self.family.beat(profile_id=self.profile, session_id=session, device_id=device)
        headers = {"Idempotency-Key": key, "Prefer": "decision"}
        sent = datetime.now(UTC)
        answer = await self.service.call(self.random, self.family, "POST", HEARTBEAT, body, headers)
        assert answer.status_code in (200, 503), answer.text
        verdict = answer.json() if answer.status_code == 200 else {}
        if "decision" not in verdict:
            self.unknown.append((sent, datetime.now(UTC) + SLACK))
            return False
        self._session = verdict["session_id"]
        enforcement, reason = verdict["enforcement"], verdict["decision"]["reason"]
        if enforcement != "allowed":
            self.seen.add(reason or enforcement.removeprefix("warning_"))
        return True

    def may_have_caused(self, state: str, at: datetime) -> bool:
        """Whether an answer, or a heartbeat without an answer, explains a warning or a block."""
        return state in self.seen or any(sent <= at <= until for sent, until in self.unknown)

    async def ask(self) -> None:
        minutes = self.random.choice([15, 30, None])
        body = {"profile_id": str(self.profile), "minutes": minutes, "message": "Please"}
        answer = await self.service.call(self.random, self.family, "POST", REQUESTS, body)
        if answer.status_code == 201:
            self.requests.add(answer.json()["request_id"])


@dataclass
class Parents:
    """The parents of an account, who sometimes decide at the same time.

    `done` are the ids of grants, of undone grants and of decided requests in answers.
    """

    service: Service
    random: Random
    family: Family
    children: list[Child]
    forgets_pin: bool  # enters wrong ones until the PIN is locked, then resets it
    done: dict[str, set[str]] = field(default_factory=dict)

    async def live(self) -> None:
        while not self.service.is_closing:
            await self.random.choice(self._acts())()
            await asyncio.sleep(REST_SECONDS * self.random.uniform(0.5, 2))

    def _acts(self) -> list[Callable[[], Awaitable[None]]]:
        acts: list[Callable[[], Awaitable[None]]] = [
            self.grant,
            self.undo,
            self.decide,
            self.decide,
        ]
        if any(child.has_rules for child in self.children):
            acts += [self.lock, self.lock, self.unlock, self.change_schedule, self.change_day]
            acts += [self.change_limits]
        if self.forgets_pin:
            acts += [self.enter_wrong_pins] * 2
        return acts

    async def _call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        call = (self.random, self.family, method, PARENTAL + path, body, headers)
        return await self.service.call(*call)

    def _of_child(self, path: str, *, has_rules: bool = False) -> str:
        children = [c for c in self.children if c.has_rules or not has_rules]
        return f"/profiles/{self.random.choice(children).profile}{path}"

    def _note(self, kind: str, found: str) -> None:
        self.done.setdefault(kind, set()).add(found)

    async def grant(self) -> None:
        """Grants time; the commit of one amount fails."""
        minutes = self.random.choice([15, 15, 15, 30, None, DOOMED_MINUTES])
        mode = self.random.choice(["credit", "extend"])
        body: dict[str, Any] = {"minutes": minutes, "mode": mode}
        if self.random.random() < 0.2 and not self.forgets_pin:
            body["pin"] = PIN
        key = {"Idempotency-Key": uuid4().hex} if self.random.random() < 0.5 else {}
        answer = await self._call("POST", self._of_child("/viewing-time/grant"), body, key)
        if answer.status_code == 200:
            assert minutes != DOOMED_MINUTES
            self._note("granted", answer.json()["grant_id"])

    async def undo(self) -> None:
        path = self._of_child("/grants")
        answer = await self._call("GET", path)
        grants = answer.json()["grants"] if answer.status_code == 200 else []
        left = [g["grant_id"] for g in grants if g["undone_at"] is None]
        if left:
            grant_id = self.random.choice(left)
            answer = await self._call("DELETE", f"{path}/{grant_id}")
            if answer.status_code == 200:
                self._note("undone", grant_id)

    async def decide(self) -> None:
        """Two parents decide about a request at once, and differ or not."""
        answer = await self._call("GET", "/requests?status=pending")
        pending = answer.json()["requests"] if answer.status_code == 200 else []
        if not pending or self.random.random() < 0.2:
            return
        request_id = self.random.choice(pending)["request_id"]
        minutes = self.random.choice([None, 15, 15, DOOMED_MINUTES])
        body = {} if minutes is None else {"minutes": minutes}
        await asyncio.gather(*(self._decide(request_id, body) for _ in range(2)))

    async def _decide(self, request_id: str, body: dict[str, int]) -> None:
        decision = self.random.choice(["approve", "approve", "deny"])
        path, key = f"/requests/{request_id}/{decision}", {"Idempotency-Key": uuid4().hex}
        headers = key if self.random.random() < 0.5 else {}
        sent = body if decision == "approve" else None
        answer = await self._call("POST", path, sent, headers)
        if answer.status_code == 200:
            self._note({"approve": "approved", "deny": "denied"}[decision], request_id)

    async def lock(self) -> None:
        until = datetime.now(UTC) + timedelta(hours=1, seconds=self.random.randrange(9999))
        body = {"until": until.isoformat()}
        await self._call("PUT", self._of_child("/lock", has_rules=True), body)

    async def unlock(self) -> None:
        await self._call("DELETE", self._of_child("/lock", has_rules=True))

    async def change_schedule(self) -> None:
        change: dict[str, Any] = self.random.choice(
            [
                {"downtime": [{"days": [*DAYS], "start": "00:00", "end": "00:00"}]},
                {"downtime": []},
                {"weekly_limit_minutes": 15},
                {"weekly_limit_minutes": None},
            ]
        )
        await self._call("PUT", self._of_child("/schedule", has_rules=True), change)

    async def change_day(self) -> None:
        day = (datetime.now(UTC) + timedelta(days=self.random.choice([2, 3]))).date()
        path = self._of_child(f"/exceptions/{day}", has_rules=True)
        if self.random.random() < 0.3:
            await self._call("DELETE", path)
        else:
            await self._call("PUT", path, {"limit_minutes": self.random.choice([15, 30, None])})

    async def change_limits(self) -> None:
        minutes = self.random.choice([15, 30])
        body = {"weekday_limit_minutes": minutes, "weekend_limit_minutes": minutes}
        await self._call("PUT", self._of_child("/viewing-time", has_rules=True), body)

    async def enter_wrong_pins(self) -> None:
        for _ in range(6):
            await self._call("POST", "/pin/verify", {"pin": WRONG_PIN})
        if self.random.random() < 0.5:
            await self._call("POST", "/pin/reset", {"password": PASSWORD, "new_pin": PIN})


async def add_household(
    connection: Connection, service: Service, random: Random, *, forgets_pin: bool
) -> Parents:
    """Stores a family of two children; the second one also has locks and schedules."""
    family = await add_family(connection, limit=LIMIT_MINUTES, reset_hour=far_reset_hour())
    second = uuid4()
    await connection.execute(
        "insert into profiles (id, user_id, name, parental_rating, is_kids) "
        "values ($1, $2, 'Grace', 'TV-G', true)",
        second,
        family.account,
    )
    await connection.execute(
        "insert into viewing_time_configs (id, profile_id, weekday_limit_minutes, "
        "weekend_limit_minutes, reset_hour, educational_exempt, timezone) "
        "select gen_random_uuid(), $2, weekday_limit_minutes, weekend_limit_minutes, reset_hour, "
        "educational_exempt, timezone from viewing_time_configs where profile_id = $1",
        family.child,
        second,
    )
    profiles = ((family.child, False), (second, True))
    children = [Child(service, Random(random.random()), family, *each) for each in profiles]
    return Parents(service, Random(random.random()), family, children, forgets_pin)
