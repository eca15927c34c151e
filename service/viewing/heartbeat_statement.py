"""The statement that records heartbeats: arguments, rows, refusals, connections."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from service.database.driver import Connection
from service.database.ids import id_prefix
from service.database.pool import connect
from service.database.statement import Statement
from service.errors import (
    ACCOUNT_INACTIVE,
    KEY_OF_ANOTHER_REQUEST,
    PROFILE_DENIED,
    SESSION_DISPLACED,
    SESSION_NOT_FOUND,
    SESSION_OF_ANOTHER_PROFILE,
    TITLE_NOT_FOUND,
    ClientError,
)
from service.observing.metrics import Metrics
from service.settings import Settings
from service.viewing.decision import PastDay, Usage
from service.viewing.recorded_row import Recorded, RecordedRow


class Beat(NamedTuple):
    """One heartbeat; the fields are the arrays of the statement, in order.

    Only a beat that starts a session has a device: a null costs the driver half of a text.
    """

    profile_id: UUID
    account_id: UUID
    title_id: UUID
    session_id: UUID
    starts: bool
    device_id: str | None
    device_type: str | None
    paused: bool
    day: date
    exempt: bool
    key: bytes | None
    renews: bool
    begin_seconds: int
    usage_from: date | None
    exclusive: bool


# A beat and the future that gets its outcome.
Waiting = tuple[Beat, asyncio.Future[Recorded]]


class HeldRow(msgspec.Struct, frozen=True):
    """Positions in the arrays, from 1, of beats whose profile or whose title is held."""

    profiles: list[int]
    titles: list[int]


RECORD_HEARTBEATS: Final = Statement("heartbeat_record", RecordedRow)
HELD: Final = Statement("heartbeat_held", HeldRow)

REFUSALS: Final = {
    1: ACCOUNT_INACTIVE,
    2: PROFILE_DENIED,
    3: TITLE_NOT_FOUND,
    4: SESSION_NOT_FOUND,
    5: SESSION_OF_ANOTHER_PROFILE,
    6: KEY_OF_ANOTHER_REQUEST,
    7: SESSION_DISPLACED,
}

NO_WEEK: Final[tuple[int, Sequence[PastDay]]] = (0, ())

# The arguments of a beat with an unknown account, which is refused; they prepare a connection.
NO_ID: Final = UUID(int=0)
WARM_UP: Final = tuple(
    [field]
    for field in Beat(
        *(NO_ID, NO_ID, NO_ID, NO_ID, False, "", "", False, date(2000, 1, 1), False, None, False),
        *(0, None, False),
    )
)


class HeartbeatStatement:
    """Records batches of waiting beats, and finds held rows."""

    def __init__(self, settings: Settings, metrics: Metrics, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._timeout = settings.request_timeout_seconds
        self._by_clock = settings.credit == "clock"

    async def open(self, lock_seconds: float) -> Connection:
        """Opens a connection and prepares the statement on it, for a fast first beat."""
        connection = await connect(self._settings)
        if self._settings.statement_cache_size:
            try:
                scalars = self._scalars(lock_seconds)
                await RECORD_HEARTBEATS.one(connection, *WARM_UP, *scalars, timeout=self._timeout)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def record(
        self, connection: Connection, beats: list[Waiting], lock_seconds: float
    ) -> None:
        """Records beats, at most one for each profile, and gives each its outcome.

        `lock_seconds` is the lock time-out of the statement.
        """
        # Locks are taken in profile order: see the header of heartbeat_record.sql.
        beats.sort(key=lambda waiting: waiting[0].profile_id.int)
        columns = zip(*(beat for beat, _ in beats), strict=True)
        self._metrics.heartbeat_statements += 1
        self._metrics.batch_sizes.add(len(beats))
        scalars = self._scalars(lock_seconds)
        row = await RECORD_HEARTBEATS.one(connection, *columns, *scalars, timeout=self._timeout)
        balances, extensions = row.balances(), row.extensions()
        renewed, weeks = row.policies_renewed(), row.weeks()
        for number, refusal, educational in zip(
            row.beats, row.refusals, row.educational, strict=True
        ):
            beat, future = beats[number - 1]
            if future.done():
                continue
            if refusal:
                future.set_exception(ClientError(REFUSALS[refusal]))
                continue
            usage = None
            if balance := balances.get(beat.profile_id):
                extended = extensions.get(beat.profile_id, 0)
                session_seconds, week = weeks.get(number, NO_WEEK)
                usage = Usage(beat.day, *balance, extended, week, session_seconds)
            future.set_result(Recorded(bool(educational), usage, renewed.get(number)))

    async def held(
        self, connection: Connection, beats: list[Waiting], lock_seconds: float
    ) -> tuple[list[Waiting], list[Waiting]]:
        """Returns the beats whose profile, and those whose title, another transaction holds."""
        columns = zip(
            *((b.profile_id, b.title_id, b.session_id, b.starts, b.day) for b, _ in beats),
            strict=True,
        )
        row = await HELD.one(
            connection, *columns, _lock_timeout(lock_seconds), timeout=self._timeout
        )
        profiles = [beats[position - 1] for position in row.profiles]
        return profiles, [beats[position - 1] for position in row.titles]

    def _scalars(self, lock_seconds: float) -> tuple[str, datetime, str, bool]:
        """The last arguments: prefix of new ids, time, lock time-out, whether the clock counts."""
        now = self._now()
        return id_prefix(now), now, _lock_timeout(lock_seconds), self._by_clock


def _lock_timeout(seconds: float) -> str:
    return f"{max(1, int(seconds * 1000))}ms"
