"""Deadlines for requests, which hold even if the database stops responding."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")


class DeadlinePassed(TimeoutError):
    """A request took longer than it may."""


TICKS: Final = 40

_abandoned: Final[set[asyncio.Task[Any]]] = set()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Returns the result of `work`; raises DeadlinePassed after `seconds`.

    Late work is cancelled but not awaited: releasing a connection to a server that does not respond
    can take longer than the request may.
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
        task.exception()  # retrieved, so that asyncio does not log it: the caller has its own error


class Expiring(Protocol):
    def expire(self) -> None: ...


class Deadlines:
    """One timer for all heartbeats; a timer for each would cost a twentieth of a heartbeat.

    All have the same limit, so the oldest expires first. Late ones are found within a fortieth of
    the limit.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[Expiring, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def watch(self) -> "Deadline":
        """A `with` block of the running task; raises DeadlinePassed if it takes too long."""
        return Deadline(self)

    def enter(self, deadline: Expiring) -> None:
        """Calls `expire` of a deadline, once or more, if it does not leave in time."""
        self._running[deadline] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds / TICKS, self._expire_late)

    def leave(self, deadline: Expiring) -> None:
        del self._running[deadline]

    def _expire_late(self) -> None:
        self._timer = None
        late = self._loop.time() - self._seconds
        for deadline, started_at in self._running.items():
            if started_at > late:
                break
            deadline.expire()
        if self._running:
            self._timer = self._loop.call_later(self._seconds / TICKS, self._expire_late)


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
