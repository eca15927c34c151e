"""An event, as the webhook, the streams and the command line show it."""

from datetime import datetime
from uuid import UUID

import msgspec


class EventRow(msgspec.Struct, frozen=True):
    event_id: UUID
    position: int
    account_id: UUID
    profile_id: UUID | None
    type: str
    occurred_at: datetime
    data: str


class Event(msgspec.Struct, frozen=True):
    """A thing that happened, when by the clock of the instance (UTC), and to whom.

    `data` has the members of its type. No event contains a name, a title or a PIN.
    """

    id: UUID
    type: str
    occurred_at: datetime
    account_id: UUID
    profile_id: UUID | None
    data: msgspec.Raw


def event(row: EventRow) -> Event:
    """The event of a row."""
    return Event(
        row.event_id,
        row.type,
        row.occurred_at,
        row.account_id,
        row.profile_id,
        msgspec.Raw(row.data.encode()),
    )
