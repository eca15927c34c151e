"""Errors of a database or a pooler as one sentence that names what cures them."""

import re
from typing import Final

from service.errors import DatabaseError

DIRECT: Final = "set DATABASE_DIRECT_URL to the server's own address, around the pooler"
POOLED: Final = f"a pooler is between: set STATEMENT_CACHE_SIZE=0, and {DIRECT}"
MIGRATE: Final = "run `viewing-time migrate`"
READ_ONLY: Final = (
    "it is a standby, or default_transaction_read_only is on for the role, the database or the "
    "server"
)
NEW_DATABASE: Final = (
    "some names cannot be stored in it; copy its rows into a database made with "
    "`create database ... encoding 'UTF8' template template0`"
)
# What the server, PgBouncer or the driver says; the first that matches counts.
CURES: Final = (
    (r"unsupported startup parameter", POOLED),
    (r'prepared statement "[^"]*" (does not exist|already exists)', POOLED),
    (
        r"server_login_retry|server login has been failing",
        "the pooler cannot log in to the server: start the server, or correct the pooler's own "
        "address, user and password for it",
    ),
    (
        r"no such database",
        "the pooler knows no database of that name: correct DATABASE_URL, or add it to the "
        "pooler's configuration",
    ),
    (
        r"query_wait_timeout",
        "the pooler had no connection free in time: raise its default_pool_size, or lower "
        "POOL_MAX_SIZE and HEARTBEAT_CONNECTIONS",
    ),
    (r"None of the hosts match the target attribute", f"no host takes writes: {READ_ONLY}"),
    (r"in a read-only transaction", READ_ONLY),
    (r"^permission denied (for|to create temporary)", "`viewing-time check` names the right"),
)
# SQLSTATEs of a missing table, column or function.
NOT_MIGRATED: Final = ("42P01", "42703", "42883")


def sentence(error: BaseException) -> str:
    """The error on one line, without a full stop, and what cures it where that is known."""
    line = " ".join((str(error) or type(error).__name__).split()).rstrip(".?")
    return f"{line}: {known}" if (known := cure(error)) else line


def cure(error: BaseException) -> str:
    """What cures the error; empty where that is not known."""
    if isinstance(error, DatabaseError) and error.sqlstate in NOT_MIGRATED:
        return MIGRATE
    return next((cure for pattern, cure in CURES if re.search(pattern, str(error))), "")
