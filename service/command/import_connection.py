"""The connections of an import at the command line."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import click

from service.command.cell_connections import Cells, connected_cells
from service.command.each_cell import say
from service.database.driver import Connection, Transaction
from service.database.pool import connected
from service.platform.import_cells import CellOfImport, CellsImport
from service.platform.import_lines import Line
from service.platform.import_merge import STATEMENT_SECONDS, Import
from service.settings import Settings


class ImportConnection:
    """Merges files, each on a connection of its own.

    A dry run merges all of them in one transaction, so that profiles find the accounts of an
    earlier file, and rolls it back.
    """

    def __init__(self, settings: Settings, is_dry_run: bool) -> None:
        self._settings = settings
        self._is_dry_run = is_dry_run
        self._runner = asyncio.Runner()
        self._opened = AsyncExitStack()
        self._connection: Connection | None = None
        self._transaction: Transaction | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._runner:
            self._runner.run(self._close())

    def merge(self, job: Import, lines: Iterator[Line]) -> None:
        """Merges the lines of a file; raises as Import.merge."""
        self._runner.run(self._try(job, lines) if self._is_dry_run else self._merge(job, lines))

    async def _merge(self, job: Import, lines: Iterator[Line]) -> None:
        async with connected(self._settings, STATEMENT_SECONDS) as connection:
            await job.merge(connection, lines)

    async def _try(self, job: Import, lines: Iterator[Line]) -> None:
        if self._connection is None:
            opening = connected(self._settings, STATEMENT_SECONDS)
            self._connection = await self._opened.enter_async_context(opening)
            self._transaction = self._connection.transaction()
            await self._transaction.start()
        await job.merge(self._connection, lines)

    async def _close(self) -> None:
        """Rolls back a dry run; the server does so itself if the connection is lost."""
        async with self._opened:
            if self._transaction and self._connection and not self._connection.is_closed():
                await self._transaction.rollback()


class CellsConnection(ImportConnection):
    """Merges files into several cells, likewise; a cell that fails keeps no other from merging."""

    def __init__(self, cells: Sequence[Settings], is_dry_run: bool) -> None:
        super().__init__(cells[0], is_dry_run)
        self._every = cells
        self._tried: Cells | None = None

    async def _merge(self, job: Import, lines: Iterator[Line]) -> None:
        async with connected_cells(self._every, STATEMENT_SECONDS) as opened:
            await self._merge_in(opened, job, lines)

    async def _try(self, job: Import, lines: Iterator[Line]) -> None:
        if self._tried is None:
            opening = connected_cells(self._every, STATEMENT_SECONDS)
            self._tried = await self._opened.enter_async_context(opening)
            for connection in self._tried.connections.values():
                await connection.transaction().start()  # closing the connection rolls back
        await self._merge_in(self._tried, job, lines)

    async def _merge_in(self, opened: Cells, job: Import, lines: Iterator[Line]) -> None:
        cells = {
            name: CellOfImport(failure=opened.down[name])
            if name in opened.down
            else CellOfImport(opened.connections[name])
            for name in opened.settings
        }
        try:
            await CellsImport(job, cells, opened.directory).merge(lines)
        finally:
            for name, cell in cells.items():
                if cell.failure:
                    opened.down[name] = cell.failure
                    click.echo(f"cell {name}: {cell.failure}", err=True)
                counts = cell.outcome
                text = f"{counts.accounts:,} accounts, {counts.profiles:,} profiles"
                say(opened.settings[name], f"{text}, {counts.titles:,} titles")
