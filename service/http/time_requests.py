"""A child's request for more time, as players and parents see it.

A request is over with its viewing day, which is computed by the clock of the instance. So every
statement about requests gets the time from there too: a request never outlives its day.
"""

from datetime import date, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec

from service.database.driver import Source
from service.database.statement import Statement
from service.errors import TIME_REQUEST_NOT_FOUND, ClientError
from service.http import auth
from service.http.fields import ProfileId, Time, TimeRequestId, ViewingDay, doc

Status = Literal["pending", "approved", "denied", "expired"]
StatusField = Annotated[
    Status, doc("`expired`: nobody decided before the viewing day was over.", "pending")
]
ExpiresAt = Annotated[
    Time, doc("When a pending request expires, in UTC: the next reset.", "2026-03-02T06:00:00Z")
]


class TimeRequestRow(msgspec.Struct, frozen=True):
    is_active: bool
    request_id: UUID | None
    profile_id: UUID | None
    minutes: int | None
    message: str | None
    device_id: str | None
    status: Status | None
    reset_date: date | None
    requested_at: datetime | None
    expires_at: datetime | None
    decided_at: datetime | None
    decided_by_user_id: UUID | None
    grant_id: UUID | None


class TimeRequest(msgspec.Struct, frozen=True):
    """A request for more time."""

    request_id: TimeRequestId
    profile_id: ProfileId
    status: StatusField
    minutes: Annotated[int | None, doc("Minutes requested; null: the rest of the viewing day.", 30)]
    message: Annotated[
        str | None, doc("What the child wrote, as it was sent; null: nothing.", "Until the end?")
    ]
    device_id: Annotated[str | None, doc("The player on which it was made.", "tv-1")]
    date: ViewingDay
    requested_at: Annotated[Time, doc("When it was made, in UTC.", "2026-03-01T17:30:00Z")]
    expires_at: ExpiresAt
    decided_at: Annotated[
        Time | None, doc("When a parent approved or denied it; null: not done.", None)
    ]
    decided_by_user_id: Annotated[UUID | None, doc("The account that decided.", None)]
    grant_id: Annotated[UUID | None, doc("The grant that approves it.", None)]


READ: Final = Statement("viewing_request_read", TimeRequestRow)


async def find(source: Source, account_id: UUID, request_id: UUID, now: datetime) -> TimeRequest:
    """A request of the account; raises ClientError 401, or 404 also for another account's."""
    row = auth.active(await READ.maybe(source, account_id, request_id, now))
    if row.request_id is None:
        raise ClientError(TIME_REQUEST_NOT_FOUND)
    return time_request(row)


def time_request(row: TimeRequestRow) -> TimeRequest:
    """The request of a row that has one."""
    assert row.request_id is not None
    assert row.profile_id is not None
    assert row.status is not None
    assert row.reset_date is not None
    assert row.requested_at is not None
    assert row.expires_at is not None
    return TimeRequest(
        row.request_id,
        row.profile_id,
        row.status,
        row.minutes,
        row.message,
        row.device_id,
        row.reset_date,
        row.requested_at,
        row.expires_at,
        row.decided_at,
        row.decided_by_user_id,
        row.grant_id,
    )
