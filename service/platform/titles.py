"""Titles from the catalogue that owns them: put one by one, deleted with their sessions."""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.errors import TITLE_BEING_DELETED, TITLE_NOT_FOUND, ClientError
from service.http import auth, lenient_json
from service.http.body_and_reply import deleted, read, reply
from service.http.fields import TitleId
from service.http.lenient_json import stored
from service.platform import bodies
from service.viewing import deletion


class TitlePutRow(msgspec.Struct, frozen=True):
    """Whether the caller may, then the title; null, and not to be read, where it was not put."""

    is_active: bool
    is_admin: bool
    is_pending: bool
    title: str
    title_type: str | None
    is_educational: bool


PUT: Final = Statement("title_put", TitlePutRow)


class Title(msgspec.Struct, frozen=True):
    id: TitleId
    title: Annotated[str, bodies.TITLE_NAME]
    title_type: Annotated[str | None, bodies.TITLE_TYPE]
    is_educational: Annotated[bool, bodies.IS_EDUCATIONAL]


async def title_put(request: Request) -> Response:
    """PUT a title: made or changed; educational or not with the next heartbeat, everywhere."""
    context: Context = request.state.context
    wanted = read(request, bodies.TITLE)
    caller_id = await auth.account(request)
    title_id = lenient_json.path_uuid(request.path_params["title_id"], "title_id")
    title = (wanted.title, stored(wanted.title_type), wanted.is_educational)
    asked = (caller_id, title_id, *title, context.now())
    row = auth.administered(await PUT.maybe(context.pool, *asked))
    if row.is_pending:
        raise ClientError(TITLE_BEING_DELETED)
    return reply(Title(title_id, row.title, row.title_type, row.is_educational))


async def title_delete(request: Request) -> Response:
    """DELETE a title, and with it its sessions; 202 where these are many. Counted minutes stay."""
    context: Context = request.state.context
    caller_id = await auth.account(request)
    title_id = lenient_json.path_uuid(request.path_params["title_id"], "title_id")
    asked = (caller_id, False, title_id, deletion.MAX_ROWS_AT_ONCE)
    row = auth.administered(await deletion.TITLE.maybe(context.pool, *asked))
    if not row.is_found:
        raise ClientError(TITLE_NOT_FOUND)
    return deleted(context, row)
