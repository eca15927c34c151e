"""The lines of an import: read within bounds, numbered from 1, checked like the body of a PUT.

A line is a JSON object with `type` (`account`, `profile`, `title`), `id` and the members of a PUT;
the command also makes such lines of the rows of CSV (`import_csv.py`).

    numbered_lines → json_lines → parse
"""

from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple, get_args
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, UnsetType

from service.errors import ClientError
from service.http import lenient_json
from service.http.field_errors import MESSAGES
from service.platform.bodies import AccountBody, ProfileBody, TitleBody
from service.viewing.deletion import Kind

MAX_LINE_BYTES: Final = 1024 * 1024  # with the line's end
# As for the body of a PUT. Parsing 1 MB leniently would take 100 ms, skipping it takes 2 ms.
MAX_PARSED_BYTES: Final = 64 * 1024
TOO_DEEP: Final = "Not JSON: Nested too deeply (character 0)"
TOO_LONG: Final = f"Longer than {MAX_LINE_BYTES} bytes"


class BadLine(Exception):
    """A line that cannot be imported; its message is one sentence."""


class Line(NamedTuple):
    """A numbered line: its text, or the error that makes it unusable.

    `text` is None for a blank line and for each part of a line that is too long, so that the
    consumer can yield to other tasks. `source` is the line as it is in the file; empty if too long.
    """

    number: int
    text: bytes | BadLine | None
    source: bytes = b""


class TypedLine(msgspec.Struct):
    type: Kind


class AccountLine(AccountBody, kw_only=True):
    id: UUID


class ProfileLine(ProfileBody, kw_only=True):
    id: UUID


class TitleLine(TitleBody, kw_only=True):
    id: UUID


Record = AccountLine | ProfileLine | TitleLine

TYPE: Final = lenient_json.Body(TypedLine)
RECORDS: Final[dict[Kind, lenient_json.Body[Any]]] = {
    "account": lenient_json.Body(AccountLine),
    "profile": lenient_json.Body(ProfileLine),
    "title": lenient_json.Body(TitleLine),
}
# Every member of every type, unparsed.
NAMES: Final = {"type", *(name for kind in get_args(Record) for name in kind.__struct_fields__)}
Members: Final = msgspec.defstruct("Members", [(n, Raw | UnsetType, UNSET) for n in sorted(NAMES)])


def numbered_lines(file: BinaryIO) -> Iterator[Line]:
    """The lines of a file; holds at most MAX_LINE_BYTES of one."""
    number = 0
    while text := file.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1:
            text = text.removeprefix(BOM_UTF8)
        if len(text) < MAX_LINE_BYTES or text.endswith(b"\n"):
            yield Line(number, text, text)
            continue
        while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            yield Line(number, None)
        yield Line(number, BadLine(TOO_LONG))


def json_lines(lines: Iterator[Line]) -> Iterator[Line]:
    """The lines of NDJSON without surrounding white space."""
    for number, text, source in lines:
        yield Line(number, text.strip() or None if isinstance(text, bytes) else text, source)


def parse(text: bytes | BadLine) -> tuple[Kind, Record]:
    """The type and the record of a line; raises BadLine."""
    if isinstance(text, BadLine):
        raise text
    if len(text) > MAX_PARSED_BYTES:
        text = _without_unknown_members(text)
    try:
        kind = TYPE.read(text, "application/json").type
        return kind, RECORDS[kind].read(text, "application/json")
    except ClientError as error:
        raise BadLine(_sentence(error.detail)) from error


def _without_unknown_members(text: bytes) -> bytes:
    """A long line reduced to the members that `parse` reads; raises BadLine."""
    try:
        text.decode()
        msgspec.json.decode(text, type=Raw)  # checks the syntax of the whole line before its type
        members = msgspec.json.decode(text, type=Members)
    except RecursionError as error:
        raise BadLine(TOO_DEEP) from error
    except UnicodeDecodeError as error:
        raise BadLine(f"Not JSON: {error.reason} (byte {error.start})") from error
    except msgspec.ValidationError as error:
        raise BadLine(MESSAGES["model_attributes_type"]) from error
    except msgspec.DecodeError as error:
        raise BadLine(f"Not JSON: {str(error).removeprefix('JSON is malformed: ')}") from error
    for name, value in msgspec.structs.asdict(members).items():
        if value is not UNSET and len(bytes(value)) > MAX_PARSED_BYTES:
            raise BadLine(f"{name}: Longer than {MAX_PARSED_BYTES} bytes")
    return msgspec.json.encode(members)


def _sentence(detail: object) -> str:
    """The error of a body as a sentence about a line."""
    match detail:
        case [{"type": "json_invalid", "loc": [_, position], "ctx": {"error": error}}]:
            return f"Not JSON: {error} (character {position})"
        case [{"loc": [_, *path], "msg": message}]:
            return ": ".join([*map(str, path), str(message)])
    return str(detail)
