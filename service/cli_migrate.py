"""The parts of the command that migrate: forward, and back with a question where it does harm."""

import contextlib
import sys
from collections.abc import Iterator

import click

from service import migrate


def apply(dsn: str) -> None:
    """Applies what is not applied yet."""
    with explained():
        for name in migrate.migrate(dsn):
            click.echo(f"applied {name}")


def show(dsn: str) -> None:
    """Shows which migrations are applied."""
    with explained():
        for name, applied in migrate.listing(dsn):
            click.echo(f"{'applied' if applied else 'pending':<8} {name}")


def take_back(dsn: str, target: str | None, *, yes: bool) -> None:
    """Takes back the latest migration, or all down to and with `target`."""
    with explained():
        names = migrate.rollback(dsn, target, lambda plan: yes or _agreed(plan))
    for name in names:
        click.echo(f"rolled back {name}")
    if not names:
        click.echo("Nothing was taken back.")


def _agreed(plan: migrate.Plan) -> bool:
    """Asks before a rollback that hurts a running service, or drops what this version needs."""
    harm = [f"{name} drops what this version needs." for name in plan.harmful]
    if plan.services:
        harm.append(f"A service is running: {plan.services} connections of it are open.")
    if not harm:
        return True
    for sentence in (f"This would take back {', '.join(plan.ids)}.", *harm):
        click.echo(sentence, err=True)
    if not sys.stdin.isatty():
        raise click.ClickException("Nothing was taken back; pass --yes to do it all the same.")
    return click.confirm("Take back all the same?", err=True)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Says in one sentence why the database could not be migrated."""
    try:
        yield
    except migrate.MigrationError as fault:
        raise click.ClickException(str(fault)) from fault
