"""The HTTP server around the application: one process, one event loop."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from service.app import application, scrapes
from service.context import Context
from service.credentials.pin_shared import Sharing
from service.dispatch import Service
from service.http.protocol import Protocol
from service.listeners import MAX_BACKLOG
from service.service_manager import STOPPING, notify
from service.settings import Settings

logger = logging.getLogger("viewing_time.server")

OPERATOR_CONNECTIONS: Final = 8  # to METRICS_PORT, in addition to those of clients


class BackgroundTaskDied(Exception):
    """The service has stopped because a background task has died; the message is one sentence."""


class Admitted(Protocol):
    """Accepts a connection, or closes it at once if too many clients are connected.

    A closed client tries another instance, while one that is never accepted waits. The limit also
    keeps open files free for the process itself.
    """

    spare = 0
    is_for_operators = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        connections = self.app_state["context"].metrics.connections
        if not self.is_for_operators:
            self.short_path = self.app_state["short_path"]
        if len(self.connections) < connections.max + self.spare:
            super().connection_made(transport)
        else:
            connections.refused += 1
            transport.set_protocol(asyncio.Protocol())
            transport.close()


class AdmittedOperator(Admitted):
    """Admits connections to METRICS_PORT, where operators can connect when clients cannot."""

    spare = OPERATOR_CONNECTIONS
    is_for_operators = True


class Server(uvicorn.Server):
    """Calls `ready` when it serves; drains before it stops.

    For SHUTDOWN_DRAIN_SECONDS after a SIGTERM the process is not ready and closes each connection
    with its response, so that the load balancer stops sending requests before the listeners close.
    Streams end at once.
    A second signal, or Ctrl-C, stops at once.
    """

    context: Context

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        drain: float,
        ready: Callable[["Server"], None],
    ) -> None:
        super().__init__(config)
        self._service = service
        self._drain = drain
        self._ready = ready
        self.has_failed = False
        self._additional: list[tuple[socket.socket, uvicorn.Config]] = []

    def add(self, listener: socket.socket, config: uvicorn.Config) -> None:
        """Serves another application on another socket, with the lifespan of the first."""
        self._additional.append((listener, config))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.context = context = self.lifespan.state["context"]
        connections = context.metrics.connections
        connections.open = self.server_state.connections
        if connections.max < context.settings.heartbeat_queue_max:
            logger.warning("connections_few", extra={"fields": {"max": connections.max}})
        self._loop = asyncio.get_running_loop()
        self._streams = context.streams
        for listener, config in self._additional:
            config.load()
            protocol = self.connection(AdmittedOperator, config)
            self.servers.append(await self._loop.create_server(protocol, sock=listener))
        _tune_garbage_collector()
        if self.started:
            self._ready(self)

    def connection(
        self, kind: type[Admitted], config: uvicorn.Config
    ) -> Callable[[], asyncio.Protocol]:
        """The protocol of a new connection to the application of `config`."""
        state = self.lifespan.state
        return partial(kind, config=config, server_state=self.server_state, app_state=state)

    def fail(self) -> None:
        """Drains and stops, because a background task has died."""
        notify(STOPPING)
        self.has_failed = True
        self._service.is_stopping = True
        self.retire()

    def retire(self) -> None:
        """Drains and stops; it stays ready, because another process takes its place."""
        self._service.draining = True
        self._streams.drain()
        asyncio.get_running_loop().call_later(self._drain, setattr, self, "should_exit", True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        notify(STOPPING)
        if self.started:
            self._loop.call_soon_threadsafe(self._streams.drain)
        if sig == signal.SIGTERM and self.started and not self._service.draining:
            self._service.draining = self._service.is_stopping = True
            stop = partial(super().handle_exit, sig, frame)
            self._loop.call_soon_threadsafe(self._loop.call_later, self._drain, stop)
        else:
            super().handle_exit(sig, frame)


def _tune_garbage_collector() -> None:
    """Excludes the objects built at start from later collections, and collects less often.

    A request makes no cycles. With the default thresholds, full collections walk every connection
    and every cached token again and again, which caused latencies above a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


def serve(
    settings: Settings,
    listeners: Sequence[socket.socket],
    scrape_listener: socket.socket | None,
    ready: Callable[[Server], None],
    sharing: Sharing | None = None,
    routes: Sequence[Route] = (),
) -> bool:
    """Serves requests, and metrics on `scrape_listener`, until a signal; False if it did not start.

    Raises BackgroundTaskDied.
    """
    # uvicorn raises the signal again when it is done, which would skip the caller's clean-up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    _ignore_hang_up()
    service = application(settings, end=lambda: server.fail(), sharing=sharing, routes=routes)
    server = Server(
        configuration(settings, service), service, settings.shutdown_drain_seconds, ready
    )
    if scrape_listener is not None:
        server.add(scrape_listener, configuration(settings, scrapes()))
    try:
        server.run(sockets=[*listeners])
    except SystemExit as end:
        if not end.code:  # a signal; a server that could not start exits with 3
            raise
    if server.has_failed:
        raise BackgroundTaskDied("A background task of the service has died; the log says which.")
    return server.started


def configuration(settings: Settings, served: Starlette) -> uvicorn.Config:
    """uvicorn's configuration, without what it would read from the environment."""
    return uvicorn.Config(
        served,
        workers=1,
        loop="uvloop",
        http=Admitted,
        ws="none",
        backlog=MAX_BACKLOG,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips or None,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_grace_seconds / 2)),
    )


def _ignore_hang_up() -> None:
    """Logs and ignores SIGHUP, whose default action kills the process in the middle of requests.

    If the terminal is gone, SIGHUP stops the process as SIGTERM does.
    """
    had_terminal = has_terminal()

    def hang_up(number: int, frame: FrameType | None) -> None:
        if had_terminal and not has_terminal():
            signal.raise_signal(signal.SIGTERM)
        else:
            logger.warning("sighup_ignored")

    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # set by `nohup`
        signal.signal(signal.SIGHUP, hang_up)


def has_terminal() -> bool:
    """Whether the process has a terminal that controls it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
