"""GET the grants of a child; DELETE undoes one of them."""

from datetime import date, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.database.statement import Statement
from service.errors import (
    GRANT_NOT_FOUND,
    GRANT_OVER,
    PIN_TOKEN_REQUIRED,
    ClientError,
    RuleError,
)
from service.http import auth, lenient_json
from service.http.body_and_reply import read_optional, reply
from service.http.fields import (
    EXAMPLE_TIME_REQUEST,
    AccountId,
    GrantId,
    ProfileId,
    Time,
    ViewingDay,
    doc,
)
from service.http.query_dates import days_after, optional_query_date, require_range
from service.http.transaction import transaction
from service.parents.pin_proof import PROOF, pin_proof
from service.viewing import rules
from service.viewing.policy import current_day, viewing_day

MAX_GRANTS: Final = 500
DEFAULT_DAYS: Final = 30

Mode = Literal["credit", "extend", "unlimited"]


class ListedRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    grant_id: UUID | None
    reset_date: date | None
    granted_at: datetime | None
    granted_by_user_id: UUID | None
    is_remote: bool | None
    granted_minutes: int | None
    mode: Mode | None
    effect_seconds: int | None
    undone_at: datetime | None
    undone_by_user_id: UUID | None
    request_id: UUID | None


class UndoneRow(ListedRow, frozen=True):
    is_confirmed: bool


class LockedRow(msgspec.Struct, frozen=True):
    reset_date: date


LIST: Final = Statement("grant_list", ListedRow)
LOCK: Final = Statement("grant_lock", LockedRow)
UNDO: Final = Statement("grant_undo", UndoneRow)


class RecordedGrant(msgspec.Struct, frozen=True):
    """A grant, and whether it was undone."""

    grant_id: GrantId
    date: Annotated[
        date | None,
        doc("The viewing day; null for a grant of an earlier version.", "2026-03-01"),
    ]
    granted_at: Annotated[Time, doc("When it was granted, in UTC.", "2026-03-01T17:30:00Z")]
    granted_by_user_id: AccountId
    is_remote: Annotated[bool, doc("It was not granted on the child's device.", True)]
    granted_minutes: Annotated[int | None, doc("Minutes granted; null for `unlimited`.", 30)]
    mode: Annotated[
        Mode,
        doc(
            "`credit` lowered the minutes used, `extend` raised the day's limit, `unlimited` lifted"
            " it.",
            "credit",
        ),
    ]
    effect_minutes: Annotated[
        float | None,
        doc(
            "Minutes that the grant gave, and that undoing it takes back; null for `unlimited`, and"
            " for a grant of an earlier version.",
            15.0,
        ),
    ]
    undone_at: Annotated[Time | None, doc("When it was undone; null if it stands.", None)]
    undone_by_user_id: Annotated[UUID | None, doc("The account that undid it.", None)]
    request_id: Annotated[
        UUID | UnsetType,
        doc("The child's request that it approves; absent without one.", EXAMPLE_TIME_REQUEST),
    ] = UNSET


class GrantList(msgspec.Struct, frozen=True, rename={"first_day": "from", "last_day": "to"}):
    """The grants of the requested viewing days."""

    profile_id: ProfileId
    first_day: ViewingDay
    last_day: ViewingDay
    is_complete: Annotated[bool, doc(f"False if only the latest {MAX_GRANTS} are listed.", True)]
    grants: Annotated[list[RecordedGrant], doc("Grants, newest first.")]


async def grants(request: Request) -> Response:
    """GET /grants?from&to: lists the extra time that a child was given, newest first."""
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    from_day = optional_query_date(request.query_params, "from")
    to_day = optional_query_date(request.query_params, "to")
    policy = (await context.configurations.get(account_id, profile_id)).policy
    last = to_day or viewing_day(policy, context.now())
    first = from_day or days_after(last, 1 - DEFAULT_DAYS)
    require_range(first, last, rules.HISTORY_DAYS_MAX)
    arguments = (account_id, profile_id, first, last, MAX_GRANTS + 1)
    rows = await LIST.all(context.pool, *arguments)
    auth.owned(rows[0] if rows else None)
    found = [_recorded(row) for row in rows[:MAX_GRANTS] if row.grant_id is not None]
    return reply(GrantList(profile_id, first, last, len(rows) <= MAX_GRANTS, found))


async def grant_undo(request: Request) -> Response:
    """DELETE /grants/{grant_id}: takes back time that was granted today."""
    body = read_optional(request, PROOF)
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    grant_id = lenient_json.path_uuid(request.path_params["grant_id"], "grant_id")
    proof = pin_proof(request, context, account_id, body.pin_token)
    policy = (await context.configurations.get(account_id, profile_id)).policy
    names = (account_id, profile_id, grant_id)
    today = current_day(policy, now := context.now())
    moment = (today.day, today.begins, now)
    async with transaction(context) as source:
        await LOCK.maybe(source, *names)
        row = await UNDO.maybe(source, *names, *proof, *moment)
    return reply(_undone(row))


def _undone(row: UndoneRow | None) -> RecordedGrant:
    """The grant that is undone now, or was before; raises the error of one that is not."""
    row = auth.owned(row)
    if not row.is_confirmed:
        raise RuleError(PIN_TOKEN_REQUIRED)
    if row.grant_id is None:
        raise ClientError(GRANT_NOT_FOUND)
    if row.undone_at is None:
        raise RuleError(GRANT_OVER)
    return _recorded(row)


def _recorded(row: ListedRow) -> RecordedGrant:
    assert row.grant_id is not None
    assert row.granted_at is not None
    assert row.granted_by_user_id is not None
    return RecordedGrant(
        row.grant_id,
        row.reset_date,
        row.granted_at,
        row.granted_by_user_id,
        bool(row.is_remote),
        row.granted_minutes,
        row.mode or "credit",
        lenient_json.maybe_minutes(row.effect_seconds),
        row.undone_at,
        row.undone_by_user_id,
        row.request_id or UNSET,
    )
