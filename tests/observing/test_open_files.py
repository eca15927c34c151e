"""A process without file descriptors serves its open connections, and reports the shortage."""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from service.command import check
from service.observing import event_loop, open_files, process_usage
from service.observing.metrics import Connections
from service.settings import Settings
from tests.conftest import FILES, ROOT, RunningService, served
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family
from tests.operators.exposition import scrape, value

DEGRADED = {"status": "degraded", "checks": {"database": "ok", "connections": "exhausted"}}
LIMIT = 100
PLAYERS = open_files.for_connections(Settings(database_url="", jwt_secret=""), LIMIT)


def limits_of(code: str, soft: int, hard: int) -> str:
    """The output of `code` in a process that is started with these limits."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    ).stdout


@pytest.mark.parametrize(
    "start",
    [
        "from service.observing.open_files import raise_limit; raise_limit()",
        "from service.command.main import main; main(['token'], standalone_mode=False)",
        "import tests.conftest",
        "from bench import __main__ as b; b.asyncio.run = b.run_all = None; b.main(['reads'])",
    ],
)
def test_the_soft_limit_is_raised_to_the_hard_one(start: str) -> None:
    code = f"import resource\ntry:\n    {start}\nexcept BaseException: pass\n"
    printed = limits_of(code + "print(resource.getrlimit(resource.RLIMIT_NOFILE))", 256, 800)
    assert printed == "(800, 800)\n"


def test_limit_without_a_hard_limit_is_raised_as_far_as_the_system_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soft = 256

    def refuse(_: int, limits: tuple[int, int]) -> None:
        nonlocal soft
        if limits[0] > 10_240:
            raise ValueError("current limit exceeds maximum limit")
        soft = limits[0]

    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert open_files.raise_limit() == 10_240
    assert open_files.raise_limit() == 10_240


@pytest.mark.parametrize(
    ("limit", "level", "end"),
    [
        (5071, "FAULT", "LimitNOFILE= of systemd), or lower HEARTBEAT_QUEUE_MAX"),
        (5072, "ok", ""),
    ],
)
async def test_check_reports_how_many_players_the_limit_allows(
    limit: int, level: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_files, "raise_limit", lambda: limit)
    (finding,) = check._players(Settings(database_url="", jwt_secret=""))
    assert finding.level == level
    assert finding.text.startswith(f"players: {limit - 72:,} can be connected at once, because ")
    assert finding.remedy.endswith(end)
    assert ("raise the hard limit to 5,072 or more" in finding.remedy) == (level == "FAULT")


@asynccontextmanager
async def connections_to(
    service: RunningService, count: int, closed: int = 0
) -> AsyncIterator[list[bytes]]:
    """Opens `count` idle connections, of which the service closes `closed`.

    Yields `open` for each that waits for a request, and an empty string for each closed one.
    """
    port = int(service.url.rsplit(":", 1)[1])
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    ends = [asyncio.create_task(read_to_end(reader)) for reader, _ in opened]
    try:
        await eventually(lambda: sum(end.done() for end in ends) >= closed)
        await asyncio.wait(ends, timeout=0.3)  # no other one is closed
        yield [end.result() if end.done() else b"open" for end in ends]
    finally:
        for _, writer in opened:
            writer.transport.abort()
        await asyncio.gather(*ends)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def lines(log: IO[bytes], event: str) -> list[dict[str, Any]]:
    """The whole lines of an event, without moving the position at which the service writes."""
    whole, _, _ = os.pread(log.fileno(), 10_000_000, 0).rpartition(b"\n")
    return [line for line in map(json.loads, whole.splitlines()) if line["event"] == event]


async def until_ready(client: httpx.AsyncClient) -> None:
    await eventually(lambda: client.get("/health/ready"), until=lambda ready: ready.is_success)


async def beats(client: httpx.AsyncClient, family: Family) -> bool:
    answer = await client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    return bool(answer.json()["enforcement"] == "allowed")


async def test_connections_beyond_the_limit_are_closed_and_open_ones_are_served(
    database: str, family: Family
) -> None:
    with tempfile.TemporaryFile() as log:
        async with (
            served(database, log, LIMIT) as service,
            httpx.AsyncClient(base_url=service.url, timeout=60) as client,
        ):
            assert (await eventually(lambda: lines(log, "connections_few")))[0]["max"] == PLAYERS
            assert (await client.get("/health/ready")).status_code == 200
            async with connections_to(service, PLAYERS + 20, closed=21) as answers:
                assert (answers.count(b"open"), answers.count(b"")) == (PLAYERS - 1, 21)
                assert await beats(client, family)
                ready = await client.get("/health/ready")
                assert (ready.status_code, ready.json()) == (503, DEGRADED)
                shown = await scrape(client)
                assert value(shown, "connections") == PLAYERS
                assert value(shown, "max_connections") == PLAYERS
                assert value(shown, "connections_refused_total") == 21
                (line,) = await eventually(lambda: lines(log, "connections_refused"))
                assert line["connections"] == 21
                assert len(await eventually(lambda: lines(log, "connections_many"))) == 1
            await until_ready(client)
            async with httpx.AsyncClient(base_url=service.url, timeout=60) as other:
                assert await beats(other, family)


async def test_process_without_file_descriptors_closes_new_connections_and_recovers(
    database: str, family: Family
) -> None:
    with tempfile.TemporaryFile() as log:
        async with (
            served(database, log) as service,
            httpx.AsyncClient(base_url=service.url, timeout=60) as client,
        ):
            assert await beats(client, family)
            pid = service.process.pid
            taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
            free = min({*range(len(taken) + 1)} - taken)
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, FILES))
            try:
                async with connections_to(service, 3, closed=3) as answers:
                    assert answers == [b""] * 3
                await eventually(lambda: lines(log, "open_files_exhausted"))
                assert await beats(client, family)
                ready = await client.get("/health/ready")
                assert (ready.status_code, ready.json()) == (503, DEGRADED)
                shown = await scrape(client)
                assert value(shown, "open_files_exhausted_total") >= 1
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            await until_ready(client)
            async with connections_to(service, 3) as answers:
                assert answers == [b"open"] * 3


async def test_many_connections_are_logged_once_until_their_number_falls(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_loop, "REPORT_SECONDS", 0.001)
    connections = Connections()
    connections.max = 10
    watching = asyncio.create_task(event_loop._watch_connections(connections))
    logged = []
    for count in (7, 8, 9, 7, 8, 6, 8):
        connections.open = range(count)
        await asyncio.sleep(0.05)
        logged.append([record.message for record in caplog.records].count("connections_many"))
    watching.cancel()
    assert logged == [0, 1, 1, 1, 1, 1, 2]


def test_usage_is_reported_in_part_without_file_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        used = {
            family.name: sample.value
            for family in process_usage.usage()
            for sample in family.samples
        }
        exhausted = open_files.are_exhausted()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert used == {"process_max_fds": 3, "process_open_fds": 3}
    assert exhausted
    assert not open_files.are_exhausted()
