"""Statements that take effect together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.context import Context
from service.database.driver import Source, translated
from service.database.pool import limited


@asynccontextmanager
async def transaction(context: Context) -> AsyncIterator[Source]:
    """A connection in a transaction; the server ends the transaction if this process hangs."""
    with translated(context.pool):
        async with (
            context.pool.acquire() as connection,
            limited(connection, context.settings.request_timeout_seconds),
        ):
            yield connection
