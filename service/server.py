"""The HTTP server around the application: one process, one loop."""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import Service, application, scrapes
from service.settings import Settings

HEAD_MOST: Final = 64 * 1024
HEAD_SECONDS: Final = 10.0
UNREAD_SECONDS: Final = 30.0  # without a client reading any of an answer that waits for it
# The event loop takes one new connection a turn from each listening socket. Where a thousand
# players come at once to a single socket, the last waits a second while the first are served.
TAKES: Final = 16
# Longer than the 30 seconds between two beats, so that a player keeps its connection.
KEEP_ALIVE_SECONDS: Final = 75


class PortTaken(Exception):
    """The address cannot be listened on; one sentence that names the setting to change."""


class BackgroundTaskDied(Exception):
    """The service has stopped, because it could not work any more; one sentence."""


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

    def flush(self) -> None:
        """Sends a head that no body followed: the answer to HEAD."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 over a corked transport, with an end to what a client may send before its request.

    The parser itself takes a head of any length at any pace. A client that does not read its answer
    has an end too.
    """

    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Corked(transport))  # type: ignore[arg-type]
        self._head = self._part = 0
        self._patience = self.loop.call_later(HEAD_SECONDS, self._look, 0)
        # Until its first byte, which takes the timer away: a client that never asks goes too.
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        self._part = len(data)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head = 0
            return
        self._head += len(data)
        if self._head > HEAD_MOST and not self.transport.is_closing():
            self.send_400_response("Request head too large")

    def on_headers_complete(self) -> None:
        """Raises ValueError, which the parser turns into a refusal, for a head that came whole."""
        if self._head + self._part > HEAD_MOST:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEAD_MOST:
                raise ValueError("Request head too large")
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        cast(Corked, self.transport).flush()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        if self._unread is not None:
            self._unread.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def _look(self, before: int) -> None:
        """Closes a connection whose head was already begun at the last look."""
        if before and self._head >= before:
            self.transport.close()
        else:
            self._patience = self.loop.call_later(HEAD_SECONDS, self._look, self._head)


class Server(uvicorn.Server):
    """Says that it is ready once it answers; drains before it stops.

    A SIGTERM comes from whoever balances the load: for SHUTDOWN_DRAIN_SECONDS the process says that
    it is not ready and ends each connection with its answer, so that nobody's request meets a
    closed door. A second signal, or Ctrl-C, stops at once.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, drain: float, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._drain = drain
        self._ready = ready
        self.has_failed = False
        self._more: list[tuple[socket.socket, uvicorn.Config]] = []

    def add(self, listener: socket.socket, config: uvicorn.Config) -> None:
        """Serves another application on another socket, with the state of the first."""
        self._more.append((listener, config))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        for listener, config in self._more:
            config.load()
            protocol = partial(
                Protocol,
                config=config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            self.servers.append(await self._loop.create_server(protocol, sock=listener))
        if self.started:
            self._ready()

    def fail(self) -> None:
        """Stops in order, because a background task has died."""
        self.has_failed = True
        self._service.draining = True
        asyncio.get_running_loop().call_later(self._drain, setattr, self, "should_exit", True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and self.started and not self._service.draining:
            self._service.draining = True
            stop = partial(super().handle_exit, sig, frame)
            self._loop.call_soon_threadsafe(self._loop.call_later, self._drain, stop)
        else:
            super().handle_exit(sig, frame)


def bound(host: str, port: int, variable: str = "PORT") -> socket.socket:
    """The socket to serve on, bound before anything slow begins; raises PortTaken."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # `localhost` has addresses of both kinds: those in the field call the older one.
        family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, ValueError) as fault:  # ValueError: no name could have this text
        reason = fault.strerror if isinstance(fault, OSError) else "not the name of a machine"
        raise PortTaken(f"Cannot serve on {where}: {reason}. {_remedy(None, variable)}") from fault
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as fault:
        listener.close()
        remedy = _remedy(fault.errno, variable)
        raise PortTaken(f"Cannot serve on {where}: {fault.strerror}. {remedy}") from fault
    return listener


def _remedy(number: int | None, variable: str) -> str:
    """What to set where the system gave error `number` for a port, or for its host."""
    if number == errno.EADDRINUSE:
        return f"Set {variable} to another."
    if number in (errno.EACCES, errno.EPERM):
        return f"Set {variable} to 1024 or more, or allow this process to bind lower ports."
    host = variable.replace("PORT", "HOST")
    return f"Set {host} to an address of this machine, such as 127.0.0.1, or to 0.0.0.0 for all."


def serve(
    settings: Settings,
    listener: socket.socket,
    scrape_listener: socket.socket | None,
    ready: Callable[[], None],
) -> bool:
    """Serves until a signal stops it, metrics on `scrape_listener`; False when it could not start.

    Raises BackgroundTaskDied where it has stopped for that.

    The server raises the signal that stopped it once more when it is done, which would end the
    process before the caller's own clean-up: an orderly exit takes its place.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    service = application(settings, end=lambda: server.fail())
    config = _config(settings, service)
    server = Server(config, service, settings.shutdown_drain_seconds, ready)
    if scrape_listener is not None:
        server.add(scrape_listener, _config(settings, scrapes()))
    try:
        server.run(sockets=[listener, *(listener.dup() for _ in range(TAKES - 1))])
    except SystemExit as end:
        if not end.code:  # a signal; a server that could not start ends with another
            raise
    if server.has_failed:
        raise BackgroundTaskDied("A background task of the service has died; the log says which.")
    return server.started


def _config(settings: Settings, served: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        served,
        loop="uvloop",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips or None,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_grace_seconds / 2)),
    )


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
