"""A sentence for each row that a rule of the platform rejects.

An adopted database can have rules of its own: tables that refer to accounts, columns that need a
value, constraints, triggers. They are not bugs of the service. A sentence names the table, the
column or the constraint, never a value: a row can contain secrets.
"""

from service.database_errors import Rejected
from service.errors import (
    TEXT_TOO_LONG,
    TRIGGER_REFUSED,
    Sentence,
    constraint_refused,
    still_referred_to,
    value_needed,
)


def sentence(error: Rejected, *, is_deletion: bool) -> Sentence:
    """Why the database rejects a row or, at a deletion, keeps it."""
    if error.sqlstate == "22001":
        return TEXT_TOO_LONG
    if not error.sqlstate.startswith("23") or not error.table:
        return TRIGGER_REFUSED
    if is_deletion:
        return still_referred_to(error.table)
    if error.sqlstate == "23502":
        return value_needed(error.column, error.table)
    return constraint_refused(error.constraint, error.table)
