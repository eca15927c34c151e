"""Profiles from the platform that owns them: put one by one, deleted with their viewing."""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.errors import (
    OWNER_NOT_FOUND,
    PROFILE_BEING_DELETED,
    PROFILE_NOT_FOUND,
    PROFILE_TAKEN,
    ClientError,
)
from service.http import auth, lenient_json
from service.http.body_and_reply import deleted, read, reply
from service.http.fields import AccountId, ProfileId
from service.http.lenient_json import stored
from service.platform import bodies
from service.viewing import deletion


class ProfilePutRow(msgspec.Struct, frozen=True):
    """Whether the caller may, then the profile; null, and not to be read, where it was not put."""

    is_active: bool
    is_admin: bool
    is_pending: bool
    is_account: bool
    is_put: bool
    name: str
    is_kids: bool
    parental_rating: str | None
    told: str | None
    listeners: list[str]


PUT: Final = Statement("profile_put", ProfilePutRow)


class Profile(msgspec.Struct, frozen=True):
    id: ProfileId
    account_id: AccountId
    name: Annotated[str, bodies.NAME]
    is_kids: Annotated[bool, bodies.IS_KIDS]
    parental_rating: Annotated[str | None, bodies.RATING]


async def profile_put(request: Request) -> Response:
    """PUT a profile: made or changed; renamed or grown up with the next heartbeat, everywhere.

    A profile stays its account's: a mistaken account must not hand a child's history to strangers.
    """
    context: Context = request.state.context
    wanted = read(request, bodies.PROFILE)
    caller_id = await auth.account(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    asked = (caller_id, profile_id, wanted.account_id, wanted.name, wanted.is_kids)
    change = context.configurations.changes.begin()
    rest = (stored(wanted.parental_rating), change.origin, context.now())
    row = auth.administered(await PUT.maybe(context.pool, *asked, *rest))
    if not row.is_account:
        raise ClientError(OWNER_NOT_FOUND)
    if not row.is_put:
        raise ClientError(PROFILE_BEING_DELETED if row.is_pending else PROFILE_TAKEN)
    context.configurations.forget(wanted.account_id, profile_id, "profile put")
    await change.heard(row.listeners)
    return reply(Profile(profile_id, wanted.account_id, row.name, row.is_kids, row.parental_rating))


async def profile_delete(request: Request) -> Response:
    """DELETE a profile, and with it its viewing; 202 where that is much."""
    context: Context = request.state.context
    caller_id = await auth.account(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    asked = (caller_id, False, profile_id, deletion.MAX_ROWS_AT_ONCE)
    row = auth.administered(await deletion.PROFILE.maybe(context.pool, *asked))
    if not row.is_found:
        raise ClientError(PROFILE_NOT_FOUND)
    if row.account_id is not None:
        context.configurations.forget(row.account_id, profile_id, "profile deleted")
    return deleted(context, row)
