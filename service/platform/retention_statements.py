"""The statements of retention and their rows; `next_id` is where the next batch starts."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from service.database.statement import Statement


class ClockRow(msgspec.Struct, frozen=True):
    clock: datetime


class TotalsRow(msgspec.Struct, frozen=True):
    sessions: int
    balances: int


class LockRow(msgspec.Struct, frozen=True):
    is_taken: bool
    idle_limit: str
    transaction_limit: str | None


class CountRow(msgspec.Struct, frozen=True):
    sessions: int
    balances: int
    exceptions: int
    locks: int
    requests: int
    next_id: UUID | None


class BatchRow(msgspec.Struct, frozen=True):
    deleted: int
    next_id: UUID | None


class ExceptionsRow(msgspec.Struct, frozen=True):
    deleted: int
    locks: int
    next_id: UUID | None


class EventsRow(msgspec.Struct, frozen=True):
    deleted: int
    undelivered: int
    next_id: UUID | None


class CountedEventsRow(msgspec.Struct, frozen=True):
    events: int
    undelivered: int
    next_id: UUID | None


CLOCK: Final = Statement("retention_clock", ClockRow)
TOTALS: Final = Statement("retention_totals", TotalsRow)
LOCK: Final = Statement("retention_lock", LockRow)
COUNT_EXPIRED: Final = Statement("retention_count", CountRow)
DELETE_SESSIONS: Final = Statement("retention_sessions", BatchRow)
DELETE_BALANCES: Final = Statement("retention_balances", BatchRow)
DELETE_EXCEPTIONS: Final = Statement("retention_exceptions", ExceptionsRow)
DELETE_REQUESTS: Final = Statement("retention_requests", BatchRow)
DELETE_EVENTS: Final = Statement("retention_events", EventsRow)
COUNT_EVENTS: Final = Statement("retention_events_count", CountedEventsRow)
