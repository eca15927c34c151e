"""The lock of a child's profile: nothing plays until it ends."""

from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.errors import NOT_A_CHILD, UNTIL_PAST, RuleError, too_far_ahead
from service.http import auth, lenient_json
from service.http.body_and_reply import read, read_optional, reply
from service.http.fields import PinToken, ProfileId, Time, doc
from service.parents.exceptions import MAX_DAYS_AHEAD
from service.parents.pin_proof import PROOF, pin_proof
from service.parents.policy_change import ClearedRow, in_force
from service.viewing import rules
from service.viewing.policy import viewing_day


class LockBody(msgspec.Struct):
    """The end of the lock."""

    until: Annotated[
        Time | None | UnsetType,
        doc(
            f"When the lock ends, with a time zone, at most {MAX_DAYS_AHEAD} days ahead; null or"
            " absent: at the next reset.",
            "2026-03-01T18:00:00+01:00",
        ),
    ] = UNSET
    pin_token: PinToken = None


class LockRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    locked_until: datetime | None


class PutRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_child: bool
    locked_until: datetime | None
    is_confirmed: bool
    notified: str | None
    listeners: list[str]


class Lock(msgspec.Struct, frozen=True):
    """The lock of the profile."""

    profile_id: ProfileId
    locked_until: Annotated[
        Time | None, doc("When the lock ends, in UTC; null: not locked.", "2026-03-01T17:00:00Z")
    ]


BODY: Final = lenient_json.Body(LockBody)
READ: Final = Statement("lock_read", LockRow)
PUT: Final = Statement("lock_put", PutRow)
CLEAR: Final = Statement("lock_clear", ClearedRow)


async def lock(request: Request) -> Response:
    """GET /lock: returns whether a child is locked, and until when."""
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    row = auth.owned(await READ.maybe(context.pool, account_id, profile_id, context.now()))
    return reply(Lock(profile_id, row.locked_until))


async def lock_put(request: Request) -> Response:
    """PUT /lock: locks a child: nothing plays until the lock ends."""
    body = read(request, BODY)
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    now = context.now()
    until = body.until or await _next_reset(context, account_id, profile_id, now)
    _check(until, now)
    proof = pin_proof(request, context, account_id, body.pin_token)
    change = context.configurations.changes.begin()
    arguments = (account_id, profile_id, *proof, until, change.origin, now)
    row = auth.owned(await PUT.maybe(context.pool, *arguments))
    if not row.is_child:
        raise RuleError(NOT_A_CHILD)
    await in_force(context, change, account_id, profile_id, row)
    return reply(Lock(profile_id, row.locked_until))


async def lock_clear(request: Request) -> Response:
    """DELETE /lock: ends a child's lock."""
    body = read_optional(request, PROOF)
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    proof = pin_proof(request, context, account_id, body.pin_token)
    change = context.configurations.changes.begin()
    arguments = (account_id, profile_id, *proof, change.origin, context.now())
    row = await CLEAR.maybe(context.pool, *arguments)
    await in_force(context, change, account_id, profile_id, row)
    return reply(Lock(profile_id, None))


async def _next_reset(
    context: Context, account_id: UUID, profile_id: UUID, now: datetime
) -> datetime:
    """The end of the current viewing day; raises ClientError 401 or 403 for a stranger's."""
    policy = (await context.configurations.get(account_id, profile_id)).policy
    return rules.next_reset(policy.configuration, viewing_day(policy, now))


def _check(until: datetime, now: datetime) -> None:
    if until <= now:
        raise RuleError(UNTIL_PAST)
    if until > now + timedelta(days=MAX_DAYS_AHEAD):
        raise RuleError(too_far_ahead("until", MAX_DAYS_AHEAD))
