"""Runs our own client (`bench.load`) in a process of its own."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from types import TracebackType
from typing import Self

import msgspec

from bench.plan import Outcome, Plan


class LoadProcess:
    """A client that connects, waits for `run`, and then for `outcome` with its connections open.

    So neither opening nor closing connections is part of what is measured.
    """

    _process: Process

    def __init__(self, plan: Plan) -> None:
        self._plan = msgspec.structs.replace(plan, is_held=True)

    async def __aenter__(self) -> Self:
        plan = msgspec.json.encode(self._plan)
        command = (sys.executable, "-m", "bench.load", plan)
        self._process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        await self._signal()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def run(self) -> None:
        """Sends the load; returns after the last response."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._signal()

    async def outcome(self) -> Outcome:
        """Ends the client."""
        output, _ = await self._process.communicate(b"\n")
        return msgspec.json.decode(output, type=Outcome)

    async def _signal(self) -> None:
        assert self._process.stdout is not None
        await self._process.stdout.readline()
