"""Reads a request's body within bounds, and makes JSON responses."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial, wraps
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.context import Context
from service.deadlines import within
from service.errors import BODY_ENDED_EARLY, BODY_SLOW, BODY_TOO_LARGE, ClientError
from service.http import lenient_json
from service.http.cells import following

T = TypeVar("T", bound=msgspec.Struct)
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]

MAX_BODY_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 10.0
BODY_METHODS: Final = ("POST", "PUT", "DELETE")
JSON: Final = "application/json"
CLOSE: Final = {"Connection": "close"}
PRIVATE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


async def body(receive: Receive) -> bytes:
    """The whole body; raises ClientError 413 beyond 64 KiB, 400 if it ends early.

    The response closes the connection, so that the rest is never read.
    """
    raw = b""
    has_more = True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientError(BODY_ENDED_EARLY, CLOSE)
        raw += message.get("body", b"")
        if len(raw) > MAX_BODY_BYTES:
            raise ClientError(BODY_TOO_LARGE, CLOSE)
        has_more = message.get("more_body", False)
    return raw


def slow_body() -> ClientError:
    """The error of a body that has stopped arriving."""
    return ClientError(BODY_SLOW, CLOSE)


def read(request: Request, kind: lenient_json.Body[T]) -> T:
    """Decodes the request's body; raises MalformedJson, FieldError."""
    return kind.read(request.state.body, request.headers.get("content-type"))


def read_optional(request: Request, kind: lenient_json.Body[T]) -> T:
    """Decodes the request's body, or the defaults of `kind` if it is empty; raises as `read`."""
    return read(request, kind) if request.state.body else kind.read(b"{}", JSON)


def bounded(endpoint: Endpoint, seconds: float | None) -> Endpoint:
    """An endpoint that starts when its body has arrived.

    It raises DeadlinePassed after `seconds`, or else after REQUEST_TIMEOUT_SECONDS.
    """

    @wraps(endpoint)
    async def within_time(request: Request) -> Response:
        if request.method in BODY_METHODS:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    request.state.body = await body(request.receive)
            except TimeoutError as error:
                raise slow_body() from error
        context: Context = request.state.context
        max_seconds = seconds or context.settings.request_timeout_seconds
        return await within(max_seconds, following(request, partial(endpoint, request)))

    return within_time


def reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response that caches must not store."""
    headers = PRIVATE if headers is None else {**PRIVATE, **headers}
    return Response(lenient_json.encode(value), status, headers, JSON)
