"""Writes one batch of heartbeats through one connection.

A beat that cannot be written fails alone: the others of its batch are written without it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from math import inf
from time import monotonic
from typing import Final
from weakref import WeakSet

from service.database.driver import Connection
from service.database_errors import (
    PROTOCOL_VIOLATION,
    DatabaseError,
    LockTimeout,
    NoAnswer,
    ReadOnly,
    Unavailable,
    UniqueViolation,
    Unsent,
)
from service.observing.metrics import Metrics
from service.settings import Settings
from service.viewing.heartbeat_queue import PROBE_SECONDS, Batch, HeartbeatQueue
from service.viewing.heartbeat_statement import HeartbeatStatement, Waiting
from service.viewing.shared_errors import without_frames

logger = logging.getLogger("viewing_time.heartbeat_writer")

# Lock time-out of a statement with several beats: one held row must not delay the others.
BATCH_LOCK_SECONDS: Final = 0.1
# Lock time-out of a single beat whose batch has already waited: free rows need no wait.
ALONE_LOCK_SECONDS: Final = 0.02
# After held rows were found, every batch is searched for held rows for this long.
ALERT_SECONDS: Final = 30.0


class BatchWriter:
    """Sets the outcome of every beat of a batch, except those of suspects, which wait for a probe.

    `handed_over()` is called when the server has become read-only after a failover.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        now: Callable[[], datetime],
        handed_over: Callable[[], Awaitable[None]],
    ) -> None:
        self.batches = 0  # that were sent
        self._handed_over = handed_over
        self._statement = HeartbeatStatement(settings, metrics, now)
        self._queue = HeartbeatQueue(settings.heartbeat_queue_max, settings.heartbeat_batch_max)
        # A quarter of the request's time, which leaves time for the response.
        max_wait_seconds = settings.request_timeout_seconds / 4
        self._lock_seconds = min(max_wait_seconds, BATCH_LOCK_SECONDS)
        self._max_probes = max_wait_seconds / PROBE_SECONDS
        self._alert_until = -inf
        self._trusted: WeakSet[Connection] = WeakSet()

    def reconnect(self) -> None:
        """Replaces each connection before its next batch: it may lead to a server that is gone."""
        self._trusted.clear()

    async def _serve(self, connection: Connection, batch: Batch) -> Connection:
        """Writes a batch; returns the connection to use next.

        In a probe, and for ALERT_SECONDS after held rows were found, only beats with free rows are
        written.
        """
        if connection not in self._trusted:
            connection.terminate()
        beats = batch.beats
        if batch.is_probe or monotonic() < self._alert_until:
            try:
                if connection.is_closed():
                    connection = await self._open()
                beats = await self._without_held(connection, beats)
            except Exception as error:
                self._failed(connection, beats, error)
                return connection
        return await self._write(connection, beats) if beats else connection

    async def _write(
        self,
        connection: Connection,
        beats: list[Waiting],
        again: bool = True,
        lock_seconds: float | None = None,
    ) -> Connection:
        """Writes beats in one statement and returns the connection to use next.

        After an error of the server, nothing was applied: each beat is retried alone, so that one
        bad beat fails alone. After a lost connection or a time-out the outcome is unknown, and
        nothing is retried.
        """
        try:
            if connection.is_closed():
                connection = await self._open()
            await self._send(connection, beats, lock_seconds or self._lock_seconds)
        except (ReadOnly, Unsent) as error:
            connection.terminate()
            if isinstance(error, ReadOnly):
                await self._handed_over()
            if again:  # on a new connection, which leads to the primary
                return await self._write(connection, beats, again=False)
            _fail(beats, error)
        except LockTimeout as error:
            return await self._write_free(connection, beats, error)
        except DatabaseError as error:
            # A session that another instance has just started is visible the second time.
            is_repeated = again and isinstance(error, UniqueViolation)
            # A pooler that ends the connection reports it as a violation of the protocol.
            if isinstance(error, NoAnswer) or error.sqlstate == PROTOCOL_VIOLATION:
                connection.terminate()
            if connection.is_closed() or (len(beats) == 1 and not is_repeated):
                _fail(beats, error)
                return connection
            logger.warning("heartbeat_batch_failed", extra={"fields": _fields(error, beats)})
            return await self._one_by_one(connection, beats, self._lock_seconds)
        except Exception as error:
            self._failed(connection, beats, error)
        else:
            self._queue.clear(beats)
        return connection

    def _failed(self, connection: Connection, beats: list[Waiting], error: Exception) -> None:
        """Fails beats for any error.

        The task must survive the error; otherwise its profiles stay marked busy and no connection
        is woken again. A bug is logged here, because callers get the error without the traceback.
        """
        if not isinstance(error, DatabaseError):
            fields = _fields(error, beats)
            logger.error("heartbeat_statement_failed", extra={"fields": fields}, exc_info=error)
        _fail(beats, error)
        if not isinstance(error, LockTimeout):  # after which the connection can be used
            connection.terminate()

    async def _write_free(
        self, connection: Connection, beats: list[Waiting], error: LockTimeout
    ) -> Connection:
        """Writes the beats of a statement that ran into a lock time-out, except held ones."""
        logger.warning("heartbeat_lock_timeout", extra={"fields": _fields(error, beats)})
        try:
            free = await self._without_held(connection, beats)
        except Exception as failure:
            self._failed(connection, beats, failure)
            return connection
        if len(free) < len(beats):
            return await self._write(connection, free) if free else connection
        if len(beats) > 1:
            return await self._one_by_one(connection, beats, ALONE_LOCK_SECONDS)
        # Another transaction has inserted the row that this beat needs; no search can see it.
        self._queue.set_aside(beats[0][0].profile_id, error)
        _fail(beats, error)
        return connection

    async def _without_held(self, connection: Connection, beats: list[Waiting]) -> list[Waiting]:
        """Returns the beats whose rows no other transaction holds; does not wait for rows.

        A profile with held rows becomes a suspect: its beat waits for the next probe. After
        `_max_probes` the beat fails and the profile is set aside. A beat that starts a held title
        fails at once, and the title is set aside.
        """
        profiles, titles = await self._statement.held(connection, beats, self._lock_seconds)
        if not profiles and not titles:
            return beats
        error = Unavailable("another transaction holds the rows of the heartbeat")
        for beat, _ in titles:
            self._queue.set_title_aside(beat.title_id, error)
        _fail(titles, error)
        if titles or not all(self._queue.is_suspect(beat.profile_id) for beat, _ in profiles):
            self._alert_until = monotonic() + ALERT_SECONDS
            fields = {"profiles": len(profiles), "titles": len(titles), "beats": len(beats)}
            logger.warning("heartbeat_rows_held", extra={"fields": fields})
        for waiting in profiles:
            profile_id = waiting[0].profile_id
            if self._queue.suspect(profile_id) > self._max_probes:
                self._queue.set_aside(profile_id, error)
                _fail([waiting], error)
        held = {beat.profile_id for beat, _ in profiles}
        return self._queue.writable(w for w in beats if w[0].profile_id not in held)

    async def _one_by_one(
        self, connection: Connection, beats: list[Waiting], lock_seconds: float
    ) -> Connection:
        """Writes each beat of a failed statement alone."""
        again = len(beats) > 1
        for waiting in beats:
            if alone := self._queue.writable([waiting]):
                connection = await self._write(connection, alone, again, lock_seconds)
        return connection

    async def _send(
        self, connection: Connection, beats: list[Waiting], lock_seconds: float
    ) -> None:
        self.batches += 1
        await self._statement.record(connection, beats, lock_seconds)

    async def _open(self) -> Connection:
        connection = await self._statement.open(self._lock_seconds)
        self._trusted.add(connection)
        return connection


def _fail(beats: Iterable[Waiting], error: Exception) -> None:
    for _, future in beats:
        if not future.done():
            future.set_exception(without_frames(error))


def _fields(error: Exception, beats: list[Waiting]) -> dict[str, object]:
    return {"error": f"{type(error).__name__}: {error}", "beats": len(beats)}
