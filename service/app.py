"""The application: every URL on one screen, the fast path of heartbeats, the lifespan."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypedDict

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from service.context import Context
from service.http import cross_origin, error_responses
from service.http.body_and_reply import Endpoint, bounded
from service.http.last_response import last_of_connection
from service.http.request_log import logged
from service.http.urls import ADMIN, HEALTH, METRICS, PARENTAL, PROFILE, VIEWING
from service.observing.trace import CURRENT
from service.openapi.document import Description
from service.operators import prometheus
from service.operators.admin_metrics import admin_metrics
from service.operators.health import health_live, health_ready
from service.operators.live_page import live
from service.parents import grants, history, report_link, weekly_report
from service.parents.exceptions import exception_delete, exception_put, exceptions
from service.parents.grant import grant
from service.parents.lock import lock, lock_clear, lock_put
from service.parents.pin import pin_reset, pin_set, pin_status, pin_verify
from service.parents.schedule import schedule, schedule_put
from service.parents.strict import strict, strict_update
from service.parents.viewing_config import viewing_config, viewing_config_update
from service.platform.accounts import account_delete, account_put
from service.platform.erasure import ERASE_SECONDS, viewing_data_erase
from service.platform.imports import import_records
from service.platform.profiles import profile_delete, profile_put
from service.platform.titles import title_delete, title_put
from service.players import balance, heartbeat
from service.players.decision import decision
from service.players.heartbeat import Heartbeat, Recording
from service.players.session import session_end
from service.players.short_heartbeat import ShortHeartbeat
from service.settings import Settings, masked
from service.startup import build

if TYPE_CHECKING:
    from service.operators.tracing import Telemetry

logger = logging.getLogger("viewing_time.app")


def _route(
    method: str,
    path: str,
    endpoint: Endpoint | Heartbeat,
    *,
    seconds: float | None = None,
    streams: bool = False,
) -> Route:
    """One method of one path, without the HEAD that Starlette adds to GET.

    An endpoint must end within REQUEST_TIMEOUT_SECONDS, or `seconds`; one that `streams` reads its
    body itself and has no deadline.
    """
    if not streams and not isinstance(endpoint, Heartbeat):
        endpoint = bounded(endpoint, seconds)
    route = Route(path, endpoint, methods=[method])
    route.methods = {method}
    return route


# A hash may wait five seconds in the queue, and takes a quarter of a second.
PIN_SECONDS: Final = 10.0
HEARTBEAT: Final = Heartbeat()
DESCRIPTION: Final = Description()

HEARTBEAT_ROUTE: Final = _route("POST", heartbeat.PATH, HEARTBEAT)
HEARTBEAT_503: Final = ("POST", heartbeat.PATH, 503)

ROUTES: Final[list[BaseRoute]] = [
    HEARTBEAT_ROUTE,
    _route("GET", f"{VIEWING}/balance/{{profile_id}}", balance.balance),
    _route("GET", f"{VIEWING}/playback-eligible/{{profile_id}}", balance.playback_eligible),
    _route("GET", f"{VIEWING}/decision/{{profile_id}}", decision),
    _route("POST", f"{VIEWING}/session/{{session_id}}/end", session_end),
    _route("GET", f"{PARENTAL}/pin/status", pin_status),
    _route("POST", f"{PARENTAL}/pin", pin_set, seconds=PIN_SECONDS),
    _route("POST", f"{PARENTAL}/pin/verify", pin_verify, seconds=PIN_SECONDS),
    _route("POST", f"{PARENTAL}/pin/reset", pin_reset, seconds=PIN_SECONDS),
    _route("GET", f"{PARENTAL}/strict", strict),
    _route("PUT", f"{PARENTAL}/strict", strict_update),
    _route("GET", f"{PROFILE}/viewing-time", viewing_config),
    _route("PUT", f"{PROFILE}/viewing-time", viewing_config_update),
    _route("POST", f"{PROFILE}/viewing-time/grant", grant, seconds=PIN_SECONDS),
    _route("GET", f"{PROFILE}/schedule", schedule),
    _route("PUT", f"{PROFILE}/schedule", schedule_put),
    _route("GET", f"{PROFILE}/exceptions", exceptions),
    _route("PUT", f"{PROFILE}/exceptions/{{date}}", exception_put),
    _route("DELETE", f"{PROFILE}/exceptions/{{date}}", exception_delete),
    _route("GET", f"{PROFILE}/lock", lock),
    _route("PUT", f"{PROFILE}/lock", lock_put),
    _route("DELETE", f"{PROFILE}/lock", lock_clear),
    _route("GET", f"{PROFILE}/grants", grants.grants),
    _route("DELETE", f"{PROFILE}/grants/{{grant_id}}", grants.grant_undo),
    _route("GET", f"{PROFILE}/history", history.history),
    _route("GET", f"{PARENTAL}/weekly-report", weekly_report.weekly_report),
    _route("POST", f"{PARENTAL}/weekly-report/link", report_link.report_link),
    _route("GET", f"{PARENTAL}/weekly-report/page/{{token}}", report_link.linked_report),
    _route("GET", f"{ADMIN}/metrics", admin_metrics),
    _route("PUT", f"{ADMIN}/accounts/{{account_id}}", account_put),
    _route("DELETE", f"{ADMIN}/accounts/{{account_id}}", account_delete),
    _route("PUT", f"{ADMIN}/profiles/{{profile_id}}", profile_put),
    _route("DELETE", f"{ADMIN}/profiles/{{profile_id}}", profile_delete),
    _route(
        "DELETE",
        f"{ADMIN}/profiles/{{profile_id}}/viewing-data",
        viewing_data_erase,
        seconds=ERASE_SECONDS,
    ),
    _route("PUT", f"{ADMIN}/titles/{{title_id}}", title_put),
    _route("DELETE", f"{ADMIN}/titles/{{title_id}}", title_delete),
    _route("POST", f"{ADMIN}/import", import_records, streams=True),
    _route("GET", f"{HEALTH}/live", health_live),
    _route("GET", f"{HEALTH}/ready", health_ready),
    _route("GET", HEALTH, health_ready),
    _route("GET", "/openapi.json", DESCRIPTION.openapi_json),
    _route("GET", "/docs", DESCRIPTION.docs),
]
DESCRIPTION.describe(ROUTES)
# For operators; not in the description of the API.
SCRAPE: Final = _route("GET", METRICS, prometheus.metrics)
LIVE: Final = _route("GET", "/admin/live", live)


class Service(Starlette):
    """Starlette with a fast path for heartbeats.

    Cross-origin checks, error handling and routing cost as much as the heartbeat itself. A
    heartbeat without an `Origin` does not come from a browser and needs only the error table, so
    it skips the rest. `draining` is set when the process is about to stop: it is not ready, but
    answers every request.
    """

    draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.draining:
            send = last_of_connection(send)
        if scope["type"] == "http" and _is_plain_heartbeat(scope):
            context: Context = scope["state"]["context"]
            if context.writer.is_full:
                context.metrics.heartbeats_overloaded += 1
                context.metrics.requests[HEARTBEAT_503] += 1
                await HEARTBEAT.refuse(scope, send)
            else:
                await self.heartbeat(scope, receive, send)
        elif scope["type"] == "http":
            await logged(super().__call__, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def heartbeat(
        self, scope: Scope, receive: Receive, send: Send, recording: Recording | None = None
    ) -> None:
        """Answers a heartbeat without `Origin`, also one that the short path has sent."""
        context: Context = scope["state"]["context"]
        scope["route"] = HEARTBEAT_ROUTE
        try:
            await HEARTBEAT(scope, receive, send, recording)
        except Exception as error:
            refusal = partial(error_responses.answer, error=error)
            await logged(refusal, scope, receive, send, CURRENT.get())
        else:
            context.metrics.requests[heartbeat.ANSWERED] += 1


def _is_plain_heartbeat(scope: Scope) -> bool:
    """Whether the request is a heartbeat without `Origin`, so not from a browser."""
    if scope["path"] != heartbeat.PATH or scope["method"] != "POST":
        return False
    for name, _ in scope["headers"]:  # noqa: SIM110 (`any` costs a generator for each heartbeat)
        if name == b"origin":
            return False
    return True


class TracedService(Service):
    """The service with a span around each request."""

    def __init__(self, telemetry: "Telemetry", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._telemetry.request(super().__call__, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def scrapes() -> Starlette:
    """The application on METRICS_PORT; it uses the lifespan of the service."""
    app = Starlette(routes=[SCRAPE], exception_handlers=error_responses.TABLE)
    app.router.redirect_slashes = False
    return app


class State(TypedDict):
    """The state of the lifespan; without `short_path` every request takes the ordinary path."""

    context: Context
    short_path: ShortHeartbeat | None


def utc_now() -> datetime:
    return datetime.now(UTC)


def application(
    settings: Settings,
    now: Callable[[], datetime] = utc_now,
    telemetry: "Telemetry | None" = None,
    end: Callable[[], None] = lambda: None,
) -> Service:
    """The service as an ASGI application; its lifespan opens and closes every part.

    `end` is called once, when a background task has died. `telemetry` creates spans; its default
    follows OTEL_EXPORTER_OTLP_ENDPOINT.
    """
    if settings.otel_exporter_otlp_endpoint and telemetry is None:
        from service.operators.tracing import exporting

        telemetry = exporting(settings.otel_exporter_otlp_endpoint)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        async with AsyncExitStack() as parts:
            context = await build(settings, now, parts, telemetry, end)
            logger.info("started", extra={"fields": masked(settings)})
            is_short = settings.short_path and telemetry is None  # which measures every request
            yield {
                "context": context,
                "short_path": ShortHeartbeat(context, app) if is_short else None,
            }
            logger.info("stopping")
        logger.info("stopped")

    kind = Service if telemetry is None else partial(TracedService, telemetry)
    app = kind(
        routes=[*ROUTES, LIVE] if settings.metrics_port else [*ROUTES, LIVE, SCRAPE],
        lifespan=lifespan,
        middleware=[cross_origin.middleware(settings.cors_origins)],
        exception_handlers=error_responses.TABLE,
    )
    app.router.redirect_slashes = False
    return app
