"""Compares one cell alone with two cells on two servers, each under the same load as the one.

A service with one cell and one with two run all the time, on databases with as many rows, and are
loaded in turn. A figure is the median of the rounds, a ratio the median of the ratios of the
rounds.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import asyncpg

from bench.figure import Figure, Target
from bench.harness import LEDGER, OPTIONS, ROLE, Bench, Window
from bench.load_process import LoadProcess
from bench.peer import Peer
from bench.plan import Plan, together
from bench.procfs import cpu_seconds
from bench.seed import Viewer, heartbeats, seed, viewers
from service.database import migrate
from service.database.cells import SLOTS, slot
from service.database.driver import Connection
from service.embedded.supervisor import USER, embedded_postgres

NAMES: Final = ("a", "b")
IN_FLIGHT: Final = 64  # of a cell
RATES: Final = (500, 0)  # heartbeats a second of a cell; 0: as many as are answered
ROUNDS: Final = 6
SECONDS: Final = 2.0
WITHIN: Final = Target(1.1)
FILE: Final = '[[cell]]\nname = "{}"\nurl = "{}"\n'
MAP: Final = """
insert into viewing_cell_slots (slot, cell, epoch)
select n, case when n < 512 then 'a' else 'b' end, 1 from generate_series(0, 1023) as n
"""


class Cell(NamedTuple):
    """A database with the players of one cell, and the server that it is on."""

    dsn: str
    postmaster: int
    connection: Connection
    requests: str


async def measure(bench: Bench) -> list[Figure]:
    windows: dict[tuple[int, int], list[list[Window]]] = defaultdict(list)
    async with AsyncExitStack() as opened:
        alone = Cell(bench.dsn, bench.postmaster, bench.connection, _requests(bench, bench.viewers))
        first = await opened.enter_async_context(_cell(bench, "a", bench.dsn, bench.postmaster))
        folder = bench.folder / "second"
        dsn = opened.enter_context(embedded_postgres(folder, options=OPTIONS))
        postmaster = int((folder / "cluster" / "postmaster.pid").read_text().partition("\n")[0])
        second = await opened.enter_async_context(_cell(bench, "b", dsn, postmaster))
        file = bench.folder / "servers.toml"
        urls = [cell.dsn.replace(f"user={USER}", f"user={ROLE}") for cell in (first, second)]
        file.write_text("".join(map(FILE.format, NAMES, urls)))
        one = await opened.enter_async_context(bench.service("one cell"))
        variables = {"CELLS_FILE": str(file), "DATABASE_URL": ""}
        two = await opened.enter_async_context(bench.service("two cells", variables))
        for turn in range(ROUNDS + 1):
            bench.progress(f"round {turn} of {ROUNDS}")
            for rate in RATES:
                for peer, cells in ((one, [alone]), (two, [first, second]))[:: 1 - turn % 2 * 2]:
                    found = await _load(bench, peer, cells, rate)
                    if turn:  # the first round fills the caches
                        windows[rate, len(cells)].append(found)
        return [
            figure
            for rate in RATES
            for figure in _figures(rate, windows[rate, 1], windows[rate, 2])
        ]


def _figures(rate: int, one: list[list[Window]], two: list[list[Window]]) -> list[Figure]:
    load = f"{rate:,}/s a cell" if rate else f"{IN_FLIGHT} in flight a cell"
    figures = []
    for number, name in enumerate(NAMES):
        ratios = [
            cells[number].cpu_us / alone[0].cpu_us for alone, cells in zip(one, two, strict=True)
        ]
        figures.append(Figure(f"{load}: CPU, cell {name} of two / one", median(ratios), "", WITHIN))
    for name, found in (
        ("one", [each[0] for each in one]),
        *((f"cell {name}", [each[number] for each in two]) for number, name in enumerate(NAMES)),
    ):
        service = median(each.server_us for each in found)
        postgres = median(each.postgres_us for each in found)
        figures += [
            Figure(f"{load}, {name}: service CPU", service, "µs"),
            Figure(f"{load}, {name}: PostgreSQL CPU", postgres, "µs"),
        ]
    return figures


async def _load(bench: Bench, peer: Peer, cells: Sequence[Cell], rate: int) -> list[Window]:
    """Loads each cell at once; the CPU of the service is shared by their heartbeats."""
    plans = [Plan(peer.port, cell.requests, IN_FLIGHT, SECONDS, float(rate)) for cell in cells]
    async with AsyncExitStack() as running:
        loads = [await running.enter_async_context(LoadProcess(plan)) for plan in plans]
        handled = [int(await cell.connection.fetchval(LEDGER)) for cell in cells]
        times = [cpu_seconds(pid) for pid in (peer.pid, *(cell.postmaster for cell in cells))]
        await asyncio.gather(*(load.run() for load in loads))
        ended = [cpu_seconds(pid) for pid in (peer.pid, *(cell.postmaster for cell in cells))]
        counted = [
            int(await cell.connection.fetchval(LEDGER)) - begun
            for cell, begun in zip(cells, handled, strict=True)
        ]
        outcomes = [await load.outcome() for load in loads]
    server, *postgres = (end - begin for begin, end in zip(times, ended, strict=True))
    answered = together(outcomes)
    bench.unaccounted += abs(answered.completed - answered.errors - sum(counted))
    found = [
        Window(
            question=bench.question,
            peer=peer.name,
            connections=IN_FLIGHT,
            handled=number,
            server_us=server * 1e6 / sum(counted),
            postgres_us=seconds * 1e6 / number,
            statements=0,
            outcome=outcome,
            rate=rate,
        )
        for number, seconds, outcome in zip(counted, postgres, outcomes, strict=True)
    ]
    bench.windows += found
    return found


@asynccontextmanager
async def _cell(bench: Bench, name: str, server: str, postmaster: int) -> AsyncIterator[Cell]:
    """A database on a server, with as many families as the one of the bench."""
    connection = await asyncpg.connect(server)
    await connection.execute(f"create database cell_{name}")
    if not await connection.fetchval("select to_regrole($1)::text", ROLE):
        await connection.execute(f"create role {ROLE} login in role {USER}")
    await connection.close()
    dsn = server.replace(f"/{USER}?", f"/cell_{name}?")
    await asyncio.to_thread(migrate.migrate, dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute("select viewing_cell_join($1)", name)
    await connection.execute(MAP)
    scale = bench.scale
    await seed(connection, scale.profiles, scale.days, scale.sessions, bench.progress)
    players = await viewers(connection, scale.viewers)
    try:
        yield Cell(dsn, postmaster, connection, _requests(bench, players, name))
    finally:
        await connection.close()


def _requests(bench: Bench, players: Sequence[Viewer], cell: str = "") -> str:
    """Path of a file with heartbeats of the accounts of a cell; those of the one alone are a's."""
    is_second = cell == "b"
    its = [each for each in players if (slot(each.account_id) >= SLOTS // 2) is is_second]
    path = Path(bench.folder / f"cell-{cell}.requests")
    path.write_bytes(heartbeats(its))
    return str(path)
