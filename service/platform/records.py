"""The steps that the handlers of accounts, profiles and titles share."""

import logging
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.database_errors import DatabaseError
from service.errors import ClientError, Sentence
from service.http import auth, lenient_json
from service.http.body_and_reply import reply
from service.http.cells import first_found
from service.viewing import deletion
from service.viewing.deletion import Accepted, DeletedRow, Kind

logger = logging.getLogger("viewing_time.cells")

Row = TypeVar("Row", bound=DeletedRow)
Put = TypeVar("Put", bound=msgspec.Struct)


class AccountRow(msgspec.Struct, frozen=True):
    account_id: UUID


MIRROR: Final = Statement("administrator_mirror", AccountRow)
OWNER: Final = Statement("profile_account", AccountRow)


async def caller_and_id(request: Request, kind: Kind) -> tuple[Context, UUID, UUID]:
    """The caller's cell and account, and the id in the path; raises ClientError 401, FieldError."""
    context, caller_id = await auth.caller(request)
    name = f"{kind}_id"
    return context, caller_id, lenient_json.path_uuid(request.path_params[name], name)


async def cell_of_account(
    request: Request, context: Context, caller_id: UUID, account_id: UUID
) -> Context:
    """The cell of an account, which obeys the administrator; `context` is the administrator's."""
    cell = context.of(account_id)
    if context.cells is not None:
        request.state.asked.append((account_id, cell))
        await admit(context, caller_id, cell)
    return cell


async def cell_of_profile(
    request: Request, context: Context, caller_id: UUID, profile_id: UUID
) -> Context:
    """The cell of a profile, or `context` if no cell has it."""
    if context.cells is None:
        return context
    found = await first_found(context, partial(_owner, profile_id))
    if found is None:
        return context
    return await cell_of_account(request, context, caller_id, found[1].account_id)


async def _owner(profile_id: UUID, cell: Context) -> AccountRow | None:
    return await OWNER.maybe(cell.pool, profile_id)


async def admit(context: Context, caller_id: UUID, cell: Context) -> None:
    """Makes an administrator known in another cell; raises ClientError 401 or 403 for others."""
    if cell is not context:
        auth.administered(await auth.CHECK.maybe(context.pool, caller_id, None))
        await MIRROR.maybe(cell.pool, caller_id, context.settings.cell, context.now())


async def in_every_cell(
    context: Context, caller_id: UUID, statement: Statement[Put], *arguments: object
) -> list[Put | None]:
    """The rows of a statement about a title, which every cell has.

    Raises the DatabaseError of a cell after all others have got the change: the request can be sent
    again, and until then that cell has the title of before.
    """
    rows, failure = [], None
    for cell in context.every:
        try:
            await admit(context, caller_id, cell)
            rows.append(await statement.maybe(cell.pool, *arguments))
        except DatabaseError as error:
            failure = error
            if context.cells is not None:
                fields = {"cell": cell.settings.cell, "error": str(error)}
                logger.error("title_not_written", extra={"fields": fields})
    if failure is not None:
        raise failure
    return rows


async def delete(
    cell: Context, caller_id: UUID, record_id: UUID, statement: Statement[Row], not_found: Sentence
) -> Row:
    """Deletes a record in its cell, or schedules that; raises ClientError 401, 403, 404."""
    arguments: tuple[Any, ...] = (caller_id, False, record_id, deletion.MAX_ROWS_AT_ONCE)
    row = auth.administered(await statement.maybe(cell.pool, *arguments))
    if not row.is_found:
        raise ClientError(not_found)
    return row


def deletion_reply(*cells: Context, is_deleted: bool) -> Response:
    """204 if the record is deleted, 202 if its deletion continues in the background."""
    if is_deleted:
        return Response(status_code=204)
    for cell in cells:
        cell.deletions.wake()
    return reply(Accepted(), 202)
