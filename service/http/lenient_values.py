"""Reads the values of bodies, paths and queries as leniently as clients rely on.

`reader` makes the reader of a type: scalars, lists, dictionaries and Structs, in any nesting. It
accepts at least what the compiled decoder accepts, with the same result.
"""

import re
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import inspect

from service.http.field_errors import INT64, Loc, echo, field_error

Reader = Callable[[object, Loc], object]

HYPHENATED: Final = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
UUID_FORM: Final = re.compile(rf"[0-9a-fA-F]{{32}}|(?:urn:uuid:)?{HYPHENATED}|\{{{HYPHENATED}\}}")
SPACE: Final = r"[^\S\x1c-\x1f]*"  # Unicode's white space; Python's \s has four more characters
INTEGER: Final = re.compile(rf"{SPACE}([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?{SPACE}")
TRUE: Final = ("true", "t", "yes", "y", "on", "1")
FALSE: Final = ("false", "f", "no", "n", "off", "0")
NOT_STORABLE: Final = re.compile("[\0\ud800-\udfff]")  # as text of PostgreSQL
TIMESTAMP: Final = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d)(:\d\d(?:\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII
)
KEY: Final = "[key]"  # last in the `loc` of an error in the key of a dictionary


def whole(digits: str) -> float:
    """Python rejects an int of thousands of digits; the float is beyond every limit."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def reader(kind: inspect.Type) -> Reader:
    """The lenient reader of a type; raises TypeError for a restriction that it would not check."""
    match kind:
        case inspect.Metadata(type=described):
            return reader(described)
        case inspect.UUIDType():
            return read_uuid
        case inspect.BoolType():
            return _boolean
        case inspect.IntType(gt=None, ge=least, lt=None, le=most, multiple_of=None):
            return partial(read_integer, least, most)
        case inspect.StrType(min_length=least, max_length=most, pattern=pattern):
            return partial(_string, least, most, pattern)
        case inspect.LiteralType(values=values):
            return partial(_choice, values)
        case inspect.UnionType(types=(some, inspect.NoneType())):
            return partial(_nullable, reader(some))
        case inspect.DateTimeType(tz=True):
            return _timestamp
        case inspect.ListType(item_type=item, min_length=least, max_length=most):
            return partial(_list, least, most, reader(item))
        case inspect.DictType(key_type=key, value_type=item, min_length=None, max_length=None):
            return partial(_dictionary, reader(key), reader(item))
        case inspect.StructType(cls=form, fields=fields, forbid_unknown_fields=False):
            return partial(_struct, form, [(field, reader(field.type)) for field in fields])
    raise TypeError(f"no lenient reader of {kind}")


def _nullable(read: Reader, value: object, loc: Loc) -> object:
    return None if value is None else read(value, loc)


def _struct(
    form: type[msgspec.Struct],
    fields: list[tuple[inspect.Field, Reader]],
    value: object,
    loc: Loc,
) -> msgspec.Struct:
    """Unknown members are ignored; the first error in the order of the fields is raised."""
    if not isinstance(value, dict):
        raise field_error("model_attributes_type", loc, value)
    values: dict[str, Any] = {}
    for field, read in fields:
        name = field.encode_name
        if name in value:
            values[field.name] = read(value[name], (*loc, name))
        elif field.required:
            raise field_error("missing", (*loc, name))
    return form(**values)


def _list(
    least: int | None, most: int | None, read: Reader, value: object, loc: Loc
) -> list[object]:
    if not isinstance(value, list):
        raise field_error("list_type", loc, value)
    size = {"field_type": "List", "actual_length": len(value)}
    if least is not None and len(value) < least:
        raise field_error("too_short", loc, min_length=least, **size)
    if most is not None and len(value) > most:
        raise field_error("too_long", loc, max_length=most, **size)
    return [read(item, (*loc, position)) for position, item in enumerate(value)]


def _dictionary(read_key: Reader, read: Reader, value: object, loc: Loc) -> dict[object, object]:
    if not isinstance(value, dict):
        raise field_error("dict_type", loc, value)
    found = {}
    for name, item in value.items():
        place = (*loc, str(echo(name)))
        found[read_key(name, (*place, KEY))] = read(item, place)
    return found


def _timestamp(value: object, loc: Loc) -> datetime:
    """A timestamp of RFC 3339; seconds are optional, as some clients leave out zeros.

    One without a zone is rejected, because the client can have meant any zone.
    """
    if not isinstance(value, str):
        raise field_error("datetime_type", loc, value)
    parts = TIMESTAMP.fullmatch(value)
    if parts is None:
        raise field_error("datetime_from_date_parsing", loc, value)
    minutes, seconds, zone = parts.groups()
    if zone is None:
        raise field_error("timezone_aware", loc, value)
    try:
        return msgspec.convert(f"{minutes}{seconds or ':00'}{zone}", datetime)
    except msgspec.ValidationError:
        raise field_error("datetime_from_date_parsing", loc, value) from None


def read_uuid(value: object, loc: Loc) -> UUID:
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


def read_integer(least: int | None, most: int | None, value: object, loc: Loc) -> int:
    number = value
    if isinstance(value, str):
        digits = INTEGER.fullmatch(value)
        if digits is None:
            raise field_error("int_parsing", loc, value)
        number = whole(digits[1])
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
