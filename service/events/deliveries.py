"""The batches of events that are being sent to the webhook, as rows of `viewing_deliveries`.

All times are the database's: the lease of a claim, the age of a batch, and when it is due.
"""

from datetime import datetime
from itertools import groupby
from random import SystemRandom
from typing import Final, Literal
from uuid import UUID

import msgspec

from service.database.driver import Connection
from service.database.statement import Statement
from service.events.event import Event, EventRow, event
from service.events.outbox import LOCK

MAX_SEEN: Final = 20_000
MAX_EVENTS: Final = 100
MAX_BATCHES: Final = 16
MAX_DELIVERIES: Final = 1_000
SPLIT_ATTEMPTS: Final = 3
DAY_SECONDS: Final = 86_400.0
LEASE_SECONDS: Final = 15.0
MAX_BACK_OFF_SECONDS: Final = 300.0
STATEMENT_SECONDS: Final = 5.0


class LookRow(msgspec.Struct, frozen=True):
    has_begun: bool
    has_unsent: bool
    has_due: bool


class BegunRow(msgspec.Struct, frozen=True):
    webhook_from: int


class CountRow(msgspec.Struct, frozen=True):
    events: int


class ClaimedRow(EventRow, frozen=True):
    delivery_id: UUID
    attempts: int
    created_at: datetime
    claimed_at: datetime


class FailedRow(msgspec.Struct, frozen=True):
    outcome: Literal["retried", "split", "parked"]
    events: int


class Delivery(msgspec.Struct, frozen=True):
    """An attempt to send a batch."""

    id: UUID
    attempts: int
    created_at: datetime
    claimed_at: datetime
    events: list[Event]


LOOK: Final = Statement("delivery_look", LookRow)
BEGIN: Final = Statement("delivery_begin", BegunRow)
RECOVER: Final = Statement("delivery_recover", CountRow)
FORM: Final = Statement("delivery_form", CountRow)
CLAIM: Final = Statement("delivery_claim", ClaimedRow)
SETTLE: Final = Statement("delivery_settle", CountRow)
FAIL: Final = Statement("delivery_fail", FailedRow)


async def recover(connection: Connection) -> None:
    """Makes the events of missing batches unsent again."""
    await RECOVER.maybe(connection)


async def next_deliveries(connection: Connection, room: int) -> list[Delivery]:
    """Forms batches and claims up to `room` of them."""
    look = await LOOK.maybe(connection)
    if look is None:
        return []
    if not look.has_begun:
        await BEGIN.maybe(connection)
        return []
    is_formed = look.has_unsent and await _form(connection, room)
    return await _claim(connection, room) if is_formed or look.has_due else []


async def _form(connection: Connection, room: int) -> bool:
    """Forms up to `room` batches, unless another transaction has locked the feed."""
    limits = (MAX_SEEN, MAX_EVENTS, MAX_BATCHES, MAX_DELIVERIES, SPLIT_ATTEMPTS)
    formed = 0
    async with connection.transaction():
        # A statement of its own: the next one sees all batches formed before the lock.
        if await LOCK.maybe(connection) is None:
            return False
        while formed < room:
            if not (await FORM.one(connection, *limits, timeout=STATEMENT_SECONDS)).events:
                break
            formed += 1
    return formed > 0


async def _claim(connection: Connection, room: int) -> list[Delivery]:
    rows = await CLAIM.all(connection, room, LEASE_SECONDS)
    grouped = ([*group] for _, group in groupby(rows, key=lambda row: row.delivery_id))
    return [_delivery(group) for group in grouped]


def _delivery(rows: list[ClaimedRow]) -> Delivery:
    first = rows[0]
    head = (first.delivery_id, first.attempts, first.created_at, first.claimed_at)
    return Delivery(*head, [event(row) for row in rows])


async def settle(connection: Connection, delivery: Delivery) -> None:
    """Ends a batch that was received, unless another instance has claimed it meanwhile."""
    await SETTLE.maybe(connection, delivery.id, delivery.attempts)


async def fail(
    connection: Connection, delivery: Delivery, retry_after: float, *, may_split: bool
) -> FailedRow | None:
    """Ends a failed attempt; None if another instance has claimed the batch meanwhile."""
    attempts = delivery.attempts
    if len(delivery.events) == 1 and attempts > SPLIT_ATTEMPTS:
        attempts -= SPLIT_ATTEMPTS  # those of the batch that it was part of
    delay = max(back_off(attempts), retry_after)
    how = (delay, may_split, SPLIT_ATTEMPTS, DAY_SECONDS)
    return await FAIL.maybe(connection, delivery.id, delivery.attempts, *how)


def back_off(attempts: int) -> float:
    """Seconds until the next attempt: half of it is random, so that batches spread."""
    longest = min(2.0 ** min(attempts, 60), MAX_BACK_OFF_SECONDS)
    return SystemRandom().uniform(longest / 2, longest)
