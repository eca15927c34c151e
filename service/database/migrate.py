"""Migrates a database to this version, and back: one process at a time, restartable.

yoyo applies and records `migrations/*.sql`. This module adds a lock that ends with its process, the
repair of interrupted index builds, and errors that name the session that holds a lock. It blocks:
call it from the command line or a thread.
"""

import getpass
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import psycopg
from yoyo import get_backend

from service.database import migrate_cell
from service.database.migrate_session import (
    Connection,
    address,
    connected,
    explained,
    guarding,
    sql,
)
from service.database.migrate_session import MigrationError as MigrationError
from service.database.migrate_session import UnreachableError as UnreachableError
from service.database.migrate_steps import all_migrations
from service.database.schema import ours
from service.database.statement import ROLLBACK, migration_texts

POLL_SECONDS: Final = 0.1
# Of statements that lock tables of heartbeats: half a minute in all.
MAX_LOCK_TRIES: Final = 60
LOCK_PAUSE_SECONDS: Final = 0.5
CELLS: Final = "0038_cells"
# A rollback that drops one of these breaks the running version; a dropped index only costs time.
HARM: Final = re.compile(
    r"\bdrop\s+(table|column|function|constraint)\s+(?:if\s+exists\s+)?([\w.]+)"
)

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """The migrations that a rollback reverts, the latest first, and the harm that it does.

    `harmful` has the objects that this version needs and the rollback drops, by migration;
    `services` counts the connections of services that run on the database now.
    """

    ids: list[str]
    harmful: dict[str, list[str]]
    services: int


def migrate(dsn: str, schema: str = "", cell: str = "") -> list[str]:
    """Applies the pending migrations and returns their ids in order.

    After an error the earlier ones stay applied, and another run continues from there. The tables
    become those of `cell`, if there are several cells. Raises MigrationError.
    """
    applied: list[str] = []
    with _migrating(dsn, schema, cell) as (guard, yoyo, migrations, _):
        _drop_invalid_indexes(guard, yoyo, migrations)
        for migration in yoyo.to_apply(migrations):
            with explained(f"Migration {migration.id}", guard):
                yoyo.apply_one(migration)
            applied.append(migration.id)
            log.info("migration_applied", extra={"fields": {"migration": migration.id}})
        if guard.execute(sql("migration_citus")).fetchall()[0][0]:
            guard.execute(sql("citus/heartbeat"))
        if cell:
            patiently(guard, "migration_cell_join", cell)
        try:
            add_months(guard, is_forced=False)
        except psycopg.errors.LockNotAvailable:
            log.warning("balance_months_not_added")  # a running service tries again every day
    return applied


def rollback(
    dsn: str,
    target: str | None = None,
    agreed: Callable[[Plan], bool] = lambda _: True,
    schema: str = "",
    cell: str = "",
) -> list[str]:
    """Reverts the latest migration, or all down to and including `target`; returns their ids.

    Tables and rows stay. Nothing is reverted unless `agreed` returns true. Raises MigrationError,
    also if `target` is not applied.
    """
    rolled_back: list[str] = []
    with _migrating(dsn, schema, cell) as (guard, yoyo, migrations, services):
        latest_first = list(yoyo.to_rollback(migrations))
        ids = [migration.id for migration in latest_first]
        if target is not None and target not in ids:
            raise MigrationError(f"Migration {target} is not applied.")
        count = 1 if target is None else ids.index(target) + 1
        if CELLS in ids[:count] and (name := migrate_cell.cell_name(guard)):
            raise MigrationError(
                f"Migration {CELLS} is not rolled back from the tables of cell {name}."
            )
        harmful = {name: dropped for name in ids[:count] if (dropped := _dropped(name))}
        if not ids or not agreed(Plan(ids[:count], harmful, services)):
            return []
        for migration in latest_first[:count]:
            with explained(f"Migration {migration.id}", guard):
                yoyo.rollback_one(migration)
            rolled_back.append(migration.id)
            log.info("migration_rolled_back", extra={"fields": {"migration": migration.id}})
    return rolled_back


def _dropped(name: str) -> list[str]:
    """The objects that the rollback drops and this version needs, such as `table users`."""
    code = migration_texts().get(name + ROLLBACK, "")
    return [" ".join(each) for each in HARM.findall(re.sub(r"--[^\n]*", "", code))]


def add_months(guard: Connection, *, is_forced: bool) -> list[str]:
    """Creates the missing partitions of balances and returns their names."""
    names = []
    while name := patiently(guard, "balance_month_add", is_forced)[0][0]:
        names.append(name)
        log.info("balance_month_added", extra={"fields": {"partition": name}})
    return names


def patiently(guard: Connection, name: str, *arguments: object) -> list[tuple[Any, ...]]:
    """Runs a statement that gives up waiting for a lock after milliseconds, until it succeeds.

    Heartbeats run in the pauses. Raises the error of the last try.
    """
    for _ in range(MAX_LOCK_TRIES - 1):
        with suppress(psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            return guard.execute(sql(name), arguments).fetchall()
        time.sleep(LOCK_PAUSE_SECONDS)
    return guard.execute(sql(name), arguments).fetchall()


def listing(dsn: str, schema: str = "") -> list[tuple[str, bool]]:
    """The id of every migration in order, and whether it is applied; takes no lock.

    Raises MigrationError.
    """
    with connected(address(dsn, schema)) as connection:
        try:
            applied = {row[0] for row in connection.execute(sql("migration_applied"))}
        except psycopg.errors.UndefinedTable:
            applied = set()  # the database has never been migrated
    return [(name, name in applied) for name in sorted(ours())]


@contextmanager
def _migrating(dsn: str, schema: str, cell: str) -> Iterator[tuple[Connection, Any, Any, int]]:
    """The connection that holds the lock, yoyo with its own, all migrations, count of services."""
    with guarding(dsn, schema) as (guard, yoyo_address, services):
        migrate_cell.create_schema(guard, schema)
        take_lock(guard)
        _refuse_to_shadow(guard)
        migrate_cell.refuse_another(guard, cell)
        _name_the_user()
        with get_backend(yoyo_address) as yoyo:
            # While this process holds the lock, a row in yoyo's lock table is left from a dead one.
            yoyo.break_lock()
            with yoyo.lock():
                yield guard, yoyo, all_migrations(), services


def take_lock(guard: Connection) -> None:
    """Waits until this connection is the only one that migrates the database."""
    while True:
        is_taken, may_create = guard.execute(sql("migration_lock")).fetchall()[0]
        if not may_create:
            raise MigrationError(
                f"Role {guard.info.user} may not create tables in database {guard.info.dbname}: "
                "migrate as the owner of its tables."
            )
        if is_taken:
            return
        time.sleep(POLL_SECONDS)


def _refuse_to_shadow(guard: Connection) -> None:
    """Raises MigrationError if new tables would hide existing ones."""
    row = guard.execute(sql("migration_shadowed")).fetchone()
    if row is not None:
        table_name, its_schema, first_schema = row
        raise MigrationError(
            f"Table {table_name} is in schema {its_schema}, but an empty one made in schema "
            f"{first_schema} would hide it: set the search_path of role {guard.info.user}, or in "
            f"the options of DATABASE_URL, so that {its_schema} comes first, or is left out if "
            "its tables are not meant."
        )


def _drop_invalid_indexes(guard: Connection, yoyo: Any, migrations: Any) -> None:
    """Drops the invalid indexes of interrupted builds, so that their migrations build them again.

    A migration `0006_ix_name` builds the index `ix_name` only.
    """
    builders = {migration.id.partition("_")[2]: migration for migration in migrations}
    for index_name, drop_statement in invalid_indexes(guard, list(builders)):
        builder = builders[index_name]
        with explained(f"Migration {builder.id}", guard):
            guard.execute(drop_statement)
            if yoyo.is_applied(builder):
                yoyo.unmark_one(builder)
        log.warning("invalid_index_dropped", extra={"fields": {"index": index_name}})


def invalid_indexes(guard: Connection, names: list[str]) -> list[tuple[str, str]]:
    """The name and the drop statement of each invalid index, once no build is running.

    The server continues a build after the client that started it has been killed.
    """
    while True:
        rows = guard.execute(sql("migration_invalid_indexes"), [names]).fetchall()
        if not any(is_being_built for _, _, is_being_built in rows):
            return [(index_name, drop_statement) for index_name, drop_statement, _ in rows]
        time.sleep(POLL_SECONDS)


def _name_the_user() -> None:
    """Names the user for yoyo's record if the system has no name, as in many containers."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())
