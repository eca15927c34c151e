"""How long do heartbeats take that come when they are due, whatever became of those before?

Viewers send one every 30 seconds. Latency counts from the moment that a heartbeat was due, so a
slow answer is not hidden by those that it holds up (no coordinated omission). A full run first
lets a while pass unmeasured, and then measures until configurations have run out and are read
anew, as on any evening; a quick run begins with all of them read. The most viewers are stood for
by all the profiles there are, which is more than the service keeps configurations of.
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
    """So many viewers, for so many seconds unmeasured and measured."""

    viewers: int
    before: float
    seconds: float
    p95: Target | None = None


FULL: Final = (
    Evening(1_000, PERIOD, 2 * PERIOD, Target(10, 3)),
    Evening(10_000, PERIOD, 2 * PERIOD),
    Evening(100_000, 5, PERIOD),
)
QUICK: Final = (
    Evening(1_000, 0, 3, Target(10, 3)),
    Evening(10_000, 0, 1),
    Evening(100_000, 0, 1),
)


async def measure(bench: Bench) -> list[Figure]:
    figures = []
    async with bench.service() as service:
        for evening in QUICK if bench.quick else FULL:
            bench.progress(f"{evening.viewers:,} viewers")
            figures += await _evening(bench, service, evening)
    return figures


async def _evening(bench: Bench, service: Peer, evening: Evening) -> list[Figure]:
    viewers = await seed.viewers(bench.connection, evening.viewers)
    rate = evening.viewers / PERIOD
    if evening.before:
        await bench.open(service, viewers, CONNECTIONS, rate, evening.before)
    else:
        viewers = viewers[: round(rate * evening.seconds)]
        await bench.once(service, viewers)
    window = await bench.open(service, viewers, CONNECTIONS, rate, evening.seconds)
    name, outcome = f"{evening.viewers:,} viewers, {rate:,.0f}/s", window.outcome
    return [
        Figure(f"{name}: p50", outcome.p50_ms, "ms"),
        Figure(f"{name}: p95", outcome.p95_ms, "ms", evening.p95),
        Figure(f"{name}: p99", outcome.p99_ms, "ms"),
        Figure(f"{name}: statements per heartbeat", window.statements, "", Target(1.0)),
    ]
