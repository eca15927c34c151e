"""What rules of the platform's own refuse, in a sentence.

An adopted database can have rules that this service does not know: tables that refer to accounts,
columns that need a value, constraints, triggers. They are no bugs of the service. A sentence names
the table, the column or the constraint, never a value: a row can hold secrets.
"""

from typing import Final

import asyncpg

REFUSED: Final = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.PLPGSQLError,
    asyncpg.StringDataRightTruncationError,
    asyncpg.exceptions.UnknownPostgresError,
)


def reason(error: asyncpg.PostgresError, *, is_deletion: bool) -> str:
    """Why the database refuses, for an error that is one of REFUSED."""
    table, constraint = error.table_name, error.constraint_name
    if isinstance(error, asyncpg.StringDataRightTruncationError):
        return "A text is longer than its column in the database allows"
    if not isinstance(error, asyncpg.IntegrityConstraintViolationError) or not table:
        return "A trigger of the database refuses it"
    if is_deletion:
        return f"Table {table} still refers to it"
    if isinstance(error, asyncpg.NotNullViolationError):
        return f"Column {error.column_name} of table {table} needs a value"
    return f"Constraint {constraint} of table {table} refuses it"
