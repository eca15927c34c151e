"""Measures the cost of metrics: counting a heartbeat, and a scrape."""

import asyncio
from statistics import median
from time import monotonic, perf_counter
from types import SimpleNamespace
from typing import Any, Final
from urllib.request import urlopen
from uuid import uuid4

from bench.figure import Figure, Target
from bench.harness import Bench
from bench.peer import Peer
from service.observing.metrics import Metrics
from service.observing.trace import CURRENT, Trace, count_statement
from service.players import beats, heartbeat_body

RECORDINGS: Final = 20_000
ROUNDS: Final = 9
SCRAPES: Final = 20


async def measure(bench: Bench) -> list[Figure]:
    bench.progress("counting one heartbeat")
    counting = min(_counting() for _ in range(ROUNDS))
    bench.progress("scrapes")
    async with bench.service() as service:
        await bench.each_once(service, bench.viewers)
        scrapes = [await asyncio.to_thread(_scrape, service) for _ in range(SCRAPES)]
    milliseconds = median(seconds for seconds, _ in scrapes) * 1000
    return [
        Figure("counting one heartbeat", counting * 1e6, "µs", Target(3)),
        Figure("one scrape", milliseconds, "ms", Target(10)),
        Figure("time series of a service", scrapes[-1][1]),
    ]


def _counting() -> float:
    """Seconds of tracing and counting for each heartbeat."""
    metrics, route = Metrics(), ("POST", "/api/v1/viewing-time/heartbeat", 200)
    settings = SimpleNamespace(heartbeat_log_sample=RECORDINGS + 1)
    context: Any = SimpleNamespace(metrics=metrics, settings=settings)
    verdict = heartbeat_body.Verdict(uuid4(), "allowed", 60.0, 60.0, False)
    started_at = perf_counter()
    for _ in range(RECORDINGS):
        trace = Trace()
        CURRENT.set(trace)
        count_statement()
        ended_at = monotonic()
        beats.is_logged(context, verdict, ended_at, ended_at - trace.begun)
        metrics.requests[route] += 1
    return (perf_counter() - started_at) / RECORDINGS


def _scrape(service: Peer) -> tuple[float, int]:
    """The seconds that a scrape took, and the number of its samples."""
    started_at = perf_counter()
    with urlopen(f"http://127.0.0.1:{service.port}/metrics") as response:
        lines: list[bytes] = response.read().splitlines()
    return perf_counter() - started_at, sum(not line.startswith(b"#") for line in lines)
