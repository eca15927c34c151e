"""What goes over the wire: request bodies, path and query values, JSON answers.

Clients rely on the leniency of the reading (`"yes"` is true, `30.0` is 30) and on the `type` and
`loc` of its faults; both are those of pydantic 2.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
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
ECHO_MAX: Final = 256
REFUSED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

JSON_TYPE: Final = re.compile(r"\s*application/(?:json|[^/;]*\+json)\s*(?:;|\Z)", re.IGNORECASE)
HYPHENATED: Final = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
UUID_FORM: Final = re.compile(rf"[0-9a-fA-F]{{32}}|(?:urn:uuid:)?{HYPHENATED}|\{{{HYPHENATED}\}}")
SPACE: Final = r"[^\S\x1c-\x1f]*"  # Unicode's white space: Python's \s takes four characters more
INTEGER: Final = re.compile(rf"{SPACE}([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?{SPACE}")
INT64: Final = 2**63
TRUE: Final = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True)
FALSE: Final = dict.fromkeys(("false", "f", "no", "n", "off", "0"), False)
BOOLEANS: Final = TRUE | FALSE
NO_TEXT: Final = re.compile("[\0\ud800-\udfff]")  # what PostgreSQL cannot store
CLOCK: Final = r"(?:[01]\d|2[0-3]):[0-5]\d"
OFFSET: Final = r"[zZ]|[+\u2212-](?:[01]\d|2[0-3]):?[0-5]\d"
TIMESTAMP: Final = re.compile(
    rf"(\d{{4}}-\d\d-\d\d)(?:[Tt_ ]({CLOCK}(?::[0-5]\d(?:[.,]\d+)?)?)(?:{OFFSET})?)?", re.ASCII
)
UNIX_TIME: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
UNIX_SECONDS_MAX: Final = 2e10  # numbers beyond are milliseconds
EPOCH: Final = datetime(1970, 1, 1)

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
    """Reads bodies of one kind: the compiled decoder first, leniently only what that refuses."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind).decode
        form = inspect.type_info(kind)
        assert isinstance(form, inspect.StructType)
        self._fields = [(field, _reader(field.type)) for field in form.fields]

    def read(self, raw: bytes, content_type: str | None) -> T:
        """The body's value; raises MalformedJson, FieldError."""
        if not raw:
            raise _fault("missing", ("body",))
        if content_type != "application/json" and not JSON_TYPE.match(content_type or ""):
            raise _fault("model_attributes_type", ("body",))
        try:
            # As text, because the decoder lets bad UTF-8 pass in members that it skips.
            text = raw.decode()
            return self._lenient(raw) if "\\u0000" in text else self._decode(text)
        except REFUSED:
            return self._lenient(raw)

    def _lenient(self, raw: bytes) -> T:
        members = _members(raw)
        values = {}
        for field, reader in self._fields:
            name = field.encode_name
            if name in members:
                values[field.name] = reader(members[name], ("body", name))
            elif field.required:
                raise _fault("missing", ("body", name))
        return self._kind(**values)


def path_uuid(value: str, name: str) -> UUID:
    """A UUID in the path; raises FieldError."""
    return _uuid(value, ("path", name))


def query_date(params: Mapping[str, str], name: str) -> date:
    """A required date in the query, or a timestamp at midnight, any zone; raises FieldError."""
    if name not in params:
        raise _fault("missing", ("query", name))
    return _date(params[name], ("query", name))


def query_uuid(params: Mapping[str, str], name: str) -> UUID | None:
    """A UUID in the query, if it is there; raises FieldError."""
    return _uuid(params[name], ("query", name)) if name in params else None


def query_integer(params: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """An integer in the query, if it is there; raises FieldError."""
    return _integer(least, most, params[name], ("query", name)) if name in params else None


def minutes(seconds: int) -> float:
    """Seconds as the minutes that clients are shown."""
    return round(seconds / 60, 2)


def _fault(kind: str, loc: Loc, value: object = None, **ctx: object) -> FieldError:
    echo = None if loc[-1] in SECRET else _echo(value)
    return FieldError(kind, [*loc], MESSAGES[kind].format(**ctx), echo, ctx or None)


def _echo(value: object) -> object:
    """What is sent back of a refused value: scalars that JSON can hold, of bounded length."""
    if isinstance(value, str):
        return value[:ECHO_MAX].encode(errors="replace").decode()
    return value if isinstance(value, int | float) and abs(value) < INT64 else None


def _members(raw: bytes) -> dict[str, object]:
    """The members of a JSON object, of equal names the last; raises as Body.read."""
    try:
        document = json.loads(raw, parse_int=_whole, parse_constant=partial(_constant, raw))
    except json.JSONDecodeError as error:
        raise MalformedJson(error.pos, error.msg) from None
    except UnicodeDecodeError as error:
        raise MalformedJson(error.start, error.reason) from None
    except RecursionError:
        raise MalformedJson(0, "Nested too deeply") from None
    if document is None:
        raise _fault("missing", ("body",))
    if not isinstance(document, dict):
        raise _fault("model_attributes_type", ("body",))
    return document


def _whole(digits: str) -> float:
    """Python reads no int of thousands of digits; the float is beyond every limit."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _constant(raw: bytes, name: str) -> NoReturn:
    """NaN and Infinity, which Python would read, are no JSON: told where the word first occurs."""
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
    raise TypeError(f"no lenient reading of {kind}")


def _uuid(value: object, loc: Loc) -> UUID:
    if not isinstance(value, str):
        raise _fault("uuid_type", loc, value)
    if not UUID_FORM.fullmatch(value):
        raise _fault("uuid_parsing", loc, value)
    return UUID(value)


def _boolean(value: object, loc: Loc) -> bool:
    if value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        if value.lower() not in BOOLEANS:
            raise _fault("bool_parsing", loc, value)
        return BOOLEANS[value.lower()]
    is_whole = isinstance(value, int | float) and value % 1 == 0 and abs(value) < INT64
    raise _fault("bool_parsing" if is_whole else "bool_type", loc, value)


def _integer(least: int | None, most: int | None, value: object, loc: Loc) -> int:
    number = value
    if isinstance(value, str):
        digits = INTEGER.fullmatch(value)
        if digits is None:
            raise _fault("int_parsing", loc, value)
        number = _whole(digits[1])
    if not isinstance(number, int | float):
        raise _fault("int_type", loc, value)
    if isinstance(number, float) and abs(number) >= INT64:
        raise _fault("int_parsing_size", loc, value)
    if number % 1:
        raise _fault("int_from_float", loc, value)
    if least is not None and number < least:
        raise _fault("greater_than_equal", loc, value, ge=least)
    if most is not None and number > most:
        raise _fault("less_than_equal", loc, value, le=most)
    return int(number)


def _string(
    least: int | None, most: int | None, pattern: str | None, value: object, loc: Loc
) -> str:
    if not isinstance(value, str):
        raise _fault("string_type", loc, value)
    if least is not None and len(value) < least:
        raise _fault("string_too_short", loc, value, min_length=least)
    if most is not None and len(value) > most:
        raise _fault("string_too_long", loc, value, max_length=most)
    if pattern is not None and not re.search(pattern, value):
        raise _fault("string_pattern_mismatch", loc, value, pattern=pattern)
    if NO_TEXT.search(value):
        raise _fault("value_error", loc, value)
    return value


def _choice(values: tuple[object, ...], value: object, loc: Loc) -> object:
    if value not in values:
        expected = " or ".join(", ".join(map(repr, values)).rsplit(", ", 1))
        raise _fault("enum", loc, value, expected=expected)
    return value


def _date(value: str, loc: Loc) -> date:
    try:
        moment = _moment(value)
    except (ValueError, OverflowError):
        kind = "date_parsing" if value[:5] == "0000-" else "date_from_datetime_parsing"
        raise _fault(kind, loc, value) from None
    if moment.time() != time.min:
        raise _fault("date_from_datetime_inexact", loc, value)
    return moment.date()


def _moment(value: str) -> datetime:
    """Date and time as written, whatever the zone; raises ValueError, OverflowError."""
    if form := TIMESTAMP.fullmatch(value):
        return datetime.fromisoformat(f"{form[1]}T{form[2] or '00:00'}")
    if not UNIX_TIME.fullmatch(value):
        raise ValueError(value)
    number = float(value)
    return EPOCH + timedelta(seconds=number if abs(number) <= UNIX_SECONDS_MAX else number / 1000)


def stored(member: object) -> object:
    """The argument of a statement for a member of a body: null where the member was absent."""
    return None if member is UNSET else member
