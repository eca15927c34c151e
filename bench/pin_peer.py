"""The service with another way to hash PINs: `python -m bench.pin_peer WAY serve`.

What stands beside the service's own way in the same run: workers of another priority, threads of
the server's process, and the event loop itself.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import bcrypt

import service.app
from service import pin_worker
from service.cli import main
from service.pin_hasher import PinHasher, Turn


class InThreads(PinHasher):
    """Hashes in threads of the server's process; nobody waits for a turn."""

    async def start(self) -> None:
        self._dummy = bcrypt.hashpw(b"", bcrypt.gensalt(self._rounds))

    async def stop(self) -> None:
        """Threads end with the process."""

    async def _ask(self, turn: Turn, function: Callable[..., Any], *arguments: bytes) -> Any:
        self.hashed += 1
        return await asyncio.to_thread(function, *arguments)


class OnTheLoop(InThreads):
    """Hashes where the heartbeats are served."""

    async def _ask(self, turn: Turn, function: Callable[..., Any], *arguments: bytes) -> Any:
        self.hashed += 1
        return function(*arguments)


def _nice(pid: int) -> None:
    os.setpriority(os.PRIO_PROCESS, pid, 19)


def _normal(pid: int) -> None:
    """Leaves a worker as it is."""


def choose(way: str) -> None:
    """Has the service hash in this way; raises KeyError for one that there is not."""
    hashers = {"threads": InThreads, "on the loop": OnTheLoop}
    if way in hashers:
        vars(service.app)["PinHasher"] = hashers[way]
    else:
        vars(pin_worker)["give_way"] = {"nice 19": _nice, "normal priority": _normal}[way]


if __name__ == "__main__":
    choose(sys.argv[1])
    main(sys.argv[2:], prog_name="viewing-time")
