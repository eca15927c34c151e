"""Errors that many waiters share."""

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


def without_frames(error: E) -> E:
    """Removes the tracebacks of an error and of its causes.

    Their frames refer to the waiters, and the waiters to the error. Only the garbage collector
    frees these cycles, and it is tuned to run rarely.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
