"""Measures heartbeats at fixed rates, from few to many, beside the peer in Go.

Heartbeats are sent at random moments, independent of the responses. With few of them a statement
has one heartbeat, with many it has dozens, so the cost of a heartbeat depends on the rate: plan
capacity by these figures, not by those at saturation. A figure is the median of the rounds; a ratio
is the median of the ratios of each round.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Final

from bench import peers
from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.peer import Peer
from bench.seed import fresh_day

RATES: Final = (250, 1_000, 4_000, 8_000)  # heartbeats a second
# With a statement for each heartbeat, two cores cannot keep up with more.
MAX_RATE_OF_GO: Final = 1_000
CONNECTIONS: Final = 1_000
SECONDS: Final = 4.0
READINGS: Final[tuple[tuple[str, str, Callable[[Window], float]], ...]] = (
    ("p50", "ms", lambda window: window.outcome.p50_ms),
    ("p99", "ms", lambda window: window.outcome.p99_ms),
    ("service CPU", "µs", lambda window: window.server_us),
    ("PostgreSQL CPU", "µs", lambda window: window.postgres_us),
    ("CPU of both", "µs", lambda window: window.cpu_us),
    ("statements per heartbeat", "", lambda window: window.statements),
    ("client CPU", "µs", lambda window: window.outcome.client_us),
)
TARGETS: Final = {(4_000, "p99"): Target(30, 12)}
RATIO_TARGETS: Final = {1_000: Target(0.8, 0.6)}
TOLERANCE: Final = 0.15


async def measure(bench: Bench) -> list[Figure]:
    command = peers.command("Go")
    async with AsyncExitStack() as running:
        service = await running.enter_async_context(bench.service())
        go = None
        if command:
            go = await running.enter_async_context(bench.other("Go", command))
        ours: dict[int, list[Window]] = {rate: [] for rate in RATES}
        theirs: dict[int, list[Window]] = {rate: [] for rate in RATES}
        for number in range(1, bench.scale.rounds + 1):
            for rate in RATES:
                bench.progress(f"{rate:,}/s, round {number} of {bench.scale.rounds}")
                await fresh_day(bench.connection)
                ours[rate].append(await _window(bench, service, rate))
                if go and rate <= MAX_RATE_OF_GO:
                    theirs[rate].append(await _window(bench, go, rate))
    return [figure for rate in RATES for figure in _figures(rate, ours[rate], theirs[rate])]


async def _window(bench: Bench, peer: Peer, rate: int) -> Window:
    await bench.warm(peer)
    return await bench.open_loop(peer, bench.viewers, CONNECTIONS, rate, SECONDS)


def _figures(rate: int, ours: Sequence[Window], theirs: Sequence[Window]) -> list[Figure]:
    name = f"{rate:,}/s"
    figures = [
        Figure(f"{name}: {reading}", median(map(read, ours)), unit, TARGETS.get((rate, reading)))
        for reading, unit, read in READINGS
    ]
    if theirs:
        ratios = [us.cpu_us / them.cpu_us for us, them in zip(ours, theirs, strict=True)]
        figures += [
            Figure(f"{name}: CPU of both, Go", median(w.cpu_us for w in theirs), "µs"),
            Figure(f"{name}: p99, Go", median(w.outcome.p99_ms for w in theirs), "ms"),
            Figure(
                f"{name}: CPU of both, to Go's",
                median(ratios),
                "x",
                RATIO_TARGETS.get(rate),
                TOLERANCE,
            ),
        ]
    return figures
