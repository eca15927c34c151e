"""Statements that take effect together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from service.context import Context
from service.database.driver import Source, translated
from service.database.statement import Statement


class BegunRow(msgspec.Struct, frozen=True):
    idle_limit: str
    transaction_limit: str | None


BEGIN: Final = Statement("transaction_begin", BegunRow)


@asynccontextmanager
async def transaction(context: Context) -> AsyncIterator[Source]:
    """A connection in a transaction; the server ends the transaction if this process hangs."""
    max_ms = max(1, int(1000 * context.settings.request_timeout_seconds))
    with translated(context.pool):
        async with context.pool.acquire() as connection:
            with translated(connection):
                async with connection.transaction():
                    await BEGIN.maybe(connection, max_ms)
                    yield connection
