"""The parent's PIN: status, set and change, verify, reset."""

from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.credentials.pin_hasher import Turn
from service.database.statement import Statement
from service.errors import (
    CURRENT_PIN_INCORRECT,
    CURRENT_PIN_REQUIRED,
    PASSWORD_INCORRECT,
    PIN_INCORRECT,
    TOO_MANY_WRONG_PASSWORDS,
    ClientError,
)
from service.http import auth, lenient_json
from service.http.body_and_reply import read, reply
from service.http.fields import EXAMPLE_JWT, Time, doc
from service.http.idempotency import RequestedOnce, begin_once, repeatable
from service.parents.pin_attempt import (
    UNFINISHED,
    DoneRow,
    Pin,
    attempt,
    counted,
    delayed_response,
    hashing_turn,
    judge,
    settle_pin,
)

NewPin = Annotated[Pin, doc("The new PIN, 4 ASCII digits.", "4321")]


class PinSetBody(msgspec.Struct):
    new_pin: NewPin
    current_pin: Annotated[
        Pin | None, doc("The current PIN; required if the account has one.", "1234")
    ] = None


class PinVerifyBody(msgspec.Struct):
    pin: Annotated[Pin, doc("The account's PIN, 4 ASCII digits.", "1234")]


class PinResetBody(msgspec.Struct):
    password: Annotated[str, Meta(min_length=1), doc("The account's password.", "correct horse")]
    new_pin: NewPin


class StatusRow(msgspec.Struct, frozen=True):
    is_active: bool
    has_pin: bool
    locked_until: datetime | None


class PasswordRow(msgspec.Struct, frozen=True):
    is_active: bool
    password_hash: str | None
    retry_after_seconds: int | None


STATUS: Final = Statement("pin_status", StatusRow)
SET: Final = Statement("pin_set", DoneRow)
RESET: Final = Statement("pin_reset", DoneRow)
PASSWORD: Final = Statement("account_password", PasswordRow)
SETTLE_PASSWORD: Final = Statement("password_settle", DoneRow)

FREE_FAILURES: Final = 5
LONGEST_DELAY: Final = timedelta(minutes=15)

NOTHING: Final = b"{}"  # stored instead of a response that is constant or contains a token

SET_BODY: Final = lenient_json.Body(PinSetBody)
VERIFY_BODY: Final = lenient_json.Body(PinVerifyBody)
RESET_BODY: Final = lenient_json.Body(PinResetBody)


class PinStatus(msgspec.Struct, frozen=True):
    """Whether the account has a PIN, and until when it is locked."""

    has_pin: Annotated[bool, doc("The account has a PIN.", True)]
    locked_until: Annotated[
        Time | None, doc("Until when the PIN is locked, in UTC; null if it is not.", None)
    ]


class PinDone(msgspec.Struct, frozen=True):
    """The PIN is set."""

    detail: Annotated[str, doc("One sentence.", "PIN set successfully")]


class PinVerified(msgspec.Struct, frozen=True):
    """The PIN is correct."""

    verified: Annotated[bool, doc("Always true.", True)]
    pin_token: Annotated[
        str, doc("Proves for 5 minutes that the correct PIN was entered.", EXAMPLE_JWT)
    ]


async def pin_status(request: Request) -> Response:
    """GET /pin/status: returns whether the account has a PIN, and until when it is locked."""
    context, account_id = await auth.caller(request)
    await settle_pin(context, account_id, None)
    row = auth.active(await STATUS.maybe(context.pool, account_id))
    return reply(PinStatus(row.has_pin, row.locked_until))


@repeatable
async def pin_set(request: Request) -> Response:
    """POST /pin: sets the first PIN, or changes it with the current one."""
    async with delayed_response():
        body = read(request, SET_BODY)
        context, account_id = await auth.caller(request)
        once = await begin_once(request, account_id, body)
        row = auth.active(await STATUS.maybe(context.pool, account_id))
        # The PIN of a repeated request is the new one already.
        current = body.new_pin if once.is_repeated else body.current_pin
        if row.has_pin and current is None:
            raise ClientError(CURRENT_PIN_REQUIRED)
        async with hashing_turn(context, account_id) as turn:
            pins = (current if row.has_pin else None, body.new_pin)
            await _set(context, turn, once, account_id, *pins)
    return reply(PinDone("PIN set successfully"))


async def _set(
    context: Context,
    turn: Turn,
    once: RequestedOnce,
    account_id: UUID,
    current: str | None,
    new_pin: str,
) -> None:
    """Changes the PIN; `current` is None if there is none yet."""
    refusal = ClientError(CURRENT_PIN_INCORRECT)
    old_hash = None
    if current is not None:
        old_hash = await attempt(context, turn, once, account_id, current, refusal)
    once.require_same()
    if not once.is_repeated:
        new_hash = await turn.hash(new_pin)
        async with once.effect() as source:
            if await SET.maybe(source, account_id, old_hash, new_hash) is None:
                raise refusal
            await once.keep(source, 200, NOTHING)


@repeatable
async def pin_verify(request: Request) -> Response:
    """POST /pin/verify: checks the PIN and returns a PIN token for five minutes."""
    async with delayed_response():
        body = read(request, VERIFY_BODY)
        context, account_id = await auth.caller(request)
        once = await begin_once(request, account_id, body)
        async with hashing_turn(context, account_id) as turn:
            refusal = ClientError(PIN_INCORRECT)
            pin_hash = await attempt(context, turn, once, account_id, body.pin, refusal)
        once.require_same()
        await once.keep(context.pool, 200, NOTHING)
    return reply(PinVerified(True, auth.pin_token(context, account_id, pin_hash)))


@repeatable
async def pin_reset(request: Request) -> Response:
    """POST /pin/reset: sets a new PIN with the account's password."""
    async with delayed_response():
        body = read(request, RESET_BODY)
        context, account_id = await auth.caller(request)
        once = await begin_once(request, account_id, body)
        async with hashing_turn(context, account_id, is_password=True) as turn:
            await _reset(context, turn, once, account_id, body)
    return reply(PinDone("PIN reset successfully"))


async def _reset(
    context: Context, turn: Turn, once: RequestedOnce, account_id: UUID, body: PinResetBody
) -> None:
    """Checks the password as one counted attempt; raises ClientError 401, or 429 if too early."""
    refusal = ClientError(PASSWORD_INCORRECT)
    async with counted(context, account_id, _settle_password) as attempt_id:
        arguments = (account_id, attempt_id, FREE_FAILURES, LONGEST_DELAY)
        row = auth.active(await PASSWORD.maybe(context.pool, *arguments))
        if row.retry_after_seconds is not None:
            headers = {"Retry-After": str(row.retry_after_seconds)}
            raise ClientError(TOO_MANY_WRONG_PASSWORDS, headers)
        if await turn.verify(body.password, row.password_hash):
            if once.is_used:
                await _settle_password(context, account_id, attempt_id)
                once.require_same()
                return
            new_hash = await turn.hash(body.new_pin)
            async with once.effect() as source:
                if await RESET.maybe(source, account_id, row.password_hash, new_hash, attempt_id):
                    await once.keep(source, 200, NOTHING)
                    return
        await judge(context.pool, once, attempt_id, refusal)
    raise refusal


async def _settle_password(context: Context, account_id: UUID, attempt_id: UUID | None) -> None:
    """Gives back password attempts that have lost their request, and `attempt_id`."""
    await SETTLE_PASSWORD.maybe(context.pool, account_id, attempt_id, UNFINISHED)
