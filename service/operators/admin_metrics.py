"""What the service counted, for administrators."""

from socket import gethostname
from time import monotonic

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.http import auth
from service.http.body_and_reply import reply


class HeartbeatCounts(msgspec.Struct, frozen=True):
    """Heartbeats since start, in milliseconds from the request to its answer.

    The quantiles are of the last 5 minutes, or the last 10,000 heartbeats.
    """

    total_processed: int
    avg_db_ops_per_heartbeat: float
    avg_duration_ms: float
    max_duration_ms: float
    p95_duration_ms: float
    p50_duration_ms: float
    total_db_ops: int
    total_refused: int
    total_failed_closed: int
    queue_length: int


class CacheCounts(msgspec.Struct, frozen=True):
    """Lookups of configurations in memory since start."""

    hit_rate: float
    total_hits: int
    total_misses: int
    total_invalidations: int
    current_size: int
    max_size: int


class ReportCounts(msgspec.Struct, frozen=True):
    total_generated: int
    avg_db_ops_per_report: float
    p95_duration_ms: float


class PinCounts(msgspec.Struct, frozen=True):
    """Attempts at a PIN by what came of them, and the queue before the workers."""

    total_attempts: dict[str, int]
    total_hashed: int
    waiting: int
    worker_restarts: int


class PoolCounts(msgspec.Struct, frozen=True):
    """Connections to the database besides those of the heartbeats."""

    in_use: int
    current_size: int
    max_size: int


class Counts(msgspec.Struct, frozen=True):
    """The counts of one process: behind a balancer, the next answer may be another's."""

    instance: str
    uptime_seconds: float
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
