"""Concurrent calls with one key share a task (single-flight)."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Flight(Generic[Value]):
    """A task that `waiters` callers share."""

    def __init__(self, task: asyncio.Task[Value]) -> None:
        self.task = task
        self.waiters = 0


class SingleFlight(Generic[Key, Value]):
    """Runs at most one task for each key. The task is cancelled with its last caller."""

    def __init__(self) -> None:
        self._flights: dict[Key, Flight[Value]] = {}

    async def run(self, key: Key, call: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Awaits the task of this key, or a new one that runs `call`."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = Flight(asyncio.create_task(call()))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]

    def forget(self, key: Key) -> None:
        """Lets the next caller start a task of its own."""
        self._flights.pop(key, None)

    def clear(self) -> None:
        self._flights.clear()
