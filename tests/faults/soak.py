"""`python -m tests.faults.soak MINUTES [SEED]`: a service process with a fault every five seconds.

An instance in this process, whose clock runs fast, gets random requests of families in the same
database. At the end the tables must hold every acknowledged heartbeat and the rows of the model,
and the process must not use more memory than before. Overload follows.
"""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random, SystemRandom
from typing import Final

from bench.harness import allow_open_files
from service import settings
from tests.conftest import in_process, served
from tests.family import SECRET
from tests.faults.ledger import Life, add_lives, live, settle
from tests.faults.overload import Resources, crowd, flood, rush
from tests.faults.proxy import proxied
from tests.faults.test_faults import (
    SERVICE,
    SETTINGS,
    Fault,
    Scene,
    Server,
    absence,
    crash,
    network,
    server_of_its_own,
    standstill,
    statements,
    terminations,
)
from tests.faults.watching import Viewer, add_viewers, all_watching, client_of

EVERY_SECONDS: Final = 5.0
WARM_SECONDS: Final = 300.0  # the memory of a process settles within minutes
VIEWERS: Final = 30
LIVES: Final = 8
REST_SECONDS: Final = 0.1
GROWTH: Final = 0.05
# Each instance has a pool, two connections for heartbeats, one for the listener, one for readiness,
# and perhaps one that is being closed.
CONNECTIONS: Final = 2 * (int(SETTINGS["POOL_MAX_SIZE"]) + 2 + 1 + 1 + 1)


def faults(scene: Scene) -> list[Callable[[], Fault]]:
    locked = scene.viewers[0].family.child
    return [
        lambda: network(scene.proxy, "black hole"),
        lambda: network(scene.proxy, "reset"),
        lambda: network(scene.proxy, "slow"),
        lambda: standstill(scene.server),
        lambda: terminations(scene),
        lambda: absence(scene.server),
        lambda: crash(scene),
        lambda: statements(
            scene,
            f"begin; select from viewing_sessions where profile_id = '{locked}' for update",
            "rollback",
        ),
    ]


async def soak(server: Server, minutes: float, seed: int) -> bool:
    """Faults of up to three seconds; returns whether memory and connections stayed in bounds."""
    random = Random(seed)
    async with AsyncExitStack() as parts:
        proxy = await parts.enter_async_context(proxied(server.dsn))
        service = await parts.enter_async_context(served(proxy.dsn, **SETTINGS))
        scene = Scene(server, proxy, await parts.enter_async_context(client_of(service.url)))
        variables = {"DATABASE_URL": proxy.dsn, "JWT_SECRET": SECRET, **SETTINGS}
        other = await parts.enter_async_context(in_process(settings.read(variables)))
        async with scene.connection() as connection:
            scene.viewers = await add_viewers(connection, VIEWERS)
            lives = await add_lives(other, connection, random, LIVES)
        pid, before = service.process.pid, None
        started_at = time.monotonic()
        warm = started_at + min(WARM_SECONDS, minutes * 30)
        recoveries: list[float] = []
        async with all_watching(scene.client, scene.viewers), all_living(lives, Random(seed)):
            while time.monotonic() < started_at + minutes * 60:
                next_at = time.monotonic() + EVERY_SECONDS
                recoveries.append(await _one_fault(scene, random))
                await asyncio.sleep(next_at - time.monotonic())
                if before is None and time.monotonic() > warm:
                    before = Resources.by(pid)
        after = Resources.by(pid)
        before = before or after
        async with scene.connection() as connection:
            for viewer in scene.viewers:
                await viewer.settle(connection)
            for life in lives:
                await settle(connection, life.model)
            count = f"select count(*) from pg_stat_activity where {SERVICE}"
            held: int = await connection.fetchval(count)
        _print_summary(scene.viewers, recoveries)
        print(
            f"{len(lives)} lives until {lives[0].now:%Y-%m-%d}, "
            f"{sum(life.model.counted for life in lives) // 30} beats counted, "
            f"{sum(life.repeats for life in lives)} requests repeated"
        )
        growth = after.bytes / before.bytes - 1
        print(f"memory {growth:+.1%}, {held} connections\nbefore {before}\nafter  {after}")
        return growth < GROWTH and held <= CONNECTIONS and after.children == before.children


@asynccontextmanager
async def all_living(lives: list[Life], random: Random) -> AsyncIterator[None]:
    """Sends random requests while the block runs, and waits for the last ones."""
    stop = asyncio.Event()

    async def keep_living() -> None:
        while not stop.is_set():
            await live(lives, random)
            await asyncio.sleep(REST_SECONDS)

    async with asyncio.TaskGroup() as group:
        group.create_task(keep_living())
        try:
            yield
        finally:
            stop.set()


async def _one_fault(scene: Scene, random: Random) -> float:
    """Seconds from the end of a random fault until every viewer was counted again."""
    async with random.choice(faults(scene))():
        await asyncio.sleep(random.uniform(0.1, 3))
    ended = time.monotonic()
    await scene.recovered(ended)
    slowest = max(viewer.recovered(ended) for viewer in scene.viewers)
    for viewer in scene.viewers:
        viewer.forget(ended)
    return slowest


def _print_summary(viewers: list[Viewer], recoveries: list[float]) -> None:
    print(
        f"{len(recoveries)} faults, {sum(v.acknowledged for v in viewers)} beats counted, "
        f"{sum(v.unknown for v in viewers)} unknown, slowest {max(v.worst for v in viewers):.2f} s,"
        f" slowest recovery {max(recoveries):.2f} s"
    )


async def main(minutes: float, seed: int) -> bool:
    print(f"{minutes:g} minutes, seed {seed}", flush=True)
    allow_open_files()
    async with server_of_its_own() as server:
        results = [await soak(server, minutes, seed)]
        results += [await overload(server) for overload in (rush, flood, crowd)]
    return all(results)


if __name__ == "__main__":
    # The instance in this process logs every fault.
    logging.getLogger().addHandler(logging.NullHandler())
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else SystemRandom().randrange(10**9)
    sys.exit(0 if asyncio.run(main(float(sys.argv[1]), seed)) else 1)
