"""The two shapes of the table of balances: partitions by month, and one table."""

import pytest

from service.database.driver import Connection
from service.database.statement import files

PARTITION_NAMES = "select partition_id::regclass::text from viewing_balance_partitions()"


async def make_plain(connection: Connection) -> None:
    """Makes the table one table, as in a database that was adopted."""
    rollback = files("migrations") / "0032_partition_empty_balances.rollback.sql"
    async with connection.transaction():
        await connection.execute(rollback.read_text(encoding="utf-8"))
    assert await partitions(connection) == set()


async def partitions(connection: Connection) -> set[str]:
    return {row[0] for row in await connection.fetch(PARTITION_NAMES)}


@pytest.fixture(params=["partitioned", "plain"])
async def shape(request: pytest.FixtureRequest, connection: Connection) -> str:
    """Runs a test once on each shape."""
    name: str = request.param
    if name == "plain":
        await make_plain(connection)
    return name
