"""PUT and DELETE of accounts, by the platform that owns them."""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.database.statement import Statement
from service.errors import ACCOUNT_BEING_DELETED, ACCOUNT_NOT_FOUND, EMAIL_TAKEN, ClientError
from service.http.body_and_reply import read, reply
from service.http.fields import AccountId
from service.http.lenient_json import stored
from service.platform import bodies
from service.platform.records import (
    PutRow,
    caller_and_id,
    cell_of_account,
    delete,
    deletion_reply,
    put,
)
from service.viewing import deletion


class AccountPutRow(PutRow, frozen=True):
    email: str
    subscription_tier: str | None
    account_is_admin: bool
    account_is_active: bool


PUT_ACCOUNT: Final = Statement("account_put", AccountPutRow)


class Account(msgspec.Struct, frozen=True):
    """An account as stored, without its hashes."""

    id: AccountId
    email: Annotated[str, bodies.EMAIL]
    subscription_tier: Annotated[str | None, bodies.TIER]
    is_admin: Annotated[bool, bodies.IS_ADMIN]
    is_active: Annotated[bool, bodies.IS_ACTIVE]


async def account_put(request: Request) -> Response:
    """Creates or updates an account."""
    body = read(request, bodies.ACCOUNT)
    context, caller_id, account_id = await caller_and_id(request, "account")
    cell = await cell_of_account(request, context, caller_id, account_id)
    optional = (body.password_hash, body.subscription_tier, body.is_admin, body.is_active)
    arguments = (caller_id, account_id, body.email, *map(stored, optional), context.now())
    row, others = await put(cell, account_id, body.email, PUT_ACCOUNT, *arguments)
    if row.is_pending or others:
        raise ClientError(ACCOUNT_BEING_DELETED if row.is_pending else EMAIL_TAKEN)
    account = (row.email, row.subscription_tier, row.account_is_admin, row.account_is_active)
    return reply(Account(account_id, *account))


async def account_delete(request: Request) -> Response:
    """Deletes an account, its profiles and their viewing data."""
    context, caller_id, account_id = await caller_and_id(request, "account")
    cell = await cell_of_account(request, context, caller_id, account_id)
    row = await delete(cell, caller_id, account_id, deletion.ACCOUNT, ACCOUNT_NOT_FOUND)
    return deletion_reply(cell, is_deleted=row.is_deleted)
