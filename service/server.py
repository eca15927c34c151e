"""The HTTP server around the application: one process, one loop."""

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from service.app import application
from service.settings import Settings


class PortTaken(Exception):
    """The address is in use or not ours; one sentence."""


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
        http="httptools",
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
