"""GET /metrics: what the process counted, in Prometheus' text format.

The collectors are made for each scrape from the plain numbers, so that counting costs an addition.
They escape nothing in a label's value: only routes, outcomes, causes and names of files stand
there, never what a client sent.
"""

import asyncio
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any, Final

from aioprometheus.collectors import Collector, Counter, Gauge, Registry
from aioprometheus.collectors import Histogram as Distribution
from aioprometheus.formats.text import TEXT_CONTENT_TYPE, TextFormatter
from starlette.requests import Request
from starlette.responses import Response

from service import process
from service.context import Context
from service.database import POOL_WAIT, STATEMENT_TIMES
from service.logs import LINES
from service.metrics import Histogram

Labels = dict[str, str]
PREFIX: Final = "viewing_time_"
FORMATTER: Final = TextFormatter()


class _Filled(Distribution):
    """A histogram whose values have been counted before, by label."""

    def __init__(
        self, registry: Registry, name: str, doc: str, label: str, counted: Mapping[str, Histogram]
    ) -> None:
        super().__init__(PREFIX + name, doc, registry=registry)
        self._label = label
        self._counted = counted

    def get_all(self) -> list[tuple[Labels, Any]]:
        return [
            ({self._label: value} if value else {}, _cumulative(histogram))
            for value, histogram in self._counted.items()
        ]


def _cumulative(histogram: Histogram) -> dict[float | str, float]:
    totals = list(histogram.cumulative())
    bounds = (*map(float, histogram.bounds), float("inf"))
    return {
        **dict(zip(bounds, totals, strict=True)),
        "count": totals[-1],
        "sum": histogram.sum,
    }


class Exposition:
    """One scrape: a registry, and the shorter ways to put numbers into it."""

    def __init__(self) -> None:
        self.registry = Registry()

    def counter(self, name: str, doc: str, value: float) -> None:
        Counter(PREFIX + name, doc, registry=self.registry).set({}, value)

    def counters(self, name: str, doc: str, label: str, values: Mapping[str, float]) -> None:
        counter = Counter(PREFIX + name, doc, registry=self.registry)
        for value, count in values.items():
            counter.set({label: value}, count)

    def gauge(self, name: str, doc: str, value: float, labels: Labels | None = None) -> None:
        Gauge(PREFIX + name, doc, registry=self.registry).set(labels or {}, value)

    def histogram(self, name: str, doc: str, counted: Histogram) -> None:
        _Filled(self.registry, name, doc, "", {"": counted})


async def metrics(request: Request) -> Response:
    """GET /metrics: for Prometheus, without a token.

    Written piece by piece, with a turn for the event loop after each.
    """
    blocks = []
    for collector in _collectors(request.state.context):
        blocks.append(FORMATTER.marshall_collector(collector))
        await asyncio.sleep(0)
    return Response("\n".join([*blocks, ""]), media_type=TEXT_CONTENT_TYPE)


def _collectors(context: Context) -> Sequence[Collector]:
    exposition = Exposition()
    for part in (_heartbeats, _cache, _reports, _pins, _database, _requests, _process):
        part(exposition, context)
    return exposition.registry.get_all()


def _heartbeats(exposition: Exposition, context: Context) -> None:
    counts = context.metrics
    beats = Counter(
        "viewing_time_heartbeats_total",
        "Heartbeats by what became of them and what the player was told.",
        registry=exposition.registry,
    )
    for verdict, count in counts.verdicts.items():
        beats.set({"outcome": "counted", "verdict": verdict}, count)
    beats.set({"outcome": "failed_closed", "verdict": "blocked"}, counts.heartbeats_failed_closed)
    beats.set({"outcome": "refused", "verdict": "none"}, counts.heartbeats_refused)
    beats.set({"outcome": "overloaded", "verdict": "none"}, counts.heartbeats_overloaded)
    exposition.histogram(
        "heartbeat_duration_seconds",
        "From a heartbeat's arrival to its verdict, refused ones left out.",
        counts.heartbeats.histogram,
    )
    exposition.counter(
        "heartbeat_statements_total",
        "Statements that heartbeats have cost, loads of configurations among them.",
        counts.heartbeat_statements,
    )
    exposition.histogram(
        "heartbeat_batch_size", "Heartbeats written by one statement.", counts.batch_sizes
    )
    exposition.gauge(
        "heartbeat_queue_length",
        "Heartbeats that wait for their row, those in a statement among them.",
        context.writer.waiting,
    )


def _cache(exposition: Exposition, context: Context) -> None:
    configurations = context.configurations
    exposition.counters(
        "config_cache_lookups_total",
        "Lookups of configurations in memory by result.",
        "result",
        {"hit": configurations.hits, "miss": configurations.misses},
    )
    exposition.counters(
        "config_cache_invalidations_total",
        "Configurations forgotten, one or all, by cause.",
        "cause",
        context.metrics.invalidations,
    )
    exposition.gauge("config_cache_entries", "Configurations in memory.", configurations.size)
    exposition.gauge(
        "config_cache_max_entries",
        "How many configurations the memory may hold.",
        context.settings.config_cache_max_size,
    )


def _reports(exposition: Exposition, context: Context) -> None:
    exposition.histogram(
        "weekly_report_duration_seconds",
        "How long weekly reports took; their number is its count.",
        context.metrics.reports.histogram,
    )
    exposition.counter(
        "weekly_report_statements_total",
        "Statements that weekly reports have cost.",
        context.metrics.report_statements,
    )


def _pins(exposition: Exposition, context: Context) -> None:
    exposition.counters(
        "pin_attempts_total",
        "Attempts at a PIN by outcome.",
        "outcome",
        context.metrics.pin_attempts,
    )
    exposition.counter(
        "pin_lockouts_total", "Wrong PINs that locked the PIN.", context.metrics.pin_lockouts
    )
    exposition.histogram(
        "pin_attempt_duration_seconds",
        "How long attempts at a PIN took, without the delay that hides it from guessers.",
        context.metrics.pin_seconds,
    )
    exposition.counter("pin_hashes_total", "Hashes computed.", context.pins.hashed)
    exposition.gauge("pin_queue_length", "PINs waiting or at work.", context.pins.waiting)
    exposition.counter(
        "pin_worker_restarts_total", "Times lost workers were replaced.", context.pins.restarts
    )


def _database(exposition: Exposition, context: Context) -> None:
    size, idle = context.pool.get_size(), context.pool.get_idle_size()
    connections = Gauge(
        "viewing_time_pool_connections",
        "Open connections of the pool; heartbeats have their own.",
        registry=exposition.registry,
    )
    connections.set({"state": "in_use"}, size - idle)
    connections.set({"state": "idle"}, idle)
    exposition.gauge(
        "pool_max_connections", "How many the pool may open.", context.pool.get_max_size()
    )
    exposition.histogram(
        "pool_wait_duration_seconds", "How long a connection of the pool was waited for.", POOL_WAIT
    )
    _Filled(
        exposition.registry,
        "statement_duration_seconds",
        "How long statements took, by the name of their file in sql/.",
        "statement",
        {name: times for name, times in STATEMENT_TIMES.items() if any(times.counts)},
    )
    exposition.gauge(
        "ready", "Whether the database answered when last asked.", int(context.metrics.ready)
    )


def _requests(exposition: Exposition, context: Context) -> None:
    requests = Counter(
        "viewing_time_http_requests_total",
        "Requests answered, by method, route and status.",
        registry=exposition.registry,
    )
    for (method, route, status), count in context.metrics.requests.items():
        requests.set({"method": method, "route": route, "status": str(status)}, count)
    exposition.counters(
        "failures_total",
        "Requests and heartbeats that failed, by cause; own: a bug of the service.",
        "cause",
        context.metrics.failures,
    )


def _process(exposition: Exposition, context: Context) -> None:
    counts = context.metrics
    exposition.histogram(
        "event_loop_lag_seconds",
        "How late the event loop came to a timer, asked 20 times a second.",
        counts.lag_seconds,
    )
    exposition.gauge("event_loop_lag_max_seconds", "The most of it since start.", counts.lag_most)
    exposition.counter(
        "log_lines_dropped_total", "Log lines that nobody was ready to read.", LINES.dropped
    )
    exposition.gauge(
        "build_info",
        "Always 1; the labels say what runs.",
        1,
        {"version": _version(), "python": platform.python_version()},
    )
    for used in process.usage():
        kind = Counter if used.is_counter else Gauge
        kind(used.name, used.doc, registry=exposition.registry).set({}, used.value)


@cache
def _version() -> str:
    try:
        return metadata.version("viewing-time")
    except metadata.PackageNotFoundError:
        return "unknown"
