"""The matchers of expected values: a string `<name:argument…>` stands for a class of values."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import jwt

NEAR = timedelta(seconds=30)
SATURDAY = 5
SPELLING = re.compile(r"<([a-z_]+(?::[^<>:]+)*)>")
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", re.ASCII)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


@dataclass(frozen=True)
class Moment:
    """The time right before a request and the values saved so far, to judge its response."""

    now: datetime
    saved: dict[str, object] = field(default_factory=dict)


Match = Callable[[object, Moment], bool]


def matcher(expected: object) -> Match | None:
    """The function for the matcher `expected`; None for a plain value.

    Raises ValueError for an unknown matcher, TypeError for a wrong number of arguments.
    """
    found = SPELLING.fullmatch(expected) if isinstance(expected, str) else None
    if found is None:
        return None
    name, *arguments = found[1].split(":")
    if name not in MATCHERS:
        raise ValueError(f"unknown matcher {expected}")
    return MATCHERS[name](*arguments)


def equal(expected: object, actual: object) -> bool:
    """Whether two scalars are the same: 120 is 120.0, but true is not 1."""
    if _is_number(expected) and _is_number(actual):
        return expected == actual
    return type(expected) is type(actual) and expected == actual


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _instant(value: object) -> datetime | None:
    if not isinstance(value, str) or not INSTANT.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None


def is_uuid() -> Match:
    """A UUID in its canonical spelling."""
    return lambda actual, moment: isinstance(actual, str) and bool(UUID.fullmatch(actual))


def is_jwt() -> Match:
    """A signed JWT; the signature itself is not verified."""

    def matches(actual: object, moment: Moment) -> bool:
        if not isinstance(actual, str) or not JWT.fullmatch(actual):
            return False
        try:
            jwt.decode(actual, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            return False
        return True

    return matches


def is_datetime() -> Match:
    """A UTC time in ISO 8601 that ends in `Z`, with six fractional digits or none."""
    return lambda actual, moment: _instant(actual) is not None


def is_in(seconds: str = "0") -> Match:
    """A UTC time within 30 s of `seconds` from now."""
    distance = timedelta(seconds=int(seconds))

    def matches(actual: object, moment: Moment) -> bool:
        instant = _instant(actual)
        return instant is not None and abs(instant - moment.now - distance) <= NEAR

    return matches


def utc_day(now: datetime, days: int = 0) -> date:
    """The UTC date in `days` days."""
    return now.astimezone(UTC).date() + timedelta(days=days)


def is_date(days: str) -> Match:
    """The UTC date in `days` days."""
    return lambda actual, moment: actual == utc_day(moment.now, int(days)).isoformat()


def viewing_day(now: datetime, hour: int, zone: ZoneInfo) -> date:
    """The date in `zone`; before `hour` it is the day before."""
    local = now.astimezone(zone)
    return local.date() - timedelta(days=local.hour < hour)


def is_next_reset(hour: str, zone: str) -> Match:
    """`hour` o'clock in `zone` on the day after the viewing day, as UTC."""
    place = ZoneInfo(zone)

    def matches(actual: object, moment: Moment) -> bool:
        tomorrow = viewing_day(moment.now, int(hour), place) + timedelta(days=1)
        return _instant(actual) == datetime.combine(tomorrow, time(int(hour)), place).astimezone(
            UTC
        )

    return matches


def is_weekday_or_weekend(weekday: str, weekend: str) -> Match:
    """One number or the other, by the viewing day of the default configuration (UTC, hour 6)."""
    numbers = float(weekday), float(weekend)

    def matches(actual: object, moment: Moment) -> bool:
        day = viewing_day(moment.now, 6, ZoneInfo("UTC"))
        return equal(numbers[day.weekday() >= SATURDAY], actual)

    return matches


def is_saved(name: str) -> Match:
    """Any text that is not empty; saves it as `{{name}}`."""

    def matches(actual: object, moment: Moment) -> bool:
        moment.saved[name] = actual
        return isinstance(actual, str) and actual != ""

    return matches


def is_any() -> Match:
    """Any value, including null; the member must exist."""
    return lambda actual, moment: True


MATCHERS: dict[str, Callable[..., Match]] = {
    "uuid": is_uuid,
    "jwt": is_jwt,
    "datetime": is_datetime,
    "now": lambda: is_in(),
    "in": lambda seconds: is_in(seconds),
    "date": is_date,
    "next_reset": is_next_reset,
    "weekday_or_weekend": is_weekday_or_weekend,
    "save": is_saved,
    "any": is_any,
}
