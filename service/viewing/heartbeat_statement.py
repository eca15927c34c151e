"""The statement that records heartbeats: arguments, rows, refusals, connections."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date, datetime
from time import monotonic
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
from service.viewing.announcements import NEVER
from service.viewing.day_guesses import MAX_GUESSES, DayGuesses
from service.viewing.decision import PastDay, Usage
from service.viewing.recorded_row import Recorded, RecordedRow, Renewed
from service.viewing.rules import viewing_day


class Beat(NamedTuple):
    """One heartbeat; the fields are the arrays of the statement, in order.

    Only a beat that starts a session has a device: a null costs the driver half of a text. A beat
    of an uncached profile has no day and no begin; it has `renews`, and EVERY_DAY in `usage_from`.
    """

    profile_id: UUID
    account_id: UUID
    title_id: UUID
    session_id: UUID
    starts: bool
    device_id: str | None
    device_type: str | None
    paused: bool
    day: date | None
    exempt: bool
    key: bytes | None
    renews: bool
    begin_seconds: int | None
    usage_from: date | None
    exclusive: bool
    announce_from: int
    rules: str | None


BEGINS: Final = Beat._fields.index("begin_seconds")
# Sent as `-infinity`: all the days that the policy needs, which the statement reads.
EVERY_DAY: Final = date.min


class DayUnknown(Exception):
    """A beat of an uncached profile was not recorded, because no guess has its viewing day.

    `read` is the policy that the statement has read; None: a child without a configuration.
    """

    def __init__(self, read: Renewed | None) -> None:
        super().__init__("the viewing day of an uncached profile is unknown")
        self.read = read


# A beat and the future that gets its outcome.
Waiting = tuple[Beat, asyncio.Future[Recorded]]


class HeldRow(msgspec.Struct, frozen=True):
    """Positions in the arrays, from 1, of beats whose profile or whose title is held."""

    profiles: list[int]
    titles: list[int]


class PreparedRow(msgspec.Struct, frozen=True):
    """Frequent pairs of a zone and a reset hour, in step; None without a configuration."""

    timezones: list[str] | None
    reset_hours: list[int] | None


PREPARE: Final = Statement("heartbeat_prepare", PreparedRow)
RECORD_HEARTBEATS: Final = Statement("heartbeat_record", RecordedRow)
# Citus cannot route the statement: the same as a function.
CALL_HEARTBEATS: Final = Statement("heartbeat_call", RecordedRow)
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
DAY_UNKNOWN: Final = 8
NO_GUESSES: Final = (None, None, None)

NO_WEEK: Final[tuple[int, Sequence[PastDay]]] = (0, ())

# The arguments of a beat with an unknown account, which is refused; they prepare a connection, and
# the driver for the types of arguments.
NO_ID: Final = UUID(int=0)
WARM_UP: Final = tuple(
    (field,)
    for field in Beat(
        *(NO_ID, NO_ID, NO_ID, NO_ID, False, "", "", False, date(2000, 1, 1), False, None, False),
        *(0, None, False, NEVER, None),
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
        self._guesses = DayGuesses()
        self._record = CALL_HEARTBEATS if settings.cells_citus_url else RECORD_HEARTBEATS

    async def open(self, lock_seconds: float) -> Connection:
        """Opens a connection and prepares the statement on it, for a fast first beat."""
        connection = await connect(self._settings, by_index=True)
        if self._settings.statement_cache_size:
            now, timeout = self._now(), self._timeout
            pairs = (now.date(), now, MAX_GUESSES - 1)
            try:
                if not self._settings.cells_citus_url:  # which cannot route it
                    row = await PREPARE.one(connection, *pairs, timeout=timeout)
                    self._guesses.learn_all(row.timezones or (), row.reset_hours or ())
                scalars = self._scalars(now, lock_seconds)
                arguments = (*WARM_UP, *scalars, *self._guesses.at(now))
                await self._record.one(connection, *arguments, timeout=timeout)
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
        columns = list(zip(*(beat for beat, _ in beats), strict=True))
        self._metrics.heartbeat_statements += 1
        self._metrics.batch_sizes.add(len(beats))
        now, sent_at = self._now(), monotonic()
        scalars = self._scalars(now, lock_seconds)
        guesses = self._guesses.at(now) if None in columns[BEGINS] else NO_GUESSES
        arguments = (*columns, *scalars, *guesses)
        row = await self._record.one(connection, *arguments, timeout=self._timeout)
        balances, extensions = row.balances(), row.extensions()
        renewed, weeks = row.policies_renewed(sent_at, now), row.weeks()
        for number, refusal, educational in zip(
            row.beats, row.refusals, row.educational, strict=True
        ):
            beat, future = beats[number - 1]
            if future.done():
                continue
            if refusal:
                future.set_exception(self._refused(refusal, renewed.get(number)))
                continue
            usage, read, day = None, renewed.get(number), beat.day
            if balance := balances.get(beat.profile_id):
                if day is None:
                    assert read is not None, "a recorded beat without a day has read its policy"
                    day = viewing_day(read.configuration, now)
                extended = extensions.get(beat.profile_id, 0)
                session_seconds, week = weeks.get(number, NO_WEEK)
                usage = Usage(day, *balance, extended, week, session_seconds)
            future.set_result(Recorded(bool(educational), usage, read))

    def _refused(self, refusal: int, read: Renewed | None) -> Exception:
        """The error of a refused beat; the day of an unknown pair is sent with later statements."""
        if refusal != DAY_UNKNOWN:
            return ClientError(REFUSALS[refusal])
        if read is not None:
            self._guesses.learn(read.configuration)
        return DayUnknown(read)

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

    def _scalars(self, now: datetime, lock_seconds: float) -> tuple[str, datetime, str, bool]:
        """Further arguments: prefix of new ids, time, lock time-out, whether the clock counts."""
        return id_prefix(now), now, _lock_timeout(lock_seconds), self._by_clock


def _lock_timeout(seconds: float) -> str:
    return f"{max(1, int(seconds * 1000))}ms"
