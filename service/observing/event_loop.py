"""The service watches its own event loop, and reports what is too much for a line each."""

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

logger = logging.getLogger("viewing_time.pulse")

TICK_SECONDS: Final = 0.05
TELL_SECONDS: Final = 1.0
# A line where so much of the connections is in use, and not again before it was less than FEW.
MANY, FEW = 0.8, 0.7


@asynccontextmanager
async def pulse(metrics: Metrics) -> AsyncIterator[None]:
    """Watches until the block ends."""
    tasks: list[Task[None]] = [
        supervised("event loop watch", _tick(metrics)),
        supervised("reporter", _tell(metrics)),
        supervised("connection watch", _watch(metrics.connections)),
    ]
    try:
        yield
    finally:
        await stopped(*tasks)


async def _tick(metrics: Metrics) -> None:
    """How late the event loop comes to a timer is how long something else held it."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        lag = max(0.0, loop.time() - due)
        metrics.lag_seconds.add(lag)
        metrics.lag_most = max(metrics.lag_most, lag)


async def _tell(metrics: Metrics) -> None:
    """Reports refused heartbeats once a second: a line for each costs most when there are most."""
    report = Report(metrics)
    try:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            report.tell()
    finally:
        report.tell()


class Report:
    """What was refused since the last report."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._overloaded = 0
        self._refusals: Counter[str] = Counter()

    def tell(self) -> None:
        """Logs a line for each kind of refusal that there was."""
        metrics = self._metrics
        if more := metrics.heartbeats_overloaded - self._overloaded:
            self._overloaded += more
            logger.error("heartbeats_sent_away", extra={"fields": {"heartbeats": more}})
        if reasons := metrics.refusals - self._refusals:
            self._refusals += reasons
            sample, metrics.refused_beat = metrics.refused_beat, {}
            fields = {"heartbeats": reasons.total(), "reasons": dict(reasons), "sample": sample}
            logger.info("heartbeats_refused", extra={"fields": fields})


async def _watch(connections: Connections) -> None:
    """Looks once a second whether more clients can connect, and logs why not."""
    told, is_told = 0, False
    while True:
        await asyncio.sleep(TELL_SECONDS)
        number = {"open": len(connections.open), "max": connections.max}
        if connections.refused > told:
            fields = {"connections": connections.refused - told, **number}
            told = connections.refused
            logger.error("connections_refused", extra={"fields": fields})
        connections.is_out_of_files = open_files.are_exhausted()
        if connections.is_out_of_files:
            connections.looks_out_of_files += 1
            logger.error("open_files_exhausted", extra={"fields": number})
        share = number["open"] / number["max"]
        if share >= MANY and not is_told:
            logger.warning("connections_many", extra={"fields": number})
        is_told = share >= (FEW if is_told else MANY)
