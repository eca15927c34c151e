"""Spreads the accounts of one cell over two, while a service answers heartbeats of some of them.

The cells are databases of one server, which shares this machine with the service, the client and
the command. SPREAD_ACCOUNTS sets the size; each account has a profile with a hundred sessions.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from time import monotonic
from typing import Final

import asyncpg

from bench.figure import Figure, Target
from bench.harness import Bench
from bench.load_process import LoadProcess
from bench.plan import Outcome, Plan
from bench.seed import SECRET, seed, viewers
from service.cells_file import cells
from service.command import cells_spread
from service.database import migrate
from service.database.driver import Connection
from service.settings import Settings

ACCOUNTS: Final = int(os.environ.get("SPREAD_ACCOUNTS", "2000"))
SESSIONS: Final = 99  # finished ones; each profile has an open one too
DAYS: Final = 30
VIEWERS: Final = 500
CONNECTIONS: Final = 64
RATE: Final = 200
SECONDS: Final = 2.0
BATCH: Final = 2_000
NAMES: Final = ("a", "b")
NONE: Final = Target(0)
SLOTS: Final = """
insert into viewing_cell_slots (slot, cell, epoch)
select n, 'a', 1 from generate_series(0, 1023) as n
"""
COUNTS: Final = """
select
    (select count(*) from users) as accounts,
    (select count(*) from viewing_sessions) as sessions,
    (select coalesce(sum(total_seconds), 0) from viewing_sessions where ended_at is null) / 30
        as beats
"""


async def measure(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as opened:
        connections = []
        for name in NAMES:
            connections.append(await _cell(bench, name))
            opened.push_async_callback(connections[-1].close)
        await seed(connections[0], ACCOUNTS, DAYS, SESSIONS, bench.progress)
        watching = await viewers(connections[0], VIEWERS)
        before = await _counts(connections)
        settings = _settings(bench)
        service = bench.service("cells: 2", {"CELLS_FILE": settings.cells_file})
        peer = await opened.enter_async_context(service)
        plan = Plan(peer.port, bench.requests(watching), CONNECTIONS, SECONDS, RATE)
        idle = [await _load(plan)]
        progress = cells_spread.Progress()
        spreading = asyncio.create_task(_timed(cells(settings), progress))
        loads = []
        while not spreading.done():
            loads.append(await _load(plan))
        problems, seconds = await spreading
        assert problems == [], problems
        after = await _counts(connections)
    answered = sum(load.completed - load.errors for load in (*idle, *loads))
    sent = answered + sum(load.errors for load in loads)
    counted = after["beats"] - before["beats"]
    return [
        Figure("accounts that were moved", progress.total.accounts),
        Figure("accounts moved a second", progress.total.accounts / seconds, is_rate=True),
        Figure("sessions moved a second", progress.total.sessions / seconds, is_rate=True),
        Figure("seconds", seconds, "s"),
        Figure("accounts lost or doubled", abs(after["accounts"] - before["accounts"]), "", NONE),
        Figure("sessions lost or doubled", abs(after["sessions"] - before["sessions"]), "", NONE),
        Figure("answered heartbeats", answered),
        Figure("answered heartbeats lost", max(0, answered - counted), "", NONE),
        Figure("heartbeats counted twice", max(0, counted - sent), "", NONE),
        Figure("heartbeats that failed closed", sum(load.errors for load in loads)),
        Figure("p99 before", idle[0].p99_ms, "ms"),
        Figure("p99 of the slowest two seconds", max(load.p99_ms for load in loads), "ms"),
    ]


async def _timed(
    every: Sequence[Settings], progress: cells_spread.Progress
) -> tuple[list[str], float]:
    begun = monotonic()
    problems = await cells_spread.spread(every, BATCH, (), progress)
    return problems, monotonic() - begun


async def _cell(bench: Bench, name: str) -> Connection:
    """A database for a cell; cell a has all slots."""
    await bench.connection.execute(f"create database {_database(name)}")
    dsn = _named(bench.dsn, name)
    await asyncio.to_thread(migrate.migrate, dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute("select viewing_cell_join($1)", name)
    await connection.execute(SLOTS)
    return connection


def _settings(bench: Bench) -> Settings:
    """Settings with a file of the cells."""
    file = bench.folder / "cells.toml"
    urls = {name: _named(bench.served_dsn, name) for name in NAMES}
    file.write_text("".join(f'[[cell]]\nname = "{n}"\nurl = "{url}"\n' for n, url in urls.items()))
    return Settings(database_url="", jwt_secret=SECRET, cells_file=str(file))


def _database(name: str) -> str:
    return f"bench_cell_{name}"


def _named(dsn: str, name: str) -> str:
    """The URL of the database of a cell on the same server."""
    return re.sub(r"^(postgresql://[^/]*/)[^?]*", rf"\g<1>{_database(name)}", dsn)


async def _load(plan: Plan) -> Outcome:
    async with LoadProcess(plan) as client:
        await client.run()
        return await client.outcome()


async def _counts(connections: Sequence[Connection]) -> dict[str, int]:
    """The rows of all cells, and the heartbeats that their open sessions have counted."""
    rows = [await connection.fetchrow(COUNTS) for connection in connections]
    return {
        name: sum(int(row[name]) for row in rows if row)
        for name in ("accounts", "sessions", "beats")
    }
