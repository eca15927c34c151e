"""The steps that the handlers of accounts, profiles and titles share."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
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
from service.http.transaction import transaction
from service.platform.import_cells import FIND, OwnedRow
from service.viewing import deletion
from service.viewing.deletion import Accepted, DeletedRow, Kind

logger = logging.getLogger("viewing_time.cells")

Row = TypeVar("Row", bound=DeletedRow)
Put = TypeVar("Put", bound="PutRow")
Written = TypeVar("Written", bound=msgspec.Struct)


class PutRow(msgspec.Struct, frozen=True):
    """The caller's rights, then the stored record; its columns are null if nothing was written."""

    is_active: bool
    is_admin: bool
    is_pending: bool


class AccountRow(msgspec.Struct, frozen=True):
    account_id: UUID


class LockRow(msgspec.Struct, frozen=True):
    lock: str


class _Undo(Exception):
    """Rolls back a record that must not be written."""


CLAIM: Final = Statement("record_claim", LockRow)
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
    if context.cells is not None:
        auth.administered(await auth.CHECK.maybe(context.pool, caller_id, None))
        cell.readiness.refuse_unreachable()
    if cell is not context:
        names = context.settings.cell, cell.settings.cell
        await MIRROR.maybe(cell.pool, caller_id, names[0], context.now(), names[1])


async def put(
    cell: Context,
    account_id: UUID,
    unique: UUID | str,
    statement: Statement[Put],
    *arguments: object,
) -> tuple[Put, list[OwnedRow]]:
    """The row of a statement that puts a record of an account, and what others have in its place.

    `unique` is what only one of all cells may have: a profile's id, or an e-mail address. If
    another account has it, nothing is written. Other cells are queried only if no account of this
    cell has it. Raises ClientError 401 or 403.
    """
    if cell.cells is None:
        return auth.administered(await statement.maybe(cell.pool, *arguments)), []
    write = partial(_write, cell, account_id, unique, statement, arguments)
    row, owners = await write((cell,))
    if not owners:
        async with cell.cells.turn:
            for each in cell.every:
                each.readiness.refuse_unreachable()
            row, owners = await write(cell.every)
    return auth.administered(row), [each for each in owners if each.account_id != account_id]


async def _write(
    cell: Context,
    account_id: UUID,
    unique: UUID | str,
    statement: Statement[Put],
    arguments: tuple[object, ...],
    cells: Sequence[Context],
) -> tuple[Put | None, list[OwnedRow]]:
    """The row of the statement in a cell, and what has `unique` in any of `cells`.

    Writes nothing if that is another account's, or nothing and `cells` are not all.
    """
    keys = ([unique], []) if isinstance(unique, UUID) else ([], [unique])
    row, owners, sources = None, list[OwnedRow](), {}
    with suppress(_Undo):
        async with AsyncExitStack() as opened:
            for each in cells:
                source = await opened.enter_async_context(transaction(each))
                await CLAIM.maybe(source, str(unique))
                owners += await FIND.all(source, *keys)
                sources[each.settings.cell] = source
            if owners or cells is cell.every:
                row = await statement.maybe(sources[cell.settings.cell], *arguments)
            if any(each.account_id != account_id for each in owners):
                raise _Undo
    return row, owners


async def in_every_cell(
    context: Context,
    caller_id: UUID,
    statement: Statement[Written],
    *arguments: object,
    is_ordered: bool = False,
) -> list[Written | None]:
    """The rows of a statement about a title, which every cell has.

    Raises the DatabaseError of a cell after all others have got the change: the request can be sent
    again, and until then that cell has the title of before. If `is_ordered`, the first cell commits
    last, so that two requests at once have the same result in every cell.
    """
    rows: list[Written | None] = []
    admitted, failures = [], list[DatabaseError]()
    for cell in context.every:
        with _noted(cell, failures):
            await admit(context, caller_id, cell)
            admitted.append(cell)
    async with AsyncExitStack() as opened:
        if is_ordered and context.cells is not None:
            await opened.enter_async_context(context.cells.turn)
        for cell in admitted:
            is_held = is_ordered and not rows and context.cells is not None
            with _noted(cell, failures):
                source = (
                    await opened.enter_async_context(transaction(cell)) if is_held else cell.pool
                )
                rows.append(await statement.maybe(source, *arguments))
    if failures:
        raise failures[-1]
    return rows


@contextmanager
def _noted(cell: Context, failures: list[DatabaseError]) -> Iterator[None]:
    """Logs an error of one of several cells and adds it to `failures`."""
    try:
        yield
    except DatabaseError as error:
        failures.append(error)
        if cell.cells is not None:
            fields = {"cell": cell.settings.cell, "error": str(error)}
            logger.error("title_not_written", extra={"fields": fields})


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
