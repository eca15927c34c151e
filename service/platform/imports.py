"""POST /admin/import: accounts, profiles and titles in bulk, from the platform that owns them."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import BinaryIO, Final
from uuid import UUID

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.context import Context
from service.database.cures import sentence
from service.database.pool import connected
from service.database_errors import DatabaseError
from service.errors import (
    BODY_ENDED_EARLY,
    BODY_TOO_LARGE,
    IMPORT_NOT_WHOLE,
    ClientError,
    FieldError,
)
from service.http import auth, lenient_json
from service.http.body_and_reply import BODY_SECONDS, CLOSE, reply, slow_body
from service.http.idempotency import begin_once
from service.platform.import_cells import CellOfImport, CellsImport
from service.platform.import_lines import Line, json_lines, numbered_lines
from service.platform.import_merge import STATEMENT_SECONDS, Import
from service.platform.records import admit

MAX_UPLOAD_BYTES: Final = 100 * 1024 * 1024
MODES: Final = ("all", "best")


async def import_records(request: Request) -> Response:
    """Creates or updates many accounts, profiles and titles in one request."""
    whole = _mode(request) == "all"
    context, caller_id = await auth.admin(request)
    if whole and context.cells is not None:
        raise ClientError(IMPORT_NOT_WHOLE)
    job = Import(caller_id, context.now(), context.configurations.changes, whole=whole)
    async with _received(request.receive) as (upload, digest):
        once = await begin_once(request, caller_id, (whole, digest))
        once.require_same()
        if not once.is_repeated:
            await _merge(context, caller_id, job, json_lines(numbered_lines(upload)))
    if job.outcome.detail is not UNSET:
        return reply(job.outcome, 422)
    return await once.first_answer(lenient_json.encode(job.outcome))


async def _merge(context: Context, caller_id: UUID, job: Import, lines: Iterator[Line]) -> None:
    if context.cells is None:
        async with connected(context.settings, STATEMENT_SECONDS) as connection:
            await job.merge(connection, lines)
        return
    async with AsyncExitStack() as opened:
        cells = {
            cell.settings.cell: await _opened(opened, context, caller_id, cell)
            for cell in context.every
        }
        await CellsImport(job, cells, context.cells.directory).merge(lines)


async def _opened(
    opened: AsyncExitStack, context: Context, caller_id: UUID, cell: Context
) -> CellOfImport:
    """A cell for an import, with its map; the lines of one that is down are rejected."""
    try:
        await admit(context, caller_id, cell)
        connecting = connected(cell.settings, STATEMENT_SECONDS)
        connection = await opened.enter_async_context(connecting)
        if context.cells is not None:
            await context.cells.directory.read(connection, cell.settings.cell)
    except DatabaseError as error:
        return CellOfImport(failure=sentence(error))
    return CellOfImport(connection, cell.configurations.changes)


def _mode(request: Request) -> str:
    """The query parameter `mode`; raises FieldError."""
    mode = request.query_params.get("mode", "all")
    if mode not in MODES:
        expected = "'all' or 'best'"
        msg = f"Input should be {expected}"
        raise FieldError("enum", ["query", "mode"], msg, mode, {"expected": expected})
    return mode


@asynccontextmanager
async def _received(receive: Receive) -> AsyncIterator[tuple[BinaryIO, str]]:
    """The whole body in a temporary file, and its digest: no transaction waits for the client.

    Threads write and close the file, because freeing 100 MB takes 20 ms. Raises ClientError 413
    beyond 100 MB, 408 when the body stops arriving, 400 when it ends early.
    """
    upload = await asyncio.to_thread(tempfile.TemporaryFile)
    try:
        size, digest, has_more = 0, sha256(), True
        while has_more:
            part, has_more = await _next_part(receive)
            size += len(part)
            if size > MAX_UPLOAD_BYTES:
                raise ClientError(BODY_TOO_LARGE, CLOSE)
            digest.update(part)
            await asyncio.to_thread(upload.write, part)
        upload.seek(0)
        yield upload, digest.hexdigest()
    finally:
        await asyncio.to_thread(upload.close)


async def _next_part(receive: Receive) -> tuple[bytes, bool]:
    """The next part of the body, and whether more follows."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            message = await receive()
    except TimeoutError as error:
        raise slow_body() from error
    if message["type"] == "http.disconnect":
        raise ClientError(BODY_ENDED_EARLY, CLOSE)
    return message.get("body", b""), message.get("more_body", False)
