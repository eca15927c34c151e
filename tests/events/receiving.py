"""A receiver of webhooks over sockets, which records every request and can misbehave."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from bench.ports import free_port
from service.database.driver import Connection
from service.events.webhooks import Webhooks
from service.observing.metrics import Metrics
from service.settings import Settings

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
FAULT: Final = b"HTTP/1.1 500 Fault\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True)
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(self.body)["data"]["events"]
        return events

    @property
    def numbers(self) -> list[int]:
        """The numbers that `add_events` gave to the events."""
        return [event["data"]["number"] for event in self.events]


async def accept(_: Received) -> bytes:
    return OK


@dataclass
class Receiving:
    """`answer` returns the bytes of the response to a request; empty: the connection is closed.

    `accepted` has the numbers of the events whose request was answered with 2xx.
    """

    answer: Callable[[Received], Awaitable[bytes]] = accept
    scheme: str = "http"
    port: int = field(default_factory=free_port)
    requests: list[Received] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    connected: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/events"

    @property
    def numbers(self) -> list[int]:
        """The numbers of all events in all requests."""
        return [number for request in self.requests for number in request.numbers]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection."""
        if task := asyncio.current_task():
            self.connected.add(task)
        with (
            closing(writer),
            suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError),
        ):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                lines = (line.partition(": ") for line in head[1:] if line)
                headers = {name.lower(): value for name, _, value in lines}
                body = await reader.readexactly(int(headers["content-length"]))
                received = Received({":target": head[0], **headers}, body)
                self.requests.append(received)
                answer = await self.answer(received)
                if answer.startswith(b"HTTP/1.1 2"):
                    self.accepted += received.numbers
                writer.write(answer)
                await writer.drain()
                if not answer:
                    break


@asynccontextmanager
async def receiving(
    receiver: Receiving | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiving]:
    """A receiver that listens until the block ends."""
    receiver = receiver or Receiving()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", receiver.port, ssl=tls)
    try:
        yield receiver
    finally:
        server.close()
        for task in receiver.connected:
            task.cancel()
        await asyncio.gather(*receiver.connected)


@asynccontextmanager
async def delivering(settings: Settings, instances: int = 1) -> AsyncIterator[list[Metrics]]:
    """Instances that deliver until the block ends, and their counts."""
    counts = [Metrics() for _ in range(instances)]
    webhooks = [Webhooks(settings, each) for each in counts]
    for each in webhooks:
        await each.start()
    try:
        yield counts
    finally:
        await asyncio.gather(*(each.stop() for each in webhooks))


async def add_events(
    connection: Connection,
    account: UUID,
    profiles: Sequence[UUID | None],
    numbers: Sequence[int],
    kind: str = "lock.cleared",
) -> None:
    """Stores events of the profiles in turn, each with one of `numbers`, in their order."""
    await connection.execute(
        "with feed as (update viewing_event_feed set position = position + cardinality($3::int[]) "
        "returning position) "
        "insert into viewing_events (position, account_id, profile_id, type, occurred_at, data) "
        "select f.position - cardinality($3::int[]) + n.place, $1, "
        "($2::uuid[])[1 + (n.place - 1) % cardinality($2::uuid[])], $4, now(), "
        "jsonb_build_object('number', n.number) "
        "from unnest($3::int[]) with ordinality as n (number, place) cross join feed as f "
        "order by n.place",
        account,
        profiles,
        numbers,
        kind,
    )
