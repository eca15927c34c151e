"""The benchmark measures correctly, on data that the service accepts."""

import asyncio
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import cast
from uuid import UUID
from xml.etree import ElementTree

import pytest
from httpx import ASGITransport, AsyncClient

from bench import chart, decisions, policy, receiver, seed
from bench.figure import Figure, Target, number, table
from bench.harness import QUICK, Bench, Reading
from bench.load import main
from bench.load_process import LoadProcess
from bench.peer import Peer
from bench.plan import Outcome, Plan, percentile, together
from bench.procfs import cpu_seconds, listen_drops, resident_bytes
from service.database.driver import Connection
from tests.conftest import served

ALLOWED = b'{"enforcement":"allowed"}'
Answer = Callable[[int], Awaitable[tuple[int, bytes]]]


def test_percentile_is_a_measured_value() -> None:
    ranked = [1.0, 2.0, 3.0, 4.0]
    assert [percentile(ranked, share) for share in (0, 25, 50, 75, 95, 100)] == [1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (0.7, Target(0.7, 1.0, at_least=True), "met"),
        (0.69, Target(0.7, 1.0, at_least=True), "MISSED"),
        (1.0, Target(0.7, 1.0, at_least=True), "stretch"),
        (1.5, Target(1.5, 1.2), "met"),
        (1.51, Target(1.5, 1.2), "MISSED"),
        (1.2, Target(1.5, 1.2), "stretch"),
        (0, Target(0), "met"),
        (1, Target(0), "MISSED"),
    ],
)
def test_verdict_compares_a_value_with_its_target(
    value: float, target: Target, verdict: str
) -> None:
    assert target.verdict(value) == verdict


def test_numbers_are_short_and_plain() -> None:
    values = (0, 1, 12345.6, 99.94, 1.234, 0.00512)
    assert [number(value) for value in values] == ["0", "1", "12,346", "99.9", "1.23", "0.0051"]


def test_table_has_a_line_for_each_figure() -> None:
    lines = table([Figure("p95", 12.5, "ms", Target(10, 3)), Figure("rate", 9000, "/s")]).split(
        "\n"
    )
    assert lines[1].split() == ["p95", "12.5", "ms", "≤", "10", "≤", "3", "MISSED"]
    assert lines[2].split() == ["rate", "9,000", "/s"]


def test_chart_is_xml_with_a_bar_for_each_target() -> None:
    figures = [
        Figure("a < b & c", 2, "x", Target(1)),
        Figure("d", 5, "ms", Target(10)),
        Figure("e", 0, "", Target(0)),
        Figure("f", 0, "", Target(1, at_least=True)),
        Figure("no target", 1),
    ]
    picture = ElementTree.fromstring(chart.chart("two\nlines", figures))
    kinds = [bar.get("class") for bar in picture.iter("{http://www.w3.org/2000/svg}rect")]
    assert kinds == ["page", "missed", "kept", "kept", "missed"]


def test_cpu_time_includes_children_that_have_ended() -> None:
    """A grandchild uses 0.3 s of CPU and ends before the time of its parent is read."""
    work = "import time\nwhile time.process_time() < 0.3: pass"
    parent = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {work!r}])\n"
        "print('done', flush=True)\n"
        "sys.stdin.read()"
    )
    before = cpu_seconds(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert cpu_seconds(process.pid) >= 0.2
        assert cpu_seconds(os.getpid()) - before >= 0.2
        assert resident_bytes(process.pid) > 2**20


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[int]:
    """A server that sends status and body from `answer(n)`; status 0 closes the connection."""
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                status, body = 200, ALLOWED
                if head.startswith(b"POST"):
                    seen += 1
                    status, body = await answer(seen)
                if not status:
                    break
                # In two pieces, as servers do.
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                await writer.drain()
                writer.write(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def requests(folder: Path, number: int) -> str:
    path = folder / "requests"
    path.write_bytes(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n\0" * number)
    return str(path)


async def played(plan: Plan) -> Outcome:
    async with asyncio.timeout(60):
        return await main(plan)


async def test_each_request_is_sent_once(tmp_path: Path) -> None:
    async def allowed(_: int) -> tuple[int, bytes]:
        return 200, ALLOWED

    async with answering(allowed) as port:
        outcome = await played(Plan(port, requests(tmp_path, 50), connections=4))
    assert (outcome.completed, outcome.errors) == (50, 0)


async def test_errors_blocked_responses_and_lost_connections_are_counted(tmp_path: Path) -> None:
    async def faulty(number: int) -> tuple[int, bytes]:
        answers = {2: (500, b"{}"), 5: (200, b'{"enforcement":"blocked"}'), 7: (0, b"")}
        return answers.get(number, (200, ALLOWED))

    async with answering(faulty) as port:
        outcome = await played(Plan(port, requests(tmp_path, 20), connections=2))
    assert (outcome.completed, outcome.errors) == (20, 3)
    assert outcome.first_error.startswith("HTTP/1.1 500")


async def test_a_burst_has_every_connection_open_at_once(tmp_path: Path) -> None:
    everybody = asyncio.Event()

    async def together(number: int) -> tuple[int, bytes]:
        if number == 20:
            everybody.set()
        await everybody.wait()
        return {3: 500, 5: 0}.get(number, 200), ALLOWED

    async with answering(together) as port:
        outcome = await played(Plan(port, requests(tmp_path, 20), connections=20, at_once=True))
    assert (outcome.completed, outcome.errors) == (20, 2)


def test_connections_that_a_listening_socket_drops_are_counted() -> None:
    before = listen_drops()
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as server:
        clients = [socket.socket() for _ in range(5)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        assert listen_drops() - before >= 3
        for client in clients:
            client.close()


async def test_a_closed_loop_ends_in_time(tmp_path: Path) -> None:
    answers = 0

    async def allowed(number: int) -> tuple[int, bytes]:
        nonlocal answers
        answers = number
        await asyncio.sleep(0.01)
        return 200, ALLOWED

    async with answering(allowed) as port:
        outcome = await played(Plan(port, requests(tmp_path, 8), connections=8, seconds=0.2))
    assert outcome.completed == answers
    assert outcome.errors == 0
    assert outcome.seconds >= 0.2


async def test_open_loop_counts_the_wait_of_delayed_requests(tmp_path: Path) -> None:
    """A slow response delays those behind it; the latency of each counts from when it was due."""

    async def slow_once(number: int) -> tuple[int, bytes]:
        await asyncio.sleep(0.5 if number == 1 else 0)
        return 200, ALLOWED

    async with answering(slow_once) as port:
        plan = Plan(port, requests(tmp_path, 100), connections=1, seconds=0.4, rate=100)
        outcome = await played(plan)
    assert (outcome.completed, outcome.errors) == (40, 0)
    assert outcome.p50_ms > 100
    assert outcome.client_us > 0


@pytest.mark.parametrize("rate", [0, 100])
async def test_a_window_begins_with_the_connections_open(tmp_path: Path, rate: float) -> None:
    """The client has connected before it sends, and closes after the window."""
    seen = 0

    async def allowed(number: int) -> tuple[int, bytes]:
        nonlocal seen
        seen = number
        return 200, ALLOWED

    async with answering(allowed) as port:
        plan = Plan(port, requests(tmp_path, 8), connections=2, seconds=0.2, rate=rate)
        async with asyncio.timeout(60), LoadProcess(plan) as client:
            assert seen == 0
            await client.run()
            answered = seen
            assert answered > 0
            outcome = await client.outcome()
    assert (outcome.completed, outcome.errors) == (answered, 0)


def test_outcome_of_several_clients_has_all_responses_and_the_worst_latencies() -> None:
    one = Outcome(100, 0, 2.0, 1, 2, 3, 4, 5, client_us=10)
    other = Outcome(300, 2, 1.5, 2, 3, 2, 9, 9, first_error="HTTP/1.1 500", client_us=30)
    found = together([one, other])
    assert (found.completed, found.errors, found.seconds) == (400, 2, 2.0)
    assert (found.p50_ms, found.p95_ms, found.p99_ms, found.p999_ms) == (2, 3, 3, 9)
    assert (found.first_error, found.client_us) == ("HTTP/1.1 500", 25)


@pytest.mark.parametrize("rate", [0, 100])
async def test_load_is_divided_between_instances(
    tmp_path: Path, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Counter[str]()

    async def first(number: int) -> tuple[int, bytes]:
        answered["first"] = number
        return 200, ALLOWED

    async def second(number: int) -> tuple[int, bytes]:
        answered["second"] = number
        return 200, ALLOWED

    async def reading(*_: object) -> Reading:
        return Reading(answered.total(), 0)

    def share(_: Bench, viewers: list[seed.Viewer]) -> str:
        shares.append({viewer.profile_id for viewer in viewers})
        return requests(tmp_path, len(viewers))

    shares: list[set[UUID]] = []
    monkeypatch.setattr(Bench, "reading", reading)
    monkeypatch.setattr(Bench, "requests", share)
    viewers = [seed.Viewer(*(UUID(int=n + k) for k in range(4))) for n in range(0, 40, 4)]
    connection = cast(Connection, None)
    bench = Bench(QUICK, False, tmp_path, "", os.getpid(), connection, viewers)
    async with answering(first) as one, answering(second) as two:
        peers = [Peer("instances", port, os.getpid()) for port in (one, two)]
        window = await bench.divided(peers, connections=4, seconds=0.3, rate=rate)
    assert window.outcome.completed == window.handled == answered.total()
    assert min(answered.values()) > 0
    assert bench.unaccounted == window.outcome.errors == 0
    assert [len(each) for each in shares] == [5, 5]
    assert len(shares[0] | shares[1]) == 10


async def test_an_open_loop_opens_closed_connections_again(tmp_path: Path) -> None:
    """The server closes the connection after every second request, so some requests fail."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            for _ in range(2):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        plan = Plan(port, requests(tmp_path, 10), connections=3, seconds=0.3, rate=50)
        outcome = await played(plan)
    assert outcome.completed == 15


async def test_heartbeats_of_seeded_players_are_accepted(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    keys = await connection.fetch(seed.KEYS)
    await seed.seed(connection, 20, days=35, sessions=2, progress=lambda _: None)
    assert await connection.fetch(seed.KEYS) == keys
    counts = await connection.fetchrow(
        "select (select count(*) from viewing_time_balances), "
        "(select count(*) from viewing_sessions where ended_at is not null)"
    )
    assert tuple(counts or ()) == (525, 40)
    viewers = await seed.viewers(connection, 20)
    path = tmp_path / "requests"
    path.write_bytes(seed.heartbeats(viewers))
    async with served(database, JWT_SECRET=seed.SECRET) as running:
        port = int(running.url.rpartition(":")[2])
        outcome = await played(Plan(port, str(path), connections=5))
    assert (outcome.completed, outcome.errors, outcome.first_error) == (20, 0, "")
    beats = await connection.fetchval(
        "select sum(total_seconds) / 30 from viewing_sessions where ended_at is null"
    )
    assert beats == 20


async def test_children_with_all_rules_are_limited_by_each_and_never_blocked(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    await seed.seed(connection, 24, days=4, sessions=1, progress=lambda _: None)
    children = await seed.viewers(connection, 24, "children")
    path = tmp_path / "requests"
    path.write_bytes(seed.heartbeats(children))
    async with (
        policy.all_rules(connection, children),
        served(database, JWT_SECRET=seed.SECRET) as running,
        AsyncClient(timeout=60) as client,
    ):
        port = int(running.url.rpartition(":")[2])
        outcome = await played(Plan(port, str(path), connections=5))
        for child in children:
            url = f"{running.url}/api/v1/viewing-time/decision/{child.profile_id}"
            bearer = {"Authorization": f"Bearer {seed.token(child.account_id)}"}
            decision = (await client.get(url, headers=bearer)).json()
            _, downtime, daily, weekly = decision["rules"]
            assert decision["enforcement"] == "allowed"
            assert downtime["remaining_minutes"] >= 5 * 60
            assert daily["limit_minutes"] == 1440 + daily["carried_minutes"] == 1440 + 240
            assert weekly["limit_minutes"] == 10_080
            assert weekly["used_minutes"] == 6 * 60 + daily["used_minutes"]
    assert (outcome.completed, outcome.errors, outcome.first_error) == (18, 0, "")
    tables = "select (select count(*) from viewing_schedules) + count(*) from viewing_exceptions"
    assert await connection.fetchval(tables) == 0


def test_decisions_are_timed_for_plain_policies_and_for_all_rules() -> None:
    figures = {figure.name: figure for figure in decisions.figures(calls=10)}
    assert [name for name, figure in figures.items() if figure.target == Target(5)] == [
        "no rules: decide",
        "all rules: decide",
    ]
    assert all(figure.value > 0 for figure in figures.values())


async def test_receiver_of_events_returns_each_arrival_once() -> None:
    event = {"id": "first", "occurred_at": "2026-11-27T03:00:00Z"}
    transport = ASGITransport(receiver.APPLICATION)
    async with AsyncClient(transport=transport, base_url="http://receiver") as client:
        answer = await client.post(receiver.PATH, json={"data": {"events": [event]}})
        assert answer.status_code == 204
        taken = (await client.get(receiver.PATH)).json()
        assert (taken["requests"], taken["ids"], len(taken["seconds"])) == (1, ["first"], 1)
        again = (await client.get(receiver.PATH)).json()
        assert again == {"requests": 0, "ids": [], "seconds": []}
