"""The parts of the command that migrate: forward, and back with a question where it does harm."""

import contextlib
import sys
from collections.abc import Iterator

import click

from service.database import migrate


def apply(dsn: str, variable: str) -> bool:
    """Applies what is not applied yet; returns whether there was any such migration.

    `variable` is the setting that holds `dsn`, for the sentences about a fault.
    """
    with explained(variable):
        names = migrate.migrate(dsn)
    for name in names:
        click.echo(f"applied {name}")
    return bool(names)


def show(dsn: str, variable: str) -> None:
    """Shows which migrations are applied."""
    with explained(variable):
        for name, applied in migrate.listing(dsn):
            click.echo(f"{'applied' if applied else 'pending':<8} {name}")


def take_back(dsn: str, variable: str, target: str | None, *, yes: bool) -> None:
    """Takes back the latest migration, or all down to and with `target`."""
    with explained(variable):
        names = migrate.rollback(dsn, target, lambda plan: yes or _agreed(plan))
    for name in names:
        click.echo(f"rolled back {name}")
    if not names:
        click.echo("Nothing is applied.")


def _agreed(plan: migrate.Plan) -> bool:
    """Asks before a rollback that hurts a running service, or drops what this version needs."""
    harm = [
        f"{name} drops what this version needs: {', '.join(dropped)}."
        for name, dropped in plan.harmful.items()
    ]
    if plan.services:
        harm.append(f"A service is running: {plan.services} connections of it are open.")
    if not harm:
        return True
    for sentence in harm:
        click.echo(sentence, err=True)
    names = ", ".join(plan.ids)
    if not _is_asked():
        raise click.ClickException(
            f"Nothing was taken back; pass --yes to take back {names} all the same."
        )
    return click.confirm(f"Take back {names}?", abort=True, err=True)


def _is_asked() -> bool:
    """Whether somebody at a terminal can answer."""
    return sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def explained(variable: str) -> Iterator[None]:
    """Says in one sentence why the database could not be migrated."""
    try:
        yield
    except migrate.UnreachableError as error:
        raise click.ClickException(
            f"Cannot use the database at {variable}: {error.reason}."
        ) from error
    except migrate.MigrationError as error:
        raise click.ClickException(str(error)) from error
