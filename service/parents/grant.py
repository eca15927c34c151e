"""A grant of more time today, made remotely or with the PIN on the child's device."""

from functools import partial
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.driver import Source
from service.database.ids import id_prefix
from service.database.statement import Statement
from service.errors import PIN_INCORRECT, PIN_TOKEN_INVALID, ClientError, RuleError
from service.http import auth, lenient_json
from service.http.body_and_reply import read
from service.http.fields import IsUnlimited, RemainingMinutes, doc
from service.http.idempotency import RequestedOnce, begin_once, repeatable
from service.parents.pin_attempt import Pin, attempt, delayed_response, hashing_turn
from service.viewing import rules


class GrantBody(msgspec.Struct):
    """Minutes to grant; null or absent means unlimited for today."""

    minutes: Annotated[
        Annotated[int, Meta(ge=15, le=120)] | None,
        doc("Minutes to grant; null or absent lifts today's limit.", 30),
    ] = None
    pin: Annotated[
        Pin | None, doc("PIN of a parent who is at the child's device, 4 ASCII digits.", None)
    ] = None
    pin_token: Annotated[
        str | None, doc("Instead of `pin`. With neither, the grant is remote.", None)
    ] = None


class GrantRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_confirmed: bool
    used_seconds: int | None
    is_unlimited_override: bool | None


BODY: Final = lenient_json.Body(GrantBody)
RECORD_GRANT: Final = Statement("grant_record", GrantRow)


class Grant(msgspec.Struct, frozen=True):
    """The grant, and the minutes left after it."""

    granted_minutes: Annotated[
        int | None, doc("Minutes granted; null if today's limit was lifted.", 30)
    ]
    remaining_minutes: RemainingMinutes
    is_unlimited_override: IsUnlimited


@repeatable
async def grant(request: Request) -> Response:
    """POST /grant: lowers today's used seconds, or lifts today's limit."""
    context: Context = request.state.context
    body = read(request, BODY)
    account_id = await auth.account(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    once = await begin_once(request, account_id, (profile_id, body), profile_id)
    mark = await _pin_mark(context, once, account_id, profile_id, body)
    configuration = (await context.configurations.get(account_id, profile_id)).configuration
    now = context.now()
    day = rules.viewing_day(configuration, now)
    is_remote = body.pin is None and body.pin_token is None
    arguments = (account_id, profile_id, mark, day, body.minutes, is_remote, now, id_prefix(now))
    limit = rules.limit_minutes(configuration, day)
    return await once.answer(partial(_record, arguments, body.minutes, limit))


async def _record(
    arguments: tuple[object, ...], minutes: int | None, limit: int | None, source: Source
) -> Grant:
    """Records the grant; raises RuleError if the PIN has changed since it was verified."""
    row = auth.owned(await RECORD_GRANT.maybe(source, *arguments))
    if row.used_seconds is None or row.is_unlimited_override is None:
        raise RuleError(PIN_TOKEN_INVALID)
    left = rules.decide(limit, row.used_seconds, row.is_unlimited_override).remaining_seconds
    remaining = None if left is None else lenient_json.minutes(left)
    return Grant(minutes, remaining, row.is_unlimited_override)


async def _pin_mark(
    context: Context, once: RequestedOnce, account_id: UUID, profile_id: UUID, body: GrantBody
) -> str | None:
    """The fingerprint of the PIN that confirms an on-device grant; None for a remote grant.

    A PIN is one counted attempt, with the errors of `attempt`. Another account's profile is
    rejected first, so that it takes no slot in the hashing queue.
    """
    if body.pin is not None:
        async with delayed_response():
            auth.owned(await auth.CHECK.maybe(context.pool, account_id, profile_id))
            async with hashing_turn(context, account_id) as turn:
                refusal = ClientError(PIN_INCORRECT)
                proof = (account_id, body.pin, refusal, profile_id)
                return auth.pin_mark(await attempt(context, turn, once, *proof))
    if body.pin_token is not None and not once.is_repeated:
        refusal = RuleError(PIN_TOKEN_INVALID)
        return auth.confirmed_pin(context, account_id, body.pin_token, refusal)
    return None
