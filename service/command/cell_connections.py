"""A connection to each cell, and the directory that they have together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from service.database import cures
from service.database.cells import Directory
from service.database.driver import Connection
from service.database.pool import connect
from service.database_errors import DatabaseError
from service.settings import Settings


@dataclass(frozen=True)
class Cells:
    """The cells by name, in the order of the file; `down` has why one cannot be used, a phrase."""

    settings: dict[str, Settings]
    connections: dict[str, Connection] = field(default_factory=dict)
    down: dict[str, str] = field(default_factory=dict)
    directory: Directory = field(default_factory=Directory)


@asynccontextmanager
async def connected_cells(cells: Sequence[Settings], seconds: float) -> AsyncIterator[Cells]:
    """A direct connection to each cell, whose statements may take `seconds`.

    Cells that cannot be used do not keep the others from being used. Errors of the connections are
    those of the driver, except in a `Statement`.
    """
    opened = Cells({cell.cell: cell for cell in cells})

    async def open_cell(cell: Settings) -> "Connection | DatabaseError":
        try:
            connection = await connect(cell, seconds, direct=True)
        except DatabaseError as error:
            return error
        try:
            await opened.directory.read(connection, cell.cell)
        except DatabaseError as error:
            connection.terminate()
            return error
        return connection

    results = await asyncio.gather(*map(open_cell, cells))
    for name, result in zip(opened.settings, results, strict=True):
        if isinstance(result, DatabaseError):
            opened.down[name] = cures.sentence(result)
        else:
            opened.connections[name] = result
    try:
        yield opened
    finally:
        for connection in opened.connections.values():
            connection.terminate()
