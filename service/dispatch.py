"""Dispatches requests: plain heartbeats directly, all others through Starlette."""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.context import Context
from service.http import error_responses
from service.http.last_response import last_of_connection
from service.http.request_log import logged
from service.observing.trace import CURRENT
from service.players import heartbeat
from service.players.heartbeat import Heartbeat, Recording

if TYPE_CHECKING:
    from service.operators.tracing import Telemetry

HEARTBEAT: Final = Heartbeat()
HEARTBEAT_ROUTE: Final = Route(heartbeat.PATH, HEARTBEAT, methods=["POST"])
HEARTBEAT_503: Final = ("POST", heartbeat.PATH, 503)


class Service(Starlette):
    """Starlette, except for plain heartbeats.

    Cross-origin checks, error handling and routing cost as much as the heartbeat itself. A
    heartbeat without an `Origin` does not come from a browser and needs only the error table, so
    it skips the rest. `draining` is set when the process is about to stop: it answers every request
    as the last one of its connection. `is_stopping` is set when no process takes its place: it is
    not ready.
    """

    draining = False
    is_stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.draining:
            send = last_of_connection(send)
        if scope["type"] == "http" and _is_plain_heartbeat(scope):
            context: Context = scope["state"]["context"]
            if context.is_full:
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
