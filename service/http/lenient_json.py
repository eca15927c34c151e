"""Reads JSON bodies and values of the path and the query; writes JSON responses.

Clients rely on lenient reading (`"yes"` is true, `30.0` is 30) and on the `type` and `loc` of
errors; both are those of pydantic 2.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Generic, NoReturn, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET, inspect

from service.errors import FieldError, MalformedJson

T = TypeVar("T", bound=msgspec.Struct)
Loc = tuple[str, ...]
Reader = Callable[[object, Loc], object]

SECRET: Final = frozenset(
    {"pin", "new_pin", "current_pin", "password", "password_hash", "pin_token"}
)
MAX_ECHO_CHARACTERS: Final = 256
NOT_DECODED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

JSON_TYPE: Final = re.compile(r"\s*application/(?:json|[^/;]*\+json)\s*(?:;|\Z)", re.IGNORECASE)
HYPHENATED: Final = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
UUID_FORM: Final = re.compile(rf"[0-9a-fA-F]{{32}}|(?:urn:uuid:)?{HYPHENATED}|\{{{HYPHENATED}\}}")
SPACE: Final = r"[^\S\x1c-\x1f]*"  # Unicode's white space; Python's \s has four more characters
INTEGER: Final = re.compile(rf"{SPACE}([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?{SPACE}")
INT64: Final = 2**63
TRUE: Final = ("true", "t", "yes", "y", "on", "1")
FALSE: Final = ("false", "f", "no", "n", "off", "0")
NOT_STORABLE: Final = re.compile("[\0\ud800-\udfff]")  # as text of PostgreSQL

MESSAGES: Final = {
    "missing": "Field required",
    "model_attributes_type": "Input should be a valid dictionary or object",
    "uuid_type": "UUID input should be a string, bytes or UUID object",
    "uuid_parsing": "Input should be a valid UUID",
    "bool_type": "Input should be a valid boolean",
    "bool_parsing": "Input should be a valid boolean, unable to interpret input",
    "int_type": "Input should be a valid integer",
    "int_parsing": "Input should be a valid integer, unable to parse string as an integer",
    "int_from_float": "Input should be a valid integer, got a number with a fractional part",
    "int_parsing_size": "Unable to parse input string as an integer, exceeded maximum size",
    "greater_than_equal": "Input should be greater than or equal to {ge}",
    "less_than_equal": "Input should be less than or equal to {le}",
    "string_type": "Input should be a valid string",
    "string_too_short": "String should have at least {min_length} characters",
    "string_too_long": "String should have at most {max_length} characters",
    "string_pattern_mismatch": "String should match pattern '{pattern}'",
    "value_error": "Value error, NUL and lone surrogates are no text",
    "enum": "Input should be {expected}",
    "date_parsing": "Input should be a valid date in the format YYYY-MM-DD",
    "date_from_datetime_parsing": "Input should be a valid date or datetime",
    "date_from_datetime_inexact": "Datetimes provided to dates should have zero time",
}

encode: Final = msgspec.json.Encoder().encode


class Body(Generic[T]):
    """Reads bodies of one type: by the compiled decoder, or leniently if that rejects them."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind).decode
        form = inspect.type_info(kind)
        assert isinstance(form, inspect.StructType)
        self._fields = [(field, _reader(field.type)) for field in form.fields]

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
        members = _members(raw)
        values = {}
        for field, reader in self._fields:
            name = field.encode_name
            if name in members:
                values[field.name] = reader(members[name], ("body", name))
            elif field.required:
                raise field_error("missing", ("body", name))
        return self._kind(**values)


def path_uuid(value: str, name: str) -> UUID:
    """A UUID in the path; raises FieldError."""
    return _uuid(value, ("path", name))


def query_uuid(params: Mapping[str, str], name: str) -> UUID | None:
    """An optional UUID in the query; raises FieldError."""
    return _uuid(params[name], ("query", name)) if name in params else None


def query_integer(params: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """An optional integer in the query; raises FieldError."""
    return _integer(least, most, params[name], ("query", name)) if name in params else None


def minutes(seconds: int) -> float:
    """Seconds as minutes, rounded as the contract says."""
    return round(seconds / 60, 2)


def field_error(kind: str, loc: Loc, value: object = None, **ctx: object) -> FieldError:
    """An error of one of MESSAGES; the values of secret fields are not returned."""
    echo = None if loc[-1] in SECRET else _echo(value)
    return FieldError(kind, [*loc], MESSAGES[kind].format(**ctx), echo, ctx or None)


def _echo(value: object) -> object:
    """The part of a rejected value that is returned: scalars of bounded length, or null."""
    if isinstance(value, str):
        return value[:MAX_ECHO_CHARACTERS].encode(errors="replace").decode()
    return value if isinstance(value, int | float) and abs(value) < INT64 else None


def _members(raw: bytes) -> dict[str, object]:
    """The members of a JSON object; of equal names the last. Raises as Body.read."""
    try:
        document = json.loads(raw, parse_int=_whole, parse_constant=partial(_constant, raw))
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


def _whole(digits: str) -> float:
    """Python rejects an int of thousands of digits; the float is beyond every limit."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _constant(raw: bytes, name: str) -> NoReturn:
    """Rejects NaN and Infinity, which Python accepts, at the place where the word first occurs."""
    raise MalformedJson(max(raw.find(name.encode()), 0), "Expecting value")


def _reader(kind: inspect.Type) -> Reader:
    """The lenient reader of a field's type."""
    match kind:
        case inspect.Metadata(type=described):
            return _reader(described)
        case inspect.UUIDType():
            return _uuid
        case inspect.BoolType():
            return _boolean
        case inspect.IntType(ge=least, le=most):
            return partial(_integer, least, most)
        case inspect.StrType(min_length=least, max_length=most, pattern=pattern):
            return partial(_string, least, most, pattern)
        case inspect.LiteralType(values=values):
            return partial(_choice, values)
        case inspect.UnionType(types=(some, inspect.NoneType())):
            reader = _reader(some)
            return lambda value, loc: None if value is None else reader(value, loc)
    raise TypeError(f"no lenient reader of {kind}")


def _uuid(value: object, loc: Loc) -> UUID:
    if not isinstance(value, str):
        raise field_error("uuid_type", loc, value)
    if not UUID_FORM.fullmatch(value):
        raise field_error("uuid_parsing", loc, value)
    return UUID(value)


def _boolean(value: object, loc: Loc) -> bool:
    if value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        if value.lower() not in TRUE + FALSE:
            raise field_error("bool_parsing", loc, value)
        return value.lower() in TRUE
    is_whole = isinstance(value, int | float) and value % 1 == 0 and abs(value) < INT64
    raise field_error("bool_parsing" if is_whole else "bool_type", loc, value)


def _integer(least: int | None, most: int | None, value: object, loc: Loc) -> int:
    number = value
    if isinstance(value, str):
        digits = INTEGER.fullmatch(value)
        if digits is None:
            raise field_error("int_parsing", loc, value)
        number = _whole(digits[1])
    if not isinstance(number, int | float):
        raise field_error("int_type", loc, value)
    if isinstance(number, float) and abs(number) >= INT64:
        raise field_error("int_parsing_size", loc, value)
    if number % 1:
        raise field_error("int_from_float", loc, value)
    if least is not None and number < least:
        raise field_error("greater_than_equal", loc, value, ge=least)
    if most is not None and number > most:
        raise field_error("less_than_equal", loc, value, le=most)
    return int(number)


def _string(
    least: int | None, most: int | None, pattern: str | None, value: object, loc: Loc
) -> str:
    if not isinstance(value, str):
        raise field_error("string_type", loc, value)
    if least is not None and len(value) < least:
        raise field_error("string_too_short", loc, value, min_length=least)
    if most is not None and len(value) > most:
        raise field_error("string_too_long", loc, value, max_length=most)
    if pattern is not None and not re.search(pattern, value):
        raise field_error("string_pattern_mismatch", loc, value, pattern=pattern)
    if NOT_STORABLE.search(value):
        raise field_error("value_error", loc, value)
    return value


def _choice(values: tuple[object, ...], value: object, loc: Loc) -> object:
    if value not in values:
        expected = " or ".join(", ".join(map(repr, values)).rsplit(", ", 1))
        raise field_error("enum", loc, value, expected=expected)
    return value


def stored(member: object) -> object:
    """A member of a body as an argument of a statement: null if the member is absent."""
    return None if member is UNSET else member
