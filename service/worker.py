"""One of several processes that serve together, and its socket to the parent process.

The kernel distributes the connections evenly among the listening sockets, so each worker has its
own: if all workers accepted from the same sockets, the one that the kernel wakes first would get
nearly all clients of a quiet hour. What waits on the sockets of a worker that has died, or is
stuck, is accepted by the others.
"""

import asyncio
import signal
import socket
from collections.abc import Sequence
from typing import Final

from service import server
from service.credentials.pin_shared import Sharing
from service.observing.supervision import supervised
from service.operators.prometheus_sum import snapshot
from service.server import Admitted, Server
from service.settings import Settings

COULD_NOT_START: Final = 3  # exit code
SCRAPE: Final = b"s"  # from the parent: send the metrics
RETIRE: Final = b"r"  # from the parent: another process has taken the place
LENGTH_BYTES: Final = 4  # before each message to the parent; an empty message: this process serves
TAKE_SECONDS: Final = 0.1
MAX_TAKEN: Final = 16  # connections of one listening socket at once


class Link:
    """Reports to the parent and obeys it; without a parent, the process drains and stops."""

    def __init__(self, control: socket.socket, others: Sequence[socket.socket]) -> None:
        """`others` are the listening sockets of the other workers."""
        self._control = control
        self._others = others

    def start(self, running: Server) -> None:
        """Reports that the process serves."""
        self._server = running
        self._connection = running.connection(Admitted, running.config)
        self._loop = asyncio.get_running_loop()
        self._task = supervised("link to the parent", self._obey())
        for listener in self._others:
            listener.setblocking(False)
        self._take_waiting()

    async def _obey(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._control)
        try:
            self._send(b"")
            while command := await reader.read(1):
                if command == SCRAPE:
                    self._send(await snapshot(self._server.context))
                elif command == RETIRE:
                    self._retire()
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Event().wait()
        finally:  # the event loop is about to end
            self._send(await snapshot(self._server.context))

    def _send(self, message: bytes) -> None:
        self._writer.write(len(message).to_bytes(LENGTH_BYTES) + message)

    def _retire(self) -> None:
        """Accepts no further connection, so that none is cut when the listeners close."""
        for listening in self._server.servers:
            listening.close()
        self._close_others()
        self._server.retire()

    def _take_waiting(self) -> None:
        """Accepts what waits on the sockets of the others longer than they need to accept it."""
        if self._server.should_exit:
            self._close_others()
        for listener in self._others:
            for _ in range(MAX_TAKEN):
                try:
                    connection, _ = listener.accept()
                except OSError:  # nothing waits, or no file can be opened
                    break
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                supervised("accepted connection", self._adopt(connection))
        if self._others:
            self._loop.call_later(TAKE_SECONDS, self._take_waiting)

    async def _adopt(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._connection, connection)
        except OSError:
            connection.close()  # the client has gone

    def _close_others(self) -> None:
        for listener in self._others:
            listener.close()
        self._others = ()


def serve(
    settings: Settings,
    own: Sequence[socket.socket],
    others: Sequence[socket.socket],
    control: socket.socket,
    hashing: socket.socket,
) -> bool:
    """Serves on `own` until the parent or a signal ends it; False if it did not start."""
    link = Link(control, others)
    return server.serve(settings, own, None, link.start, Sharing(hashing))
