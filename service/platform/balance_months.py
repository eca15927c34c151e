"""Partitions of balances, a month each: created ahead, dropped when all their days are expired.

A table without partitions is left as it is. Only the owner of a table may add or drop partitions:
functions of migration 0031 do it with the owner's rights.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import date
from typing import Any, Final

import msgspec

from service.database.driver import Connection, Pool, Source
from service.database.statement import Statement
from service.database_errors import DatabaseError, Deadlock, LockTimeout, Unavailable
from service.observing.supervision import stopped, supervised

logger = logging.getLogger("viewing_time.retention")

DAY_SECONDS: Final = 86_400.0
# The statements wait 50 ms for a lock, because heartbeats wait behind them.
MAX_LOCK_TRIES: Final = 20
LOCK_PAUSE_SECONDS: Final = 0.5
STATEMENT_SECONDS: Final = 60.0


class AddedRow(msgspec.Struct, frozen=True):
    added: str | None


class DroppedRow(msgspec.Struct, frozen=True):
    partition_name: str | None
    deleted: int | None


ADD: Final = Statement("balance_month_add", AddedRow)
DROP: Final = Statement("balance_month_drop", DroppedRow)


class MonthsAhead:
    """Creates missing partitions at start and every day, so that no month begins without one."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised("balance_months", self._run())

    async def stop(self) -> None:
        await stopped(self._task)

    async def _run(self) -> None:
        while True:
            await add_months(self._pool)
            await asyncio.sleep(DAY_SECONDS)


async def add_months(source: Source) -> None:
    """Creates missing partitions. A failure is only logged: the default partition gets the rows."""
    try:
        while name := (await _patiently(ADD, source, False)).added:
            logger.info("balance_month_added", extra={"fields": {"partition": name}})
    except DatabaseError as error:
        logger.warning("balance_months_not_added", extra={"fields": {"error": str(error)}})


async def dropped_months(connection: Connection, before: date) -> AsyncIterator[int]:
    """Drops the partitions whose days are all before `before`; yields the rows of each.

    Partitions that cannot be dropped stay, so that their rows are deleted like others.
    """
    while True:
        try:
            row = await _patiently(DROP, connection, before)
        except DatabaseError as error:
            if isinstance(error, Unavailable) and not isinstance(error, LockTimeout | Deadlock):
                raise
            logger.warning("balance_month_not_dropped", extra={"fields": {"error": str(error)}})
            return
        if row.partition_name is None or row.deleted is None:
            return
        fields = {"partition": row.partition_name, "balances": row.deleted}
        logger.info("balance_month_dropped", extra={"fields": fields})
        yield row.deleted


async def _patiently(statement: Statement[Any], source: Source, *arguments: object) -> Any:
    """Runs a statement again while it runs into its lock time-out; raises that of the last try."""
    for _ in range(MAX_LOCK_TRIES - 1):
        with suppress(LockTimeout, Deadlock):
            return await statement.one(source, *arguments, timeout=STATEMENT_SECONDS)
        await asyncio.sleep(LOCK_PAUSE_SECONDS)
    return await statement.one(source, *arguments, timeout=STATEMENT_SECONDS)
