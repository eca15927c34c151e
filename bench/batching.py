"""Compares numbers of heartbeat connections and sizes of batches.

Runs only by name, because it takes ten minutes. In each round every combination is started and
loaded in turn; a figure is the median of the rounds.
"""

from collections import defaultdict
from itertools import product
from statistics import median
from typing import Final

from bench import seed
from bench.figure import Figure
from bench.harness import Bench, Window

CONNECTIONS: Final = (1, 2, 3, 4)
LARGEST: Final = (64, 128, 256, 512)
LOADS: Final = (1000, 64)


async def measure(bench: Bench) -> list[Figure]:
    windows: dict[tuple[int, int, int], list[Window]] = defaultdict(list)
    for number in range(1, (1 if bench.is_quick else bench.scale.rounds) + 1):
        for connections, largest in product(CONNECTIONS, LARGEST):
            bench.progress(f"round {number}, {connections} connections, batches of {largest}")
            await seed.fresh_day(bench.connection)
            variables = {
                "HEARTBEAT_CONNECTIONS": str(connections),
                "HEARTBEAT_BATCH_MAX": str(largest),
            }
            async with bench.service(f"{connections} of {largest}", variables) as service:
                await bench.warm(service)
                for load in LOADS:
                    window = await bench.closed_loop(service, load)
                    windows[load, connections, largest].append(window)
    return [
        figure
        for load, connections, largest in product(LOADS, CONNECTIONS, LARGEST)
        for figure in _figures(
            f"{load:,} in flight, {connections} connections, batches of {largest}",
            windows[load, connections, largest],
        )
    ]


def _figures(name: str, windows: list[Window]) -> list[Figure]:
    spent = median(window.cpu_us for window in windows)
    return [
        Figure(f"{name}: heartbeats", median(each.per_second for each in windows), "/s"),
        Figure(f"{name}: p95", median(each.outcome.p95_ms for each in windows), "ms"),
        Figure(f"{name}: CPU of service and PostgreSQL", spent, "µs"),
    ]
