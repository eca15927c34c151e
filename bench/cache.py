"""Measures what it costs if more profiles watch than the service caches, and a restart.

Services with different cache sizes run at the same time and are loaded in turn with the same
heartbeats, always in the same order or at random, round by round. A ratio is the median of the
ratios of each round.
"""

from contextlib import AsyncExitStack
from random import Random
from statistics import median
from typing import Final, NamedTuple

from bench import seed
from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.peer import Peer
from bench.seed import Viewer, fresh_day

MANY: Final = 1000  # in flight
PROFILES: Final = 10_000
RANDOM: Final = 20_000  # heartbeats in a random order, before they repeat
ALL: Final = "all cached"
SERVICES: Final = {
    ALL: {},
    "twice the cache": {"CONFIG_CACHE_MAX_SIZE": str(PROFILES // 2)},
    "10 times the cache": {"CONFIG_CACHE_MAX_SIZE": str(PROFILES // 10)},
    "10 times the tokens": {"TOKENS_MAX_SIZE": str(PROFILES // 10)},
}
ROUNDS: Final = 3
SECONDS: Final = 3.0
ALONE: Final = 500  # heartbeats, one in flight
RESTARTS: Final = 3
ARRIVALS: Final = 100_000 / 30  # a second, after a restart with 100,000 viewers
RATE: Final = Target(0.85, 0.95, at_least=True)
CPU: Final = Target(1.18, 1.05)
TOLERANCE: Final = 0.15


class Load(NamedTuple):
    """Heartbeats of viewers, and the services that get them beside the one that caches all."""

    name: str
    viewers: list[Viewer]
    services: tuple[str, ...]
    is_bounded: bool = True


async def measure(bench: Bench) -> list[Figure]:
    viewers = await seed.viewers(bench.connection, PROFILES)
    adults = await seed.viewers(bench.connection, PROFILES // 2, "adults")
    _, twice, ten_times, tokens = SERVICES
    loads = (
        Load("in a circle", viewers, (twice, ten_times)),
        Load("at random", Random(1).choices(viewers, k=RANDOM), (ten_times,)),
        Load("adults in a circle", adults, (ten_times,)),
        Load("each with an account", viewers[::-1], (tokens,), is_bounded=False),
    )
    figures = []
    async with AsyncExitStack() as running:
        peers = {
            name: await running.enter_async_context(bench.service(name, variables))
            for name, variables in SERVICES.items()
        }
        for load in loads:
            figures += await _compared(bench, peers, load)
        bench.progress("one in flight")
        alone = await bench.each_once(peers[ten_times], viewers[-ALONE:], connections=1)
    statements = Figure("uncached: statements per heartbeat", alone.statements, "", Target(1.05))
    return [*figures, statements, *await _restarts(bench, viewers)]


async def _compared(bench: Bench, peers: dict[str, Peer], load: Load) -> list[Figure]:
    names = (ALL, *load.services)
    for name in names:
        await bench.each_once(peers[name], load.viewers[:PROFILES])
    windows: dict[str, list[Window]] = {name: [] for name in names}
    rounds, seconds = (1, 1.0) if bench.is_quick else (ROUNDS, SECONDS)
    for number in range(rounds):
        bench.progress(f"{load.name}, round {number + 1} of {rounds}")
        await fresh_day(bench.connection)
        for name in names[::-1] if number % 2 else names:
            window = await bench.closed_loop(peers[name], MANY, seconds, load.viewers)
            windows[name].append(window)
    return [
        figure
        for name in load.services
        for figure in _ratios(f"{name}, {load.name}", windows[ALL], windows[name], load.is_bounded)
    ]


def _ratios(
    name: str, cached: list[Window], uncached: list[Window], is_bounded: bool
) -> list[Figure]:
    pairs = list(zip(cached, uncached, strict=True))
    rate = median(second.per_second / first.per_second for first, second in pairs)
    cpu = median(second.cpu_us / first.cpu_us for first, second in pairs)
    return [
        Figure(f"{name}: rate, to {ALL}", rate, "x", RATE if is_bounded else None),
        Figure(f"{name}: CPU of both, to {ALL}", cpu, "x", CPU if is_bounded else None, TOLERANCE),
    ]


async def _restarts(bench: Bench, viewers: list[Viewer]) -> list[Figure]:
    """Services that have just started get heartbeats of viewers whom they do not know."""
    seconds = 1.0 if bench.is_quick else PROFILES / ARRIVALS
    windows = []
    for number in range(1 if bench.is_quick else RESTARTS):
        bench.progress(f"restart {number + 1}, {ARRIVALS:,.0f} new viewers a second")
        await fresh_day(bench.connection)
        async with bench.service("restarted") as service:
            windows.append(await bench.open_loop(service, viewers, MANY, ARRIVALS, seconds))
    return [
        Figure("restart: p50", median(w.outcome.p50_ms for w in windows), "ms"),
        Figure("restart: p99", max(w.outcome.p99_ms for w in windows), "ms", Target(1000)),
        Figure("restart: errors", sum(w.outcome.errors for w in windows), "", Target(0)),
    ]
