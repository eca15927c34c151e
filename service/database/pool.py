"""The connection pool, and connections outside it.

The pool resets nothing when a connection is released: no statement changes the settings of its
connection, and a transaction takes its own settings with it. The reset would only add a round trip
to each statement.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import asyncpg
import msgspec

from service import database_url
from service.database import cells, citus, connector
from service.database.connector import Socketed
from service.database.driver import (
    UNREACHABLE,
    AnyConnection,
    Connection,
    Pool,
    connecting,
    translated,
)
from service.database.statement import Statement
from service.database_errors import Unavailable
from service.settings import Settings


class PreparedRow(msgspec.Struct, frozen=True):
    synchronous_commit: str | None
    idle_session_timeout: str | None
    transaction_timeout: str | None


class Ping(msgspec.Struct, frozen=True):
    is_writable: bool


PREPARE: Final = Statement("connection_prepare", PreparedRow)


class BegunRow(msgspec.Struct, frozen=True):
    idle_limit: str
    transaction_limit: str | None


PING: Final = Statement("health_ping", Ping)
BEGIN: Final = Statement("transaction_begin", BegunRow)


async def _keep(connection: Connection) -> None:
    """Replaces the driver's reset of a released connection."""


Warmth = Iterable[tuple[Statement[Any], tuple[object, ...]]]


async def open_pool(
    settings: Settings, warmth: Warmth, min_size: int, max_size: int, **options: Any
) -> Pool:
    """A pool with `min_size` live connections, each of which has run the statements of `warmth`.

    The first run of a statement on a connection includes its planning, and three more statements
    that look up the types of its arrays. The pool does that before the first request.
    """

    async def warm(connection: Connection) -> None:
        if settings.statement_cache_size and not settings.cells_citus_url:  # not all can be routed
            for statement, arguments in warmth:
                with translated(connection):
                    await connection.fetch(statement.text, *arguments)

    return await asyncpg.create_pool(
        min_size=min_size,
        max_size=max_size,
        init=warm,
        reset=_keep,
        connect=partial(_pool_connection, settings),
        connection_class=Socketed,
        **options,
    )


async def _pool_connection(settings: Settings, dsn: None, **options: Any) -> Connection:
    return await connect(settings, **options)


async def connect(
    settings: Settings,
    seconds: float | None = None,
    *,
    direct: bool = False,
    by_index: bool = False,
    node: citus.Node | None = None,
    **options: Any,
) -> Connection:
    """A connection outside the pool, for long work or for the life of the process.

    Its statements may take `seconds`, or as long as a request. `direct` bypasses a pooler if
    DATABASE_DIRECT_URL is set: notifications do not pass a pooler in transaction mode. Each host of
    the address has its own share of the time; the driver has one time-out for all of them, so a
    silent host would leave no time for the next ones. `node` is one of Citus to connect to, instead
    of the one that has the cell.
    """
    url = (settings.database_direct_url if direct else "") or settings.database_url
    address = database_url.read(url)
    with connecting():
        hosts = connector.hosts(address)
        if node is not None:
            hosts = [{**hosts[-1], "host": node.host, "port": node.port}]
        options = {
            "connection_class": Socketed,
            "command_timeout": seconds or settings.request_timeout_seconds,
            "timeout": settings.request_timeout_seconds / len(hosts),
            "statement_cache_size": settings.statement_cache_size,
            "max_cacheable_statement_size": 0,  # the driver would not cache the longest one
            "max_cached_statement_lifetime": 0,
            "server_settings": connector.server_settings(
                settings, seconds, direct=direct, by_index=by_index
            ),
            **options,
        }
        for host in hosts[:-1]:
            with contextlib.suppress(*UNREACHABLE):
                connection = await connector.to_host(address, **host, **options)
                break
        else:
            connection = await connector.to_host(address, **hosts[-1], **options)
        if settings.cells_citus_url and node is None:
            connection = await citus.at_cell(connection, address, hosts[-1], options)
        try:
            if not connector.is_pooled(settings, direct=direct):
                await connection.fetchrow(PREPARE.text)
            if settings.cell and node is None:
                with translated(connection):
                    await cells.check_name(connection, settings.cell)
        except BaseException:
            connection.terminate()
            raise
    return connection


@asynccontextmanager
async def connected(
    settings: Settings, seconds: float, *, direct: bool = False, by_index: bool = False
) -> AsyncIterator[Connection]:
    """A connection for one piece of work, each of whose statements may take `seconds`."""
    connection = await connect(settings, seconds, direct=direct, by_index=by_index)
    try:
        with translated(connection):
            yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def limited(connection: AnyConnection, seconds: float) -> AsyncIterator[None]:
    """A transaction; the server ends it if this process hangs in it for `seconds`."""
    with translated(connection):
        async with connection.transaction():
            await BEGIN.maybe(connection, max(1, int(1000 * seconds)))
            yield


async def reach(settings: Settings, *, direct: bool = False) -> None:
    """Opens a connection and closes it; raises Unavailable if that fails."""
    connection = await connect(settings, direct=direct)
    with translated(connection):
        await connection.close()


async def takes_writes(settings: Settings, connection: Connection, seconds: float) -> bool:
    """Whether the server of a connection takes writes, and is the node that has the cell."""
    row = await PING.one(connection, timeout=seconds)
    return row.is_writable and (
        not settings.cells_citus_url or await citus.has_cell(connection, seconds)
    )


async def replace_idle(pool: Pool) -> None:
    """Closes idle connections that have expired; the pool keeps them open until their next use."""

    async def use() -> None:
        with contextlib.suppress(Unavailable), translated(pool):
            async with pool.acquire():
                pass

    await asyncio.gather(*(use() for _ in range(pool.get_idle_size())))


async def close_pool(pool: Pool, timeout: float) -> None:
    """Closes the pool; terminates the connections that are in use after `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            await pool.close()
    except TimeoutError:
        pool.terminate()
