"""Supervises what no caller waits for: long-lived tasks, callbacks of the event loop, threads.

A background task that dies silently leaves requests waiting for it forever. Its death is therefore
logged, makes the process unready and ends it with a graceful shutdown, so that it is restarted.
"""

import asyncio
import logging
import threading
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar
from weakref import WeakSet

from service.observing.metrics import Metrics

logger = logging.getLogger("viewing_time.supervision")

T = TypeVar("T")

DIED: Final = "background_task_died"

_stopping: Final[WeakSet[Task[Any]]] = WeakSet()


def supervised(name: str, work: Coroutine[Any, Any, T]) -> Task[T]:
    """Starts a task whose failure ends the process; it can return, or be ended by `stopped`."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_report_death)
    return task


async def stopped(*tasks: Task[Any] | None) -> None:
    """Cancels supervised tasks and waits for their end."""
    started = [task for task in tasks if task is not None]
    for task in started:
        _stopping.add(task)
        task.cancel()
    await asyncio.gather(*started, return_exceptions=True)


def _report_death(task: Task[Any]) -> None:
    """Reports a task that failed, or was cancelled by anything except `stopped`."""
    loop = task.get_loop()
    if task in _stopping:
        return
    if task.cancelled():
        # The end of the event loop cancels the tasks that are left, after the Supervisor's block.
        if isinstance(loop.get_exception_handler(), Supervisor):
            loop.call_exception_handler({"message": DIED, "task": task})
    elif (error := task.exception()) is not None:
        loop.call_exception_handler({"message": DIED, "task": task, "exception": error})


class Supervisor:
    """The exception handler of the event loop and of threads, within its `with` block.

    `end` is called once, when the first background task or thread has died; `is_outage` returns
    whether an error means that the database cannot be reached.
    """

    def __init__(
        self,
        metrics: Metrics,
        end: Callable[[], None],
        is_outage: Callable[[BaseException], bool],
    ) -> None:
        self.has_died = False
        self._is_outage = is_outage
        self._metrics = metrics
        self._end = end

    def __enter__(self) -> "Supervisor":
        self._loop = asyncio.get_running_loop()
        self._before = self._loop.get_exception_handler(), threading.excepthook
        self._loop.set_exception_handler(self)
        threading.excepthook = self._thread_failed
        return self

    def __exit__(self, *_: object) -> None:
        handler, threading.excepthook = self._before
        self._loop.set_exception_handler(handler)

    def __call__(self, loop: AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs what failed outside of every request; a task that died ends the process."""
        error = context.get("exception")
        fields = {"message": context["message"]}
        if context["message"] == DIED:
            self._died(context["task"].get_name(), error)
        elif error is not None and self._is_of_network(context, error):
            fields["error"] = f"{type(error).__name__}: {error}"
            logger.warning("connection_failed", extra={"fields": fields})
        else:
            self._metrics.failures["own"] += 1
            logger.error("callback_failed", extra={"fields": fields}, exc_info=error)

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Called in the thread that failed; the log's own thread cannot log its failure."""
        if failure.exc_type is SystemExit:
            return
        name = "a thread" if failure.thread is None else f"thread {failure.thread.name}"
        if name == "thread log":
            threading.__excepthook__(failure)
        self._loop.call_soon_threadsafe(self._died, name, failure.exc_value)

    def _died(self, name: str, error: BaseException | None) -> None:
        self._metrics.failures["own"] += 1
        logger.critical(DIED, extra={"fields": {"task": name}}, exc_info=error)
        if not self.has_died:
            self.has_died = True
            self._end()

    def _is_of_network(self, context: dict[str, Any], error: BaseException) -> bool:
        """Whether the connection of a client or of the database failed, not the service."""
        is_of_peer = isinstance(error, OSError) and ("transport" in context or "socket" in context)
        return is_of_peer or self._is_outage(error)
