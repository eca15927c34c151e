"""The command `import`: accounts, profiles and titles from files."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import dropwhile
from pathlib import Path
from typing import Final, NamedTuple

import click

from service.app import utc_now
from service.command import environment
from service.command.import_connection import CellsConnection, ImportConnection
from service.command.import_source import Source, UnreadableFile, opened, plain_suffix
from service.command.rejects import Rejects, stored
from service.database import cures
from service.database_errors import DatabaseError
from service.errors import ClientError, Overloaded
from service.platform.import_csv import CsvRows, csv_lines
from service.platform.import_lines import Line, json_lines, numbered_lines
from service.platform.import_merge import Import
from service.settings import Settings

SetUp = Callable[[], Settings]
FILE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True)
REJECTS: Final = click.Path(dir_okay=False, path_type=Path)
MODE: Final = click.Choice(["all", "best"])
DELIMITERS: Final = {",": ",", ";": ";", "tab": "\t"}
PROGRESS_LINES: Final = 1000
FAILURES: Final = (
    DatabaseError,
    OSError,  # the file cannot be read
    UnreadableFile,
    ClientError,  # a rule of the database refuses a line
    Overloaded,
    KeyboardInterrupt,
)


class Options(NamedTuple):
    mode: str
    is_csv: bool
    delimiter: str | None
    is_dry_run: bool
    rejects: Path | None
    is_overwritten: bool


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--mode", type=MODE, default="all", show_default=True)
@click.option("--csv", "is_csv", is_flag=True, help="Read every FILE as CSV.")
@click.option(
    "--delimiter",
    type=click.Choice([*DELIMITERS]),
    help="Between cells of CSV; if absent, the header shows it.",
)
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Check everything and change nothing.")
@click.option(
    "--rejects",
    type=REJECTS,
    metavar="FILE",
    help="Store rejected lines in this FILE, to be corrected and imported.",
)
@click.option("--overwrite", "is_overwritten", is_flag=True, help="Replace the FILE of --rejects.")
@click.option(
    "--from-line",
    default=1,
    type=click.IntRange(1),
    help="The line of the first FILE to start from.",
)
@click.pass_obj
def import_command(
    set_up: SetUp,
    files: tuple[str, ...],
    mode: str,
    is_csv: bool,
    delimiter: str | None,
    is_dry_run: bool,
    rejects: Path | None,
    is_overwritten: bool,
    from_line: int,
) -> None:
    """Import accounts, profiles and titles from each FILE; - is standard input.

    A FILE contains one JSON object per line, or CSV if its name ends in .csv or .tsv. It can be
    compressed by gzip or zstd. With --mode all, a FILE is imported as a whole or not at all. With
    --mode best, lines with errors are left out and the others are imported in batches; an
    interrupted import reports the line to continue from. Importing a line again changes nothing.
    """
    if rejects and (mode == "all" or len(files) > 1):
        raise click.UsageError("--rejects needs --mode best, and a single FILE to import.")
    if is_overwritten and not rejects:
        raise click.UsageError("--overwrite needs --rejects.")
    options = Options(mode, is_csv, delimiter, is_dry_run, rejects, is_overwritten)
    cells, refused = environment.cells(set_up()), 0
    if len(cells) > 1 and mode == "all":
        raise click.UsageError("Several cells cannot import a FILE as a whole: add --mode best.")
    merging = CellsConnection(cells, is_dry_run) if len(cells) > 1 else None
    with merging or ImportConnection(cells[0], is_dry_run) as connection:
        for number in range(len(files)):
            refused += _import(connection, options, files[number:], from_line, is_first=not number)
            from_line = 1
    if refused:
        raise click.ClickException(f"{refused:,} lines have errors and were left out.")


def _import(
    connection: ImportConnection,
    options: Options,
    files: tuple[str, ...],
    from_line: int,
    *,
    is_first: bool,
) -> int:
    """Imports the first of the files; returns how many lines were left out."""
    name = files[0]
    with ExitStack() as stack:
        rejects = None
        if options.rejects:
            overwrites, continues = options.is_overwritten, from_line > 1
            rejects = stack.enter_context(stored(options.rejects, name, overwrites, continues))
        job = Import(
            None,
            utc_now(),
            whole=options.mode == "all",
            is_dry_run=options.is_dry_run,
            rejected=rejects.add if rejects else None,
        )
        try:
            with _lines(options, name, from_line, rejects) as lines:
                connection.merge(job, lines)
        except FAILURES as failure:
            if isinstance(failure, DatabaseError) and is_first and not job.line:
                raise click.ClickException(
                    f"Cannot use the database at DATABASE_URL: {_sentence(failure)}."
                ) from failure
            if options.is_dry_run or (isinstance(failure, UnreadableFile) and not job.line):
                raise click.ClickException(f"{_sentence(failure)}.") from failure
            _print(job, name, options)
            hint = "" if Path(name).is_file() else ", using the same input,"
            again = _again(options, max(job.line + 1, from_line), files)
            raise click.ClickException(
                f"{_sentence(failure)}. Continue{hint} with\n{again}"
            ) from failure
    _print(job, name, options)
    if not job.line and not job.outcome.error_count:
        start = f" from line {from_line:,}" if from_line > 1 else ""
        click.echo(f"{name}: nothing to import{start}.", err=True)
    if job.outcome.detail:
        raise click.ClickException(f"{job.outcome.detail}.")
    return job.outcome.error_count


def _again(options: Options, from_line: int, files: tuple[str, ...]) -> str:
    """The command that continues an import."""
    flags = ["--csv"] if options.is_csv else []
    if options.delimiter:
        flags += ["--delimiter", options.delimiter]
    if options.rejects:
        flags += ["--rejects", str(options.rejects)]
        flags += ["--overwrite"] if options.is_overwritten and from_line == 1 else []
    line = ["--from-line", str(from_line)]
    return "viewing-time " + shlex.join(["import", "--mode", options.mode, *flags, *line, *files])


@contextmanager
def _lines(
    options: Options, name: str, from_line: int, rejects: Rejects | None
) -> Iterator[Iterator[Line]]:
    """The lines of a file from `from_line` on, with a progress bar on a terminal."""
    with opened(name) as source, _progress(source, name) as advance:
        rows = None
        if options.is_csv or options.delimiter or plain_suffix(name) in (".csv", ".tsv"):
            delimiter = DELIMITERS[options.delimiter] if options.delimiter else None
            rows = CsvRows(_with_progress(source, csv_lines(source.text), advance), delimiter)
            lines = iter(rows)
        else:
            lines = json_lines(_with_progress(source, numbered_lines(source.text), advance))
        lines = dropwhile(lambda line: line.number < from_line, lines)
        yield rejects.watched(lines, rows, source.has_mark) if rejects else lines


@contextmanager
def _progress(source: Source, name: str) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on a terminal; yields a function that advances it by bytes."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    with click.progressbar(
        length=os.fstat(source.file.fileno()).st_size,
        label=Path(name).name,
        file=sys.stderr,
        hidden=not is_terminal,
    ) as bar:
        yield bar.update


def _with_progress(
    source: Source, lines: Iterator[Line], advance: Callable[[int], None]
) -> Iterator[Line]:
    """The lines of a file; calls `advance` every PROGRESS_LINES lines with the bytes read."""
    start = source.file.tell()
    for line in lines:
        if line.number % PROGRESS_LINES == 0:
            advance(source.file.tell() - start)
            start = source.file.tell()
        yield line
    advance(source.file.tell() - start)


def _print(job: Import, name: str, options: Options) -> None:
    outcome = job.outcome
    if not options.rejects:  # it has printed every error
        for error in outcome.errors:
            click.echo(f"{name}:{error.line}: {error.error}", err=True)
        if outcome.error_count > len(outcome.errors):
            click.echo(f"{name}: {outcome.error_count - len(outcome.errors):,} more", err=True)
    click.echo(
        f"{name}: {outcome.accounts:,} accounts, {outcome.profiles:,} profiles, "
        f"{outcome.titles:,} titles{' would be imported' if options.is_dry_run else ''}"
    )


def _sentence(failure: BaseException) -> str:
    match failure:
        case KeyboardInterrupt():
            return "Interrupted"
        case Overloaded():
            return "Another client changed the same rows"
    return cures.sentence(failure)
