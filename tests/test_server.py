"""The process and its sockets: graceful shutdown, and misbehaving clients."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from bench.ports import free_port
from bench.procfs import resident_bytes
from service.database.driver import Connection
from service.http import protocol
from service.http.protocol import Protocol
from tests.conftest import ROOT, RunningService, answering, needs_files, served
from tests.eventually import eventually
from tests.family import HEARTBEAT, PIN, SECRET, Family, add_family, session_seconds
from tests.faults.balancer import balanced, haproxied
from tests.faults.proxy import proxied
from tests.faults.watching import add_viewers, all_watching, client_of

GRACE_SECONDS = 4.0
# Allowed on top of it, for the scheduler of a busy machine.
SLACK_SECONDS = 6.0
SETTINGS = {
    "SHUTDOWN_DRAIN_SECONDS": "1",
    "SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS),
    "REQUEST_TIMEOUT_SECONDS": "1",
    "POOL_MIN_SIZE": "1",
    "POOL_MAX_SIZE": "2",
}


def children(pid: int) -> list[int]:
    """The ids of a process and its descendants."""
    found = [pid]
    for each in found:
        for path in Path(f"/proc/{each}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found


async def wait_for_end(process: Any, seconds: float) -> float:
    """Waits for a process to end, `seconds` at most; returns the seconds waited."""
    started_at = time.monotonic()
    await asyncio.to_thread(process.wait, seconds)
    return time.monotonic() - started_at


async def test_service_answers_while_it_drains_and_leaves_nothing_behind(
    database: str, connection: Connection, family: Family
) -> None:
    settings = {**SETTINGS, "SHUTDOWN_DRAIN_SECONDS": "3", "REQUEST_TIMEOUT_SECONDS": "20"}
    async with served(database, **settings) as service, client_of(service.url) as client:
        answer = await client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
        assert "connection" not in answer.headers
        process_ids = children(service.process.pid)
        assert len(process_ids) > 1
        service.process.send_signal(signal.SIGTERM)
        ready = await eventually(
            lambda: client.get("/health/ready"), until=lambda ready: not ready.is_success
        )
        assert ready.status_code == 503
        assert ready.json() == {"status": "degraded", "checks": {"process": "stopping"}}
        assert (await client.get("/health/live")).status_code == 200
        session = answer.json()["session_id"]
        answer = await client.post(
            HEARTBEAT, json=family.beat(session_id=session), headers=family.bearer
        )
        assert (answer.status_code, answer.json()["used_minutes"]) == (200, 1.0)
        assert answer.headers["connection"] == "close"
        assert await wait_for_end(service.process, 60) <= GRACE_SECONDS + SLACK_SECONDS
        assert service.process.returncode == 0
        with pytest.raises(httpx.ConnectError):
            await client.get("/health/live")
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in process_ids))
    left = (
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    await eventually(lambda: connection.fetchval(left), until=partial(eq, 0))


async def test_heartbeats_in_flight_are_answered_and_counted_at_shutdown(
    database: str, connection: Connection
) -> None:
    families = [await add_family(connection) for _ in range(20)]
    settings = {**SETTINGS, "SHUTDOWN_DRAIN_SECONDS": "0", "REQUEST_TIMEOUT_SECONDS": "20"}
    async with served(database, **settings) as service, client_of(service.url) as client:

        async def beat(family: Family, session: Any = None) -> dict[str, Any]:
            body = family.beat(session_id=session)
            answer = await client.post(HEARTBEAT, json=body, headers=family.bearer)
            verdict: dict[str, Any] = answer.json()
            return verdict

        sessions = [(await beat(family))["session_id"] for family in families]
        async with connection.transaction():
            await connection.execute("lock table viewing_sessions")
            beats = asyncio.gather(*map(beat, families, sessions))
            waiting = re.compile(r"^viewing_time_heartbeat_queue_length 20(\.0)?$", re.MULTILINE)
            await eventually(
                lambda: client.get("/metrics"), until=lambda shown: waiting.search(shown.text)
            )
            service.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
        assert {verdict["used_minutes"] for verdict in await beats} == {1.0}
        await wait_for_end(service.process, 60)
    for family in families:
        assert await session_seconds(connection, family.child) == 60


async def test_a_second_signal_ends_the_drain(database: str) -> None:
    settings = {**SETTINGS, "SHUTDOWN_DRAIN_SECONDS": "60"}
    async with served(database, **settings) as service, client_of(service.url) as client:
        service.process.send_signal(signal.SIGTERM)
        await eventually(
            lambda: client.get("/health/ready"), until=lambda ready: not ready.is_success
        )
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGTERM)
        assert await wait_for_end(service.process, 60) <= GRACE_SECONDS + SLACK_SECONDS
        assert service.process.returncode == 0


async def test_shutdown_is_in_time_while_the_database_does_not_answer(
    database: str, family: Family
) -> None:
    async with AsyncExitStack() as parts:
        proxy = await parts.enter_async_context(proxied(database))
        service = await parts.enter_async_context(served(proxy.dsn, **SETTINGS))
        client = await parts.enter_async_context(client_of(service.url))
        assert (await client.get("/health/ready")).status_code == 200
        proxy.turn("black hole")
        beats = [
            client.post(HEARTBEAT, json=family.beat(), headers=family.bearer) for _ in range(10)
        ]
        waiting = asyncio.gather(*beats)
        await asyncio.sleep(0.2)
        service.process.send_signal(signal.SIGTERM)
        took = await wait_for_end(service.process, 60)
        print(f"stopped within {took:.2f} s")
        assert took <= GRACE_SECONDS + SLACK_SECONDS
        assert {answer.json()["enforcement"] for answer in await waiting} == {"blocked"}


@pytest.mark.parametrize("balancer", ["ours", "haproxy"])
async def test_a_rolling_restart_loses_no_request(
    database: str, connection: Connection, balancer: str
) -> None:
    if balancer == "haproxy" and not shutil.which("haproxy"):
        pytest.skip("haproxy is not installed")
    viewers = await add_viewers(connection, 8)
    settings = {**SETTINGS, "SHUTDOWN_DRAIN_SECONDS": "2", "REQUEST_TIMEOUT_SECONDS": "20"}
    ports = [free_port(), free_port()]
    async with AsyncExitStack() as parts:
        instances = [AsyncExitStack(), AsyncExitStack()]
        for instance, port in zip(instances, ports, strict=True):
            await parts.enter_async_context(instance)
            await instance.enter_async_context(served(database, PORT=str(port), **settings))
        place = balanced if balancer == "ours" else haproxied
        client = await parts.enter_async_context(
            client_of(await parts.enter_async_context(place(ports)))
        )
        await asyncio.sleep(0.5)
        async with all_watching(client, viewers):
            for instance, port in zip(instances, ports, strict=True):
                await asyncio.sleep(0.5)
                await instance.aclose()
                await asyncio.sleep(0.2)
                await instance.enter_async_context(served(database, PORT=str(port), **settings))
            await eventually(lambda: all(viewer.acknowledged > 20 for viewer in viewers))
    for viewer in viewers:
        await viewer.settle(connection)
        assert viewer.unknown == 0
        assert {answer.status for answer in viewer.answers} <= {200, 503}


@asynccontextmanager
async def wire(service: RunningService) -> AsyncIterator[tuple[asyncio.StreamReader, Any]]:
    """A bare connection to a service."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rsplit(":", 1)[1]))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """The bytes that a service sends until it closes the connection."""
    received = b""
    try:
        while part := await reader.read(65536):
            received += part
    except ConnectionError:
        pass  # the service closed the connection before it read everything
    return received


def head(family: Family, *lines: str) -> bytes:
    lines = (f"POST {HEARTBEAT} HTTP/1.1", "Host: service.test", *lines)
    headers = {**family.bearer, "Content-Type": "application/json"}
    return "\r\n".join([*lines, *(f"{n}: {v}" for n, v in headers.items()), "", ""]).encode()


def request(family: Family, **members: Any) -> bytes:
    body = msgspec.json.encode(family.beat(**members))
    return head(family, f"Content-Length: {len(body)}") + body


@pytest.fixture
async def household(service: RunningService) -> AsyncIterator[tuple[Connection, Family]]:
    """A connection to the database of the shared service, and a family in it."""
    opened = await asyncpg.connect(service.dsn)
    yield opened, await add_family(opened)
    await opened.close()


async def test_long_request_head_is_400(
    service: RunningService, household: tuple[Connection, Family]
) -> None:
    connection, family = household
    body = msgspec.json.encode(family.beat())
    long = head(family, f"Content-Length: {len(body)}", "X-Long: " + "x" * 100 * 1024) + body
    for part in (len(long), 10_000):
        async with wire(service) as (reader, writer):
            for start in range(0, len(long), part):
                writer.write(long[start : start + part])
                await asyncio.sleep(0.001)
            received = await until_closed(reader)
        assert received.startswith(b"HTTP/1.1 400 ") or part < len(long)
    assert await session_seconds(connection, family.child) == 0
    async with wire(service) as (reader, writer):
        writer.write(head(family, f"Content-Length: {len(body)}", "X: " + "x" * 60_000) + body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_endless_body_is_413(
    service: RunningService, household: tuple[Connection, Family]
) -> None:
    _, family = household
    async with wire(service) as (reader, writer):
        writer.write(head(family, "Transfer-Encoding: chunked"))
        for _ in range(3):
            writer.write(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
        received = await until_closed(reader)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in received.lower()


async def test_stalled_body_is_408(
    service: RunningService, household: tuple[Connection, Family]
) -> None:
    connection, family = household
    async with wire(service) as (reader, writer):
        writer.write(request(family)[:-5])
        received = await until_closed(reader)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert await session_seconds(connection, family.child) == 0


async def test_pipelined_requests_are_answered_in_order(
    service: RunningService, household: tuple[Connection, Family]
) -> None:
    connection, family = household
    async with wire(service) as (reader, writer):
        ready = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write((request(family) + ready) * 20 + ready[:-2] + b"Connection: close\r\n\r\n")
        received = await until_closed(reader)
    bodies = re.findall(rb"\r\n\r\n(\{.*?\})(?=HTTP|$)", received)
    assert len(bodies) == 41
    assert [msgspec.json.decode(b)["used_minutes"] for b in bodies[0:40:2]] == [
        n / 2 for n in range(1, 21)
    ]
    assert set(bodies[1::2]) == {b'{"status":"ok"}'}
    assert await session_seconds(connection, family.child) == 600


async def test_a_thousand_idle_connections_cost_little_and_delay_no_request(
    service: RunningService, household: tuple[Connection, Family]
) -> None:
    needs_files(1_200)
    connection, family = household
    async with AsyncExitStack() as idle:
        before = resident_bytes(service.process.pid)
        for _ in range(1000):
            await idle.enter_async_context(wire(service))
        async with client_of(service.url) as client:
            for _ in range(20):
                answer = await client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
                assert answer.json()["enforcement"] != "blocked"
        grown = resident_bytes(service.process.pid) - before
    print(f"{grown / 1000 / 1024:.1f} KiB each")
    assert grown < 1000 * 40 * 1024
    assert await session_seconds(connection, family.child) == 600


class Transport(asyncio.Transport):
    """Collects the bytes written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = self.aborted = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def write(self, data: Any) -> None: ...

    def pause_reading(self) -> None: ...


async def never_responding(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("segments", "is_closed"),
    [
        ([b"GET / HTTP/1.1\r\nX: ", *[b"x"] * 100], True),  # never a complete head
        ([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], False),  # a slow response
        ([], True),  # no byte at all
    ],
)
async def test_client_without_a_complete_head_is_closed_after_a_timeout(
    segments: list[bytes], is_closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    config = uvicorn.Config(never_responding, http=Protocol, log_config=None, lifespan="off")
    config.timeout_keep_alive = 0.2  # type: ignore[assignment]  # a fraction of a second
    config.load()
    state, transport = ServerState(), Transport()
    served_here = Protocol(config, state, {})
    served_here.connection_made(transport)
    for part in segments:
        if transport.closed:
            break
        served_here.data_received(part)
        await asyncio.sleep(0.003)
    await asyncio.sleep(0 if transport.closed else 0.3)
    served_here.connection_lost(ConnectionResetError())
    for task in state.tasks:
        task.cancel()
    assert transport.closed == is_closed


@pytest.mark.parametrize("is_read_again", [False, True])
async def test_client_that_does_not_read_is_aborted_after_a_timeout(
    is_read_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.05)
    config = uvicorn.Config(never_responding, http=Protocol, log_config=None, lifespan="off")
    config.load()
    state, transport = ServerState(), Transport()
    served_here = Protocol(config, state, {})
    served_here.connection_made(transport)
    served_here.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    served_here.pause_writing()
    if is_read_again:
        served_here.resume_writing()
    await asyncio.sleep(0.2)
    served_here.connection_lost(ConnectionResetError())
    for task in state.tasks:
        task.cancel()
    assert transport.aborted != is_read_again


async def test_sighup_interrupts_no_request(database: str, connection: Connection) -> None:
    families = [await add_family(connection) for _ in range(5)]
    settings = {**SETTINGS, "SHUTDOWN_DRAIN_SECONDS": "0", "REQUEST_TIMEOUT_SECONDS": "20"}
    async with served(database, **settings) as service, client_of(service.url) as client:
        waiting = re.compile(r"^viewing_time_heartbeat_queue_length 5(\.0)?$", re.MULTILINE)
        async with connection.transaction():
            await connection.execute("lock table viewing_sessions")
            beats = asyncio.gather(
                *(
                    client.post(HEARTBEAT, json=each.beat(), headers=each.bearer)
                    for each in families
                )
            )
            await eventually(
                lambda: client.get("/metrics"), until=lambda shown: waiting.search(shown.text)
            )
            for process in children(service.process.pid):
                os.kill(process, signal.SIGHUP)
            assert (await client.get("/health/ready")).status_code == 200
        assert {answer.json()["enforcement"] for answer in await beats} == {"allowed"}
        headers = families[0].bearer
        pin = {"pin": PIN}
        verified = "/api/v1/parental-controls/pin/verify"
        assert (await client.post(verified, json=pin, headers=headers)).status_code == 200
        assert service.process.poll() is None


ON_A_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "service", "serve"])
"""


async def test_service_stops_when_its_terminal_is_closed(database: str) -> None:
    port = str(free_port())
    environment = {**os.environ, **SETTINGS, "DATABASE_URL": database, "PORT": port}
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL],
        cwd=ROOT,
        env={**environment, "JWT_SECRET": SECRET},
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        await answering(f"http://127.0.0.1:{port}", process)
        process.send_signal(signal.SIGHUP)
        await answering(f"http://127.0.0.1:{port}", process)
        os.close(controller)
        await wait_for_end(process, 20)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
            await asyncio.to_thread(process.wait, 60)


async def test_idle_connection_is_closed_after_keep_alive_seconds(database: str) -> None:
    async with (
        served(database, **SETTINGS, KEEP_ALIVE_SECONDS="1") as service,
        wire(service) as (reader, writer),
    ):
        started_at = time.monotonic()
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        received = await until_closed(reader)
        took = time.monotonic() - started_at
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" not in received
    assert 0.9 <= took < 60


async def test_connection_stays_usable_after_a_shed_heartbeat(
    database: str, connection: Connection, family: Family
) -> None:
    """Heartbeats beyond the bound of the queue are rejected before their body is read."""
    settings = {**SETTINGS, "HEARTBEAT_QUEUE_MAX": "1", "REQUEST_TIMEOUT_SECONDS": "20"}
    async with served(database, **settings) as service, client_of(service.url) as client:
        async with connection.transaction(), wire(service) as (reader, writer):
            await connection.execute("lock table viewing_sessions")
            waiting = re.compile(r"^viewing_time_heartbeat_queue_length 1(\.0)?$", re.MULTILINE)
            beat = asyncio.create_task(
                client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
            )
            await eventually(
                lambda: client.get("/metrics"), until=lambda shown: waiting.search(shown.text)
            )
            body = msgspec.json.encode(family.beat())
            chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
            for framing, sent in (
                (f"Content-Length: {len(body)}", body),
                ("Transfer-Encoding: chunked", chunks),
                ("Transfer-Encoding: chunked", b"8000\r\n" + b" " * 0x8000 + b"\r\n0\r\n\r\n"),
            ):
                writer.write(head(family, framing))
                answer = await reader.readuntil(b'unavailable"}')
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"connection" not in answer
                writer.write(sent + b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = await reader.readuntil(b'{"status":"ok"}')
                assert answer.startswith(b"HTTP/1.1 200 ")
        assert (await beat).status_code == 200


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/health/live/", "/health/live"),
        ("/health/live///?a=b%20c&d=//e", "/health/live?a=b%20c&d=//e"),
        ("/health/live%2F", "/health/live"),
        (
            "/api/v1/viewing-time/balance/a%3Fb%0D%0Ac%25/",
            "/api/v1/viewing-time/balance/a%3Fb%0D%0Ac%25",
        ),
        ("http://other.test/health/live/", "/health/live"),
        ("//other.test/", None),
        ("/%2F", None),
        ("/health/none/", None),
    ],
)
async def test_a_redirect_names_no_host(
    service: RunningService, target: str, location: str | None
) -> None:
    lines = ["Host: evil.test", "X-Forwarded-Host: evil.test", "Connection: close"]
    async with wire(service) as (reader, writer):
        writer.write("\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""]).encode())
        received = await until_closed(reader)
    found = re.search(rb"^location: (.*)\r$", received, re.MULTILINE)
    assert (found and found[1].decode()) == location
    assert received.startswith(b"HTTP/1.1 307 " if location else b"HTTP/1.1 404 ")


async def test_the_metrics_port_redirects_without_a_host(database: str) -> None:
    settings = {**SETTINGS, "METRICS_PORT": str(free_port())}
    async with served(database, **settings), httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(f"http://127.0.0.1:{settings['METRICS_PORT']}/metrics/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/metrics")
