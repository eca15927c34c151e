"""The rows of CSV as spreadsheets write it, as lines of JSON for the import.

A header names `type`, `id` and the members of a PUT; an empty cell is an absent member. Cells are
separated by commas, semicolons or tabs; lines end with LF, CRLF or CR.

    csv_lines → CsvRows → import_lines.parse
"""

import csv
import re
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, Final

import msgspec

from service.http.lenient_values import FALSE, TRUE
from service.platform.import_lines import MAX_LINE_BYTES, NAMES, TOO_LONG, BadLine, Line, parse

CHUNK_BYTES: Final = 64 * 1024
MAX_ROW_LINES: Final = 1000  # bounds how often lines after an unclosed quote are read again
DELIMITERS: Final = (",", ";", "\t")
SEPARATOR: Final = re.compile(rb'"?sep=([^"\r\n])"?[\r\n]*', re.IGNORECASE)  # Excel's first line
NOT_UTF8: Final = "Not UTF-8: save the spreadsheet as CSV UTF-8"
NEEDED: Final = frozenset({"type", "id"})
NO_HEADER: Final = "The first row must be a header that names type and id"
BOOLEANS: Final = frozenset({"is_active", "is_admin", "is_educational", "is_kids"})
# Words and numbers of spreadsheets in other languages. Only these are shown in an error: in a row
# whose cells are shifted, any other cell can be a secret.
FOREIGN: Final = re.compile(
    r"wahr|falsch|ja|nein|vrai|faux|oui|non|verdadero|falso|s[ií]|-?\d+[.,]\d+", re.IGNORECASE
)


def csv_lines(file: BinaryIO) -> Iterator[Line]:
    """The lines of a file, ended by LF, CRLF or CR; holds little more than MAX_LINE_BYTES."""
    number, rest, is_too_long = 1, b"", False
    while chunk := file.read(CHUNK_BYTES):
        *lines, rest = (rest + chunk).splitlines(keepends=True)
        for text in lines:
            yield _line(number, text, is_too_long)
            number, is_too_long = number + 1, False
        if len(rest) > MAX_LINE_BYTES:
            yield Line(number, None)
            # A CR at the end may be the first half of CRLF.
            rest, is_too_long = rest[-1:], True
    for text in rest.splitlines(keepends=True):
        yield _line(number, text, is_too_long)


def _line(number: int, text: bytes, is_too_long: bool) -> Line:
    if is_too_long or len(text) > MAX_LINE_BYTES:
        return Line(number, BadLine(TOO_LONG))
    if number == 1:
        text = text.removeprefix(BOM_UTF8)
    return Line(number, text, text)


class CsvRows:
    """The rows of CSV as lines of JSON, each with the number of its first line.

    A bad row consumes only its first line, and the lines after it are read again, because an
    unclosed quote extends over good rows; except that a row with the cells of the header, no line
    of which can be another row, is one row. Rows without a value are left out. `head` is the header
    and Excel's `sep=` before it, once the first row has been read.
    """

    def __init__(self, lines: Iterator[Line], delimiter: str | None = None) -> None:
        self.head = b""
        self._source = _RowSource(lines)
        self._delimiter = delimiter

    def __iter__(self) -> Iterator[Line]:
        source = self._source
        delimiter = self._read_delimiter()
        cells = csv.reader(source, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            source.row_lines.clear()
            row: list[str] = []
            text: bytes | BadLine
            try:
                row = next(cells)
                if not any(row):
                    continue
                if header is None:
                    header = _names(row)
                    self.head += source.text
                    continue
                row = _fitted(header, row)
                text = _as_json(header, row)
                if len(source.row_lines) > 1:
                    # A cell of several lines has valid members, an unclosed quote does not.
                    parse(text)
            except StopIteration:
                return
            except BadLine as error:
                text = error
            except csv.Error as error:
                text = BadLine(f"No row of CSV: {error}")
            if isinstance(text, BadLine):
                # After a bad header, no later row is the header.
                header = header or []
                if len(row) != len(header) or source.has_rows(delimiter, len(header)):
                    source.read_again()
            yield Line(source.row_lines[0].number, text, source.text)

    def _read_delimiter(self) -> str:
        """The delimiter: given, named by a line `sep=`, or the one that finds most of the names."""
        line = self._source.first()
        text = line.text if line and isinstance(line.text, bytes) else b""
        if named := SEPARATOR.fullmatch(text):
            self.head = self._source.skip()
            return self._delimiter or named[1].decode("latin-1")
        header = text.decode(errors="replace")
        return self._delimiter or max(DELIMITERS, key=lambda each: _found(header, each))


class _RowSource:
    """Feeds lines to the CSV reader and keeps those of the current row, within bounds."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.row_lines: list[Line] = []
        self._lines = lines
        self._again: deque[Line] = deque()
        self._row_bytes = 0

    @property
    def text(self) -> bytes:
        """The current row as it is in the file."""
        return b"".join(line.source for line in self.row_lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        while line.text is None:
            line = next(self._lines)
        if not self.row_lines:
            self._row_bytes = 0
        self.row_lines.append(line)
        if isinstance(line.text, BadLine):
            raise line.text
        self._row_bytes += len(line.text)
        if self._row_bytes > MAX_LINE_BYTES:
            raise BadLine(TOO_LONG)
        if len(self.row_lines) > MAX_ROW_LINES:
            raise BadLine(f"A row of more than {MAX_ROW_LINES} lines")
        return line.text.decode(errors="surrogateescape")

    def first(self) -> Line | None:
        """The first line that is not blank, which stays the next one."""
        for line in self._lines:
            if isinstance(line.text, BadLine) or (line.text or b"").strip(b" \t\r\n,;"):
                self._again.append(line)
                return line
        return None

    def skip(self) -> bytes:
        """Consumes the line that is read again next; returns it."""
        return self._again.popleft().source

    def has_rows(self, delimiter: str, cells: int) -> bool:
        """Whether a line of the current row, except its first, has as many cells as a row."""
        texts = (line.text for line in self.row_lines[1:])
        rows = csv.reader(
            (text.decode(errors="replace") for text in texts if isinstance(text, bytes)),
            delimiter=delimiter,
            quoting=csv.QUOTE_NONE,
        )
        return any(len(row) >= cells for row in rows)

    def read_again(self) -> None:
        """Returns the lines after the first one of the row to the source."""
        self._again.extendleft(reversed(self.row_lines[1:]))
        del self.row_lines[1:]


def _found(header: str, delimiter: str) -> tuple[int, int]:
    """How many known names, and how many cells, a header has with a delimiter."""
    cells = next(csv.reader([header], delimiter=delimiter), [])
    return len(NAMES.intersection(map(_name, cells))), len(cells)


def _name(cell: str) -> str:
    """A name in a header; capitals do not matter."""
    name = cell.strip()
    return name.lower() if name.lower() in NAMES else name


def _names(row: list[str]) -> list[str]:
    """The names in a header; raises BadLine."""
    names = [*map(_name, row)]
    if not NEEDED.issubset(names):
        raise BadLine(NO_HEADER)
    for name in NAMES:
        if names.count(name) > 1:
            raise BadLine(f"{name}: In the header twice")
    return names


def _fitted(header: list[str], row: list[str]) -> list[str]:
    """A row as long as the header, if they differ by empty cells at the end without a name.

    Spreadsheets write them in some rows only, where a column has been used and cleared.
    """
    size = len(header)
    if not any(header[len(row) :]):
        row = row + [""] * (size - len(row))
    return row if any(row[size:]) else row[:size]


def _as_json(header: list[str], row: list[str]) -> bytes:
    """A row as a line of JSON; raises BadLine."""
    if len(row) != len(header):
        raise BadLine(f"{len(row)} cells under a header of {len(header)}")
    members = {name: cell for name, cell in zip(header, row, strict=True) if cell}
    try:
        text = msgspec.json.encode(members)
    except UnicodeEncodeError as error:
        raise BadLine(NOT_UTF8) from error
    unknown = [
        name for name in BOOLEANS & members.keys() if members[name].lower() not in TRUE + FALSE
    ]
    if unknown:
        _explain(text, {name: members[name] for name in unknown})
    return text


def _explain(text: bytes, unknown: dict[str, str]) -> None:
    """Raises BadLine with what is expected if the line is rejected for one of `unknown`."""
    try:
        parse(text)
    except BadLine as error:
        name = str(error).partition(":")[0]
        if name not in unknown:
            raise
        shown = f", not {cell}" if FOREIGN.fullmatch(cell := unknown[name].strip()) else ""
        raise BadLine(f"{name}: Expected true or false{shown}") from error
