"""The command `import`: accounts, profiles and titles from files."""

import asyncio
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import dropwhile
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Final

import click

from service.app import utc_now
from service.database import cures
from service.database.pool import connected
from service.database_errors import DatabaseError
from service.errors import ClientError, Overloaded
from service.platform.import_lines import Line, csv_rows, json_lines, numbered_lines
from service.platform.import_merge import STATEMENT_SECONDS, Import
from service.settings import Settings

SetUp = Callable[[], Settings]
FILE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True)
STANDARD_INPUT: Final = "-"
MODE: Final = click.Choice(["all", "best"])
PROGRESS_LINES: Final = 1000


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--mode", type=MODE, default="all", show_default=True)
@click.option("--csv", "is_csv", is_flag=True, help="Read every FILE as CSV.")
@click.option(
    "--from-line",
    default=1,
    type=click.IntRange(1),
    help="The line of the first FILE to start from.",
)
@click.pass_obj
def import_command(
    set_up: SetUp, files: tuple[str, ...], mode: str, is_csv: bool, from_line: int
) -> None:
    """Import accounts, profiles and titles from each FILE; - is standard input.

    A FILE contains one JSON object per line, or CSV if its name ends in .csv. With --mode all, a
    FILE is imported as a whole or not at all. With --mode best, lines with errors are left out and
    the others are imported in batches; an interrupted import reports the line to continue from.
    Importing a line again changes nothing.
    """
    settings = set_up()
    refused = 0
    for number, name in enumerate(files):
        job = Import(None, utc_now(), whole=mode == "all")
        try:
            _import(settings, job, name, is_csv, from_line)
        except (
            DatabaseError,
            OSError,  # the file cannot be read
            ClientError,  # a rule of the database refuses a line
            Overloaded,
            KeyboardInterrupt,
        ) as failure:
            if isinstance(failure, DatabaseError) and not (job.line or number):
                raise click.ClickException(
                    f"Cannot use the database at DATABASE_URL: {_sentence(failure)}."
                ) from failure
            _print(job, name)
            first = max(job.line + 1, from_line)
            flags = ["--csv"] if is_csv else []
            command = ["import", "--mode", mode, *flags, "--from-line", str(first), *files[number:]]
            hint = "" if Path(name).is_file() else ", using the same input,"
            raise click.ClickException(
                f"{_sentence(failure)}. Continue{hint} with\nviewing-time {shlex.join(command)}"
            ) from failure
        _print(job, name)
        if not job.line and not job.outcome.error_count:
            start = f" from line {from_line:,}" if from_line > 1 else ""
            click.echo(f"{name}: nothing to import{start}.", err=True)
        if job.outcome.detail:
            raise click.ClickException(f"{job.outcome.detail}.")
        refused += job.outcome.error_count
        from_line = 1
    if refused:
        raise click.ClickException(f"{refused:,} lines have errors and were left out.")


def _import(settings: Settings, job: Import, name: str, is_csv: bool, from_line: int) -> None:
    path = Path(name)
    with (
        _open(name) as file,
        _progress(os.fstat(file.fileno()).st_size, path.name) as advance,
    ):
        is_csv = is_csv or path.suffix.lower() == ".csv"
        lines = (csv_rows if is_csv else json_lines)(_with_progress(file, advance))
        remaining = dropwhile(lambda line: line.number < from_line, lines)
        asyncio.run(_merge(settings, job, remaining))


@contextmanager
def _open(name: str) -> Iterator[BinaryIO]:
    """Opens the file `name`; a pipe is copied first.

    The import reads within a transaction, which must not wait for another program.
    """
    if name == STANDARD_INPUT and sys.stdin is None:
        raise click.ClickException("Standard input is closed.")
    with ExitStack() as opened:
        if name == STANDARD_INPUT:
            file: BinaryIO = sys.stdin.buffer
        else:
            file = opened.enter_context(Path(name).open("rb"))
        if not file.seekable():
            copy = opened.enter_context(TemporaryFile())
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            file = copy
        yield file


@contextmanager
def _progress(size: int, label: str) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on a terminal; yields a function that advances it by bytes."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    with click.progressbar(
        length=size, label=label, file=sys.stderr, hidden=not is_terminal
    ) as bar:
        yield bar.update


async def _merge(settings: Settings, job: Import, lines: Iterator[Line]) -> None:
    async with connected(settings, STATEMENT_SECONDS) as connection:
        await job.merge(connection, lines)


def _with_progress(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[Line]:
    """The lines of a file; calls `advance` every PROGRESS_LINES lines with the bytes read."""
    start = file.tell()
    for line in numbered_lines(file):
        if line.number % PROGRESS_LINES == 0:
            advance(file.tell() - start)
            start = file.tell()
        yield line
    advance(file.tell() - start)


def _print(job: Import, name: str) -> None:
    outcome = job.outcome
    for error in outcome.errors:
        click.echo(f"{name}:{error.line}: {error.error}", err=True)
    if outcome.error_count > len(outcome.errors):
        click.echo(f"{name}: {outcome.error_count - len(outcome.errors):,} more", err=True)
    click.echo(
        f"{name}: {outcome.accounts:,} accounts, {outcome.profiles:,} profiles, "
        f"{outcome.titles:,} titles"
    )


def _sentence(failure: BaseException) -> str:
    match failure:
        case KeyboardInterrupt():
            return "Interrupted"
        case Overloaded():
            return "Another client changed the same rows"
    return cures.sentence(failure)
