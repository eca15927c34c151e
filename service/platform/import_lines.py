"""The lines of an import: read within bounds, numbered, checked like the bodies of PUT.

A line is a JSON object with `type` (`account`, `profile`, `title`), `id` and the members that a PUT
of it takes; or a row of CSV under a header that names them, an empty cell being an absent member.
"""

import csv
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal, NamedTuple, get_args
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, UnsetType

from service.errors import ClientError
from service.http import lenient_json
from service.platform.bodies import AccountBody, ProfileBody, TitleBody

MAX_LINE_BYTES: Final = 1024 * 1024  # bytes, with its end
TOO_DEEP: Final = "Not JSON: Nested too deeply (character 0)"
TOO_LONG: Final = f"Longer than {MAX_LINE_BYTES} bytes"
# As much as the body of a PUT. Parsing the members of 1 MB leniently takes 100 ms, skipping 2 ms.
MAX_PARSED_BYTES: Final = 64 * 1024
MAX_ROW_LINES: Final = 1000  # that a quote which is not closed can make the reader read again


class BadLine(Exception):
    """A line that cannot be imported; one sentence."""


class Line(NamedTuple):
    """A line as found: its number, from 1, and its text, or why there is none.

    None where there is nothing to import: a blank line, a part of a line that is too long. It is
    passed on, so that the reader of the lines decides when to give way to others.
    """

    number: int
    text: bytes | BadLine | None


class AccountLine(AccountBody, kw_only=True):
    id: UUID


class ProfileLine(ProfileBody, kw_only=True):
    id: UUID


class TitleLine(TitleBody, kw_only=True):
    id: UUID


class Kind(msgspec.Struct):
    type: Literal["account", "profile", "title"]


Record = AccountLine | ProfileLine | TitleLine

KIND: Final = lenient_json.Body(Kind)
RECORDS: Final[
    dict[
        str,
        lenient_json.Body[AccountLine]
        | lenient_json.Body[ProfileLine]
        | lenient_json.Body[TitleLine],
    ]
] = {
    "account": lenient_json.Body(AccountLine),
    "profile": lenient_json.Body(ProfileLine),
    "title": lenient_json.Body(TitleLine),
}
# Every member of every type, unparsed.
NAMES: Final = {"type", *(n for kind in get_args(Record) for n in kind.__struct_fields__)}
Members: Final = msgspec.defstruct("Members", [(n, Raw | UnsetType, UNSET) for n in sorted(NAMES)])


def record(text: bytes | BadLine) -> tuple[str, Record]:
    """The type and the members of a line; raises BadLine."""
    if isinstance(text, BadLine):
        raise text
    if len(text) > MAX_PARSED_BYTES:
        text = _known_members(text)
    try:
        kind = KIND.read(text, "application/json").type
        return kind, RECORDS[kind].read(text, "application/json")
    except ClientError as fault:
        raise BadLine(_sentence(fault.detail)) from fault


def _known_members(text: bytes) -> bytes:
    """A long line without the members that nobody reads; raises BadLine."""
    try:
        text.decode()
        members = msgspec.json.decode(text, type=Members)
    except RecursionError as error:
        raise BadLine(TOO_DEEP) from error
    except UnicodeDecodeError as error:
        raise BadLine(f"Not JSON: {error.reason} (byte {error.start})") from error
    except msgspec.DecodeError as error:
        raise BadLine(_not_an_object(text)) from error
    for name, value in msgspec.structs.asdict(members).items():
        if value is not UNSET and len(bytes(value)) > MAX_PARSED_BYTES:
            raise BadLine(f"{name}: Longer than {MAX_PARSED_BYTES} bytes")
    return msgspec.json.encode(members)


def _not_an_object(text: bytes) -> str:
    """Why a long line is not a JSON object: not JSON, or another kind of value."""
    try:
        msgspec.json.decode(text, type=Raw)
    except RecursionError:
        return TOO_DEEP
    except msgspec.DecodeError as error:
        return f"Not JSON: {str(error).removeprefix('JSON is malformed: ')}"
    return lenient_json.MESSAGES["model_attributes_type"]


def numbered(file: BinaryIO) -> Iterator[Line]:
    """The lines of a file; no more of one than its bound is ever held."""
    number = 0
    while text := file.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1:
            text = text.removeprefix(BOM_UTF8)
        if len(text) < MAX_LINE_BYTES or text.endswith(b"\n"):
            yield Line(number, text)
            continue
        while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            yield Line(number, None)
        yield Line(number, BadLine(TOO_LONG))


def objects(lines: Iterator[Line]) -> Iterator[Line]:
    """The lines of NDJSON without their ends; a blank one has no text."""
    for number, text in lines:
        yield Line(number, text.strip() or None if isinstance(text, bytes) else text)


def rows(lines: Iterator[Line]) -> Iterator[Line]:
    """The rows of CSV as lines of JSON, each with the number of the line it begins on.

    Of a row in error only its first line is spent: a quote that is not closed takes good rows with
    it, so what follows is read once more.
    """
    source = _Source(lines)
    cells = csv.reader(source, strict=True)
    header: list[str] | None = None
    while True:
        source.taken.clear()
        text: bytes | BadLine
        try:
            row = next(cells)
            if header is None:
                header = row
                continue
            if not row:
                continue
            text = _json(header, row)
            if len(source.taken) > 1:
                # Only its members tell a cell of several lines from one that took rows.
                record(text)
        except StopIteration:
            return
        except BadLine as fault:
            text = fault
        except csv.Error as error:
            text = BadLine(f"No row of CSV: {error}")
        first = source.taken[0].number
        if isinstance(text, BadLine):
            source.give_back()
            # No row may pass for the header.
            header = header or []
        yield Line(first, text)


class _Source:
    """The text of lines, those of the row at hand kept; no more of a row than a line's bound."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.taken: list[Line] = []
        self._lines = lines
        self._again: deque[Line] = deque()
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        while line.text is None:
            line = next(self._lines)
        if not self.taken:
            self._size = 0
        self.taken.append(line)
        if isinstance(line.text, BadLine):
            raise line.text
        self._size += len(line.text)
        if self._size > MAX_LINE_BYTES:
            raise BadLine(TOO_LONG)
        if len(self.taken) > MAX_ROW_LINES:
            raise BadLine(f"A row of more than {MAX_ROW_LINES} lines")
        return line.text.decode(errors="surrogateescape")

    def give_back(self) -> None:
        """Has the lines after the row's first one read once more."""
        self._again.extendleft(reversed(self.taken[1:]))


def _json(header: list[str], row: list[str]) -> bytes | BadLine:
    if len(row) != len(header):
        return BadLine(f"{len(row)} cells under a header of {len(header)}")
    members = {name: cell for name, cell in zip(header, row, strict=True) if cell}
    try:
        return msgspec.json.encode(members)
    except UnicodeEncodeError:
        return BadLine("Not UTF-8")


def _sentence(detail: object) -> str:
    """The one fault of a body, as a sentence about a line."""
    match detail:
        case [{"type": "json_invalid", "loc": [_, at], "ctx": {"error": error}}]:
            return f"Not JSON: {error} (character {at})"
        case [{"loc": [_, *path], "msg": msg}]:
            return ": ".join([*map(str, path), str(msg)])
    return str(detail)
