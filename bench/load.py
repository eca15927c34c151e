"""Our own client: a process that keeps requests in flight, or sends them at a fixed rate.

`python -m bench.load PLAN` takes a Plan as JSON and prints an Outcome. A response with a
status other than 200, or with the enforcement `blocked`, is an error.
"""

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from math import ceil, inf
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Final, cast

import msgspec
import uvloop

from bench.seed import KEY_PLACEHOLDER

PROBE: Final = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
MAX_WAIT_SECONDS: Final = 120.0  # for missing responses; then the run fails


class Plan(msgspec.Struct, frozen=True):
    """The load for a port of 127.0.0.1.

    `requests` is a file of requests, each followed by a zero byte. With `seconds`, every connection
    always has one request in flight. With `seconds` and `rate`, `rate` requests are sent a second
    at random moments, independent of the responses. With neither, each request is sent once. With
    `fresh_keys`, each request gets a new idempotency key.
    """

    port: int
    requests: str
    connections: int
    seconds: float = 0.0
    rate: float = 0.0
    fresh_keys: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """The number of responses, the number of errors among them, and the latencies."""

    completed: int
    errors: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    highest_ms: float
    first_ms: float = 0.0
    first_error: str = ""

    @property
    def per_second(self) -> float:
        return self.completed / self.seconds


def percentile(ranked: Sequence[float], share: float) -> float:
    """The nearest rank in ascending values: always a measured value."""
    return ranked[max(0, ceil(len(ranked) * share / 100) - 1)]


class Connection(asyncio.Protocol):
    """A connection to the server with at most one request in flight."""

    def __init__(self, loop: "ClosedLoop", requests: Iterator[bytes]) -> None:
        self.requests = requests
        self.due = 0.0
        self.is_open = self.in_flight = False
        self._loop = loop
        self._received = b""
        self._length = 0
        self._probed: asyncio.Future[None] | None = None

    def send(self, request: bytes, due: float) -> None:
        """Sends a request whose latency counts from the instant `due`."""
        self.due = due
        self.in_flight = True
        if self._loop.plan.fresh_keys:
            request = request.replace(KEY_PLACEHOLDER.encode(), next(self._loop.keys))
        self._transport.write(request)

    async def probe(self) -> None:
        """Sends a health check and waits for the response, so that the server has accepted.

        Servers accept one connection at a time between requests; one that waits causes no load.
        """
        self._probed = asyncio.get_running_loop().create_future()
        self.send(PROBE, 0.0)
        await self._probed
        self._probed = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        if not self._length:
            head = received.find(b"\r\n\r\n")
            if head < 0:
                return
            start = received.lower().index(b"content-length:") + 15
            self._length = head + 4 + int(received[start : received.index(b"\r\n", start)])
        if len(received) >= self._length:
            self._received, self._length, self.in_flight = b"", 0, False
            if self._probed:
                self._probed.set_result(None)
                return
            good = received.startswith(b"HTTP/1.1 200") and b'"blocked"' not in received
            self._loop.answered(self, perf_counter(), "" if good else received.decode())

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self.in_flight:
            self.in_flight = False
            self._loop.answered(self, perf_counter(), f"connection lost: {error}")


class ClosedLoop:
    """Each connection sends its next request when the response has arrived."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests = Path(plan.requests).read_bytes().split(b"\0")[:-1]
        run = os.urandom(4).hex()
        self.keys = (f"{run}{number:08}".encode() for number in count())
        self.latencies: list[float] = []
        self.errors = 0
        self.first_error = ""
        self.done = asyncio.Event()
        self.ends = inf
        self.busy = plan.connections

    async def run(self) -> Outcome:
        connections = [await self.connect(share) for share in self.shares()]
        if self.plan.seconds:
            for connection in connections:
                await connection.probe()
        started_at = perf_counter()
        self.begin(started_at, connections)
        async with asyncio.timeout(self.plan.seconds + MAX_WAIT_SECONDS):
            await self.done.wait()
        seconds = perf_counter() - started_at
        ranked = sorted(latency * 1000 for latency in self.latencies)
        return Outcome(
            completed=len(ranked),
            errors=self.errors,
            seconds=seconds,
            p50_ms=percentile(ranked, 50),
            p95_ms=percentile(ranked, 95),
            p99_ms=percentile(ranked, 99),
            p999_ms=percentile(ranked, 99.9),
            highest_ms=ranked[-1],
            first_ms=self.latencies[0] * 1000,
            first_error=self.first_error,
        )

    def shares(self) -> list[Iterator[bytes]]:
        """The requests of each connection: its own share in a circle, or all requests once."""
        number = self.plan.connections
        if not self.plan.seconds:
            return [iter(self.requests)] * number
        return [cycle(self.requests[n::number]) for n in range(number)]

    async def connect(self, share: Iterator[bytes]) -> Connection:
        loop = asyncio.get_running_loop()
        made = loop.create_connection(lambda: Connection(self, share), "127.0.0.1", self.plan.port)
        return (await made)[1]

    def begin(self, now: float, connections: list[Connection]) -> None:
        if self.plan.seconds:
            self.ends = now + self.plan.seconds
        for connection in connections:
            self.proceed(connection, now)

    def answered(self, connection: Connection, now: float, error: str) -> None:
        self.latencies.append(now - connection.due)
        if error:
            self.errors += 1
            self.first_error = self.first_error or error
        self.proceed(connection, now)

    def proceed(self, connection: Connection, now: float) -> None:
        if connection.is_open and now < self.ends:
            request = next(connection.requests, None)
            if request is not None:
                connection.send(request, now)
                return
        self.busy -= 1
        if not self.busy:
            self.done.set()


class OpenLoop(ClosedLoop):
    """Sends requests when they are due; waiting for a free connection counts as latency.

    A connection that the server closed while it was idle is opened again, which counts too.
    """

    def begin(self, now: float, connections: list[Connection]) -> None:
        self.free = deque(connections)
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.opening: set[asyncio.Task[None]] = set()
        draw, number = Random(1), round(self.plan.rate * self.plan.seconds)
        self.busy = number
        dues = sorted(now + draw.random() * self.plan.seconds for _ in range(number))
        clock = (asyncio.get_running_loop(), dues)
        threading.Thread(target=self.tick, args=clock, daemon=True).start()

    def tick(self, loop: asyncio.AbstractEventLoop, dues: list[float]) -> None:
        """Sleeps in a thread, because the event loop's timers only have milliseconds."""
        for due, request in zip(dues, cycle(self.requests), strict=False):
            time.sleep(max(0.0, due - perf_counter()))
            loop.call_soon_threadsafe(self.arrive, request, due)

    def arrive(self, request: bytes, due: float) -> None:
        if not self.free:
            self.waiting.append((request, due))
            return
        connection = self.free.popleft()
        if connection.is_open:
            connection.send(request, due)
            return
        task = asyncio.create_task(self.reopen(connection, request, due))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def reopen(self, lost: Connection, request: bytes, due: float) -> None:
        (await self.connect(lost.requests)).send(request, due)

    def proceed(self, connection: Connection, now: float) -> None:
        self.busy -= 1
        if not self.busy:
            self.done.set()
        elif self.waiting and connection.is_open:
            connection.send(*self.waiting.popleft())
        else:
            self.free.append(connection)


async def main(plan: Plan) -> Outcome:
    return await (OpenLoop if plan.rate else ClosedLoop)(plan).run()


if __name__ == "__main__":
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(main(plan))))
