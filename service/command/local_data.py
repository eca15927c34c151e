"""What `viewing-time run` keeps in the working directory: a secret, and a PostgreSQL of its own."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

DATA: Final = Path(".data")
SECRET: Final = DATA / "jwt_secret"


def make_private_folder() -> None:
    """Makes `.data/` for this account alone, as everything that is made after it."""
    os.umask(0o077)
    with _explained():
        DATA.mkdir(mode=0o700, exist_ok=True)
        DATA.chmod(0o700)


def made_secret() -> str:
    """A secret made once and kept under `.data/`, so that tokens outlive a restart."""
    with (
        _explained(),
        tempfile.NamedTemporaryFile("w", dir=DATA, encoding="ascii") as fresh,
    ):
        fresh.write(secrets.token_urlsafe(48))
        fresh.flush()
        with contextlib.suppress(FileExistsError):
            SECRET.hardlink_to(fresh.name)
            click.echo(f"JWT_SECRET is not set: made one for development, in {SECRET}.", err=True)
        return SECRET.read_text(encoding="ascii")


def kept_secret() -> str:
    """The secret of `viewing-time run`; a fresh one would sign tokens that nobody accepts."""
    try:
        return SECRET.read_text(encoding="ascii")
    except FileNotFoundError:
        raise click.ClickException(
            f"JWT_SECRET is not set, and `viewing-time run` has not made one in {SECRET} here."
        ) from None
    except (OSError, ValueError) as error:
        raise click.ClickException(
            f"JWT_SECRET is not set, and {SECRET} cannot be read: {error}."
        ) from error


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Says in one sentence why the folder cannot be used."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise click.ClickException(f"Cannot keep data in {DATA}: {error}.") from error


def point_at(dsn: str, environment: dict[str, str]) -> None:
    """Points `environment` at a database; a direct address in it leads to another."""
    environment |= {"DATABASE_URL": dsn, "DATABASE_DIRECT_URL": dsn}
    environment.pop("DATABASE_DIRECT_URL_FILE", None)


@contextlib.contextmanager
def database(environment: dict[str, str]) -> Iterator[None]:
    """Runs the embedded PostgreSQL on `.data/`, and points `environment` at it."""
    # Both import modules that not every system has.
    from service.embedded.programs import EmbeddedPostgresError
    from service.embedded.supervisor import embedded_postgres

    try:
        with embedded_postgres(DATA / "postgres") as dsn:
            point_at(dsn, environment)
            yield
    except EmbeddedPostgresError as fault:
        raise click.ClickException(str(fault)) from fault
