"""Writes one batch of heartbeats through one connection, whatever becomes of the statement.

A beat that cannot be written fails alone: the others of its batch are written without it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from math import inf
from time import monotonic
from typing import Final

from service.database.driver import Connection
from service.errors import (
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

# How long beats that share a statement wait for a lock: one held row must not delay the others.
BATCH_LOCK_SECONDS: Final = 0.1
# How long a beat alone waits, once its batch has waited: rows that are free need no wait.
ALONE_LOCK_SECONDS: Final = 0.02
# For so long after held rows were found, batches are searched for more before they are written.
ALERT_SECONDS: Final = 30.0


class BatchWriter:
    """Gives every beat of a batch its outcome, except those of suspects, which wait for a probe.

    `handed_over()` is called when the server has become read-only after a failover.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        now: Callable[[], datetime],
        handed_over: Callable[[], Awaitable[None]],
    ) -> None:
        self._handed_over = handed_over
        self._statement = HeartbeatStatement(settings, metrics, now)
        self._queue = HeartbeatQueue(settings.heartbeat_queue_max, settings.heartbeat_batch_max)
        # A quarter of the request's time, which leaves enough of it for the answer.
        patience = settings.request_timeout_seconds / 4
        self._lock_seconds = min(patience, BATCH_LOCK_SECONDS)
        self._max_probes = patience / PROBE_SECONDS
        self._alert_until = -inf

    async def _serve(self, connection: Connection, batch: Batch) -> Connection:
        """Writes a batch, of suspects only those whose rows are free; returns the connection."""
        if not batch.is_probe and monotonic() >= self._alert_until:
            return await self._write(connection, batch.beats, batch.is_probe)
        try:
            if connection.is_closed():
                connection = await self._open()
            free = await self._without_held(connection, batch.beats, batch.is_probe)
        except Exception as error:
            self._failed(connection, batch.beats, error)
            return connection
        return await self._write(connection, free, batch.is_probe) if free else connection

    async def _write(
        self,
        connection: Connection,
        beats: list[Waiting],
        is_probe: bool,
        again: bool = True,
        lock_seconds: float | None = None,
    ) -> Connection:
        """Writes beats in one statement, answers each, and returns a connection to go on with.

        When the server says that the statement failed, nothing of it was applied: each beat is
        tried again alone, so that one bad beat fails alone. When the connection was lost or the
        time ran out, the outcome is unknown, and nothing is tried again.
        """
        try:
            if connection.is_closed():
                connection = await self._open()
            await self._send(connection, beats, lock_seconds or self._lock_seconds)
        except (ReadOnly, Unsent) as error:
            connection.terminate()
            if isinstance(error, ReadOnly):
                # Another server takes the writes now: there the whole batch can be sent again.
                await self._handed_over()
            if again:
                return await self._write(connection, beats, is_probe, again=False)
            _fail(beats, error)
        except LockTimeout as error:
            return await self._write_free(connection, beats, is_probe, error)
        except DatabaseError as error:
            repeats = again and isinstance(error, UniqueViolation)
            # A pooler that ends the connection reports it as a violation of the protocol.
            if isinstance(error, NoAnswer) or error.sqlstate == PROTOCOL_VIOLATION:
                connection.terminate()
            if connection.is_closed() or (len(beats) == 1 and not repeats):
                _fail(beats, error)
                return connection
            logger.warning("heartbeat_batch_failed", extra={"fields": _cause(error, beats)})
            # A session that another instance has just started is visible the second time.
            return await self._one_by_one(connection, beats, is_probe, self._lock_seconds)
        except Exception as error:
            self._failed(connection, beats, error)
        else:
            self._queue.clear(beats)
        return connection

    def _failed(self, connection: Connection, beats: list[Waiting], error: Exception) -> None:
        """Fails beats for any error.

        The task must survive it; otherwise its profiles stay marked busy and no connection is woken
        again. A bug is logged with its traceback here: the callers get none.
        """
        if not isinstance(error, DatabaseError):
            fields = _cause(error, beats)
            logger.error("heartbeat_statement_failed", extra={"fields": fields}, exc_info=error)
        _fail(beats, error)
        # A table that is held leaves the connection as it is.
        if not isinstance(error, LockTimeout):
            connection.terminate()

    async def _write_free(
        self, connection: Connection, beats: list[Waiting], is_probe: bool, error: Exception
    ) -> Connection:
        """Writes beats whose statement waited too long for a lock, without those that cause it."""
        logger.warning("heartbeat_lock_timeout", extra={"fields": _cause(error, beats)})
        try:
            free = await self._without_held(connection, beats, is_probe)
        except Exception as failure:
            self._failed(connection, beats, failure)
            return connection
        if len(free) < len(beats):
            return await self._write(connection, free, is_probe) if free else connection
        if len(beats) > 1:
            return await self._one_by_one(connection, beats, is_probe, ALONE_LOCK_SECONDS)
        # Another transaction has inserted the row that this beat needs: nobody sees it yet.
        self._queue.set_aside(beats[0][0].profile_id, error)
        _fail(beats, error)
        return connection

    async def _without_held(
        self, connection: Connection, beats: list[Waiting], is_probe: bool
    ) -> list[Waiting]:
        """The beats whose rows no other transaction holds; does not wait for rows.

        The profiles of the others become suspects, and wait for the next probe. Those that the
        latest of many probes still finds held fail and are set aside, as new sessions of a held
        title are.
        """
        profiles, titles = await self._statement.held(connection, beats, self._lock_seconds)
        if not profiles and not titles:
            return beats
        if not is_probe:
            self._alert_until = monotonic() + ALERT_SECONDS
        error = Unavailable("another transaction holds the rows of the heartbeat")
        for beat, _ in titles:
            self._queue.set_title_aside(beat.title_id, error)
        _fail(titles, error)
        for waiting in profiles:
            profile_id = waiting[0].profile_id
            if self._queue.suspect(profile_id) > self._max_probes:
                self._queue.set_aside(profile_id, error)
                _fail([waiting], error)
        held = {beat.profile_id for beat, _ in profiles}
        if not is_probe:
            fields = {"profiles": len(profiles), "titles": len(titles), "beats": len(beats)}
            logger.warning("heartbeat_rows_held", extra={"fields": fields})
        return self._queue.wanted(w for w in beats if w[0].profile_id not in held)

    async def _one_by_one(
        self, connection: Connection, beats: list[Waiting], is_probe: bool, lock_seconds: float
    ) -> Connection:
        """Writes each beat of a failed statement alone."""
        again = len(beats) > 1
        for waiting in beats:
            if alone := self._queue.wanted([waiting]):
                connection = await self._write(connection, alone, is_probe, again, lock_seconds)
        return connection

    async def _send(
        self, connection: Connection, beats: list[Waiting], lock_seconds: float
    ) -> None:
        """Sends one statement for the beats, and gives each its outcome."""
        await self._statement.record(connection, beats, lock_seconds)

    async def _open(self) -> Connection:
        """A connection on which the statement is prepared."""
        return await self._statement.open(self._lock_seconds)


def _fail(beats: Iterable[Waiting], error: Exception) -> None:
    for _, future in beats:
        if not future.done():
            future.set_exception(without_frames(error))


def _cause(error: Exception, beats: list[Waiting]) -> dict[str, object]:
    return {"error": f"{type(error).__name__}: {error}", "beats": len(beats)}
