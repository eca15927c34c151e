"""Compares one cell with four, which are schemas of the same database, with the same families.

Heartbeats of different cells do not share a statement, so four cells have smaller statements and
cost more CPU. In each round both are started and loaded in turn; a figure is the median of the
rounds, a ratio the median of the ratios of the rounds.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Final

import asyncpg

from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.seed import SECRET, fresh_day
from service.cells_file import cells
from service.command import migrate
from service.settings import Settings

NAMES: Final = ("a", "b", "c", "d")
SCHEMAS: Final = ("public", *NAMES)
LOADS: Final = (1_000, 64)
TARGETS: Final = {1_000: Target(1.3)}
ROUNDS: Final = 5
SECONDS: Final = 2.0
ONE: Final = "one cell"
FOUR: Final = "four cells"
# The harness counts the heartbeats in this view, which hides the table of the same name.
COUNTED: Final = "create temporary view viewing_sessions as " + " union all ".join(
    f"select ended_at, total_seconds from {schema}.viewing_sessions" for schema in SCHEMAS
)
# Copies the families of one cell; `search_path` is its schema.
COPY: Final = """
set session_replication_role = replica;
create temporary table families as
select u.id as account, p.id as profile
from public.users as u
left join public.profiles as p on p.user_id = u.id
where exists (
    select from viewing_cell_slots as s where s.slot = viewing_cell_slot(u.id) and s.cell = '{cell}'
);
insert into titles select * from public.titles;
insert into users select * from public.users where id in (select account from families);
insert into profiles select * from public.profiles where id in (select profile from families);
insert into viewing_time_configs
select * from public.viewing_time_configs where profile_id in (select profile from families);
insert into viewing_sessions
select * from public.viewing_sessions where profile_id in (select profile from families);
insert into viewing_time_balances
select * from public.viewing_time_balances where profile_id in (select profile from families);
drop table families;
reset session_replication_role
"""


async def measure(bench: Bench) -> list[Figure]:
    windows: dict[tuple[int, str], list[Window]] = defaultdict(list)
    async with _four_cells(bench) as file:
        variables = {ONE: {}, FOUR: {"CELLS_FILE": file}}
        for turn in range(1, ROUNDS + 1):
            for name in (ONE, FOUR) if turn % 2 else (FOUR, ONE):
                bench.progress(f"{name}, round {turn}")
                await _fresh_day(bench)
                async with bench.service(name, variables[name]) as service:
                    await bench.warm(service)
                    for load in LOADS:
                        window = await bench.closed_loop(service, load, SECONDS)
                        windows[load, name].append(window)
    return [
        figure
        for load in LOADS
        for figure in _figures(load, windows[load, ONE], windows[load, FOUR])
    ]


def _figures(load: int, one: list[Window], four: list[Window]) -> list[Figure]:
    ratio = median(more.cpu_us / less.cpu_us for less, more in zip(one, four, strict=True))
    figures = [Figure(f"{load:,} in flight: CPU, four cells / one", ratio, "", TARGETS.get(load))]
    for name, found in ((ONE, one), (FOUR, four)):
        begin = f"{load:,} in flight, {name}"
        batch = median(1 / each.statements for each in found)
        figures += [
            Figure(f"{begin}: service CPU", median(each.server_us for each in found), "µs"),
            Figure(f"{begin}: PostgreSQL CPU", median(each.postgres_us for each in found), "µs"),
            Figure(f"{begin}: heartbeats in a statement", batch),
        ]
    return figures


@asynccontextmanager
async def _four_cells(bench: Bench) -> AsyncIterator[str]:
    """Makes the cells with copies of all families; CELLS_FILE."""
    file = bench.folder / "cells.toml"
    file.write_text("".join(f'[[cell]]\nname = "{n}"\nschema = "{n}"\n' for n in NAMES))
    settings = Settings(database_url=bench.dsn, jwt_secret=SECRET, cells_file=str(file))
    await asyncio.to_thread(migrate.apply, cells(settings), is_brief=True)
    for name in NAMES:
        bench.progress(f"families of cell {name}")
        connection = await asyncpg.connect(bench.dsn, server_settings={"search_path": name})
        await connection.execute(COPY.format(cell=name))
        await connection.execute("vacuum analyze")
        await connection.close()
    await bench.connection.execute(COUNTED)
    yield str(file)
    await bench.connection.execute("drop view pg_temp.viewing_sessions")
    for name in NAMES:
        await bench.connection.execute(f"drop schema {name} cascade")


async def _fresh_day(bench: Bench) -> None:
    for schema in SCHEMAS:
        connection = await asyncpg.connect(bench.dsn, server_settings={"search_path": schema})
        await fresh_day(connection)
        await connection.close()
