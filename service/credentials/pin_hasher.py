"""bcrypt in processes of its own, at the lowest priority: a PIN never holds up a heartbeat.

One hash keeps a core busy for about a quarter of a second. The event loop only queues the work and
waits for the answers.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heapify, heapreplace
from itertools import count
from typing import Any, Final, NamedTuple

import bcrypt

from service.credentials.pin_pool import MAX_SECONDS, PinPool
from service.errors import Overloaded
from service.observing.supervision import stopped, supervised

MAX_BYTES: Final = 72
SMOOTHING: Final = 1 / 8
COST_12_SECONDS: Final = 0.25  # until turns have been measured
NO_DIGEST: Final = b"." * 31

# What bcrypt computes instead of refusing. The cost ends at 16, a few seconds: 31 would take days.
WELL_FORMED: Final = re.compile(
    r"\$2[abxy]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}"
)


class PinHasher:
    """The queue before the workers.

    `waiting` counts the turns admitted and not yet over, `hashed` the hashes computed.
    """

    def __init__(self, *, workers: int, rounds: int, longest_wait: float = 5.0) -> None:
        """`rounds` is bcrypt's cost (log2); `longest_wait` is in seconds."""
        self.waiting = 0
        self.hashed = 0
        self._workers = workers
        self._rounds = rounds
        self._longest_wait = longest_wait
        self._turn_seconds = COST_12_SECONDS * 2.0 ** (rounds - 12)
        # What nothing matches, at the cost of what is stored; made up, since a hash would hold up
        # the start by a quarter of a second, and by far more on a machine that is busy.
        self._dummy = bcrypt.gensalt(rounds) + NO_DIGEST
        self._queue: asyncio.PriorityQueue[tuple[bool, int, _Job]] = asyncio.PriorityQueue()
        self._order = count()
        self._running: dict[Turn, float] = {}  # the hashes at work, and when each began
        self._pool = PinPool(workers)
        self._servers: list[asyncio.Task[None]] = []

    @property
    def restarts(self) -> int:
        """How often lost workers were replaced."""
        return self._pool.restarts

    async def start(self) -> None:
        """Starts the workers; once it returns, a hash costs no more than the hash."""
        await self._pool.start()
        self._servers = [supervised("PIN hasher", self._serve()) for _ in range(self._workers)]

    async def stop(self) -> None:
        """Cancels what waits and ends the workers, in the middle of a hash if need be."""
        servers, self._servers = self._servers, []
        await stopped(*servers)
        while not self._queue.empty():
            self._queue.get_nowait()[-1].answer.cancel()
        await self._pool.stop()

    @contextmanager
    def admit(self) -> Iterator["Turn"]:
        """A place in the queue, given back on exit; raises Overloaded as `_wait` says."""
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
            self._learn(turn)

    def _wait(self) -> float:
        """The seconds until a worker is free for one turn more.

        A turn takes what turns took on average. A hash at work takes as long again as it has by
        now, if that is more; it keeps its worker also when its caller has gone. New workers begin
        their hashes anew.
        """
        now, opened = time.monotonic(), self._pool.opened
        free = [
            max(self._turn_seconds, now - max(began, opened)) for began in self._running.values()
        ]
        free += [0.0] * (self._workers - len(free))
        heapify(free)
        for _ in range(self.waiting - sum(not turn.is_over for turn in self._running)):
            heapreplace(free, free[0] + self._turn_seconds)
        return free[0]

    def _learn(self, turn: "Turn") -> None:
        """Takes what a turn cost into the average, once it and its last hash are over."""
        if turn.is_over and turn.seconds and turn not in self._running:
            self._turn_seconds += SMOOTHING * (turn.seconds - self._turn_seconds)

    async def _ask(self, turn: "Turn", function: Callable[..., Any], *arguments: bytes) -> Any:
        """Queues one hash and awaits its answer; a turn that has had a hash does not queue again.

        Raises Overloaded when the hasher does not run.
        """
        if not self._servers:
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
            self._running[job.turn] = began = time.monotonic()
            restarts = self.restarts
            try:
                result = await self._pool.compute(job.function, *job.arguments)
            except Exception as error:
                if not job.answer.done():
                    job.answer.set_exception(error)
            else:
                self.hashed += 1
                if self.restarts == restarts:  # else it has waited for a new worker
                    job.turn.seconds += time.monotonic() - began
                if not job.answer.done():
                    job.answer.set_result(result)
            finally:
                del self._running[job.turn]
                self._learn(job.turn)
                job.answer.cancel()


class Turn:
    """A place in the queue, for one check or change of a PIN: one hash, or two in succession."""

    def __init__(self, hasher: PinHasher) -> None:
        self.seconds = 0.0
        self.is_over = False
        self._hasher = hasher

    async def hash(self, secret: str) -> str:
        """The bcrypt hash of `secret`; ValueError when it is longer than 72 bytes of UTF-8."""
        encoded = _encoded(secret)
        if len(encoded) > MAX_BYTES:
            raise ValueError(f"bcrypt hashes at most {MAX_BYTES} bytes")
        salt = bcrypt.gensalt(self._hasher._rounds)
        hashed: bytes = await self._hasher._ask(self, bcrypt.hashpw, encoded, salt)
        return hashed.decode()

    async def verify(self, secret: str, hashed: str | None) -> bool:
        """Is `hashed` a hash of `secret`? Nothing that is stored makes it raise.

        What cannot match (no hash, no bcrypt hash, a secret over 72 bytes) takes as long as a
        wrong secret does.
        """
        encoded = _encoded(secret)
        if hashed is None or not WELL_FORMED.fullmatch(hashed) or len(encoded) > MAX_BYTES:
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
