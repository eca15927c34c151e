"""Accounts from the platform that owns them: put one by one, deleted with all that is theirs."""

from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service import auth, records, wire
from service.context import Context
from service.database import Statement
from service.errors import ClientFault
from service.exchange import read, reply
from service.records import stored


class AccountPutRow(msgspec.Struct, frozen=True):
    """Whether the caller may, then the account; null, and not to be read, where it was not put."""

    is_active: bool
    is_admin: bool
    email: str
    subscription_tier: str
    account_is_admin: bool
    account_is_active: bool


class DeletedRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_admin: bool
    is_deleted: bool
    told: int


PUT: Final = Statement("account_put", AccountPutRow)
DELETE: Final = Statement("account_delete", DeletedRow)


class Account(msgspec.Struct, frozen=True):
    """An account as stored; hashes are never shown."""

    id: UUID
    email: str
    subscription_tier: str
    is_admin: bool
    is_active: bool


async def account_put(request: Request) -> Response:
    """PUT an account: made or changed; deactivated, its next heartbeat is refused."""
    context: Context = request.state.context
    wanted = read(request, records.ACCOUNT)
    caller_id = await auth.account(request)
    account_id = wire.path_uuid(request.path_params["account_id"], "account_id")
    rest = (wanted.password_hash, wanted.subscription_tier, wanted.is_admin, wanted.is_active)
    asked = (caller_id, account_id, wanted.email, *map(stored, rest), context.now())
    row = auth.administered(await PUT.maybe(context.pool, *asked))
    account = (row.email, row.subscription_tier, row.account_is_admin, row.account_is_active)
    return reply(Account(account_id, *account))


async def account_delete(request: Request) -> Response:
    """DELETE an account, and with it its profiles and their viewing."""
    context: Context = request.state.context
    caller_id = await auth.account(request)
    account_id = wire.path_uuid(request.path_params["account_id"], "account_id")
    row = auth.administered(await DELETE.maybe(context.pool, caller_id, account_id))
    if not row.is_deleted:
        raise ClientFault(404, "Account not found")
    return Response(status_code=204)
