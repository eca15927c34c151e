"""GET /metrics: what the process counted, in Prometheus' text format.

The families are made for each scrape from the plain numbers, so that counting costs an addition.
"""

import asyncio
import platform

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import POOL_WAIT, STATEMENT_TIMES
from service.observing import process_usage
from service.observing.logs import LINES
from service.operators.exposition import Exposition
from service.version import VERSION


async def metrics(request: Request) -> Response:
    """GET /metrics: for Prometheus, without a token.

    Written family by family, with a turn for the event loop after each.
    """
    blocks = []
    for block in _exposition(request.state.context).blocks():
        blocks.append(block)
        await asyncio.sleep(0)
    return Response(b"".join(blocks), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _exposition(context: Context) -> Exposition:
    exposition = Exposition()
    for part in (_heartbeats, _cache, _reports, _pins, _database, _requests, _process):
        part(exposition, context)
    return exposition


def _heartbeats(exposition: Exposition, context: Context) -> None:
    counts = context.metrics
    exposition.table(
        "heartbeats_total",
        "Heartbeats by what became of them and what the player was told.",
        ("outcome", "verdict"),
        {
            **{("counted", verdict): count for verdict, count in counts.verdicts.items()},
            ("failed_closed", "blocked"): counts.heartbeats_failed_closed,
            ("refused", "none"): counts.heartbeats_refused,
            ("overloaded", "none"): counts.heartbeats_overloaded,
        },
    )
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
    exposition.counters(
        "heartbeats_refused_total",
        "Heartbeats refused, by reason; those for load left out.",
        "reason",
        counts.refusals,
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
    exposition.gauges(
        "pool_connections",
        "Open connections of the pool; heartbeats have their own.",
        "state",
        {"in_use": size - idle, "idle": idle},
    )
    exposition.gauge(
        "pool_max_connections", "How many the pool may open.", context.pool.get_max_size()
    )
    exposition.histogram(
        "pool_wait_duration_seconds", "How long a connection of the pool was waited for.", POOL_WAIT
    )
    exposition.histograms(
        "statement_duration_seconds",
        "How long statements took, by the name of their file in sql/.",
        "statement",
        {name: times for name, times in STATEMENT_TIMES.items() if any(times.counts)},
    )
    exposition.counters(
        "deletions_total",
        "Deletions in the background by outcome; one that is refused or fails is tried again.",
        "outcome",
        context.metrics.deletions,
    )
    exposition.counters(
        "retention_runs_total",
        "Scheduled runs of retention by outcome.",
        "outcome",
        context.metrics.retention_runs,
    )
    exposition.gauge(
        "ready",
        "Whether the instance was ready for requests at the latest look.",
        int(context.metrics.ready),
    )


def _requests(exposition: Exposition, context: Context) -> None:
    exposition.table(
        "http_requests_total",
        "Requests answered, by method, route and status.",
        ("method", "route", "status"),
        {
            (method, route, str(status)): count
            for (method, route, status), count in context.metrics.requests.items()
        },
    )
    exposition.counters(
        "requests_unauthenticated_total",
        "Requests answered 401, by reason.",
        "reason",
        context.metrics.unauthenticated,
    )
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
    connections = counts.connections
    exposition.gauge("connections", "Clients that are connected.", len(connections.open))
    exposition.gauge(
        "max_connections",
        "How many clients can be connected, by the limit of open files.",
        connections.max,
    )
    exposition.counter(
        "connections_refused_total",
        "Connections closed at once, because as many clients as can be are connected.",
        connections.refused,
    )
    exposition.counter(
        "open_files_exhausted_total",
        "Looks, one a second, at which no more file could be opened.",
        connections.looks_out_of_files,
    )
    exposition.gauge(
        "build_info",
        "Always 1; the labels say what runs.",
        1,
        {"version": VERSION, "python": platform.python_version()},
    )
    for used in process_usage.usage():
        exposition.plain(used.is_counter, used.name, used.doc, used.value)
