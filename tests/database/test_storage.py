"""`check` reports storage that makes heartbeats slow, or will refuse them."""

import pytest
from msgspec.structs import replace

from service.database import storage
from service.database.driver import Connection
from tests.balance_shapes import make_plain
from tests.balance_shapes import shape as shape
from tests.eventually import eventually
from tests.family import Family

BALANCES = "viewing_time_balances"


async def reported(connection: Connection) -> list[tuple[str, str]]:
    return [(one.level, one.text) for one in await storage.problems(connection)]


@pytest.mark.usefixtures("shape")
async def test_a_migrated_database_has_no_problem(connection: Connection) -> None:
    assert await reported(connection) == []


async def test_the_constraint_of_an_interrupted_command_is_a_fault(connection: Connection) -> None:
    await make_plain(connection)
    await connection.execute("select viewing_balances_bound()")
    [problem] = await storage.problems(connection)
    assert problem.level == "fault"
    assert problem.text.startswith("constraint ck_vtb_before of table viewing_time_balances, left")
    assert problem.remedy == "run `viewing-time partition` again"


async def test_partitions_that_end_soon_are_reported(connection: Connection) -> None:
    await connection.execute(
        """
        do $$ declare part regclass; begin
            for part in select partition_id from viewing_balance_partitions()
                where first_day > current_date - 31
            loop execute 'drop table ' || part; end loop;
        end $$
        """
    )
    [(level, text)] = await reported(connection)
    assert level == "warn"
    assert text.startswith("partitions of balances end in ")


async def test_balances_of_a_month_without_partition_are_reported(
    connection: Connection, family: Family
) -> None:
    await connection.execute(
        f"insert into {BALANCES} (id, profile_id, reset_date) "
        "values (gen_random_uuid(), $1, '2999-01-01')",
        family.child,
    )
    expected = [("warn", "about 1 balances are in no partition of a month")]

    async def is_reported() -> bool:
        return await reported(connection) == expected

    await eventually(is_reported)  # the server counts rows a moment later


@pytest.mark.parametrize(
    "change", ["reset (fillfactor)", "set (autovacuum_enabled = off)"], ids=["full", "unvacuumed"]
)
@pytest.mark.parametrize("table", ["viewing_sessions", f"{BALANCES}_default"])
async def test_a_hot_table_without_room_or_vacuum_is_reported(
    connection: Connection, table: str, change: str
) -> None:
    await connection.execute(f"alter table {table} {change}")
    [problem] = await storage.problems(connection)
    assert problem.text == f"table {table} has no fillfactor, or autovacuum is off"
    await connection.execute(problem.remedy.strip("`"))
    assert await storage.problems(connection) == []


@pytest.mark.parametrize(
    ("size", "seconds", "megabytes", "is_reported"),
    [
        (5 * 2**30, 300, 16384, True),
        (5 * 2**30, 1800, 1024, True),
        (5 * 2**30, 1800, 16384, False),
        (3 * 2**30, 300, 1024, False),
    ],
)
async def test_frequent_checkpoints_are_reported_for_large_tables(
    connection: Connection, size: int, seconds: int, megabytes: int, is_reported: bool
) -> None:
    row = await storage.STORAGE.one(connection, timeout=10)
    row = replace(row, bytes=size, checkpoint_seconds=seconds, log_megabytes=megabytes)
    assert [one.level for one in storage.found(row)] == ["warn"] * is_reported
