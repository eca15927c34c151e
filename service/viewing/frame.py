"""A policy on one viewing day: everything that depends on neither usage nor time of day."""

from collections.abc import Iterator
from datetime import date, datetime
from functools import lru_cache
from typing import Final

import msgspec

from service.viewing import rules
from service.viewing.downtime import Interval, downtime
from service.viewing.policy import Policy, limit_minutes, week_start
from service.viewing.rules import DAY

MAX_FRAMES: Final = 16_384
# A strict account can have a viewing day this long before the calendar in its zone reaches it.
FLOOR_DAYS: Final = 3


class Frame(msgspec.Struct, frozen=True):
    """The day with its limits, its week and its downtime.

    `earlier` has the days of the viewing week before this one, with their limits. `downtime` has
    the intervals of the day and the first one after it.
    """

    day: date
    begins: datetime
    ends: datetime
    limit_minutes: int | None
    lifts_downtime: bool
    week_begins: datetime
    week_ends: datetime
    earlier: tuple[tuple[date, int | None], ...]
    downtime: tuple[Interval, ...]


@lru_cache(maxsize=MAX_FRAMES)
def frame(policy: Policy, day: date) -> Frame:
    """The policy on a viewing day; computed once for all children with an equal policy."""
    configuration = policy.configuration
    begins, ends = (rules.reset(configuration, day), rules.next_reset(configuration, day))
    first = week_start(policy, day)
    earliest = day - FLOOR_DAYS * DAY if day == policy.day_floor else day
    return Frame(
        day,
        begins,
        ends,
        limit_minutes(policy, day),
        any(e.day == day and e.lifts_downtime for e in policy.exceptions),
        rules.reset(configuration, first),
        rules.reset(configuration, first + 7 * DAY),
        tuple(
            (earlier, limit_minutes(policy, earlier))
            for earlier in (first + number * DAY for number in range((day - first).days))
        ),
        tuple(_downtime_of_days(policy, earliest, ends)) if policy.downtime else (),
    )


def _downtime_of_days(policy: Policy, first: date, ends: datetime) -> Iterator[Interval]:
    begins = rules.reset(policy.configuration, first)
    for interval in downtime(policy, first):
        if interval.ends is None or interval.ends > begins:
            yield interval
        if interval.begins >= ends:
            return
