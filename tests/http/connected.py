"""An HTTP client that is connected to an application in this process, without a socket."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import h11
import httpx
import uvicorn
from starlette.applications import Starlette
from uvicorn.server import ServerState

from service.http.protocol import Protocol


class Wire(asyncio.Transport):
    """The server's end of a connection; `arrived` wakes the client."""

    def __init__(self) -> None:
        super().__init__()
        self.received = bytearray()
        self.arrived = asyncio.Event()
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True
        self.arrived.set()

    abort = close

    def write(self, data: Any) -> None:
        self.received += data
        self.arrived.set()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    async def read(self) -> bytes:
        """Bytes of the response; none after the end."""
        while not self.received and not self.is_closed:
            self.arrived.clear()
            await self.arrived.wait()
        data = bytes(self.received)
        self.received.clear()
        return data


class Connected(httpx.AsyncBaseTransport):
    """Sends each request on a connection of its own, through the service's protocol."""

    def __init__(self, app: Starlette, state: Mapping[str, Any]) -> None:
        options: Any = {"ws": "none", "lifespan": "off", "log_config": None}
        # A client on a busy machine may send its request late.
        config = uvicorn.Config(app, http=Protocol, timeout_keep_alive=60, **options)
        config.load()
        self._state = state
        self.connect = partial(Protocol, config, ServerState(), dict(state))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        served, wire = self.connect(), Wire()
        served.short_path = self._state["short_path"]
        line = b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)
        head = [line, *(b"%b: %b" % header for header in request.headers.raw), b"", b""]
        served.connection_made(wire)
        sender = asyncio.create_task(_send(served, wire, b"\r\n".join(head), request))
        try:
            return await _response(h11.Connection(h11.CLIENT), request, wire)
        finally:
            sender.cancel()
            served.connection_lost(None)


async def _send(served: Protocol, wire: Wire, data: bytes, request: httpx.Request) -> None:
    """Sends the head with the first part of the body, and each later part when there is one."""
    is_chunked = "transfer-encoding" in request.headers
    assert isinstance(request.stream, httpx.AsyncByteStream)
    async for part in request.stream:
        data += b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part
        if not wire.is_closed:
            served.data_received(data)
        data = b""
    data += b"0\r\n\r\n" if is_chunked else b""
    if data and not wire.is_closed:
        served.data_received(data)


async def _response(client: h11.Connection, request: httpx.Request, wire: Wire) -> httpx.Response:
    # The parser of responses needs to know the method only.
    client.send(h11.Request(method=request.method, target="/", headers=[("host", "service.test")]))
    status, headers, body = 0, [], b""
    while True:
        match client.next_event():
            case h11.NEED_DATA:
                client.receive_data(await wire.read())
            case h11.Response() as response:
                status, headers = response.status_code, list(response.headers.raw_items())
            case h11.Data() as data:
                body += data.data
                if (b"content-type", b"text/event-stream") in headers:
                    return httpx.Response(status, headers=headers, content=body)  # it has no end
            case h11.EndOfMessage():
                return httpx.Response(status, headers=headers, content=body)
