"""Downtime: the windows of a policy as intervals of time, over changes of clocks. Times are UTC."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from service.viewing import rules
from service.viewing.policy import DAY_NAMES, Policy
from service.viewing.rules import DAY, Configuration

# Days ahead for which downtime is known; downtime that lasts longer than a week has no end.
HORIZON_DAYS: Final = 16
# Days back in which the begin of downtime is looked for.
BACK_DAYS: Final = 7
MAX_DAYS: Final = 4096


class Interval(NamedTuple):
    """Downtime from `begins` to `ends`; None: it lasts longer than a week, so it does not end."""

    begins: datetime
    ends: datetime | None


class Lift(NamedTuple):
    """A viewing day on which a parent has lifted downtime."""

    begins: datetime
    ends: datetime


def _since(policy: Policy, day: date) -> date:
    """The calendar day before `day`, or an earlier one from which downtime lasts until then."""
    for _ in range(BACK_DAYS):
        day -= DAY
        windows = _windows(policy, day)
        before = [ends for _, ends in _windows(policy, day - DAY)]
        if not windows or not before or max(before) < windows[0][0]:
            break
    return day


def downtime(policy: Policy, day: date) -> Iterator[Interval]:
    """The intervals that end on the calendar day `day` or later, in order, and some before.

    Windows that overlap or touch are one interval. Exceptions that lift downtime are cut out.
    """
    first = _since(policy, day)
    lifts = _lifts(policy, first - 2 * DAY)
    lift = next(lifts, None)
    for begins, ends in _merged(policy, first, day + (HORIZON_DAYS + BACK_DAYS) * DAY):
        rest: datetime | None = begins
        while lift is not None and rest is not None and (ends is None or lift.begins < ends):
            if lift.begins > rest:
                yield Interval(rest, lift.begins)
            if ends is not None and lift.ends >= ends:
                rest = None  # the next interval can begin before the end of this exception
            else:
                rest = max(rest, lift.ends)
                lift = next(lifts, None)
        if rest is not None:
            yield Interval(rest, ends)


def _lifts(policy: Policy, first: date) -> Iterator[Lift]:
    """From when to when exceptions of the viewing day `first` or later lift downtime, in order."""
    for day in sorted(e.day for e in policy.exceptions if e.lifts_downtime and e.day >= first):
        configuration = policy.configuration
        yield Lift(rules.reset(configuration, day), rules.next_reset(configuration, day))


def _merged(policy: Policy, first: date, last: date) -> Iterator[Interval]:
    pending: Interval | None = None
    for day in (first + number * DAY for number in range((last - first).days)):
        for begins, ends in _windows(policy, day):
            if pending is None:
                pending = Interval(begins, ends)
            elif pending.ends is not None and begins <= pending.ends:
                pending = Interval(pending.begins, max(pending.ends, ends))
            else:
                yield pending
                pending = Interval(begins, ends)
    if pending is not None and pending.ends is not None:
        configuration = policy.configuration
        if pending.ends < instant(configuration, last, 0):
            yield pending
        elif pending.begins < instant(configuration, last - (BACK_DAYS + 1) * DAY, 0):
            yield Interval(pending.begins, None)  # longer than a week


@lru_cache(maxsize=MAX_DAYS)
def _windows(policy: Policy, day: date) -> Sequence[tuple[datetime, datetime]]:
    """The windows that begin on a calendar day; a change of clocks can leave one empty."""
    name = DAY_NAMES[day.weekday()]
    found = []
    for window in policy.downtime:
        if name in window.days:
            end_day = day if window.end > window.start else day + DAY
            begins = instant(policy.configuration, day, _minutes(window.start))
            ends = instant(policy.configuration, end_day, _minutes(window.end))
            if begins < ends:
                found.append((begins, ends))
    return sorted(found)


def _minutes(clock: str) -> int:
    """Minutes after midnight of "HH:MM"."""
    return int(clock[:2]) * 60 + int(clock[3:])


def instant(configuration: Configuration, day: date, minutes: int) -> datetime:
    """The first instant at which the local clock of `day` has reached a time, as UTC."""
    zone = rules.zone(configuration.timezone) or UTC
    wall = datetime.combine(day, time.min) + timedelta(minutes=minutes)
    return rules.first_instant(wall.replace(tzinfo=zone))
