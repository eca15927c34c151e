"""Measures streams of events: the memory of open ones, and how fast events arrive in them."""

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from bench import seed
from bench.figure import Figure, Target
from bench.harness import Bench
from bench.plan import percentile
from bench.procfs import cpu_seconds, resident_bytes
from service.observing import open_files

STREAMS: Final = 10_000
QUICK_STREAMS: Final = 1_000
FIRST: Final = 200  # opened before the memory is measured: they warm everything up
AT_ONCE: Final = 64
SPARE_FILES: Final = 300
EVENTS: Final = 500
PAUSE_SECONDS: Final = 0.02
QUIET_SECONDS: Final = 15.0  # in which every stream gets a comment
MAX_WAIT_SECONDS: Final = 60.0
KIB: Final = Target(20)
P95_SECONDS: Final = Target(1.5)
OCCURRED: Final = re.compile(rb'"occurred_at":"([^"]+)Z"')
INSERT: Final = """
insert into viewing_events (account_id, type, occurred_at, data)
select each.account_id, 'configuration.changed', clock_timestamp(), '{}'
from unnest($1::uuid[]) as each (account_id)
"""
REQUEST: Final = (
    "GET /api/v1/parental-controls/events HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n"
    "User-Agent: Parents/5.2 (Linux; Android 14)\r\nAuthorization: Bearer {}\r\n\r\n"
)


class Client(asyncio.Protocol):
    """One stream; adds the seconds from an event to its arrival to `arrived`."""

    def __init__(self, account_id: UUID, arrived: list[float]) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._account_id = account_id
        self._arrived = arrived

    def connection_made(self, transport: Any) -> None:
        transport.write(REQUEST.format(seed.token(self._account_id)).encode())

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            if not data.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"the service answers {data[:100]!r}")
            self.opened.set_result(None)
        for text in OCCURRED.findall(data):
            occurred = datetime.fromisoformat(f"{text.decode()}+00:00").timestamp()
            self._arrived.append(time.time() - occurred)


async def measure(bench: Bench) -> list[Figure]:
    number = QUICK_STREAMS if bench.is_quick else STREAMS
    if open_files.raise_limit() < number + SPARE_FILES:
        bench.progress(f"no streams, which take {number + SPARE_FILES:,} open files")
        return []
    accounts = [each.account_id for each in await seed.viewers(bench.connection, number)]
    arrived: list[float] = []
    transports: list[asyncio.BaseTransport] = []
    async with bench.service() as service:
        transports += await _opened(service.port, accounts[:FIRST], arrived)
        before = resident_bytes(service.pid)
        bench.progress(f"{number:,} streams")
        transports += await _opened(service.port, accounts[FIRST:], arrived)
        kib = (resident_bytes(service.pid) - before) / (number - FIRST) / 1024
        began = cpu_seconds(service.pid)
        await asyncio.sleep(QUIET_SECONDS)
        quiet = (cpu_seconds(service.pid) - began) / QUIET_SECONDS
        single = await _single(bench, accounts, arrived)
        bench.progress("an event for every stream")
        await bench.connection.execute(INSERT, accounts)
        await _all_arrived(arrived, number)
        everyone = max(arrived)
        for transport in transports:
            transport.close()
    return [
        Figure(f"memory of each of {number:,} streams", kib, "KiB", KIB),
        Figure("CPU while nothing happens, of one core", quiet * 100, "%"),
        Figure("event to stream, p50", percentile(single, 50), "s"),
        Figure("event to stream, p95", percentile(single, 95), "s", P95_SECONDS),
        Figure("an event for every stream: the last one", everyone, "s"),
    ]


async def _opened(
    port: int, accounts: Sequence[UUID], arrived: list[float]
) -> list[asyncio.BaseTransport]:
    """Opens a stream for each account."""
    loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

    async def opened(account_id: UUID) -> asyncio.BaseTransport:
        async with slots:
            client = Client(account_id, arrived)
            transport, _ = await loop.create_connection(lambda: client, "127.0.0.1", port)
            await client.opened
            return transport

    return list(await asyncio.gather(*map(opened, accounts)))


async def _single(bench: Bench, accounts: Sequence[UUID], arrived: list[float]) -> list[float]:
    """The seconds of single events, sorted."""
    arrived.clear()
    for number in range(EVENTS):
        await bench.connection.execute(INSERT, [accounts[number * 7 % len(accounts)]])
        await asyncio.sleep(PAUSE_SECONDS)
    await _all_arrived(arrived, EVENTS)
    seconds = sorted(arrived)
    arrived.clear()
    return seconds


async def _all_arrived(arrived: Sequence[float], number: int) -> None:
    """Waits for a number of events; raises RuntimeError."""
    began = time.monotonic()
    while len(arrived) < number:
        if time.monotonic() - began > MAX_WAIT_SECONDS:
            raise RuntimeError(f"{len(arrived)} of {number} events arrived")
        await asyncio.sleep(0.05)
