"""Measures the latency of heartbeats that are sent when due, independent of the responses.

Viewers send one every 30 seconds. Latency counts from the instant at which a heartbeat was due, so
a slow response also counts for the heartbeats behind it (no coordinated omission). A full run warms
up first and measures past the age of 60 seconds at which configurations expire; a quick run starts
with all of them cached. The largest crowd uses all profiles.
"""

from typing import Final

import msgspec

from bench import seed
from bench.figure import Figure, Target
from bench.harness import Bench
from bench.peer import Peer

PERIOD: Final = 30  # seconds between a viewer's heartbeats
CONNECTIONS: Final = 1000


class Evening(msgspec.Struct, frozen=True):
    """A number of viewers, and the seconds of warming up and of measuring."""

    viewers: int
    warm_up: float
    seconds: float
    p95: Target | None = None


FULL: Final = (
    Evening(1_000, PERIOD, PERIOD, Target(10, 3)),
    Evening(10_000, PERIOD, 1.5 * PERIOD),
    Evening(100_000, 5, 20),
)
QUICK: Final = (
    Evening(1_000, 0, 3, Target(10, 3)),
    Evening(10_000, 0, 1),
    Evening(100_000, 0, 1),
)


async def measure(bench: Bench) -> list[Figure]:
    figures = []
    async with bench.service() as service:
        for evening in QUICK if bench.is_quick else FULL:
            bench.progress(f"{evening.viewers:,} viewers")
            figures += await _evening(bench, service, evening)
    return figures


async def _evening(bench: Bench, service: Peer, evening: Evening) -> list[Figure]:
    viewers = await seed.viewers(bench.connection, evening.viewers)
    rate = evening.viewers / PERIOD
    if evening.warm_up:
        await bench.open_loop(service, viewers, CONNECTIONS, rate, evening.warm_up)
    else:
        viewers = viewers[: round(rate * evening.seconds)]
        await bench.each_once(service, viewers)
    window = await bench.open_loop(service, viewers, CONNECTIONS, rate, evening.seconds)
    name, outcome = f"{evening.viewers:,} viewers, {rate:,.0f}/s", window.outcome
    return [
        Figure(f"{name}: p50", outcome.p50_ms, "ms"),
        Figure(f"{name}: p95", outcome.p95_ms, "ms", evening.p95),
        Figure(f"{name}: p99", outcome.p99_ms, "ms"),
        Figure(f"{name}: statements per heartbeat", window.statements, "", Target(1.0), 0.25),
    ]
