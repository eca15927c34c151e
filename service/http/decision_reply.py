"""A decision as JSON: its figures, those of every rule, and what follows from them."""

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec

from service.http import lenient_json
from service.http.fields import ProfileId, Time, doc
from service.http.lenient_json import maybe_minutes
from service.viewing import outlook
from service.viewing.decision import Decision, Rule, Usage
from service.viewing.policy import Policy
from service.viewing.rules import Enforcement

Remaining = Annotated[
    float | None, doc("Minutes until the rule blocks, 0 if it does; null: it sets no limit.", 30.0)
]
Begins = Annotated[Time | None, doc("When it starts, in UTC.", "2026-03-02T20:00:00Z")]
Ends = Annotated[
    Time | None, doc("When it ends, in UTC; null: it does not.", "2026-03-03T06:00:00Z")
]
IsLifted = Annotated[bool, doc("A parent has lifted it today.", False)]


class LockRule(msgspec.Struct, frozen=True, tag_field="rule", tag="locked"):
    """A parent's lock."""

    remaining_minutes: Remaining
    ends_at: Ends


class DowntimeRule(msgspec.Struct, frozen=True, tag_field="rule", tag="downtime"):
    """The downtime that blocks now, or the next one."""

    remaining_minutes: Remaining
    starts_at: Begins
    ends_at: Ends
    is_lifted: IsLifted


class DailyRule(msgspec.Struct, frozen=True, tag_field="rule", tag="daily_limit"):
    """The limit of the viewing day."""

    remaining_minutes: Remaining
    limit_minutes: Annotated[
        float | None,
        doc("Minutes allowed, with those carried over and granted; null: unlimited.", 120.0),
    ]
    used_minutes: Annotated[float, doc("Minutes counted in the viewing day.", 90.0)]
    carried_minutes: Annotated[float, doc("Minutes that earlier days have left.", 0.0)]
    extended_minutes: Annotated[float, doc("Minutes that grants have added to the limit.", 0.0)]
    starts_at: Begins
    ends_at: Ends
    is_lifted: IsLifted


class WeeklyRule(msgspec.Struct, frozen=True, tag_field="rule", tag="weekly_limit"):
    """The limit of the viewing week."""

    remaining_minutes: Remaining
    limit_minutes: Annotated[
        float | None, doc("Minutes allowed, with those granted; null: no weekly limit.", 600.0)
    ]
    used_minutes: Annotated[
        float,
        doc("Minutes counted in the viewing week, without days whose limit was lifted.", 90.0),
    ]
    starts_at: Begins
    ends_at: Ends
    is_lifted: IsLifted


RuleFigures = LockRule | DowntimeRule | DailyRule | WeeklyRule


class DecisionReply(msgspec.Struct, frozen=True):
    """Whether a profile may watch, until when, and what each rule says."""

    profile_id: ProfileId
    at: Annotated[Time, doc("When the decision was made, in UTC.", "2026-03-02T18:00:00Z")]
    enforcement: Annotated[Enforcement, doc("As in the answer to a heartbeat.", "allowed")]
    allowed: Annotated[
        bool,
        doc(
            "The title may play on. If `is_finishing` is false, a title may also start.",
            True,
        ),
    ]
    reason: Annotated[Rule | None, doc("The rule that blocks; null if none does.", None)]
    limited_by: Annotated[
        Rule | None, doc("The rule with the least time left; null without a limit.", "daily_limit")
    ]
    remaining_minutes: Annotated[
        float | None,
        doc(
            "Minutes left by the rule that leaves least, or to finish the title; never below 0;"
            " null if no rule limits viewing.",
            30.0,
        ),
    ]
    is_finishing: Annotated[
        bool, doc("A limit is reached, and the title that plays may be finished.", False)
    ]
    allowed_until: Annotated[
        Time | None,
        doc(
            "When a child who watches on from now is stopped, in UTC, at most 16 days ahead; null:"
            " it is stopped already, or no rule stops it.",
            "2026-03-02T18:30:00Z",
        ),
    ]
    next_allowed_at: Annotated[
        Time | None,
        doc(
            "The first time from now on at which a title may start, in UTC; null: a parent must"
            " act.",
            "2026-03-02T18:00:00Z",
        ),
    ]
    rules: Annotated[
        list[RuleFigures], doc("Every rule, in the order of precedence; empty for an adult.")
    ]
    fits: Annotated[
        bool | None,
        doc(
            "The title ends in time if it has `minutes` to go from now on; null without `minutes`.",
            None,
        ),
    ]


def decision_reply(
    profile_id: UUID,
    policy: Policy,
    usage: Usage,
    decision: Decision,
    *,
    is_counted: bool = True,
    minutes: int | None = None,
) -> DecisionReply:
    """The JSON of a decision about a child."""
    at = decision.at
    until = outlook.allowed_until(policy, usage, at, is_counted=is_counted)
    is_allowed = decision.enforcement != "blocked"
    fits = None
    if minutes is not None:
        fits = is_allowed and (until is None or at + timedelta(minutes=minutes) <= until)
    return DecisionReply(
        profile_id,
        at,
        decision.enforcement,
        is_allowed,
        decision.reason,
        decision.binding,
        maybe_minutes(decision.remaining_seconds),
        decision.is_finishing,
        until,
        outlook.next_allowed_at(policy, usage, at),
        _figures(decision),
        fits,
    )


def unlimited_reply(profile_id: UUID, at: datetime, minutes: int | None = None) -> DecisionReply:
    """The JSON of a decision about an adult."""
    fits = None if minutes is None else True
    return DecisionReply(
        profile_id, at, "allowed", True, None, None, None, False, None, at, [], fits
    )


def _figures(decision: Decision) -> list[RuleFigures]:
    lock, downtime = decision.lock, decision.downtime
    daily, weekly = decision.daily_limit, decision.weekly_limit
    return [
        LockRule(maybe_minutes(lock.remaining_seconds), lock.ends),
        DowntimeRule(
            maybe_minutes(downtime.remaining_seconds),
            downtime.begins,
            downtime.ends,
            downtime.is_lifted,
        ),
        DailyRule(
            maybe_minutes(daily.remaining_seconds),
            maybe_minutes(daily.limit_seconds),
            lenient_json.minutes(daily.used_seconds),
            lenient_json.minutes(daily.carried_seconds),
            lenient_json.minutes(daily.extended_seconds),
            daily.begins,
            daily.ends,
            daily.is_lifted,
        ),
        WeeklyRule(
            maybe_minutes(weekly.remaining_seconds),
            maybe_minutes(weekly.limit_seconds),
            lenient_json.minutes(weekly.used_seconds),
            weekly.begins,
            weekly.ends,
            weekly.is_lifted,
        ),
    ]
