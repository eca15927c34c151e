"""The lines of an import: read within bounds, numbered, checked like the bodies of PUT.

A line is a JSON object with `type` (`account`, `profile`, `title`), `id` and the members that a PUT
of it takes; or a row of CSV under a header that names them, an empty cell being an absent member.
"""

import csv
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal, NamedTuple
from uuid import UUID

import msgspec

from service import wire
from service.errors import ClientFault
from service.records import AccountBody, ProfileBody, TitleBody

LINE_MOST: Final = 1024 * 1024  # bytes, with its end


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
        yield Line(number, LineFault(f"Longer than {LINE_MOST} bytes"))


def objects(lines: Iterator[Line]) -> Iterator[Line]:
    """The lines of NDJSON: those that are not blank, without their ends."""
    for number, text in lines:
        if isinstance(text, LineFault):
            yield Line(number, text)
        elif stripped := text.strip():
            yield Line(number, stripped)


def rows(lines: Iterator[Line]) -> Iterator[Line]:
    """The rows of CSV as lines of JSON, each with the number of the line it begins on."""
    last = 0

    def text(line: Line) -> str:
        nonlocal last
        last = line.number
        if isinstance(line.text, LineFault):
            raise line.text
        return line.text.decode(errors="surrogateescape")

    cells = csv.reader(map(text, lines), strict=True)
    header: list[str] | None = None
    while True:
        first = last + 1
        try:
            row = next(cells)
            if header is None:
                header = row
            elif row:
                yield Line(first, _json(header, row))
        except StopIteration:
            return
        except LineFault as fault:
            yield Line(first, fault)
        except csv.Error as fault:
            yield Line(first, LineFault(f"No row of CSV: {fault}"))


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
