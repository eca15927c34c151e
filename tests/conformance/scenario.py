"""The format of the scenarios of the HTTP API, read strictly: unknown members are errors.

A file is a list of scenarios: `name`, `rows` (SQL that inserts rows), `steps`, and `undo` (SQL that
deletes them, also after a failure). A step is a statement, a query with its single value, a request
with the expected reply, or a token: `Sql`, `Check`, `Request`, `Token` below.

In every string of a step `{{name}}` is a value saved by an earlier step, `{{today-3}}` a UTC date.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from tests.conformance.expectation import Expect
from tests.conformance.matchers import matcher

# An id in every form that the service accepts, including upper case and without hyphens.
ID = re.compile(
    r"(?<![0-9a-z])[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}(?![0-9a-z])",
    re.IGNORECASE,
)


class Sql(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statement run on the database."""

    sql: str


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query and the single value that it returns."""

    check: str
    equals: Any


class Caller(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The claims and the key of a token; `exp` in seconds from now, `raw` the whole header."""

    account: str | None = None
    exp: int = 3600
    secret: str | None = None
    alg: str = "HS256"
    is_admin: bool | None = None
    claims: dict[str, Any] = {}
    without: list[str] = []
    raw: str | None = None


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request; `as` is an account, a `Caller`, or "none", the default."""

    method: str
    path: str
    expect: Expect
    query: dict[str, str] = {}
    json: Any = msgspec.UNSET
    body: str | None = None
    headers: dict[str, str] = {}
    caller: str | Caller = msgspec.field(name="as", default="none")


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token of a caller, saved under a name, for requests that carry it in the body."""

    token: str
    caller: str | Caller = msgspec.field(name="as")


Step = Sql | Check | Request | Token


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scenario as it stands in the file."""

    name: str
    rows: list[str]
    steps: list[dict[str, Any]]
    undo: list[str]


@dataclass(frozen=True)
class Scenario:
    """A scenario: its file, its name and its JSON text."""

    file: str
    name: str
    text: str

    def fresh(self) -> Document:
        """The scenario with new ids, so that rows and cache entries of other runs do not matter.

        The new ids have the order and the form of the old ones.
        """
        old = sorted({_hex(match) for match in ID.finditer(self.text)})
        new = dict(zip(old, sorted(uuid4().hex for _ in old), strict=True))
        text = ID.sub(lambda match: _spelled(new[_hex(match)], match), self.text)
        return msgspec.json.decode(text, type=Document)

    def place(self, number: int) -> str:
        """The name of step `number`, counted from 1, in messages."""
        return f"{self.file}: {self.name}: step {number}"


def _hex(match: re.Match[str]) -> str:
    return match[0].replace("-", "").lower()


def _spelled(digits: str, like: re.Match[str]) -> str:
    cuts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    text = like[1].join(cuts)
    return text.upper() if like[0].isupper() else text


def load(directory: Path) -> list[Scenario]:
    """Every scenario of the directory's files; ValueError if one cannot be interpreted."""
    scenarios = [
        Scenario(path.name, document["name"], json.dumps(document))
        for path in sorted(directory.glob("*.json"))
        for document in json.loads(path.read_text(encoding="utf-8"))
    ]
    if len({scenario.name for scenario in scenarios}) < len(scenarios):
        raise ValueError("two scenarios have one name")
    for scenario in scenarios:
        for number, step in enumerate(scenario.fresh().steps, 1):
            try:
                _check_matchers(read_step(step))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{scenario.place(number)}: {error}") from error
    return scenarios


def read_step(step: dict[str, Any]) -> Step:
    """Converts an object of the file to a step; ValueError if it is not a step."""
    if "sql" in step:
        return msgspec.convert(step, Sql)
    if "check" in step:
        return msgspec.convert(step, Check)
    if "token" in step:
        return msgspec.convert(step, Token)
    request = msgspec.convert(step, Request)
    if request.body is not None and request.json is not msgspec.UNSET:
        raise ValueError("a request has `json` or `body`, not both")
    return request


def _check_matchers(step: Step) -> None:
    if isinstance(step, Request):
        for text in _strings([step.expect.json, step.expect.headers]):
            matcher(text)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _strings(member)
