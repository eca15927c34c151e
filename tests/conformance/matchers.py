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


Judge = Callable[[object, Moment], bool]


def matcher(expected: object) -> Judge | None:
    """The function for the matcher `expected`; None for a plain value.

    ValueError for an unknown matcher, TypeError for one with too many or too few arguments.
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


def is_uuid() -> Judge:
    """A UUID in its canonical spelling."""
    return lambda actual, moment: isinstance(actual, str) and bool(UUID.fullmatch(actual))


def is_jwt() -> Judge:
    """A signed JWT; the signature itself is not verified."""

    def judge(actual: object, moment: Moment) -> bool:
        if not isinstance(actual, str) or not JWT.fullmatch(actual):
            return False
        try:
            jwt.decode(actual, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            return False
        return True

    return judge


def is_datetime() -> Judge:
    """A UTC time in ISO 8601 that ends in `Z`, with six fractional digits or none."""
    return lambda actual, moment: _instant(actual) is not None


def is_in(seconds: str = "0") -> Judge:
    """A UTC time that many seconds from now, within 30 s."""
    distance = timedelta(seconds=int(seconds))

    def judge(actual: object, moment: Moment) -> bool:
        instant = _instant(actual)
        return instant is not None and abs(instant - moment.now - distance) <= NEAR

    return judge


def utc_day(now: datetime, days: int = 0) -> date:
    """The UTC date that many days from now."""
    return now.astimezone(UTC).date() + timedelta(days=days)


def is_date(days: str) -> Judge:
    """The UTC date that many days from now."""
    return lambda actual, moment: actual == utc_day(moment.now, int(days)).isoformat()


def viewing_day(now: datetime, hour: int, zone: ZoneInfo) -> date:
    """The date in `zone`, before `hour` still yesterday's."""
    local = now.astimezone(zone)
    return local.date() - timedelta(days=local.hour < hour)


def is_next_reset(hour: str, zone: str) -> Judge:
    """`hour` o'clock in `zone` on the day after the viewing day, as UTC."""
    place = ZoneInfo(zone)

    def judge(actual: object, moment: Moment) -> bool:
        tomorrow = viewing_day(moment.now, int(hour), place) + timedelta(days=1)
        return _instant(actual) == datetime.combine(tomorrow, time(int(hour)), place).astimezone(
            UTC
        )

    return judge


def is_weekday_or_weekend(weekday: str, weekend: str) -> Judge:
    """One number or the other, by the viewing day of the default configuration (UTC, hour 6)."""
    numbers = float(weekday), float(weekend)

    def judge(actual: object, moment: Moment) -> bool:
        day = viewing_day(moment.now, 6, ZoneInfo("UTC"))
        return equal(numbers[day.weekday() >= SATURDAY], actual)

    return judge


def is_saved(name: str) -> Judge:
    """Any text that is not empty, from now on known as `{{name}}`."""

    def judge(actual: object, moment: Moment) -> bool:
        moment.saved[name] = actual
        return isinstance(actual, str) and actual != ""

    return judge


def is_any() -> Judge:
    """Any value, null too; but the member is there."""
    return lambda actual, moment: True


MATCHERS: dict[str, Callable[..., Judge]] = {
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
