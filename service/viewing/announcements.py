"""Tells the heartbeat statement when a child is warned or blocked, so that it writes an event.

A warning or a block is announced once a viewing day (and rule). The statement knows what has been
used, and the rules are here: so each beat takes along the credited seconds from which an event can
be due, and, as JSON, what the rules leave before anything is used. Below those seconds the
statement does nothing. *Credited* seconds are those used minus those added to the day.

An entry of the cache remembers what was announced. It is only a hint: the events are unique, so a
beat that announces again writes nothing.
"""

from datetime import date, datetime
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from service.viewing.config_entries import Entry
from service.viewing.decision import Decision, Usage, downtime_at
from service.viewing.frame import MAX_FRAMES, frame
from service.viewing.policy import Policy
from service.viewing.rules import WARNING_MINUTES

NEVER: Final = 2**31 - 1
ALWAYS: Final = -(2**31)
# The balances of earlier days were read by an earlier beat. Beats that arrive late at a reset can
# add to them.
MARGIN_SECONDS: Final = 120

WARNED_15: Final = 1
WARNED_5: Final = 2
BLOCKED: Final = {"locked": 4, "downtime": 8, "daily_limit": 16, "weekly_limit": 32}
BITS: Final = 6
MASK: Final = (1 << BITS) - 1
FIRST, SECOND = (60 * minutes for minutes in WARNING_MINUTES)


class Rules(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rules of a policy on a viewing day, as the statement reads them.

    `earlier` are the days of the viewing week before this one with their limits in minutes; they
    matter for roll-over only. `closes_in` are the seconds until a lock or downtime blocks.
    """

    limit: int | None = None
    weekly: int | None = None
    rollover: int = 0
    earlier: tuple[tuple[date, int | None], ...] = ()
    finish: int = 0
    closes_in: int | None = None
    closes_by: str | None = None


class Fixed(NamedTuple):
    """The rules as far as time of day does not matter, also as JSON, and the bits of limits."""

    rules: Rules
    text: str
    limits: int


@lru_cache(maxsize=MAX_FRAMES)
def _fixed(policy: Policy, day: date) -> Fixed:
    today = frame(policy, day)
    minutes, weekly = today.limit_minutes, policy.weekly_limit_minutes
    rules = Rules(
        None if minutes is None else 60 * minutes,
        None if weekly is None else 60 * weekly,
        60 * policy.rollover_max_minutes,
        today.earlier if policy.rollover_max_minutes else (),
        60 * policy.finish_minutes,
    )
    limits = BLOCKED["daily_limit"] if minutes is not None else 0
    limits |= BLOCKED["weekly_limit"] if weekly is not None else 0
    return Fixed(rules, _text(rules), limits)


def _text(rules: Rules) -> str:
    return msgspec.json.encode(rules).decode()


def announced(entry: Entry, day: date) -> int:
    """The bits of what has been announced on a viewing day."""
    known = entry.announced
    return known & MASK if known and known >> BITS == day.toordinal() else 0


def due(entry: Entry, day: date, now: datetime) -> tuple[int, str | None]:
    """The credited seconds from which a beat of `entry` must look for an event, and its rules."""
    policy, bits = entry.policy, announced(entry, day)
    rules, text, limits = _fixed(policy, day)
    if policy.locked_until is not None or policy.downtime:
        closes_in, rule = _closes(policy, day, now)
        if closes_in is not None and closes_in <= FIRST:
            text = _text(msgspec.structs.replace(rules, closes_in=closes_in, closes_by=rule))
            state = _bit(closes_in, rule)
            if not bits & state:
                return ALWAYS, text
    if not limits:
        return NEVER, None
    reach = rules.limit
    if rules.weekly is not None or rules.rollover:
        if entry.reach is None or entry.announced >> BITS != day.toordinal():
            return ALWAYS, text
        reach = entry.reach - MARGIN_SECONDS
    assert reach is not None, "a limit is reached at some time"
    if not bits & WARNED_15:
        return max(ALWAYS + 1, reach - FIRST), text
    if not bits & WARNED_5:
        return max(ALWAYS + 1, reach - SECOND), text
    return (NEVER, None) if bits & limits == limits else (reach, text)


def remember(entry: Entry, usage: Usage, decision: Decision, announce_from: int) -> None:
    """Keeps in the entry what the committed beat has announced, and where its limits are.

    A beat below `announce_from` has announced nothing: the balances of earlier days have changed
    since they were read, for example by an import. Then the next beat announces it.
    """
    policy = entry.policy
    has_week = policy.weekly_limit_minutes is not None or policy.rollover_max_minutes > 0
    if decision.enforcement == "allowed" and not has_week:
        return
    bits = announced(entry, usage.day)
    credited = ALWAYS if usage.is_unlimited else usage.used_seconds - 60 * usage.extended_minutes
    if decision.enforcement != "allowed" and credited >= announce_from:
        is_soft = decision.is_finishing
        remaining = decision.remaining_seconds
        bits |= WARNED_5 if is_soft else _bit(remaining or 0, decision.binding)
    entry.announced = usage.day.toordinal() << BITS | bits
    entry.reach = _reach(usage, decision) if has_week else None


def _reach(usage: Usage, decision: Decision) -> int | None:
    """The credited seconds at which the first limit is reached."""
    daily, weekly = decision.daily_limit, decision.weekly_limit
    reached = []
    if daily.limit_seconds is not None:
        reached.append(daily.limit_seconds - daily.extended_seconds)
    if weekly.limit_seconds is not None:
        today = 0 if usage.is_unlimited else usage.used_seconds - 60 * usage.extended_minutes
        reached.append(weekly.limit_seconds - weekly.used_seconds + today)
    return min(reached, default=None)


def _closes(policy: Policy, day: date, now: datetime) -> tuple[int | None, str]:
    """The seconds until a lock or downtime blocks, None if none will today; and which."""
    if policy.locked_until is not None and now < policy.locked_until:
        return 0, "locked"
    return downtime_at(frame(policy, day), now).remaining_seconds, "downtime"


def _bit(remaining: int, rule: str | None) -> int:
    if remaining > SECOND:
        return WARNED_15
    return WARNED_5 if remaining > 0 else BLOCKED[rule or ""]
