"""The failures of the database, raised by `database/driver.py` from the errors of the driver."""

from typing import Final

PROTOCOL_VIOLATION: Final = "08P01"  # SQLSTATE


class DatabaseError(Exception):
    """The database has failed.

    `sqlstate`, `constraint`, `table` and `column` are empty where the server named none.
    """

    def __init__(
        self,
        message: str,
        sqlstate: str = "",
        constraint: str = "",
        table: str = "",
        column: str = "",
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.table = table
        self.column = column


class MissingRight(DatabaseError):
    """The role may not do what the statement needs."""


class Rejected(DatabaseError):
    """A constraint, a trigger or a column of the database rejects a row."""


class UniqueViolation(Rejected):
    """Another row has the same key."""


class Unavailable(DatabaseError):
    """The database cannot serve the request now: 503, to be tried again."""


class NoAnswer(Unavailable):
    """The connection was lost or no answer came in time: the statement may have been applied."""


class Unsent(Unavailable):
    """The connection was lost before the statement was sent: nothing of it was applied."""


class LockTimeout(Unavailable):
    """Another transaction held a lock for longer than `lock_timeout`."""


class Deadlock(Unavailable):
    """The server ended the transaction because it and another waited for each other."""


class ReadOnly(Unavailable):
    """The server takes no writes: another one has become the primary."""


class WrongTables(Unavailable):
    """The tables are not those of the cell that CELLS_FILE expects there."""


class Elsewhere(Unavailable):
    """The account belongs to another cell, which this process has not known."""
