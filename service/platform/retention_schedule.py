"""Runs retention every so many hours, where RETENTION_INTERVAL_HOURS asks for it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Final

from service.errors import DatabaseError
from service.observing.supervision import stopped, supervised
from service.platform.retention import (
    RetentionRefused,
    RetentionRunning,
    kept_by_the_database,
    retain,
)
from service.settings import Settings

logger = logging.getLogger("viewing_time.retention")

HOUR: Final = 3600.0


class RetentionSchedule:
    """Runs at start and every `retention_interval_hours` from then on; 0 is never.

    Instances need no agreement: the second one finds the lock taken, or nothing left to do. It
    never forces a run: one that is refused is logged and counted, and tried again at the next time.
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
        """Interrupts the run that is under way, if there is one."""
        await stopped(self._task)

    async def _run(self) -> None:
        while True:
            self._runs[await self._once()] += 1
            await asyncio.sleep(HOUR * self._settings.retention_interval_hours)

    async def _once(self) -> str:
        """One run; returns its outcome."""
        days = (self._settings.retention_sessions_days, self._settings.retention_balances_days)
        try:
            keep = await kept_by_the_database(self._settings, self._now, *days)
            removed = await retain(self._settings, keep, lambda _: None)
        except RetentionRunning:
            logger.info("retention_runs_elsewhere")
            return "elsewhere"
        except RetentionRefused as refusal:
            logger.error("retention_refused", extra={"fields": {"error": str(refusal)}})
            return "refused"
        except DatabaseError as error:
            logger.warning("retention_failed", extra={"fields": {"error": str(error)}})
            return "failed"
        logger.info("retention_done", extra={"fields": removed._asdict()})
        return "done"
