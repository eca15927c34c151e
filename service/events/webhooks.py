"""Delivers events to the platform's webhook, at least once, in order for each profile.

Every instance forms batches, claims some of them, and sends them: see `sql/delivery_form.sql` and
`sql/delivery_claim.sql`. One task has the only connection. It runs all statements, and no statement
runs and no transaction is open while a batch is being sent.
"""

import asyncio
import logging
from asyncio import Task
from time import monotonic
from typing import Final

from service.database.driver import Connection
from service.database.pool import connected
from service.database_errors import DatabaseError
from service.events.deliveries import (
    STATEMENT_SECONDS,
    Delivery,
    fail,
    next_deliveries,
    recover,
    settle,
)
from service.events.receiver import Answer, Receiver
from service.observing.metrics import Allowance, Metrics
from service.observing.supervision import stopped, supervised
from service.settings import Settings

logger = logging.getLogger("viewing_time.webhooks")

TICK_SECONDS: Final = 0.25
MAX_AT_ONCE: Final = 4
RECONNECT_SECONDS: Final = 1.0


class Webhooks:
    """Delivers until it is stopped; does nothing without WEBHOOK_URL."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._failure_lines = Allowance(1)
        self._sending: dict[Task[Answer], Delivery] = {}
        self._is_stopping = False
        self._receiver: Receiver | None = None
        self._task: Task[None] | None = None

    async def start(self) -> None:
        if self._settings.webhook_url:
            self._receiver = await Receiver.open(self._settings, MAX_AT_ONCE)
            self._task = supervised("webhooks", self._run(self._receiver))

    async def stop(self) -> None:
        """Begins no further attempt, and waits a moment for those in progress."""
        if self._task is None or self._receiver is None:
            return
        self._is_stopping = True
        await asyncio.wait([self._task], timeout=self._settings.shutdown_grace_seconds / 4)
        await stopped(self._task, *self._sending)
        await self._receiver.close()

    async def _run(self, receiver: Receiver) -> None:
        """Reconnects after failures; outcomes that could not be stored are stored then."""
        while True:
            try:
                async with connected(
                    self._settings, STATEMENT_SECONDS, by_index=True
                ) as connection:
                    await self._deliver(connection, receiver)
                return
            except DatabaseError as error:
                fields = {"error": f"{type(error).__name__}: {error}"}
                logger.warning("webhook_connection_failed", extra={"fields": fields})
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _deliver(self, connection: Connection, receiver: Receiver) -> None:
        """Returns when the service stops and nothing is being sent."""
        await recover(connection)
        while self._sending or not self._is_stopping:
            room = MAX_AT_ONCE - len(self._sending)
            if room and not self._is_stopping:
                for delivery in await next_deliveries(connection, room):
                    task = asyncio.create_task(receiver.send(delivery), name="webhook")
                    self._sending[task] = delivery
            for task in await self._finished():
                await self._end(connection, self._sending[task], task.result())
                del self._sending[task]

    async def _finished(self) -> set[Task[Answer]]:
        """The attempts that have ended; waits for one, or for the next look."""
        if not self._sending:
            await asyncio.sleep(TICK_SECONDS)
            return set()
        ended, _ = await asyncio.wait(
            self._sending, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        return ended

    async def _end(self, connection: Connection, delivery: Delivery, answer: Answer) -> None:
        """Stores and counts the outcome of an attempt."""
        if answer.outcome == "delivered":
            await settle(connection, delivery)
        else:
            may_split = answer.outcome != "unreachable"
            row = await fail(connection, delivery, answer.retry_after, may_split=may_split)
            if row is not None and row.outcome == "parked":
                self._metrics.webhook_events_parked += row.events
                fields = {"events": row.events, "reason": answer.reason}
                logger.error("webhook_events_parked", extra={"fields": fields})
            if self._failure_lines.take(monotonic()):
                fields = {"reason": answer.reason, "attempts": delivery.attempts}
                logger.warning("webhook_failed", extra={"fields": fields})
        self._metrics.webhook_deliveries[answer.outcome] += 1
