"""A request's body, read within bounds, and an answer as JSON."""

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.responses import Response
from starlette.types import Message, Receive

from service import wire
from service.errors import ClientFault

BODY_MOST: Final = 64 * 1024
BODY_SECONDS: Final = 10.0
CLOSE: Final = {"Connection": "close"}


async def body(receive: Receive) -> bytes:
    """The whole body; raises ClientFault 413 beyond 64 KiB, 408 when it stops coming.

    The connection is closed with the refusal, so that the rest is never read.
    """
    message = await receive()
    if message.get("more_body"):
        return await _assembled(message, receive)
    return _bounded(_part(message))


async def _assembled(message: Message, receive: Receive) -> bytes:
    parts = [_part(message)]
    size = len(parts[0])
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while size <= BODY_MOST and message.get("more_body"):
                message = await receive()
                parts.append(_part(message))
                size += len(parts[-1])
    except TimeoutError as fault:
        raise ClientFault(408, "Request body did not arrive in time", CLOSE) from fault
    return _bounded(b"".join(parts))


def _part(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientFault(400, "Request body ended early", CLOSE)
    part: bytes = message.get("body", b"")
    return part


def _bounded(raw: bytes) -> bytes:
    if len(raw) > BODY_MOST:
        raise ClientFault(413, "Request body too large", CLOSE)
    return raw


def reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(wire.encode(value), status, headers, "application/json")
