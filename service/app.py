"""The application: every URL on one screen, and the lifespan."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypedDict

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

from service.context import Context
from service.credentials.pin_shared import Sharing
from service.dispatch import HEARTBEAT_ROUTE, Service, TracedService
from service.http import cross_origin, error_responses
from service.http.body_and_reply import Endpoint, bounded
from service.http.urls import ADMIN, HEALTH, METRICS, PARENTAL, PROFILE, VIEWING
from service.openapi.document import Description
from service.operators import prometheus
from service.operators.admin_metrics import admin_metrics
from service.operators.health import health_live, health_ready
from service.operators.live_page import live
from service.operators.start import start
from service.parents import grants, history, report_link, weekly_report
from service.parents.event_stream import events
from service.parents.exceptions import exception_delete, exception_put, exceptions
from service.parents.grant import grant
from service.parents.lock import lock, lock_clear, lock_put
from service.parents.pin import pin_reset, pin_set, pin_status, pin_verify
from service.parents.requests import time_request_approve, time_request_deny, time_requests
from service.parents.schedule import schedule, schedule_put
from service.parents.strict import strict, strict_update
from service.parents.viewing_config import viewing_config, viewing_config_update
from service.platform.accounts import account_delete, account_put
from service.platform.erasure import ERASE_SECONDS, viewing_data_erase
from service.platform.imports import import_records
from service.platform.profiles import profile_delete, profile_put
from service.platform.titles import title_delete, title_put
from service.players import balance
from service.players.decision import decision
from service.players.requests import time_request, time_request_create
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
    endpoint: Endpoint,
    *,
    seconds: float | None = None,
    streams: bool = False,
) -> Route:
    """One method of one path, without the HEAD that Starlette adds to GET.

    An endpoint must end within REQUEST_TIMEOUT_SECONDS, or `seconds`; one that `streams` reads its
    body itself and has no deadline.
    """
    if not streams:
        endpoint = bounded(endpoint, seconds)
    route = Route(path, endpoint, methods=[method])
    route.methods = {method}
    return route


# A hash may wait five seconds in the queue, and takes a quarter of a second.
PIN_SECONDS: Final = 10.0
DESCRIPTION: Final = Description()

ROUTES: Final[list[BaseRoute]] = [
    HEARTBEAT_ROUTE,
    _route("GET", f"{VIEWING}/balance/{{profile_id}}", balance.balance),
    _route("GET", f"{VIEWING}/playback-eligible/{{profile_id}}", balance.playback_eligible),
    _route("GET", f"{VIEWING}/decision/{{profile_id}}", decision),
    _route("POST", f"{VIEWING}/session/{{session_id}}/end", session_end),
    _route("POST", f"{VIEWING}/requests", time_request_create),
    _route("GET", f"{VIEWING}/requests/{{request_id}}", time_request),
    _route("GET", f"{PARENTAL}/requests", time_requests),
    _route(
        "POST",
        f"{PARENTAL}/requests/{{request_id}}/approve",
        time_request_approve,
        seconds=PIN_SECONDS,
    ),
    _route("POST", f"{PARENTAL}/requests/{{request_id}}/deny", time_request_deny),
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
    _route("GET", f"{PARENTAL}/events", events),
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
    _route("GET", "/", start),
    _route("GET", "/openapi.json", DESCRIPTION.openapi_json),
    _route("GET", "/docs", DESCRIPTION.docs),
]
DESCRIPTION.describe(ROUTES)
# For operators; not in the description of the API.
SCRAPE: Final = _route("GET", METRICS, prometheus.metrics)
LIVE: Final = _route("GET", "/admin/live", live)


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
    sharing: Sharing | None = None,
    routes: Sequence[Route] = (),
) -> Service:
    """The service as an ASGI application; its lifespan opens and closes every part.

    `end` is called once, when a background task has died. PINs are hashed by the processes of
    `sharing` if another process has them. `routes` are served beside the API. `telemetry` creates
    spans; its default follows OTEL_EXPORTER_OTLP_ENDPOINT.
    """
    if settings.otel_exporter_otlp_endpoint and telemetry is None:
        from service.operators.tracing import exporting

        telemetry = exporting(settings.otel_exporter_otlp_endpoint)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        async with AsyncExitStack() as parts:
            context = await build(settings, now, parts, telemetry, end, sharing)
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
        routes=[*ROUTES, *routes, LIVE, *(() if settings.metrics_port else (SCRAPE,))],
        lifespan=lifespan,
        middleware=[cross_origin.middleware(settings.cors_origins)],
        exception_handlers=error_responses.TABLE,
    )
    app.router.redirect_slashes = False
    return app
