"""Compares the tables, and the rights of the role, with those that the statements rely on.

An adopted database can have columns, indexes, triggers and policies of the platform's own. The
catalogue is read by `check` and once at the start, so no request pays for it.
"""

from typing import Final

import msgspec

from service.database.cures import Level, Problem
from service.database.driver import Connection
from service.database.schema import SECONDS, TABLES
from service.database.statement import Statement


class TableErrorRow(msgspec.Struct, frozen=True):
    level: Level
    error: str
    table_name: str
    name: str | None
    found: str | None
    expected: str | None
    role_name: str


class RightsRow(msgspec.Struct, frozen=True):
    missing: list[str]
    role_name: str


CHECK_TABLES: Final = Statement("check_tables", TableErrorRow)
RIGHTS: Final = Statement("check_rights", RightsRow)
PLATFORM: Final = ("users", "profiles", "titles")
# A sentence and a remedy for each error that the statement finds.
SENTENCES: Final = {
    "missing": (
        "column {name} of table {table} is not there",
        "`alter table {table} add column {name} {expected}`",
    ),
    "type": (
        "column {name} of table {table} is {found}, not {expected}",
        "`alter table {table} alter column {name} type {expected} using {name}::{expected}`",
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
        "table {table} has no unique constraint on ({expected}), so no row can be written",
        "remove duplicates, then `create unique index concurrently on {table} ({expected})`",
    ),
    "deferrable": (
        "constraint {name} of table {table} is deferrable, so no row can be written",
        "`alter table {table} drop constraint {name}, add unique ({expected})`",
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
        "row security of table {table} has no policy that allows role {role} to read and insert",
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


async def problems(connection: Connection) -> list[Problem]:
    """The problems that keep the service from reading or writing rows, the worst first."""
    return [_problem(row) for row in await CHECK_TABLES.all(connection)]


def _problem(row: TableErrorRow) -> Problem:
    text, remedy = SENTENCES[row.error]
    if row.error == "value" and row.table_name in PLATFORM:
        text += NEW_ROWS
    names = {**msgspec.structs.asdict(row), "table": row.table_name, "role": row.role_name}
    return Problem(row.level, text.format(**names), remedy.format(**names))


async def missing_rights(connection: Connection) -> list[Problem]:
    """The rights that the role lacks, each with the line that grants it."""
    row = await RIGHTS.one(connection, [*TABLES], timeout=SECONDS)
    return [
        Problem(
            "fault", f"role {row.role_name} may not {right}", f"`grant {right} to {row.role_name}`"
        )
        for right in row.missing
    ]
