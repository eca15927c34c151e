"""The command about what the platform owns: import."""

import asyncio
import shlex
import sys
from collections.abc import Callable, Iterator
from itertools import dropwhile
from pathlib import Path
from typing import BinaryIO, Final

import asyncpg
import click

from service.app import utc_now
from service.database import UNAVAILABLE, connected
from service.errors import Overloaded
from service.import_lines import Line, numbered, objects, rows
from service.import_merge import SECONDS, Import
from service.settings import Settings

SetUp = Callable[[], Settings]
FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
MODE: Final = click.Choice(["all", "best"])
PROGRESS_LINES: Final = 1000


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--mode", type=MODE, default="all", show_default=True)
@click.option(
    "--from-line", default=1, type=click.IntRange(1), help="Where to begin in the first FILE."
)
@click.pass_obj
def import_command(set_up: SetUp, files: tuple[Path, ...], mode: str, from_line: int) -> None:
    """Bring in accounts, profiles and titles from each FILE.

    Lines of JSON, or CSV where FILE ends in .csv. With --mode all, a FILE comes in whole or not at
    all. With --mode best, lines in error are left out, and the others come in batch by batch: an
    import that breaks off says which line to go on from. A line that is in already changes nothing.
    """
    chosen = set_up()
    refused = 0
    for number, path in enumerate(files):
        job = Import(None, utc_now(), whole=mode == "all")
        try:
            _import(chosen, job, path, from_line)
        except (
            *UNAVAILABLE,
            asyncpg.PostgresError,
            OSError,  # the file cannot be read
            Overloaded,
            KeyboardInterrupt,
        ) as fault:
            first = max(job.line + 1, from_line)
            left = map(str, files[number:])
            again = ["viewing-time", "import", "--mode", mode, "--from-line", str(first), *left]
            raise click.ClickException(
                f"{_sentence(fault)}. Go on with\n{shlex.join(again)}"
            ) from fault
        finally:
            _tell(job, path)
        if job.outcome.detail:
            raise click.ClickException(f"{job.outcome.detail}.")
        refused += job.outcome.error_count
        from_line = 1
    if refused:
        raise click.ClickException(f"{refused:,} lines are in error and were left out.")


def _import(chosen: Settings, job: Import, path: Path, from_line: int) -> None:
    with (
        path.open("rb") as file,
        click.progressbar(length=path.stat().st_size, label=path.name, file=sys.stderr) as bar,
    ):
        found = _watched(file, bar.update)
        lines = rows(found) if path.suffix.lower() == ".csv" else objects(found)
        wanted = dropwhile(lambda line: line.number < from_line, lines)
        asyncio.run(_merge(chosen, job, wanted))


async def _merge(chosen: Settings, job: Import, lines: Iterator[Line]) -> None:
    async with connected(chosen, SECONDS) as connection:
        await job.merge(connection, lines)


def _watched(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[Line]:
    """The lines of a file; tells now and then how many bytes were read since the last time."""
    told = 0
    for line in numbered(file):
        if line.number % PROGRESS_LINES == 0:
            advance(file.tell() - told)
            told = file.tell()
        yield line
    advance(file.tell() - told)


def _tell(job: Import, path: Path) -> None:
    outcome = job.outcome
    for error in outcome.errors:
        click.echo(f"{path}:{error.line}: {error.error}", err=True)
    if outcome.error_count > len(outcome.errors):
        click.echo(f"{path}: {outcome.error_count - len(outcome.errors):,} more", err=True)
    click.echo(
        f"{path}: {outcome.accounts:,} accounts, {outcome.profiles:,} profiles, "
        f"{outcome.titles:,} titles"
    )


def _sentence(fault: BaseException) -> str:
    match fault:
        case KeyboardInterrupt():
            return "Interrupted"
        case Overloaded():
            return "Another changed the same rows meanwhile"
    return str(fault) or type(fault).__name__
