"""Compares the tables with what the statements rely on.

An adopted database can have columns, indexes, triggers and policies of the platform's own. The
catalogue is read by `check` and once at the start, so no request pays for it.
"""

from typing import Final, Literal

import msgspec

from service.database.driver import Connection
from service.database.in_force import Wrong
from service.database.statement import Statement


class TableErrorRow(msgspec.Struct, frozen=True):
    level: Literal["refuse", "fault", "warn"]
    error: str
    table_name: str
    name: str | None
    found: str | None
    wanted: str | None
    role_name: str


LOOK: Final = Statement("check_tables", TableErrorRow)
PLATFORM: Final = ("users", "profiles", "titles")
# A sentence and a remedy for each fault of the statement.
SENTENCES: Final = {
    "missing": (
        "column {name} of table {table} is not there",
        "`alter table {table} add column {name} {wanted}`",
    ),
    "type": (
        "column {name} of table {table} is {found}, not {wanted}",
        "`alter table {table} alter column {name} type {wanted} using {name}::{wanted}`",
    ),
    "written": (
        "column {name} of table {table} is generated, so the service cannot write it",
        "make it a plain column of the same type",
    ),
    "null": (
        "column {name} of table {table} needs a value, but the service writes nulls there",
        "`alter table {table} alter column {name} drop not null`, and drop a check that it is "
        "not null",
    ),
    "value": (
        "column {name} of table {table} needs a value that the service does not give",
        "give it a default: `alter table {table} alter column {name} set default ...`",
    ),
    "key": (
        "table {table} has no unique constraint on ({wanted}), so no row can be written",
        "remove duplicates, then `create unique index concurrently on {table} ({wanted})`",
    ),
    "deferrable": (
        "constraint {name} of table {table} is deferrable, so no row can be written",
        "`alter table {table} drop constraint {name}, add unique ({wanted})`",
    ),
    "invalid": (
        "unique index {name} of table {table} is invalid, so no row can be written",
        "remove duplicates, then `reindex index concurrently {name}`",
    ),
    "rule": (
        "rule {name} of table {table} changes statements, so those of the service can fail",
        "`drop rule {name} on {table}`",
    ),
    "security": (
        "row security of table {table} has no policy that lets role {role} read and insert",
        "`create policy viewing on {table} to {role} using (true) with check (true)`",
    ),
    "policies": (
        "row security of table {table} is in force for role {role} and may hide or refuse rows",
        "look at its policies, or give the role BYPASSRLS",
    ),
    "trigger": (
        "trigger {name} of table {table} may change or refuse rows of the service",
        "make sure that it lets them pass",
    ),
    "generated": (
        "column {name} of table {table} is generated and may refuse rows of the service",
        "make sure that its expression fails for no row",
    ),
    "unique": (
        "unique index {name} of table {table} may refuse rows of the service",
        "drop it, or make sure that it lets them pass",
    ),
}
NEW_ROWS: Final = "; PUT and import of new rows answer 409"


async def wrong(connection: Connection) -> list[Wrong]:
    """What keeps the service from reading or writing rows, the gravest first."""
    return [_said(row) for row in await LOOK.all(connection)]


def _said(row: TableErrorRow) -> Wrong:
    what, remedy = SENTENCES[row.error]
    if row.error == "value" and row.table_name in PLATFORM:
        what += NEW_ROWS
    names = {
        "table": row.table_name,
        "name": row.name,
        "found": row.found,
        "wanted": row.wanted,
        "role": row.role_name,
    }
    return Wrong(row.level, what.format(**names), remedy.format(**names))
