"""Deadlines for requests, which hold even if the database stops responding."""

import asyncio
from collections.abc import Coroutine
from time import monotonic
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

    def watch(self, begun: float | None = None) -> "Deadline":
        """A `with` block of the running task; raises DeadlinePassed if it takes too long.

        The time counts from `begun` (monotonic), or from now.
        """
        return Deadline(self, begun)

    def enter(self, deadline: Expiring) -> None:
        """Calls `expire` of a deadline, once or more, if it does not leave in time."""
        self._running[deadline] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds / TICKS, self._expire_late)

    def leave(self, deadline: Expiring) -> None:
        del self._running[deadline]

    def end(self) -> None:
        """Calls `expire` of all deadlines, because the process stops."""
        for deadline in self._running:
            deadline.expire()

    def timer(self, deadline: Expiring, begun: float) -> asyncio.TimerHandle:
        """A timer for one that began earlier, so that it is not the newest; there are few."""
        return self._loop.call_later(begun + self._seconds - monotonic(), deadline.expire)

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

    __slots__ = ("_begun", "_deadlines", "_expired", "_task", "_timer")

    def __init__(self, deadlines: Deadlines, begun: float | None) -> None:
        self._deadlines = deadlines
        self._begun = begun
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.current_task()
        self._expired = False

    def __enter__(self) -> None:
        if self._begun is None:
            self._deadlines.enter(self)
        else:
            self._timer = self._deadlines.timer(self, self._begun)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is None:
            self._deadlines.leave(self)
        else:
            self._timer.cancel()
        if self._expired and kind is asyncio.CancelledError and self._task is not None:
            self._task.uncancel()
            raise DeadlinePassed("the deadline has passed") from error

    def expire(self) -> None:
        """Cancels the task, once."""
        if not self._expired and self._task is not None:
            self._expired = True
            self._task.cancel()
