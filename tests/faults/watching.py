"""Viewers that send heartbeats without pause, and the verdicts that they receive."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final
from uuid import uuid4

import httpx

from service.database.driver import Connection
from tests.family import HEARTBEAT, Family, add_family, session_seconds, used_seconds

BALANCE: Final = "/api/v1/viewing-time/balance"
PAUSE_SECONDS: Final = 0.03
MAX_WAIT_SECONDS: Final = 60.0
# A request whose connection is refused or breaks without a response is sent again, as players do.
LIMITS: Final = httpx.Limits(max_keepalive_connections=None, max_connections=None)


@dataclass
class Answer:
    """One heartbeat: when it was sent, its seconds, its status and whether it was counted."""

    sent: float
    took: float
    status: int
    is_counted: bool


@dataclass
class Viewer:
    """A child without a limit, whose player sends heartbeats without pause; `blocked` is a failure.

    With `keyed`, each heartbeat has an idempotency key and is retried until it is acknowledged.
    Without, it is not retried, and a failed one counts as unknown.
    """

    family: Family
    keyed: bool
    session: str | None = None
    acknowledged: int = 0
    unknown: int = 0
    answers: list[Answer] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    worst: float = 0.0
    _key: str = ""

    async def beat(self, client: httpx.AsyncClient) -> None:
        self._key = self._key or uuid4().hex
        headers = {**self.family.bearer, **({"Idempotency-Key": self._key} if self.keyed else {})}
        body = self.family.beat(session_id=self.session)
        sent = time.monotonic()
        try:
            response = await client.post(HEARTBEAT, json=body, headers=headers)
        except httpx.TransportError as error:
            self._note(sent, 0, {}, repr(error))
            return
        self._note(sent, response.status_code, response.json(), response.text)

    def _note(self, sent: float, status: int, verdict: dict[str, Any], text: str) -> None:
        is_counted = verdict.get("enforcement") == "allowed"
        took = time.monotonic() - sent
        self.answers.append(Answer(sent, took, status, is_counted))
        self.worst = max(self.worst, took)
        if is_counted:
            self.acknowledged += 1
            self.session = verdict["session_id"]
        elif verdict.get("enforcement") == "blocked" and not self.keyed:
            self.unknown += 1
        # 408: this process was too busy to send the body in time.
        elif verdict.get("enforcement") != "blocked" and status not in (408, 503):
            self.errors.append(f"{status} {text}")
        if is_counted or not self.keyed:
            self._key = ""

    async def watch(self, client: httpx.AsyncClient, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.beat(client)
            await asyncio.sleep(PAUSE_SECONDS)
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            while self.keyed and self._key:
                await self.beat(client)

    async def settle(self, connection: Connection) -> None:
        """Asserts that the tables hold all acknowledged heartbeats, plus at most the unknown."""
        assert self.errors == []
        seconds = await session_seconds(connection, self.family.child)
        assert await used_seconds(connection, self.family.child) == seconds
        assert self.acknowledged * 30 <= seconds <= (self.acknowledged + self.unknown) * 30

    def recovered(self, since: float) -> float:
        """Seconds from `since` until the first acknowledged beat was answered."""
        ends = (a.sent + a.took for a in self.answers if a.is_counted)
        return next((end - since for end in ends if end > since), inf)

    def forget(self, before: float) -> None:
        """Removes the answers to heartbeats that were sent before."""
        self.answers = [answer for answer in self.answers if answer.sent >= before]


async def add_viewers(connection: Connection, count: int) -> list[Viewer]:
    """Adds viewers; every second one has idempotency keys."""
    families = [await add_family(connection, limit=None) for _ in range(count)]
    return [Viewer(family, keyed=n % 2 == 0) for n, family in enumerate(families)]


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a time-out that is longer than any response may take."""
    async with httpx.AsyncClient(base_url=url, limits=LIMITS, timeout=60) as client:
        yield client


@asynccontextmanager
async def all_watching(client: httpx.AsyncClient, viewers: list[Viewer]) -> AsyncIterator[None]:
    """Viewers watch while the block runs; then waits until their last heartbeats are answered."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for viewer in viewers:
            group.create_task(viewer.watch(client, stop))
        try:
            yield
        finally:
            stop.set()
