"""The processes of the ledger of events, and its streams: each may be lost at any time."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import httpx

from bench.ports import free_port
from tests.conftest import ROOT, RunningService, served
from tests.eventually import eventually
from tests.family import bearer
from tests.processes import dying_with_parent

EVENTS: Final = "/api/v1/parental-controls/events"
SHORTEST_SECONDS: Final = 0.3
LONGEST_SECONDS: Final = 5.0
REST_SECONDS: Final = 0.1


class Instance:
    """A service process, which starts again at the same address."""

    def __init__(self, dsn: str, variables: dict[str, str], log: Path) -> None:
        self._log = log
        self._dsn, self._variables = dsn, {**variables, "PORT": str(free_port())}
        self.url = f"http://127.0.0.1:{self._variables['PORT']}"
        self._running = AsyncExitStack()
        self._service: RunningService | None = None

    async def start(self) -> None:
        log = self._running.enter_context(self._log.open("ab"))
        running = served(self._dsn, log, **self._variables)
        self._service = await self._running.enter_async_context(running)

    async def stop(self) -> None:
        await self._running.aclose()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.stop()

    def signal(self, number: signal.Signals) -> None:
        assert self._service is not None
        self._service.process.send_signal(number)


class ReceiverProcess:
    """The process, which a test may kill and start again."""

    def __init__(self, folder: Path, random: Random) -> None:
        self._folder, self._random, self._port = folder, random, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}/events"

    async def start(self) -> None:
        arguments = [str(self._folder), str(self._port), str(self._random.randrange(10**9))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.receiver", *arguments],
            cwd=ROOT,
            preexec_fn=dying_with_parent(),
        )
        await eventually(self._is_listening)

    async def _is_listening(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)

    def calm(self) -> None:
        """Makes every later answer good, and ends those that hang."""
        (self._folder / "calm").touch()

    def receipts(self) -> list[dict[str, Any]]:
        """Every request that was received, in their order."""
        lines = (self._folder / "receipts").read_text().splitlines()
        return [json.loads(line) for line in lines]


class Follower:
    """A client that follows the events of an account and leaves at random times.

    It resumes at any instance after the latest event that it has.
    """

    def __init__(self, urls: list[str], account: UUID, random: Random) -> None:
        self.account, self._urls, self._random = account, urls, random
        self._last_id: str | None = None
        self._stay: asyncio.Timeout | None = None  # while it reads
        self._is_leaving = False
        self.events: list[dict[str, Any]] = []
        self.streams = 0

    @property
    def has_begun(self) -> bool:
        return self._last_id is not None

    async def follow(self, client: httpx.AsyncClient) -> None:
        """Follows until it is to leave."""
        while not self._is_leaving:
            with suppress(httpx.TransportError, TimeoutError):
                await self._read(client)
            await asyncio.sleep(self._random.uniform(0, REST_SECONDS))

    def leave(self) -> None:
        """Ends the stream, but not while it connects: that would leave its socket open."""
        self._is_leaving = True
        if self._stay is not None:
            self._stay.reschedule(0)

    async def _read(self, client: httpx.AsyncClient) -> None:
        headers = bearer(self.account)
        if self._last_id is not None:
            headers["Last-Event-ID"] = self._last_id
        async with client.stream(
            "GET", self._random.choice(self._urls) + EVENTS, headers=headers
        ) as response:
            if response.status_code == 503:
                return
            assert response.status_code == 200, await response.aread()
            self.streams += 1
            stays = self._random.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
            try:
                async with asyncio.timeout(0 if self._is_leaving else stays) as self._stay:
                    await self._take_all(response.aiter_lines())
            finally:
                self._stay = None

    async def _take_all(self, lines: AsyncIterator[str]) -> None:
        fields: dict[str, str] = {}
        async for line in lines:
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
                continue
            self._last_id = fields.get("id", self._last_id)
            if "data" in fields:
                self._take(fields)
            fields = {}

    def _take(self, fields: dict[str, str]) -> None:
        event = json.loads(fields["data"])
        assert (event["id"], event["type"]) == (fields["id"], fields["event"])
        self.events.append(event)
