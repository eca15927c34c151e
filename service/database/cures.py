"""Problems of a database or a pooler, each in one sentence with its remedy."""

import re
from typing import Final, Literal

import msgspec

from service.database_errors import DatabaseError

Level = Literal["refuse", "fault", "warn"]
LEVELS: Final[tuple[Level, ...]] = ("refuse", "fault", "warn")


class Problem(msgspec.Struct, frozen=True):
    """A finding about a database; at the level `refuse` the service does not start."""

    level: Level
    text: str
    remedy: str


DIRECT: Final = "set DATABASE_DIRECT_URL to the server's own address, around the pooler"
POOLED: Final = f"a pooler is between: set STATEMENT_CACHE_SIZE=0, and {DIRECT}"
READ_ONLY: Final = (
    "it is a standby, or default_transaction_read_only is on for the role, the database or the "
    "server"
)
NEW_DATABASE: Final = (
    "some names cannot be stored in it; copy its rows into a database made with "
    "`create database ... encoding 'UTF8' template template0`"
)
UNREACHED: Final = "check DATABASE_URL, and that the server runs and accepts connections from here"
MIGRATE: Final = "run `viewing-time migrate`"
# Remedies by SQLSTATE, and further ones for errors of the service, but not of a migration.
BY_SQLSTATE: Final = {
    "25006": READ_ONLY,
    "26000": POOLED,  # a prepared statement does not exist
    "42P05": POOLED,  # a prepared statement exists already
}
BY_SQLSTATE_SERVING: Final = {
    "42501": "`viewing-time check` names the right",
    "42703": MIGRATE,  # a column does not exist
    "42883": MIGRATE,  # a function does not exist
    "42P01": MIGRATE,  # a table does not exist
}
# Remedies for errors without a specific SQLSTATE: PgBouncer reports 08P01 for all, the driver and
# libpq none for a failed connection. The first match counts.
BY_TEXT: Final = (
    (r"unsupported startup parameter", POOLED),
    (
        r"server_login_retry|server login has been failing",
        "the pooler cannot log in to the server: start the server, or correct the pooler's own "
        "address, user and password for it",
    ),
    (
        r"no such database",
        "the pooler has no database of that name: correct DATABASE_URL, or add it to the "
        "pooler's configuration",
    ),
    (
        r"query_wait_timeout",
        "the pooler had no connection free in time: raise its default_pool_size, or lower "
        "POOL_MAX_SIZE and HEARTBEAT_CONNECTIONS",
    ),
    (r"Connect call failed", UNREACHED),
    (r"None of the hosts match the target attribute", f"no host takes writes: {READ_ONLY}"),
)


def sentence(error: BaseException) -> str:
    """The error on one line, without a full stop, and its remedy where that is known."""
    line = " ".join((str(error) or type(error).__name__).split()).rstrip(".?")
    return f"{line}: {remedy}" if (remedy := cure(error)) else line


def cure(error: BaseException) -> str:
    """The remedy for the error; empty where that is not known."""
    # An error of connecting has no SQLSTATE, but its cause may have one.
    sqlstate = getattr(error, "sqlstate", "") or getattr(error.__cause__, "sqlstate", "")
    if sqlstate in BY_SQLSTATE:
        return BY_SQLSTATE[sqlstate]
    if sqlstate in BY_SQLSTATE_SERVING and isinstance(error, DatabaseError):
        return BY_SQLSTATE_SERVING[sqlstate]
    return next((remedy for pattern, remedy in BY_TEXT if re.search(pattern, str(error))), "")
