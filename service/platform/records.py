"""The steps that the handlers of accounts, profiles and titles share."""

from typing import Any, TypeVar
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.errors import ClientError, Sentence
from service.http import auth, lenient_json
from service.http.body_and_reply import reply
from service.viewing import deletion
from service.viewing.deletion import Accepted, DeletedRow, Kind

Row = TypeVar("Row", bound=DeletedRow)


async def caller_and_id(request: Request, kind: Kind) -> tuple[UUID, UUID]:
    """The caller's account and the id in the path; raises ClientError 401, FieldError."""
    caller_id = await auth.account(request)
    name = f"{kind}_id"
    return caller_id, lenient_json.path_uuid(request.path_params[name], name)


async def delete(
    request: Request, kind: Kind, statement: Statement[Row], not_found: Sentence
) -> Row:
    """Deletes the record in the path, or schedules that; raises ClientError 401, 403, 404."""
    context: Context = request.state.context
    caller_id, record_id = await caller_and_id(request, kind)
    arguments: tuple[Any, ...] = (caller_id, False, record_id, deletion.MAX_ROWS_AT_ONCE)
    row = auth.administered(await statement.maybe(context.pool, *arguments))
    if not row.is_found:
        raise ClientError(not_found)
    return row


def deletion_reply(request: Request, row: DeletedRow) -> Response:
    """204 if the record is deleted, 202 if its deletion continues in the background."""
    if row.is_deleted:
        return Response(status_code=204)
    context: Context = request.state.context
    context.deletions.wake()
    return reply(Accepted(), 202)
