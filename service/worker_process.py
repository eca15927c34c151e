"""A worker as its parent sees it: a process, two sockets, and its latest metrics."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from service.operators.prometheus_sum import DECODER, Family
from service.worker import LENGTH_BYTES, RETIRE, SCRAPE

# The working directory is searched for modules only if it is for this process.
SAFE_PATH: Final = () if sys.path[0] == str(Path.cwd()) else ("-P",)
COMMAND: Final = (sys.executable, *SAFE_PATH, "-m", "service", "worker")
SCRAPE_SECONDS: Final = 1.0
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
# The parent alone talks to the service manager.
NOT_INHERITED: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID")


class WorkersFailed(Exception):
    """Workers cannot serve; the message is one sentence. It ends the service, except in a roll."""


class WorkerProcess:
    """A running worker. `ended` is its exit code, once its last metrics have been read."""

    def __init__(
        self, process: asyncio.subprocess.Process, report_ready: Callable[[int], None]
    ) -> None:
        self.pid = process.pid
        self.samples: list[Family] = []
        self.ready_at: float | None = None
        self._ready = asyncio.Event()
        self._process = process
        self._report_ready = report_ready
        self._answer: asyncio.Future[None] | None = None

    async def follow(self, control: socket.socket) -> None:
        """Starts to read what the worker reports."""
        reader, self._writer = await asyncio.open_unix_connection(sock=control)
        self._reading = asyncio.create_task(self._read(reader))
        self.ended = asyncio.create_task(self._end())

    @property
    def served_seconds(self) -> float:
        """How long it has been serving."""
        return 0.0 if self.ready_at is None else time.monotonic() - self.ready_at

    async def serves(self, seconds: float) -> bool:
        """Whether it serves within `seconds`; returns earlier if it ends."""
        serving = asyncio.create_task(self._ready.wait())
        await asyncio.wait(
            (serving, self.ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        serving.cancel()
        return self._ready.is_set() and not self.ended.done()

    async def refresh(self) -> None:
        """Reads the present metrics; keeps the latest ones if the worker does not answer."""
        if self.ready_at is None or self._writer.is_closing():
            return
        if self._answer is None:  # a stuck worker is not asked again
            self._answer = asyncio.get_running_loop().create_future()
            self._writer.write(SCRAPE)
        await asyncio.wait([self._answer], timeout=SCRAPE_SECONDS)

    def retire(self) -> None:
        """Lets the worker drain and stop; another one has taken its place."""
        self._writer.write(RETIRE)

    def send_signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await reader.readexactly(LENGTH_BYTES))
                if size > MAX_MESSAGE_BYTES:
                    return
                message = await reader.readexactly(size)
                if message:
                    self.samples = DECODER.decode(message)
                else:
                    self.ready_at = time.monotonic()
                    self._ready.set()
                    self._report_ready(self.pid)
                self._answered()

    def _answered(self) -> None:
        if self._answer is not None:
            self._answer.set_result(None)
            self._answer = None

    async def _end(self) -> int:
        code = await self._process.wait()
        await asyncio.wait([self._reading], timeout=SCRAPE_SECONDS)
        self._reading.cancel()
        self._answered()
        self._writer.close()
        return code


async def started(
    listeners: Mapping[int, Sequence[socket.socket]],
    number: int,
    variables: Mapping[str, str],
    report_ready: Callable[[int], None],
) -> tuple[WorkerProcess, socket.socket]:
    """Starts the worker `number`; returns it, and the socket over which it has hashes computed.

    `report_ready` is called with its id when it serves. It is in a process group of its own,
    because Ctrl-C on a terminal reaches a whole group, and the parent passes the signal on. Raises
    WorkersFailed.
    """
    try:
        process, control, hashing = await _created(listeners, number, variables)
    except OSError as error:  # no file or process can be had, or Python has been moved away
        raise WorkersFailed(f"Worker {number} cannot be started: {error.strerror}.") from error
    worker = WorkerProcess(process, report_ready)
    await worker.follow(control)
    return worker, hashing


async def _created(
    listeners: Mapping[int, Sequence[socket.socket]], number: int, variables: Mapping[str, str]
) -> tuple[asyncio.subprocess.Process, socket.socket, socket.socket]:
    """The process of a worker, and the two sockets to it; raises OSError."""
    control, its_control = socket.socketpair()
    hashing, its_hashing = socket.socketpair()
    own = [each.fileno() for each in listeners[number]]
    others = [
        each.fileno() for owner, group in listeners.items() if owner != number for each in group
    ]
    links = [its_control.fileno(), its_hashing.fileno()]
    arguments = [",".join(map(str, files)) for files in (own, others, links)]
    with contextlib.ExitStack() as failing, its_control, its_hashing:
        failing.enter_context(control)
        failing.enter_context(hashing)
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            env={name: value for name, value in variables.items() if name not in NOT_INHERITED},
            pass_fds=[*own, *others, *links],
            process_group=0,
        )
        failing.pop_all()
    return process, control, hashing
