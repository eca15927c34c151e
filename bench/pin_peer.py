"""The service with another way to hash PINs: `python -m bench.pin_peer WAY serve`.

The ways: workers with another priority, threads of the server's process, and the event loop.
"""

import asyncio
import sys

import bcrypt

import service.startup
from service.command.main import main
from service.credentials import pin_hasher
from service.credentials.pin_hasher import PinHasher, Turn


class InThreads(PinHasher):
    """Hashes in threads of the server's process, without a queue."""

    async def start(self) -> None:
        """Does nothing, because threads start with their first work."""

    async def stop(self) -> None:
        """Does nothing, because threads end with the process."""

    async def compute(self, turn: Turn, secret: bytes, salt: bytes) -> bytes:
        self.hashed += 1
        return await asyncio.to_thread(bcrypt.hashpw, secret, salt)


class OnTheLoop(InThreads):
    """Hashes on the event loop."""

    async def compute(self, turn: Turn, secret: bytes, salt: bytes) -> bytes:
        self.hashed += 1
        return bcrypt.hashpw(secret, salt)


def choose(way: str) -> None:
    """Replaces the hasher of the service, or the command of its workers, for this way."""
    hashers = {"threads": InThreads, "on the loop": OnTheLoop}
    if way in hashers:
        vars(service.startup)["PinHasher"] = hashers[way]
    else:
        vars(pin_hasher)["COMMAND"] = [sys.executable, "-m", "bench.pin_policy", way]


if __name__ == "__main__":
    choose(sys.argv[1])
    main(sys.argv[2:], prog_name="viewing-time")
