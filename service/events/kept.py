"""The events that are kept, for an operator: listed, or made unsent again for the webhook."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from service.database.driver import Connection
from service.database.pool import connected
from service.database.statement import Statement
from service.events.deliveries import CountRow
from service.events.event import Event, EventRow, event
from service.settings import Settings

MAX_PAGE: Final = 1_000
PAGE_SECONDS: Final = 60.0

LIST: Final = Statement("delivery_list", EventRow)
PARKED: Final = Statement("delivery_parked", EventRow)
REPEAT: Final = Statement("delivery_repeat", CountRow)


async def show(
    settings: Settings, since: datetime | None, write: Callable[[Event], None], *, redeliver: bool
) -> int:
    """Writes the events since a time, or the parked ones; returns how many will be sent again."""
    repeated = 0
    async with connected(settings, PAGE_SECONDS, by_index=True) as connection:
        pages = _parked(connection) if since is None else _since(connection, since)
        async for page in pages:
            for row in page:
                write(event(row))
            if redeliver:
                ids = [row.event_id for row in page]
                repeated += (await REPEAT.one(connection, ids, timeout=PAGE_SECONDS)).events
    return repeated


async def _since(connection: Connection, since: datetime) -> AsyncIterator[list[EventRow]]:
    after = UUID(int=int(since.timestamp() * 1000) << 80)  # smaller than every id of this moment
    while page := await LIST.all(connection, after, MAX_PAGE):
        after = page[-1].event_id
        yield page


async def _parked(connection: Connection) -> AsyncIterator[list[EventRow]]:
    after = 0
    while page := await PARKED.all(connection, after, MAX_PAGE):
        after = page[-1].position
        yield page
