"""Compares the schema of a database with the one that this version needs."""

from functools import cache
from typing import Final

import msgspec

from service.database.driver import Source
from service.database.statement import ROLLBACK, Statement, migration_texts


class TablesRow(msgspec.Struct, frozen=True):
    missing: list[str]
    elsewhere: str | None
    is_recorded: bool
    is_readable: bool


class MigrationRow(msgspec.Struct, frozen=True):
    migration_id: str


FIND_TABLES: Final = Statement("schema_tables", TablesRow)
APPLIED: Final = Statement("migration_applied", MigrationRow)
SECONDS: Final = 10.0
# A test compares them with the migrations.
TABLES: Final = (
    "users",
    "profiles",
    "titles",
    "viewing_time_configs",
    "viewing_time_balances",
    "viewing_sessions",
    "time_grants",
    "viewing_time_attempts",
    "viewing_time_password_failures",
    "pending_deletions",
    "viewing_time_request_keys",
    "viewing_strict_accounts",
    "viewing_schedules",
    "viewing_exceptions",
    "viewing_locks",
    "viewing_clocks",
    "viewing_report_links",
    "viewing_events",
    "viewing_event_feed",
    "viewing_deliveries",
    "viewing_requests",
    "viewing_cell",
    "viewing_cell_slots",
    "viewing_cell_accounts",
)


class State(msgspec.Struct, frozen=True):
    """The schema of a database, compared with that of this version.

    `error` is the reason this version cannot serve from it, empty if it can. `unknown` are the
    migrations of a later version, in order; it is empty if the role may not read the record of
    migrations (`is_readable`).
    """

    error: str
    remedy: str
    unknown: list[str]
    is_readable: bool


async def state(source: Source) -> State:
    """Reads the state of the schema with two short statements that need no right."""
    tables = await FIND_TABLES.one(source, [*TABLES], timeout=SECONDS)
    applied: frozenset[str] = frozenset()
    if tables.is_readable:
        applied = frozenset(row.migration_id for row in await APPLIED.all(source))
    elif tables.is_recorded:
        applied = ours()
    error, remedy = _error(tables, sorted(ours() - applied))
    is_readable = tables.is_readable or not tables.is_recorded
    return State(error, remedy, sorted(applied - ours()), is_readable)


def _error(tables: TablesRow, pending: list[str]) -> tuple[str, str]:
    if tables.missing and tables.elsewhere is not None:
        return (
            f"table {tables.missing[0]} is not there: schema {tables.elsewhere} has such tables, "
            "but the search_path leaves it out or the role may not use it",
            "grant usage on the schema to the role, or set the role's search_path",
        )
    if pending:
        count = f"{len(pending)} of {len(ours())}"
        error = f"{count} migrations are not applied, from {pending[0]} on"
        return error, "run `viewing-time migrate`"
    if tables.missing:
        return f"table {tables.missing[0]} is not there", "restore the table"
    return "", ""


@cache
def ours() -> frozenset[str]:
    """The ids of this version's migrations."""
    return frozenset(name for name in migration_texts() if not name.endswith(ROLLBACK))
