"""Measures the cost of a heartbeat beside a bare server and beside batches of one.

All three servers run at the same time and are loaded in turn, round by round. A figure is the
median of the rounds; a ratio is the median of the ratios of each round. Further windows load the
service with adults only.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Final

import msgspec

from bench import seed
from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.peer import Peer
from bench.seed import Viewer, fresh_day

# One statement for each heartbeat, on as many connections as the pool has. The time-out is longer,
# because with 1,000 in flight a heartbeat takes more than the usual 2 seconds on a slow machine.
BATCHES_OF_ONE: Final = {
    "HEARTBEAT_BATCH_MAX": "1",
    "HEARTBEAT_CONNECTIONS": "8",
    "REQUEST_TIMEOUT_SECONDS": "10",
}
FEW: Final = 64
MANY: Final = 1000
HOT: Final = """
select sum(n_tup_hot_upd)::float8 as hot, sum(n_tup_upd)::float8 as updated
from pg_stat_user_tables
where relname ~ '^viewing_(sessions|time_balances)'
"""


class Round(msgspec.Struct, frozen=True):
    """The windows of one round under one load."""

    echo: Window
    service: Window
    single: Window


READINGS: Final[tuple[tuple[str, str, Callable[[Round], float]], ...]] = (
    ("heartbeats", "/s", lambda r: r.service.per_second),
    ("requests of the echo", "/s", lambda r: r.echo.per_second),
    ("heartbeats in batches of one", "/s", lambda r: r.single.per_second),
    ("rate, to the echo's", "x", lambda r: r.service.per_second / r.echo.per_second),
    ("rate, to batches of one", "x", lambda r: r.service.per_second / r.single.per_second),
    ("p50", "ms", lambda r: r.service.outcome.p50_ms),
    ("p95", "ms", lambda r: r.service.outcome.p95_ms),
    ("p99", "ms", lambda r: r.service.outcome.p99_ms),
    ("p99 of the echo", "ms", lambda r: r.echo.outcome.p99_ms),
    ("service CPU", "µs", lambda r: r.service.server_us),
    ("echo CPU", "µs", lambda r: r.echo.server_us),
    ("service CPU, to the echo's", "x", lambda r: r.service.server_us / r.echo.server_us),
    ("PostgreSQL CPU", "µs", lambda r: r.service.postgres_us),
    ("CPU of both", "µs", lambda r: r.service.cpu_us),
    ("PostgreSQL CPU, batches of one", "µs", lambda r: r.single.postgres_us),
    (
        "PostgreSQL CPU, to batches of one",
        "x",
        lambda r: r.service.postgres_us / r.single.postgres_us,
    ),
)
TARGETS: Final = {
    (MANY, "rate, to the echo's"): Target(0.9, 1.0, at_least=True),
    (MANY, "CPU of both"): Target(110, 95),
    (MANY, "rate, to batches of one"): Target(2, at_least=True),
    (MANY, "p95"): Target(200, 100),
    (MANY, "PostgreSQL CPU, to batches of one"): Target(0.2, 0.1),
    (FEW, "service CPU, to the echo's"): Target(1.5, 1.2),
}
TOLERANCE: Final = 0.15


async def measure(bench: Bench) -> list[Figure]:
    before = await bench.connection.fetchrow(HOT)
    async with AsyncExitStack() as running:
        echo = await running.enter_async_context(bench.echo())
        service = await running.enter_async_context(bench.service())
        single = await running.enter_async_context(bench.service("one by one", BATCHES_OF_ONE))
        rounds = await _rounds(bench, (echo, service, single))
        adults = await _adults_to_usual(bench, service)
    after = await bench.connection.fetchrow(HOT)
    assert before is not None
    assert after is not None
    hot = (after["hot"] - before["hot"]) / (after["updated"] - before["updated"])
    figures = [
        Figure(
            f"{load:,} in flight: {name}",
            median(map(reading, rounds[load])),
            unit,
            TARGETS.get((load, name)),
            TOLERANCE if unit == "x" else 0,
            is_rate=name.startswith("rate"),
        )
        for load in (MANY, FEW)
        for name, unit, reading in READINGS
    ]
    name = f"{MANY:,} in flight: CPU of adults, to the usual viewers'"
    figures.append(Figure(name, adults, "x", Target(1.05), TOLERANCE))
    return [*figures, Figure("HOT share of all updates", hot, "", Target(0.9, at_least=True))]


async def _rounds(bench: Bench, peers: tuple[Peer, ...]) -> dict[int, list[Round]]:
    rounds: dict[int, list[Round]] = {FEW: [], MANY: []}
    for number in range(1, bench.scale.rounds + 1):
        for load in (FEW, MANY):
            bench.progress(f"{load:,} in flight, round {number} of {bench.scale.rounds}")
            await fresh_day(bench.connection)
            windows = [await _window(bench, peer, load) for peer in peers]
            rounds[load].append(Round(*windows))
    return rounds


async def _window(bench: Bench, peer: Peer, load: int) -> Window:
    await bench.warm(peer)
    return await bench.closed_loop(peer, load, 1 if bench.is_quick and load == FEW else 0)


async def _adults_to_usual(bench: Bench, service: Peer) -> float:
    """The CPU of adults' heartbeats as a multiple of that of the usual viewers'."""
    adults = await seed.viewers(bench.connection, len(bench.viewers), "adults")
    ratios = []
    for number in range(1, bench.scale.rounds + 1):
        bench.progress(f"adults, round {number} of {bench.scale.rounds}")
        await fresh_day(bench.connection)
        usual, grown_up = [await _loaded(bench, service, v) for v in (bench.viewers, adults)]
        ratios.append(grown_up.cpu_us / usual.cpu_us)
    return median(ratios)


async def _loaded(bench: Bench, service: Peer, viewers: list[Viewer]) -> Window:
    """A window after one heartbeat of each viewer, which fills the cache."""
    await bench.each_once(service, viewers)
    return await bench.closed_loop(service, MANY, viewers=viewers)
