"""PUT and DELETE of profiles, by the platform that owns them."""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.database.statement import Statement
from service.errors import (
    OWNER_NOT_FOUND,
    PROFILE_BEING_DELETED,
    PROFILE_NOT_FOUND,
    PROFILE_TAKEN,
    ClientError,
)
from service.http.body_and_reply import read, reply
from service.http.fields import AccountId, ProfileId
from service.http.lenient_json import stored
from service.platform import bodies
from service.platform.records import (
    PutRow,
    caller_and_id,
    cell_of_account,
    cell_of_profile,
    delete,
    deletion_reply,
    put,
)
from service.viewing import deletion


class ProfilePutRow(PutRow, frozen=True):
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
    body = read(request, bodies.PROFILE)
    context, caller_id, profile_id = await caller_and_id(request, "profile")
    cell = await cell_of_account(request, context, caller_id, body.account_id)
    change = cell.configurations.changes.begin()
    profile = (profile_id, body.account_id, body.name, body.is_kids, stored(body.parental_rating))
    arguments = (caller_id, *profile, change.origin, context.now())
    row, others = await put(cell, body.account_id, profile_id, PUT_PROFILE, *arguments)
    if not row.is_account:
        raise ClientError(OWNER_NOT_FOUND)
    if others or not row.is_put:
        is_pending = row.is_pending or any(each.is_pending for each in others)
        raise ClientError(PROFILE_BEING_DELETED if is_pending else PROFILE_TAKEN)
    cell.configurations.forget(body.account_id, profile_id, "profile put")
    await change.wait_for(row.listeners)
    return reply(Profile(profile_id, body.account_id, row.name, row.is_kids, row.parental_rating))


async def profile_delete(request: Request) -> Response:
    """Deletes a profile and its viewing data."""
    context, caller_id, profile_id = await caller_and_id(request, "profile")
    cell = await cell_of_profile(request, context, caller_id, profile_id)
    row = await delete(cell, caller_id, profile_id, deletion.PROFILE, PROFILE_NOT_FOUND)
    if row.account_id is not None:
        cell.configurations.forget(row.account_id, profile_id, "profile deleted")
    return deletion_reply(cell, is_deleted=row.is_deleted)
