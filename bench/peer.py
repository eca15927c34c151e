"""Server processes under load: the service as operators run it, the echo, and other languages."""

import asyncio
import http.client
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import echo
from bench.ports import free_port
from bench.receiver import PATH as RECEIVED
from bench.seed import SECRET

START_SECONDS: Final = 30.0
ROOT: Final = Path(__file__).parent.parent
LOG: Final = "servers.log"


@dataclass(frozen=True)
class Program:
    """The code of a server process: `python -m ARGUMENTS` with the modules under `root`."""

    arguments: Sequence[str] = ("service", "serve")
    root: Path = ROOT
    python: str = sys.executable

    @property
    def command(self) -> list[str]:
        return [self.python, "-m", *self.arguments]


OURS: Final = Program()


@dataclass(frozen=True)
class Peer:
    """A server on a port of 127.0.0.1; `counter` is the path of its count of requests."""

    name: str
    port: int
    pid: int
    counter: str = ""

    async def get(self, path: str, token: str = "") -> Any:
        """The JSON at a path; raises RuntimeError if the status is not 200."""
        return await asyncio.to_thread(self._get, path, token)

    def _get(self, path: str, token: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{self.name} answers {answer.status} to {path}: {body!r}")
        return msgspec.json.decode(body)


@asynccontextmanager
async def service(
    name: str, dsn: str, folder: Path, variables: Mapping[str, str], program: Program
) -> AsyncIterator[Peer]:
    """A service process with default settings, except `variables`."""
    port = free_port()
    settings = {
        "DATABASE_URL": dsn,
        "JWT_SECRET": SECRET,
        "PORT": str(port),
        "SHUTDOWN_DRAIN_SECONDS": "0",  # there is no load balancer to wait for
        "PYTHONPATH": str(program.root),
        **variables,
    }
    with _process(program.command, settings, folder) as process:
        peer = Peer(name, port, process.pid)
        await _answering(peer, process, "/health/ready", folder)
        yield peer


@asynccontextmanager
async def echo_server(folder: Path) -> AsyncIterator[Peer]:
    """A server without work of its own (`bench.echo`)."""
    port = free_port()
    program = Program(("bench.echo", str(port)))
    with _process(program.command, {"PYTHONPATH": str(program.root)}, folder) as process:
        peer = Peer("echo", port, process.pid, counter=echo.PATH)
        await _answering(peer, process, echo.PATH, folder)
        yield peer


@asynccontextmanager
async def receiver(folder: Path) -> AsyncIterator[Peer]:
    """A receiver of the webhook (`bench.receiver`)."""
    port = free_port()
    program = Program(("bench.receiver", str(port)))
    with _process(program.command, {"PYTHONPATH": str(program.root)}, folder) as process:
        peer = Peer("receiver", port, process.pid)
        await _answering(peer, process, RECEIVED, folder)
        yield peer


@asynccontextmanager
async def other(name: str, command: Sequence[str], dsn: str, folder: Path) -> AsyncIterator[Peer]:
    """A heartbeat service of another language (`bench.peers`)."""
    port = free_port()
    settings = {"DATABASE_URL": dsn, "JWT_SECRET": SECRET, "PORT": str(port)}
    with _process(command, settings, folder) as process:
        peer = Peer(name, port, process.pid)
        await _answering(peer, process, "/health/live", folder)
        yield peer


@contextmanager
def _process(
    command: Sequence[str], settings: Mapping[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program until the block ends, in `folder`, where there is no `.env` to read."""
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.defpath, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        finally:
            process.kill()


async def _answering(peer: Peer, process: subprocess.Popen[bytes], path: str, folder: Path) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            if process.poll() is not None:
                log = (folder / LOG).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{peer.name} ended with {process.returncode}:\n{log}")
            try:
                await peer.get(path)
                return
            except OSError:
                await asyncio.sleep(0.02)
