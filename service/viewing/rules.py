"""The rules of viewing time: pure, no I/O, no clock. Times are UTC, amounts are seconds."""

from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from importlib.resources import files
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
DAY: Final = timedelta(days=1)
SECOND: Final = timedelta(seconds=1)

Enforcement = Literal["allowed", "warning_15", "warning_5", "blocked"]


class Configuration(msgspec.Struct, frozen=True):
    """A child's configuration: limits in minutes (None = unlimited), zone, reset hour."""

    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    reset_hour: int
    educational_exempt: bool
    timezone: str


DEFAULTS: Final = Configuration(120, 180, 6, True, "UTC")
MAX_CONFIGURATIONS: Final = 4096


@lru_cache(maxsize=MAX_CONFIGURATIONS)
def stored_or_default(
    weekday_limit_minutes: int | None,
    weekend_limit_minutes: int | None,
    reset_hour: int | None,
    educational_exempt: bool | None,
    timezone: str | None,
) -> Configuration:
    """Returns the configuration in the columns of a row, or the defaults if all are null.

    An adopted table can have nulls next to limits: each of them means the default. Children with
    equal configurations share one.
    """
    rest = (reset_hour, educational_exempt, timezone)
    limits = (weekday_limit_minutes, weekend_limit_minutes)
    if {*limits, *rest} == {None}:
        return DEFAULTS
    return Configuration(
        *limits,
        DEFAULTS.reset_hour if reset_hour is None else reset_hour,
        DEFAULTS.educational_exempt if educational_exempt is None else educational_exempt,
        DEFAULTS.timezone if timezone is None else timezone,
    )


@cache
def _zone_names() -> frozenset[str]:
    """The names in IANA's list, from the tzdata package.

    The directory of the operating system has more files: links to the zone of this machine
    (`localtime`, `posixrules`), copies with leap seconds (`right`), and files that are not zones.
    """
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo | None:
    """The IANA zone of this name, which is case-sensitive; None if there is no such zone.

    Adopted tables contain names that are not zones, for example `'UTC'` including the quotes.
    """
    try:
        return ZoneInfo(name) if name in _zone_names() else None
    except (ValueError, OSError):  # the file of the zone on this machine cannot be read
        return None


class ViewingDay(NamedTuple):
    """A viewing day: from `begins` inclusive to `ends` exclusive.

    `begin_seconds` are those from 1970 to `begins`: integers cost the driver a quarter of times.
    """

    begins: datetime
    ends: datetime
    day: date
    begin_seconds: int


MAX_DAYS: Final = 16_384  # more than zones times hours
# The latest day by zone and reset hour, so that most heartbeats need two comparisons only.
_DAYS: Final[dict[tuple[str, int], ViewingDay]] = {}


def viewing_day(configuration: Configuration, now: datetime) -> date:
    """The viewing day at `now`: before the reset hour it is still yesterday."""
    return current_day(configuration, now).day


def current_day(configuration: Configuration, now: datetime) -> ViewingDay:
    """The viewing day at `now`, with its begin and end."""
    key = (configuration.timezone, configuration.reset_hour)
    latest = _DAYS.get(key)
    if latest is None or not latest.begins <= now < latest.ends:
        if len(_DAYS) >= MAX_DAYS:
            _DAYS.clear()
        latest = _DAYS[key] = _viewing_day(configuration, now)
    return latest


def next_reset(configuration: Configuration, day: date) -> datetime:
    """The instant at which the viewing day `day` ends and the next one begins, as UTC."""
    return reset(configuration, day + DAY)


def reset(configuration: Configuration, day: date) -> datetime:
    """The instant at which the viewing day `day` begins, as UTC.

    The day does not change back when its reset hour occurs a second time.
    """
    hour = time(configuration.reset_hour)
    return first_instant(datetime.combine(day, hour, zone(configuration.timezone) or UTC))


def first_instant(local: datetime) -> datetime:
    """The first instant at which the local clock has reached the time `local`, as UTC.

    If a change of clocks skips the time (or its whole date), that is the instant of the change. If
    the time occurs twice, it is the first one.
    """
    found = local.astimezone(UTC)
    # For a skipped time, the two readings lie on either side of the change.
    before = local.replace(fold=1).astimezone(UTC)
    if before >= found:
        return found
    wall = local.replace(tzinfo=None)
    while found - before > SECOND:
        middle = before + (found - before) // SECOND // 2 * SECOND
        if middle.astimezone(local.tzinfo).replace(tzinfo=None) >= wall:
            found = middle
        else:
            before = middle
    return found


def _viewing_day(configuration: Configuration, now: datetime) -> ViewingDay:
    """The viewing day that has begun at `now` and has not ended."""
    day = now.astimezone(zone(configuration.timezone) or UTC).date()
    while (begins := reset(configuration, day)) > now:
        day -= DAY
    while (ends := reset(configuration, day + DAY)) <= now:
        begins, day = ends, day + DAY
    return ViewingDay(begins, ends, day, int(begins.timestamp()))
