"""The file of the lines that an import rejects, in the form of its input."""

import os
import re
import shutil
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import click

from service.platform.import_csv import CsvRows
from service.platform.import_lines import Line
from service.platform.import_merge import LineError

SPOOL_BYTES: Final = 8 * 1024 * 1024  # of a batch in memory, further ones in a temporary file
LINE_END: Final = re.compile(rb"(\r\n|\r|\n)\Z")


@contextmanager
def stored(path: Path, name: str, is_overwritten: bool, is_continued: bool) -> Iterator["Rejects"]:
    """Collects the rejected lines of the file `name`, and stores them at `path` at the end.

    The lines can contain hashes of passwords, so the file is readable for its owner only. It
    appears whole or not at all, also when the import fails; continuing the import adds to it.
    """
    may_replace = path.exists()
    if not may_replace:
        is_continued = False
    elif Path(name).exists() and path.samefile(name):
        raise click.ClickException(f"{path} is the file to import: name another for --rejects.")
    elif not (is_overwritten or is_continued):
        raise click.ClickException(
            f"{path} exists already: name another for --rejects, or add --overwrite."
        )
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise click.ClickException(
            f"{path} cannot be written: {error.strerror}; name another for --rejects."
        ) from error
    with (
        tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool,
        os.fdopen(descriptor, "w+b") as file,
    ):
        continued = path if is_continued and not is_overwritten else None
        rejects = Rejects(path, name, file, spool, continued)
        try:
            yield rejects
        finally:
            # No rejected line, no file; but an older one must not look like the result of this run.
            if rejects.count or (may_replace and rejects.size >= 0):
                file.truncate(rejects.size)
                os.fsync(descriptor)
                _publish(Path(temporary), path, may_replace)
            if rejects.count:
                click.echo(f"{path} has the rejected lines: correct and import them.", err=True)
            Path(temporary).unlink(missing_ok=True)


def _publish(temporary: Path, path: Path, may_replace: bool) -> None:
    if may_replace:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        kept = temporary.with_name(temporary.name.removeprefix("."))
        temporary.replace(kept)
        raise click.ClickException(
            f"{path} exists by now: the rejected lines are in {kept}."
        ) from None


class Rejects:
    """The rejected lines of one file, batch by batch; reasons are printed.

    `size` is that of the file up to the latest batch, or -1 before the first one has ended.
    """

    def __init__(
        self, path: Path, name: str, file: IO[bytes], spool: IO[bytes], continued: Path | None
    ) -> None:
        self.count = 0
        self.size = -1
        self._path = path
        self._name = name
        self._file = file
        self._spool = spool  # the lines of the present batch
        self._continued = continued
        self._end = b"\n"
        self._places: dict[int, tuple[int, int]] = {}

    def watched(
        self, lines: Iterator[Line], rows: CsvRows | None, has_mark: bool
    ) -> Iterator[Line]:
        """The lines, each of which is kept until its batch has ended."""
        is_begun = False
        for line in lines:
            if not is_begun:
                self._begin(rows.head if rows else b"", has_mark)
                is_begun = True
            if line.text is not None:
                self._places[line.number] = (self._spool.tell(), len(line.source))
                self._spool.write(line.source)
            yield line
        if not is_begun:
            self._begin(rows.head if rows else b"", has_mark)

    def add(self, errors: list[LineError]) -> None:
        """Adds the rejected lines of a batch, and prints the reasons."""
        for error in errors:
            start, size = self._places[error.line]
            click.echo(f"{self._name}:{error.line}: {error.error}", err=True)
            if not size:
                click.echo(f"{self._name}:{error.line}: too long for {self._path}", err=True)
                continue
            self._spool.seek(start)
            line = self._spool.read(size)
            self._file.write(line if LINE_END.search(line) else line + self._end)
            self.count += 1
        self._file.flush()
        self.size = self._file.tell()
        self._places.clear()
        self._spool.seek(0)
        self._spool.truncate()

    def _begin(self, head: bytes, has_mark: bool) -> None:
        """Writes the header of CSV, or the content of the file that is continued."""
        self._end = found[0] if (found := LINE_END.search(head)) else self._end
        if head and has_mark:
            head = BOM_UTF8 + head
        if not self._continued:
            self._file.write(head if not head or LINE_END.search(head) else head + self._end)
            return
        with self._continued.open("rb") as kept:
            if kept.read(len(head)) != head:
                raise click.ClickException(
                    f"{self._path} has another header: name another for --rejects."
                )
            kept.seek(0)
            shutil.copyfileobj(kept, self._file)
        size = self._file.tell()
        self._file.seek(max(size - 1, 0))
        if size and not LINE_END.search(self._file.read(1)):
            self._file.write(self._end)
