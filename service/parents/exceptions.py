"""Exceptions: another limit, or no downtime, for one viewing day of a child."""

from datetime import date, datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.errors import DAY_OVER, RuleError, too_far_ahead
from service.http import auth, lenient_json
from service.http.body_and_reply import read, read_optional, reply
from service.http.fields import PinToken, ProfileId, Time, ViewingDay, doc
from service.http.lenient_json import stored
from service.http.query_dates import (
    days_after,
    optional_query_date,
    path_date,
    require_range,
)
from service.parents.pin_proof import PROOF, pin_proof
from service.parents.policy_change import ClearedRow, in_force
from service.parents.viewing_config import QUARTERS, require_multiple
from service.viewing.policy import viewing_day

MAX_DAYS_AHEAD: Final = 366
LIMIT: Final = doc("Minutes allowed on this day; null: no limit.", 240)
LIFTS: Final = doc("Windows of downtime do not apply on this day.", True)


class ExceptionBody(msgspec.Struct):
    """The members to set; absent ones stay as they are."""

    limit_minutes: Annotated[
        Annotated[int, Meta(ge=15, le=1440), QUARTERS] | None | UnsetType, LIMIT
    ] = UNSET
    lifts_downtime: Annotated[bool | UnsetType, LIFTS] = UNSET
    pin_token: PinToken = None


class ExceptionRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    day: date | None
    changes_limit: bool | None
    limit_minutes: int | None
    lifts_downtime: bool | None
    updated_at: datetime | None


class PutRow(ExceptionRow, frozen=True):
    is_confirmed: bool
    notified: str | None
    listeners: list[str]


class DayException(msgspec.Struct, frozen=True):
    """The exception of a viewing day."""

    date: ViewingDay
    changes_limit: Annotated[
        bool, doc("`limit_minutes` replaces the usual limit of the day.", True)
    ]
    limit_minutes: Annotated[Annotated[int, QUARTERS] | None, LIMIT]
    lifts_downtime: Annotated[bool, LIFTS]
    updated_at: Annotated[
        Time, doc("When the exception last changed, in UTC.", "2026-12-01T09:15:00Z")
    ]


class DayExceptions(msgspec.Struct, frozen=True):
    """The exceptions of the requested days."""

    profile_id: ProfileId
    exceptions: Annotated[list[DayException], doc("Days with an exception, earliest first.")]


BODY: Final = lenient_json.Body(ExceptionBody)
LIST: Final = Statement("exception_list", ExceptionRow)
PUT: Final = Statement("exception_put", PutRow)
DELETE: Final = Statement("exception_delete", ClearedRow)


async def exceptions(request: Request) -> Response:
    """GET /exceptions?from&to: lists the days that have rules of their own."""
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    first = optional_query_date(request.query_params, "from")
    last = optional_query_date(request.query_params, "to")
    if first is None:
        first = await _today(context, account_id, profile_id)
    if last is None:
        last = days_after(first, MAX_DAYS_AHEAD)
    require_range(first, last, MAX_DAYS_AHEAD)
    rows = await LIST.all(context.pool, account_id, profile_id, first, last)
    auth.owned(rows[0] if rows else None)
    return reply(DayExceptions(profile_id, [_shown(row) for row in rows if row.day is not None]))


async def exception_put(request: Request) -> Response:
    """PUT /exceptions/{date}: sets other rules for one day, such as a birthday."""
    body = read(request, BODY)
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    day = path_date(request.path_params["date"], "date")
    _check_day(day, await _today(context, account_id, profile_id))
    require_multiple("limit_minutes", body.limit_minutes)
    proof = pin_proof(request, context, account_id, body.pin_token)
    limit = (body.limit_minutes is not UNSET, stored(body.limit_minutes))
    change = context.configurations.changes.begin()
    arguments = (*proof, day, *limit, stored(body.lifts_downtime), change.origin, context.now())
    row = await PUT.maybe(context.pool, account_id, profile_id, *arguments)
    return reply(_shown(await in_force(context, change, account_id, profile_id, row)))


async def exception_delete(request: Request) -> Response:
    """DELETE /exceptions/{date}: restores the usual rules of a day."""
    body = read_optional(request, PROOF)
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    day = path_date(request.path_params["date"], "date")
    if day < await _today(context, account_id, profile_id):
        raise RuleError(DAY_OVER)
    proof = pin_proof(request, context, account_id, body.pin_token)
    change = context.configurations.changes.begin()
    arguments = (account_id, profile_id, *proof, day, change.origin, context.now())
    row = await DELETE.maybe(context.pool, *arguments)
    await in_force(context, change, account_id, profile_id, row)
    return Response(status_code=204)


async def _today(context: Context, account_id: UUID, profile_id: UUID) -> date:
    """The current viewing day of a profile; raises ClientError 401 or 403 for a stranger's."""
    entry = await context.configurations.get(account_id, profile_id)
    return viewing_day(entry.policy, context.now())


def _check_day(day: date, today: date) -> None:
    if day < today:
        raise RuleError(DAY_OVER)
    if (day - today).days > MAX_DAYS_AHEAD:
        raise RuleError(too_far_ahead("date", MAX_DAYS_AHEAD))


def _shown(row: ExceptionRow) -> DayException:
    assert row.day is not None
    assert row.updated_at is not None
    return DayException(
        row.day,
        bool(row.changes_limit),
        row.limit_minutes,
        bool(row.lifts_downtime),
        row.updated_at,
    )
