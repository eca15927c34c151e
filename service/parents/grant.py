"""A grant of more time today, made remotely or with the PIN on the child's device."""

from functools import partial
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.driver import Source
from service.database.ids import id_prefix
from service.database.statement import Statement
from service.errors import PIN_INCORRECT, PIN_TOKEN_INVALID, ClientError, RuleError
from service.http import auth, lenient_json
from service.http.body_and_reply import read, reply
from service.http.fields import EffectMinutes, GrantId, IsUnlimited, RemainingMinutes, doc
from service.http.idempotency import RequestedOnce, begin_once, repeatable
from service.http.lenient_json import maybe_minutes
from service.http.urls import PROFILE
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
    mode: Annotated[
        Literal["credit", "extend"] | UnsetType,
        doc(
            "`credit`, the default, lowers the minutes used today, not below 0. `extend` adds the"
            " minutes to today's limit, so none of them are lost.",
            "extend",
        ),
    ] = UNSET


class GrantRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_confirmed: bool
    used_seconds: int
    extended_minutes: int
    is_unlimited_override: bool
    grant_id: UUID | None
    effect_seconds: int | None


BODY: Final = lenient_json.Body(GrantBody)
RECORD_GRANT: Final = Statement("grant_record", GrantRow)


class Grant(msgspec.Struct, frozen=True):
    """The grant, and the minutes left after it."""

    granted_minutes: Annotated[
        int | None, doc("Minutes granted; null if today's limit was lifted.", 30)
    ]
    remaining_minutes: RemainingMinutes
    is_unlimited_override: IsUnlimited
    grant_id: GrantId | UnsetType = UNSET
    effect_minutes: EffectMinutes | UnsetType = UNSET


@repeatable
async def grant(request: Request) -> Response:
    """POST /grant: lowers today's used seconds, raises today's limit, or lifts it."""
    context: Context = request.state.context
    body = read(request, BODY)
    account_id = await auth.account(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    once = await begin_once(request, account_id, (profile_id, body), profile_id)
    mark = await _pin_mark(context, once, account_id, profile_id, body)
    configuration = (await context.configurations.get(account_id, profile_id)).configuration
    day = rules.viewing_day(configuration, now := context.now())
    arguments = (account_id, profile_id, mark, day, *_members(body), now, id_prefix(now))
    limit = rules.limit_minutes(configuration, day)
    stored = await once.outcome(partial(_record, arguments, body.minutes, limit))
    return _response(profile_id, body, msgspec.json.decode(stored, type=Grant))


def _members(body: GrantBody) -> tuple[object, ...]:
    """The minutes, the mode, and whether the grant is remote."""
    mode = "unlimited" if body.minutes is None else body.mode or "credit"
    return body.minutes, mode, body.pin is None and body.pin_token is None


async def _record(
    arguments: tuple[object, ...], minutes: int | None, limit: int | None, source: Source
) -> Grant:
    """Records the grant; raises RuleError if the PIN has changed since it was verified."""
    row = auth.owned(await RECORD_GRANT.maybe(source, *arguments))
    if row.grant_id is None:
        raise RuleError(PIN_TOKEN_INVALID)
    extended = None if limit is None else limit + row.extended_minutes
    decision = rules.decide(extended, row.used_seconds, row.is_unlimited_override)
    return Grant(
        minutes,
        maybe_minutes(decision.remaining_seconds),
        row.is_unlimited_override,
        row.grant_id,
        maybe_minutes(row.effect_seconds),
    )


def _response(profile_id: UUID, body: GrantBody, made: Grant) -> Response:
    """The response to a grant; a client that sends no `mode` gets the members of the contract."""
    headers = {}
    if made.grant_id is not UNSET:
        headers["Location"] = f"{PROFILE.format(profile_id=profile_id)}/grants/{made.grant_id}"
    if body.mode is UNSET:
        made = msgspec.structs.replace(made, grant_id=UNSET, effect_minutes=UNSET)
    return reply(made, headers=headers)


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
