"""What the service counted, for administrators."""

from socket import gethostname
from time import monotonic
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.http import auth
from service.http.body_and_reply import reply
from service.http.fields import doc


class HeartbeatCounts(msgspec.Struct, frozen=True):
    """Heartbeats since start, in milliseconds from the request to its answer.

    The quantiles are of the last 5 minutes, or the last 10,000 heartbeats.
    """

    total_processed: Annotated[int, doc("Heartbeats answered.", 120000)]
    avg_db_ops_per_heartbeat: Annotated[float, doc("Statements per heartbeat.", 0.0312)]
    avg_duration_ms: Annotated[float, doc("Mean since start.", 2.417)]
    max_duration_ms: Annotated[float, doc("Longest since start.", 48.02)]
    p95_duration_ms: Annotated[float, doc("95th percentile.", 4.203)]
    p50_duration_ms: Annotated[float, doc("Median.", 1.902)]
    total_db_ops: Annotated[int, doc("Statements run for heartbeats.", 3744)]
    total_refused: Annotated[int, doc("Heartbeats rejected for a client error or for load.", 25)]
    total_failed_closed: Annotated[
        int, doc("Heartbeats answered `blocked` because they could not be counted.", 0)
    ]
    queue_length: Annotated[int, doc("Heartbeats waiting to be written.", 3)]


class CacheCounts(msgspec.Struct, frozen=True):
    """Lookups of configurations in memory since start."""

    hit_rate: Annotated[float, doc("Share of lookups answered from memory, 0 to 1.", 0.9871)]
    total_hits: Annotated[int, doc("Lookups answered from memory.", 118452)]
    total_misses: Annotated[int, doc("Lookups that queried the database.", 1548)]
    total_invalidations: Annotated[int, doc("Configurations removed after a change.", 17)]
    current_size: Annotated[int, doc("Configurations in memory.", 1000)]
    max_size: Annotated[int, doc("Configurations kept at most.", 10000)]


class ReportCounts(msgspec.Struct, frozen=True):
    """Weekly reports since start."""

    total_generated: Annotated[int, doc("Reports answered.", 310)]
    avg_db_ops_per_report: Annotated[float, doc("Statements per report.", 1.0)]
    p95_duration_ms: Annotated[float, doc("95th percentile, in milliseconds.", 4.203)]


class PinCounts(msgspec.Struct, frozen=True):
    """Attempts at a PIN by what came of them, and the queue before the workers."""

    total_attempts: Annotated[
        dict[str, int], doc("PIN attempts by outcome.", {"right": 40, "wrong": 2})
    ]
    total_hashed: Annotated[int, doc("PINs and passwords hashed or checked.", 42)]
    waiting: Annotated[int, doc("PINs and passwords waiting for a worker.", 0)]
    worker_restarts: Annotated[int, doc("Workers replaced because they died.", 0)]


class PoolCounts(msgspec.Struct, frozen=True):
    """Connections to the database besides those of the heartbeats."""

    in_use: Annotated[int, doc("Connections in use.", 1)]
    current_size: Annotated[int, doc("Open connections.", 5)]
    max_size: Annotated[int, doc("Connections opened at most.", 20)]


class Counts(msgspec.Struct, frozen=True):
    """The counts of one process: behind a balancer, the next answer may be another's."""

    instance: Annotated[
        str, doc("The process: host, port and an id made at its start.", "vt-1:8000/3f9a0c21")
    ]
    uptime_seconds: Annotated[float, doc("Seconds since start.", 86400.5)]
    heartbeat: HeartbeatCounts
    config_cache: CacheCounts
    weekly_report: ReportCounts
    pin: PinCounts
    pool: PoolCounts


async def admin_metrics(request: Request) -> Response:
    """GET /admin/metrics: counts since start; durations in milliseconds, p95 of the latest."""
    context: Context = request.state.context
    await auth.admin(request)
    return reply(
        Counts(
            instance=f"{gethostname()}:{context.settings.port}/{context.metrics.instance}",
            uptime_seconds=round(monotonic() - context.metrics.started, 3),
            heartbeat=_heartbeats(context),
            config_cache=_cache(context),
            weekly_report=_reports(context),
            pin=_pins(context),
            pool=_pool(context),
        )
    )


def _heartbeats(context: Context) -> HeartbeatCounts:
    metrics = context.metrics
    beats = metrics.heartbeats
    p50, p95 = beats.quantiles_ms(50, 95)
    return HeartbeatCounts(
        total_processed=beats.count,
        avg_db_ops_per_heartbeat=_ratio(metrics.heartbeat_statements, metrics.heartbeats_taken),
        avg_duration_ms=round(beats.mean_ms, 3),
        max_duration_ms=round(beats.max_ms, 3),
        p95_duration_ms=round(p95, 3),
        p50_duration_ms=round(p50, 3),
        total_db_ops=metrics.heartbeat_statements,
        total_refused=metrics.heartbeats_refused + metrics.heartbeats_overloaded,
        total_failed_closed=metrics.heartbeats_failed_closed,
        queue_length=context.writer.waiting,
    )


def _cache(context: Context) -> CacheCounts:
    configurations = context.configurations
    return CacheCounts(
        hit_rate=_ratio(configurations.hits, configurations.hits + configurations.misses),
        total_hits=configurations.hits,
        total_misses=configurations.misses,
        total_invalidations=context.metrics.invalidations.total(),
        current_size=configurations.size,
        max_size=context.settings.config_cache_max_size,
    )


def _reports(context: Context) -> ReportCounts:
    reports = context.metrics.reports
    [p95] = reports.quantiles_ms(95)
    per_report = _ratio(context.metrics.report_statements, reports.count)
    return ReportCounts(reports.count, per_report, round(p95, 3))


def _pins(context: Context) -> PinCounts:
    pins = context.pins
    return PinCounts(context.metrics.pin_attempts, pins.hashed, pins.waiting, pins.restarts)


def _pool(context: Context) -> PoolCounts:
    size = context.pool.get_size()
    in_use = size - context.pool.get_idle_size()
    return PoolCounts(in_use, size, context.pool.get_max_size())


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
