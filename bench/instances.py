"""Measures one, two and four instances on one database, under the same load.

Each is a process of its own, as on a machine of its own. Heartbeats of different instances do not
share a statement, so with more instances a heartbeat costs more CPU, and each instance has its own
connections. All share this machine: it shows these costs, and not how many heartbeats a second more
machines would answer.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Final, NamedTuple

from bench.figure import Figure
from bench.harness import ROLE, Bench, Window
from bench.peer import Peer
from bench.seed import fresh_day

INSTANCES: Final = (1, 2, 4)
RATES: Final = (1_000, 0)  # heartbeats a second; 0: as many as are answered
IN_FLIGHT: Final = 256
ROUNDS: Final = 3
SECONDS: Final = 2.0
WARM_SECONDS: Final = 1.0
OPEN: Final = f"select count(*) from pg_stat_activity where usename = '{ROLE}'"


class Result(NamedTuple):
    window: Window
    connections: int  # of all instances to the database


READINGS: Final[Sequence[tuple[str, str, Callable[[Result], float]]]] = (
    ("service CPU", "µs", lambda result: result.window.server_us),
    ("PostgreSQL CPU", "µs", lambda result: result.window.postgres_us),
    ("heartbeats in a statement", "", lambda result: 1 / result.window.statements),
    ("open connections", "", lambda result: result.connections),
    ("p99 of the slowest", "ms", lambda result: result.window.outcome.p99_ms),
)


async def measure(bench: Bench) -> list[Figure]:
    results: dict[tuple[int, int], list[Result]] = {}
    for turn in range(1, ROUNDS + 1):
        async with AsyncExitStack() as running:
            peers: list[Peer] = []
            for number in INSTANCES:
                bench.progress(f"{number} instances, round {turn}")
                started = (
                    running.enter_async_context(bench.service(f"instances: {number}"))
                    for _ in range(number - len(peers))
                )
                peers += await asyncio.gather(*started)
                await fresh_day(bench.connection)
                await bench.divided(peers, IN_FLIGHT, WARM_SECONDS)  # fills the caches
                for rate in RATES:
                    window = await bench.divided(peers, IN_FLIGHT, SECONDS, rate)
                    connections = await bench.connection.fetchval(OPEN)
                    results.setdefault((rate, number), []).append(Result(window, connections))
    return [
        Figure(f"{_name(rate, number)}: {reading}", median(map(read, results[rate, number])), unit)
        for rate in RATES
        for number in INSTANCES
        for reading, unit, read in READINGS
    ]


def _name(rate: int, number: int) -> str:
    load = f"{rate:,}/s" if rate else f"{IN_FLIGHT} in flight"
    return f"{load}, {number} instance{'s' if number > 1 else ''}"
