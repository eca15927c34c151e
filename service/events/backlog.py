"""Counts the events that wait for their position or for the webhook, for the metrics."""

import asyncio
import logging
from typing import Final

import msgspec

from service.database.driver import Pool
from service.database.statement import Statement
from service.database_errors import DatabaseError
from service.observing.supervision import stopped, supervised

logger = logging.getLogger("viewing_time.events")

INTERVAL_SECONDS: Final = 15.0
MAX_COUNTED: Final = 10_000


class BacklogRow(msgspec.Struct, frozen=True):
    unnumbered: int
    unsent: int
    sending: int
    parked: int
    oldest_seconds: float


COUNT: Final = Statement("delivery_backlog", BacklogRow)


class Backlog:
    """Counts every INTERVAL_SECONDS; after a failure the metrics keep the counts of before."""

    def __init__(self, pool: Pool, *, has_webhook: bool) -> None:
        self.waiting = dict.fromkeys(("unnumbered", "unsent", "sending", "parked"), 0)
        self.oldest_seconds = 0.0
        self._pool = pool
        self._has_webhook = has_webhook
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised("event_backlog", self._run())

    async def stop(self) -> None:
        await stopped(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await self.count()
            except DatabaseError as error:
                logger.warning("events_not_counted", extra={"fields": {"error": str(error)}})

    async def count(self) -> None:
        """Counts once."""
        row = await COUNT.maybe(self._pool, self._has_webhook, MAX_COUNTED)
        if row is not None:
            counts = msgspec.structs.asdict(row)
            self.oldest_seconds = counts.pop("oldest_seconds")
            self.waiting.update(counts)
