"""Translates the errors of the PostgreSQL driver into those of `service/errors.py`.

The driver raises the same classes for an outage and for a bug of the service: InterfaceError for a
lost connection, but also for a wrong argument. An error counts as an outage only if the driver
raised it while it connected, or if its connection is closed.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction as Transaction

from service.database_errors import (
    DatabaseError,
    Deadlock,
    Elsewhere,
    LockTimeout,
    MissingRight,
    NoAnswer,
    ReadOnly,
    Rejected,
    Unavailable,
    UniqueViolation,
    Unsent,
)
from service.deadlines import DeadlinePassed

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AnyConnection: TypeAlias = "Connection | PoolConnectionProxy[asyncpg.Record]"
Source: TypeAlias = "Pool | AnyConnection"
Cause: TypeAlias = Literal["own", "database", "deadline"]

# The error for each SQLSTATE, or else for its class. 08P01 is not an outage: with it the server
# reports that the service violated the protocol.
KINDS: Final[dict[str, type[DatabaseError]]] = {
    "08": NoAnswer,
    "08P01": DatabaseError,
    "22001": Rejected,  # a text is longer than its column allows
    "23": Rejected,
    "23505": UniqueViolation,
    "25006": ReadOnly,
    "40P01": Deadlock,
    "42501": MissingRight,
    "53": Unavailable,  # no resources: memory, disk, connections
    "55P03": LockTimeout,
    "57": Unavailable,  # an operator or a limit ended the statement
    "57P01": NoAnswer,
    "57P02": NoAnswer,
    "CI": Unavailable,  # Citus: a move ended the statement
    "P0": Rejected,  # raised in PL/pgSQL, by a trigger
    "XX": Unavailable,  # an internal error of the server; of Citus, when a node was lost
    "VC001": Elsewhere,  # see migration 0038
}
# The driver refuses to send on a connection that the server has just ended while it was idle.
UNSENT: Final = "cannot switch to state"
CLIENT: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# After these errors of one host, the next host of the address is tried.
UNREACHABLE: Final = (
    *CLIENT,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
)


def cause(error: BaseException) -> Cause:
    """The cause of a failed request or heartbeat: our own bug, the database or the deadline."""
    if isinstance(error, DeadlinePassed):
        return "deadline"
    return "database" if isinstance(error, Unavailable) else "own"


def is_outage(error: BaseException) -> bool:
    """Whether an error outside any request means that the database cannot be reached."""
    if cause(error) != "own":
        return True
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    is_of_driver = any("asyncpg" in frame.filename for frame in frames)
    return isinstance(error, (asyncpg.PostgresError, *CLIENT)) and is_of_driver


@contextmanager
def translated(source: Source) -> Iterator[None]:
    """Raises DatabaseError for the server's errors, NoAnswer for a lost connection or a time-out.

    Other errors pass unchanged, also an OSError after which the connection is still open: the
    driver did not raise it.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _of_server(source, error) from error
    except (*CLIENT, AttributeError) as error:  # the last one: it was terminated meanwhile
        if isinstance(error, asyncpg.InternalClientError) and str(error).startswith(UNSENT):
            raise Unsent(_text(error)) from error
        if isinstance(error, TimeoutError) or _is_gone(source, error):
            raise NoAnswer(_text(error)) from error
        raise


@contextmanager
def connecting() -> Iterator[None]:
    """Raises Unavailable for every error that the driver raises while it connects."""
    try:
        yield
    except (asyncpg.PostgresError, *CLIENT) as error:
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None
        raise Unavailable(_text(error)) from error


def _of_server(source: Source, error: asyncpg.PostgresError) -> DatabaseError:
    error.detail = None  # it can contain a whole row: never log it
    state = error.sqlstate or ""
    kind = KINDS.get(state) or KINDS.get(state[:2])
    if kind is None:  # SQLSTATEs that the driver does not know come from triggers
        is_unknown = isinstance(error, asyncpg.exceptions.UnknownPostgresError)
        kind = Rejected if is_unknown else DatabaseError
    if not issubclass(kind, Unavailable) and _is_gone(source, error):
        kind = NoAnswer
    names = (error.constraint_name, error.table_name, error.column_name)
    return kind(_text(error), state, *(name or "" for name in names))


def _is_gone(source: Source, error: Exception) -> bool:
    """Whether the connection or the pool is closed; False for a wrong argument."""
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return False  # the driver's own DataError
    if isinstance(source, asyncpg.Pool):
        return source.is_closing() or isinstance(error, OSError)
    try:
        return source.is_closed()
    except asyncpg.InterfaceError:
        return True  # the closed connection has been released to the pool


def _text(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    # A server error without its hint.
    text = str(error.args[0] if isinstance(error, asyncpg.PostgresError) and error.args else error)
    return " ".join(text.split()) or type(error).__name__
