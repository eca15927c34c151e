"""Accounts, profiles and titles in bulk, from the platform that owns them."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import BinaryIO, Final

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.context import Context
from service.database.pool import connected
from service.errors import BODY_ENDED_EARLY, BODY_TOO_LARGE, ClientError, FieldError
from service.http import auth, lenient_json
from service.http.body_and_reply import BODY_SECONDS, CLOSE, reply, slow_body
from service.http.idempotency import KEY_HEADER, once
from service.platform.import_lines import numbered, objects
from service.platform.import_merge import SECONDS, Import

MAX_UPLOAD_BYTES: Final = 100 * 1024 * 1024
PART_BYTES: Final = 1024 * 1024
MODES: Final = ("all", "best")


async def import_records(request: Request) -> Response:
    """POST /import: lines of JSON, all of them or none (`mode=all`), or those without error."""
    context: Context = request.state.context
    whole = _is_whole(request)
    caller_id = await auth.admin(request)
    job = Import(caller_id, context.now(), context.configurations.changes, whole=whole)
    async with (
        _received(request.receive) as upload,
        connected(context.settings, SECONDS) as connection,
    ):
        carried_out = await once(request, caller_id, (whole, await _digest(request, upload)))
        carried_out.require_same()
        if not carried_out.is_repeated:
            await job.merge(connection, objects(numbered(upload)))
    if job.outcome.detail is not UNSET:
        return reply(job.outcome, 422)
    return await carried_out.first_answer(lenient_json.encode(job.outcome))


async def _digest(request: Request, upload: BinaryIO) -> str:
    """The digest of the body, where the request has a key to be known by."""
    if KEY_HEADER not in request.headers:
        return ""
    return await asyncio.to_thread(_sha256, upload)


def _sha256(upload: BinaryIO) -> str:
    digest = sha256()
    while part := upload.read(PART_BYTES):
        digest.update(part)
    upload.seek(0)
    return digest.hexdigest()


def _is_whole(request: Request) -> bool:
    """All or nothing, unless `mode` says otherwise; raises FieldError."""
    mode = request.query_params.get("mode", "all")
    if mode not in MODES:
        told = "Input should be 'all' or 'best'"
        raise FieldError("enum", ["query", "mode"], told, mode, {"expected": "'all' or 'best'"})
    return mode == "all"


@asynccontextmanager
async def _received(receive: Receive) -> AsyncIterator[BinaryIO]:
    """The body in a file, so that the database does not wait for the client.

    Threads write and close the file: freeing 100 MB takes 20 ms. Raises ClientError 413 beyond
    100 MB, 408 when the body stops coming, 400 when it ends early.
    """
    upload = await asyncio.to_thread(tempfile.TemporaryFile)
    try:
        await _receive(receive, upload)
        yield upload
    finally:
        await asyncio.to_thread(upload.close)


async def _receive(receive: Receive, upload: BinaryIO) -> None:
    size = 0
    more = True
    while more:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await receive()
        except TimeoutError as error:
            raise slow_body() from error
        if message["type"] == "http.disconnect":
            raise ClientError(BODY_ENDED_EARLY, CLOSE)
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_UPLOAD_BYTES:
            raise ClientError(BODY_TOO_LARGE, CLOSE)
        await asyncio.to_thread(upload.write, part)
        more = message.get("more_body", False)
    upload.seek(0)
