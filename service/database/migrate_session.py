"""The sessions that migrate a database: direct ones, with errors that say who stands in the way."""

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
from service.database.statement import files

Connection = psycopg.Connection[tuple[Any, ...]]

# `lock_timeout` is for whatever sets no limit of its own, which is the building and dropping of
# indexes. A limit that the role or the database sets for its statements, transactions or sessions
# would end a long build on every run; the other settings are those that `connector` sends.
OPTIONS: Final = (
    "-c lock_timeout=60s -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 "
    "-c default_transaction_isolation=read\\ committed -c standard_conforming_strings=on "
    "-c default_table_access_method=heap -c exit_on_error=off"
)
# Those of later versions; a server refuses a session that is started with what it does not know.
LATER_OPTIONS: Final = {140_000: "-c idle_session_timeout=0", 170_000: "-c transaction_timeout=0"}


class MigrationError(Exception):
    """The database is not at the version asked for: one sentence for the person who migrates."""


class UnreachableError(MigrationError):
    """No session with the database; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The database cannot be reached: {reason}.")
        self.reason = reason


@contextmanager
def connected(address: str) -> Iterator[Connection]:
    """A session of its own; raises MigrationError for every error of the database in the block."""
    try:
        # Autocommit: an open transaction, even an idle one, would keep an index build waiting.
        connection = psycopg.connect(address, autocommit=True, cursor_factory=psycopg.RawCursor)
    except psycopg.OperationalError as error:
        raise UnreachableError(_unreachable(error)) from error
    with closing(connection), explained("Migrating", connection):
        yield connection


@contextmanager
def guarding(dsn: str) -> Iterator[tuple[Connection, str, int]]:
    """A session that may hold locks, yoyo's address of the database, connections of services.

    Raises MigrationError through a pooler, and for a database that cannot store every name.
    """
    base = address(dsn)
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
        raise MigrationError(f"{subject} has failed: {_on_one_line(error)}.") from error


def _holder(connection: Connection) -> str:
    row = connection.execute(sql("migration_lock_holder")).fetchone()
    if row is None:
        return "which is free by now"
    pid, application_name, query_start, query = row
    start = f"{query_start:%Y-%m-%d %H:%M:%S %Z}" if query_start else "an unknown time"
    name = application_name or "no application name"
    return f"most likely held by pid {pid} ({name}) with a query started at {start}: {query}"


def address(dsn: str) -> str:
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


def _for_yoyo(address: str, version: int) -> str:
    """`address` as the URL that makes yoyo use psycopg 3: it hands on the query's parameters."""
    parameters = conninfo_to_dict(address)
    later = [option for since, option in LATER_OPTIONS.items() if version >= since]
    parameters["options"] = " ".join([str(parameters["options"]), *later])
    return f"postgresql+psycopg:///?{urlencode(parameters)}"


def sql(name: str) -> str:
    return (files("sql") / f"{name}.sql").read_text(encoding="utf-8")


def _unreachable(error: psycopg.Error) -> str:
    """Why there is no session, without the questions of libpq; of several attempts, each."""
    text = re.sub(r"\n\t.*", "", str(error))
    several = re.findall(r"^- host: .*?: ((?:connection|failed) .*)$", text, re.MULTILINE)
    attempts = [re.sub(r"^connection (failed|is bad): ", "", each) for each in several or [text]]
    return cures.sentence(psycopg.OperationalError("; ".join(dict.fromkeys(attempts))))


def _on_one_line(error: psycopg.Error) -> str:
    return cures.sentence(error)
