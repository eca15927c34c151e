"""Every request has an id, and every failure is logged once."""

import logging
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from service.database_errors import NoAnswer
from service.observing import event_loop
from service.observing.metrics import Metrics
from service.observing.trace import Trace
from service.players import beats
from service.settings import Settings
from tests.conftest import Running, Starter, logged
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family

LIVE = "/health/live"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("a" * 64, True),
        ("7b1e-4/x:y", True),
        ("a" * 65, False),
        ("two words", False),
        ('"quoted"', False),
        ("back\\slash", False),
        ("", False),
    ],
)
async def test_valid_request_id_is_returned_and_an_invalid_one_replaced(
    running: Running, given: str, is_kept: bool
) -> None:
    answer = await running.client.get(LIVE, headers={"X-Request-ID": given})
    assert (answer.headers["x-request-id"] == given) is is_kept
    assert 1 <= len(answer.headers["x-request-id"]) <= 64


async def test_heartbeat_returns_the_request_id_of_the_client(
    running: Running, family: Family
) -> None:
    headers = {**family.bearer, "X-Request-ID": "beat-1"}
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
    refused = await running.client.post(HEARTBEAT, json={}, headers=headers)
    silent = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "beat-1")
    assert (refused.status_code, refused.headers["x-request-id"]) == (422, "beat-1")
    assert "x-request-id" not in silent.headers


@pytest.mark.parametrize(
    ("header", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", (TRACE, SPAN)),
        (f"cc-{TRACE}-{SPAN}-01-later", (TRACE, SPAN)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        ("nonsense", None),
    ],
)
def test_traceparent_is_parsed_as_the_standard_requires(
    header: str, parent: tuple[str, str] | None
) -> None:
    assert Trace(None, header.encode()).parent == parent


async def test_request_is_one_log_line(
    running: Running, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"/api/v1/viewing-time/balance/{family.child}"
    await running.client.get(url, headers=family.bearer)
    caplog.clear()
    with caplog.at_level("INFO", "viewing_time"):
        await running.client.get(url, headers=family.bearer)
        await running.client.get(LIVE)
    [line] = logged(caplog, "request_processed")
    assert line.pop("duration_ms") > 0
    assert line == {
        "method": "GET",
        "route": "/api/v1/viewing-time/balance/{profile_id}",
        "status": 200,
        "profile_id": str(family.child),
        "db_ops": 1,
    }


@pytest.mark.parametrize("given", ["x" * 60_000, "x%0Aforged", "1"])
async def test_an_invalid_id_is_not_logged(
    running: Running, family: Family, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    with caplog.at_level("INFO", "viewing_time"):
        url = f"/api/v1/viewing-time/balance/{given}"
        assert (await running.client.get(url, headers=family.bearer)).status_code == 422
    [line] = logged(caplog, "request_processed")
    assert "profile_id" not in line


async def test_heartbeats_shed_before_reading_have_an_id_and_share_a_log_line(
    start: Starter,
    settings: Settings,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "REPORT_SECONDS", 0.05)
    running = await start(settings)
    monkeypatch.setattr(type(running.context.writer), "is_full", True)
    headers = {**family.bearer, "X-Request-ID": "abc"}
    for _ in range(3):
        answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
        assert (answer.status_code, answer.headers["x-request-id"]) == (503, "abc")
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert (answer.status_code, "x-request-id" in answer.headers) == (503, False)
    await eventually(
        lambda: sum(line["heartbeats"] for line in logged(caplog, "heartbeats_shed")) >= 4
    )
    assert sum(line["heartbeats"] for line in logged(caplog, "heartbeats_shed")) == 4


async def test_an_unavailable_database_is_logged_once_with_its_cause(
    running: Running, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    running.context.pool.terminate()
    with caplog.at_level("INFO", "viewing_time"):
        url = "/api/v1/parental-controls/pin/status"
        assert (await running.client.get(url, headers=family.bearer)).status_code == 503
    [line] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.getMessage() == "request_failed"
    assert vars(line)["fields"]["error"].startswith("NoAnswer: ")


@pytest.mark.parametrize("path", ["/api/v1/parental-controls/pin/status", HEARTBEAT])
async def test_a_bug_is_logged_once_with_its_traceback(
    running: Running,
    family: Family,
    path: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("service.http.auth.verified", broken)
    monkeypatch.setattr("service.http.auth.bearer", lambda *_: 1 / 0)
    with caplog.at_level("INFO", "viewing_time"):
        method = "POST" if path == HEARTBEAT else "GET"
        body = family.beat() if path == HEARTBEAT else None
        await running.client.request(method, path, json=body, headers=family.bearer)
    [line] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.exc_info is not None
    assert line.exc_info[0] is ZeroDivisionError


async def test_a_bug_in_reading_a_body_is_not_a_client_error(
    running: Running,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beats.BODY, "read", lambda *_: 1 / 0)
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert answer.status_code == 500
    [line] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.exc_info is not None
    assert line.exc_info[0] is ZeroDivisionError


async def test_heartbeats_are_logged_by_sample_and_when_they_fail(
    start: Starter,
    settings: Settings,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = await start(msgspec.structs.replace(settings, heartbeat_log_sample=3))
    with caplog.at_level("INFO", "viewing_time"):
        for _ in range(6):
            await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    lines = logged(caplog, "heartbeat_processed")
    assert [(line["profile_id"], line["enforcement"], line["db_ops"]) for line in lines] == [
        (str(family.child), "allowed", 1)
    ] * 2
    caplog.clear()

    def lost(*_: object) -> None:
        raise NoAnswer("connection was closed")

    monkeypatch.setattr(running.context.writer, "record", lost)
    with caplog.at_level("INFO", "viewing_time"):
        await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    [line] = logged(caplog, "heartbeat_processed")
    assert line["error"] == "NoAnswer: connection was closed"
    assert line["enforcement"] == "blocked"


def test_at_most_ten_slow_heartbeats_a_second_are_logged() -> None:
    settings = SimpleNamespace(heartbeat_log_sample=1_000_000)
    context: Any = SimpleNamespace(metrics=Metrics(), settings=settings)
    verdict = beats.blocked(uuid4())
    logged = [beats.is_logged(context, verdict, 100 + n / 20, 0.3) for n in range(30)]
    assert logged == [True] * 10 + [False] * 10 + [True] * 10
    assert context.metrics.heartbeats.count == 30


async def test_a_slow_heartbeat_is_logged(
    running: Running,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.players.beats.SLOW_SECONDS", 0.0)
    with caplog.at_level("INFO", "viewing_time"):
        await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    [line] = logged(caplog, "heartbeat_processed")
    assert line["db_ops"] == 2
