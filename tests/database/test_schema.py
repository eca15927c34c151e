"""A schema that is missing or older than the code is reported, for any role."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from service.database import schema
from service.database.driver import Connection


async def test_a_migrated_database_lacks_nothing(connection: Connection) -> None:
    assert await schema.state(connection) == schema.State("", "", unknown=[], is_readable=True)


async def test_an_empty_database_lacks_every_migration(empty_database: str) -> None:
    opened = await asyncpg.connect(empty_database)
    try:
        state = await schema.state(opened)
    finally:
        await opened.close()
    count = len(schema.ours())
    assert state.error == f"{count} of {count} migrations are not applied, from 0001_tables on"


async def test_schema_older_than_the_code_is_reported(connection: Connection) -> None:
    last = max(schema.ours())
    await connection.execute("delete from _yoyo_migration where migration_id = $1", last)
    assert (await schema.state(connection)).error == (
        f"1 of {len(schema.ours())} migrations are not applied, from {last} on"
    )


@pytest.mark.parametrize(
    "change", ["drop table time_grants", "alter table time_grants rename to x"]
)
async def test_missing_table_is_reported(connection: Connection, change: str) -> None:
    await connection.execute(change)
    assert (await schema.state(connection)).error == "table time_grants is not there"


@pytest.fixture
async def stranger(connection: Connection) -> AsyncIterator[str]:
    """A role without any right."""
    name = f"stranger_{uuid4().hex}"
    await connection.execute(f"create role {name}")
    yield name
    await connection.execute("reset role")
    await connection.execute(f"drop role {name}")


async def test_missing_table_is_reported_to_a_role_without_access_to_the_migration_table(
    connection: Connection, stranger: str
) -> None:
    await connection.execute(f"set role {stranger}")
    state = await schema.state(connection)
    assert (state.is_readable, state.error) == (False, "")
    await connection.execute("reset role")
    await connection.execute("revoke usage on schema public from public")
    await connection.execute(f"set role {stranger}")
    assert (await schema.state(connection)).error == (
        "table users is not there: schema public has such tables, "
        "but the search_path leaves it out or the role may not use it"
    )
