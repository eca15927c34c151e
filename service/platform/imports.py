"""POST /admin/import: accounts, profiles and titles in bulk, from the platform that owns them."""

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
from service.http.idempotency import begin_once
from service.platform.import_lines import json_lines, numbered_lines
from service.platform.import_merge import STATEMENT_SECONDS, Import

MAX_UPLOAD_BYTES: Final = 100 * 1024 * 1024
MODES: Final = ("all", "best")


async def import_records(request: Request) -> Response:
    """Creates or updates many accounts, profiles and titles in one request."""
    context: Context = request.state.context
    whole = _mode(request) == "all"
    caller_id = await auth.admin(request)
    job = Import(caller_id, context.now(), context.configurations.changes, whole=whole)
    async with (
        _received(request.receive) as (upload, digest),
        connected(context.settings, STATEMENT_SECONDS) as connection,
    ):
        once = await begin_once(request, caller_id, (whole, digest))
        once.require_same()
        if not once.is_repeated:
            await job.merge(connection, json_lines(numbered_lines(upload)))
    if job.outcome.detail is not UNSET:
        return reply(job.outcome, 422)
    return await once.first_answer(lenient_json.encode(job.outcome))


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
