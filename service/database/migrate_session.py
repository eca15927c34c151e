"""Direct connections for migrations, with errors that name the session that holds a lock."""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service import database_url
from service.database import cures
from service.database.statement import text

Connection = psycopg.Connection[tuple[Any, ...]]

# `lock_timeout` is for statements without a limit of their own: building and dropping indexes. A
# time-out of the role or the database would end a long build on every run. The other settings are
# those that `connector` sends.
OPTIONS: Final = (
    "-c lock_timeout=60s -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 "
    "-c default_transaction_isolation=read\\ committed -c standard_conforming_strings=on "
    "-c default_table_access_method=heap -c exit_on_error=off "
    # For Citus; without it these are names without a meaning. All tables of a cell are on one node,
    # so the trigger of 0038 is safe there.
    "-c citus.propagate_set_commands=local -c citus.enable_unsafe_triggers=on"
)
# Options by the first version that knows them; a server refuses a connection with unknown ones.
LATER_OPTIONS: Final = {140_000: "-c idle_session_timeout=0", 170_000: "-c transaction_timeout=0"}


class MigrationError(Exception):
    """The database could not be migrated; the message is one sentence."""


class UnreachableError(MigrationError):
    """The database cannot be reached, for `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The database cannot be reached: {reason}.")
        self.reason = reason


@contextmanager
def connected(address: str) -> Iterator[Connection]:
    """A connection; raises MigrationError for every error of the database in the block."""
    try:
        # Autocommit: an open transaction, even an idle one, would keep an index build waiting.
        connection = psycopg.connect(address, autocommit=True, cursor_factory=psycopg.RawCursor)
    except psycopg.OperationalError as error:
        raise UnreachableError(_unreachable(error)) from error
    with closing(connection), explained("Migrating", connection):
        yield connection


@contextmanager
def guarding(dsn: str, schema: str = "") -> Iterator[tuple[Connection, str, int]]:
    """A connection for locks, yoyo's address of the database, and the number of connected services.

    Raises MigrationError behind a pooler, and for a database that cannot store every name.
    """
    base = address(dsn, schema)
    with connected(base) as guard:
        guard.execute(sql("connection_prepare"))
        is_as_started, services = guard.execute(sql("migration_session")).fetchall()[0]
        if not is_as_started:
            raise MigrationError(f"Migrations need a session of their own: {cures.DIRECT}.")
        encoding = guard.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise MigrationError(
                f"Database {guard.info.dbname} has the encoding {encoding}, not UTF8: "
                f"{cures.NEW_DATABASE}."
            )
        yield guard, _for_yoyo(base, guard.info.server_version), services


@contextmanager
def explained(subject: str, connection: Connection) -> Iterator[None]:
    """Turns the database's errors into a MigrationError about `subject`."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationError(
            f"{subject} has given up waiting for a lock, {_holder(connection)}; "
            "it can simply be run again."
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise MigrationError(f"{subject} needs to write: {cures.READ_ONLY}.") from error
    except psycopg.Error as error:
        raise MigrationError(f"{subject} has failed: {cures.sentence(error)}.") from error


def _holder(connection: Connection) -> str:
    row = connection.execute(sql("migration_lock_holder")).fetchone()
    if row is None:
        return "which is free by now"
    pid, application_name, query_start, query = row
    start = f"{query_start:%Y-%m-%d %H:%M:%S %Z}" if query_start else "an unknown time"
    name = application_name or "no application name"
    return f"most likely held by pid {pid} ({name}) with a query started at {start}: {query}"


def address(dsn: str, schema: str = "") -> str:
    """`dsn` in the driver's own form, with the options of every connection here.

    The tables are in `schema`; if it is empty, in that of the role.
    """
    try:
        parameters = database_url.read(dsn).libpq if "://" in dsn else conninfo_to_dict(dsn)
    except (ValueError, psycopg.ProgrammingError) as error:
        # libpq's own text can quote a part of the password.
        reason = f": it {error}" if isinstance(error, ValueError) else ""
        raise MigrationError(
            f"The database's address is not one that libpq can read{reason}."
        ) from None
    parameters = {name: str(value) for name, value in parameters.items()}
    path = f" -c search_path={schema}" if schema else ""
    options = f"{parameters.get('options', '')} {OPTIONS}{path}".strip()
    _trust_the_system(parameters)
    return make_conninfo(
        **{**parameters, "options": options, "client_encoding": "UTF8"},
        fallback_application_name="viewing-time migrate",
    )


def _trust_the_system(parameters: dict[str, str]) -> None:
    """Sets the paths of the system's certificates for the OpenSSL inside the driver's wheel."""
    if parameters.get("sslrootcert") == database_url.SYSTEM:
        paths = ssl.get_default_verify_paths()
        os.environ.setdefault("SSL_CERT_FILE", paths.cafile or paths.openssl_cafile)
        os.environ.setdefault("SSL_CERT_DIR", paths.capath or paths.openssl_capath)


def _for_yoyo(address: str, version: int) -> str:
    """`address` as a URL with which yoyo uses psycopg 3; yoyo passes on the query's parameters."""
    parameters = conninfo_to_dict(address)
    later = [option for since, option in LATER_OPTIONS.items() if version >= since]
    parameters["options"] = " ".join([str(parameters["options"]), *later])
    return f"postgresql+psycopg:///?{urlencode(parameters)}"


def sql(name: str) -> str:
    """The text of a statement for psycopg."""
    return text(name)


def _unreachable(error: psycopg.Error) -> str:
    """Why there is no connection, without libpq's hints; one reason for each failed attempt."""
    text = re.sub(r"\n\t.*", "", str(error))
    several = re.findall(r"^- host: .*?: ((?:connection|failed) .*)$", text, re.MULTILINE)
    attempts = [re.sub(r"^connection (failed|is bad): ", "", each) for each in several or [text]]
    return cures.sentence(psycopg.OperationalError("; ".join(dict.fromkeys(attempts))))
