"""Counts and logs every request except the direct heartbeats, and gives it an id."""

import logging
from time import monotonic
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.context import Context
from service.errors import Overloaded
from service.http.lenient_values import UUID_FORM
from service.http.urls import HEALTH, METRICS
from service.observing.metrics import Metrics
from service.observing.trace import CURRENT, Trace

logger = logging.getLogger("viewing_time.requests")

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBES: Final = (HEALTH, METRICS)


async def logged(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, trace: Trace | None = None
) -> None:
    """Passes a request on; the response carries the id of `trace`, or of a new one.

    An error that has been answered is logged here, once, and is not raised.
    """
    if trace is None:
        headers = dict(scope["headers"])
        trace = Trace(headers.get(b"x-request-id"), headers.get(b"traceparent"))
        CURRENT.set(trace)
    request_id = (b"x-request-id", trace.request_id.encode())
    status = 0

    async def send_with_id(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            message["headers"] = [*message.get("headers", ()), request_id]
        await send(message)

    failure = None
    try:
        await app(scope, receive, send_with_id)
    except Exception as error:
        if not status:
            raise
        failure = error
    finally:
        _count(scope, status or 500)
    latest = CURRENT.get() or trace  # a heartbeat has made its own
    if latest.beat is not None and latest.reason:
        _count_refused_beat(scope, latest)
    else:
        _log(scope, status, trace, failure)


def _count(scope: Scope, status: int) -> None:
    context: Context = scope["state"]["context"]
    method = scope["method"] if scope["method"] in METHODS else "other"
    context.metrics.requests[method, _route(scope), status] += 1


def _route(scope: Scope) -> str:
    """The route's template, because there are as many paths as ids."""
    route = scope.get("route")
    return "unmatched" if route is None else route.path


def _count_refused_beat(scope: Scope, trace: Trace) -> None:
    """Counts a rejected heartbeat by reason; keeps the first of each report as a sample."""
    metrics: Metrics = scope["state"]["context"].metrics
    if trace.reason != Overloaded.reason:
        metrics.refusals[trace.reason] += 1
        if not metrics.refused_sample:
            profile = {"profile_id": trace.beat} if trace.beat else {}
            metrics.refused_sample = {"reason": trace.reason, **profile, **trace.fields()}


def _log(scope: Scope, status: int, trace: Trace, failure: Exception | None) -> None:
    route = _route(scope)
    is_probe = route.startswith(PROBES)
    has_failed = status >= 500 and not (status == 503 and is_probe)  # `readiness` logs changes
    level = logging.DEBUG if is_probe else logging.INFO
    profile_id = str(scope.get("path_params", {}).get("profile_id", ""))
    cell = scope["state"]["context"].settings.cell
    is_named = not trace.omits_profile and UUID_FORM.fullmatch(profile_id)
    fields = {
        "method": scope["method"],
        "route": route,
        "status": status,
        **({"profile_id": profile_id} if is_named else {}),
        **({"cell": cell} if cell else {}),
        "db_ops": trace.statements,
        "duration_ms": round((monotonic() - trace.begun) * 1000, 3),
        **({"error": trace.cause} if trace.cause else {}),
        **({"reason": trace.reason} if status == 401 else {}),
    }
    logger.log(
        logging.ERROR if has_failed else level,
        "request_failed" if has_failed else "request_processed",
        extra={"fields": fields},
        exc_info=failure,
    )
