"""The service with another way to hash PINs: `python -m bench.pin_peer WAY serve`.

The ways: workers with another priority, threads of the server's process, and the event loop.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

import service.startup
from bench import pin_policy
from service.command.main import main
from service.credentials import pin_pool
from service.credentials.pin_hasher import PinHasher, Turn

POLICIES: Final = {
    "SCHED_IDLE": pin_policy.sched_idle,
    "SCHED_BATCH": pin_policy.sched_batch,
    "nice 19 in the service's session": pin_policy.nice_in_session,
    "normal priority": pin_policy.normal,
}


class InThreads(PinHasher):
    """Hashes in threads of the server's process, without a queue."""

    async def start(self) -> None:
        """Does nothing, because threads start with their first work."""

    async def stop(self) -> None:
        """Does nothing, because threads end with the process."""

    async def _ask(self, turn: Turn, function: Callable[..., Any], *arguments: bytes) -> Any:
        self.hashed += 1
        return await asyncio.to_thread(function, *arguments)


class OnTheLoop(InThreads):
    """Hashes on the event loop."""

    async def _ask(self, turn: Turn, function: Callable[..., Any], *arguments: bytes) -> Any:
        self.hashed += 1
        return function(*arguments)


def choose(way: str) -> None:
    """Makes the service hash in this way; raises KeyError for an unknown one."""
    hashers = {"threads": InThreads, "on the loop": OnTheLoop}
    if way in hashers:
        vars(service.startup)["PinHasher"] = hashers[way]
    else:
        vars(pin_pool)["begin"] = POLICIES[way]


if __name__ == "__main__":
    choose(sys.argv[1])
    main(sys.argv[2:], prog_name="viewing-time")
