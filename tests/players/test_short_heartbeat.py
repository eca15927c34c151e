"""Plain heartbeats are answered on the short path, and every other one as on the ordinary path."""

import asyncio
import logging
from collections import Counter
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from msgspec.structs import replace

from service.database.driver import Connection
from service.dispatch import Service
from service.observing.trace import CURRENT
from service.players import beats
from service.settings import Settings
from service.viewing.heartbeat_statement import Beat, DayUnknown
from service.viewing.recorded_row import Recorded
from tests.conftest import Running, Starter, in_process, logged
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family, add_family, session_seconds

JSON: Final = {"Content-Type": "application/json"}
VARYING: Final = ("date", "x-request-id")


@pytest.fixture(params=[True])
def short_path(request: pytest.FixtureRequest) -> bool:
    """The short path only: these tests are about it."""
    is_short: bool = request.param
    return is_short


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the heartbeats that reach the application."""
    calls: Counter[str] = Counter()
    heartbeat = Service.heartbeat

    async def counted(self: Service, *arguments: Any) -> None:
        calls["all"] += 1
        calls["recorded"] += len(arguments) == 4
        await heartbeat(self, *arguments)

    monkeypatch.setattr(Service, "heartbeat", counted)
    return calls


async def beat(running: Running, family: Family, **members: Any) -> httpx.Response:
    body = family.beat(**members)
    return await running.client.post(HEARTBEAT, json=body, headers=family.bearer)


async def test_only_the_first_beat_of_a_profile_reaches_the_application(
    running: Running, connection: Connection, family: Family, ordinary: Counter[str]
) -> None:
    session = (await beat(running, family)).json()["session_id"]
    for number in range(2, 5):
        verdict = (await beat(running, family, session_id=session)).json()
        assert verdict["used_minutes"] == number / 2
    assert ordinary["all"] == 1
    assert await session_seconds(connection, family.child) == 120


def unusual(family: Family, other: Family) -> list[dict[str, Any]]:
    """Requests that are refused, or answered in another way than most."""
    good, bearer = family.beat(), family.bearer
    bodies: list[dict[str, Any]] = [
        {"profile_id": str(other.child)},
        {"title_id": str(uuid4())},
        {"session_id": str(uuid4())},
        {"device_id": 7},
        {"is_paused": "yes"},
        {"exclusive": True},
        {"profile_id": str(family.adult)},
        {"title_id": str(family.lesson)},
    ]
    headers: list[dict[str, str]] = [
        {"Authorization": "Bearer bad"},
        {"Origin": "http://localhost:5173"},
        {"Origin": "http://elsewhere.test"},
        {"X-Request-ID": "beat-1"},
        {"X-Request-ID": "not valid"},
        {"Idempotency-Key": "two words"},
        {"Prefer": "respond-async, decision"},
        {"Prefer": "decision=no"},
        {"Content-Type": "text/plain"},
        {"Connection": "close"},
    ]
    raw = [b"", b"{", b"[]", b"null", b'{"profile_id": "\\u0000"}', b"\xff", b"{" * 5000]
    return [
        *({"json": good | members, "headers": bearer} for members in bodies),
        *({"json": good, "headers": bearer | JSON | more} for more in headers),
        {"json": good, "headers": {}},
        *({"content": content, "headers": bearer | JSON} for content in raw),
        {"content": b"x" * 70_000, "headers": bearer | JSON},
    ]


async def test_both_paths_answer_alike(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    other = await add_family(connection)
    short, long = await start(settings), await start(replace(settings, short_path=False))
    for running in (short, long):
        for profile in (family.child, family.adult):
            assert (await beat(running, family, profile_id=str(profile))).is_success
    for request in unusual(family, other):
        seen = []
        for running in (short, long):
            await connection.execute("delete from viewing_sessions")
            await connection.execute("delete from viewing_time_balances")
            answer = await running.client.post(HEARTBEAT, **request)
            headers = {n: v for n, v in answer.headers.items() if n not in VARYING}
            has_id = "x-request-id" in answer.headers
            seen.append((answer.status_code, without_ids(answer), headers, has_id))
        assert seen[0] == seen[1], request
    counts = [running.context.metrics for running in (short, long)]
    for name in ("requests", "refusals", "unauthenticated", "verdicts", "failures"):
        assert getattr(counts[0], name) == getattr(counts[1], name)


def without_ids(answer: httpx.Response) -> Any:
    """The body; the id of a new session differs."""
    body: dict[str, Any] = answer.json()
    return {**body, "session_id": None} if answer.is_success else body


async def test_a_refused_beat_is_handed_over_once(
    running: Running, family: Family, ordinary: Counter[str]
) -> None:
    await beat(running, family)
    statements = running.context.metrics.heartbeat_statements
    answer = await beat(running, family, session_id=str(uuid4()))
    assert (answer.status_code, answer.json()) == (404, {"detail": "Session not found"})
    assert ordinary["recorded"] == 1
    assert running.context.metrics.heartbeat_statements == statements + 1


async def test_a_beat_that_is_late_is_blocked_and_not_counted(
    start: Starter,
    settings: Settings,
    connection: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = await start(replace(settings, request_timeout_seconds=1.0))
    session = (await beat(running, family)).json()["session_id"]
    with caplog.at_level("INFO", "viewing_time"):
        async with connection.transaction():
            await connection.execute("lock table titles")
            held = asyncio.create_task(beat(running, family, session_id=session))
            await eventually(lambda: running.context.writer.waiting, until=bool)
            verdicts = [
                (await beat(running, family, session_id=session)).json(),
                (await held).json(),
            ]
        assert [verdict["enforcement"] for verdict in verdicts] == ["blocked", "blocked"]
    lines = logged(caplog, "heartbeat_processed")
    assert {line["enforcement"] for line in lines} == {"blocked"}
    assert len(lines) == running.context.metrics.heartbeats_failed_closed == 2


async def test_a_beat_that_is_handed_over_keeps_its_deadline(
    start: Starter, settings: Settings, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await start(replace(settings, request_timeout_seconds=2.0))
    await beat(running, family)
    loop = asyncio.get_running_loop()

    def record(_: Beat) -> asyncio.Future[Recorded]:
        outcome: asyncio.Future[Recorded] = loop.create_future()
        loop.call_later(1.8, outcome.set_exception, DayUnknown(None))
        return outcome

    async def get(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(running.context.writer, "record", record)
    monkeypatch.setattr(running.context.configurations, "get", get)
    sent_at = loop.time()
    assert (await beat(running, family)).json()["enforcement"] == "blocked"
    assert loop.time() - sent_at < 3.5


async def test_a_stop_does_not_wait_for_the_deadline_of_a_beat(
    settings: Settings, connection: Connection, family: Family
) -> None:
    transaction = connection.transaction()
    async with in_process(settings) as running:
        await beat(running, family)
        await transaction.start()
        await connection.execute("lock table titles")
        held = asyncio.create_task(beat(running, family))
        await eventually(lambda: running.context.writer.waiting, until=bool)
        stopping_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopping_at < 50
    assert (await held).json()["enforcement"] == "blocked"
    await transaction.rollback()


async def test_the_beat_of_a_client_that_has_gone_is_counted(
    running: Running, connection: Connection, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    session = (await beat(running, family)).json()["session_id"]
    async with connection.transaction():
        await connection.execute("lock table titles")
        gone = asyncio.create_task(beat(running, family, session_id=session))
        await eventually(lambda: running.context.writer.waiting, until=bool)
        gone.cancel()
    await eventually(
        lambda: session_seconds(connection, family.child), until=lambda seconds: seconds == 60
    )
    await eventually(lambda: running.context.metrics.heartbeats.count, until=lambda n: n == 2)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_bug_behind_the_statement_blocks_and_is_logged_once(
    running: Running,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await beat(running, family)
    monkeypatch.setattr(beats, "verdict", lambda *_: 1 / 0)
    assert (await beat(running, family)).json()["enforcement"] == "blocked"
    [line] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert line.exc_info is not None
    assert line.exc_info[0] is ZeroDivisionError
    assert running.context.metrics.failures["own"] == 1


async def test_a_logged_beat_has_the_id_of_its_response(
    start: Starter, settings: Settings, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start(replace(settings, heartbeat_log_sample=1))
    await beat(running, family)
    ids: list[str] = []

    def of_request(record: logging.LogRecord) -> bool:
        if trace := CURRENT.get():
            ids.append(trace.request_id)
        return True

    caplog.handler.addFilter(of_request)
    with caplog.at_level("INFO", "viewing_time"):
        headers = family.bearer | {"X-Request-ID": "not valid"}
        answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
    [line] = logged(caplog, "heartbeat_processed")
    assert ids == [answer.headers["x-request-id"]]
    assert line["db_ops"] == 1
