"""The errors of the PostgreSQL driver, told apart: the database is away, or the service has a bug.

The driver raises the same classes for both: OSError and InterfaceError for a lost connection, and
InterfaceError also for a wrong argument. An error counts as an outage only where the driver raised
it while it connected, or where its connection is gone.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.deadlines import DeadlinePassed
from service.errors import Unavailable, Unsent

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AnyConnection: TypeAlias = "Connection | PoolConnectionProxy[asyncpg.Record]"
Source: TypeAlias = "Pool | AnyConnection"
Cause: TypeAlias = Literal["own", "database", "deadline"]

# The database is not there, cannot be reached or does not answer in time. Left out of class 08 is
# 08P01: the server reports with it that the service broke the protocol.
UNAVAILABLE: Final = (
    Unavailable,
    DeadlinePassed,
    asyncpg.ClientCannotConnectError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ConnectionFailureError,
    asyncpg.ConnectionRejectionError,
    asyncpg.TransactionResolutionUnknownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.ReadOnlySQLTransactionError,
)
# The driver refuses to send on a connection that the server has just ended while it was idle.
UNSENT: Final = "cannot switch to state"
# One host does not let us in, but another of the list may.
UNREACHABLE: Final = (
    *UNAVAILABLE,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
DRIVER: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def cause(error: BaseException) -> Cause:
    """What a request or a heartbeat failed for."""
    if isinstance(error, DeadlinePassed):
        return "deadline"
    return "database" if isinstance(error, UNAVAILABLE) else "own"


def is_outage(error: BaseException) -> bool:
    """Whether an error outside of every request means that the database cannot be reached."""
    if cause(error) != "own":
        return True
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    is_of_driver = any("asyncpg" in frame.filename for frame in frames)
    return isinstance(error, (OSError, *DRIVER)) and is_of_driver


@contextmanager
def translated(source: Source) -> Iterator[None]:
    """Raises Unavailable for errors of the driver that mean a lost connection, or no answer.

    Other errors pass unchanged, among them OSErrors that are not the driver's: the connection is
    still there after those.
    """
    try:
        yield
    except UNAVAILABLE as error:
        _without_detail(error)
        raise
    except (OSError, *DRIVER) as error:
        _without_detail(error)
        if isinstance(error, asyncpg.InternalClientError) and str(error).startswith(UNSENT):
            raise Unsent(_text(error)) from error
        if isinstance(error, TimeoutError) or _is_gone(source, error):
            raise Unavailable(_text(error)) from error
        raise


@contextmanager
def connecting() -> Iterator[None]:
    """Raises Unavailable for whatever the driver raises instead of connecting."""
    try:
        yield
    except UNAVAILABLE as error:
        _without_detail(error)
        raise
    except (OSError, *DRIVER) as error:
        raise Unavailable(_text(error)) from error


def _is_gone(source: Source, error: Exception) -> bool:
    """Whether the connection, or the pool, is closed; a wrong argument is never the reason."""
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return False  # the driver's own DataError
    if isinstance(source, asyncpg.Pool):
        return source.is_closing() or isinstance(error, OSError)
    try:
        return source.is_closed()
    except asyncpg.InterfaceError:
        return True  # the pool has taken the closed connection back


def _without_detail(error: Any) -> None:
    """Removes what the server adds to an error: `detail` can contain a whole row, never log it."""
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None


def _text(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return " ".join(str(error).split()) or type(error).__name__
