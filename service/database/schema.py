"""Compares the schema of a database with the one that this version needs."""

from functools import cache
from typing import Final

import msgspec

from service.database.driver import Source
from service.database.statement import Statement, files


class TablesRow(msgspec.Struct, frozen=True):
    missing: list[str]
    elsewhere: str | None
    is_recorded: bool
    is_readable: bool


class MigrationRow(msgspec.Struct, frozen=True):
    migration_id: str


LOOK: Final = Statement("schema_tables", TablesRow)
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
)


class State(msgspec.Struct, frozen=True):
    """The schema of a database, compared with that of this version.

    `pending` are migrations that are not applied, `unknown` those of a later version, both in
    order. Both are empty if the role may not read the record (`is_readable`).
    """

    pending: list[str]
    unknown: list[str]
    missing: list[str]
    elsewhere: str | None
    is_readable: bool

    @property
    def error(self) -> str:
        """Why this version cannot serve from the schema; empty if it can."""
        if self.missing and self.elsewhere is not None:
            return (
                f"table {self.missing[0]} is not there: schema {self.elsewhere} has such tables, "
                "but the search_path leaves it out or the role may not use it"
            )
        if self.pending:
            return (
                f"{len(self.pending)} of {len(ours())} migrations are not applied, "
                f"from {self.pending[0]} on"
            )
        if self.missing:
            return f"table {self.missing[0]} is not there"
        return ""

    @property
    def remedy(self) -> str:
        """The remedy for `error`."""
        if self.missing and self.elsewhere is not None:
            return "grant usage on the schema to the role, or set the role's search_path"
        return "run `viewing-time migrate`" if self.pending else "restore the table"


async def state(source: Source) -> State:
    """Reads the state of the schema with two short statements that need no right."""
    tables = await LOOK.one(source, [*TABLES], timeout=SECONDS)
    applied: frozenset[str] = frozenset()
    if tables.is_readable:
        applied = frozenset(row.migration_id for row in await APPLIED.all(source))
    elif tables.is_recorded:
        applied = ours()
    return State(
        pending=sorted(ours() - applied),
        unknown=sorted(applied - ours()),
        missing=tables.missing,
        elsewhere=tables.elsewhere,
        is_readable=tables.is_readable or not tables.is_recorded,
    )


@cache
def ours() -> frozenset[str]:
    """The ids of this version's migrations."""
    names = {path.stem for path in files("migrations").glob("*.sql")}
    return frozenset(name for name in names if not name.endswith(".rollback"))
