"""Cells that are schemas of a Citus database: a connection leads to the node that has the cell."""

from typing import Any, Final, NamedTuple

from service.database import connector
from service.database.driver import Connection, translated
from service.database.statement import text
from service.database_url import Address

# Not a `Statement`, because a database without the extension cannot prepare it.
PLACE: Final = text("citus/place")
NODES: Final = text("citus/nodes")


class Node(NamedTuple):
    host: str
    port: int


async def at_cell(
    connection: Connection, address: Address, host: dict[str, Any], options: dict[str, Any]
) -> Connection:
    """This connection, or one like it to the node that has the cell; a cell is on one node.

    `host` and `options` are those with which this connection was opened.
    """
    try:
        place = await connection.fetchrow(PLACE)
    except BaseException:
        connection.terminate()
        raise
    if place is None or place["is_here"]:
        return connection
    connection.terminate()
    node = {**host, "host": place["host"], "port": place["port"]}
    return await connector.to_host(address, **node, **options)


async def has_cell(connection: Connection, seconds: float) -> bool:
    """Whether the cell is on the node of this connection."""
    with translated(connection):
        place = await connection.fetchrow(PLACE, timeout=seconds)
    return place is None or place["is_here"]


async def other_nodes(connection: Connection, seconds: float) -> set[Node]:
    """The nodes except that of this connection."""
    with translated(connection):
        return {Node(*row) for row in await connection.fetch(NODES, timeout=seconds)}
