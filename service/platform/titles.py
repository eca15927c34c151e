"""PUT and DELETE of titles, by the catalogue that owns them."""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.database.statement import Statement
from service.errors import TITLE_BEING_DELETED, TITLE_NOT_FOUND, ClientError
from service.http import auth
from service.http.body_and_reply import read, reply
from service.http.fields import TitleId
from service.http.lenient_json import stored
from service.platform import bodies
from service.platform.records import PutRow, caller_and_id, deletion_reply, in_every_cell
from service.viewing import deletion


class TitlePutRow(PutRow, frozen=True):
    title: str
    title_type: str | None
    is_educational: bool


PUT_TITLE: Final = Statement("title_put", TitlePutRow)


class Title(msgspec.Struct, frozen=True):
    """A title as stored."""

    id: TitleId
    title: Annotated[str, bodies.TITLE_NAME]
    title_type: Annotated[str | None, bodies.TITLE_TYPE]
    is_educational: Annotated[bool, bodies.IS_EDUCATIONAL]


async def title_put(request: Request) -> Response:
    """Creates or updates a title, which is a film or an episode."""
    body = read(request, bodies.TITLE)
    context, caller_id, title_id = await caller_and_id(request, "title")
    title = (title_id, body.title, stored(body.title_type), body.is_educational)
    arguments = (caller_id, *title, context.now())
    rows = await in_every_cell(context, caller_id, PUT_TITLE, *arguments, is_ordered=True)
    row, *_ = map(auth.administered, rows)
    if any(one is not None and one.is_pending for one in rows):
        raise ClientError(TITLE_BEING_DELETED)
    return reply(Title(title_id, row.title, row.title_type, row.is_educational))


async def title_delete(request: Request) -> Response:
    """Deletes a title and its sessions."""
    context, caller_id, title_id = await caller_and_id(request, "title")
    arguments = (caller_id, False, title_id, deletion.MAX_ROWS_AT_ONCE)
    found = await in_every_cell(context, caller_id, deletion.TITLE, *arguments)
    rows = [*map(auth.administered, found)]
    if not any(row.is_found for row in rows):
        raise ClientError(TITLE_NOT_FOUND)
    is_deleted = all(row.is_deleted for row in rows if row.is_found)
    return deletion_reply(*context.every, is_deleted=is_deleted)
