"""Spans for OpenTelemetry: requests, batches of heartbeats, hashes. Needs the extra `otel`.

Imported only if OTEL_EXPORTER_OTLP_ENDPOINT is set. The traced parts are subclasses, so tracing
costs nothing when it is off, not even a check.
"""

import asyncio
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
from service.viewing.heartbeat_statement import Beat, Waiting
from service.viewing.heartbeat_writer import HeartbeatWriter
from service.viewing.recorded_row import Recorded

PROPAGATOR: Final = TraceContextTextMapPropagator()
EXPORT_SECONDS: Final = 2.0  # for one export; also bounds shutdown when the collector is down
CONTEXT_HEADERS: Final = (b"traceparent", b"tracestate")


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
        with self._tracer.start_as_current_span(
            "heartbeat_record",
            kind=SpanKind.CLIENT,
            links=links,
            attributes={"db.system.name": "postgresql", "db.operation.batch.size": len(beats)},
        ):
            await super()._send(connection, beats, lock_seconds)


class TracedPinHasher(PinHasher):
    """A span for each hash, with its wait for a worker."""

    def __init__(self, tracer: Tracer, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._tracer = tracer

    async def compute(self, turn: Turn, secret: bytes, salt: bytes) -> bytes:
        with self._tracer.start_as_current_span("pin hash"):
            return await super().compute(turn, secret, salt)


class Telemetry:
    """A tracer and the parts that use it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("viewing_time")
        self.writer = partial(TracedWriter, self._tracer)
        self.pin_hasher = partial(TracedPinHasher, self._tracer)

    async def stop(self) -> None:
        """Exports the remaining spans, in a thread because the collector can be slow."""
        await asyncio.to_thread(self._provider.shutdown)

    async def request(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request in a span, a child of the caller's; log lines get the span's ids."""
        headers = scope["headers"]
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name in CONTEXT_HEADERS
        }
        with self._tracer.start_as_current_span(
            scope["method"], PROPAGATOR.extract(carrier), SpanKind.SERVER
        ) as span:
            injected: dict[str, str] = {}
            PROPAGATOR.inject(injected)
            others = [header for header in headers if header[0] not in CONTEXT_HEADERS]
            added = [(name.encode(), value.encode()) for name, value in injected.items()]
            scope = {**scope, "headers": [*others, *added]}

            async def send_traced(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await app(scope, receive, send_traced)
            route = scope["route"].path if "route" in scope else "unmatched"
            span.update_name(f"{scope['method']} {route}")
            span.set_attributes({"http.request.method": scope["method"], "http.route": route})


def exporting(endpoint: str) -> Telemetry:
    """Exports spans over HTTP to the collector at `endpoint`; OTEL_TRACES_SAMPLER applies."""
    provider = TracerProvider(resource=Resource.create({"service.name": "viewing-time"}))
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Telemetry(provider)
