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


def stored_or_default(
    weekday_limit_minutes: int | None,
    weekend_limit_minutes: int | None,
    reset_hour: int | None,
    educational_exempt: bool | None,
    timezone: str | None,
) -> Configuration:
    """Returns the configuration in the columns of a row, or the defaults if all are null.

    An adopted table can have nulls next to limits: each of them means the default.
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


class Decision(NamedTuple):
    """Whether playback may continue, and the seconds left (None = unlimited)."""

    enforcement: Enforcement
    remaining_seconds: int | None


UNLIMITED: Final = Decision("allowed", None)


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
    """A viewing day: from `begins` inclusive to `ends` exclusive."""

    begins: datetime
    ends: datetime
    day: date


MAX_DAYS: Final = 16_384  # more than zones times hours
# The latest day by zone and reset hour, so that most heartbeats need two comparisons only.
_DAYS: Final[dict[tuple[str, int], ViewingDay]] = {}


def viewing_day(configuration: Configuration, now: datetime) -> date:
    """The viewing day at `now`: before the reset hour it is still yesterday."""
    key = (configuration.timezone, configuration.reset_hour)
    latest = _DAYS.get(key)
    if latest is None or not latest.begins <= now < latest.ends:
        if len(_DAYS) >= MAX_DAYS:
            _DAYS.clear()
        latest = _DAYS[key] = _viewing_day(configuration, now)
    return latest.day


def next_reset(configuration: Configuration, day: date) -> datetime:
    """The instant at which the viewing day `day` ends and the next one begins, as UTC."""
    return reset(configuration, day + DAY)


def reset(configuration: Configuration, day: date) -> datetime:
    """The instant at which the viewing day `day` begins, as UTC.

    It is the first instant at which the local clock has reached the reset hour of that date. If a
    change of clocks skips the hour (or the whole date), that is the instant of the change. If the
    hour occurs twice, it is the first one, and the day does not change back at the second.
    """
    hour = time(configuration.reset_hour)
    local = datetime.combine(day, hour, zone(configuration.timezone) or UTC)
    found = local.astimezone(UTC)
    # For a skipped hour, the two readings lie on either side of the change.
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
    return ViewingDay(begins, ends, day)


def limit_minutes(configuration: Configuration, day: date) -> int | None:
    """The limit of the viewing day `day` in minutes; None is unlimited."""
    if day.weekday() >= SATURDAY:
        return configuration.weekend_limit_minutes
    return configuration.weekday_limit_minutes


def decide(limit: int | None, used_seconds: int, is_lifted: bool) -> Decision:
    """Decides for a child who has used `used_seconds` of `limit` minutes."""
    if limit is None or is_lifted:
        return UNLIMITED
    remaining = limit * 60 - used_seconds
    if remaining <= 0:
        return Decision("blocked", 0)
    if remaining <= WARNING_MINUTES[1] * 60:
        return Decision("warning_5", remaining)
    if remaining <= WARNING_MINUTES[0] * 60:
        return Decision("warning_15", remaining)
    return Decision("allowed", remaining)
