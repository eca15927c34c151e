"""Scheduled retention: a background task that runs it every few hours."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Final

from service.database_errors import DatabaseError
from service.observing.supervision import stopped, supervised
from service.platform.retention import RetentionRefused, RetentionRunning, current_cutoffs, retain
from service.settings import Settings

logger = logging.getLogger("viewing_time.retention")

HOUR: Final = 3600.0


class RetentionSchedule:
    """Runs retention at start and then every `retention_interval_hours`; never if that is 0.

    Instances do not coordinate: the second one finds the lock taken, or nothing left to delete. A
    refused run is never forced; it is logged and counted.
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime], runs: Counter[str]) -> None:
        self._settings = settings
        self._now = now
        self._runs = runs
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._settings.retention_interval_hours:
            self._task = supervised("retention", self._run())

    async def stop(self) -> None:
        await stopped(self._task)

    async def _run(self) -> None:
        while True:
            self._runs[await self.run_once()] += 1
            await asyncio.sleep(HOUR * self._settings.retention_interval_hours)

    async def run_once(self) -> str:
        """Runs retention and returns the outcome."""
        days = (
            self._settings.retention_sessions_days,
            self._settings.retention_balances_days,
            self._settings.retention_events_days,
        )
        try:
            cutoffs = await current_cutoffs(self._settings, self._now, *days)
            removed = await retain(self._settings, cutoffs, lambda _: None)
        except RetentionRunning:
            logger.info("retention_runs_elsewhere")
            return "elsewhere"
        except RetentionRefused as error:
            logger.error("retention_refused", extra={"fields": {"error": str(error)}})
            return "refused"
        except DatabaseError as error:
            logger.warning("retention_failed", extra={"fields": {"error": str(error)}})
            return "failed"
        logger.info("retention_done", extra={"fields": removed._asdict()})
        return "done"
