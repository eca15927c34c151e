"""The commands for stored viewing data: retain, erase, delete, export."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Final
from uuid import UUID

import click

from service.app import utc_now
from service.command import environment
from service.command.each_cell import end, failures, in_each, say
from service.database import cures
from service.database_errors import DatabaseError
from service.observing.logs import logging_to_stdout
from service.platform import erasure, export, retention
from service.platform.retention import Removed
from service.settings import Settings
from service.viewing import deletion

SetUp = Callable[[], Settings]
KINDS: Final = {
    "account": "its profiles and all their sessions, balances, grants, requests, events and limits",
    "profile": "its sessions, balances, grants, requests, events and limits",
    "title": "all its sessions",
}
DAYS = click.IntRange(retention.MIN_DAYS, 36_500)
YES = click.option("--yes", is_flag=True, help="Skip the confirmation.")


@click.command("retain")
@click.option("--sessions-days", type=DAYS, help="Overrides RETENTION_SESSIONS_DAYS.")
@click.option("--balances-days", type=DAYS, help="Overrides RETENTION_BALANCES_DAYS.")
@click.option("--events-days", type=DAYS, help="Overrides RETENTION_EVENTS_DAYS.")
@click.option("--dry-run", is_flag=True, help="Only count the rows that would be deleted.")
@click.option("--force", is_flag=True, help="Delete even more than half of a table's rows.")
@click.pass_obj
def retain_command(
    set_up: SetUp,
    sessions_days: int | None,
    balances_days: int | None,
    events_days: int | None,
    dry_run: bool,
    force: bool,
) -> None:
    """Delete sessions, balances and events older than a number of days.

    Exceptions, locks and requests are deleted with the balances of their days.

    Rows are deleted in small batches, so the command can be interrupted at any time and run again.
    Ages follow the database's clock. Nothing is deleted if this machine's clock differs by more
    than 5 minutes, or if more than half of the sessions or balances are that old.
    """
    settings = set_up()
    days = (
        sessions_days or settings.retention_sessions_days,
        balances_days or settings.retention_balances_days,
        events_days or settings.retention_events_days,
    )

    def retain_in(cell: Settings) -> None:
        with one_sentence(using(cell)):
            cutoffs = asyncio.run(retention.current_cutoffs(cell, utc_now, *days))
            if dry_run:
                asyncio.run(_dry_run(cell, cutoffs, force))
            else:
                _retain(cell, cutoffs, force)

    in_each(environment.cells(settings), retain_in)


async def _dry_run(cell: Settings, cutoffs: retention.Cutoffs, force: bool) -> None:
    removed = await retention.count_expired(cell, cutoffs)
    _print(cell, "would delete", removed)
    if not force:
        await retention.refuse_mass_deletion(cell, removed)


def _retain(cell: Settings, cutoffs: retention.Cutoffs, force: bool) -> None:
    latest, printed_at = Removed(), monotonic()

    def progress(removed: Removed) -> None:
        nonlocal latest, printed_at
        latest = removed
        if monotonic() - printed_at >= 1:
            printed_at = monotonic()
            _print(cell, "deleted so far", removed)

    try:
        run = retention.retain(cell, cutoffs, progress, is_forced=force)
        _print(cell, "deleted", asyncio.run(run))
    except retention.RetentionRunning:
        raise click.ClickException("Another retention is running.") from None
    except KeyboardInterrupt:
        _print(cell, "interrupted; deleted so far", latest)
        raise


def _print(cell: Settings, event: str, removed: Removed) -> None:
    counts = ", ".join(f"{count:,} {name}" for name, count in removed._asdict().items())
    say(cell, f"{event}: {counts}")


@click.command("erase")
@click.argument("profile", type=click.UUID)
@YES
@click.pass_obj
def erase_command(set_up: SetUp, profile: UUID, yes: bool) -> None:
    """Erase the viewing of PROFILE and what its parents set; the profile itself stays.

    Erased are sessions, balances, grants, requests, events and limits.
    """
    viewing_data = f"all sessions, balances, grants, requests, events and limits of {profile}"
    _confirm(f"Remove {viewing_data} for good (the profile itself stays)?", yes)
    settings = set_up()

    def erase_in(cell: Settings) -> bool:
        with one_sentence(using(cell)), logging_to_stdout(settings.log_level):
            erased = asyncio.run(erasure.erase(cell, profile))
        if erased is not None:
            say(
                cell,
                f"removed: {erased.sessions:,} sessions, {erased.balances:,} balances, "
                f"{erased.grants:,} grants, {erased.configurations:,} configurations",
            )
        return erased is not None

    _find(environment.cells(settings), "profile", profile, erase_in)


@click.command("delete")
@click.argument("kind", type=click.Choice(["account", "profile", "title"]))
@click.argument("key", metavar="ID", type=click.UUID)
@YES
@click.pass_obj
def delete_command(set_up: SetUp, kind: deletion.Kind, key: UUID, yes: bool) -> None:
    """Delete an account, a profile or a title with its viewing data, in small batches.

    If the command is interrupted, a running service continues the deletion.
    """
    _confirm(f"Delete {kind} {key} with {KINDS[kind]} for good?", yes)
    settings, printed_at = set_up(), monotonic()

    def progress(rows: int) -> None:
        nonlocal printed_at
        if monotonic() - printed_at >= 1:
            printed_at = monotonic()
            click.echo(f"deleted so far: {rows:,} rows")

    def delete_in(cell: Settings) -> bool:
        try:
            with one_sentence(using(cell)):
                rows = asyncio.run(deletion.delete(cell, kind, key, progress))
        except LookupError:
            return False
        say(cell, f"deleted {kind} {key}" + (f", {rows:,} rows of it in batches" if rows else ""))
        return True

    # A title is in every cell, and so can an administrator be.
    _find(environment.cells(settings), kind, key, delete_in, is_in_one=kind == "profile")


@click.command("export")
@click.argument("profile", type=click.UUID)
@click.option("--to", "folder", type=click.Path(path_type=Path), help="A new folder.")
@click.pass_obj
def export_command(set_up: SetUp, profile: UUID, folder: Path | None) -> None:
    """Export all data about PROFILE for its parent, as JSON and CSV."""
    settings = set_up()
    target = folder or Path(f"viewing-data-{profile}")
    with one_sentence("write the copy", (OSError,)):
        exists = target.exists()
    if exists:
        raise click.ClickException(f"{target} already exists; choose another folder with --to.")

    def export_from(cell: Settings) -> bool:
        try:
            with one_sentence(using(cell)), one_sentence("write the copy", (OSError,)):
                counts = asyncio.run(export.export(cell, profile, target, utc_now()))
        except LookupError:
            return False
        rows = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        say(cell, f"wrote {target}: {rows}")
        return True

    _find(environment.cells(settings), "profile", profile, export_from)


COMMANDS: Final = (retain_command, erase_command, export_command, delete_command)


def _find(
    cells: Sequence[Settings],
    kind: str,
    key: UUID,
    act: Callable[[Settings], bool],
    *,
    is_in_one: bool = True,
) -> None:
    """Acts in the first cell that has a record, or in every one.

    Raises ClickException if no cell has it, and for a failed cell that may have it.
    """
    found: list[str] = []

    def act_in(cell: Settings) -> None:
        if not (found and is_in_one) and act(cell):
            found.append(cell.cell)

    failed = failures(cells, act_in)
    if not (found and is_in_one):
        end(failed)
    if not found:
        raise click.ClickException(f"There is no {kind} {key}.")


def _confirm(question: str, yes: bool) -> None:
    """Aborts unless the operator confirms an action that cannot be undone."""
    if not yes:
        click.confirm(question, abort=True)


def using(cell: Settings) -> str:
    """The action of `one_sentence` on the database of a cell."""
    return "use the database at " + ("its url" if cell.cell else "DATABASE_URL")


@contextmanager
def one_sentence(
    action: str,
    errors: tuple[type[Exception], ...] = (DatabaseError,),
) -> Iterator[None]:
    """Turns errors into one sentence and exit code 1."""
    try:
        yield
    except retention.RetentionRefused as refusal:
        raise click.ClickException(str(refusal)) from refusal
    except errors as error:
        raise click.ClickException(f"Cannot {action}: {cures.sentence(error)}.") from error
