"""Readiness: whether this instance can serve, checked once a second, so that a probe costs nothing.

The check has a database connection of its own. If it used the pool, slow reports that hold every
connection would make all instances unready one after the other; an exhausted pool has its own
metric and alert.
"""

import logging
from asyncio import Task, gather, sleep
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from service.database import schema
from service.database.driver import Connection, Pool
from service.database.pool import connect, replace_idle, takes_writes
from service.database_errors import DatabaseError, ReadOnly, Unavailable
from service.deadlines import DeadlinePassed, within
from service.http.fields import doc
from service.observing.metrics import Metrics
from service.observing.supervision import Supervisor, stopped, supervised
from service.settings import Settings
from service.viewing.heartbeat_writer import HeartbeatWriter

logger = logging.getLogger("viewing_time.readiness")

# A failure is noticed within CHECK + TIMEOUT seconds, a recovery within TIMEOUT + RECHECK seconds.
CHECK_SECONDS: Final = 1.0
RECHECK_SECONDS: Final = 0.5
TIMEOUT_SECONDS: Final = 2.0
REUSED_SECONDS: Final = 1.0  # leaves time to open a new connection
CONNECT_SECONDS: Final = 1.5
PASSES_PER_SCHEMA_CHECK: Final = 5
MIN_STUCK_SECONDS: Final = 2.0


class Checks(msgspec.Struct, frozen=True):
    """The state of each part; only `process` while the process is stopping."""

    database: Annotated[
        Literal["ok", "unreachable"] | UnsetType, doc("The database accepts writes.", "ok")
    ] = UNSET
    schema: Annotated[
        Literal["outdated"] | UnsetType,
        doc("Present only if tables or migrations are missing.", "outdated"),
    ] = UNSET
    heartbeats: Annotated[
        Literal["stuck"] | UnsetType,
        doc("Present only if heartbeats are waiting and none is written.", "stuck"),
    ] = UNSET
    connections: Annotated[
        Literal["exhausted"] | UnsetType,
        doc("Present only if no more clients can connect.", "exhausted"),
    ] = UNSET
    cells: Annotated[
        dict[str, str] | UnsetType,
        doc("Present only if some of several cells do not work.", {"b": "unreachable"}),
    ] = UNSET
    process: Annotated[
        Literal["stopping", "failed"] | UnsetType,
        doc("Present only if the process is stopping or a background task has died.", "stopping"),
    ] = UNSET


OK: Final = Checks(database="ok")


class ReadinessWatch:
    """The result of the latest check, and the task that repeats it."""

    def __init__(
        self,
        settings: Settings,
        pools: Sequence[Pool],
        writer: HeartbeatWriter,
        metrics: Metrics,
        supervisor: Supervisor,
    ) -> None:
        seconds = min(settings.request_timeout_seconds, CONNECT_SECONDS)
        self._settings = msgspec.structs.replace(settings, request_timeout_seconds=seconds)
        self._pools = pools
        self._writer = writer
        self._metrics = metrics
        self._supervisor = supervisor
        self._request_seconds = settings.request_timeout_seconds
        self._stuck_seconds = 2 * settings.request_timeout_seconds + MIN_STUCK_SECONDS
        self._connection: Connection | None = None
        self._task: Task[None] | None = None
        self._checks = OK
        self._schema_error = ""
        self._passes = 0  # since the database was unreachable
        self._batches = 0
        self._progress_at = self._reached_at = monotonic()

    async def start(self) -> None:
        """Checks once, then once a second."""
        await self.check()
        self._task = supervised("readiness", self._keep_checking())

    async def stop(self) -> None:
        await stopped(self._task)
        self._drop_connection()

    def checks(self, *, is_stopping: bool) -> Checks:
        """The latest result, without waiting."""
        if self._supervisor.has_died:
            return Checks(process="failed")
        if is_stopping:
            return Checks(process="stopping")
        if self._metrics.connections.is_full:
            return msgspec.structs.replace(self._checks, connections="exhausted")
        return self._checks

    @property
    def is_ready(self) -> bool:
        """Whether the latest check passed, and every background task runs."""
        return self._checks == OK and not self._supervisor.has_died

    def refuse_unreachable(self) -> None:
        """Raises Unavailable if checks have failed for longer than a request may wait."""
        seconds = monotonic() - self._reached_at
        if self._checks.database == "unreachable" and seconds > self._request_seconds:
            raise Unavailable("checks of the database fail")

    async def check(self) -> None:
        """Checks once, within TIMEOUT_SECONDS; logs a change."""
        try:
            await within(TIMEOUT_SECONDS, self._check_database())
        except (DatabaseError, DeadlinePassed) as error:
            self._drop_connection()
            self._passes, self._progress_at = 0, monotonic()
            self._adopt(Checks(database="unreachable"), f"{type(error).__name__}: {error}")
        else:
            self._reached_at = monotonic()
            if self._checks.database == "unreachable":
                await self._reconnect()
            checks = Checks(
                database="ok",
                schema="outdated" if self._schema_error else UNSET,
                heartbeats="stuck" if self._is_stuck() else UNSET,
            )
            self._adopt(checks, self._schema_error)

    async def _reconnect(self) -> None:
        """Replaces connections before their next use: they may lead to a server that is gone."""
        for pool in self._pools:
            await pool.expire_connections()
        self._writer.reconnect()

    def _adopt(self, checks: Checks, error: str) -> None:
        before, self._checks = self._checks, checks
        if checks != before:
            fields = msgspec.to_builtins(checks) | ({"error": error} if error else {})
            logger.warning("ready" if checks == OK else "not_ready", extra={"fields": fields})

    async def _keep_checking(self) -> None:
        while True:
            await sleep(CHECK_SECONDS if self._checks == OK else RECHECK_SECONDS)
            await self.check()

    async def _check_database(self) -> None:
        """Checks on the open connection, then on a new one; raises DatabaseError."""
        if self._connection is not None:
            with suppress(DatabaseError):  # perhaps only this connection is lost
                await self._check_connection(self._connection, REUSED_SECONDS)
                return
            self._drop_connection()
        self._connection = await connect(self._settings)
        await self._check_connection(self._connection, TIMEOUT_SECONDS)

    async def _check_connection(self, connection: Connection, seconds: float) -> None:
        if not await takes_writes(self._settings, connection, seconds):
            # After a failover the pools must connect to the new primary, and so after a move.
            for pool in self._pools:
                await pool.expire_connections()
            if self._checks == OK:
                await gather(*map(replace_idle, self._pools))
            raise ReadOnly("the server is read-only")
        if self._schema_error or self._passes % PASSES_PER_SCHEMA_CHECK == 0:
            self._schema_error = (await schema.state(connection)).error
        self._passes += 1

    def _is_stuck(self) -> bool:
        """Whether heartbeats wait, but no statement was sent for longer than one may take."""
        batches, now = self._writer.batches, monotonic()
        if not self._writer.waiting or batches != self._batches:
            self._batches, self._progress_at = batches, now
        return now - self._progress_at > self._stuck_seconds

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
