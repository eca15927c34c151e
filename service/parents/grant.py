"""More time today, granted by a parent from afar or on the child's device."""

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
from service.errors import PIN_TOKEN_INVALID, RuleError
from service.http import auth, lenient_json
from service.http.body_and_reply import read
from service.http.fields import IsUnlimited, RemainingMinutes, doc
from service.http.idempotency import Once, once, repeatable
from service.parents.pin_attempt import Pin, Tried, attempt, turn_of, unhurried, wrong_pin
from service.viewing import rules


class GrantBody(msgspec.Struct):
    """Minutes to grant, null or absent: unlimited for today."""

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
RECORD: Final = Statement("grant_record", GrantRow)


class Grant(msgspec.Struct, frozen=True):
    granted_minutes: Annotated[
        int | None, doc("Minutes granted; null if today's limit was lifted.", 30)
    ]
    remaining_minutes: RemainingMinutes
    is_unlimited_override: IsUnlimited


@repeatable
async def grant(request: Request) -> Response:
    """POST /grant: lowers today's used seconds, or lifts today's limit."""
    context: Context = request.state.context
    wanted = read(request, BODY)
    account_id = await auth.account(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    carried_out = await once(request, account_id, (profile_id, wanted), profile_id)
    mark = await _confirmed(context, carried_out, account_id, profile_id, wanted)
    configuration = (await context.configurations.get(account_id, profile_id)).configuration
    now = context.now()
    day = rules.viewing_day(configuration, now)
    remote = wanted.pin is None and wanted.pin_token is None
    asked = (account_id, profile_id, mark, day, wanted.minutes, remote, now, id_prefix(now))
    limit = rules.limit_minutes(configuration, day)
    return await carried_out.answer(partial(_record, asked, wanted.minutes, limit))


async def _record(
    asked: tuple[object, ...], minutes: int | None, limit: int | None, source: Source
) -> Grant:
    row = auth.owned(await RECORD.maybe(source, *asked))
    return _granted(minutes, limit, row)


def _granted(minutes: int | None, limit: int | None, row: GrantRow) -> Grant:
    """What was granted; raises RuleError where it was not, for the PIN is another by now."""
    if row.used_seconds is None or row.is_unlimited_override is None:
        raise RuleError(PIN_TOKEN_INVALID)
    left = rules.decide(limit, row.used_seconds, row.is_unlimited_override).remaining_seconds
    remaining = None if left is None else lenient_json.minutes(left)
    return Grant(minutes, remaining, row.is_unlimited_override)


async def _confirmed(
    context: Context, once: Once, account_id: UUID, profile_id: UUID, wanted: GrantBody
) -> str | None:
    """The mark of the PIN behind an on-device grant; None where there is none to compare.

    A PIN is one counted attempt, as in `attempt`, whose faults this raises too. A foreign profile
    is refused before it takes one of the account's few turns, which a parent's PIN may wait for.
    """
    if wanted.pin is not None:
        async with unhurried():
            auth.owned(await auth.CHECK.maybe(context.pool, account_id, profile_id))
            async with turn_of(context, account_id) as turn:
                tried = Tried(account_id, profile_id, wanted.pin)
                pin_hash = await attempt(context, turn, once, tried, wrong_pin())
        return auth.pin_mark(pin_hash)
    if wanted.pin_token is not None and not once.is_repeated:
        refusal = RuleError(PIN_TOKEN_INVALID)
        return auth.confirmed_pin(context, account_id, wanted.pin_token, refusal)
    return None
