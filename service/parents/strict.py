"""Strict accounts: every change of limits, and every grant, needs the PIN."""

from datetime import datetime
from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.database.statement import Statement
from service.errors import PIN_TOKEN_REQUIRED, RuleError
from service.http import auth, lenient_json
from service.http.body_and_reply import read, reply
from service.http.fields import EXAMPLE_JWT, Time, doc
from service.parents.pin_proof import pin_proof

ENABLED: Final = doc("Every change of the family's rules needs the PIN.", True)


class StrictBody(msgspec.Struct):
    enabled: Annotated[bool, ENABLED]
    pin_token: Annotated[
        str | None, doc("From `POST /pin/verify`; needed in both directions.", EXAMPLE_JWT)
    ] = None


class StrictRow(msgspec.Struct, frozen=True):
    is_active: bool
    since: datetime | None


class StrictPutRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_confirmed: bool
    since: datetime | None


BODY: Final = lenient_json.Body(StrictBody)
READ: Final = Statement("strict_read", StrictRow)
PUT: Final = Statement("strict_put", StrictPutRow)


class Strict(msgspec.Struct, frozen=True):
    """Whether the account is strict."""

    enabled: Annotated[bool, ENABLED]
    since: Annotated[
        Time | None, doc("Since when, in UTC; null if it is not.", "2026-03-01T09:15:00Z")
    ]


async def strict(request: Request) -> Response:
    """GET /strict: returns whether every change of the rules needs the PIN."""
    context, account_id = await auth.caller(request)
    return _response(auth.active(await READ.maybe(context.pool, account_id)).since)


async def strict_update(request: Request) -> Response:
    """PUT /strict: sets whether every change of the rules needs the PIN."""
    body = read(request, BODY)
    context, account_id = await auth.caller(request)
    proof = pin_proof(request, context, account_id, body.pin_token)
    arguments = (account_id, *proof, body.enabled, context.now())
    row = auth.active(await PUT.maybe(context.pool, *arguments))
    if not row.is_confirmed:
        raise RuleError(PIN_TOKEN_REQUIRED)
    return _response(row.since)


def _response(since: datetime | None) -> Response:
    return reply(Strict(since is not None, since))
