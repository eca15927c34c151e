"""One attempt at a parent's PIN: counted before it is checked, answered without hurry."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Annotated, Final, NamedTuple
from uuid import UUID, uuid4

import msgspec
from msgspec import Meta

from service.context import Context
from service.credentials.pin_hasher import Turn
from service.database.driver import Pool, Source
from service.database.statement import Statement
from service.errors import (
    NO_PIN,
    PIN_INCORRECT,
    PIN_LOCKED,
    ClientError,
    DatabaseError,
    Deadlock,
    LockTimeout,
    Overloaded,
)
from service.http import auth
from service.http.idempotency import KeyUsed, Once

ATTEMPTS: Final = 5
LOCK: Final = timedelta(minutes=30)
UNFINISHED: Final = timedelta(seconds=15)  # longer than a request may take
FLOOR_SECONDS: Final = 0.2
LOCKED_UNTIL: Final = "X-Locked-Until"

Pin = Annotated[str, Meta(min_length=4, max_length=4, pattern="^[0-9]{4}$")]


class Tried(NamedTuple):
    """A PIN that is tried for an account; `profile_id` is that of a grant."""

    account_id: UUID
    profile_id: UUID | None
    pin: str


class AttemptRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    has_pin: bool
    locked_until: datetime | None
    pin_hash: str | None
    locks: bool


class ClearedRow(msgspec.Struct, frozen=True):
    is_cleared: bool


class JudgedRow(msgspec.Struct, frozen=True):
    is_judged: bool


class SettledRow(msgspec.Struct, frozen=True):
    is_settled: bool


ATTEMPT: Final = Statement("pin_attempt", AttemptRow)
CLEAR: Final = Statement("pin_clear", ClearedRow)
JUDGE: Final = Statement("attempt_judge", JudgedRow)
SETTLE: Final = Statement("pin_settle", SettledRow)

NOT_SETTLED: Final = (DatabaseError, TimeoutError)
Settle = Callable[[Context, UUID, UUID | None], Awaitable[None]]


@asynccontextmanager
async def unhurried() -> AsyncIterator[None]:
    """Lets no answer out sooner than 200 ms after the request, whatever it is."""
    loop = asyncio.get_running_loop()
    earliest = loop.time() + FLOOR_SECONDS
    try:
        yield
    finally:
        await asyncio.sleep(earliest - loop.time())


@asynccontextmanager
async def turn_of(
    context: Context, account_id: UUID, *, is_password: bool = False
) -> AsyncIterator[Turn]:
    """A place before the hasher, one at a time for an account.

    Raises Overloaded, and ClientError 429 where the account itself has too many requests waiting.
    """
    async with context.pin_turns.turn(account_id, is_password=is_password):
        with context.pins.admit() as turn:
            yield turn


@asynccontextmanager
async def counted(context: Context, account_id: UUID, settle: Settle) -> AsyncIterator[UUID]:
    """The id of an attempt, which is given back when the block ends without a verdict.

    The block counts the attempt before the hash is computed, and its client gets a verdict only
    after `judged`, or the statement for a right secret, has been committed: an attempt that is
    given back has revealed nothing, however many of them run into their deadline. A client that
    disconnects cancels nothing, so its guess is judged and counted. What cannot be given back now,
    since the database or this process is gone, is given back by the account's next attempt on any
    instance, once it is UNFINISHED old.
    """
    attempt_id = uuid4()
    await settle(context, account_id, None)
    try:
        yield attempt_id
    except BaseException as error:
        if isinstance(error, ClientError) and not isinstance(error, KeyUsed):
            raise
        with suppress(*NOT_SETTLED):
            async with asyncio.timeout(context.settings.request_timeout_seconds):
                await settle(context, account_id, attempt_id)
        raise


async def judged(pool: Pool, once: Once, attempt_id: UUID, wrong: ClientError) -> None:
    """Makes a wrong attempt count for good, answered with `wrong` also when it comes again.

    Another request with the key does not undo that, nor does one that keeps the key locked. Raises
    Overloaded where the attempt has been given back, Overtaken where a copy has been answered.
    """
    try:
        async with once.effect() as source:
            await _judge(source, attempt_id)
            await once.refuse(source, wrong)
    except (LockTimeout, Deadlock):
        await _judge(pool, attempt_id)


async def _judge(source: Source, attempt_id: UUID) -> None:
    if await JUDGE.maybe(source, attempt_id) is None:
        raise Overloaded(1)


async def settle_pin(context: Context, account_id: UUID, attempt_id: UUID | None) -> None:
    """Gives back the attempts at a PIN that were not finished, `attempt_id` at once."""
    await SETTLE.maybe(context.pool, account_id, attempt_id, ATTEMPTS, LOCK, UNFINISHED)


def wrong_pin() -> ClientError:
    """The answer to a wrong PIN, which does not say how many attempts are left."""
    return ClientError(PIN_INCORRECT)


async def attempt(
    context: Context, turn: Turn, once: Once, tried: Tried, wrong: ClientError
) -> str:
    """Checks a PIN as one counted attempt of `once`; the hash that it was right for.

    Raises `wrong`, and ClientError: 401, 403 for a foreign profile or a lock (`X-Locked-Until`),
    400 where no PIN is set.
    """
    begun, outcome = monotonic(), "failed"
    try:
        pin_hash = await _attempt(context, turn, once, tried, wrong)
        outcome = "wrong" if pin_hash is None else "right"
    except ClientError as fault:
        outcome = "locked" if fault.headers and LOCKED_UNTIL in fault.headers else "refused"
        raise
    finally:
        context.metrics.pin_attempts[outcome] += 1
        context.metrics.pin_seconds.add(monotonic() - begun)
    if pin_hash is None:
        raise wrong
    return pin_hash


async def _attempt(
    context: Context, turn: Turn, once: Once, tried: Tried, wrong: ClientError
) -> str | None:
    account_id, profile_id, pin = tried
    async with counted(context, account_id, settle_pin) as attempt_id:
        asked = (account_id, profile_id, ATTEMPTS, LOCK, attempt_id)
        row = auth.owned(await ATTEMPT.maybe(context.pool, *asked))
        if row.locked_until is not None:
            until = {LOCKED_UNTIL: row.locked_until.isoformat()}
            raise ClientError(PIN_LOCKED, until)
        is_right = await turn.verify(pin, row.pin_hash)
        if row.pin_hash is None:
            raise ClientError(NO_PIN)
        if is_right and await CLEAR.maybe(context.pool, account_id, row.pin_hash, attempt_id):
            return row.pin_hash
        await judged(context.pool, once, attempt_id, wrong)
    context.metrics.pin_lockouts += row.locks
    return None
