"""The load balancer in front of the instances: a small one for TCP, or haproxy."""

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import cycle
from pathlib import Path
from typing import Final

from bench.ports import free_port

CHECK_SECONDS: Final = 0.1
PART_BYTES: Final = 64 * 1024

HAPROXY: Final = """
defaults
    mode tcp
    timeout connect 10s
    timeout check 10s
    timeout client 30s
    timeout server 30s
    retries 3
    option redispatch
frontend service
    bind 127.0.0.1:{port}
    default_backend instances
backend instances
    balance roundrobin
    option httpchk GET /health/ready
    default-server inter 100ms fall 1 rise 1
    server one 127.0.0.1:{ports[0]} check
    server two 127.0.0.1:{ports[1]} check
"""


class Balancer:
    """Forwards connections in turn to the instances whose readiness check passes."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._turns = cycle(ports)
        self._ready: set[int] = set()

    async def check(self) -> None:
        while True:
            for port in self._ports:
                if await _is_ready(port):
                    self._ready.add(port)
                else:
                    self._ready.discard(port)
            await asyncio.sleep(CHECK_SECONDS)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = next(
            (p for p, _ in zip(self._turns, self._ports, strict=False) if p in self._ready), 0
        )
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        with closing(writer), closing(forth):
            await asyncio.gather(_forward(reader, forth), _forward(back, writer))


async def _is_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            writer.write(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            line = await reader.readline()
    except OSError:
        return False
    return b" 200 " in line


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(PART_BYTES):
            writer.write(part)
            await writer.drain()
    except OSError:
        writer.transport.abort()
    else:
        writer.close()


@asynccontextmanager
async def balanced(ports: list[int]) -> AsyncIterator[str]:
    """The URL of a small balancer in front of the instances on `ports`."""
    balancer = Balancer(ports)
    server = await asyncio.start_server(balancer.accept, "127.0.0.1", 0)
    checks = asyncio.create_task(balancer.check())
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        checks.cancel()
        await asyncio.wait([checks])
        server.close()


@asynccontextmanager
async def haproxied(ports: list[int]) -> AsyncIterator[str]:
    """The URL of an haproxy in front of the instances on `ports`."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "haproxy.cfg"
        configuration.write_text(HAPROXY.format(port=port, ports=ports))
        process = subprocess.Popen(["haproxy", "-db", "-q", "-f", configuration])
        try:
            while not await _is_ready(port):
                await asyncio.sleep(CHECK_SECONDS)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)
