"""Measures event-loop lag, and logs frequent events together once a second."""

import asyncio
import logging
from asyncio import Task
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from service.observing import open_files
from service.observing.metrics import Connections, Metrics
from service.observing.supervision import stopped, supervised

logger = logging.getLogger("viewing_time.event_loop")

LAG_INTERVAL_SECONDS: Final = 0.05
REPORT_SECONDS: Final = 1.0
# Log a line at the first share of used connections, and again after it fell below the second.
MANY, FEW = 0.8, 0.7


@asynccontextmanager
async def monitoring(metrics: Metrics) -> AsyncIterator[None]:
    """Measures and reports until the block ends."""
    tasks: list[Task[None]] = [
        supervised("event loop watch", _measure_lag(metrics)),
        supervised("reporter", _report_heartbeats(metrics)),
        supervised("connection watch", _watch_connections(metrics.connections)),
    ]
    try:
        yield
    finally:
        await stopped(*tasks)


async def _measure_lag(metrics: Metrics) -> None:
    """Measures how late timers fire, because something else has blocked the event loop."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_SECONDS
        await asyncio.sleep(LAG_INTERVAL_SECONDS)
        lag = max(0.0, loop.time() - due)
        metrics.lag_seconds.add(lag)
        metrics.max_lag_seconds = max(metrics.max_lag_seconds, lag)


async def _report_heartbeats(metrics: Metrics) -> None:
    """Logs rejected heartbeats once a second: a line for each would cost most under overload."""
    shed, refusals = 0, Counter[str]()

    def report() -> None:
        nonlocal shed
        if count := metrics.heartbeats_overloaded - shed:
            shed += count
            logger.error("heartbeats_shed", extra={"fields": {"heartbeats": count}})
        if reasons := metrics.refusals - refusals:
            refusals.update(reasons)
            sample, metrics.refused_sample = metrics.refused_sample, {}
            fields = {"heartbeats": reasons.total(), "reasons": dict(reasons), "sample": sample}
            logger.info("heartbeats_refused", extra={"fields": fields})

    try:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            report()
    finally:
        report()


async def _watch_connections(connections: Connections) -> None:
    """Checks once a second whether more clients can connect, and logs why not."""
    refused, is_logged = 0, False
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        count = {"open": len(connections.open), "max": connections.max}
        if new := connections.refused - refused:
            refused += new
            logger.error("connections_refused", extra={"fields": {"connections": new, **count}})
        connections.is_out_of_files = open_files.are_exhausted()
        if connections.is_out_of_files:
            connections.out_of_files_checks += 1
            logger.error("open_files_exhausted", extra={"fields": count})
        share = count["open"] / count["max"]
        if share >= MANY and not is_logged:
            logger.warning("connections_many", extra={"fields": count})
        is_logged = share >= (FEW if is_logged else MANY)
