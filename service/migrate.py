"""Brings a database to the tables of this version, and back: one process at a time, restartable.

The migrations are `migrations/*.sql`, applied and recorded by yoyo. This adds what yoyo lacks: a
lock that dies with its process, the repair of interrupted index builds, and errors that say who
stands in the way. Blocking: call it from the command line or a thread.
"""

import getpass
import logging
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from glob import escape
from typing import Any, Final
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from yoyo import get_backend, read_migrations

from service import database_url
from service.database import files

Connection = psycopg.Connection[tuple[Any, ...]]

# For whatever sets no limit of its own, which is the building and dropping of indexes. A limit that
# the role or the database sets for its statements would end a long build on every run.
OPTIONS: Final = "-c lock_timeout=60s -c statement_timeout=0"
POLL_SECONDS: Final = 0.1

log = logging.getLogger(__name__)


class MigrationError(Exception):
    """The database is not at the version asked for: one sentence for the person who migrates."""


def migrate(dsn: str) -> list[str]:
    """Applies what is not applied yet, and returns its ids in order.

    What had been applied before an error stays so; running it again goes on from there.
    Raises MigrationError.
    """
    applied: list[str] = []
    with _migrating(dsn) as (guard, yoyo, migrations):
        _drop_invalid_indexes(guard, yoyo, migrations)
        for migration in yoyo.to_apply(migrations):
            with _explained(f"Migration {migration.id}", guard):
                yoyo.apply_one(migration)
            applied.append(migration.id)
            log.info("migration_applied", extra={"fields": {"migration": migration.id}})
    return applied


def rollback(dsn: str, target: str | None = None) -> list[str]:
    """Takes back all migrations, or the latest ones down to and with `target`; returns their ids.

    Tables and rows stay. Raises MigrationError, also when `target` is not applied.
    """
    rolled_back: list[str] = []
    with _migrating(dsn) as (guard, yoyo, migrations):
        latest_first = list(yoyo.to_rollback(migrations))
        if target is not None:
            ids = [migration.id for migration in latest_first]
            if target not in ids:
                raise MigrationError(f"Migration {target} is not applied.")
            latest_first = latest_first[: ids.index(target) + 1]
        for migration in latest_first:
            with _explained(f"Migration {migration.id}", guard):
                yoyo.rollback_one(migration)
            rolled_back.append(migration.id)
            log.info("migration_rolled_back", extra={"fields": {"migration": migration.id}})
    return rolled_back


def listing(dsn: str) -> list[tuple[str, bool]]:
    """Every migration's id and whether it is applied, in order; changes nothing, waits for nobody.

    Raises MigrationError.
    """
    with _connected(_address(dsn)) as connection:
        try:
            applied = {row[0] for row in connection.execute(_sql("migration_applied"))}
        except psycopg.errors.UndefinedTable:
            applied = set()  # nobody has ever migrated this database
    return [(migration.id, migration.id in applied) for migration in _migrations()]


@contextmanager
def _migrating(dsn: str) -> Iterator[tuple[Connection, Any, Any]]:
    """The session that holds the lock, yoyo on connections of its own, and all migrations."""
    address = _address(dsn)
    with _connected(address) as guard:
        _refuse_encoding(guard)
        _take_lock(guard)
        _refuse_to_shadow(guard)
        _name_the_user()
        with get_backend(_for_yoyo(address)) as yoyo:
            # With our lock in hand, a row in yoyo's lock table is a dead process's.
            yoyo.break_lock()
            with yoyo.lock():
                yield guard, yoyo, _migrations()


def _refuse_encoding(guard: Connection) -> None:
    """Raises MigrationError where the database cannot store every name."""
    encoding = guard.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise MigrationError(
            f"Database {guard.info.dbname} has the encoding {encoding}, not UTF8: some names "
            "cannot be stored in it; copy its rows into a database made with "
            "`create database ... encoding 'UTF8' template template0`."
        )


def _take_lock(guard: Connection) -> None:
    """Waits until this session is the only one that migrates the database."""
    while True:
        is_taken, may_create = guard.execute(_sql("migration_lock")).fetchall()[0]
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
    row = guard.execute(_sql("migration_shadowed")).fetchone()
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
        with _explained(f"Migration {builder.id}", guard):
            guard.execute(drop_statement)
            if yoyo.is_applied(builder):
                yoyo.unmark_one(builder)
        log.warning("invalid_index_dropped", extra={"fields": {"index": index_name}})


def _invalid_indexes(guard: Connection, names: list[str]) -> list[tuple[str, str]]:
    """Name and drop statement of each, once none is being built any more.

    The server goes on with a build after the process that asked for it has been killed.
    """
    while True:
        rows = guard.execute(_sql("migration_invalid_indexes"), [names]).fetchall()
        if not any(is_being_built for _, _, is_being_built in rows):
            return [(index_name, drop_statement) for index_name, drop_statement, _ in rows]
        time.sleep(POLL_SECONDS)


@contextmanager
def _explained(subject: str, connection: Connection) -> Iterator[None]:
    """Turns the database's errors into a MigrationError about `subject`."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationError(
            f"{subject} has given up waiting for a lock, {_holder(connection)}; "
            "it can simply be run again."
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise MigrationError(
            f"{subject} needs a database that takes writes: this one is a standby, or "
            "default_transaction_read_only is on for the role, the database or the server."
        ) from error
    except psycopg.Error as error:
        raise MigrationError(f"{subject} has failed: {_on_one_line(error)}.") from error


def _holder(connection: Connection) -> str:
    row = connection.execute(_sql("migration_lock_holder")).fetchone()
    if row is None:
        return "which is free by now"
    pid, application_name, query_start, query = row
    start = f"{query_start:%Y-%m-%d %H:%M:%S %Z}" if query_start else "an unknown time"
    name = application_name or "no application name"
    return f"most likely held by pid {pid} ({name}) with a query started at {start}: {query}"


@contextmanager
def _connected(address: str) -> Iterator[Connection]:
    try:
        # Autocommit: an open transaction, even an idle one, would keep an index build waiting.
        connection = psycopg.connect(address, autocommit=True, cursor_factory=psycopg.RawCursor)
    except psycopg.OperationalError as error:
        raise MigrationError(f"The database cannot be reached: {_on_one_line(error)}.") from error
    with closing(connection), _explained("Migrating", connection):
        yield connection


def _address(dsn: str) -> str:
    """`dsn` in the driver's own form, with what every session here is started with."""
    try:
        given = database_url.read(dsn).libpq if "://" in dsn else conninfo_to_dict(dsn)
    except (ValueError, psycopg.ProgrammingError) as error:
        # libpq's own text can quote a part of the password.
        reason = f": it {error}" if isinstance(error, ValueError) else ""
        raise MigrationError(
            f"The database's address is not one that libpq can read{reason}."
        ) from None
    parameters = {name: str(value) for name, value in given.items()}
    options = f"{parameters.get('options', '')} {OPTIONS}".strip()
    _trust_the_system(parameters)
    return make_conninfo(
        **{**parameters, "options": options, "client_encoding": "UTF8"},
        fallback_application_name="viewing-time migrate",
    )


def _trust_the_system(parameters: dict[str, str]) -> None:
    """Tells the driver's own OpenSSL, which was built elsewhere, where the certificates are."""
    if parameters.get("sslrootcert") == database_url.SYSTEM:
        paths = ssl.get_default_verify_paths()
        os.environ.setdefault("SSL_CERT_FILE", paths.cafile or paths.openssl_cafile)
        os.environ.setdefault("SSL_CERT_DIR", paths.capath or paths.openssl_capath)


def _for_yoyo(address: str) -> str:
    """`address` as the URL that makes yoyo use psycopg 3: it hands on the query's parameters."""
    return f"postgresql+psycopg:///?{urlencode(conninfo_to_dict(address))}"


def _migrations() -> Any:
    return read_migrations(escape(str(files("migrations"))))


def _name_the_user() -> None:
    """Lets yoyo record who migrates where the user has no name, as in many containers."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())


def _sql(name: str) -> str:
    return (files("sql") / f"{name}.sql").read_text(encoding="utf-8")


def _on_one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split()).rstrip(".?")
