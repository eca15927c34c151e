"""An application that responds with the request it received, behind the service's protocol."""

import asyncio
import socket
import sys
from collections import defaultdict
from typing import Any, Final

import msgspec
import uvicorn
from starlette.types import Receive, Scope, Send

from service.http.protocol import Protocol
from service.http.request_head import Head
from service.http.short_path import Reply

GATES: Final[defaultdict[str, asyncio.Event]] = defaultdict(asyncio.Event)
UNREAD: Final = b'{"detail":"busy"}'
STREAM: Final = (b"one", b"two\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n")


class Echo(msgspec.Struct):
    """A request as the application received it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: str
    is_ended_early: bool


async def body_of(receive: Receive) -> tuple[bytes, bool]:
    """A request's body, and whether it ended early."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts), True
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts), False


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds with an Echo, unless the first part of the path selects another response.

    /unread answers 503 without reading the body; /wait/NAME answers after /go/NAME; /hold/NAME
    reads its body after that; /stream/NAME sends a chunk for each /go/NAME; /empty/STATUS answers
    without a body; /count reads the body and answers its length.
    """
    kind, name = [*scope["path"].split("/"), "", ""][1:3]
    if kind == "go":
        GATES[name].set()
    if kind == "hold":
        await GATES[name].wait()
    if kind == "stream":
        await stream(GATES[name], send)
        return
    if kind == "empty":
        await send({"type": "http.response.start", "status": int(name), "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    if kind == "unread":
        await answer(send, 503, UNREAD)
        return
    body, is_ended_early = await body_of(receive)
    if kind == "wait":
        await GATES[name].wait()
    query = scope["query_string"].decode()
    seen = Echo(
        scope["method"],
        scope["path"] + (f"?{query}" if query else ""),
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
        str(len(body)) if kind in ("count", "hold") else body.decode("latin-1"),
        is_ended_early,
    )
    await answer(send, 200, msgspec.json.encode(seen))


class ShortEcho:
    """Answers POST /echo as `echo` does, on the short path, in the next turn of the event loop."""

    path: Final = b"/echo"

    def take(self, head: Head, body: bytes, reply: Reply) -> bool:
        given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
        target = "/echo" + (f"?{head.query.decode()}" if head.query else "")
        seen = msgspec.json.encode(Echo("POST", target, given, body.decode("latin-1"), False))
        lines = b"content-length: %d\r\n" % len(seen)
        asyncio.get_running_loop().call_soon(reply.send, seen, lines)
        return True


async def answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(gate: asyncio.Event, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for chunk in STREAM:
        await gate.wait()
        gate.clear()
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await gate.wait()
    await send({"type": "http.response.body", "body": b""})


def configuration(**options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        echo, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False, **options
    )


if __name__ == "__main__":
    listener = socket.socket(fileno=int(sys.argv[1]))
    uvicorn.Server(configuration(loop="uvloop")).run(sockets=[listener])
