"""The parent's PIN: status, set and change, verify, reset."""

from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service import auth, wire
from service.context import Context
from service.database import Statement
from service.errors import ClientFault
from service.exchange import body, reply
from service.pin_attempt import Pin, attempt, unhurried


class SetBody(msgspec.Struct):
    new_pin: Pin
    current_pin: Pin | None = None


class VerifyBody(msgspec.Struct):
    pin: Pin


class ResetBody(msgspec.Struct):
    password: Annotated[str, Meta(min_length=1)]
    new_pin: Pin


class StatusRow(msgspec.Struct, frozen=True):
    is_active: bool
    has_pin: bool
    locked_until: datetime | None


class SetRow(msgspec.Struct, frozen=True):
    is_set: bool


class PasswordRow(msgspec.Struct, frozen=True):
    is_active: bool
    password_hash: str


STATUS: Final = Statement("pin_status", StatusRow)
SET: Final = Statement("pin_set", SetRow)
RESET: Final = Statement("pin_reset", SetRow)
PASSWORD: Final = Statement("account_password", PasswordRow)

SET_BODY: Final = wire.Body(SetBody)
VERIFY_BODY: Final = wire.Body(VerifyBody)
RESET_BODY: Final = wire.Body(ResetBody)


class PinStatus(msgspec.Struct, frozen=True):
    has_pin: bool
    locked_until: datetime | None


async def pin_status(request: Request) -> Response:
    """GET /pin/status: has the account a PIN, and until when is it locked?"""
    context: Context = request.state.context
    row = auth.active(await STATUS.maybe(context.pool, auth.account(request), context.now()))
    return reply(PinStatus(row.has_pin, row.locked_until))


async def pin_set(request: Request) -> Response:
    """POST /pin: sets the first PIN, or a new one in exchange for the current one."""
    context: Context = request.state.context
    wanted = SET_BODY.read(await body(request.receive), request.headers.get("content-type"))
    account_id = auth.account(request)
    async with unhurried():
        with context.pins.admit() as turn:
            old_hash = None
            row = auth.active(await STATUS.maybe(context.pool, account_id, context.now()))
            if row.has_pin:
                if wanted.current_pin is None:
                    raise ClientFault(400, "Current PIN required to change existing PIN")
                old_hash = await attempt(context, turn, account_id, None, wanted.current_pin)
                if old_hash is None:
                    raise ClientFault(400, "Current PIN is incorrect")
            new_hash = await turn.hash(wanted.new_pin)
        if await SET.maybe(context.pool, account_id, old_hash, new_hash) is None:
            raise ClientFault(400, "Current PIN is incorrect")
    return reply({"detail": "PIN set successfully"})


async def pin_verify(request: Request) -> Response:
    """POST /pin/verify: a PIN token of five minutes for the right PIN."""
    context: Context = request.state.context
    async with unhurried():
        entered = VERIFY_BODY.read(await body(request.receive), request.headers.get("content-type"))
        account_id = auth.account(request)
        with context.pins.admit() as turn:
            pin_hash = await attempt(context, turn, account_id, None, entered.pin)
        if pin_hash is None:
            raise ClientFault(403, "Incorrect PIN")
    return reply({"verified": True, "pin_token": auth.pin_token(context, account_id, pin_hash)})


async def pin_reset(request: Request) -> Response:
    """POST /pin/reset: a new PIN in exchange for the account's password; lifts a lock."""
    context: Context = request.state.context
    wanted = RESET_BODY.read(await body(request.receive), request.headers.get("content-type"))
    account_id = auth.account(request)
    async with unhurried():
        with context.pins.admit() as turn:
            row = auth.active(await PASSWORD.maybe(context.pool, account_id))
            if not await turn.verify(wanted.password, row.password_hash):
                raise ClientFault(401, "Incorrect account password")
            new_hash = await turn.hash(wanted.new_pin)
        reset = await RESET.maybe(context.pool, account_id, row.password_hash, new_hash)
        if reset is None:
            raise ClientFault(401, "Incorrect account password")
    return reply({"detail": "PIN reset successfully"})
