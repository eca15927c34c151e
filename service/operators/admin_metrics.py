"""GET /admin/metrics: a summary of the counts of one process, for administrators."""

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
    """Heartbeats since start; durations are milliseconds from the request to its response.

    The quantiles cover the last 5 minutes, or the last 10,000 heartbeats.
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
    """Lookups in the configuration cache since start."""

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
    """PIN attempts by outcome, and the hashing queue."""

    total_attempts: Annotated[
        dict[str, int], doc("PIN attempts by outcome.", {"right": 40, "wrong": 2})
    ]
    total_hashed: Annotated[int, doc("PINs and passwords hashed or checked.", 42)]
    waiting: Annotated[int, doc("PINs and passwords waiting for a worker.", 0)]
    worker_restarts: Annotated[int, doc("Workers replaced because they died.", 0)]


class PoolCounts(msgspec.Struct, frozen=True):
    """The connection pool, which heartbeats do not use."""

    in_use: Annotated[int, doc("Connections in use.", 1)]
    current_size: Annotated[int, doc("Open connections.", 5)]
    max_size: Annotated[int, doc("Connections opened at most.", 20)]


class Counts(msgspec.Struct, frozen=True):
    """The counts of one process; behind a load balancer, another process can answer next."""

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
    """Returns a summary of the metrics of one process, since its start."""
    context, _ = await auth.admin(request)
    return reply(_counts(context))


def _counts(context: Context) -> Counts:
    metrics, pins = context.metrics, context.pins
    caches = [cell.configurations for cell in context.every]
    pools = [cell.pool for cell in context.every]
    hits, misses = sum(cache.hits for cache in caches), sum(cache.misses for cache in caches)
    heartbeats, reports = metrics.heartbeats, metrics.reports
    p50, p95 = heartbeats.quantiles_ms(50, 95)
    [report_p95] = reports.quantiles_ms(95)
    return Counts(
        instance=f"{gethostname()}:{context.settings.port}/{metrics.instance}",
        uptime_seconds=round(monotonic() - metrics.started, 3),
        heartbeat=HeartbeatCounts(
            total_processed=heartbeats.count,
            avg_db_ops_per_heartbeat=_ratio(metrics.heartbeat_statements, metrics.heartbeats_taken),
            avg_duration_ms=round(heartbeats.mean_ms, 3),
            max_duration_ms=round(heartbeats.max_ms, 3),
            p95_duration_ms=round(p95, 3),
            p50_duration_ms=round(p50, 3),
            total_db_ops=metrics.heartbeat_statements,
            total_refused=metrics.heartbeats_refused + metrics.heartbeats_overloaded,
            total_failed_closed=metrics.heartbeats_failed_closed,
            queue_length=sum(cell.writer.waiting for cell in context.every),
        ),
        config_cache=CacheCounts(
            hit_rate=_ratio(hits, hits + misses),
            total_hits=hits,
            total_misses=misses,
            total_invalidations=metrics.invalidations.total(),
            current_size=sum(cache.size for cache in caches),
            max_size=len(caches) * context.settings.config_cache_max_size,
        ),
        weekly_report=ReportCounts(
            total_generated=reports.count,
            avg_db_ops_per_report=_ratio(metrics.report_statements, reports.count),
            p95_duration_ms=round(report_p95, 3),
        ),
        pin=PinCounts(metrics.pin_attempts, pins.hashed, pins.waiting, pins.restarts),
        pool=PoolCounts(
            in_use=sum(pool.get_size() - pool.get_idle_size() for pool in pools),
            current_size=sum(pool.get_size() for pool in pools),
            max_size=sum(pool.get_max_size() for pool in pools),
        ),
    )


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
