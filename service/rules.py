"""The rules of viewing time: pure, no I/O, no clock. Times are UTC, amounts are seconds."""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

BEAT_SECONDS: Final = 30
PAUSE_SECONDS: Final = 300
WARNING_MINUTES: Final = (15, 5)
HISTORY_DAYS_MAX: Final = 90
HISTORY_SESSIONS_MAX: Final = 500
LIMIT_STEP_MINUTES: Final = 15
REPORT_DAYS: Final = 7
SATURDAY: Final = 5
COPIES: Final = ("posix", "posixrules", "right")

Enforcement = Literal["allowed", "warning_15", "warning_5", "blocked"]


class Configuration(msgspec.Struct, frozen=True):
    """What a parent allows one child: limits in minutes (None = unlimited), zone, reset hour."""

    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    reset_hour: int
    educational_exempt: bool
    timezone: str


DEFAULTS: Final = Configuration(120, 180, 6, True, "UTC")


class Verdict(NamedTuple):
    """What a player is told: the enforcement and the seconds left (None = unlimited)."""

    enforcement: Enforcement
    remaining_seconds: int | None


UNLIMITED: Final = Verdict("allowed", None)


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo | None:
    """The IANA zone called `name`; None where there is none.

    Live rows hold names that are none, such as `'UTC'` with the quotes in it.
    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return None


def is_offered(name: str) -> bool:
    """Whether a configuration may name this zone.

    Some machines keep copies of the zones beside them, with leap seconds (`right`) and without
    (`posix`): those names are known there alone, and no names of IANA's.
    """
    return name.partition("/")[0] not in COPIES and zone(name) is not None


def _zone(configuration: Configuration) -> ZoneInfo:
    return zone(configuration.timezone) or ZoneInfo("UTC")


def viewing_day(configuration: Configuration, now: datetime) -> date:
    """The day whose allowance is used at `now`: before the reset hour it is still yesterday.

    Judged by the clock on the wall: an hour that a change of clocks repeats belongs to the day
    that the wall shows each time.
    """
    local = now.astimezone(_zone(configuration))
    day = local.date()
    return day - timedelta(days=1) if local.hour < configuration.reset_hour else day


def next_reset(configuration: Configuration, day: date) -> datetime:
    """When the allowance of the viewing day `day` ends, as UTC.

    A reset hour that the change of clocks skips is read with the offset before the change, so
    the reset comes as many minutes later on the wall as the clocks were moved; one that comes
    twice is the first of the two.
    """
    local = datetime.combine(
        day + timedelta(days=1), time(configuration.reset_hour), _zone(configuration)
    )
    return local.astimezone(UTC)


def limit_minutes(configuration: Configuration, day: date) -> int | None:
    """The limit of the viewing day `day` in minutes; None is unlimited."""
    if day.weekday() >= SATURDAY:
        return configuration.weekend_limit_minutes
    return configuration.weekday_limit_minutes


def verdict(limit: int | None, used_seconds: int, override: bool) -> Verdict:
    """What to tell a player whose child has used `used_seconds` of `limit` minutes."""
    if limit is None or override:
        return UNLIMITED
    remaining = limit * 60 - used_seconds
    if remaining <= 0:
        return Verdict("blocked", 0)
    if remaining <= WARNING_MINUTES[1] * 60:
        return Verdict("warning_5", remaining)
    if remaining <= WARNING_MINUTES[0] * 60:
        return Verdict("warning_15", remaining)
    return Verdict("allowed", remaining)
