"""The time until which a child may watch, and from which it may watch again: pure functions."""

from datetime import date, datetime, timedelta
from typing import Final

from msgspec.structs import replace

from service.viewing.decision import PastDay, Usage, decide
from service.viewing.downtime import HORIZON_DAYS
from service.viewing.frame import frame
from service.viewing.policy import Policy, viewing_day, week_start
from service.viewing.rules import DAY

MAX_STEPS: Final = 64


def allowed_until(
    policy: Policy, usage: Usage, now: datetime, *, is_counted: bool = True
) -> datetime | None:
    """The time at which a child who watches on from `now` is stopped, at most 16 days ahead.

    None: the child is blocked already, or is not stopped. `is_counted` is false for a title that
    does not use up the limits.
    """
    at = now
    for _ in range(HORIZON_DAYS):
        decision = decide(policy, usage, at)
        if decision.enforcement == "blocked":
            return None if at == now else at
        limits = [
            rule.remaining_seconds
            for rule in (decision.daily_limit, decision.weekly_limit)
            if rule.remaining_seconds is not None
        ]
        stops = [decision.downtime.begins] if decision.downtime.remaining_seconds else []
        if decision.is_finishing and is_counted:
            stops.append(at + timedelta(seconds=decision.remaining_seconds or 0))
        elif limits and is_counted:
            seconds = min(limits) + 60 * policy.finish_minutes
            stops.append(at + timedelta(seconds=seconds))
        day_ends = frame(policy, usage.day).ends
        stop = min((stop for stop in stops if stop is not None), default=None)
        if stop is not None and stop < day_ends:
            return stop
        watched = int((day_ends - at).total_seconds()) if is_counted else 0
        usage = replace(
            usage,
            used_seconds=usage.used_seconds + watched,
            session_seconds=usage.session_seconds + watched,
        )
        usage, at = on_day(policy, usage, usage.day + DAY), day_ends
    return None


def next_allowed_at(policy: Policy, usage: Usage, now: datetime) -> datetime | None:
    """The first time, from `now` on, at which a new title may play; None: a parent must act."""
    at, usage = now, replace(usage, session_seconds=0)
    for _ in range(MAX_STEPS):
        decision = decide(policy, usage, at)
        if decision.enforcement != "blocked":
            return at
        ends = decision.changes_at
        if ends is None:
            return None
        at = ends
        usage = on_day(policy, usage, max(usage.day, viewing_day(policy, at)))
    return None


def on_day(policy: Policy, usage: Usage, day: date) -> Usage:
    """The usage at the start of a later viewing day, if nothing is watched before."""
    if day == usage.day:
        return usage
    first = week_start(policy, day)
    today = PastDay(usage.day, usage.used_seconds, usage.is_unlimited, usage.extended_minutes, None)
    week = tuple(past for past in (*usage.week, today) if past.day >= first)
    return Usage(day, week=week, session_seconds=usage.session_seconds)
