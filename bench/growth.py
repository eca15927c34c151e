"""Measures heartbeats on tables that have grown: random profiles, over a checkpoint interval.

The statement of heartbeats runs alone, in batches of 64, on small and large tables in turn. A ratio
is the median of the rounds. GROWTH_PROFILES sets the size: five sessions and 35 balances of each.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final

import asyncpg

from bench import seed
from bench.figure import Figure, Target
from bench.harness import Bench
from bench.procfs import cpu_seconds
from bench.seed import Viewer
from service.app import utc_now
from service.database import migrate
from service.database.driver import Connection
from service.observing.metrics import Metrics
from service.settings import Settings
from service.viewing.announcements import NEVER
from service.viewing.heartbeat_statement import Beat, HeartbeatStatement
from service.viewing.recorded_row import Recorded

PROFILES: Final = int(os.environ.get("GROWTH_PROFILES", "200000"))
SMALL: Final = 2_000
DAYS: Final = 47  # of the three quarters of the profiles that are children
SESSIONS: Final = 4  # finished ones; each profile has an open one too
BATCH: Final = 64
BEATS: Final = 20_032
ROUNDS: Final = 3
PASSES: Final = 10  # heartbeats of a profile in the five minutes between two checkpoints
MAX_BEATS: Final = 400_000  # bounds the duration
CPU: Final = Target(1.3)
LOG_BYTES: Final = Target(600)
LOG: Final = "select (pg_current_wal_insert_lsn() - '0/0')::int8"


@dataclass
class Tables:
    """A database, the connection of the heartbeats, and who sends them in which order."""

    connection: Connection
    statement: HeartbeatStatement
    beating: Connection
    pid: int
    viewers: list[Viewer]
    random: Random

    async def beats(self, number: int) -> tuple[float, float]:
        """CPU microseconds and bytes of log of a heartbeat, while `number` are recorded."""
        log, cpu = await self.connection.fetchval(LOG), cpu_seconds(self.pid)
        for _ in range(number // BATCH):
            await self._batch()
        cpu = cpu_seconds(self.pid) - cpu
        log = await self.connection.fetchval(LOG) - log
        return cpu * 1e6 / number, log / number

    async def _batch(self) -> None:
        day = utc_now().date()
        waiting: list[tuple[Beat, asyncio.Future[Recorded]]] = [
            (
                Beat(
                    profile_id=one.profile_id,
                    account_id=one.account_id,
                    title_id=one.title_id,
                    session_id=one.session_id,
                    starts=False,
                    device_id=None,
                    device_type=None,
                    paused=False,
                    day=day,
                    exempt=True,
                    key=None,
                    renews=False,
                    begin_seconds=0,
                    usage_from=None,
                    exclusive=False,
                    announce_from=NEVER,
                    rules=None,
                ),
                asyncio.get_running_loop().create_future(),
            )
            for one in self.random.sample(self.viewers, BATCH)
        ]
        await self.statement.record(self.beating, waiting, 0.5)
        for _, future in waiting:
            future.result()


@asynccontextmanager
async def tables(bench: Bench, name: str, profiles: int) -> AsyncIterator[Tables]:
    """A database of its own with `profiles`, their sessions and balances."""
    await bench.connection.execute(f"create database {name}")
    dsn = bench.dsn.replace("/viewing_time?", f"/{name}?", 1)
    await asyncio.to_thread(migrate.migrate, dsn)
    connection = await asyncpg.connect(dsn)
    settings = Settings(database_url=dsn, jwt_secret=seed.SECRET, request_timeout_seconds=10)
    statement = HeartbeatStatement(settings, Metrics(), utc_now)
    beating = await statement.open(0.5)
    try:
        await seed.seed(connection, profiles, DAYS, SESSIONS, bench.progress)
        viewers = await seed.viewers(connection, profiles)
        pid = await beating.fetchval("select pg_backend_pid()")
        yield Tables(connection, statement, beating, pid, viewers, Random(1))
    finally:
        await beating.close()
        await connection.close()
        await bench.connection.execute(f"drop database {name} with (force)")


async def measure(bench: Bench) -> list[Figure]:
    figures = []
    async with (
        tables(bench, "growth_small", SMALL) as small,
        tables(bench, "growth_large", PROFILES) as large,
    ):
        everybody = large.viewers
        for active in (PROFILES // 10, PROFILES):
            large.viewers = large.random.sample(everybody, active)
            ratios = []
            for number in range(ROUNDS):
                bench.progress(f"{active:,} active profiles, round {number + 1} of {ROUNDS}")
                before, _ = await small.beats(BEATS)
                after, _ = await large.beats(BEATS)
                ratios.append(after / before)
            name = f"{active:,} of {PROFILES:,} profiles"
            figures.append(
                Figure(f"{name}: PostgreSQL CPU, to small tables", median(ratios), "x", CPU)
            )
            bench.progress(f"{active:,} active profiles, from a checkpoint on")
            await large.connection.execute("checkpoint")
            _, log = await large.beats(min(MAX_BEATS, active * PASSES) // BATCH * BATCH)
            figures.append(Figure(f"{name}: log from a checkpoint on", log, "B", LOG_BYTES))
    return figures
