"""`python -m tests.soak MINUTES [SEED]`: a real process, a fault every five seconds, no mistakes.

At the end the tables must hold what was acknowledged, and the process must be no larger than it
was. Then a rush: far more heartbeats in flight than may wait.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random, SystemRandom
from typing import Final, NamedTuple

import asyncpg
import msgspec

from bench.load import Outcome, Plan
from bench.procfs import resident_bytes
from tests.conftest import RunningService, served
from tests.family import Family, add_family
from tests.proxy import proxied
from tests.test_faults import (
    SERVICE,
    SETTINGS,
    Fault,
    Scene,
    Server,
    absence,
    network,
    server_of_its_own,
    standstill,
    statements,
    terminations,
)
from tests.watching import BEAT, Viewer, add_viewers, all_watching, client_of

EVERY_SECONDS: Final = 5.0
WARM_SECONDS: Final = 300.0  # the memory of a process settles within minutes
VIEWERS: Final = 30
GROWTH: Final = 0.05
# The pool, the heartbeats' connections, the one that listens; one may be on its way out.
CONNECTIONS: Final = int(SETTINGS["POOL_MAX_SIZE"]) + 2 + 1 + 1
RUSH: Final = Plan(port=0, requests="", connections=3000, seconds=20)
QUEUE: Final = 300
RUSH_P99_MS: Final = 1000.0


class Held(NamedTuple):
    """What a process holds at one moment."""

    bytes: int
    files: int
    threads: int
    children: int

    @classmethod
    def by(cls, pid: int) -> "Held":
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        files, threads = (len([*Path(f"/proc/{pid}/{kind}").iterdir()]) for kind in ("fd", "task"))
        return cls(resident_bytes(pid), files, threads, len(children))


def faults(scene: Scene) -> list[Callable[[], Fault]]:
    locked = scene.viewers[0].family.child
    return [
        lambda: network(scene.proxy, "black hole"),
        lambda: network(scene.proxy, "reset"),
        lambda: network(scene.proxy, "slow"),
        lambda: standstill(scene.server),
        lambda: terminations(scene),
        lambda: absence(scene.server),
        lambda: statements(
            scene,
            f"begin; select from viewing_sessions where profile_id = '{locked}' for update",
            "rollback",
        ),
    ]


async def soak(server: Server, minutes: float, random: Random) -> bool:
    """Faults of up to three seconds; whether every promise was kept."""
    async with AsyncExitStack() as parts:
        proxy = await parts.enter_async_context(proxied(server.dsn))
        service = await parts.enter_async_context(served(proxy.dsn, **SETTINGS))
        scene = Scene(server, proxy, await parts.enter_async_context(client_of(service.url)))
        async with scene.connection() as connection:
            scene.viewers = await add_viewers(connection, VIEWERS)
        pid, before = service.process.pid, None
        begun = time.monotonic()
        warm = begun + min(WARM_SECONDS, minutes * 30)
        recoveries: list[float] = []
        async with all_watching(scene.client, scene.viewers):
            while time.monotonic() < begun + minutes * 60:
                next_at = time.monotonic() + EVERY_SECONDS
                recoveries.append(await _one_fault(scene, random))
                await asyncio.sleep(next_at - time.monotonic())
                if before is None and time.monotonic() > warm:
                    before = Held.by(pid)
        after = Held.by(pid)
        before = before or after
        async with scene.connection() as connection:
            for viewer in scene.viewers:
                await viewer.settle(connection)
            count = f"select count(*) from pg_stat_activity where {SERVICE}"
            held: int = await connection.fetchval(count)
        _tell(scene.viewers, recoveries)
        growth = after.bytes / before.bytes - 1
        print(f"memory {growth:+.1%}, {held} connections\nbefore {before}\nafter  {after}")
        return growth < GROWTH and held <= CONNECTIONS and after.children == before.children


async def _one_fault(scene: Scene, random: Random) -> float:
    """Seconds until every viewer was counted again after it."""
    async with random.choice(faults(scene))():
        await asyncio.sleep(random.uniform(0.1, 3))
    ended = time.monotonic()
    await scene.recovered(ended)
    slowest = max(viewer.recovered(ended) for viewer in scene.viewers)
    for viewer in scene.viewers:
        viewer.forget(ended)
    return slowest


def _tell(viewers: list[Viewer], recoveries: list[float]) -> None:
    print(
        f"{len(recoveries)} faults, {sum(v.acknowledged for v in viewers)} beats counted, "
        f"{sum(v.unknown for v in viewers)} unknown, slowest {max(v.worst for v in viewers):.2f} s,"
        f" slowest recovery {max(recoveries):.2f} s"
    )


async def rush(server: Server) -> bool:
    """Ten times as many heartbeats in flight as may wait; whether it stayed quick and small."""
    async with AsyncExitStack() as parts:
        settings = {**SETTINGS, "HEARTBEAT_QUEUE_MAX": str(QUEUE), "LOG_LEVEL": "ERROR"}
        service = await parts.enter_async_context(served(server.dsn, **settings))
        client = await parts.enter_async_context(client_of(service.url))
        connection = await asyncpg.connect(server.dsn)
        parts.callback(connection.terminate)
        viewers = await add_viewers(connection, 1)
        await viewers[0].beat(client)
        families = [await add_family(connection) for _ in range(RUSH.connections)]
        requests = Path(parts.enter_context(tempfile.TemporaryDirectory())) / "requests"
        requests.write_bytes(b"".join(_request(family) + b"\0" for family in families))
        await _load(service, requests, connections=20, seconds=0)  # everybody is known
        outcomes = [await _load(service, requests)]
        warm = Held.by(service.process.pid)
        outcomes.append(await _load(service, requests))
        ended = time.monotonic()
        while not (viewers[0].answers and viewers[0].answers[-1].is_counted):
            await viewers[0].beat(client)
        await viewers[0].beat(client)
        normal = time.monotonic() - ended
        growth = Held.by(service.process.pid).bytes / warm.bytes - 1
        for outcome in outcomes:
            print(
                f"rush: {outcome.completed} answers, {outcome.errors} of them refused, "
                f"p50 {outcome.p50_ms:.0f} p99 {outcome.p99_ms:.0f} ms: {outcome.first_error[:12]}"
            )
        print(f"normal after {normal:.2f} s, memory {growth:+.1%} in the second rush")
        quick = all(outcome.p99_ms < RUSH_P99_MS for outcome in outcomes)
        return quick and growth < GROWTH and viewers[0].answers[-1].is_counted


def _request(family: Family) -> bytes:
    body = msgspec.json.encode(family.beat())
    lines = [f"POST {BEAT} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    headers = {**family.bearer, "Content-Type": "application/json"}
    return "\r\n".join([*lines, *(f"{n}: {v}" for n, v in headers.items()), "", ""]).encode() + body


async def _load(service: RunningService, requests: Path, **differently: float) -> Outcome:
    port = int(service.url.rsplit(":", 1)[1])
    plan = msgspec.structs.replace(RUSH, port=port, requests=str(requests), **differently)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.load",
        msgspec.json.encode(plan),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    return msgspec.json.decode(printed, type=Outcome)


async def main(minutes: float, seed: int) -> bool:
    print(f"{minutes:g} minutes, seed {seed}", flush=True)
    async with server_of_its_own() as server:
        return await soak(server, minutes, Random(seed)) and await rush(server)


if __name__ == "__main__":
    chosen = int(sys.argv[2]) if len(sys.argv) > 2 else SystemRandom().randrange(10**9)
    sys.exit(0 if asyncio.run(main(float(sys.argv[1]), chosen)) else 1)
