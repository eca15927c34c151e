"""GET and PUT of a child's configuration."""

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.database.ids import id_prefix
from service.errors import (
    PIN_TOKEN_REQUIRED,
    FieldError,
    RuleError,
    Sentence,
    not_a_multiple,
    pin_token_required,
)
from service.http import auth, lenient_json
from service.http.body_and_reply import read, reply
from service.http.fields import EXAMPLE_JWT, ProfileId, Time, doc
from service.http.lenient_json import stored
from service.parents.config_change import Members, UpdatedRow, changed
from service.parents.pin_proof import valid_proof
from service.viewing import rules
from service.viewing.config_loader import LOAD, LOCK_TIMEOUT, ConfigurationRow

# A limit that is not a multiple of 15 is a rule error with its own sentence, so decoding allows it.
QUARTERS: Final = Meta(extra_json_schema={"multipleOf": rules.LIMIT_STEP_MINUTES})
Limit = Annotated[int, Meta(ge=15, le=480), QUARTERS]
WEEKDAY: Final = doc("Minutes allowed in a viewing day, Monday to Friday; null: no limit.", 120)
WEEKEND: Final = doc("Minutes allowed on Saturday and on Sunday; null: no limit.", 180)
RESET_HOUR: Final = doc("Local hour at which the viewing day starts.", 6)
EXEMPT: Final = doc("Educational titles do not count against the limit.", True)
TIMEZONE: Final = doc(
    "Time zone of the viewing day, spelled as in the IANA list; `localtime`, a machine's own zone,"
    " is rejected. A changed zone can start another viewing day at once, with the allowance of that"
    " day; in a strict account the time used moves with it.",
    "Europe/Berlin",
)


class ConfigurationBody(msgspec.Struct):
    """The members to set; absent ones stay as they are, a null limit means unlimited."""

    weekday_limit_minutes: Annotated[Limit | None | UnsetType, WEEKDAY] = UNSET
    weekend_limit_minutes: Annotated[Limit | None | UnsetType, WEEKEND] = UNSET
    reset_hour: Annotated[Annotated[int, Meta(ge=0, le=23)] | UnsetType, RESET_HOUR] = UNSET
    educational_exempt: Annotated[bool | UnsetType, EXEMPT] = UNSET
    timezone: Annotated[Annotated[str, Meta(max_length=50)] | UnsetType, TIMEZONE] = UNSET
    pin_token: Annotated[
        str | None,
        doc(
            "From `POST /pin/verify`; needed to change `reset_hour` or `educational_exempt`, and in"
            " a strict account for every change.",
            EXAMPLE_JWT,
        ),
    ] = None


BODY: Final = lenient_json.Body(ConfigurationBody)
SENSITIVE: Final = ("educational_exempt", "reset_hour")
LIMITS: Final = ("weekday_limit_minutes", "weekend_limit_minutes")


class ViewingConfiguration(msgspec.Struct, frozen=True):
    """The profile's configuration."""

    profile_id: ProfileId
    weekday_limit_minutes: Annotated[Annotated[int, QUARTERS] | None, WEEKDAY]
    weekend_limit_minutes: Annotated[Annotated[int, QUARTERS] | None, WEEKEND]
    reset_hour: Annotated[int | None, RESET_HOUR]
    educational_exempt: Annotated[bool | None, EXEMPT]
    timezone: Annotated[str | None, TIMEZONE]
    updated_at: Annotated[
        Time | None, doc("When the configuration last changed, in UTC.", "2026-03-01T09:15:00Z")
    ]


async def viewing_config(request: Request) -> Response:
    """GET /viewing-time: returns a child's daily limits, reset hour and time zone."""
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    defaults = msgspec.structs.astuple(rules.DEFAULTS)
    moment = (now := context.now(), LOCK_TIMEOUT, id_prefix(now))
    arguments = ([account_id], [profile_id], True, *defaults, *moment)
    row = auth.owned(await LOAD.maybe(context.pool, *arguments))
    return _response(profile_id, row)


async def viewing_config_update(request: Request) -> Response:
    """PUT /viewing-time: changes a child's daily limits, reset hour or time zone."""
    body = read(request, BODY)
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    _check(body)
    proof = valid_proof(request, context, account_id, body.pin_token)
    row = await changed(context, account_id, profile_id, proof, _members(body))
    if not row.is_confirmed:
        raise RuleError(PIN_TOKEN_REQUIRED if row.is_strict else _sensitive(body))
    return _response(profile_id, row)


def _response(profile_id: UUID, row: ConfigurationRow | UpdatedRow) -> Response:
    return reply(
        ViewingConfiguration(
            profile_id,
            row.weekday_limit_minutes,
            row.weekend_limit_minutes,
            row.reset_hour,
            row.educational_exempt,
            row.timezone,
            row.updated_at,
        )
    )


def _check(body: ConfigurationBody) -> None:
    """Raises FieldError for an unknown time zone, RuleError for other broken rules."""
    if isinstance(body.timezone, str) and rules.zone(body.timezone) is None:
        sentence = f"Invalid timezone: {body.timezone}"
        raise FieldError(
            "value_error", ["body", "timezone"], f"Value error, {sentence}", body.timezone
        )
    for name in LIMITS:
        require_multiple(name, getattr(body, name))


def require_multiple(name: str, minutes: object) -> None:
    """Raises RuleError for a limit that is not a multiple of 15 minutes."""
    if isinstance(minutes, int) and minutes % rules.LIMIT_STEP_MINUTES:
        raise RuleError(not_a_multiple(name, rules.LIMIT_STEP_MINUTES))


def _members(body: ConfigurationBody) -> Members:
    return Members(
        body.weekday_limit_minutes is not UNSET,
        stored(body.weekday_limit_minutes),
        body.weekend_limit_minutes is not UNSET,
        stored(body.weekend_limit_minutes),
        stored(body.reset_hour),
        stored(body.educational_exempt),
        stored(body.timezone),
    )


def _sensitive(body: ConfigurationBody) -> Sentence:
    return pin_token_required(
        ", ".join(name for name in SENSITIVE if getattr(body, name) is not UNSET)
    )
