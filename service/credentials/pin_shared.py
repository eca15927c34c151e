"""Hashing processes that several service processes share: the parent process has them.

A service process sends each hash over its socket to the parent, as a line with a number, and gets a
line with this number back. So there are PIN_WORKERS processes in all, not for each service process.
A service process measures the time of a hash with its wait for the others, so it still rejects what
would wait too long.
"""

import asyncio
import socket
from contextlib import suppress
from itertools import count
from typing import Final

from service.credentials.pin_hasher import LOST, Worker
from service.observing.supervision import supervised

MAX_LINE_BYTES: Final = 1024  # of a number, a salt and 72 bytes in hexadecimal


class HashingProcesses:
    """The hashing processes, in the parent process."""

    def __init__(self, number: int) -> None:
        self._workers = [Worker() for _ in range(number)]
        self._free: asyncio.Queue[Worker] = asyncio.Queue()

    async def start(self) -> None:
        """Starts the processes and waits for each."""
        for worker in self._workers:
            await worker.start()
            self._free.put_nowait(worker)

    async def stop(self) -> None:
        """Kills the processes."""
        for worker in self._workers:
            await worker.stop()

    async def answer(self, channel: socket.socket) -> None:
        """Computes the hashes that one service process sends, until it ends.

        A hash that has begun is completed, or its late answer would be taken for the next one's.
        """
        reader, writer = await asyncio.open_unix_connection(sock=channel, limit=MAX_LINE_BYTES)
        try:
            async with asyncio.TaskGroup() as hashes:
                with suppress(ConnectionError):  # the service process has been killed
                    while (line := await reader.readline()).endswith(b"\n"):
                        number, salt, secret = line[:-1].split(b" ")
                        hashes.create_task(self._hash(writer, number, salt, secret))
        finally:
            writer.close()

    async def _hash(
        self, writer: asyncio.StreamWriter, number: bytes, salt: bytes, secret: bytes
    ) -> None:
        """Sends an empty digest if the hashing process was lost; the sender tries once more."""
        worker = await self._free.get()
        digest = b""
        try:
            digest = await worker.hash(bytes.fromhex(secret.decode()), salt)
        except LOST:
            await self._restart(worker)
        finally:
            self._free.put_nowait(worker)
        writer.write(b"%b %b\n" % (number, digest))

    async def _restart(self, worker: Worker) -> None:
        with suppress(*LOST):  # the next hash finds it lost
            await worker.start()


class Sharing:
    """The hashing processes of the parent, in a service process."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._numbers = count()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    def worker(self) -> "SharedWorker":
        """A place for one hash at a time, as PinHasher uses it."""
        return SharedWorker(self)

    async def open(self) -> None:
        """Connects to the parent; further calls do nothing."""
        if self._writer is None:
            reader, self._writer = await asyncio.open_unix_connection(
                sock=self._channel, limit=MAX_LINE_BYTES
            )
            self._reading = supervised("shared hashes", self._read(reader))

    async def hash(self, secret: bytes, salt: bytes) -> bytes:
        """The bcrypt hash; raises EOFError if a process was lost, or the parent has ended."""
        if self._writer is None or self._reading is None or self._reading.done():
            raise EOFError
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._writer.write(b"%d %b %b\n" % (number, salt, secret.hex().encode()))
        try:
            return await answer
        finally:
            del self._answers[number]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hands each digest to its waiter, until the parent has ended."""
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                number, digest = line[:-1].split(b" ")
                answer = self._answers.get(int(number))
                if answer is not None and not answer.done():
                    if digest:
                        answer.set_result(digest)
                    else:
                        answer.set_exception(EOFError())
        except ConnectionError:
            pass
        finally:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(EOFError())


class SharedWorker(Worker):
    """Computes one hash at a time in the processes of the parent."""

    def __init__(self, sharing: Sharing) -> None:
        super().__init__()
        self._sharing = sharing

    async def start(self) -> None:
        """Connects to the parent, which replaces lost processes."""
        await self._sharing.open()

    async def hash(self, secret: bytes, salt: bytes) -> bytes:
        return await self._sharing.hash(secret, salt)
