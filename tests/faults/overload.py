"""Overload: more heartbeats than the service can process, and thousands of idle clients."""

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec

from bench.plan import Outcome, Plan, percentile
from bench.procfs import resident_bytes
from tests.conftest import FILES, RunningService, served
from tests.family import HEARTBEAT, Family, add_family
from tests.faults.proxy import proxied
from tests.faults.test_faults import SETTINGS, Server
from tests.faults.watching import add_viewers, all_watching, client_of

GROWTH: Final = 0.05
P99_MS: Final = 1000.0
RUSH: Final = Plan(port=0, requests="", connections=3000, seconds=20)
QUEUE: Final = 300
# With a slow network and small batches the service does about 400 heartbeats a second.
SLOW: Final = {**SETTINGS, "HEARTBEAT_QUEUE_MAX": "100", "HEARTBEAT_BATCH_MAX": "10"}
FEW: Final = Plan(port=0, requests="", connections=100, seconds=5)
FLOOD: Final = Plan(port=0, requests="", connections=500, seconds=20)
TEN_TIMES: Final = 10.0
CROWD: Final = min(5000, FILES - 200)  # fewer with a low limit of open files
CROWD_BYTES: Final = 40 * 1024
CROWD_VIEWERS: Final = 10
CROWD_SECONDS: Final = 15.0
REQUEST: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


class Resources(NamedTuple):
    """The memory, files, threads and children of a process at one moment."""

    bytes: int
    files: int
    threads: int
    children: int

    @classmethod
    def by(cls, pid: int) -> "Resources":
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        files, threads = (len([*Path(f"/proc/{pid}/{kind}").iterdir()]) for kind in ("fd", "task"))
        return cls(resident_bytes(pid), files, threads, len(children))


async def rush(server: Server) -> bool:
    """Ten times as many heartbeats as the queue holds; whether time and memory stay low."""
    async with AsyncExitStack() as parts:
        settings = {**SETTINGS, "HEARTBEAT_QUEUE_MAX": str(QUEUE), "LOG_LEVEL": "ERROR"}
        service = await parts.enter_async_context(served(server.dsn, **settings))
        requests = await _requests(server, parts, RUSH.connections)
        await _load(service, requests, RUSH, connections=20, seconds=0)  # fills the caches
        first = await _load(service, requests, RUSH)
        warm = Resources.by(service.process.pid)
        second = await _load(service, requests, RUSH)
        normal = await _normal(server, service)
        growth = Resources.by(service.process.pid).bytes / warm.bytes - 1
        _print_outcomes("rush", first, second)
        print(f"normal after {normal:.2f} s, memory {growth:+.1%} in the second rush")
        return max(first.p99_ms, second.p99_ms) < P99_MS and growth < GROWTH


async def flood(server: Server) -> bool:
    """Ten times the possible rate of heartbeats, independent of the responses."""
    async with AsyncExitStack() as parts:
        proxy = await parts.enter_async_context(proxied(server.dsn))
        service = await parts.enter_async_context(served(proxy.dsn, **SLOW, LOG_LEVEL="ERROR"))
        requests = await _requests(server, parts, FLOOD.connections)
        await _load(service, requests, FEW, seconds=0)
        proxy.turn("slow")
        baseline = await _load(service, requests, FEW)
        rate = TEN_TIMES * baseline.per_second
        first = await _load(service, requests, FLOOD, rate=rate)
        warm = Resources.by(service.process.pid)
        second = await _load(service, requests, FLOOD, rate=rate)
        normal = await _normal(server, service)
        growth = Resources.by(service.process.pid).bytes / warm.bytes - 1
        _print_outcomes("alone", baseline)
        _print_outcomes(f"{rate:.0f}/s", first, second)
        print(f"normal after {normal:.2f} s, memory {growth:+.1%} in the second flood")
        # One in ten is accepted, so p99.9 of all bounds p99 of the accepted ones.
        slowest = max(first.p999_ms, second.p999_ms)
        return baseline.errors == 0 and slowest < P99_MS and growth < GROWTH


async def crowd(server: Server) -> bool:
    """Whether thousands of silent connections cost little and delay no other client."""
    async with AsyncExitStack() as parts:
        service = await parts.enter_async_context(served(server.dsn, **SETTINGS))
        client = await parts.enter_async_context(client_of(service.url))
        connection = await asyncpg.connect(server.dsn)
        parts.callback(connection.terminate)
        viewers = await add_viewers(connection, CROWD_VIEWERS)
        before = Resources.by(service.process.pid)
        idle = []  # a stream without a reference closes its connection
        for _ in range(CROWD):
            reader, writer = await asyncio.open_connection("127.0.0.1", _port(service))
            idle.append((reader, writer))
            parts.callback(writer.transport.abort)
            writer.write(REQUEST)
            await reader.readuntil(b"}")
        async with all_watching(client, viewers):
            await asyncio.sleep(CROWD_SECONDS)
        for viewer in viewers:
            await viewer.settle(connection)
        after = Resources.by(service.process.pid)
        each = (after.bytes - before.bytes) / CROWD
        took = sorted(answer.took * 1000 for viewer in viewers for answer in viewer.answers)
        p99 = percentile(took, 99)
        print(
            f"{after.files - before.files} connections, {each / 1024:.1f} KiB each; "
            f"{len(took)} heartbeats meanwhile, p99 {p99:.0f} ms"
        )
        return after.files - before.files >= CROWD and each < CROWD_BYTES and p99 < P99_MS


async def _normal(server: Server, service: RunningService) -> float:
    """Seconds until two heartbeats in succession are counted."""
    async with client_of(service.url) as client:
        connection = await asyncpg.connect(server.dsn)
        (viewer,) = await add_viewers(connection, 1)
        await connection.close()
        started_at = time.monotonic()
        while not all(a.is_counted for a in viewer.answers[-2:]) or len(viewer.answers) < 2:
            await viewer.beat(client)
        return time.monotonic() - started_at


def _print_outcomes(name: str, *outcomes: Outcome) -> None:
    for outcome in outcomes:
        print(
            f"{name}: {outcome.per_second:.0f} answers/s, {outcome.errors} of "
            f"{outcome.completed} refused, p50 {outcome.p50_ms:.0f} p99 {outcome.p99_ms:.0f} "
            f"p99.9 {outcome.p999_ms:.0f} ms {outcome.first_error[:12]}"
        )


async def _requests(server: Server, parts: AsyncExitStack, families: int) -> str:
    """A file with a heartbeat of each family; it exists as long as `parts` are open."""
    connection = await asyncpg.connect(server.dsn)
    added = [await add_family(connection, limit=None) for _ in range(families)]
    await connection.close()
    requests = Path(parts.enter_context(tempfile.TemporaryDirectory())) / "requests"
    requests.write_bytes(b"".join(_request(family) + b"\0" for family in added))
    return str(requests)


def _request(family: Family) -> bytes:
    body = msgspec.json.encode(family.beat())
    lines = [f"POST {HEARTBEAT} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    headers = {**family.bearer, "Content-Type": "application/json"}
    return "\r\n".join([*lines, *(f"{n}: {v}" for n, v in headers.items()), "", ""]).encode() + body


def _port(service: RunningService) -> int:
    return int(service.url.rsplit(":", 1)[1])


async def _load(service: RunningService, requests: str, plan: Plan, **changes: Any) -> Outcome:
    changed = msgspec.structs.replace(plan, port=_port(service), requests=requests, **changes)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.load",
        msgspec.json.encode(changed),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    return msgspec.json.decode(printed, type=Outcome)
