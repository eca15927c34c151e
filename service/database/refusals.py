"""What rules of the platform's own refuse, in a sentence.

An adopted database can have rules that this service does not know: tables that refer to accounts,
columns that need a value, constraints, triggers. They are no bugs of the service. A sentence names
the table, the column or the constraint, never a value: a row can hold secrets.
"""

from typing import Final

import asyncpg

from service.errors import (
    TEXT_TOO_LONG,
    TRIGGER_REFUSED,
    Sentence,
    constraint_refused,
    still_referred_to,
    value_needed,
)

REFUSED: Final = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.PLPGSQLError,
    asyncpg.StringDataRightTruncationError,
    asyncpg.exceptions.UnknownPostgresError,
)


def sentence(error: asyncpg.PostgresError, *, is_deletion: bool) -> Sentence:
    """Why the database refuses, for an error that is one of REFUSED."""
    table, constraint = error.table_name, error.constraint_name
    if isinstance(error, asyncpg.StringDataRightTruncationError):
        return TEXT_TOO_LONG
    if not isinstance(error, asyncpg.IntegrityConstraintViolationError) or not table:
        return TRIGGER_REFUSED
    if is_deletion:
        return still_referred_to(table)
    if isinstance(error, asyncpg.NotNullViolationError):
        return value_needed(error.column_name, table)
    return constraint_refused(constraint, table)
