"""Waits for a condition, with a time-out."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

T = TypeVar("T")

MAX_SECONDS: Final = 60.0
MAX_PAUSE_SECONDS: Final = 0.05


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]],
    seconds: float = ...,
    until: Callable[[T], object] = ...,
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T], seconds: float = ..., until: Callable[[T], object] = ...
) -> T: ...
async def eventually(
    condition: Callable[[], Any],
    seconds: float = MAX_SECONDS,
    until: Callable[[Any], object] = bool,
) -> Any:
    """The first value of `condition` that is true, or for which `until` is true.

    Calls `condition` again after growing pauses.

    Raises AssertionError with the last value after `seconds`.
    """
    began = time.monotonic()
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if until(value):
            return value
        passed = time.monotonic() - began
        assert passed < seconds, f"after {seconds} seconds the condition is still {value!r}"
        await asyncio.sleep(min(passed / 10, MAX_PAUSE_SECONDS))


def eventually_blocking(condition: Callable[[], T], seconds: float = MAX_SECONDS) -> T:
    """The same for tests without an event loop."""
    began = time.monotonic()
    while not (value := condition()):
        passed = time.monotonic() - began
        assert passed < seconds, f"after {seconds} seconds the condition is still {value!r}"
        time.sleep(min(passed / 10, MAX_PAUSE_SECONDS))
    return value
