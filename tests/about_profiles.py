"""Every table with rows about a profile or an account, as the catalogue shows them."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

from service.database.driver import Connection
from tests.family import Family

# By its foreign key, or by the name of its column.
TABLES = """
    select distinct on (c.oid) c.relname::text as name, a.attname::text as key
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_constraint as k
        on k.conrelid = c.oid and k.contype = 'f' and k.conkey = array[a.attnum]
    where c.relkind in ('r', 'p')
        and not c.relispartition
        and c.relnamespace = current_schema()::regnamespace
        and (k.confrelid = $1::text::regclass or a.attname = $2)
    order by c.oid, a.attname = $2 desc, a.attname
"""
COLUMNS = """
    select
        a.attname::text as name,
        t.typname::text as type,
        a.attnotnull and not a.atthasdef and a.attidentity = '' as is_needed,
        k.confrelid::regclass::text as target
    from pg_attribute as a
    join pg_type as t on t.oid = a.atttypid
    left join pg_constraint as k
        on k.conrelid = a.attrelid and k.contype = 'f' and k.conkey = array[a.attnum]
    where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped
"""
TARGETS = {"profile_id": "profiles", "account_id": "users"}
VALUES: dict[str, Any] = {
    "bool": True,
    "bytea": b"x",
    "date": date(2026, 11, 25),
    "int4": 15,
    "jsonb": "[]",
    "text": "x",
    "timestamptz": datetime(2026, 11, 25, 12, tzinfo=UTC),
    "varchar": "x",
}


async def about_profiles(connection: Connection) -> dict[str, str]:
    """The tables with rows about a profile, each with the column that names it."""
    return await _tables(connection, "profiles", "profile_id")


async def about_accounts(connection: Connection) -> dict[str, str]:
    """The tables with rows about an account, each with the column that names it."""
    return await _tables(connection, "users", "account_id")


async def _tables(connection: Connection, target: str, column: str) -> dict[str, str]:
    rows = await connection.fetch(TABLES, target, column)
    return {row["name"]: row["key"] for row in rows}


async def columns(connection: Connection, table: str) -> list[str]:
    return [row["name"] for row in await connection.fetch(COLUMNS, table)]


async def add_rows(connection: Connection, family: Family) -> None:
    """Adds a row about the child or the account to each table that has none yet."""
    keys = {"profiles": family.child, "users": family.account, "titles": family.title}
    for table in {**await about_profiles(connection), **await about_accounts(connection)}:
        values = {}
        for name, kind, is_needed, target in await connection.fetch(COLUMNS, table):
            if target or name in TARGETS:
                values[name] = keys[target or TARGETS[name]]
            elif is_needed:
                values[name] = uuid4() if kind == "uuid" else VALUES[kind]
        places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
        await connection.execute(
            f"insert into {table} ({', '.join(values)}) values ({places}) on conflict do nothing",
            *values.values(),
        )


async def counts(connection: Connection, tables: dict[str, str], key: object) -> dict[str, int]:
    """The number of rows about `key` in each table."""
    return {
        table: await connection.fetchval(f"select count(*) from {table} where {column} = $1", key)
        for table, column in tables.items()
    }
