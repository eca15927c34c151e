"""The lines of an import: read within bounds, numbered, checked like the bodies of PUT.

A line is a JSON object with `type` (`account`, `profile`, `title`), `id` and the members that a PUT
of it takes; or a row of CSV under a header that names them, an empty cell being an absent member.
"""

import csv
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal, NamedTuple
from uuid import UUID

import msgspec

from service import wire
from service.errors import ClientFault
from service.records import AccountBody, ProfileBody, TitleBody

LINE_MOST: Final = 1024 * 1024  # bytes, with its end
TOO_LONG: Final = f"Longer than {LINE_MOST} bytes"


class LineFault(Exception):
    """A line that cannot be imported; one sentence."""


class Line(NamedTuple):
    """A line as found: its number, from 1, and its text, or why there is none."""

    number: int
    text: bytes | LineFault


class AccountLine(AccountBody, kw_only=True):
    id: UUID


class ProfileLine(ProfileBody, kw_only=True):
    id: UUID


class TitleLine(TitleBody, kw_only=True):
    id: UUID


class Kind(msgspec.Struct):
    type: Literal["account", "profile", "title"]


Record = AccountLine | ProfileLine | TitleLine

KIND: Final = wire.Body(Kind)
RECORDS: Final[
    dict[str, wire.Body[AccountLine] | wire.Body[ProfileLine] | wire.Body[TitleLine]]
] = {
    "account": wire.Body(AccountLine),
    "profile": wire.Body(ProfileLine),
    "title": wire.Body(TitleLine),
}


def record(text: bytes | LineFault) -> tuple[str, Record]:
    """The type and the members of a line; raises LineFault."""
    if isinstance(text, LineFault):
        raise text
    try:
        kind = KIND.read(text, "application/json").type
        return kind, RECORDS[kind].read(text, "application/json")
    except ClientFault as fault:
        raise LineFault(_sentence(fault.detail)) from fault


def numbered(file: BinaryIO) -> Iterator[Line]:
    """The lines of a file; no more of one than its bound is ever held."""
    number = 0
    while text := file.readline(LINE_MOST):
        number += 1
        if number == 1:
            text = text.removeprefix(BOM_UTF8)
        if len(text) < LINE_MOST or text.endswith(b"\n"):
            yield Line(number, text)
            continue
        while (rest := file.readline(LINE_MOST)) and not rest.endswith(b"\n"):
            pass
        yield Line(number, LineFault(TOO_LONG))


def objects(lines: Iterator[Line]) -> Iterator[Line]:
    """The lines of NDJSON: those that are not blank, without their ends."""
    for number, text in lines:
        if isinstance(text, LineFault):
            yield Line(number, text)
        elif stripped := text.strip():
            yield Line(number, stripped)


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
        text: bytes | LineFault
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
        except LineFault as fault:
            text = fault
        except csv.Error as fault:
            text = LineFault(f"No row of CSV: {fault}")
        first = source.taken[0].number
        if isinstance(text, LineFault):
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
        if not self.taken:
            self._size = 0
        self.taken.append(line)
        if isinstance(line.text, LineFault):
            raise line.text
        self._size += len(line.text)
        if self._size > LINE_MOST:
            raise LineFault(TOO_LONG)
        return line.text.decode(errors="surrogateescape")

    def give_back(self) -> None:
        """Has the lines after the row's first one read once more."""
        self._again.extendleft(reversed(self.taken[1:]))


def _json(header: list[str], row: list[str]) -> bytes | LineFault:
    if len(row) != len(header):
        return LineFault(f"{len(row)} cells under a header of {len(header)}")
    members = {name: cell for name, cell in zip(header, row, strict=True) if cell}
    try:
        return msgspec.json.encode(members)
    except UnicodeEncodeError:
        return LineFault("Not UTF-8")


def _sentence(detail: object) -> str:
    """The one fault of a body, as a sentence about a line."""
    match detail:
        case [{"type": "json_invalid", "loc": [_, at], "ctx": {"error": error}}]:
            return f"Not JSON: {error} (character {at})"
        case [{"loc": [_, *path], "msg": msg}]:
            return ": ".join([*map(str, path), str(msg)])
    return str(detail)
