"""Is the process alive, and can it do its work?"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.exchange import reply
from service.pulse import is_ready


class Alive(msgspec.Struct, frozen=True):
    status: Literal["ok"] = "ok"


class Checks(msgspec.Struct, frozen=True):
    """The database, or the process where it is about to stop."""

    database: Literal["ok", "unreachable"] | UnsetType = UNSET
    process: Literal["stopping", "failed"] | UnsetType = UNSET


class Readiness(msgspec.Struct, frozen=True):
    status: Literal["ok", "degraded"]
    checks: Checks


async def health_live(request: Request) -> Response:
    """GET /health/live: waits for nothing."""
    return reply(Alive())


async def health_ready(request: Request) -> Response:
    """GET /health/ready, /health: 503 unless the database answers within 3 seconds."""
    context: Context = request.state.context
    if context.supervisor.has_died:
        return reply(Readiness("degraded", Checks(process="failed")), 503)
    if request.app.draining:
        return reply(Readiness("degraded", Checks(process="stopping")), 503)
    if not await is_ready(context.pool, context.metrics):
        return reply(Readiness("degraded", Checks(database="unreachable")), 503)
    return reply(Readiness("ok", Checks(database="ok")))
