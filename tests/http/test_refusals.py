"""The log and the metrics have the reason of a refusal; the response does not."""

import logging
from collections import Counter
from typing import Any
from uuid import uuid4

import jwt
import msgspec
import pytest

from service.database.driver import Connection
from service.observing import event_loop
from service.settings import Settings
from tests.conftest import Running, Starter, in_process, logged
from tests.eventually import eventually
from tests.family import EXPIRES, HEARTBEAT, SECRET, Family, bearer
from tests.operators.exposition import scrape, value
from tests.players.test_displaced import displace

STATUS = "/api/v1/parental-controls/pin/status"
OTHER_SECRET = "another secret of the tests, long enough"
INVALID = {"detail": "Invalid or expired token"}


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    subject = {"sub": str(uuid4()), "exp": EXPIRES, "iss": "platform", "aud": "viewing", **claims}
    return jwt.encode({k: v for k, v in subject.items() if v is not ...}, secret, algorithm)


CASES = [
    (None, "token_missing", {"detail": "Not authenticated"}),
    ("Basic dXNlcjp4", "token_missing", {"detail": "Not authenticated"}),
    ("Bearer nonsense", "token_malformed", INVALID),
    ("Bearer a.b.c", "token_malformed", INVALID),
    (f"Bearer {token(padding='x' * 9000)}", "token_too_long", INVALID),
    (f"Bearer {token(OTHER_SECRET)}", "token_signature_wrong", INVALID),
    (f"Bearer {token(SECRET * 2, 'HS512')}", "token_key_unknown", INVALID),
    (f"Bearer {token(exp=1)}", "token_expired", INVALID),
    (f"Bearer {token(exp=...)}", "token_without_expiry", INVALID),
    (f"Bearer {token(exp='tomorrow')}", "token_time_malformed", INVALID),
    (f"Bearer {token(nbf=4_000_000_000)}", "token_not_yet_valid", INVALID),
    (f"Bearer {token(purpose='pin_verified')}", "token_of_a_pin", INVALID),
    (f"Bearer {token(iss='somebody')}", "token_issuer_wrong", INVALID),
    (f"Bearer {token(aud=['others'])}", "token_audience_wrong", INVALID),
    (f"Bearer {token(sub='nobody')}", "token_without_account", {"detail": "Invalid token payload"}),
    (f"Bearer {token(sub=...)}", "token_without_account", {"detail": "Invalid token payload"}),
    (f"Bearer {token()}", "account_inactive", {"detail": "User not found or inactive"}),
]


@pytest.fixture
async def strict(start: Starter, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A service that requires issuer, audience and expiry of a token, and reports at once."""
    monkeypatch.setattr(event_loop, "REPORT_SECONDS", 0.02)
    required = {"jwt_issuer": "platform", "jwt_audience": "viewing", "jwt_require_exp": True}
    return await start(msgspec.structs.replace(settings, **required))


async def reported(caplog: pytest.LogCaptureFixture, beats: int) -> Counter[str]:
    """The reasons of refused heartbeats, after `beats` of them have been logged."""
    await eventually(
        lambda: sum(line["heartbeats"] for line in logged(caplog, "heartbeats_refused")) >= beats
    )
    reasons: Counter[str] = Counter()
    for line in logged(caplog, "heartbeats_refused"):
        reasons.update(line["reasons"])
    return reasons


@pytest.mark.parametrize(("header", "reason", "body"), CASES)
async def test_reason_of_a_401_is_in_log_and_metrics_and_not_in_the_response(
    strict: Running,
    header: str | None,
    reason: str,
    body: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    headers = {} if header is None else {"Authorization": header}
    with caplog.at_level(logging.INFO, "viewing_time"):
        answers = [
            await strict.client.get(STATUS, headers=headers),
            await strict.client.post(HEARTBEAT, json=Family().beat(), headers=headers),
            await strict.client.post(HEARTBEAT, json={}, headers=headers),
            await strict.client.get("/api/v1/admin/metrics", headers=headers),
        ]
        assert await reported(caplog, 2) == {reason: 2}
    for answer in answers:
        assert (answer.status_code, answer.json()) == (401, body)
        assert reason not in str(answer.headers)
    assert strict.context.metrics.unauthenticated == {reason: 4}
    shown = await scrape(strict.client)
    assert value(shown, "requests_unauthenticated_total", reason=reason) == 4
    assert value(shown, "heartbeats_refused_total", reason=reason) == 2
    assert [line["reason"] for line in logged(caplog, "request_processed")] == [reason] * 2


@pytest.mark.parametrize("browser", [{}, {"Origin": "http://localhost:5173"}])
async def test_refused_heartbeats_share_a_line_a_second(
    start: Starter,
    settings: Settings,
    family: Family,
    connection: Connection,
    browser: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "REPORT_SECONDS", 0.02)
    running = await start(settings)
    displaced, _ = await displace(running, family)
    headers = {**family.bearer, **browser, "X-Request-ID": "one-of-them"}
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"profile_id": uuid4()}, 403, "profile_denied"),
        ({"title_id": uuid4()}, 404, "title_unknown"),
        ({"session_id": uuid4()}, 404, "session_unknown"),
        ({"session_id": displaced, "exclusive": True}, 409, "session_displaced"),
        ({"device_id": 7}, 422, "field_invalid"),
        ({"device_id": "x" * 70_000}, 413, "body_too_large"),
    ]
    expected: Counter[str] = Counter()
    with caplog.at_level(logging.INFO, "viewing_time"):
        for members, status, reason in cases:
            for _ in range(4):
                body = family.beat(**members)
                answer = await running.client.post(HEARTBEAT, json=body, headers=headers)
                assert answer.status_code == status
                assert answer.headers["x-request-id"] == "one-of-them"
                expected[reason] += 1
        as_json = {**headers, "Content-Type": "application/json"}
        malformed = await running.client.post(HEARTBEAT, content=b"{", headers=as_json)
        assert malformed.status_code == 422
        expected["json_malformed"] += 1
        assert await reported(caplog, 25) == expected
    assert logged(caplog, "request_processed") == []
    lines = logged(caplog, "heartbeats_refused")
    assert all(line["heartbeats"] == sum(line["reasons"].values()) for line in lines)
    first = lines[0]["sample"]
    assert (first["reason"], first["request_id"]) == ("profile_denied", "one-of-them")
    assert {key for line in lines for key in line["sample"]} <= {
        "reason",
        "profile_id",
        "request_id",
    }
    assert family.bearer["Authorization"][7:] not in str([vars(r) for r in caplog.records])
    metrics = running.context.metrics
    assert metrics.heartbeats_refused == 25
    requests = {status: count for (_, _, status), count in metrics.requests.items()}
    assert requests == {200: 2, 403: 4, 404: 8, 409: 4, 422: 5, 413: 4}


async def test_shed_heartbeats_share_a_line_a_second(
    running: Running, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    running.context.writer._closing = True
    headers = {**family.bearer, "Origin": "http://localhost:5173"}
    with caplog.at_level(logging.INFO, "viewing_time"):
        for _ in range(3):
            answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
            assert answer.status_code == 503
        await eventually(
            lambda: sum(line["heartbeats"] for line in logged(caplog, "heartbeats_shed")) >= 3
        )
    assert logged(caplog, "request_failed") == []
    assert running.context.metrics.heartbeats_overloaded == 3


async def test_last_refusals_are_logged_at_shutdown(
    settings: Settings, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "viewing_time"):
        async with in_process(settings) as running:
            await running.client.post(HEARTBEAT, json=family.beat(), headers=bearer(uuid4()))
    [line] = logged(caplog, "heartbeats_refused")
    assert line["reasons"] == {"account_inactive": 1}
    assert line["sample"]["profile_id"] == str(family.child)


async def test_wrong_password_is_counted_separately_from_bad_tokens(
    running: Running, family: Family
) -> None:
    url = "/api/v1/parental-controls/pin/reset"
    wrong = {"password": "wrong", "new_pin": "4321"}
    answer = await running.client.post(url, json=wrong, headers=family.bearer)
    assert answer.status_code == 401
    assert running.context.metrics.unauthenticated == {"password_wrong": 1}
