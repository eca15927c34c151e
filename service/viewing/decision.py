"""Whether a child may watch, and why: one pure function over policy, usage and time.

Each rule gives its own result; the smallest remaining time is binding, and ties go to the rule that
comes first in `RULES`. `docs/policy.md` explains the rules. Amounts are seconds, times are UTC.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from service.viewing.frame import Frame, frame
from service.viewing.policy import FOREVER, UNLIMITED, Policy
from service.viewing.rules import SECOND, WARNING_MINUTES, Enforcement

Rule = Literal["locked", "downtime", "daily_limit", "weekly_limit"]
RULES: Final[tuple[Rule, ...]] = get_args(Rule)


class PastDay(NamedTuple):
    """The balance of an earlier day of the viewing week.

    `limit_minutes` is the limit that was in force, or null if the policy's still is.
    """

    day: date
    used_seconds: int
    is_unlimited: bool
    extended_minutes: int
    limit_minutes: int | None


class Usage(msgspec.Struct, frozen=True):
    """The balance of the viewing day `day`, and the earlier days of its week that have one.

    `session_seconds` are those that the open session has counted, if it plays the title in
    question: only such a session may finish its title.
    """

    day: date
    used_seconds: int = 0
    is_unlimited: bool = False
    extended_minutes: int = 0
    week: Sequence[PastDay] = ()
    session_seconds: int = 0


class Lock(msgspec.Struct, frozen=True):
    """Blocks until `ends`; None: it does not end by itself."""

    remaining_seconds: int | None = None
    ends: datetime | None = None


class Downtime(msgspec.Struct, frozen=True):
    """The interval that blocks now, or the next one."""

    remaining_seconds: int | None = None
    begins: datetime | None = None
    ends: datetime | None = None
    is_lifted: bool = False


class DailyLimit(msgspec.Struct, frozen=True):
    """The limit of the viewing day; `limit_seconds` include carried and extended ones."""

    remaining_seconds: int | None
    limit_seconds: int | None
    used_seconds: int
    carried_seconds: int
    extended_seconds: int
    is_lifted: bool
    begins: datetime
    ends: datetime


class WeeklyLimit(msgspec.Struct, frozen=True):
    """The limit of the viewing week; `limit_seconds` include extended ones."""

    remaining_seconds: int | None = None
    limit_seconds: int | None = None
    used_seconds: int = 0
    is_lifted: bool = False
    begins: datetime | None = None
    ends: datetime | None = None


NO_LOCK: Final = Lock()
NO_DOWNTIME: Final = Downtime()
LIFTED_DOWNTIME: Final = Downtime(is_lifted=True)
NO_WEEKLY_LIMIT: Final = WeeklyLimit()


class Decision(msgspec.Struct, frozen=True):
    """The results of all rules, the binding one, and what follows from it.

    `remaining_seconds` is None without a limit. If `is_finishing`, a limit is reached, and they are
    the rest of the time in which the child may finish its title.
    """

    at: datetime
    enforcement: Enforcement
    remaining_seconds: int | None
    binding: Rule | None
    is_finishing: bool
    lock: Lock
    downtime: Downtime
    daily_limit: DailyLimit
    weekly_limit: WeeklyLimit

    @property
    def reason(self) -> Rule | None:
        """The rule that blocks."""
        return self.binding if self.enforcement == "blocked" else None

    @property
    def changes_at(self) -> datetime | None:
        """When the enforcement changes; None: not before a parent acts.

        A child who may watch watches on; a blocked one waits until each rule that blocks has ended.
        """
        if self.enforcement == "blocked":
            ends = [rule.ends for rule in self.blocking]
            return None if None in ends else max(end for end in ends if end is not None)
        if self.remaining_seconds is None:
            return None
        later = (
            60 * minutes for minutes in WARNING_MINUTES if 60 * minutes < self.remaining_seconds
        )
        return self.at + timedelta(seconds=self.remaining_seconds - next(later, 0))

    @property
    def blocking(self) -> list[Lock | Downtime | DailyLimit | WeeklyLimit]:
        """The rules that block now, in the order of RULES."""
        rules = (self.lock, self.downtime, self.daily_limit, self.weekly_limit)
        return [rule for rule in rules if rule.remaining_seconds == 0]


def decide(policy: Policy, usage: Usage, now: datetime) -> Decision:
    """Decides at `now` for a child with this usage of the viewing day at `now`."""
    today = frame(policy, usage.day)
    lock, downtime, weekly = NO_LOCK, NO_DOWNTIME, NO_WEEKLY_LIMIT
    remaining: int | None = None
    binding: Rule | None = None
    overrun = -1
    if policy.locked_until is not None and now < policy.locked_until:
        lock = Lock(0, None if policy.locked_until == FOREVER else policy.locked_until)
        remaining, binding = 0, "locked"
    if today.downtime:
        downtime = downtime_at(today, now)
        until = downtime.remaining_seconds
        if until is not None and (remaining is None or until < remaining):
            remaining, binding = until, "downtime"
    elif today.lifts_downtime and policy.downtime:
        downtime = LIFTED_DOWNTIME
    used, minutes = usage.used_seconds, today.limit_minutes
    extended = 60 * usage.extended_minutes
    if minutes is None:
        daily = DailyLimit(None, None, used, 0, extended, False, today.begins, today.ends)
    else:
        carried = carried_seconds(policy, today, usage.week) if policy.rollover_max_minutes else 0
        limit = 60 * minutes + carried + extended
        left = None if usage.is_unlimited else limit - used
        if left is not None:
            if left <= 0:
                overrun, left = -left, 0
            if remaining is None or left < remaining:
                remaining, binding = left, "daily_limit"
        daily = DailyLimit(
            left, limit, used, carried, extended, usage.is_unlimited, today.begins, today.ends
        )
    if policy.weekly_limit_minutes is not None:
        weekly = _weekly_limit(policy.weekly_limit_minutes, today, usage)
        left = weekly.remaining_seconds
        if left is not None and weekly.limit_seconds is not None:
            overrun = max(overrun, weekly.used_seconds - weekly.limit_seconds if left == 0 else -1)
            if remaining is None or left < remaining:
                remaining, binding = left, "weekly_limit"
    is_finishing = False
    if overrun >= 0 and policy.finish_minutes and usage.session_seconds > overrun:
        rest = 60 * policy.finish_minutes - overrun
        if lock.remaining_seconds is None and downtime.remaining_seconds is not None:
            rest = min(rest, downtime.remaining_seconds)
        if rest > 0 and lock.remaining_seconds is None:
            remaining, is_finishing = rest, True
    return Decision(
        now,
        "warning_5" if is_finishing else _enforcement(remaining),
        remaining,
        binding,
        is_finishing,
        lock,
        downtime,
        daily,
        weekly,
    )


def _enforcement(remaining: int | None) -> Enforcement:
    if remaining is None or remaining > WARNING_MINUTES[0] * 60:
        return "allowed"
    if remaining > WARNING_MINUTES[1] * 60:
        return "warning_15"
    return "warning_5" if remaining > 0 else "blocked"


def downtime_at(today: Frame, now: datetime) -> Downtime:
    """The interval of downtime that blocks at `now`, or the next one."""
    for interval in today.downtime:
        if now < interval.begins:
            seconds = (interval.begins - now) // SECOND
            return Downtime(seconds, interval.begins, interval.ends, today.lifts_downtime)
        if interval.ends is None or now < interval.ends:
            return Downtime(0, interval.begins, interval.ends, today.lifts_downtime)
    return LIFTED_DOWNTIME if today.lifts_downtime else NO_DOWNTIME


def carried_seconds(policy: Policy, today: Frame, week: Sequence[PastDay]) -> int:
    """The seconds that the earlier days of the week have left to this one."""
    most = 60 * policy.rollover_max_minutes
    balances = {past.day: past for past in week}
    carried = 0
    for day, minutes in today.earlier:
        used = extended = 0
        past = balances.get(day)
        if past is not None:
            _, used, is_unlimited, extended, kept = past
            if kept is not None:
                minutes = None if kept == UNLIMITED else kept
            if is_unlimited:
                minutes = None
        left = 0 if minutes is None else 60 * (minutes + extended) + carried - used
        carried = left if 0 <= left <= most else most if left > 0 else 0
    return carried


def _weekly_limit(minutes: int, today: Frame, usage: Usage) -> WeeklyLimit:
    used, extended = 0, 0
    if not usage.is_unlimited:
        used, extended = usage.used_seconds, usage.extended_minutes
    for _, seconds, is_unlimited, added, _ in usage.week:
        if not is_unlimited:
            used += seconds
            extended += added
    limit = 60 * (minutes + extended)
    left = None if usage.is_unlimited else max(0, limit - used)
    return WeeklyLimit(left, limit, used, usage.is_unlimited, today.week_begins, today.week_ends)
