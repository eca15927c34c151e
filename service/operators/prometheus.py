"""GET /metrics: the counts of the process, in Prometheus' text format.

The families are built for each scrape from plain numbers, so that counting costs one addition.
"""

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import POOL_WAIT, STATEMENT_TIMES
from service.observing import process_usage
from service.observing.logs import HANDLER
from service.observing.metrics import Histogram
from service.version import VERSION

PREFIX: Final = "viewing_time_"
# The help text and the labels of each family; names get the prefix.
FAMILIES: Final = {
    "heartbeats_total": ("Heartbeats by outcome and verdict.", "outcome", "verdict"),
    "heartbeat_duration_seconds": ("Time from a heartbeat's arrival to its verdict, if counted.",),
    "heartbeat_statements_total": ("Statements run for heartbeats, configuration loads included.",),
    "heartbeats_refused_total": ("Heartbeats answered 4xx, by reason.", "reason"),
    "heartbeat_batch_size": ("Heartbeats written by one statement.",),
    "heartbeat_queue_length": ("Heartbeats that wait for a statement or its result.",),
    "config_cache_lookups_total": ("Lookups in the configuration cache, by result.", "result"),
    "config_cache_invalidations_total": ("Invalidations of one or all entries, by cause.", "cause"),
    "config_cache_evictions_total": ("Configurations in use that others have replaced.",),
    "config_cache_entries": ("Configurations in the cache.",),
    "config_cache_max_entries": ("Maximum number of configurations in the cache.",),
    "token_cache_evictions_total": ("Valid access tokens that left the full token cache.",),
    "token_cache_entries": ("Access tokens in the cache.",),
    "token_cache_max_entries": ("Maximum number of access tokens in the cache.",),
    "weekly_report_duration_seconds": ("Duration of weekly reports.",),
    "weekly_report_statements_total": ("Statements run for weekly reports.",),
    "standby_reads_total": (
        "Reads for a standby by outcome; other than answered: the primary was asked.",
        "outcome",
    ),
    "pin_attempts_total": ("PIN attempts by outcome.", "outcome"),
    "pin_lockouts_total": ("Wrong PINs that locked an account's PIN.",),
    "pin_attempt_duration_seconds": ("Duration of PIN attempts, without the delay to 200 ms.",),
    "pin_hashes_total": ("Hashes computed.",),
    "pin_queue_length": ("Hashes that wait or are being computed.",),
    "pin_worker_restarts_total": ("Restarts of the processes that hash PINs.",),
    "pool_connections": ("Open connections of the pool; heartbeats have their own.", "state"),
    "pool_max_connections": ("Maximum number of connections of the pool.",),
    "pool_wait_duration_seconds": ("Wait for a connection of the pool.",),
    "statement_duration_seconds": ("Duration of statements, by file name in sql/.", "statement"),
    "deletions_total": ("Background deletions by outcome; other than done: retried.", "outcome"),
    "retention_runs_total": ("Scheduled retention runs by outcome.", "outcome"),
    "events_waiting": ("Events by what they wait for; at most 10,000 of each.", "state"),
    "events_oldest_age_seconds": ("Age of the oldest event that waits, without parked ones.",),
    "webhook_deliveries_total": ("Attempts to send a batch of events, by outcome.", "outcome"),
    "webhook_events_parked_total": ("Events that the webhook did not receive within a day.",),
    "event_streams": ("Open streams of events.",),
    "event_streams_ended_total": ("Streams that have ended, by reason.", "reason"),
    "ready": ("1 if the latest readiness check passed, of any cell, else 0.",),
    "cell_ready": ("1 if the latest readiness check of the cell passed, else 0.",),
    "http_requests_total": ("Responses by method, route and status.", "method", "route", "status"),
    "requests_unauthenticated_total": ("Requests answered 401, by reason.", "reason"),
    "failures_total": ("Failed requests and heartbeats by cause; own: a bug here.", "cause"),
    "event_loop_lag_seconds": ("Delay of the event loop, measured 20 times a second.",),
    "event_loop_lag_max_seconds": ("Longest delay of the event loop since start.",),
    "log_lines_dropped_total": ("Log lines dropped because standard output was not read.",),
    "connections": ("Connected clients.",),
    "max_connections": ("Maximum number of connected clients, from the open-file limit.",),
    "connections_refused_total": ("Connections closed at once because of max_connections.",),
    "open_files_exhausted_total": ("Seconds in which no file could be opened.",),
    "build_info": ("Always 1; the labels name the versions.", "version", "python"),
}

# One number or histogram, or one for each value of the label, or for each tuple of label values.
Values: TypeAlias = float | Histogram | Mapping[Any, float | Histogram]


async def metrics(request: Request) -> Response:
    """Returns all metrics, without a token; other tasks of the event loop run between families."""
    blocks = []
    for family in families(request.state.context):
        blocks.append(generate_latest(OneFamily(family)))
        await asyncio.sleep(0)
    return Response(b"".join(blocks), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def families(context: Context) -> Iterator[Metric]:
    """Builds the families one by one; with several cells, those of a cell have the label `cell`."""
    values = _values(context)
    by_cell = {cell.settings.cell: _values_of_cell(cell) for cell in context.every}
    of_cell, is_one = next(iter(by_cell.values())), context.cells is None
    for name, (help_text, *labels) in FAMILIES.items():
        if name not in of_cell:
            yield _family(PREFIX + name, help_text, values[name], labels)
        elif is_one:
            yield _family(PREFIX + name, help_text, of_cell[name], labels)
        else:
            samples = {cell: its[name] for cell, its in by_cell.items()}
            yield _family(PREFIX + name, help_text, _labelled(samples), ["cell", *labels])
    yield from process_usage.usage()


def _labelled(values: Mapping[str, Values]) -> Values:
    """The values of every cell, by the name of the cell and their own labels."""
    return {
        (cell, *((key,) if isinstance(key, str) else key)): value
        for cell, its in values.items()
        for key, value in (its if isinstance(its, Mapping) else {(): its}).items()
    }


def _values(context: Context) -> dict[str, Values]:
    counts, pins = context.metrics, context.pins
    return {
        "heartbeats_total": {
            **{("counted", verdict): count for verdict, count in counts.verdicts.items()},
            ("failed_closed", "blocked"): counts.heartbeats_failed_closed,
            ("refused", "none"): counts.heartbeats_refused,
            ("overloaded", "none"): counts.heartbeats_overloaded,
        },
        "heartbeat_duration_seconds": counts.heartbeats.histogram,
        "heartbeat_statements_total": counts.heartbeat_statements,
        "heartbeats_refused_total": counts.refusals,
        "heartbeat_batch_size": counts.batch_sizes,
        "config_cache_invalidations_total": counts.invalidations,
        "token_cache_evictions_total": context.tokens.evictions,
        "token_cache_entries": len(context.tokens),
        "token_cache_max_entries": context.settings.tokens_max_size,
        "weekly_report_duration_seconds": counts.reports.histogram,
        "weekly_report_statements_total": counts.report_statements,
        "standby_reads_total": counts.standby_reads,
        "pin_attempts_total": counts.pin_attempts,
        "pin_lockouts_total": counts.pin_lockouts,
        "pin_attempt_duration_seconds": counts.pin_seconds,
        "pin_hashes_total": pins.hashed,
        "pin_queue_length": pins.waiting,
        "pin_worker_restarts_total": pins.restarts,
        "pool_wait_duration_seconds": POOL_WAIT,
        "statement_duration_seconds": {
            name: times for name, times in STATEMENT_TIMES.items() if any(times.counts)
        },
        "deletions_total": counts.deletions,
        "retention_runs_total": counts.retention_runs,
        "webhook_deliveries_total": counts.webhook_deliveries,
        "webhook_events_parked_total": counts.webhook_events_parked,
        "ready": int(any(cell.readiness.is_ready for cell in context.every)),
        "http_requests_total": {
            (method, route, str(status)): count
            for (method, route, status), count in counts.requests.items()
        },
        "requests_unauthenticated_total": counts.unauthenticated,
        "failures_total": counts.failures,
        "event_loop_lag_seconds": counts.lag_seconds,
        "event_loop_lag_max_seconds": counts.max_lag_seconds,
        "log_lines_dropped_total": HANDLER.dropped,
        "connections": len(counts.connections.open),
        "max_connections": counts.connections.max,
        "connections_refused_total": counts.connections.refused,
        "open_files_exhausted_total": counts.connections.out_of_files_checks,
        "build_info": {(VERSION, platform.python_version()): 1},
    }


def _values_of_cell(context: Context) -> dict[str, Values]:
    cache, pool = context.configurations, context.pool
    return {
        "heartbeat_queue_length": context.writer.waiting,
        "config_cache_lookups_total": {"hit": cache.hits, "miss": cache.misses},
        "config_cache_evictions_total": cache.evictions,
        "config_cache_entries": cache.size,
        "config_cache_max_entries": context.settings.config_cache_max_size,
        "pool_connections": {
            "in_use": pool.get_size() - pool.get_idle_size(),
            "idle": pool.get_idle_size(),
        },
        "pool_max_connections": pool.get_max_size(),
        "events_waiting": context.backlog.waiting,
        "events_oldest_age_seconds": context.backlog.oldest_seconds,
        "event_streams": len(context.streams),
        "event_streams_ended_total": context.streams.ended,
        "cell_ready": int(context.readiness.is_ready),
    }


def _family(name: str, help_text: str, values: Values, labels: Iterable[str] = ()) -> Metric:
    """A family of samples: histograms, counters if the name ends in `_total`, else gauges."""
    samples = values if isinstance(values, Mapping) else {(): values}
    family: HistogramMetricFamily | CounterMetricFamily | GaugeMetricFamily
    if any(isinstance(value, Histogram) for value in samples.values()):
        family = HistogramMetricFamily(name, help_text, labels=[*labels])
    elif name.endswith("_total"):
        family = CounterMetricFamily(name, help_text, labels=[*labels])
    else:
        family = GaugeMetricFamily(name, help_text, labels=[*labels])
    add: Callable[..., None] = family.add_metric
    for key, value in samples.items():
        numbers = (_buckets(value), value.sum) if isinstance(value, Histogram) else (value,)
        add((key,) if isinstance(key, str) else key, *numbers)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Each bound as Prometheus writes it, and the number of values up to it."""
    bounds = map(floatToGoString, (*histogram.bounds, float("inf")))
    return list(zip(bounds, histogram.cumulative(), strict=True))


class OneFamily(Collector):
    """A registry of one family, for `generate_latest`."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)
