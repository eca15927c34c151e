"""Writes heartbeats in batches: group commit, with a pause between statements.

A beat that comes alone is sent at once. While a statement runs, and while beats come close together
for SPACING_SECONDS after its end, further beats wait and share the next one. Every response follows
its commit.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from math import inf
from time import monotonic
from typing import Final
from uuid import UUID

from service.database.driver import Connection
from service.database_errors import DatabaseError, Unavailable
from service.errors import Overloaded
from service.observing.metrics import Metrics
from service.observing.supervision import stopped, supervised
from service.settings import Settings
from service.viewing.heartbeat_batch import BatchWriter
from service.viewing.heartbeat_queue import PROBE_SECONDS
from service.viewing.heartbeat_statement import Beat
from service.viewing.recorded_row import Recorded

logger = logging.getLogger("viewing_time.heartbeat_writer")

RESTART_SECONDS: Final = 1.0  # between two tries of a start
# A statement that runs longer than this is stuck: another connection takes the next batch.
STUCK_SECONDS: Final = 0.05
# Pause after a statement, if beats come close together: during it, or several in it. It ends early
# when `heartbeat_queue.ENOUGH_BEATS` are ready.
SPACING_SECONDS: Final = 0.002
# The timers of the event loop count whole milliseconds, so a shorter wait is skipped.
HALF_TICK: Final = 0.0005


class HeartbeatWriter(BatchWriter):
    """Writes heartbeats through its own connections, at most one beat of a profile at a time.

    The future of `record` raises ClientError for a refused beat, and DatabaseError if the beat
    failed or it is unknown whether it was counted.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        now: Callable[[], datetime],
        handed_over: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(settings, metrics, now, handed_over)
        self._connections = settings.heartbeat_connections
        self._idle: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._lanes: list[asyncio.Task[None]] = []
        self._starting: asyncio.Task[None] | None = None
        # When each lane that writes a batch was woken or began; probes do not count.
        self._begun: dict[int, float] = {}
        self._spaced_at = -inf  # the end of the pause after the latest statement
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Opens the connections and prepares the statement on each."""
        for number in range(len(self._lanes), self._connections):
            connection = await self._open()
            self._lanes.append(supervised("heartbeat lane", self._lane(number, connection)))

    def start_later(self) -> None:
        """Starts when the database can be reached; until then `record` raises Unavailable."""
        self._starting = supervised("heartbeat start", self._keep_starting())

    async def _keep_starting(self) -> None:
        while len(self._lanes) < self._connections:
            try:
                await self.start()
            except DatabaseError as error:
                fields = {"error": f"{type(error).__name__}: {error}"}
                logger.warning("heartbeat_connection_refused", extra={"fields": fields})
                await asyncio.sleep(RESTART_SECONDS)

    async def stop(self) -> None:
        """Accepts no more beats, writes those that wait, then closes the connections."""
        self._closing = True
        await stopped(self._starting)
        while self._idle:
            self._wake_one()
        await asyncio.gather(*self._lanes, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """The number of beats without an outcome."""
        return self._queue.waiting

    @property
    def is_full(self) -> bool:
        """Whether the next beat would be refused."""
        return self._closing or self._queue.is_full

    def has_beat(self, profile_id: UUID) -> bool:
        """Whether the next beat of a profile would wait for another one."""
        return self._queue.has_beat(profile_id)

    def record(self, beat: Beat) -> asyncio.Future[Recorded]:
        """Queues a beat; the future is done when its row is committed.

        Raises Unavailable until the start has succeeded. Raises Overloaded while
        `heartbeat_queue_max` beats wait, and during a stop. A caller that disconnects cancels its
        future, not its beat.
        """
        if self._closing:
            raise Overloaded(1)
        if not self._lanes:
            raise Unavailable("the database has not been reached yet")
        future = self._queue.add(beat)
        if self._idle:
            self._wake()
        return future

    def _wake(self) -> None:
        """Wakes an idle connection if a statement is due, else sets the timer for it.

        Sharing the next statement costs less than a statement of its own, so a beat waits for the
        end of a running statement, unless that is stuck, and for the pause after it. A probe and a
        full batch do not wait.
        """
        queue = self._queue
        if not self._idle:
            return
        if queue.has_probe or queue.has_batch or (queue.has_enough and not self._begun):
            self._wake_one()
        elif self._timer is None and queue.has_beats:
            stuck_at = max(self._begun.values(), default=-inf) + STUCK_SECONDS
            wait = max(stuck_at, self._spaced_at) - monotonic()
            if wait < HALF_TICK:
                self._wake_one()
            else:
                self._timer = asyncio.get_running_loop().call_later(wait, self._wake_later)

    def _wake_later(self) -> None:
        self._timer = None
        self._wake()

    def _wake_one(self) -> None:
        number, wake = self._idle.popleft()
        if not wake.done():  # cancelled, if its lane died while it was idle
            self._begun[number] = monotonic()
            wake.set_result(None)

    async def _lane(self, number: int, connection: Connection) -> None:
        """Writes batch after batch through one connection."""
        try:
            while True:
                batch = self._queue.take()
                if batch is None:
                    if not self._closing:
                        await self._wait_idle(number)
                    elif self._queue.has_suspects:
                        await asyncio.sleep(PROBE_SECONDS)
                    else:
                        return
                    continue
                if batch.is_probe:
                    self._begun.pop(number, None)
                else:
                    self._begun[number] = monotonic()
                connection = await self._serve(connection, batch)
                self._queue.release(batch.beats)
                if batch.is_probe:
                    loop = asyncio.get_running_loop()
                    loop.call_later(PROBE_SECONDS, self._probe_again)
                elif len(batch.beats) > 1 or self._queue.has_beats:
                    self._spaced_at = monotonic() + SPACING_SECONDS
                if not (self._closing or self._queue.has_enough or self._queue.has_probe):
                    await self._wait_idle(number)
                elif self._idle:
                    self._wake()
        finally:
            self._begun.pop(number, None)
            connection.terminate()

    def _probe_again(self) -> None:
        self._queue.end_pause()
        if self._idle:
            self._wake()

    async def _wait_idle(self, number: int) -> None:
        """Waits until `_wake` has work for this connection."""
        self._begun.pop(number, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = asyncio.get_running_loop().create_future()
        self._idle.append((number, wake))
        self._wake()
        await wake
