"""Reads JSON bodies and values of the path and the query; writes JSON responses.

Clients rely on lenient reading (`"yes"` is true, `30.0` is 30) and on the `type` and `loc` of
errors; both are those of pydantic 2.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Final, Generic, NoReturn, TypeVar
from uuid import UUID

import msgspec
from msgspec import UnsetType, inspect

from service.errors import MalformedJson
from service.http.field_errors import field_error
from service.http.lenient_values import read_integer, read_uuid, reader, whole

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")

NOT_DECODED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

JSON_TYPE: Final = re.compile(r"\s*application/(?:json|[^/;]*\+json)\s*(?:;|\Z)", re.IGNORECASE)

encode: Final = msgspec.json.Encoder().encode


class Body(Generic[T]):
    """Reads bodies of one type: by the compiled decoder, or leniently if that rejects them."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind).decode
        self._read = reader(inspect.type_info(kind))

    def read(self, raw: bytes, content_type: str | None) -> T:
        """The decoded body; raises MalformedJson, FieldError."""
        if not raw:
            raise field_error("missing", ("body",))
        if content_type != "application/json" and not JSON_TYPE.match(content_type or ""):
            raise field_error("model_attributes_type", ("body",))
        try:
            # The decoder does not check the UTF-8 of members that it skips.
            text = raw.decode()
            return self._lenient(raw) if "\\u0000" in text else self._decode(text)
        except NOT_DECODED:
            return self._lenient(raw)

    def _lenient(self, raw: bytes) -> T:
        value = self._read(_members(raw), ("body",))
        assert isinstance(value, self._kind)
        return value


def path_uuid(value: str, name: str) -> UUID:
    """A UUID in the path; raises FieldError."""
    return read_uuid(value, ("path", name))


def query_uuid(params: Mapping[str, str], name: str) -> UUID | None:
    """An optional UUID in the query; raises FieldError."""
    return read_uuid(params[name], ("query", name)) if name in params else None


def query_integer(params: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """An optional integer in the query; raises FieldError."""
    return read_integer(least, most, params[name], ("query", name)) if name in params else None


@lru_cache(maxsize=8192)
def minutes(seconds: int) -> float:
    """Seconds as minutes, rounded as the contract says."""
    return round(seconds / 60, 2)


def maybe_minutes(seconds: int | None) -> float | None:
    """The same; None for None."""
    return None if seconds is None else minutes(seconds)


def _members(raw: bytes) -> dict[str, object]:
    """The members of a JSON object; of equal names the last. Raises as Body.read."""
    try:
        document = json.loads(raw, parse_int=whole, parse_constant=partial(_constant, raw))
    except json.JSONDecodeError as error:
        raise MalformedJson(error.pos, error.msg) from None
    except UnicodeDecodeError as error:
        raise MalformedJson(error.start, error.reason) from None
    except RecursionError:
        raise MalformedJson(0, "Nested too deeply") from None
    if document is None:
        raise field_error("missing", ("body",))
    if not isinstance(document, dict):
        raise field_error("model_attributes_type", ("body",))
    return document


def _constant(raw: bytes, name: str) -> NoReturn:
    """Rejects NaN and Infinity, which Python accepts, at the place where the word first occurs."""
    raise MalformedJson(max(raw.find(name.encode()), 0), "Expecting value")


def stored(member: V | UnsetType) -> V | None:
    """A member of a body as an argument of a statement: null if the member is absent."""
    return None if isinstance(member, UnsetType) else member
