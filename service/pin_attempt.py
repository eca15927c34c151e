"""One attempt at a parent's PIN: counted before it is checked, answered without hurry."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from time import monotonic
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from service import auth
from service.context import Context
from service.database import Statement
from service.errors import ClientFault
from service.pin_hasher import Turn

ATTEMPTS: Final = 5
LOCK: Final = timedelta(minutes=30)
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


class ClearedRow(msgspec.Struct, frozen=True):
    is_cleared: bool


ATTEMPT: Final = Statement("pin_attempt", AttemptRow)
CLEAR: Final = Statement("pin_clear", ClearedRow)


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
async def turn_of(context: Context, account_id: UUID) -> AsyncIterator[Turn]:
    """A place before the hasher, one at a time for an account.

    A burst of guesses at one account waits for itself: five of them are checked, the rest find the
    PIN locked, and other parents wait behind one of them at most. Raises Overloaded.
    """
    lock = context.pin_turns.get(account_id) or asyncio.Lock()
    context.pin_turns[account_id] = lock
    async with lock:
        with context.pins.admit() as turn:
            yield turn


async def attempt(
    context: Context, turn: Turn, account_id: UUID, profile_id: UUID | None, pin: str
) -> str | None:
    """Checks a PIN as one counted attempt; the hash it was right for, None where it was wrong.

    `profile_id` is that of a grant. Raises ClientFault: 401, 403 for a foreign profile or a lock
    (`X-Locked-Until`), 400 where no PIN is set.
    """
    begun, outcome = monotonic(), "failed"
    try:
        pin_hash = await _attempt(context, turn, account_id, profile_id, pin)
        outcome = "wrong" if pin_hash is None else "right"
    except ClientFault as fault:
        outcome = "locked" if fault.headers and LOCKED_UNTIL in fault.headers else "refused"
        raise
    finally:
        context.metrics.pin_attempts[outcome] += 1
        context.metrics.pin_seconds.add(monotonic() - begun)
    return pin_hash


async def _attempt(
    context: Context, turn: Turn, account_id: UUID, profile_id: UUID | None, pin: str
) -> str | None:
    now = context.now()
    row = auth.owned(await ATTEMPT.maybe(context.pool, account_id, profile_id, ATTEMPTS, LOCK, now))
    if row.locked_until is not None:
        until = {LOCKED_UNTIL: row.locked_until.isoformat()}
        raise ClientFault(403, "PIN locked due to too many failed attempts", until)
    right = await turn.verify(pin, row.pin_hash)
    if row.pin_hash is None:
        raise ClientFault(400, "No PIN set")
    if not right or await CLEAR.maybe(context.pool, account_id, row.pin_hash) is None:
        context.metrics.pin_lockouts += row.locks
        return None
    return row.pin_hash
