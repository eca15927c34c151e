"""Every request but the direct heartbeat: counted by route, known by an id, logged."""

import logging
from time import monotonic
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.context import Context
from service.errors import Overloaded
from service.http import lenient_json
from service.http.urls import HEALTH, METRICS
from service.observing.trace import CURRENT, Trace

logger = logging.getLogger("viewing_time.requests")

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED: Final = "unmatched"
PROBES: Final = (HEALTH, METRICS)


async def observed(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, known: Trace | None = None
) -> None:
    """Passes a request on; its answer carries the request's id.

    An error that has been answered is logged here, once, and goes no further.
    """
    trace = known or _begun(scope)
    status = 0

    async def answering(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            own = (b"x-request-id", trace.request_id.encode())
            message["headers"] = [*message.get("headers", ()), own]
        await send(message)

    failure = None
    try:
        await app(scope, receive, answering)
    except Exception as error:
        if not status:
            raise
        failure = error
    finally:
        _count(scope, status or 500)
    latest = CURRENT.get() or trace  # a heartbeat has made its own
    if latest.beat is not None and latest.reason:
        _note_beat(scope, latest)
    else:
        _log(scope, status, trace, failure)


def _begun(scope: Scope) -> Trace:
    headers = dict(scope["headers"])
    trace = Trace(headers.get(b"x-request-id"), headers.get(b"traceparent"))
    CURRENT.set(trace)
    return trace


def _count(scope: Scope, status: int) -> None:
    context: Context = scope["state"]["context"]
    method = scope["method"] if scope["method"] in METHODS else "other"
    context.metrics.requests[method, _route(scope), status] += 1


def _route(scope: Scope) -> str:
    """The route's template: of those there are few, of paths as many as ids."""
    route = scope.get("route")
    return UNMATCHED if route is None else route.path


def _note_beat(scope: Scope, trace: Trace) -> None:
    """Counts a refused heartbeat by reason; keeps the first of each report as a sample."""
    context: Context = scope["state"]["context"]
    metrics = context.metrics
    if trace.reason != Overloaded.reason:
        metrics.refusals[trace.reason] += 1
        if not metrics.refused_sample:
            named: dict[str, object] = {"profile_id": trace.beat} if trace.beat else {}
            metrics.refused_sample = {"reason": trace.reason, **named, **trace.fields()}


def _log(scope: Scope, status: int, trace: Trace, failure: Exception | None) -> None:
    route = _route(scope)
    is_known = status < 500 or (status == 503 and route.startswith(PROBES))  # see `readiness`
    level = logging.DEBUG if route.startswith(PROBES) else logging.INFO
    profile_id = str(scope.get("path_params", {}).get("profile_id", ""))
    is_named = not trace.nameless and lenient_json.UUID_FORM.fullmatch(profile_id)
    fields = {
        "method": scope["method"],
        "route": route,
        "status": status,
        **({"profile_id": profile_id} if is_named else {}),
        "db_ops": trace.statements,
        "duration_ms": round((monotonic() - trace.begun) * 1000, 3),
        **({"error": trace.cause} if trace.cause else {}),
        **({"reason": trace.reason} if status == 401 else {}),
    }
    logger.log(
        level if is_known else logging.ERROR,
        "request_processed" if is_known else "request_failed",
        extra={"fields": fields},
        exc_info=failure,
    )
