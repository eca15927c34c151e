"""A log line is one JSON object; secrets are masked; logging never blocks."""

import asyncio
import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from pathlib import Path

import httpx
import orjson
import pytest

from bench.ports import free_port
from service.database.driver import Connection
from service.observing import logs
from service.observing.logs import JsonLine, ReadableLine
from service.observing.trace import CURRENT, Trace
from service.settings import Settings, masked
from tests.conftest import ROOT, answering
from tests.family import HEARTBEAT, PIN, PIN_HASH, SECRET, Family, session_seconds


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("viewing_time.test", logging.INFO, "f", 1, message, (), None)
    made.fields = fields
    return made


def test_a_line_is_json_with_the_fields_beside_the_event() -> None:
    line = JsonLine().format(record("beat\nhappened", profile_id="p", seconds=30))
    assert "\n" not in line
    shown = orjson.loads(line)
    assert shown.pop("ts").endswith("Z")
    assert shown == {
        "level": "INFO",
        "logger": "viewing_time.test",
        "event": "beat\nhappened",
        "profile_id": "p",
        "seconds": 30,
    }


def test_an_error_carries_its_cause() -> None:
    made = record("failed")
    try:
        raise ValueError("the cause")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: the cause" in orjson.loads(JsonLine().format(made))["error"]
    assert "ValueError: the cause" in ReadableLine().format(made)


def test_readable_lines_escape_line_breaks_and_terminal_sequences() -> None:
    line = ReadableLine().format(record("beat", device="\n2027 ERROR forged\x1b[31m Zoë"))
    assert line.endswith(r" INFO    beat device=\n2027 ERROR forged\x1b[31m Zoë")
    assert line.isprintable()


def test_secrets_are_masked() -> None:
    shown = masked(Settings(database_url="postgresql://u:secret@h/d", jwt_secret="s" * 32))
    assert "secret" not in str(shown).replace("jwt_secret", "").replace("webhook_secret", "")
    assert (shown["jwt_secret"], shown["port"]) == ("***", 8000)


SCRIPT = """
import logging, sys, time
from service.observing import logs
logs.MAX_LINES, logs.STOP_SECONDS = 50, 0.2
with logs.logging_to_stdout("DEBUG"):
    logger = logging.getLogger("viewing_time.test")
    started_at = time.monotonic()
    for number in range(5000):
        logger.debug("line", extra={"fields": {"number": number, "text": "x" * 200}})
    took = time.monotonic() - started_at
print(took, logs.HANDLER.dropped, file=sys.stderr)
"""


def run(stdout: int | None, *, closed: bool = False) -> tuple[float, int]:
    """Logs 5,000 lines to `stdout`; returns the seconds taken and the lines dropped."""
    command = [sys.executable, "-c", SCRIPT]
    if closed:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(
        command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, timeout=120, check=True
    )
    took, dropped = done.stderr.split()
    return float(took), int(dropped)


def test_full_pipe_does_not_block_logging() -> None:
    unread, full = os.pipe()
    try:
        _, dropped = run(full)
    finally:
        os.close(unread)
        os.close(full)
    # A pipe buffers 64 KiB, about 200 of these lines; the queue holds 50 more.
    assert 4000 < dropped < 5000


def test_broken_pipe_does_not_block_logging() -> None:
    unread, broken = os.pipe()
    os.close(unread)
    try:
        _, dropped = run(broken)
    finally:
        os.close(broken)
    assert dropped >= 4950


def test_closed_standard_output_does_not_block_logging() -> None:
    _, dropped = run(None, closed=True)
    assert dropped >= 4950


def test_number_of_dropped_lines_is_logged(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = logs.QueuedHandler()
    lines.setFormatter(JsonLine())
    monkeypatch.setattr(logs, "MAX_LINES", 2)
    for number in range(5):
        lines.handle(record("line", number=number))
    assert lines.dropped == 3
    lines.start(1)
    lines.stop()
    written = [orjson.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    # Its position depends on how many lines wait when the writer starts.
    dropped = [line for line in written if line["event"] == "log_lines_dropped"]
    assert [line["number"] for line in written if line not in dropped] == [0, 1]
    assert [line["lines"] for line in dropped] == [3]


class Unreadable:
    def __str__(self) -> str:
        raise RecursionError


def test_line_that_cannot_be_formatted_is_replaced_and_logging_continues(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    lines = logs.QueuedHandler()
    lines.setFormatter(JsonLine())
    unreadable = logging.makeLogRecord({"name": "viewing_time.x", "msg": Unreadable()})
    for line in (record("before"), unreadable, record("after")):
        lines.handle(line)
    lines.start(1)
    lines.stop()
    written = [orjson.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["event"] for line in written] == ["before", "log_line_unreadable", "after"]
    assert (written[1]["source"], written[1]["error"]) == ("viewing_time.x", "RecursionError")
    assert lines.dropped == 1


def test_a_line_carries_the_request_it_belongs_to(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    lines = logs.QueuedHandler()
    lines.setFormatter(JsonLine())
    trace = f"00-{'a' * 32}-{'b' * 16}-01".encode()

    def within_a_request() -> None:
        CURRENT.set(Trace(b"r-1", trace))
        lines.handle(record("inside"))

    copy_context().run(within_a_request)
    lines.handle(record("outside"))
    lines.start(1)
    lines.stop()
    inside, outside = (orjson.loads(line) for line in capfdbinary.readouterr().out.splitlines())
    assert inside["request_id"] == "r-1"
    assert (inside["trace_id"], inside["parent_id"]) == ("a" * 32, "b" * 16)
    assert "request_id" not in outside


@asynccontextmanager
async def serving(database: str, stdout: int, *, closed: bool = False) -> AsyncIterator[str]:
    """The address of a service that logs every event to `stdout`; it must exit with 0."""
    port = str(free_port())
    variables = {"PORT": port, "LOG_LEVEL": "DEBUG", "HEARTBEAT_LOG_SAMPLE": "1"}
    environment = {**os.environ, "DATABASE_URL": database, "JWT_SECRET": SECRET, **variables}
    command = [sys.executable, "-m", "service", "serve"]
    if closed:
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout)
    try:
        url = f"http://127.0.0.1:{port}"
        await answering(url, process)
        yield url
    finally:
        process.terminate()
        code = await asyncio.to_thread(process.wait, 60)
    assert code == 0


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "unread"])
async def test_service_answers_while_its_log_is_closed_or_unread(
    database: str, connection: Connection, family: Family, closed: bool
) -> None:
    unread, full = os.pipe()
    fcntl.fcntl(full, fcntl.F_SETPIPE_SZ, 4096)
    try:
        async with (
            serving(database, full, closed=closed) as url,
            httpx.AsyncClient(timeout=60) as client,
        ):
            for _ in range(100):
                beat = family.beat()
                answer = await client.post(f"{url}{HEARTBEAT}", json=beat, headers=family.bearer)
                assert answer.status_code == 200
    finally:
        os.close(unread)
        os.close(full)
    assert await session_seconds(connection, family.child) == 100 * 30


async def test_log_of_a_service_is_json_without_secrets(
    database: str, family: Family, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with path.open("wb") as log:
        async with serving(database, log.fileno()) as url, httpx.AsyncClient(timeout=60) as client:
            verify = f"{url}/api/v1/parental-controls/pin/verify"
            answer = await client.post(verify, json={"pin": PIN}, headers=family.bearer)
            await client.post(f"{url}{HEARTBEAT}", json=family.beat(), headers=family.bearer)
    raw = path.read_text()
    token = family.bearer["Authorization"].removeprefix("Bearer ")
    secrets = [SECRET, token, answer.json()["pin_token"], PIN_HASH, f'"{PIN}"']
    assert [secret for secret in secrets if secret in raw] == []
    lines = {line["event"]: line for line in map(orjson.loads, raw.splitlines())}
    events = ["started", "request_processed", "heartbeat_processed", "stopping", "stopped"]
    assert [event for event in lines if event in events] == events
    assert lines["started"]["jwt_secret"] == "***"
    assert lines["request_processed"]["request_id"]
    assert lines["heartbeat_processed"]["profile_id"] == str(family.child)
