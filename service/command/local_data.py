"""The `.data/` folder of `viewing-time run`: a secret, and an embedded PostgreSQL."""

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
    """Creates `.data/`; only this user can read it, and everything created later."""
    os.umask(0o077)
    with _one_sentence():
        DATA.mkdir(mode=0o700, exist_ok=True)
        DATA.chmod(0o700)


def created_secret() -> str:
    """A secret that is created once and kept, so that tokens stay valid after a restart."""
    with (
        _one_sentence(),
        tempfile.NamedTemporaryFile("w", dir=DATA, encoding="ascii") as file,
    ):
        file.write(secrets.token_urlsafe(48))
        file.flush()
        with contextlib.suppress(FileExistsError):
            SECRET.hardlink_to(file.name)
            click.echo(f"JWT_SECRET is not set: created one for development in {SECRET}.", err=True)
        return SECRET.read_text(encoding="ascii")


def kept_secret() -> str:
    """The secret of `viewing-time run`, which must exist: no service accepts other tokens."""
    try:
        return SECRET.read_text(encoding="ascii")
    except FileNotFoundError:
        raise click.ClickException(
            f"JWT_SECRET is not set, and `viewing-time run` has not created one in {SECRET}."
        ) from None
    except (OSError, ValueError) as error:
        raise click.ClickException(
            f"JWT_SECRET is not set, and {SECRET} cannot be read: {error}."
        ) from error


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turns errors of the folder into one sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise click.ClickException(f"Cannot keep data in {DATA}: {error}.") from error


def point_at(dsn: str, environment: dict[str, str]) -> None:
    """Sets all addresses in `environment`, because a direct one could be another database's."""
    environment |= {"DATABASE_URL": dsn, "DATABASE_DIRECT_URL": dsn, "DATABASE_READ_URL": ""}
    for name in ("DATABASE_DIRECT_URL_FILE", "DATABASE_READ_URL_FILE"):
        environment.pop(name, None)


@contextlib.contextmanager
def database(environment: dict[str, str]) -> Iterator[None]:
    """Runs the embedded PostgreSQL on `.data/`, and sets its address in `environment`."""
    # Both import modules that only some systems have.
    from service.embedded.programs import EmbeddedPostgresError
    from service.embedded.supervisor import embedded_postgres

    folder = DATA / "postgres"
    if (folder / "cluster").exists():
        click.echo(f"Starting the PostgreSQL in {folder}.")
    else:
        click.echo(f"Creating a PostgreSQL in {folder}, which takes a few seconds, only once.")
    try:
        with embedded_postgres(folder) as dsn:
            point_at(dsn, environment)
            yield
    except EmbeddedPostgresError as error:
        raise click.ClickException(str(error)) from error
