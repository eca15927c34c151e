"""The HTTP server around the application: one process, one loop."""

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import application
from service.settings import Settings


class PortTaken(Exception):
    """The address is in use or not ours; one sentence."""


class Corked:
    """A transport that sends the head of a response together with the first of its body.

    The server writes the two apart, and each write is a call into the kernel: with answers as
    small as ours that is a quarter of all the work for a heartbeat.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.endswith(b"\r\n\r\n") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
            return
        self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self.write(b"")
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 over a corked transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Corked(transport))  # type: ignore[arg-type]


class Server(uvicorn.Server):
    """Says that it is ready once it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def bound(host: str, port: int) -> socket.socket:
    """The socket to serve on, bound before anything slow begins; raises PortTaken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as fault:
        listener.close()
        raise PortTaken(
            f"Cannot serve on {host}:{port}: {fault.strerror}. Set PORT to another."
        ) from fault
    return listener


def serve(settings: Settings, listener: socket.socket, ready: Callable[[], None]) -> bool:
    """Serves until a signal stops it; False when it could not start.

    The server raises the signal that stopped it once more when it is done, which would end the
    process before the caller's own clean-up: an orderly exit takes its place.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    config = uvicorn.Config(
        application(settings),
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips or None,
        timeout_graceful_shutdown=int(settings.shutdown_grace_seconds),
    )
    server = Server(config, ready)
    server.run(sockets=[listener])
    return server.started


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
