"""Reads dates of query and path, and ranges of them; a date may be a timestamp at midnight.

The history also reads Unix times, as pydantic 2 does, because clients may rely on that.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Final

from service.errors import DAYS_REVERSED, RuleError, Sentence, date_range_too_long
from service.http.field_errors import Loc, field_error

CLOCK: Final = r"(?:[01]\d|2[0-3]):[0-5]\d"
OFFSET: Final = r"[zZ]|[+\u2212-](?:[01]\d|2[0-3]):?[0-5]\d"
TIMESTAMP: Final = re.compile(
    rf"(\d{{4}}-\d\d-\d\d)(?:[Tt_ ]({CLOCK}(?::[0-5]\d(?:[.,]\d+)?)?)(?:{OFFSET})?)?", re.ASCII
)
UNIX_TIME: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
MAX_UNIX_SECONDS: Final = 2e10  # numbers beyond are milliseconds
EPOCH: Final = datetime(1970, 1, 1)


def query_date(params: Mapping[str, str], name: str) -> date:
    """A required date, also as a Unix time; raises FieldError."""
    if name not in params:
        raise field_error("missing", ("query", name))
    return _date(params[name], ("query", name))


def optional_query_date(params: Mapping[str, str], name: str) -> date | None:
    """An optional date in the query; raises FieldError."""
    return _written_date(params[name], ("query", name)) if name in params else None


def path_date(text: str, name: str) -> date:
    """A date in the path; raises FieldError."""
    return _written_date(text, ("path", name))


def require_range(
    first: date, last: date, max_days: int, is_reversed: Sentence = DAYS_REVERSED
) -> None:
    """Raises RuleError if `last` is before `first`, or more than `max_days` after it."""
    if first > last:
        raise RuleError(is_reversed)
    if (last - first).days > max_days:
        raise RuleError(date_range_too_long(max_days))


def days_after(day: date, count: int) -> date:
    """The day `count` days after another, or before it; the calendar's first or last at most."""
    number = day.toordinal() + count
    return date.fromordinal(max(1, min(number, date.max.toordinal())))


def _written_date(text: str, loc: Loc) -> date:
    if UNIX_TIME.fullmatch(text):
        raise field_error("date_from_datetime_parsing", loc, text)
    return _date(text, loc)


def _date(text: str, loc: Loc) -> date:
    try:
        moment = _moment(text)
    except (ValueError, OverflowError):
        kind = "date_parsing" if text[:5] == "0000-" else "date_from_datetime_parsing"
        raise field_error(kind, loc, text) from None
    if moment.time() != time.min:
        raise field_error("date_from_datetime_inexact", loc, text)
    return moment.date()


def _moment(text: str) -> datetime:
    """Date and time as written, ignoring the zone; raises ValueError, OverflowError."""
    if form := TIMESTAMP.fullmatch(text):
        return datetime.fromisoformat(f"{form[1]}T{form[2] or '00:00'}")
    if not UNIX_TIME.fullmatch(text):
        raise ValueError(text)
    number = float(text)
    return EPOCH + timedelta(seconds=number if abs(number) <= MAX_UNIX_SECONDS else number / 1000)
