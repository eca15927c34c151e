"""Copies the titles to a new cell: later ones are written to every cell."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from service.database.driver import Connection
from service.database.statement import Statement

MAX_TITLES: Final = 5_000  # in one statement


class TitleRow(msgspec.Struct, frozen=True):
    id: UUID
    title: str
    title_type: str
    is_featured: bool
    is_educational: bool
    created_at: datetime


class NoRow(msgspec.Struct, frozen=True):
    pass


LIST: Final = Statement("cell_titles", TitleRow)
WRITE: Final = Statement("cell_titles_write", NoRow)


async def copy(source: Connection, target: Connection) -> int:
    """Copies every title that the target lacks; returns how many the source has."""
    count, last = 0, UUID(int=0)
    while rows := await LIST.all(source, last, MAX_TITLES):
        await WRITE.maybe(target, *zip(*map(msgspec.structs.astuple, rows), strict=True))
        count += len(rows)
        last = rows[-1].id
    return count
