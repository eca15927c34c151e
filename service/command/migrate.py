"""The command `migrate`: applies and rolls back; asks before a rollback that does harm."""

import contextlib
import sys
from collections.abc import Iterator

import click

from service.database import migrate


def apply(dsn: str, variable: str, *, is_brief: bool = False) -> bool:
    """Applies the pending migrations; returns whether there were any.

    `variable` is the setting that contains `dsn`, for error messages. A brief output counts the
    migrations instead of listing them.
    """
    with one_sentence(variable):
        names = migrate.migrate(dsn)
    if is_brief and names:
        click.echo(f"Applied {len(names)} migrations.")
    elif not is_brief:
        for name in names:
            click.echo(f"applied {name}")
    return bool(names)


def show(dsn: str, variable: str) -> None:
    """Lists the migrations, applied or pending."""
    with one_sentence(variable):
        for name, applied in migrate.listing(dsn):
            click.echo(f"{'applied' if applied else 'pending':<8} {name}")


def roll_back(dsn: str, variable: str, target: str | None, *, yes: bool) -> None:
    """Rolls back the latest migration, or `target` and all later ones."""
    with one_sentence(variable):
        names = migrate.rollback(dsn, target, lambda plan: yes or _confirmed(plan))
    for name in names:
        click.echo(f"rolled back {name}")
    if not names:
        click.echo("Nothing is applied.")


def _confirmed(plan: migrate.Plan) -> bool:
    """Asks before a rollback that breaks a running service, or drops what this version needs."""
    harm = [
        f"{name} drops what this version needs: {', '.join(dropped)}."
        for name, dropped in plan.harmful.items()
    ]
    if plan.services:
        harm.append(f"A service is running: it has {plan.services} open connections.")
    if not harm:
        return True
    for sentence in harm:
        click.echo(sentence, err=True)
    names = ", ".join(plan.ids)
    if not _is_interactive():
        raise click.ClickException(
            f"Nothing was rolled back; pass --yes to roll back {names} anyway."
        )
    return click.confirm(f"Roll back {names}?", abort=True, err=True)


def _is_interactive() -> bool:
    """Whether standard input is a terminal, where a person can answer."""
    return sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def one_sentence(variable: str) -> Iterator[None]:
    """Turns errors of a migration into one sentence."""
    try:
        yield
    except migrate.UnreachableError as error:
        raise click.ClickException(
            f"Cannot use the database at {variable}: {error.reason}."
        ) from error
    except migrate.MigrationError as error:
        raise click.ClickException(str(error)) from error
