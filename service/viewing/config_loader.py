"""Loads configurations with the policies: concurrent callers share a statement.

Loads have their own connections, so that a slow report delays no heartbeat. A statement that fails
is repeated for each caller alone, so that one bad profile fails alone.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf
from time import monotonic
from typing import Final
from uuid import UUID

import msgspec

from service.database.driver import Pool, cause
from service.database.ids import id_prefix
from service.database.statement import Statement
from service.database_errors import DatabaseError, ReadOnly
from service.errors import TOO_MANY_WAITING, ClientError, Overloaded
from service.observing.metrics import Metrics
from service.observing.supervision import stopped, supervised
from service.settings import Settings
from service.viewing import rules
from service.viewing.shared_errors import without_frames

logger = logging.getLogger("viewing_time.config_loader")

CONNECTIONS: Final = 2
MAX_BATCH: Final = 256
MAX_WAITING_ACCOUNT: Final = 100
# A load that takes longer is stuck: the other connection takes the next batch.
STUCK_SECONDS: Final = 0.05
LOCK_TIMEOUT: Final = "100ms"


class ConfigurationRow(msgspec.Struct, frozen=True):
    position: int
    is_active: bool
    is_owner: bool
    is_child: bool
    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    reset_hour: int | None
    educational_exempt: bool | None
    timezone: str | None
    updated_at: datetime | None
    policy: str | None


LOAD: Final = Statement("viewing_config_load", ConfigurationRow)


class Load:
    """A waiting load of one configuration, which `callers` share."""

    def __init__(self, account_id: UUID, profile_id: UUID, is_for_beat: bool) -> None:
        self.ids = (account_id, profile_id)
        self.row: asyncio.Future[ConfigurationRow] = asyncio.get_running_loop().create_future()
        self.is_for_beat = is_for_beat
        self.callers = 0


class ConfigLoader:
    """Runs one load statement at a time, and another while that one is stuck."""

    def __init__(
        self, settings: Settings, pool: Pool, metrics: Metrics, now: Callable[[], datetime]
    ) -> None:
        self._max_waiting = settings.heartbeat_queue_max
        self._pool = pool
        self._metrics = metrics
        self._now = now
        self._waiting: list[Load] = []
        self._shared: dict[tuple[UUID, UUID], Load] = {}
        self._by_account: Counter[UUID] = Counter()
        self._sent: dict[asyncio.Task[None], float] = {}
        self._stuck_check: asyncio.TimerHandle | None = None

    async def stop(self) -> None:
        if self._stuck_check is not None:
            self._stuck_check.cancel()
        await stopped(*self._sent)

    async def load(self, account_id: UUID, profile_id: UUID, is_for_beat: bool) -> ConfigurationRow:
        """Loads a configuration; for a child without one, the statement stores the defaults.

        Concurrent callers share a load, until `forget` is called. It is given up with its last
        caller. Raises Overloaded while `heartbeat_queue_max` loads wait, ClientError 429 while
        MAX_WAITING_ACCOUNT of the account do, and DatabaseError.
        """
        load = self._shared.get((account_id, profile_id))
        if load is None:
            load = self._added(Load(account_id, profile_id, is_for_beat))
        load.callers += 1
        try:
            return await asyncio.shield(load.row)
        finally:
            load.callers -= 1
            if not load.callers:
                self._remove(load)

    def forget(self, account_id: UUID, profile_id: UUID) -> None:
        """Lets the next caller start a load of its own."""
        self._shared.pop((account_id, profile_id), None)

    def forget_all(self) -> None:
        """Lets every next caller start a load of its own."""
        self._shared.clear()

    def _added(self, load: Load) -> Load:
        account_id, _ = load.ids
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(1)
        if self._by_account[account_id] >= MAX_WAITING_ACCOUNT:
            raise ClientError(TOO_MANY_WAITING, {"Retry-After": "1"})
        self._shared[load.ids] = load
        self._by_account[account_id] += 1
        self._waiting.append(load)
        self._wake()
        return load

    def _remove(self, load: Load) -> None:
        """Ends a load that has no callers any more."""
        load.row.cancel()
        if self._shared.get(load.ids) is load:
            del self._shared[load.ids]
        account_id, _ = load.ids
        self._by_account[account_id] -= 1
        if not self._by_account[account_id]:
            del self._by_account[account_id]

    def _wake(self) -> None:
        """Starts a load, unless one is running and is not stuck."""
        if not self._waiting or len(self._sent) == CONNECTIONS or self._stuck_check is not None:
            return
        if max(self._sent.values(), default=-inf) < monotonic() - STUCK_SECONDS:
            self._sent[supervised("configuration loader", self._load_waiting())] = monotonic()
        else:
            loop = asyncio.get_running_loop()
            self._stuck_check = loop.call_later(STUCK_SECONDS, self._check_stuck)

    def _check_stuck(self) -> None:
        self._stuck_check = None
        self._wake()

    async def _load_waiting(self) -> None:
        """Loads batch after batch until no load waits."""
        task = asyncio.current_task()
        assert task is not None
        try:
            while waiting := [load for load in self._waiting if not load.row.done()]:
                batch, self._waiting = waiting[:MAX_BATCH], waiting[MAX_BATCH:]
                self._sent[task] = monotonic()
                await self._load(batch)
            self._waiting.clear()
        finally:
            del self._sent[task]
            if self._stuck_check is not None:
                self._stuck_check.cancel()
                self._stuck_check = None

    async def _load(self, batch: Sequence[Load]) -> None:
        accounts, profiles = zip(*(load.ids for load in batch), strict=True)
        self._metrics.heartbeat_statements += any(load.is_for_beat for load in batch)
        defaults = msgspec.structs.astuple(rules.DEFAULTS)
        now = self._now()
        arguments = (accounts, profiles, False, *defaults, now, LOCK_TIMEOUT, id_prefix(now))
        try:
            rows = await LOAD.all(self._pool, *arguments)
        except Exception as error:
            if isinstance(error, ReadOnly):
                await self._pool.expire_connections()  # another server has become the primary
            elif isinstance(error, DatabaseError) and error.sqlstate and len(batch) > 1:
                for load in batch:
                    if not load.row.done():
                        await self._load([load])
                return
            # Logged here, because the callers get the error without the traceback.
            if cause(error) == "own":
                fields = {"profiles": len(batch)}
                logger.error("configurations_not_loaded", extra={"fields": fields}, exc_info=error)
            for load in batch:
                if not load.row.done():
                    load.row.set_exception(without_frames(error))
        else:
            for load, row in zip(batch, rows, strict=True):
                if not load.row.done():
                    load.row.set_result(row)
