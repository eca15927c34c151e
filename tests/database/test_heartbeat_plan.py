"""The heartbeat statement has one plan, and writes little, whatever the tables contain."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from service.database import connector
from service.database.driver import Connection
from service.database.statement import files

STATEMENT = (files("sql") / "heartbeat_record.sql").read_text(encoding="utf-8")
# The index for each alias of a table, in the order of the statement.
INDEXES = {
    ("users", "users_pkey"),
    ("profiles", "profiles_pkey"),
    ("titles", "titles_pkey"),
    ("viewing_time_configs", "uq_vtc_profile"),
    ("viewing_sessions", "viewing_sessions_pkey"),
}
SCANS = {"Index Scan", "Index Only Scan"}
HELPERS = "create function of(kind text, number int) returns uuid immutable strict language sql as "
HELPERS += "$$ select md5(kind || number)::uuid $$"
# `sessions` of each profile, one of them open, and as many balances.
ROWS = """
insert into users (id, email, password_hash)
select of('account', n), n || '@example.test', '-' from generate_series({first}, {last}) as n;

insert into profiles (id, user_id, name, is_kids)
select of('profile', n), of('account', n), 'x', true from generate_series({first}, {last}) as n;

insert into titles (id, title, title_type)
select of('title', n), 'x', 'movie' from generate_series({first}, {last}) as n;

insert into viewing_time_configs (id, profile_id)
select of('config', n), of('profile', n) from generate_series({first}, {last}) as n;

insert into viewing_sessions (
    id, profile_id, title_id, device_id, started_at, last_heartbeat_at, ended_at
)
select
    of('session' || k, n), of('profile', n), of('title', n), 'tv', now(), now(),
    case when k > 1 then now() end
from generate_series({first}, {last}) as n, generate_series(1, {sessions}) as k;

insert into viewing_time_balances (id, profile_id, reset_date)
select gen_random_uuid(), of('profile', n), date '2026-11-25' - k
from generate_series({first}, {last}) as n, generate_series(1, {sessions}) as k
"""
ARGUMENTS = """
select
    array_agg(of('profile', n)), array_agg(of('account', n)), array_agg(of('title', n)),
    array_agg(of('session1', n)), array_agg(false), array_agg(null::text), array_agg(null::text),
    array_agg(false), array_agg(date '2026-11-24'), array_agg(true), array_agg(null::bytea),
    array_agg(true), array_agg(1795478400::int8), array_agg(null::date), array_agg(false),
    array_agg(2147483647), array_agg(null::text),
    '019ac0de0000700080000000'::text, timestamptz '2026-11-24 12:00Z', '500ms'::text, false,
    null::text[], null::date[], null::int8[]
from (select n from generate_series(1, {beats}) as n order by of('profile', n)) as n
"""


@pytest.fixture
async def beating(database: str, connection: Connection) -> AsyncIterator[Connection]:
    """A connection like those of heartbeats, to a database without automatic statistics."""
    await connection.execute(HELPERS)
    for table, _ in INDEXES:
        await connection.execute(f"alter table {table} set (autovacuum_enabled = off)")
    sent = {**connector.ALWAYS, **connector.BY_INDEX}
    opened = await asyncpg.connect(database, server_settings=sent, statement_cache_size=0)
    yield opened
    await opened.close()


async def add(connection: Connection, first: int, last: int, sessions: int) -> None:
    await connection.execute(ROWS.format(first=first, last=last, sessions=sessions))


async def arguments_of(connection: Connection, beats: int) -> list[Any]:
    row = await connection.fetchrow(ARGUMENTS.format(beats=beats))
    return list(row or ())


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def literal(value: object) -> str:
    if isinstance(value, list):
        return "'{" + ",".join("null" if v is None else str(v) for v in value) + "}'"
    return "null" if value is None else f"'{value}'"


async def plan(connection: Connection, mode: str, beats: int) -> list[dict[str, Any]]:
    await connection.execute(f"set plan_cache_mode = {mode}")
    await connection.execute("deallocate all")
    await connection.execute(f"prepare heartbeat as {STATEMENT}")
    arguments = await arguments_of(connection, beats)
    written = ", ".join(map(literal, arguments))
    [explained] = json.loads(
        await connection.fetchval(f"explain (format json) execute heartbeat ({written})")
    )
    return [*nodes(explained["Plan"])]


async def each_is_planned_by_its_index(connection: Connection) -> None:
    for mode in ("force_generic_plan", "force_custom_plan"):
        for beats in (1, 200):
            found = set()
            for node in await plan(connection, mode, beats):
                assert node["Node Type"] not in ("Seq Scan", "Hash Join", "Merge Join", "Memoize")
                if node["Node Type"] in SCANS:
                    assert "Index Cond" in node, node
                    found.add((node["Relation Name"], node["Index Name"]))
            assert found == INDEXES, (mode, beats)


async def test_a_heartbeat_has_one_plan_whatever_the_statistics_say(
    connection: Connection, beating: Connection
) -> None:
    await each_is_planned_by_its_index(beating)
    await connection.execute("vacuum analyze")  # of empty tables
    await each_is_planned_by_its_index(beating)
    for last, sessions in ((1, 1), (50, 1), (2000, 1), (2500, 20)):
        first = await connection.fetchval("select count(*) + 1 from users")
        await add(connection, first, last, sessions)
        await each_is_planned_by_its_index(beating)  # with the statistics of fewer rows
        await connection.execute("analyze")
        await each_is_planned_by_its_index(beating)
        await connection.execute("vacuum")
        await each_is_planned_by_its_index(beating)
    await connection.execute("delete from pg_statistic")
    await each_is_planned_by_its_index(beating)


async def test_a_plan_made_for_empty_tables_reads_few_pages_when_they_have_grown(
    connection: Connection, beating: Connection
) -> None:
    await connection.execute("vacuum analyze")
    await plan(beating, "force_generic_plan", 1)
    await add(connection, 1, 2000, 5)
    arguments = await arguments_of(connection, 64)
    written = ", ".join(map(literal, arguments))
    explain = f"explain (analyze, buffers, format json) execute heartbeat ({written})"
    [explained] = json.loads(await beating.fetchval(explain))
    root = explained["Plan"]
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] < 64 * 60


async def scans(connection: Connection, name: str) -> int:
    """How often this transaction has scanned a table or an index, with its partitions."""
    scanned: int = await connection.fetchval(
        "select pg_stat_get_xact_numscans($1::text::regclass) + coalesce(("
        "select sum(pg_stat_get_xact_numscans(t.relid)) from pg_partition_tree($1::text::regclass) "
        "as t where t.parentrelid is not null), 0)::int8",
        name,
    )
    return scanned


async def test_balances_of_a_day_are_found_by_the_index_of_days(
    connection: Connection, beating: Connection
) -> None:
    await connection.execute("vacuum analyze")
    await add(connection, 1, 500, 5)
    prepared = await beating.prepare(STATEMENT)
    async with beating.transaction():
        await prepared.fetch(*await arguments_of(connection, 64))
        assert await scans(beating, "ix_vtb_date_profile") == 64
        assert await scans(beating, "uq_vtb_profile_date") == 0
        assert await scans(beating, "viewing_time_balances") == 0


async def test_a_heartbeat_writes_few_bytes_of_log(
    connection: Connection, beating: Connection
) -> None:
    await add(connection, 1, 500, 5)
    await connection.execute("vacuum analyze")
    prepared = await beating.prepare(STATEMENT)
    arguments = await arguments_of(connection, 64)
    position = "select pg_current_wal_insert_lsn() - '0/0'"
    written = []
    for _ in range(5):
        before = await connection.fetchval(position)
        await prepared.fetch(*arguments)
        written.append(await connection.fetchval(position) - before)
    assert min(written) / 64 < 310


async def test_balances_that_are_missing_are_added_once_and_returned(
    connection: Connection, beating: Connection
) -> None:
    await add(connection, 1, 20, 1)
    await connection.execute(
        "delete from viewing_time_balances where profile_id > of('profile', 9)"
    )
    left = await connection.fetchval("select count(*) from viewing_time_balances")
    assert 0 < left < 20
    arguments = await arguments_of(connection, 20)
    for used in (30, 60):
        [row] = await beating.fetch(STATEMENT, *arguments)
        assert sorted(row["children"]) == sorted(arguments[0])
        assert set(row["used_seconds"]) == {used}
    stored = "select array(select used_seconds from viewing_time_balances)"
    assert await connection.fetchval(stored) == [60] * 20


OPEN = """
select * from viewing_balances_open(
    array[of('profile', 1)], array[date '2026-11-24'], array[30], array[false], array[1],
    '019ac0de0000700080000000', timestamptz '2026-11-24 12:00Z', $1
)
"""


async def test_a_balance_that_appears_out_of_order_is_not_waited_for(
    connection: Connection, beating: Connection
) -> None:
    await add(connection, 1, 1, 1)
    row = await beating.fetchrow(OPEN, True)
    assert row is not None
    assert row["used_seconds"] == [30]
    async with connection.transaction():
        await connection.execute("update viewing_time_balances set used_seconds = 60")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await beating.fetchrow(OPEN, True)
    row = await beating.fetchrow(OPEN, False)
    assert row is not None
    assert row["used_seconds"] == [90]
