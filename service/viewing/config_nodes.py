"""Listens for changes of configurations on the nodes of Citus that do not have the cell.

After a move, each instance follows at a time of its own. Meanwhile it runs statements on the old
node, which then notifies its own listeners only.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from service.database.citus import Node, other_nodes
from service.database.driver import Connection
from service.database.pool import PING, connect
from service.database_errors import DatabaseError
from service.settings import Settings

if TYPE_CHECKING:
    from service.viewing.config_changes import Changes

logger = logging.getLogger("viewing_time.config_nodes")

NODE_INTERVAL_SECONDS: Final = 1.0
NODE_TIMEOUT_SECONDS: Final = 2.0


async def listen(settings: Settings, changes: "Changes", clear: Callable[[str], None]) -> None:
    """Listens on every other node, also on one that is added or comes back.

    Calls `clear` when it listens on one more, because changes may have been missed there.
    """
    nodes: set[Node] = set()
    listening: dict[Node, Connection] = {}
    failed: set[Node] = set()

    async def keep(node: Node) -> None:
        try:
            if node in listening:
                await PING.one(listening[node], timeout=NODE_TIMEOUT_SECONDS)
                return
            listening[node] = await connect(settings, direct=True, node=node)
            await changes.subscribe(listening[node])
        except DatabaseError as error:
            if node in listening:
                listening.pop(node).terminate()
            if node not in failed:
                fields = {"host": node.host, "port": node.port, "error": str(error)}
                logger.warning("listening_on_node_failed", extra={"fields": fields})
            failed.add(node)
        else:
            failed.discard(node)
            clear("listening again")

    try:
        while True:
            if changes.connection is not None:
                with contextlib.suppress(DatabaseError):
                    async with changes.lock:
                        nodes = await other_nodes(changes.connection, NODE_TIMEOUT_SECONDS)
            for node in listening.keys() - nodes:
                listening.pop(node).terminate()
            await asyncio.gather(*map(keep, nodes))
            await asyncio.sleep(NODE_INTERVAL_SECONDS)
    finally:
        for connection in listening.values():
            connection.terminate()
