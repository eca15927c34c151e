"""Writes heartbeats in batches: group commit without a timer.

A lone beat is sent at once. While a statement runs, further beats collect and leave with the next
one. A caller's answer follows the commit.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from math import inf
from time import monotonic
from typing import Final

import asyncpg

from service.database import UNAVAILABLE, Connection
from service.errors import Overloaded, Unsent
from service.heartbeat_queue import HeartbeatQueue
from service.heartbeat_record import Beat, HeartbeatStatement, Recorded, Waiting
from service.metrics import Metrics
from service.settings import Settings
from service.supervision import supervised

logger = logging.getLogger("viewing_time.heartbeat_writer")

# A statement that runs longer than this is stuck: another connection goes on without it.
STUCK_SECONDS: Final = 0.05
# How long beats that share a statement wait for a lock: one held row must not delay the others.
BATCH_LOCK_SECONDS: Final = 0.1
# The server ends a connection between statements, so it may have committed the one before.
CUT_OFF: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)


class HeartbeatWriter:
    """Writes heartbeats through connections of its own, at most one of a profile at a time.

    `handed_over()` is called when the server has become read-only after a failover.

    `record` raises ClientFault for a refused beat, Overloaded when `heartbeat_queue_max` wait, and
    the database's error when it is unknown whether the beat was counted.
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
        self._statement = HeartbeatStatement(settings, metrics, now)
        self._queue = HeartbeatQueue(settings.heartbeat_queue_max, settings.heartbeat_batch_max)
        self._idle: deque[asyncio.Future[None]] = deque()
        self._lanes: list[asyncio.Task[None]] = []
        # When the statement of each lane that writes a batch was sent; probes do not count.
        self._sent: dict[int, float] = {}
        self._closing = False
        self._second_look: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Opens the connections and prepares the statement on each."""
        for number in range(self._settings.heartbeat_connections):
            connection = await self._open()
            self._lanes.append(supervised("heartbeat lane", self._lane(number, connection)))

    async def stop(self) -> None:
        """Takes no more beats, writes those that wait, then closes the connections."""
        self._closing = True
        while self._idle:
            self._call_idle()
        await asyncio.gather(*self._lanes, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """How many beats have no outcome yet."""
        return self._queue.waiting

    @property
    def is_full(self) -> bool:
        """Whether the next beat would be refused."""
        return self._closing or self._queue.is_full

    def record(self, beat: Beat) -> asyncio.Future[Recorded]:
        """Queues a beat; the future is done when its row is committed.

        A caller that goes away cancels its future, not its beat.
        """
        if self._closing:
            raise Overloaded(1)
        future = self._queue.add(beat)
        if self._idle:
            self._wake()
        return future

    def _wake(self) -> None:
        """Wakes an idle connection: for a probe, for a full batch, or if no statement is running.

        Beats that join the next statement cost less than those that leave with one of their own,
        so while a statement runs they wait for its end, but not for the end of one that is stuck.
        """
        if not self._idle:
            return
        if self._queue.has_probe or self._queue.has_batch:
            self._call_idle()
        elif self._queue.has_beats and self._second_look is None:
            if max(self._sent.values(), default=-inf) < monotonic() - STUCK_SECONDS:
                self._call_idle()
            else:
                loop = asyncio.get_running_loop()
                self._second_look = loop.call_later(STUCK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._second_look = None
        self._wake()

    def _call_idle(self) -> None:
        wake = self._idle.popleft()
        if not wake.done():  # a lane that died while it was idle has left it behind
            wake.set_result(None)

    async def _lane(self, number: int, connection: Connection) -> None:
        """Serves one connection: waits for beats, takes those that are ready, writes them."""
        try:
            while True:
                batch = self._queue.take()
                if batch is None:
                    if self._closing:
                        return
                    await self._rest()
                    continue
                if not batch.is_probe:
                    self._sent[number] = monotonic()
                connection = await self._write(connection, batch.beats, batch.is_probe)
                self._sent.pop(number, None)
                self._queue.release(batch)
                if self._idle:
                    self._wake()
        finally:
            self._sent.pop(number, None)
            connection.terminate()

    async def _rest(self) -> None:
        """Waits for `_wake`."""
        if self._second_look is not None:
            self._second_look.cancel()
            self._second_look = None
        wake = asyncio.get_running_loop().create_future()
        self._idle.append(wake)
        await wake

    async def _write(
        self, connection: Connection, beats: list[Waiting], is_probe: bool, again: bool = True
    ) -> Connection:
        """Writes beats in one statement, answers each, and returns a connection to go on with.

        When the server says that the statement failed, nothing of it was applied: each beat is
        tried again alone, so that one bad beat fails alone. When the connection was lost or the
        time ran out, the outcome is unknown, and nothing is tried again.
        """
        try:
            if connection.is_closed():
                connection = await self._open()
            await self._send(connection, beats, is_probe)
        except (asyncpg.ReadOnlySQLTransactionError, Unsent) as error:
            connection.terminate()
            if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                # Another server takes the writes now: there the whole batch can be sent again.
                await self._handed_over()
            if again:
                return await self._write(connection, beats, is_probe, again=False)
            _fail(beats, error)
        except asyncpg.LockNotAvailableError as error:
            return await self._without_held(connection, beats, is_probe, error)
        except asyncpg.PostgresError as error:
            repeats = again and isinstance(error, asyncpg.UniqueViolationError)
            if isinstance(error, CUT_OFF):
                connection.terminate()
            if connection.is_closed() or (len(beats) == 1 and not repeats):
                _fail(beats, error)
                return connection
            # A session that another instance has just started is visible the second time.
            return await self._one_by_one(connection, beats, is_probe, error)
        except UNAVAILABLE as error:
            _fail(beats, error)
            connection.terminate()
        except Exception as error:
            # The task must survive any error; otherwise its profiles stay marked busy and no
            # connection is woken again. The traceback is logged here: the callers get none.
            fields = _cause(error, beats)
            logger.error("heartbeat_statement_failed", extra={"fields": fields}, exc_info=error)
            _fail(beats, error)
            connection.terminate()
        else:
            self._queue.clear(beats)
        return connection

    async def _without_held(
        self, connection: Connection, beats: list[Waiting], is_probe: bool, error: Exception
    ) -> Connection:
        """Writes beats whose statement waited too long for a lock, without those that cause it.

        A profile that a probe finds held is set aside, another becomes a suspect and is tried by
        the next probe, which has more time.
        """
        try:
            profiles, titles = await self._statement.held(
                connection, beats, self._lock_seconds(False)
            )
        except (*UNAVAILABLE, asyncpg.PostgresError) as failure:
            # Nothing can be locked, not even without waiting for rows: a whole table is held.
            _fail(beats, failure)
            return connection
        if not profiles and not titles:
            if len(beats) > 1:
                return await self._one_by_one(connection, beats, is_probe, error)
            profiles = beats
        for beat, _ in titles:
            self._queue.set_title_aside(beat.title_id, error)
        for beat, _ in profiles:
            if is_probe:
                self._queue.set_aside(beat.profile_id, error)
            else:
                self._queue.suspect(beat.profile_id)
        _fail(titles, error)
        if is_probe:
            _fail(profiles, error)
        held = {beat.profile_id for beat, _ in profiles}
        others = self._queue.wanted(w for w in beats if w[0].profile_id not in held)
        fields = _cause(error, beats) | {"held": len(beats) - len(others)}
        logger.warning("heartbeat_rows_held", extra={"fields": fields})
        return await self._write(connection, others, is_probe) if others else connection

    async def _one_by_one(
        self, connection: Connection, beats: list[Waiting], is_probe: bool, error: Exception
    ) -> Connection:
        """Writes each beat of a failed statement alone."""
        logger.warning("heartbeat_batch_failed", extra={"fields": _cause(error, beats)})
        for waiting in beats:
            if alone := self._queue.wanted([waiting]):
                connection = await self._write(connection, alone, is_probe, again=len(beats) > 1)
        return connection

    async def _send(self, connection: Connection, beats: list[Waiting], is_probe: bool) -> None:
        """Sends one statement for the beats, and gives each its outcome."""
        await self._statement.record(connection, beats, self._lock_seconds(is_probe))

    async def _open(self) -> Connection:
        """A connection on which the statement is prepared."""
        return await self._statement.open(self._lock_seconds(False))

    def _lock_seconds(self, is_probe: bool) -> float:
        seconds = self._settings.request_timeout_seconds / 4
        return seconds if is_probe else min(seconds, BATCH_LOCK_SECONDS)


def _fail(beats: Iterable[Waiting], error: Exception) -> None:
    for _, future in beats:
        if not future.done():
            future.set_exception(error.with_traceback(None))


def _cause(error: Exception, beats: list[Waiting]) -> dict[str, object]:
    return {"error": f"{type(error).__name__}: {error}", "beats": len(beats)}
