"""Spans, if the extra `otel` is installed; without an endpoint nothing is imported."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from service.app import application
from service.observing.trace import Trace
from service.settings import Settings, SettingsError, read
from tests.conftest import ROOT
from tests.family import HEARTBEAT, PIN, SECRET, Family

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def test_opentelemetry_is_imported_only_with_an_endpoint() -> None:
    code = (
        "import sys, service.command.main, service.app; "
        "print([name for name in sys.modules if 'tracing' in name or 'opentelemetry' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_endpoint_without_the_extra_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.find_spec", lambda _: None)
    environment = {
        "DATABASE_URL": "postgresql://h/d",
        "JWT_SECRET": SECRET,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    }
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_ENDPOINT needs the extra otel"):
        read(environment)


class Traced:
    """A service that collects its spans in memory."""

    def __init__(self, client: httpx.AsyncClient, exporter: Any) -> None:
        self.client = client
        self._exporter = exporter

    def spans(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for span in self._exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found


@pytest.fixture
async def traced(settings: Settings) -> AsyncIterator[Traced]:
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from service.operators.tracing import Telemetry

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = application(settings, telemetry=Telemetry(provider))
    async with app.router.lifespan_context(app) as state:
        assert state is not None

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        transport = httpx.ASGITransport(with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield Traced(client, exporter)


async def test_span_of_a_statement_links_to_its_heartbeats(traced: Traced, family: Family) -> None:
    beats = [family.beat(), family.beat(profile_id=family.adult)]
    headers = {**family.bearer, "traceparent": f"00-{TRACE}-{SPAN}-01"}
    await asyncio.gather(
        *(traced.client.post(HEARTBEAT, json=beat, headers=headers) for beat in beats)
    )
    spans = traced.spans()
    requests = spans[f"POST {HEARTBEAT}"]
    assert [f"{span.context.trace_id:032x}" for span in requests] == [TRACE] * 2
    assert [f"{span.parent.span_id:016x}" for span in requests] == [SPAN] * 2
    assert [span.attributes["http.response.status_code"] for span in requests] == [200] * 2
    linked = [link.context.span_id for span in spans["heartbeat_record"] for link in span.links]
    # The beat of the child was sent twice, because its viewing day was not known at first.
    assert {*linked} == {span.context.span_id for span in requests}


async def test_span_of_a_hash_is_a_child_of_its_request(traced: Traced, family: Family) -> None:
    url = "/api/v1/parental-controls/pin/verify"
    answer = await traced.client.post(url, json={"pin": PIN}, headers=family.bearer)
    assert answer.status_code == 200
    [request], [pin] = traced.spans()[f"POST {url}"], traced.spans()["pin hash"]
    assert pin.parent.span_id == request.context.span_id
    assert (await traced.client.get("/nowhere")).status_code == 404
    assert traced.spans()["GET unmatched"]


async def test_log_lines_have_the_ids_of_the_span(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Trace] = []

    def remembered(*headers: bytes | None) -> Trace:
        seen.append(Trace(*headers))
        return seen[-1]

    monkeypatch.setattr("service.http.request_log.Trace", remembered)
    await traced.client.get("/health/live")
    [span], [trace] = traced.spans()["GET /health/live"], seen
    assert trace.parent == (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")
