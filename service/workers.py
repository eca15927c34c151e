"""The parent of several service processes: binds once, supervises, rolls, and adds up metrics.

uvicorn's own supervisor (`uvicorn.supervisors.Multiprocess`) does not fit:
- It lets all workers accept from the same socket, so in a quiet hour one of them gets nearly all
  clients; ours have sockets of their own, between which the kernel distributes them.
- Its roll stops the old worker with SIGTERM, after which a worker of ours answers 503 at
  `/health/ready` and cuts what it has just accepted. Ours stops accepting, drains and stays ready.
- It reports no readiness, restarts a worker that dies at once without back-off and without end,
  and ends at the first failed start, also while the others serve and the database is away.
- Its workers outlive a parent that is killed, it has no place for common metrics and hashing
  processes, and a second signal does not reach the workers.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from service import worker_metrics
from service.credentials.pin_shared import HashingProcesses
from service.listeners import LISTENERS, sharing
from service.server import has_terminal
from service.service_manager import READY, RELOADING, STOPPING, notify
from service.settings import Settings
from service.worker import COULD_NOT_START
from service.worker_process import WorkerProcess, WorkersFailed, started

logger = logging.getLogger("viewing_time.workers")

MIN_SERVING_SECONDS: Final = 2.0  # a worker that has served for less has died at once
MAX_DEATHS: Final = 5  # at once, in succession, of one worker
RESTART_SECONDS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
START_SECONDS: Final = 60.0  # a worker that takes longer is stuck
METRICS_REMEDY: Final = "set METRICS_PORT: there, one scrape has all workers"
KILL_SECONDS: Final = 5.0  # beyond the grace of a shutdown


class Workers:
    """Keeps WEB_CONCURRENCY workers running until a signal."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        scrape_listener: socket.socket | None,
        variables: Mapping[str, str],
        ready: Callable[[], None],
    ) -> None:
        """`variables` is the environment of the workers; `ready` is called when all serve."""
        self._settings = settings
        self._variables = variables
        self._ready: Callable[[], None] | None = ready
        number = settings.web_concurrency
        each = -(-LISTENERS // number)
        sockets = sharing(listener, each * number)
        self._listeners = {n: sockets[(n - 1) * each : n * each] for n in range(1, number + 1)}
        self._hashing = HashingProcesses(settings.pin_workers)
        self._hashes: set[asyncio.Task[None]] = set()
        self._current: dict[int, WorkerProcess] = {}  # by number
        self._running: set[WorkerProcess] = set()  # with those that are starting or draining
        self._roll_wanted = asyncio.Event()
        self._places = {n: asyncio.Lock() for n in self._listeners}
        self._scrape_listener = scrape_listener
        self._counts = worker_metrics.Counts()

    async def run(self) -> None:
        """Serves until a signal; raises WorkersFailed."""
        self._end: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        self._handle_signals()
        tasks: list[asyncio.Task[None]] = []
        last = signal.SIGTERM
        try:
            await self._hashing.start()
            await self._serve_metrics()
            for number in self._listeners:
                self._current[number] = await self._start(number)
            keeping = worker_metrics.refreshing(self._running)
            for work in (keeping, self._roll(), *map(self._keep, self._listeners)):
                tasks.append(asyncio.create_task(work))
                tasks[-1].add_done_callback(self._check)
            last = await self._end
        finally:
            for task in tasks:
                task.cancel()
            await self._stop(last)
            await self._hashing.stop()

    async def _serve_metrics(self) -> None:
        if self._scrape_listener is None:
            logger.warning("metrics_of_one_worker", extra={"fields": {"remedy": METRICS_REMEDY}})
        else:
            sources = self._counts, self._current, self._running
            await worker_metrics.serving(self._settings, self._scrape_listener, *sources)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received, number)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # set by `nohup`
            loop.add_signal_handler(signal.SIGHUP, self._hung_up, has_terminal())

    def _received(self, number: signal.Signals) -> None:
        """The first signal begins the stop; a further one is passed on, and ends the drain."""
        if self._end.done():
            self._send(number)
        else:
            self._end.set_result(number)

    def _hung_up(self, had_terminal: bool) -> None:
        """Rolls the workers; stops if the reason is that the terminal is gone."""
        if had_terminal and not has_terminal():
            self._received(signal.SIGTERM)
        elif self._ready is not None:
            logger.warning("sighup_ignored")  # the first workers are still starting
        else:
            self._roll_wanted.set()

    async def _roll(self) -> None:
        """Replaces all workers, one after the other, whenever that is wanted."""
        while await self._roll_wanted.wait():
            self._roll_wanted.clear()
            # systemd compares this with the time at which it began the reload.
            notify(f"{RELOADING}\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            for number in self._listeners:
                if not await self._replace(number):
                    logger.error("roll_stopped", extra={"fields": {"worker": number}})
                    break
            else:
                logger.info("rolled")
            notify(READY)

    async def _replace(self, number: int) -> bool:
        """Whether a new worker serves in the place of the present one, which has ended."""
        async with self._places[number]:
            old = self._current[number]
            try:
                new = await self._start(number)
            except WorkersFailed as error:
                logger.error("worker_not_started", extra={"fields": {"reason": str(error)}})
                return False
            if not await new.serves(START_SECONDS):
                new.send_signal(signal.SIGKILL)
                return False
            self._current[number] = new
        old.retire()
        await _ended({old}, self._longest_end())
        old.send_signal(signal.SIGKILL)
        return True

    def _send(self, number: signal.Signals) -> None:
        for worker in self._running:
            worker.send_signal(number)

    async def _start(self, number: int) -> WorkerProcess:
        worker, hashing = await started(
            self._listeners, number, self._variables, self._report_ready
        )
        self._running.add(worker)
        worker.ended.add_done_callback(lambda _: self._forget(worker))
        hashes = asyncio.create_task(self._hashing.answer(hashing))
        self._hashes.add(hashes)
        hashes.add_done_callback(self._hashes.discard)
        hashes.add_done_callback(self._check)
        logger.info("worker_started", extra={"fields": {"worker": number, "pid": worker.pid}})
        return worker

    def _forget(self, worker: WorkerProcess) -> None:
        """Keeps the counts of a worker that has ended."""
        self._running.discard(worker)
        self._counts.keep(worker)

    def _report_ready(self, pid: int) -> None:
        logger.info("worker_ready", extra={"fields": {"pid": pid}})
        if self._ready is not None and self._serve_all():
            ready, self._ready = self._ready, None
            ready()

    def _serve_all(self) -> bool:
        return len(self._current) == len(self._listeners) and all(
            worker.ready_at is not None for worker in self._current.values()
        )

    async def _keep(self, number: int) -> None:
        """Starts the worker `number` again whenever it ends."""
        deaths = 0
        while True:
            worker = self._current[number]
            if not await worker.serves(START_SECONDS):
                worker.send_signal(signal.SIGKILL)
            code = await asyncio.shield(worker.ended)
            async with self._places[number]:
                if self._current[number] is not worker:
                    deaths = 0
                    continue
                deaths = 0 if worker.served_seconds >= MIN_SERVING_SECONDS else deaths + 1
                fields = {"worker": number, "pid": worker.pid, "code": code, "at_once": deaths}
                logger.error("worker_died", extra={"fields": fields})
                self._check_deaths(number, deaths, code)
                if deaths:
                    await asyncio.sleep(RESTART_SECONDS[min(deaths, len(RESTART_SECONDS)) - 1])
                self._current[number] = await self._start(number)
                self._counts.restarts += 1

    def _check_deaths(self, number: int, deaths: int, code: int) -> None:
        """Raises WorkersFailed if it is of no use to start the worker again.

        A worker that cannot start while others serve is tried without end: the database may be
        away, and the others will serve again when it is back.
        """
        if code == COULD_NOT_START:
            if self._ready is not None:
                raise WorkersFailed("The service could not start; the log says why.")
            if any(worker.ready_at is not None for worker in self._running):
                return
        if deaths >= MAX_DEATHS:
            raise WorkersFailed(
                f"Worker {number} has died at once {deaths} times in succession; the log says why."
            )

    def _check(self, task: asyncio.Task[None]) -> None:
        """Ends the service if a task of the parent has failed."""
        if not task.cancelled() and (error := task.exception()) and not self._end.done():
            logger.critical("workers_failed", extra={"fields": {"reason": str(error)}})
            self._end.set_exception(error)

    async def _stop(self, number: signal.Signals) -> None:
        """Passes the signal on and waits for the end of all workers."""
        notify(STOPPING)
        for group in self._listeners.values():
            for listener in group:
                listener.close()
        self._send(number)
        await _ended(self._running, self._longest_end())
        self._send(signal.SIGKILL)
        await _ended(self._running, KILL_SECONDS)

    def _longest_end(self) -> float:
        """The seconds after which a worker that has to end is stuck."""
        settings = self._settings
        return settings.shutdown_drain_seconds + settings.shutdown_grace_seconds + KILL_SECONDS


async def _ended(workers: set[WorkerProcess], seconds: float) -> None:
    """Waits until workers have ended, `seconds` at most."""
    if waiting := [worker.ended for worker in workers]:
        await asyncio.wait(waiting, timeout=seconds)
