"""The processes that hash PINs: started, replaced when one is lost, ended."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeVar

from service.credentials.pin_worker import Spawn, begin, keep_secrets
from service.errors import Overloaded
from service.observing.supervision import supervised

logger = logging.getLogger("viewing_time.pin")

T = TypeVar("T")

MAX_SECONDS: Final = 60.0  # a worker that takes longer counts as lost


class PinPool:
    """The workers. `restarts` counts their replacements; the latest were started at `opened`."""

    def __init__(self, workers: int) -> None:
        self.restarts = 0
        self.opened = 0.0
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._endings: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Starts the workers; once it returns, a call costs no more than its function."""
        self._pool = self._open()
        try:
            await self.compute(os.getpid)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends the workers, in the middle of a call if need be.

        One child stays: multiprocessing's resource tracker, which serves the whole process and
        ends with it.
        """
        pool, self._pool = self._pool, None
        if pool is not None:
            self._close(pool)
            await asyncio.gather(*self._endings)

    async def compute(self, function: Callable[..., T], *arguments: bytes) -> T:
        """Runs a function in a worker, once more where the worker was lost.

        Raises Overloaded when it was lost again.
        """
        try:
            return await self._attempt(function, *arguments)
        except BrokenProcessPool:
            try:
                return await self._attempt(function, *arguments)
            except BrokenProcessPool as error:
                raise Overloaded(1) from error

    async def _attempt(self, function: Callable[..., T], *arguments: bytes) -> T:
        pool = self._pool
        assert pool is not None
        loop = asyncio.get_running_loop()
        try:
            call = loop.run_in_executor(pool, function, *arguments)
            # Cancelling us does not cancel the call: a pool that loses a worker while it holds a
            # cancelled call fails to end the others. Somebody must look at how the call ended.
            call.add_done_callback(asyncio.Future.exception)
            done, _ = await asyncio.wait((call,), timeout=MAX_SECONDS)
            if not done:
                raise BrokenProcessPool("a worker does not answer")
            return call.result()
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
        self.opened = time.monotonic()
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
