"""Children who watch all the time, and their verdicts: the other side of the ledger."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx

from service.database.driver import Connection
from tests.family import Family, add_family, session_seconds, used_seconds

BEAT: Final = "/api/v1/viewing-time/heartbeat"
BALANCE: Final = "/api/v1/viewing-time/balance"
PAUSE_SECONDS: Final = 0.03
PATIENCE_SECONDS: Final = 30.0
# A request whose connection is refused or breaks without a response is sent again, as players do.
LIMITS: Final = httpx.Limits(max_keepalive_connections=None, max_connections=None)


@dataclass
class Answer:
    """One heartbeat: when it was sent, how long it took (seconds), what came back."""

    sent: float
    took: float
    status: int
    is_counted: bool


@dataclass
class Viewer:
    """A child without a limit whose player beats without rest, so `blocked` means `unknown`.

    With `keyed`, each beat has an idempotency key, and one that was not acknowledged is repeated
    until it is; without, it is given up.
    """

    family: Family
    keyed: bool
    session: str | None = None
    acknowledged: int = 0
    unknown: int = 0
    answers: list[Answer] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    worst: float = 0.0
    _key: str = ""

    async def beat(self, client: httpx.AsyncClient) -> None:
        self._key = self._key or uuid4().hex
        headers = {**self.family.bearer, **({"Idempotency-Key": self._key} if self.keyed else {})}
        body = self.family.beat(session_id=self.session)
        sent = time.monotonic()
        try:
            response = await client.post(BEAT, json=body, headers=headers)
        except httpx.TransportError as error:
            self._note(sent, 0, {}, repr(error))
            return
        self._note(sent, response.status_code, response.json(), response.text)

    def _note(self, sent: float, status: int, verdict: dict[str, Any], said: str) -> None:
        is_counted = verdict.get("enforcement") == "allowed"
        took = time.monotonic() - sent
        self.answers.append(Answer(sent, took, status, is_counted))
        self.worst = max(self.worst, took)
        if is_counted:
            self.acknowledged += 1
            self.session = verdict["session_id"]
        elif verdict.get("enforcement") == "blocked" and not self.keyed:
            self.unknown += 1
        elif verdict.get("enforcement") != "blocked" and status != 503:
            self.faults.append(f"{status} {said}")
        if is_counted or not self.keyed:
            self._key = ""

    async def watch(self, client: httpx.AsyncClient, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.beat(client)
            await asyncio.sleep(PAUSE_SECONDS)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.keyed and self._key:
                await self.beat(client)

    async def settle(self, connection: Connection) -> None:
        """Asserts that the tables hold what was acknowledged, and at most what is unknown."""
        assert self.faults == []
        seconds = await session_seconds(connection, self.family.child)
        assert await used_seconds(connection, self.family.child) == seconds
        assert self.acknowledged * 30 <= seconds <= (self.acknowledged + self.unknown) * 30

    def recovered(self, since: float) -> float:
        """Seconds from `since` until the first acknowledged beat was answered."""
        return next(
            a.sent + a.took - since
            for a in self.answers
            if a.is_counted and a.sent + a.took > since
        )

    def forget(self, before: float) -> None:
        """Keeps only the answers to what was sent since."""
        self.answers = [answer for answer in self.answers if answer.sent >= before]


async def add_viewers(connection: Connection, count: int) -> list[Viewer]:
    """Every second one with idempotency keys."""
    families = [await add_family(connection, limit=None) for _ in range(count)]
    return [Viewer(family, keyed=n % 2 == 0) for n, family in enumerate(families)]


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that waits longer than any answer may take."""
    async with httpx.AsyncClient(base_url=url, limits=LIMITS, timeout=20) as client:
        yield client


@asynccontextmanager
async def all_watching(client: httpx.AsyncClient, viewers: list[Viewer]) -> AsyncIterator[None]:
    """Lets them watch while the block runs, and waits until each knows of its last beat."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for viewer in viewers:
            group.create_task(viewer.watch(client, stop))
        try:
            yield
        finally:
            stop.set()
