"""The schema of a cell, and the name that its tables carry, for migrations."""

from contextlib import suppress

import psycopg

from service.database.migrate_session import Connection, MigrationError, sql


def create_schema(guard: Connection, name: str) -> None:
    """Creates the schema unless it exists or `name` is empty."""
    for (create_statement,) in guard.execute(sql("migration_schema"), [name]).fetchall():
        with suppress(psycopg.errors.UniqueViolation):  # another process creates it
            guard.execute(create_statement)


def refuse_another(guard: Connection, cell: str) -> None:
    """Raises MigrationError if the tables are those of another cell."""
    name = cell_name(guard)
    if name and name != cell:
        raise MigrationError(
            f"The database answers as cell {name}: correct CELLS_FILE."
            if cell
            else f"The tables are cell {name} of several: set CELLS_FILE."
        )


def cell_name(guard: Connection) -> str:
    """The name of the cell that the tables are; empty if they are not one of several."""
    with suppress(psycopg.errors.UndefinedTable):
        for (name,) in guard.execute(sql("cell_name")):
            return str(name)
    return ""
