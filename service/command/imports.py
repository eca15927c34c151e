"""The command about what the platform owns: import."""

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
from service.errors import ClientError, DatabaseError, Overloaded
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
@click.option("--csv", "is_csv", is_flag=True, help="Read each FILE as CSV, whatever its name.")
@click.option(
    "--from-line", default=1, type=click.IntRange(1), help="Where to begin in the first FILE."
)
@click.pass_obj
def import_command(
    set_up: SetUp, files: tuple[str, ...], mode: str, is_csv: bool, from_line: int
) -> None:
    """Bring in accounts, profiles and titles from each FILE; - is standard input.

    Lines of JSON, or CSV where FILE ends in .csv. With --mode all, a FILE comes in whole or not at
    all. With --mode best, lines in error are left out, and the others come in batch by batch: an
    import that breaks off says which line to go on from. A line that is in already changes nothing.
    """
    chosen = set_up()
    refused = 0
    for number, name in enumerate(files):
        job = Import(None, utc_now(), whole=mode == "all")
        try:
            _import(chosen, job, name, is_csv, from_line)
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
            _tell(job, name)
            first = max(job.line + 1, from_line)
            flags = ["--csv"] if is_csv else []
            again = ["import", "--mode", mode, *flags, "--from-line", str(first), *files[number:]]
            same = "" if Path(name).is_file() else ", the same input once more,"
            raise click.ClickException(
                f"{_sentence(failure)}. Go on{same} with\nviewing-time {shlex.join(again)}"
            ) from failure
        _tell(job, name)
        if not job.line and not job.outcome.error_count:
            click.echo(f"{name}: nothing to import{_from(from_line)}.", err=True)
        if job.outcome.detail:
            raise click.ClickException(f"{job.outcome.detail}.")
        refused += job.outcome.error_count
        from_line = 1
    if refused:
        raise click.ClickException(f"{refused:,} lines are in error and were left out.")


def _import(chosen: Settings, job: Import, name: str, is_csv: bool, from_line: int) -> None:
    path = Path(name)
    with (
        _opened(name) as file,
        _progress(_size(file), path.name) as advance,
    ):
        found = _watched(file, advance)
        lines = csv_rows(found) if is_csv or path.suffix.lower() == ".csv" else json_lines(found)
        wanted = dropwhile(lambda line: line.number < from_line, lines)
        asyncio.run(_merge(chosen, job, wanted))


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """The file `name` to read from; a pipe as a copy, read to its end.

    While the import reads, it keeps a transaction open, which must not wait for another program.
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
    """A bar for so many bytes; yields what advances it. Hidden except on a terminal."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    with click.progressbar(
        length=size, label=label, file=sys.stderr, hidden=not is_terminal
    ) as bar:
        yield bar.update


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


async def _merge(chosen: Settings, job: Import, lines: Iterator[Line]) -> None:
    async with connected(chosen, STATEMENT_SECONDS) as connection:
        await job.merge(connection, lines)


def _watched(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[Line]:
    """The lines of a file; tells now and then how many bytes were read since the last time."""
    told = file.tell()
    for line in numbered_lines(file):
        if line.number % PROGRESS_LINES == 0:
            advance(file.tell() - told)
            told = file.tell()
        yield line
    advance(file.tell() - told)


def _tell(job: Import, name: str) -> None:
    outcome = job.outcome
    for error in outcome.errors:
        click.echo(f"{name}:{error.line}: {error.error}", err=True)
    if outcome.error_count > len(outcome.errors):
        click.echo(f"{name}: {outcome.error_count - len(outcome.errors):,} more", err=True)
    click.echo(
        f"{name}: {outcome.accounts:,} accounts, {outcome.profiles:,} profiles, "
        f"{outcome.titles:,} titles"
    )


def _from(line: int) -> str:
    return f" from line {line:,} on" if line > 1 else ""


def _sentence(failure: BaseException) -> str:
    match failure:
        case KeyboardInterrupt():
            return "Interrupted"
        case Overloaded():
            return "Another changed the same rows meanwhile"
    return cures.sentence(failure)
