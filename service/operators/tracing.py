"""Spans for OpenTelemetry: requests, coalesced statements, PINs. Needs the extra `otel`.

Imported only where OTEL_EXPORTER_OTLP_ENDPOINT is set; the parts that are traced are subclasses,
so that without it nothing is asked, not even whether to trace.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.credentials.pin_hasher import PinHasher, Turn
from service.database.driver import Connection
from service.viewing.heartbeat_statement import Beat, Recorded, Waiting
from service.viewing.heartbeat_writer import HeartbeatWriter

PROPAGATOR: Final = TraceContextTextMapPropagator()
EXPORT_SECONDS: Final = 2.0  # also how long a stop waits for a collector that is away
CONTEXT_HEADERS: Final = ("traceparent", "tracestate")


class TracedWriter(HeartbeatWriter):
    """A span for each statement, linked to the requests of its heartbeats."""

    def __init__(self, tracer: Tracer, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._tracer = tracer
        self._requests: WeakKeyDictionary[asyncio.Future[Recorded], Link] = WeakKeyDictionary()

    def record(self, beat: Beat) -> asyncio.Future[Recorded]:
        future = super().record(beat)
        self._requests[future] = Link(trace.get_current_span().get_span_context())
        return future

    async def _send(
        self, connection: Connection, beats: list[Waiting], lock_seconds: float
    ) -> None:
        links = [link for _, future in beats if (link := self._requests.get(future))]
        attributes = {"db.system.name": "postgresql", "db.operation.batch.size": len(beats)}
        with self._tracer.start_as_current_span(
            "heartbeat_record", kind=SpanKind.CLIENT, links=links, attributes=attributes
        ):
            await super()._send(connection, beats, lock_seconds)


class TracedPinHasher(PinHasher):
    """A span for each hash, its wait for a worker included."""

    def __init__(self, tracer: Tracer, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._tracer = tracer

    async def _ask(self, turn: Turn, function: Callable[..., Any], *arguments: bytes) -> Any:
        with self._tracer.start_as_current_span(f"pin {function.__name__}"):
            return await super()._ask(turn, function, *arguments)


class Telemetry:
    """A tracer and the parts that use it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("viewing_time")
        self.writer = partial(TracedWriter, self._tracer)
        self.pin_hasher = partial(TracedPinHasher, self._tracer)

    async def stop(self) -> None:
        """Sends what waits, on a thread: the collector may be slow."""
        await asyncio.to_thread(self._provider.shutdown)

    async def request(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request in a span, the caller's child; its log lines carry the span's ids."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in _ours(scope)}
        with self._tracer.start_as_current_span(
            scope["method"], PROPAGATOR.extract(headers), SpanKind.SERVER
        ) as span:
            own: dict[str, str] = {}
            PROPAGATOR.inject(own)
            others = [header for header in scope["headers"] if header not in _ours(scope)]
            added = [(name.encode(), value.encode()) for name, value in own.items()]
            scope = {**scope, "headers": [*others, *added]}

            async def answering(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await app(scope, receive, answering)
            route = scope["route"].path if "route" in scope else "unmatched"
            span.update_name(f"{scope['method']} {route}")
            span.set_attributes({"http.request.method": scope["method"], "http.route": route})


def _ours(scope: Scope) -> list[tuple[bytes, bytes]]:
    return [header for header in scope["headers"] if header[0].decode("latin-1") in CONTEXT_HEADERS]


def exporting(endpoint: str) -> Telemetry:
    """Spans for the collector at `endpoint`, over HTTP; `OTEL_TRACES_SAMPLER` says how many."""
    provider = TracerProvider(resource=Resource.create({"service.name": "viewing-time"}))
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Telemetry(provider)
