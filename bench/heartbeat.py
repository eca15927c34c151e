"""What does a heartbeat cost, against a server that does nothing, and against batches of one?

All three run side by side and are loaded in turn, round by round. A figure is the median of the
rounds; a ratio is the median of each round's own ratio.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Final

import msgspec

from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.peer import Peer
from bench.seed import fresh_day

# One statement for each heartbeat, on as many connections as the pool would have.
ONE_BY_ONE: Final = {"HEARTBEAT_BATCH_MAX": "1", "HEARTBEAT_CONNECTIONS": "8"}
FEW: Final = 64
MANY: Final = 1000
HOT: Final = """
select sum(n_tup_hot_upd)::float8 as hot, sum(n_tup_upd)::float8 as updated
from pg_stat_user_tables
where relname in ('viewing_sessions', 'viewing_time_balances')
"""


class Round(msgspec.Struct, frozen=True):
    """A window of each peer under one load."""

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
    ("PostgreSQL CPU, batches of one", "µs", lambda r: r.single.postgres_us),
    (
        "PostgreSQL CPU, to batches of one",
        "x",
        lambda r: r.service.postgres_us / r.single.postgres_us,
    ),
)
TARGETS: Final = {
    (MANY, "rate, to the echo's"): Target(0.7, 1.0, at_least=True),
    (MANY, "p95"): Target(200, 100),
    (MANY, "PostgreSQL CPU, to batches of one"): Target(0.2, 0.1),
    (FEW, "service CPU, to the echo's"): Target(1.5, 1.2),
}


async def measure(bench: Bench) -> list[Figure]:
    before = await bench.connection.fetchrow(HOT)
    rounds = await _rounds(bench)
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
        )
        for load in (MANY, FEW)
        for name, unit, reading in READINGS
    ]
    return [*figures, Figure("HOT share of all updates", hot, "", Target(0.9, at_least=True))]


async def _rounds(bench: Bench) -> dict[int, list[Round]]:
    rounds: dict[int, list[Round]] = {FEW: [], MANY: []}
    async with AsyncExitStack() as running:
        echo = await running.enter_async_context(bench.echo())
        service = await running.enter_async_context(bench.service())
        single = await running.enter_async_context(bench.service("one by one", **ONE_BY_ONE))
        for number in range(1, bench.scale.rounds + 1):
            for load in (FEW, MANY):
                bench.progress(f"{load:,} in flight, round {number} of {bench.scale.rounds}")
                await fresh_day(bench.connection)
                windows = [await _window(bench, peer, load) for peer in (echo, service, single)]
                rounds[load].append(Round(*windows))
    return rounds


async def _window(bench: Bench, peer: Peer, load: int) -> Window:
    await bench.warm(peer)
    return await bench.closed(peer, load, seconds=1 if bench.quick and load == FEW else 0)
