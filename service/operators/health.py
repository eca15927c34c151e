"""GET /health…: whether the process is alive, and whether it can serve."""

from typing import Annotated, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.http.body_and_reply import reply
from service.http.fields import doc
from service.operators.readiness import OK, Checks


class Alive(msgspec.Struct, frozen=True):
    """The process is running."""

    status: Annotated[Literal["ok"], doc("Always `ok`.", "ok")] = "ok"


class Readiness(msgspec.Struct, frozen=True):
    """The result of the latest checks."""

    status: Annotated[
        Literal["ok", "degraded"], doc("`degraded` if no requests should be sent here.", "ok")
    ]
    checks: Checks


async def health_live(request: Request) -> Response:
    """Returns ok while the process runs."""
    return reply(Alive())


async def health_ready(request: Request) -> Response:
    """Returns whether the process can serve requests."""
    context: Context = request.state.context
    every = [
        (cell.settings.cell, cell.readiness.checks(is_stopping=request.app.is_stopping))
        for cell in context.every
    ]
    best = next((checks for _, checks in every if checks == OK), every[0][1])
    is_ok = best == OK
    if failing := {cell: _problem(checks) for cell, checks in every if cell and checks != OK}:
        best = msgspec.structs.replace(best, cells=failing)
    return reply(Readiness("ok" if is_ok else "degraded", best), 200 if is_ok else 503)


def _problem(checks: Checks) -> str:
    """The last word of the checks of a cell that does not work."""
    return [word for word in msgspec.structs.astuple(checks) if isinstance(word, str)][-1]
