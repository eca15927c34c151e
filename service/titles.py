"""Titles from the catalogue that owns them: put one by one, deleted with their sessions."""

from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service import auth, records, wire
from service.context import Context
from service.database import Statement, connected
from service.errors import ClientFault
from service.exchange import read, reply
from service.records import stored


class TitlePutRow(msgspec.Struct, frozen=True):
    """Whether the caller may, then the title; null, and not to be read, where it was not put."""

    is_active: bool
    is_admin: bool
    title: str
    title_type: str
    is_educational: bool


class TitleDeleteRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_admin: bool
    is_deleted: bool


PUT: Final = Statement("title_put", TitlePutRow)
DELETE: Final = Statement("title_delete", TitleDeleteRow)
TITLE_DELETE_SECONDS: Final = 60.0


class Title(msgspec.Struct, frozen=True):
    id: UUID
    title: str
    title_type: str
    is_educational: bool


async def title_put(request: Request) -> Response:
    """PUT a title: made or changed; educational or not with the next heartbeat, everywhere."""
    context: Context = request.state.context
    wanted = read(request, records.TITLE)
    caller_id = await auth.account(request)
    title_id = wire.path_uuid(request.path_params["title_id"], "title_id")
    title = (wanted.title, stored(wanted.title_type), wanted.is_educational)
    asked = (caller_id, title_id, *title, context.now())
    row = auth.administered(await PUT.maybe(context.pool, *asked))
    return reply(Title(title_id, row.title, row.title_type, row.is_educational))


async def title_delete(request: Request) -> Response:
    """DELETE a title, and with it the sessions that watched it; counted minutes stay.

    Finding the sessions is one scan of all of them: on a connection of its own, with time enough.
    """
    context: Context = request.state.context
    title_id = wire.path_uuid(request.path_params["title_id"], "title_id")
    caller_id = await auth.admin(request)
    async with connected(context.settings, TITLE_DELETE_SECONDS) as connection:
        row = auth.administered(await DELETE.maybe(connection, caller_id, title_id))
    if not row.is_deleted:
        raise ClientFault(404, "Title not found")
    return Response(status_code=204)
