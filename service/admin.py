"""What the service counted, for administrators."""

from time import monotonic

from starlette.requests import Request
from starlette.responses import Response

from service import auth
from service.context import Context
from service.exchange import reply


async def admin_metrics(request: Request) -> Response:
    """GET /admin/metrics: counts since start; durations in milliseconds, p95 of the latest."""
    context: Context = request.state.context
    await auth.admin(request)
    metrics, configurations = context.metrics, context.configurations
    beats, reports, pins = metrics.heartbeats, metrics.reports, context.pins
    lookups = configurations.hits + configurations.misses
    return reply(
        {
            "uptime_seconds": round(monotonic() - metrics.started, 3),
            "heartbeat": {
                "total_processed": beats.count,
                "avg_db_ops_per_heartbeat": _ratio(metrics.heartbeat_statements, beats.count),
                "avg_duration_ms": round(beats.mean_ms, 3),
                "max_duration_ms": round(beats.max_ms, 3),
                "p95_duration_ms": round(beats.p95_ms, 3),
            },
            "config_cache": {
                "hit_rate": _ratio(configurations.hits, lookups),
                "total_hits": configurations.hits,
                "total_misses": configurations.misses,
                "total_invalidations": metrics.invalidations,
                "current_size": configurations.size,
                "max_size": context.settings.config_cache_max_size,
            },
            "weekly_report": {
                "total_generated": reports.count,
                "avg_db_ops_per_report": _ratio(metrics.report_statements, reports.count),
                "p95_duration_ms": round(reports.p95_ms, 3),
            },
            "pin": {
                "total_hashed": pins.hashed,
                "waiting": pins.waiting,
                "worker_restarts": pins.restarts,
            },
        }
    )


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
