"""A network between the service and its database that can be made to misbehave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal
from urllib.parse import parse_qs, urlsplit

Mode = Literal["ok", "slow", "black hole", "reset"]

SLOW_SECONDS: Final = 0.05
PART_BYTES: Final = 64 * 1024


class Proxy:
    """Forwards connections on a port of 127.0.0.1 to the socket of a PostgreSQL.

    `ok` forwards, `slow` waits 50 ms before each part, `black hole` accepts connections and drops
    all bytes, `reset` closes every connection. A change also applies to open connections; one that
    has lost bytes in the black hole stays silent.
    """

    def __init__(self, dsn: str) -> None:
        query = parse_qs(urlsplit(dsn).query)
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._name = f"{query['user'][0]}@127.0.0.1"
        self._database = urlsplit(dsn).path
        self._mode: Mode = "ok"
        self._writers: set[asyncio.StreamWriter] = set()
        self._running: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def dsn(self) -> str:
        """The URL of the same database through the proxy."""
        return f"postgresql://{self._name}:{self.port}{self._database}"

    def turn(self, mode: Mode) -> None:
        """Changes the behaviour of the network."""
        self._mode = mode
        if mode == "reset":
            for writer in [*self._writers]:
                writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "reset":
            writer.transport.abort()
            return
        try:
            back, forth = await asyncio.open_unix_connection(self._socket)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, forth}
        try:
            await asyncio.gather(self._forward(reader, forth), self._forward(back, writer))
        except OSError:
            pass  # one side has gone, which closes the other
        finally:
            for each in (writer, forth):
                self._writers.discard(each)
                each.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Raises ConnectionError when one side closes, so that the other is closed too."""
        lost = False
        while part := await reader.read(PART_BYTES):
            if self._mode == "slow":
                await asyncio.sleep(SLOW_SECONDS)
            lost = lost or self._mode == "black hole"
            if not lost:
                writer.write(part)
                await writer.drain()
        raise ConnectionError

    async def stop(self) -> None:
        for task in [*self._running]:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the PostgreSQL at `dsn`, whose host is the directory of its socket."""
    proxy = Proxy(dsn)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
        await server.wait_closed()
