"""The policy of a child: the decisions of its parents, as they apply to a viewing day.

`docs/policy.md` explains the rules. Days are viewing days, amounts are minutes, times are UTC.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Annotated, Final, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from service.viewing import rules
from service.viewing.rules import DAY, Configuration, ViewingDay

DayName = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAY_NAMES: Final[tuple[DayName, ...]] = get_args(DayName)
ClockTime = Annotated[str, Meta(max_length=5, pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
MAX_POLICIES: Final = 4096
UNLIMITED: Final = -1  # as the limit that is kept with a balance, where null is "not kept"
FOREVER: Final = datetime.max.replace(tzinfo=UTC)  # the end of a lock of an unreadable policy


class Window(msgspec.Struct, frozen=True):
    """Downtime from `start` to `end`, local "HH:MM", on the calendar days `days`.

    If `end` is not after `start`, the window ends on the next day.
    """

    days: tuple[DayName, ...]
    start: ClockTime
    end: ClockTime


class Schedule(msgspec.Struct, frozen=True):
    """A child's schedule as it is stored; a day that `daily_limits` lacks has the usual limit."""

    daily_limits: Mapping[DayName, int | None] | None = None
    downtime: tuple[Window, ...] = ()
    weekly_limit_minutes: int | None = None
    week_starts_on: DayName = "mon"
    rollover_max_minutes: int = 0
    finish_minutes: int = 0


class ExceptionalDay(NamedTuple):
    """A viewing day with another limit (None = unlimited) or without downtime."""

    day: date
    changes_limit: bool
    limit_minutes: int | None
    lifts_downtime: bool


class Stored(msgspec.Struct, frozen=True):
    """The parts of a policy beside the configuration, as statements return them in JSON.

    A child without any of them has a null instead of the JSON.
    """

    schedule: Schedule | None = None
    exceptions: tuple[ExceptionalDay, ...] | None = None
    locked_until: datetime | None = None
    day_floor: date | None = None


DEFAULT_SCHEDULE: Final = Schedule()
_decode: Final = msgspec.json.Decoder(Stored).decode


class Policy(msgspec.Struct, frozen=True, cache_hash=True):
    """The decisions of parents about one child; `limits` are by day of the week, from Monday.

    A viewing day is never before `day_floor`, which only strict accounts have.
    """

    configuration: Configuration
    limits: tuple[int | None, ...]
    downtime: tuple[Window, ...] = ()
    weekly_limit_minutes: int | None = None
    week_starts_on: int = 0
    rollover_max_minutes: int = 0
    finish_minutes: int = 0
    exceptions: tuple[ExceptionalDay, ...] = ()
    locked_until: datetime | None = None
    day_floor: date | None = None


@lru_cache(maxsize=MAX_POLICIES)
def stored_policy(configuration: Configuration, stored: str | None = None) -> Policy:
    """The policy of a configuration and of the JSON that the statements return with it.

    Children with equal rules share one policy, which keeps the memory of a heartbeat small.
    """
    if stored is None:
        return Policy(configuration, _limits(configuration, None))
    parts = _decode(stored)
    schedule = parts.schedule or DEFAULT_SCHEDULE
    return Policy(
        configuration,
        _limits(configuration, schedule.daily_limits),
        schedule.downtime,
        schedule.weekly_limit_minutes,
        DAY_NAMES.index(schedule.week_starts_on),
        schedule.rollover_max_minutes,
        schedule.finish_minutes,
        parts.exceptions or (),
        parts.locked_until,
        parts.day_floor,
    )


def unreadable_policy(configuration: Configuration) -> Policy:
    """The policy of a child for whom the stored JSON is wrong: nothing plays."""
    return Policy(configuration, _limits(configuration, None), locked_until=FOREVER)


def policy_or_locked(configuration: Configuration, stored: str | None) -> Policy:
    """The stored policy, or `unreadable_policy`."""
    try:
        return stored_policy(configuration, stored)
    except msgspec.DecodeError:
        return unreadable_policy(configuration)


def _limits(
    configuration: Configuration, daily_limits: Mapping[DayName, int | None] | None
) -> tuple[int | None, ...]:
    weekday, weekend = configuration.weekday_limit_minutes, configuration.weekend_limit_minutes
    if daily_limits is None:
        return (weekday,) * rules.SATURDAY + (weekend,) * 2
    return tuple(
        daily_limits.get(name, weekday if number < rules.SATURDAY else weekend)
        for number, name in enumerate(DAY_NAMES)
    )


def viewing_day(policy: Policy, now: datetime) -> date:
    """The viewing day at `now`."""
    return current_day(policy, now).day


def current_day(policy: Policy, now: datetime) -> ViewingDay:
    """The viewing day at `now`, with its begin and end by the calendar."""
    today = rules.current_day(policy.configuration, now)
    if policy.day_floor is None or today.day >= policy.day_floor:
        return today
    return ViewingDay(today.begins, today.ends, policy.day_floor, today.begin_seconds)


def limit_minutes(policy: Policy, day: date) -> int | None:
    """The limit of a viewing day, without roll-over and grants; None is unlimited."""
    for exception in policy.exceptions:
        if exception.day == day and exception.changes_limit:
            return exception.limit_minutes
    return policy.limits[day.weekday()]


def week_start(policy: Policy, day: date) -> date:
    """The first day of the viewing week of `day`."""
    return day - (day.weekday() - policy.week_starts_on) % 7 * DAY


def usage_from(policy: Policy, day: date) -> date | None:
    """The first day whose balance a decision on `day` needs; None: the balance of `day` alone.

    With a date, a decision also needs the seconds of the current session.
    """
    if policy.weekly_limit_minutes is not None or policy.rollover_max_minutes:
        return week_start(policy, day)
    return day if policy.finish_minutes else None
