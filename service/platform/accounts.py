"""Accounts from the platform that owns them: put one by one, deleted with all that is theirs."""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.errors import ACCOUNT_BEING_DELETED, ACCOUNT_NOT_FOUND, ClientError
from service.http import auth, lenient_json
from service.http.body_and_reply import deleted, read, reply
from service.http.fields import AccountId
from service.http.lenient_json import stored
from service.platform import bodies
from service.viewing import deletion


class AccountPutRow(msgspec.Struct, frozen=True):
    """Whether the caller may, then the account; null, and not to be read, where it was not put."""

    is_active: bool
    is_admin: bool
    is_pending: bool
    email: str
    subscription_tier: str | None
    account_is_admin: bool
    account_is_active: bool


PUT: Final = Statement("account_put", AccountPutRow)


class Account(msgspec.Struct, frozen=True):
    """An account as stored; hashes are never shown."""

    id: AccountId
    email: Annotated[str, bodies.EMAIL]
    subscription_tier: Annotated[str | None, bodies.TIER]
    is_admin: Annotated[bool, bodies.IS_ADMIN]
    is_active: Annotated[bool, bodies.IS_ACTIVE]


async def account_put(request: Request) -> Response:
    """PUT an account: made or changed; deactivated, its next heartbeat is refused."""
    context: Context = request.state.context
    wanted = read(request, bodies.ACCOUNT)
    caller_id = await auth.account(request)
    account_id = lenient_json.path_uuid(request.path_params["account_id"], "account_id")
    rest = (wanted.password_hash, wanted.subscription_tier, wanted.is_admin, wanted.is_active)
    asked = (caller_id, account_id, wanted.email, *map(stored, rest), context.now())
    row = auth.administered(await PUT.maybe(context.pool, *asked))
    if row.is_pending:
        raise ClientError(ACCOUNT_BEING_DELETED)
    account = (row.email, row.subscription_tier, row.account_is_admin, row.account_is_active)
    return reply(Account(account_id, *account))


async def account_delete(request: Request) -> Response:
    """DELETE an account, and with it its profiles and their viewing; 202 where that is much."""
    context: Context = request.state.context
    caller_id = await auth.account(request)
    account_id = lenient_json.path_uuid(request.path_params["account_id"], "account_id")
    asked = (caller_id, False, account_id, deletion.MAX_ROWS_AT_ONCE)
    row = auth.administered(await deletion.ACCOUNT.maybe(context.pool, *asked))
    if not row.is_found:
        raise ClientError(ACCOUNT_NOT_FOUND)
    return deleted(context, row)
