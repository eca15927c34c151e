"""Brings a database to the tables of this version, and back: one process at a time, restartable.

The migrations are `migrations/*.sql`, applied and recorded by yoyo. This adds what yoyo lacks: a
lock that dies with its process, the repair of interrupted index builds, and errors that say who
stands in the way. Blocking: call it from the command line or a thread.
"""

import getpass
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from typing import Any, Final, NamedTuple

import psycopg
from yoyo import get_backend, read_migrations

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
from service.database.statement import files

POLL_SECONDS: Final = 0.1
# What a rollback can take from the version that runs: an index costs time only.
HARM: Final = re.compile(
    r"\bdrop\s+(table|column|function|constraint)\s+(?:if\s+exists\s+)?([\w.]+)"
)

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """The migrations that a rollback takes back, the latest first, and whom that hurts.

    `harmful` are those that drop what this version needs, each with what it drops; `services`
    counts the connections of services that run on the database now.
    """

    ids: list[str]
    harmful: dict[str, list[str]]
    services: int


def migrate(dsn: str) -> list[str]:
    """Applies what is not applied yet, and returns its ids in order.

    What had been applied before an error stays so; running it again goes on from there.
    Raises MigrationError.
    """
    applied: list[str] = []
    with _migrating(dsn) as (guard, yoyo, migrations, _):
        _drop_invalid_indexes(guard, yoyo, migrations)
        for migration in yoyo.to_apply(migrations):
            with explained(f"Migration {migration.id}", guard):
                yoyo.apply_one(migration)
            applied.append(migration.id)
            log.info("migration_applied", extra={"fields": {"migration": migration.id}})
    return applied


def rollback(
    dsn: str, target: str | None = None, agreed: Callable[[Plan], bool] = lambda _: True
) -> list[str]:
    """Takes back the latest migration, or all down to and with `target`; returns their ids.

    Tables and rows stay. Nothing is taken back unless `agreed` returns true. Raises MigrationError,
    also when `target` is not applied.
    """
    rolled_back: list[str] = []
    with _migrating(dsn) as (guard, yoyo, migrations, services):
        latest_first = list(yoyo.to_rollback(migrations))
        ids = [migration.id for migration in latest_first]
        if target is not None and target not in ids:
            raise MigrationError(f"Migration {target} is not applied.")
        count = 1 if target is None else ids.index(target) + 1
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
    """What the rollback of a migration drops that this version needs, such as `table users`."""
    path = files("migrations") / f"{name}.rollback.sql"
    code = path.read_text(encoding="utf-8") if path.exists() else ""
    return [" ".join(each) for each in HARM.findall(re.sub(r"--[^\n]*", "", code))]


def listing(dsn: str) -> list[tuple[str, bool]]:
    """Every migration's id and whether it is applied, in order; changes nothing, waits for nobody.

    Raises MigrationError.
    """
    with connected(address(dsn)) as connection:
        try:
            applied = {row[0] for row in connection.execute(sql("migration_applied"))}
        except psycopg.errors.UndefinedTable:
            applied = set()  # nobody has ever migrated this database
    return [(migration.id, migration.id in applied) for migration in _migrations()]


@contextmanager
def _migrating(dsn: str) -> Iterator[tuple[Connection, Any, Any, int]]:
    """The session that holds the lock, yoyo on connections of its own, all migrations, services."""
    with guarding(dsn) as (guard, yoyo_address, services):
        _take_lock(guard)
        _refuse_to_shadow(guard)
        _name_the_user()
        with get_backend(yoyo_address) as yoyo:
            # With our lock in hand, a row in yoyo's lock table is a dead process's.
            yoyo.break_lock()
            with yoyo.lock():
                yield guard, yoyo, _migrations(), services


def _take_lock(guard: Connection) -> None:
    """Waits until this session is the only one that migrates the database."""
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
    """Raises MigrationError where new tables would hide those that are there already."""
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
    """Drops what interrupted builds left behind, so that their migrations build it again.

    A migration `0006_ix_name` builds the index `ix_name` and nothing else.
    """
    builders = {migration.id.partition("_")[2]: migration for migration in migrations}
    for index_name, drop_statement in _invalid_indexes(guard, list(builders)):
        builder = builders[index_name]
        with explained(f"Migration {builder.id}", guard):
            guard.execute(drop_statement)
            if yoyo.is_applied(builder):
                yoyo.unmark_one(builder)
        log.warning("invalid_index_dropped", extra={"fields": {"index": index_name}})


def _invalid_indexes(guard: Connection, names: list[str]) -> list[tuple[str, str]]:
    """Name and drop statement of each, once none is being built any more.

    The server goes on with a build after the process that asked for it has been killed.
    """
    while True:
        rows = guard.execute(sql("migration_invalid_indexes"), [names]).fetchall()
        if not any(is_being_built for _, _, is_being_built in rows):
            return [(index_name, drop_statement) for index_name, drop_statement, _ in rows]
        time.sleep(POLL_SECONDS)


def _migrations() -> Any:
    return read_migrations(escape(str(files("migrations"))))


def _name_the_user() -> None:
    """Lets yoyo record who migrates where the user has no name, as in many containers."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())
