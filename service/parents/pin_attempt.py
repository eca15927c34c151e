"""One attempt at a parent's PIN, counted before its hash is computed.

The order: `delayed_response`, `hashing_turn`, then `attempt`, which counts the attempt
(`sql/pin_attempt.sql`), verifies the hash, and either clears the failures (`sql/pin_clear.sql`) or
counts the attempt for good (`sql/attempt_judge.sql`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Annotated, Final
from uuid import UUID, uuid4

import msgspec
from msgspec import Meta

from service.context import Context
from service.credentials.pin_hasher import Turn
from service.database.driver import Pool, Source
from service.database.statement import Statement
from service.database_errors import DatabaseError, Deadlock, LockTimeout
from service.errors import NO_PIN, PIN_LOCKED, ClientError, Overloaded
from service.http import auth
from service.http.idempotency import KeyUsed, RequestedOnce

ATTEMPTS: Final = 5
# Of the first lock, and of each further one if PIN_LOCK_ESCALATION is on; the last repeats.
LOCK_SECONDS: Final = (1_800, 3_600, 7_200, 14_400, 28_800, 57_600, 86_400)
LOCKS: Final = tuple(timedelta(seconds=seconds) for seconds in LOCK_SECONDS)
UNFINISHED: Final = timedelta(seconds=15)  # longer than any request takes
FLOOR_SECONDS: Final = 0.2
LOCKED_UNTIL: Final = "X-Locked-Until"

Pin = Annotated[str, Meta(min_length=4, max_length=4, pattern="^[0-9]{4}$")]


class AttemptRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    has_pin: bool
    locked_until: datetime | None
    pin_hash: str | None
    locks: bool


class DoneRow(msgspec.Struct, frozen=True):
    """The row of a statement that did something; a statement that did nothing returns no row."""

    is_done: bool


ATTEMPT: Final = Statement("pin_attempt", AttemptRow)
CLEAR: Final = Statement("pin_clear", DoneRow)
JUDGE: Final = Statement("attempt_judge", DoneRow)
SETTLE: Final = Statement("pin_settle", DoneRow)

Settle = Callable[[Context, UUID, UUID | None], Awaitable[None]]


@asynccontextmanager
async def delayed_response() -> AsyncIterator[None]:
    """Delays the response until at least 200 ms have passed, whatever the outcome."""
    loop = asyncio.get_running_loop()
    earliest = loop.time() + FLOOR_SECONDS
    try:
        yield
    finally:
        await asyncio.sleep(earliest - loop.time())


@asynccontextmanager
async def hashing_turn(
    context: Context, account_id: UUID, *, is_password: bool = False
) -> AsyncIterator[Turn]:
    """A slot in the hashing queue, one for an account at a time.

    Raises Overloaded, and ClientError 429 if too many requests of the account wait.
    """
    async with context.pin_turns.turn(account_id, is_password=is_password):
        with context.pins.admit() as turn:
            yield turn


@asynccontextmanager
async def counted(context: Context, account_id: UUID, settle: Settle) -> AsyncIterator[UUID]:
    """The id of a new attempt, which is given back if the block ends without a verdict.

    The block counts the attempt before the hash is computed. The client receives the verdict only
    after `judge`, or the statement for a correct secret, has committed, so an attempt that is given
    back has revealed nothing. An attempt whose client disconnects is judged and counted. After a
    failure of the database or the process, the account's next attempt on any instance gives this
    one back, once it is older than UNFINISHED.
    """
    attempt_id = uuid4()
    await settle(context, account_id, None)
    try:
        yield attempt_id
    except BaseException as error:
        if isinstance(error, ClientError) and not isinstance(error, KeyUsed):
            raise
        with suppress(DatabaseError, TimeoutError):
            async with asyncio.timeout(context.settings.request_timeout_seconds):
                await settle(context, account_id, attempt_id)
        raise


async def judge(pool: Pool, once: RequestedOnce, attempt_id: UUID, refusal: ClientError) -> None:
    """Counts a wrong attempt for good, and stores `refusal` as the response to a repetition.

    A key that was used for another request, or that another request holds locked, does not undo the
    count. Raises Overloaded if the attempt was given back, Overtaken if a copy was answered.
    """
    try:
        async with once.effect() as source:
            await _judge(source, attempt_id)
            await once.refuse(source, refusal)
    except (LockTimeout, Deadlock):
        await _judge(pool, attempt_id)


async def _judge(source: Source, attempt_id: UUID) -> None:
    if await JUDGE.maybe(source, attempt_id) is None:
        raise Overloaded(1)


async def settle_pin(context: Context, account_id: UUID, attempt_id: UUID | None) -> None:
    """Gives back PIN attempts that have lost their request, and `attempt_id`."""
    bounds = (ATTEMPTS, _locks(context), UNFINISHED)
    await SETTLE.maybe(context.pool, account_id, attempt_id, *bounds)


def _locks(context: Context) -> tuple[timedelta, ...]:
    """The durations of the locks that follow each other until a correct PIN."""
    return LOCKS if context.settings.pin_lock_escalation else LOCKS[:1]


async def attempt(
    context: Context,
    turn: Turn,
    once: RequestedOnce,
    account_id: UUID,
    pin: str,
    refusal: ClientError,
    profile_id: UUID | None = None,
) -> str:
    """Checks a PIN as one counted attempt and returns the hash that it matched.

    `profile_id` is the profile of a grant. Raises `refusal`, and ClientError: 401, 403 for another
    account's profile or a lock (`X-Locked-Until`), 400 if no PIN is set.
    """
    started_at, outcome = monotonic(), "failed"
    try:
        async with counted(context, account_id, settle_pin) as attempt_id:
            arguments = (account_id, profile_id, ATTEMPTS, _locks(context), attempt_id)
            row = auth.owned(await ATTEMPT.maybe(context.pool, *arguments))
            if row.locked_until is not None:
                outcome = "locked"
                raise ClientError(PIN_LOCKED, {LOCKED_UNTIL: row.locked_until.isoformat()})
            is_correct = await turn.verify(pin, row.pin_hash)
            if row.pin_hash is None:
                raise ClientError(NO_PIN)
            if is_correct and await CLEAR.maybe(context.pool, account_id, row.pin_hash, attempt_id):
                outcome = "right"
                return row.pin_hash
            await judge(context.pool, once, attempt_id, refusal)
            outcome = "wrong"
            context.metrics.pin_lockouts += row.locks
            raise refusal
    except ClientError:
        if outcome == "failed":
            outcome = "refused"
        raise
    finally:
        context.metrics.pin_attempts[outcome] += 1
        context.metrics.pin_seconds.add(monotonic() - started_at)
