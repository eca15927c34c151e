"""A request's body, read within bounds, and an answer as JSON."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from service.context import Context
from service.deadlines import within
from service.errors import BODY_ENDED_EARLY, BODY_SLOW, BODY_TOO_LARGE, ClientError
from service.http import lenient_json

T = TypeVar("T", bound=msgspec.Struct)
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]

MAX_BODY_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 10.0
WITH_BODY: Final = ("POST", "PUT")
CLOSE: Final = {"Connection": "close"}
PRIVATE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


async def body(receive: Receive) -> bytes:
    """The whole body; raises ClientError 413 beyond 64 KiB, 400 where it ends early.

    The connection is closed with the refusal, so that the rest is never read.
    """
    message = await receive()
    raw = _part(message)
    if message.get("more_body"):
        parts, size = [raw], len(raw)
        while size <= MAX_BODY_BYTES and message.get("more_body"):
            message = await receive()
            parts.append(_part(message))
            size += len(parts[-1])
        raw = b"".join(parts)
    if len(raw) > MAX_BODY_BYTES:
        raise ClientError(BODY_TOO_LARGE, CLOSE)
    return raw


def _part(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientError(BODY_ENDED_EARLY, CLOSE)
    part: bytes = message.get("body", b"")
    return part


def slow_body() -> ClientError:
    """What a body that stops coming is answered."""
    return ClientError(BODY_SLOW, CLOSE)


def read(request: Request, kind: lenient_json.Body[T]) -> T:
    """The body that came with a request; raises MalformedJson, FieldError."""
    return kind.read(request.state.body, request.headers.get("content-type"))


def bounded(endpoint: Endpoint, seconds: float | None) -> Endpoint:
    """An endpoint that has its body when it starts, and must end in time.

    `seconds` are the endpoint's own, else it has REQUEST_TIMEOUT_SECONDS. Raises TimeoutError.
    """

    @wraps(endpoint)
    async def within_time(request: Request) -> Response:
        if request.method in WITH_BODY:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    request.state.body = await body(request.receive)
            except TimeoutError as error:
                raise slow_body() from error
        context: Context = request.state.context
        most = seconds or context.settings.request_timeout_seconds
        return await within(most, endpoint(request))

    return within_time


def reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer, for its client alone."""
    told = PRIVATE if headers is None else {**PRIVATE, **headers}
    return Response(lenient_json.encode(value), status, told, "application/json")
