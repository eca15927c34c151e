"""Errors in one field, with the `type` and `loc` of pydantic 2, on which clients rely."""

from typing import Final

from service.errors import FieldError

Loc = tuple[str | int, ...]

SECRET: Final = frozenset(
    {"pin", "new_pin", "current_pin", "password", "password_hash", "pin_token"}
)
MAX_ECHO_CHARACTERS: Final = 256
INT64: Final = 2**63

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
    "list_type": "Input should be a valid list",
    "too_short": "List should have at least {min_length} items, not {actual_length}",
    "too_long": "List should have at most {max_length} items, not {actual_length}",
    "dict_type": "Input should be a valid dictionary",
    "datetime_type": "Input should be a valid datetime",
    "datetime_from_date_parsing": "Input should be a valid datetime, as 2026-03-01T18:00:00Z",
    "timezone_aware": "Input should have a time zone, as 2026-03-01T18:00:00Z",
    "date_parsing": "Input should be a valid date in the format YYYY-MM-DD",
    "date_from_datetime_parsing": "Input should be a valid date or datetime",
    "date_from_datetime_inexact": "Datetimes provided to dates should have zero time",
}


def field_error(kind: str, loc: Loc, value: object = None, **ctx: object) -> FieldError:
    """An error of one of MESSAGES; the values of secret fields are not returned."""
    shown = echo(value) if SECRET.isdisjoint(loc) else None
    return FieldError(kind, [*loc], MESSAGES[kind].format(**ctx), shown, ctx or None)


def echo(value: object) -> object:
    """The part of a rejected value that is returned: scalars of bounded length, or null."""
    if isinstance(value, str):
        return value[:MAX_ECHO_CHARACTERS].encode(errors="replace").decode()
    return value if isinstance(value, int | float) and abs(value) < INT64 else None
