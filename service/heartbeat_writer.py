"""The coalescer: heartbeats that wait for the database travel together.

Group commit without a timer: a lone beat leaves at once; while the connections are busy,
newcomers gather and leave with the next statement. A caller's answer follows the commit.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import Final
from uuid import UUID

import asyncpg

from service.database import UNAVAILABLE, Connection, connect
from service.errors import ClientFault, Overloaded, Unsent
from service.heartbeat_record import NOBODYS, RECORD, REFUSALS, Beat, Recorded
from service.metrics import Metrics
from service.settings import Settings
from service.supervision import supervised

logger = logging.getLogger("viewing_time.heartbeat_writer")

# A title that somebody deletes or changes at length is not asked for again for so long.
HELD_SECONDS: Final = 1.0
HELD_TITLE: Final = '"titles"'
# The server ends a connection between statements, so it may have committed the one before.
CUT_OFF: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)

Waiting = tuple[Beat, asyncio.Future[Recorded]]


class HeartbeatWriter:
    """Writes heartbeats through connections of its own, at most one of a profile at a time.

    `handed_over` is told when the server takes no more writes, since another does.

    `record` raises ClientFault for a refused beat, Overloaded when `heartbeat_queue_max` wait, and
    what the database raised when nobody can tell whether the beat was counted.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        now: Callable[[], datetime],
        handed_over: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._handed_over = handed_over
        self._metrics = metrics
        self._now = now
        self._ready: dict[UUID, Waiting] = {}
        self._later: dict[UUID, deque[Waiting]] = {}
        self._busy: set[UUID] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._lanes: list[asyncio.Task[None]] = []
        self._held_titles: dict[UUID, tuple[float, Exception]] = {}
        self._closing = False
        self.waiting = 0

    async def start(self) -> None:
        """Opens the connections and prepares the statement on each."""
        for _ in range(self._settings.heartbeat_connections):
            connection = await self._open()
            self._lanes.append(supervised("heartbeat lane", self._lane(connection)))

    async def stop(self) -> None:
        """Takes no more beats, writes those that wait, then closes the connections."""
        self._closing = True
        while self._idle:
            self._wake()
        await asyncio.gather(*self._lanes, return_exceptions=True)

    @property
    def is_full(self) -> bool:
        """Whether the next beat would be refused."""
        return self._closing or self.waiting >= self._settings.heartbeat_queue_max

    def record(self, beat: Beat) -> asyncio.Future[Recorded]:
        """Queues a beat; the future is done when its row is committed.

        A caller that goes away cancels its future, not its beat.
        """
        if self.is_full:
            raise Overloaded(1)
        self.waiting += 1
        future = asyncio.get_running_loop().create_future()
        profile_id = beat.profile_id
        if profile_id in self._busy or profile_id in self._ready:
            self._later.setdefault(profile_id, deque()).append((beat, future))
            return future
        self._ready[profile_id] = (beat, future)
        self._wake()
        return future

    def _wake(self) -> None:
        """Sends an idle connection off: the first at once, a further one with a full batch only.

        Beats that join the next statement cost less than those that leave with one of their own.
        """
        nobody_flies = len(self._idle) == len(self._lanes)
        full = len(self._ready) >= self._settings.heartbeat_batch_max
        if self._idle and (nobody_flies or full or self._closing):
            wake = self._idle.popleft()
            if not wake.done():  # a lane that died while it was idle has left it behind
                wake.set_result(None)

    async def _lane(self, connection: Connection) -> None:
        """One connection's life: wait for beats, take what is there, write it, again."""
        try:
            while True:
                while not self._ready:
                    if self._closing:
                        return
                    wake = asyncio.get_running_loop().create_future()
                    self._idle.append(wake)
                    await wake
                taken = list(islice(self._ready.values(), self._settings.heartbeat_batch_max))
                for beat, _ in taken:
                    del self._ready[beat.profile_id]
                    self._busy.add(beat.profile_id)
                if batch := self._wanted(taken):
                    connection = await self._write(connection, batch)
                self._release(taken)
        finally:
            connection.terminate()

    def _wanted(self, taken: Iterable[Waiting]) -> list[Waiting]:
        """Those that are to be written.

        Whoever was told `blocked` while the beat still waited is not charged for it. A beat that
        starts a title which was just found locked fails at once: those with it need not wait too.
        """
        batch = [waiting for waiting in taken if not waiting[1].cancelled()]
        if self._held_titles:
            now = monotonic()
            held = {title: (t, e) for title, (t, e) in self._held_titles.items() if now < t}
            self._held_titles = held
            for waiting in [w for w in batch if w[0].starts and w[0].title_id in held]:
                batch.remove(waiting)
                _fail([waiting], held[waiting[0].title_id][1])
        return batch

    def _release(self, batch: Iterable[Waiting]) -> None:
        """Lets the next beat of each written profile take its turn."""
        for beat, _ in batch:
            self.waiting -= 1
            self._busy.discard(beat.profile_id)
            later = self._later.get(beat.profile_id)
            if later:
                self._ready[beat.profile_id] = later.popleft()
                if not later:
                    del self._later[beat.profile_id]
        if self._ready:
            self._wake()

    async def _write(
        self, connection: Connection, batch: list[Waiting], again: bool = True
    ) -> Connection:
        """Writes a batch, answers each of its beats, and gives back a connection to go on with.

        When the server says that the statement failed, nothing of it was applied: each beat is
        tried again alone, so that one bad beat fails alone. When the connection was lost or the
        time ran out, nobody knows, and nothing is tried again.
        """
        try:
            if connection.is_closed():
                connection = await self._open()
            await self._send(connection, batch)
        except asyncpg.ReadOnlySQLTransactionError as error:
            # The server has handed over to another: there the whole batch is as good as new.
            connection.terminate()
            await self._handed_over()
            if again:
                return await self._write(connection, batch, again=False)
            _fail(batch, error)
        except Unsent as error:
            connection.terminate()
            if again:
                return await self._write(connection, batch, again=False)
            _fail(batch, error)
        except asyncpg.PostgresError as error:
            repeats = again and isinstance(error, asyncpg.UniqueViolationError)
            if isinstance(error, CUT_OFF):
                connection.terminate()
            if connection.is_closed() or (len(batch) == 1 and not repeats):
                if isinstance(error, asyncpg.LockNotAvailableError) and _is_of_title(error):
                    self._held_titles[batch[0][0].title_id] = (monotonic() + HELD_SECONDS, error)
                _fail(batch, error)
                return connection
            logger.warning("heartbeat_batch_failed", extra={"fields": _cause(error, batch)})
            for waiting in batch:
                # A session that another instance has just started is visible the second time.
                if alone := self._wanted([waiting]):
                    connection = await self._write(connection, alone, again=len(batch) > 1)
        except UNAVAILABLE as error:
            _fail(batch, error)
            connection.terminate()
        except Exception as error:
            # Told to those who wait, who log it. A connection's life must not end with it: the
            # profiles of the batch would stay taken, and nobody would be sent off any more.
            _fail(batch, error)
            connection.terminate()
        return connection

    async def _send(self, connection: Connection, batch: list[Waiting]) -> None:
        """One statement for the batch, in profile order."""
        batch.sort(key=lambda waiting: waiting[0].profile_id.int)
        columns = zip(*(beat for beat, _ in batch), strict=True)
        self._metrics.heartbeat_statements += 1
        self._metrics.batch_sizes.add(len(batch))
        row = await RECORD.one(
            connection, *columns, self._now(), timeout=self._settings.request_timeout_seconds
        )
        balances, configurations = row.balances(), row.configurations()
        for number, refusal, educational in zip(
            row.beats, row.refusals, row.educational, strict=True
        ):
            beat, future = batch[number - 1]
            if future.done():
                continue
            if refusal:
                future.set_exception(ClientFault(*REFUSALS[refusal]))
                continue
            used_seconds, override = balances.get(beat.profile_id, (None, False))
            renewed = configurations.get(number)
            future.set_result(Recorded(bool(educational), used_seconds, override, renewed))

    async def _open(self) -> Connection:
        """A connection on which the statement is prepared, so that the first beat is no slower."""
        connection = await connect(self._settings)
        if self._settings.statement_cache_size:
            seconds = self._settings.request_timeout_seconds
            try:
                await RECORD.one(connection, *NOBODYS, self._now(), timeout=seconds)
            except BaseException:
                connection.terminate()
                raise
        return connection


def _fail(batch: Iterable[Waiting], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


def _is_of_title(error: asyncpg.PostgresError) -> bool:
    """Whether it was a title that a beat waited for: PostgreSQL quotes its own query for it."""
    return HELD_TITLE in (error.context or "")


def _cause(error: Exception, batch: list[Waiting]) -> dict[str, object]:
    return {"error": f"{type(error).__name__}: {error}", "beats": len(batch)}
