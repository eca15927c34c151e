"""Measures one instance of one, two and four processes, under the same load.

Heartbeats of different processes do not share a statement, so with more processes each statement
has fewer heartbeats, and a heartbeat costs more CPU. The service, PostgreSQL and the client share
this machine: it shows these costs, and not how many heartbeats a second more cores would answer.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from statistics import median
from typing import Final

from bench.figure import Figure
from bench.harness import Bench, Window
from bench.peer import Peer
from bench.seed import fresh_day

PROCESSES: Final = (1, 2, 4)
RATES: Final = (0, 250, 1_000)  # heartbeats a second; 0: as many as are answered
CONNECTIONS: Final = 256
SECONDS: Final = 2.0
WARM_WINDOWS: Final = 2
VARIABLES: Final[Mapping[str, str]] = {
    "POOL_MIN_SIZE": "1",
    "POOL_MAX_SIZE": "2",  # seven processes share a PostgreSQL of default size
    "CONFIG_CACHE_TTL_SECONDS": "3600",  # each process has all configurations
}
READINGS: Final[tuple[tuple[str, str, Callable[[Window], float]], ...]] = (
    ("service CPU", "µs", lambda window: window.server_us),
    ("PostgreSQL CPU", "µs", lambda window: window.postgres_us),
    ("statements per heartbeat", "", lambda window: window.statements),
    ("heartbeats in a statement", "", lambda window: 1 / window.statements),
    ("p99", "ms", lambda window: window.outcome.p99_ms),
)


async def measure(bench: Bench) -> list[Figure]:
    windows: dict[tuple[int, int], list[Window]] = {}
    async with AsyncExitStack() as running:
        peers = {
            number: await running.enter_async_context(_service(bench, number))
            for number in PROCESSES
        }
        for number, peer in peers.items():
            bench.progress(f"filling the caches of {number}")
            for _ in range(WARM_WINDOWS):
                await _window(bench, peer, 0)
        for turn in range(1, bench.scale.rounds + 1):
            for rate in RATES:
                await fresh_day(bench.connection)
                for number, peer in peers.items():
                    bench.progress(f"{_load(rate)}, {number}, round {turn}")
                    windows.setdefault((rate, number), []).append(await _window(bench, peer, rate))
    return [
        figure
        for (rate, number), found in windows.items()
        for figure in _figures(rate, number, found)
    ]


def _service(bench: Bench, number: int) -> AbstractAsyncContextManager[Peer]:
    return bench.service(f"processes: {number}", {**VARIABLES, "WEB_CONCURRENCY": str(number)})


async def _window(bench: Bench, peer: Peer, rate: int) -> Window:
    if rate:
        return await bench.open_loop(peer, bench.viewers, CONNECTIONS, rate, SECONDS)
    return await bench.closed_loop(peer, CONNECTIONS, SECONDS)


def _load(rate: int) -> str:
    return f"{rate:,}/s" if rate else "most"


def _figures(rate: int, number: int, windows: Sequence[Window]) -> list[Figure]:
    name = f"{_load(rate)}, {number} process{'es' if number > 1 else ''}"
    figures = [
        Figure(f"{name}: {reading}", median(map(read, windows)), unit)
        for reading, unit, read in READINGS
    ]
    if not rate:
        rates = median(window.per_second for window in windows)
        figures.insert(0, Figure(f"{name}: rate", rates, "/s", is_rate=True))
    return figures
