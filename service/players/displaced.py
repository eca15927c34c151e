"""A heartbeat whose session another device has ended."""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec

from service.context import Context
from service.database.statement import Statement
from service.errors import SESSION_DISPLACED, SESSION_NOT_FOUND, ClientError
from service.http.fields import Time, doc
from service.observing.trace import count_statement


class DisplacedRow(msgspec.Struct, frozen=True):
    device_type: str | None
    ended_at: datetime


class Displaced(msgspec.Struct, frozen=True):
    """The response to an exclusive heartbeat whose session another device has ended."""

    detail: Annotated[str, doc("The reason.", SESSION_DISPLACED.text)]
    device_type: Annotated[
        str | None, doc("The kind of the player that ended it; null if unknown.", "tablet")
    ]
    ended_at: Annotated[Time, doc("When the session ended, in UTC.", "2026-03-01T18:00:00Z")]


DISPLACED: Final = Statement("session_displaced", DisplacedRow)


async def with_details(
    context: Context, profile_id: UUID, session_id: UUID, refusal: ClientError
) -> ClientError:
    """The error of a refused heartbeat: if another device has ended the session, which and when."""
    if refusal.reason != SESSION_DISPLACED.label:
        return refusal
    count_statement()
    row = await DISPLACED.maybe(context.pool, profile_id, session_id)
    if row is None:
        return ClientError(SESSION_NOT_FOUND)
    refusal.members.update(device_type=row.device_type, ended_at=row.ended_at)
    return refusal
