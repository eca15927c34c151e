"""Our own client: a process that keeps requests in flight, or sends them at a fixed rate.

`python -m bench.load PLAN` takes a Plan as JSON and prints an Outcome. A response with a
status other than 200, or with the enforcement `blocked`, is an error.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from itertools import count, cycle
from math import inf
from pathlib import Path
from time import perf_counter
from typing import cast

import msgspec
import uvloop

from bench import burst
from bench.open_loop import OpenLoop
from bench.plan import (
    MAX_WAIT_SECONDS,
    PROBE,
    Answers,
    Outcome,
    Plan,
    cpu_seconds,
    error_in,
    response_bytes,
)
from bench.seed import KEY_PLACEHOLDER


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
        length = self._length = self._length or response_bytes(received)
        if length and len(received) >= length:
            self._received, self._length, self.in_flight = b"", 0, False
            if self._probed:
                self._probed.set_result(None)
                return
            self._loop.answered(self, perf_counter(), error_in(received))

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
        self.answers = Answers()
        self.done = asyncio.Event()
        self.ends = inf
        self.busy = plan.connections

    async def run(self) -> Outcome:
        connections = [await self.connect(share) for share in self.shares()]
        if self.plan.seconds:
            for connection in connections:
                await connection.probe()
        self.plan.hold()
        started_at, used = perf_counter(), cpu_seconds()
        self.begin(started_at, connections)
        async with asyncio.timeout(self.plan.seconds + MAX_WAIT_SECONDS):
            await self.done.wait()
        outcome = self.answers.outcome(perf_counter() - started_at, cpu_seconds() - used)
        self.plan.hold()
        return outcome

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
        self.answers.add(now - connection.due, error)
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


async def main(plan: Plan) -> Outcome:
    if plan.at_once:
        return await asyncio.to_thread(burst.run, plan)
    if plan.rate:
        return await asyncio.to_thread(OpenLoop(plan).run)
    return await ClosedLoop(plan).run()


if __name__ == "__main__":
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(main(plan))))
