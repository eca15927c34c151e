"""bcrypt in processes of its own, at the lowest priority: a PIN never holds up a heartbeat.

One hash keeps a core busy for about a quarter of a second. The event loop only queues the work and
waits for the answers.
"""

import asyncio
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar

import bcrypt

from service.errors import Overloaded
from service.pin_worker import Spawn, begin, keep_secrets
from service.supervision import stopped, supervised

logger = logging.getLogger("viewing_time.pin")

T = TypeVar("T")

MOST_BYTES: Final = 72
SMOOTHING: Final = 1 / 8
COST_12_SECONDS: Final = 0.25  # until turns have been measured
NO_DIGEST: Final = b"." * 31

# What bcrypt computes instead of refusing. The cost ends at 16, a few seconds: 31 would take days.
WELL_FORMED: Final = re.compile(
    r"\$2[abxy]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}"
)


class PinHasher:
    """The queue before the workers.

    `waiting` counts the turns admitted and not yet over, `hashed` the hashes computed, `restarts`
    how often lost workers were replaced.
    """

    def __init__(self, *, workers: int, rounds: int, longest_wait: float = 5.0) -> None:
        """`rounds` is bcrypt's cost (log2); `longest_wait` is in seconds."""
        self.waiting = 0
        self.hashed = 0
        self.restarts = 0
        self._workers = workers
        self._rounds = rounds
        self._longest_wait = longest_wait
        self._turn_seconds = COST_12_SECONDS * 2.0 ** (rounds - 12)
        # What nothing matches, at the cost of what is stored; made up, since a hash would hold up
        # the start by a quarter of a second, and by far more on a machine that is busy.
        self._dummy = bcrypt.gensalt(rounds) + NO_DIGEST
        self._queue: asyncio.PriorityQueue[tuple[bool, int, _Job]] = asyncio.PriorityQueue()
        self._order = count()
        self._pool: ProcessPoolExecutor | None = None
        self._servers: list[asyncio.Task[None]] = []
        self._endings: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Starts the workers; once it returns, a hash costs no more than the hash."""
        self._pool = self._open()
        try:
            await self._compute(os.getpid)
        except BaseException:
            await self.stop()
            raise
        self._servers = [supervised("PIN hasher", self._serve()) for _ in range(self._workers)]

    async def stop(self) -> None:
        """Cancels what waits and ends the workers, in the middle of a hash if need be.

        One child stays: multiprocessing's resource tracker, which serves the whole process and
        ends with it.
        """
        pool, self._pool = self._pool, None
        if pool is None:
            return
        await stopped(*self._servers)
        self._servers.clear()
        while not self._queue.empty():
            self._queue.get_nowait()[-1].answer.cancel()
        self._close(pool)
        await asyncio.gather(*self._endings)

    @contextmanager
    def admit(self) -> Iterator["Turn"]:
        """A place in the queue, given back on exit.

        Raises Overloaded when the wait would be longer than `longest_wait`: what the average turn
        takes, for each turn ahead, shared among the workers.
        """
        wait = self.waiting * self._turn_seconds / self._workers
        if self.waiting >= self._workers and wait > self._longest_wait:
            raise Overloaded(math.ceil(wait))
        self.waiting += 1
        turn = Turn(self)
        try:
            yield turn
        finally:
            self.waiting -= 1
            if turn.seconds:
                self._turn_seconds += SMOOTHING * (turn.seconds - self._turn_seconds)

    async def _ask(self, turn: "Turn", function: Callable[..., Any], *arguments: bytes) -> Any:
        """Queues one hash and awaits its answer; a turn that has had a hash does not queue again.

        Raises Overloaded when the hasher does not run.
        """
        if self._pool is None:
            raise Overloaded(1)
        job = _Job(turn, function, arguments, asyncio.get_running_loop().create_future())
        self._queue.put_nowait((turn.seconds == 0, next(self._order), job))
        return await job.answer

    async def _serve(self) -> None:
        """Keeps one worker busy. A job whose caller has gone is dropped, or finished unheard."""
        while True:
            *_, job = await self._queue.get()
            if job.answer.done():
                continue
            began = time.monotonic()
            try:
                result = await self._compute(job.function, *job.arguments)
            except Exception as fault:
                if not job.answer.done():
                    job.answer.set_exception(fault)
            else:
                self.hashed += 1
                job.turn.seconds += time.monotonic() - began
                if not job.answer.done():
                    job.answer.set_result(result)
            finally:
                job.answer.cancel()

    async def _compute(self, function: Callable[..., T], *arguments: bytes) -> T:
        """Runs a function in a worker, once more where the worker was lost.

        Raises BrokenProcessPool when it was lost again.
        """
        try:
            return await self._attempt(function, *arguments)
        except BrokenProcessPool:
            return await self._attempt(function, *arguments)

    async def _attempt(self, function: Callable[..., T], *arguments: bytes) -> T:
        pool = self._pool
        assert pool is not None
        loop = asyncio.get_running_loop()
        try:
            call = loop.run_in_executor(pool, function, *arguments)
            # `stop` cancels us, never the call: a pool that loses a worker while it holds a
            # cancelled call fails to end the others. Somebody must look at how the call ended.
            call.add_done_callback(asyncio.Future.exception)
            return await asyncio.shield(call)
        except BrokenProcessPool:
            self._replace(pool)
            raise

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        """A pool that has lost a worker never works again; the first to notice replaces it."""
        if self._pool is not broken:
            return
        self.restarts += 1
        logger.warning("pin_worker_lost", extra={"fields": {"restarts": self.restarts}})
        self._close(broken)
        self._pool = self._open()

    def _open(self) -> ProcessPoolExecutor:
        """Starts all workers now: the pool would start each when it is first missed.

        Must run on a thread that lives as long as the workers: the kernel takes that thread's end
        for the parent's. The one call more makes the pool watch the last worker too.
        """
        keep_secrets()
        pool = ProcessPoolExecutor(
            self._workers, mp_context=Spawn(), initializer=begin, initargs=(os.getpid(),)
        )
        try:
            for _ in range(self._workers + 1):
                pool.submit(os.getpid)
        except BaseException:
            self._close(pool)
            raise
        return pool

    def _close(self, pool: ProcessPoolExecutor) -> None:
        """Kills the workers and has the pool clear up, on a thread, for `stop` to wait for."""
        # The pool's own way would wait for running hashes; ProcessPoolExecutor.kill_workers comes
        # with Python 3.14.
        for worker in list((pool._processes or {}).values()):
            worker.kill()
        ending = supervised("end of a PIN pool", asyncio.to_thread(pool.shutdown))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)


class Turn:
    """A place in the queue, for one check or change of a PIN: one hash, or two in succession."""

    def __init__(self, hasher: PinHasher) -> None:
        self.seconds = 0.0
        self._hasher = hasher

    async def hash(self, secret: str) -> str:
        """The bcrypt hash of `secret`; ValueError when it is longer than 72 bytes of UTF-8."""
        encoded = _encoded(secret)
        if len(encoded) > MOST_BYTES:
            raise ValueError(f"bcrypt hashes at most {MOST_BYTES} bytes")
        salt = bcrypt.gensalt(self._hasher._rounds)
        hashed: bytes = await self._hasher._ask(self, bcrypt.hashpw, encoded, salt)
        return hashed.decode()

    async def verify(self, secret: str, hashed: str | None) -> bool:
        """Is `hashed` a hash of `secret`? Nothing that is stored makes it raise.

        What cannot match (no hash, no bcrypt hash, a secret over 72 bytes) takes as long as a
        wrong secret does.
        """
        encoded = _encoded(secret)
        if hashed is None or not WELL_FORMED.fullmatch(hashed) or len(encoded) > MOST_BYTES:
            await self._hasher._ask(self, bcrypt.checkpw, b"", self._hasher._dummy)
            return False
        matches: bool = await self._hasher._ask(self, bcrypt.checkpw, encoded, hashed.encode())
        return matches


class _Job(NamedTuple):
    turn: Turn
    function: Callable[..., Any]
    arguments: tuple[bytes, ...]
    answer: asyncio.Future[Any]


def _encoded(secret: str) -> bytes:
    # Lone surrogates too: the error of a strict encoder would carry the secret.
    return secret.encode(errors="surrogatepass")
