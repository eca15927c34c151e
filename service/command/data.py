"""The commands about what is kept of children: retain, erase, export."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Final
from uuid import UUID

import click

from service.app import utc_now
from service.database import cures
from service.errors import DatabaseError
from service.observing.logs import logging_to_stdout
from service.platform import erasure, export, retention
from service.platform.retention import Removed
from service.settings import Settings
from service.viewing import deletion

SetUp = Callable[[], Settings]
KINDS: Final = {
    "account": "its profiles and all their sessions, balances, grants and limits",
    "profile": "its sessions, balances, grants and limits",
    "title": "all sessions of it",
}
DAYS = click.IntRange(retention.MIN_DAYS, 36_500)


YES = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command("retain")
@click.option("--sessions-days", type=DAYS, help="Instead of RETENTION_SESSIONS_DAYS.")
@click.option("--balances-days", type=DAYS, help="Instead of RETENTION_BALANCES_DAYS.")
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted.")
@click.option("--force", is_flag=True, help="Delete even more than half of a table's rows.")
@click.pass_obj
def retain_command(
    set_up: SetUp, sessions_days: int | None, balances_days: int | None, dry_run: bool, force: bool
) -> None:
    """Delete sessions and balances that are older than so many days.

    Small batches, each a transaction: it can be interrupted at any time and run again. Ages count
    from the database's clock; where this machine's differs by more than 5 minutes, or more than
    half of the sessions or balances are that old, nothing is deleted.
    """
    chosen = set_up()
    days = (
        sessions_days or chosen.retention_sessions_days,
        balances_days or chosen.retention_balances_days,
    )
    with _explained():
        cutoffs = asyncio.run(retention.current_cutoffs(chosen, utc_now, *days))
        if dry_run:
            asyncio.run(_dry_run(chosen, cutoffs, force))
        else:
            _retain(chosen, cutoffs, force)


async def _dry_run(chosen: Settings, cutoffs: retention.Cutoffs, force: bool) -> None:
    removed = await retention.count_expired(chosen, cutoffs)
    _tell("would delete", removed)
    if not force:
        await retention.refuse_mass_deletion(chosen, removed)


def _retain(chosen: Settings, cutoffs: retention.Cutoffs, force: bool) -> None:
    latest, told = Removed(), monotonic()

    def progress(removed: Removed) -> None:
        nonlocal latest, told
        latest = removed
        if monotonic() - told >= 1:
            told = monotonic()
            _tell("deleted so far", removed)

    try:
        run = retention.retain(chosen, cutoffs, progress, is_forced=force)
        _tell("deleted", asyncio.run(run))
    except retention.RetentionRunning:
        raise click.ClickException("Another retention is running.") from None
    except KeyboardInterrupt:
        _tell("interrupted; deleted so far", latest)
        raise


def _tell(what: str, removed: Removed) -> None:
    click.echo(f"{what}: {removed.sessions:,} sessions, {removed.balances:,} balances")


@click.command("erase")
@click.argument("profile", type=click.UUID)
@YES
@click.pass_obj
def erase_command(set_up: SetUp, profile: UUID, yes: bool) -> None:
    """Remove sessions, balances, grants and limits of PROFILE; the profile itself stays."""
    what = f"all sessions, balances, grants and limits of profile {profile}"
    _confirm(f"Remove {what} for good (the profile itself stays)?", yes)
    chosen = set_up()
    with _explained(), logging_to_stdout(chosen.log_level):
        erased = asyncio.run(erasure.erase(chosen, profile))
    if erased is None:
        raise click.ClickException(f"There is no profile {profile}.")
    click.echo(
        f"removed: {erased.sessions:,} sessions, {erased.balances:,} balances, "
        f"{erased.grants:,} grants, {erased.configurations:,} configurations"
    )


@click.command("delete")
@click.argument("kind", type=click.Choice(["account", "profile", "title"]))
@click.argument("key", metavar="ID", type=click.UUID)
@YES
@click.pass_obj
def delete_command(set_up: SetUp, kind: deletion.Kind, key: UUID, yes: bool) -> None:
    """Delete an account, a profile or a title with its viewing, in small batches.

    After an interruption, a running service goes on with it.
    """
    _confirm(f"Delete {kind} {key} with {KINDS[kind]} for good?", yes)
    chosen, told = set_up(), monotonic()

    def progress(rows: int) -> None:
        nonlocal told
        if monotonic() - told >= 1:
            told = monotonic()
            click.echo(f"deleted so far: {rows:,} rows")

    try:
        with _explained():
            rows = asyncio.run(deletion.delete(chosen, kind, key, progress))
    except LookupError:
        raise click.ClickException(f"There is no {kind} {key}.") from None
    click.echo(f"deleted {kind} {key}" + (f", {rows:,} rows of it in batches" if rows else ""))


@click.command("export")
@click.argument("profile", type=click.UUID)
@click.option("--to", "folder", type=click.Path(path_type=Path), help="A folder to be made.")
@click.pass_obj
def export_command(set_up: SetUp, profile: UUID, folder: Path | None) -> None:
    """Write a parent's copy of what is kept about PROFILE, as JSON and CSV."""
    chosen = set_up()
    target = folder or Path(f"viewing-data-{profile}")
    with _explained("write the copy", (OSError,)):
        is_there = target.exists()
    if is_there:
        raise click.ClickException(f"{target} is there already; choose another folder with --to.")
    try:
        with _explained(), _explained("write the copy", (OSError,)):
            counts = asyncio.run(export.export(chosen, profile, target, utc_now()))
    except LookupError:
        raise click.ClickException(f"There is no profile {profile}.") from None
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    click.echo(f"wrote {target}: {told}")


def _confirm(question: str, yes: bool) -> None:
    """Asks before something that cannot be undone; ends the command unless the answer is yes."""
    if not yes:
        click.confirm(question, abort=True)


@contextmanager
def _explained(
    what: str = "use the database at DATABASE_URL",
    errors: tuple[type[Exception], ...] = (DatabaseError,),
) -> Iterator[None]:
    """Says in one sentence what could not be done."""
    try:
        yield
    except retention.RetentionRefused as refusal:
        raise click.ClickException(str(refusal)) from refusal
    except errors as error:
        raise click.ClickException(f"Cannot {what}: {cures.sentence(error)}.") from error
