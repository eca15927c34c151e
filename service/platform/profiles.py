"""PUT and DELETE of profiles, by the platform that owns them."""

from typing import Annotated, Final
from uuid import UUID

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
from service.http import auth
from service.http.body_and_reply import read, reply
from service.http.fields import AccountId, ProfileId
from service.http.lenient_json import stored
from service.platform import bodies
from service.platform.records import caller_and_id, delete, deletion_reply
from service.viewing import deletion


class ProfilePutRow(msgspec.Struct, frozen=True):
    """The caller's rights, then the stored profile; its columns are null if nothing was written."""

    is_active: bool
    is_admin: bool
    is_pending: bool
    is_account: bool
    is_put: bool
    name: str
    is_kids: bool
    parental_rating: str | None
    listeners: list[str]


PUT_PROFILE: Final = Statement("profile_put", ProfilePutRow)


class Profile(msgspec.Struct, frozen=True):
    """A profile as stored."""

    id: ProfileId
    account_id: AccountId
    name: Annotated[str, bodies.NAME]
    is_kids: Annotated[bool, bodies.IS_KIDS]
    parental_rating: Annotated[str | None, bodies.RATING]


async def profile_put(request: Request) -> Response:
    """Creates or updates a profile, of a child or of an adult.

    A profile never moves to another account: a wrong account id would show the child's history to
    strangers.
    """
    context: Context = request.state.context
    body = read(request, bodies.PROFILE)
    caller_id, profile_id = await caller_and_id(request, "profile")
    change = context.configurations.changes.begin()
    profile = (profile_id, body.account_id, body.name, body.is_kids, stored(body.parental_rating))
    arguments = (caller_id, *profile, change.origin, context.now())
    row = auth.administered(await PUT_PROFILE.maybe(context.pool, *arguments))
    if not row.is_account:
        raise ClientError(OWNER_NOT_FOUND)
    if not row.is_put:
        raise ClientError(PROFILE_BEING_DELETED if row.is_pending else PROFILE_TAKEN)
    context.configurations.forget(body.account_id, profile_id, "profile put")
    await change.wait_for(row.listeners)
    return reply(Profile(profile_id, body.account_id, row.name, row.is_kids, row.parental_rating))


async def profile_delete(request: Request) -> Response:
    """Deletes a profile and its viewing data."""
    context: Context = request.state.context
    row = await delete(request, "profile", deletion.PROFILE, PROFILE_NOT_FOUND)
    if row.account_id is not None:
        profile_id = UUID(request.path_params["profile_id"])
        context.configurations.forget(row.account_id, profile_id, "profile deleted")
    return deletion_reply(request, row)
