"""bcrypt in processes of the lowest priority, so that hashing a PIN does not delay heartbeats.

One hash keeps a core busy for about a quarter of a second.
"""

import asyncio
import hmac
import logging
import math
import os
import re
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from heapq import heapify, heapreplace
from itertools import count
from typing import Final, NamedTuple

import bcrypt

from service.credentials import pin_worker
from service.errors import Overloaded
from service.observing.supervision import stopped, supervised

logger = logging.getLogger("viewing_time.pin")

MAX_BYTES: Final = 72
MAX_SECONDS: Final = 60.0  # a worker that takes longer for a hash counts as lost
SMOOTHING: Final = 1 / 8
COST_12_SECONDS: Final = 0.25  # until turns have been measured
LOST: Final = (EOFError, OSError)  # the worker has ended, or does not answer

# bcrypt would hash with other salts and costs too. Cost 16 takes seconds, cost 31 would take days.
WELL_FORMED: Final = re.compile(
    r"\$2[abxy]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}"
)
# All variables that Python and the loader read. A worker gets no others: every process of this
# user can read its environment, and the service's holds secrets.
INHERITED: Final = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ"),
    *("PYTHONHOME", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONUTF8"),
)
COMMAND: Final = [sys.executable, "-P", pin_worker.__file__]


class Worker:
    """A worker process, which computes one hash at a time."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def start(self) -> None:
        """Starts the process, in a session that Ctrl-C does not reach, and waits until it answers.

        Replaces the process if there is one.
        """
        await self.stop()
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=PIPE, stdout=PIPE, env=environment, start_new_session=True
        )
        try:
            await self.hash(b"", bcrypt.gensalt(4))
        except BaseException:
            await self.stop()  # a late answer would be taken for that of the next hash
            raise

    async def hash(self, secret: bytes, salt: bytes) -> bytes:
        """The bcrypt hash; raises one of LOST."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdin.is_closing():  # uvloop raises RuntimeError, which is not in LOST
            raise EOFError
        process.stdin.write(b"%b %b\n" % (salt, secret.hex().encode()))
        async with asyncio.timeout(MAX_SECONDS):
            return (await process.stdout.readuntil())[:-1]

    async def stop(self) -> None:
        """Kills the process, even during a hash."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process.stdin.close()
            with suppress(OSError):  # a write after the end; unread, asyncio would log it
                await self._process.stdin.wait_closed()


class PinHasher:
    """The queue before the workers.

    `waiting` counts the turns admitted and not yet over, `hashed` the hashes computed, `restarts`
    the replacements of lost workers.
    """

    def __init__(self, *, workers: int, rounds: int, longest_wait: float = 5.0) -> None:
        """`rounds` is bcrypt's cost (log2); `longest_wait` is in seconds."""
        self.waiting = 0
        self.hashed = 0
        self.restarts = 0
        self.rounds = rounds
        # A well-formed hash that matches no secret, at the configured cost. It is built from a
        # salt, because computing one would delay the start by a quarter of a second.
        self.dummy = (bcrypt.gensalt(rounds) + b"." * 31).decode()
        self._longest_wait = longest_wait
        self._turn_seconds = COST_12_SECONDS * 2.0 ** (rounds - 12)
        self._queue: asyncio.PriorityQueue[tuple[bool, int, _Job]] = asyncio.PriorityQueue()
        self._order = count()
        self._running: dict[Turn, float] = {}  # when the hash that is being computed began
        self.workers = [Worker() for _ in range(workers)]
        self._servers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts the workers and waits for each, so that no request pays for the start."""
        try:
            for worker in self.workers:
                await worker.start()
        except BaseException:
            await self.stop()
            raise
        self._servers = [supervised("PIN hasher", self._serve(one)) for one in self.workers]

    async def stop(self) -> None:
        """Cancels the waiting hashes and kills the workers."""
        servers, self._servers = self._servers, []
        await stopped(*servers)
        while not self._queue.empty():
            self._queue.get_nowait()[-1].answer.cancel()
        for worker in self.workers:
            await worker.stop()

    @contextmanager
    def admit(self) -> Iterator["Turn"]:
        """A place in the queue; raises Overloaded if the wait would be too long."""
        wait = self._wait()
        if wait > self._longest_wait:
            raise Overloaded(math.ceil(min(wait, MAX_SECONDS)))
        self.waiting += 1
        turn = Turn(self)
        try:
            yield turn
        finally:
            self.waiting -= 1
            turn.is_over = True
            self._update_average(turn)

    def _wait(self) -> float:
        """The seconds until a worker is free for one more turn.

        A turn is expected to take the average of past turns, and a running hash that time, or as
        long again as it has run. It occupies its worker even after its request was cancelled.
        """
        now = time.monotonic()
        free = [max(self._turn_seconds, now - started_at) for started_at in self._running.values()]
        free += [0.0] * (len(self.workers) - len(free))
        heapify(free)
        for _ in range(self.waiting - sum(not turn.is_over for turn in self._running)):
            heapreplace(free, free[0] + self._turn_seconds)
        return free[0]

    def _update_average(self, turn: "Turn") -> None:
        """Adds the seconds of a turn to the average, after it and its last hash have ended."""
        if turn.is_over and turn.seconds and turn not in self._running:
            self._turn_seconds += SMOOTHING * (turn.seconds - self._turn_seconds)

    async def compute(self, turn: "Turn", secret: bytes, salt: bytes) -> bytes:
        """Queues one hash and returns it; the second hash of a turn precedes other turns.

        Raises Overloaded if the hasher is not running, or two workers in succession were lost.
        """
        if not self._servers:
            raise Overloaded(1)
        job = _Job(turn, secret, salt, asyncio.get_running_loop().create_future())
        self._queue.put_nowait((turn.seconds == 0, next(self._order), job))
        return await job.answer

    async def _serve(self, worker: Worker) -> None:
        """Runs queued hashes on one worker; skips those of cancelled requests."""
        while True:
            *_, job = await self._queue.get()
            if job.answer.done():
                continue
            try:
                digest = await self._hash(worker, job)
                if not job.answer.done():
                    job.answer.set_result(digest)
            except Exception as error:
                if not job.answer.done():
                    job.answer.set_exception(error)
            finally:
                del self._running[job.turn]
                self._update_average(job.turn)
                job.answer.cancel()

    async def _hash(self, worker: Worker, job: "_Job") -> bytes:
        for is_retry in (False, True):
            self._running[job.turn] = started_at = time.monotonic()
            try:
                digest = await worker.hash(job.secret, job.salt)
            except LOST:
                self.restarts += 1
                logger.warning("pin_worker_lost", extra={"fields": {"restarts": self.restarts}})
                with suppress(*LOST):  # the next hash finds the worker lost
                    await worker.start()
            else:
                self.hashed += 1
                if not is_retry:  # a new worker is slower
                    job.turn.seconds += time.monotonic() - started_at
                return digest
        raise Overloaded(1)


class Turn:
    """A place in the queue, for one check or change of a PIN: one hash, or two in succession."""

    def __init__(self, hasher: PinHasher) -> None:
        self.seconds = 0.0
        self.is_over = False
        self._hasher = hasher

    async def hash(self, secret: str) -> str:
        """The bcrypt hash of `secret`; ValueError if it is longer than 72 bytes of UTF-8."""
        # Lone surrogates too: the error of a strict encoder would contain the secret.
        encoded = secret.encode(errors="surrogatepass")
        if len(encoded) > MAX_BYTES:
            raise ValueError(f"bcrypt hashes at most {MAX_BYTES} bytes")
        salt = bcrypt.gensalt(self._hasher.rounds)
        return (await self._hasher.compute(self, encoded, salt)).decode()

    async def verify(self, secret: str, hashed: str | None) -> bool:
        """Whether `hashed` is a hash of `secret`.

        A missing or malformed hash or a secret over 72 bytes never matches, and takes as long.
        """
        encoded = secret.encode(errors="surrogatepass")
        if hashed is None or not WELL_FORMED.fullmatch(hashed) or len(encoded) > MAX_BYTES:
            encoded, hashed = b"", self._hasher.dummy
        digest = await self._hasher.compute(self, encoded, hashed.encode())
        return hmac.compare_digest(digest, hashed.encode())


class _Job(NamedTuple):
    turn: Turn
    secret: bytes
    salt: bytes
    answer: asyncio.Future[bytes]
