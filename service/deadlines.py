"""No request waits for ever, whatever the database does."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, TypeVar

T = TypeVar("T")


class DeadlinePassed(TimeoutError):
    """The time that a request may take has passed."""


TICKS: Final = 40

_abandoned: Final[set[asyncio.Task[Any]]] = set()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, if it does so within `seconds`; raises DeadlinePassed on time if not.

    Late work is cancelled but not waited for: giving back a connection whose server has stopped
    answering can take longer than the request may.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    task.cancel()
    _abandoned.add(task)
    task.add_done_callback(_forget)
    raise DeadlinePassed(f"not done within {seconds:g} s")


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        # Looked at, so that it is not reported as an error nobody saw: the caller was told.
        task.exception()


class Deadlines:
    """One timer for all heartbeats: a timer for each would cost a twentieth of its beat.

    All have the same time, so the oldest is the first to be late. Late ones are found within a
    fortieth of the time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[Deadline, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def watch(self) -> "Deadline":
        """A block of the running task that ends with DeadlinePassed when it takes too long."""
        return Deadline(self)

    def enter(self, deadline: "Deadline") -> None:
        self._running[deadline] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds / TICKS, self._look)

    def leave(self, deadline: "Deadline") -> None:
        del self._running[deadline]

    def _look(self) -> None:
        self._timer = None
        late = self._loop.time() - self._seconds
        for deadline, begun in self._running.items():
            if begun > late:
                break
            deadline.expire()
        if self._running:
            self._timer = self._loop.call_later(self._seconds / TICKS, self._look)


class Deadline:
    """One watched block."""

    __slots__ = ("_deadlines", "_expired", "_task")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._task = asyncio.current_task()
        self._expired = False

    def __enter__(self) -> None:
        self._deadlines.enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deadlines.leave(self)
        if self._expired and kind is asyncio.CancelledError and self._task is not None:
            self._task.uncancel()
            raise DeadlinePassed("the deadline has passed") from error

    def expire(self) -> None:
        """Cancels the task, once."""
        if not self._expired and self._task is not None:
            self._expired = True
            self._task.cancel()
