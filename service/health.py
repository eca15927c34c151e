"""Is the process alive, and can it do its work?"""

from typing import Final

import asyncpg
from starlette.requests import Request
from starlette.responses import Response

from service import database
from service.context import Context
from service.deadlines import within
from service.exchange import reply

READY_SECONDS: Final = 3.0


async def health_live(request: Request) -> Response:
    """GET /health/live: waits for nothing."""
    return reply({"status": "ok"})


async def health_ready(request: Request) -> Response:
    """GET /health/ready, /health: 503 unless the database answers within 3 seconds."""
    context: Context = request.state.context
    if request.app.draining:
        return reply({"status": "degraded", "checks": {"process": "stopping"}}, 503)
    try:
        await within(READY_SECONDS, database.ping(context.pool, READY_SECONDS))
    except (*database.UNAVAILABLE, asyncpg.PostgresError):
        return reply({"status": "degraded", "checks": {"database": "unreachable"}}, 503)
    return reply({"status": "ok", "checks": {"database": "ok"}})
