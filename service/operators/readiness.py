"""Whether the service can work, looked at once a second, so that a probe costs no statement.

The look has a database connection of its own. Through the pool, slow reports that hold every
connection would make a healthy instance unready, and a balancer would take away all instances one
after the other; that a pool is exhausted is seen in its own metrics and alert.
"""

import logging
from asyncio import Task, gather, sleep
from collections.abc import Sequence
from time import monotonic
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from service.database import schema
from service.database.driver import Connection, Pool
from service.database.pool import PING, connect, replace_idle
from service.deadlines import DeadlinePassed, within
from service.errors import DatabaseError, ReadOnly
from service.http.fields import doc
from service.observing.metrics import Metrics
from service.observing.supervision import Supervisor, stopped, supervised
from service.settings import Settings
from service.viewing.heartbeat_writer import HeartbeatWriter

logger = logging.getLogger("viewing_time.readiness")

# A fault is seen within LOOK + ANSWER seconds, its end within ANSWER + AGAIN seconds.
LOOK_SECONDS: Final = 1.0
AGAIN_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 2.0
KEPT_SECONDS: Final = 1.0  # the rest of the time is for a new connection
CONNECT_SECONDS: Final = 1.5
LOOKS_PER_SCHEMA: Final = 5
MIN_STUCK_SECONDS: Final = 2.0


class Checks(msgspec.Struct, frozen=True):
    """What was looked at; `process` alone where it is about to stop."""

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
    process: Annotated[
        Literal["stopping", "failed"] | UnsetType,
        doc("Present only if the process is stopping or a background task has died.", "stopping"),
    ] = UNSET


OK: Final = Checks(database="ok")


class ReadinessWatch:
    """The latest look, and the task that looks again."""

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
        self._stuck_seconds = 2 * settings.request_timeout_seconds + MIN_STUCK_SECONDS
        self._connection: Connection | None = None
        self._task: Task[None] | None = None
        self._checks = OK
        self._error = ""
        self._schema_error = ""
        self._looks = 0
        self._batches = 0
        self._moved = monotonic()

    async def start(self) -> None:
        """Looks once, then once a second."""
        await self.look()
        self._task = supervised("readiness", self._keep_looking())

    async def stop(self) -> None:
        await stopped(self._task)
        self._drop()

    def checks(self, *, is_stopping: bool) -> Checks:
        """What is known, at no cost."""
        if self._supervisor.has_died:
            return Checks(process="failed")
        if is_stopping:
            return Checks(process="stopping")
        if self._metrics.connections.is_full:
            return msgspec.structs.replace(self._checks, connections="exhausted")
        return self._checks

    async def look(self) -> None:
        """Looks once, for at most ANSWER_SECONDS; logs a change."""
        self._error = ""
        try:
            await within(ANSWER_SECONDS, self._ask())
        except (DatabaseError, DeadlinePassed) as error:
            self._drop()
            self._error = f"{type(error).__name__}: {error}"
            self._looks, self._moved = 0, monotonic()
            checks = Checks(database="unreachable")
        else:
            checks = Checks(
                database="ok",
                schema="outdated" if self._schema_error else UNSET,
                heartbeats="stuck" if self._is_stuck() else UNSET,
            )
            self._error = self._schema_error
        self._adopt(checks)

    def _adopt(self, checks: Checks) -> None:
        before, self._checks = self._checks, checks
        self._metrics.ready = checks == OK and not self._supervisor.has_died
        if checks != before:
            known = msgspec.to_builtins(checks)
            fields = {**known, **({"error": self._error} if self._error else {})}
            event = "ready" if checks == OK else "not_ready"
            logger.warning(event, extra={"fields": fields})

    async def _keep_looking(self) -> None:
        while True:
            await sleep(LOOK_SECONDS if self._checks == OK else AGAIN_SECONDS)
            await self.look()

    async def _ask(self) -> None:
        """Asks on the connection at hand, else on a new one; raises what stands in the way."""
        if self._connection is not None:
            try:
                await self._asked(self._connection, KEPT_SECONDS)
            except DatabaseError:
                self._drop()  # it may be the only one that is lost
            else:
                return
        connection = await connect(self._settings)
        try:
            await self._asked(connection, ANSWER_SECONDS)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    async def _asked(self, connection: Connection, seconds: float) -> None:
        if not (await PING.one(connection, timeout=seconds)).is_writable:
            # Another server has taken over: every connection of the pools looks for it.
            for pool in self._pools:
                await pool.expire_connections()
            if self._checks == OK:
                await gather(*map(replace_idle, self._pools))
            raise ReadOnly("the server takes no writes")
        if self._schema_error or self._looks % LOOKS_PER_SCHEMA == 0:
            self._schema_error = (await schema.state(connection)).error
        self._looks += 1

    def _is_stuck(self) -> bool:
        """Whether heartbeats wait, but no statement has been sent for longer than any may take."""
        batches, now = sum(self._metrics.batch_sizes.counts), monotonic()
        if not self._writer.waiting or batches != self._batches:
            self._batches, self._moved = batches, now
        return now - self._moved > self._stuck_seconds

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
