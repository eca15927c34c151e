"""The minutes a child has left today, and whether playback may start."""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.http import auth, lenient_json
from service.http.body_and_reply import reply
from service.http.decided import Decided, decided
from service.http.fields import IsUnlimited, ProfileId, RemainingMinutes, Time, UsedMinutes, doc
from service.viewing import rules
from service.viewing.decision import Decision, Rule


class Balance(msgspec.Struct, frozen=True):
    """Minutes of the viewing day; a null limit and null remaining minutes mean unlimited."""

    profile_id: ProfileId
    is_child_profile: Annotated[bool, doc("A child's profile; only these have limits.", True)]
    has_limits: Annotated[
        bool, doc("A rule limits viewing: a limit not lifted, downtime or a lock.", True)
    ]
    used_minutes: UsedMinutes
    educational_minutes: Annotated[
        float, doc("Minutes of educational titles that do not count against the limit.", 12.0)
    ]
    limit_minutes: Annotated[
        int | None, doc("Minutes allowed in the viewing day; null without a limit.", 120)
    ]
    remaining_minutes: RemainingMinutes
    is_unlimited_override: IsUnlimited
    next_reset_at: Annotated[
        Time | None,
        doc("When the next viewing day starts, in UTC; null for adults.", "2026-03-02T06:00:00Z"),
    ]
    warning_threshold_minutes: Annotated[
        tuple[int, ...], doc("Minutes left at which players show a warning.", [15, 5])
    ] = rules.WARNING_MINUTES


class Eligibility(msgspec.Struct, frozen=True):
    """Whether playback may start now."""

    eligible: Annotated[bool, doc("Playback may start.", True)]
    remaining_minutes: RemainingMinutes
    reason: Annotated[str | None, doc("Why playback may not start; null if it may.", None)]
    next_reset_at: Annotated[
        Time | None,
        doc(
            "When the next viewing day starts, in UTC; null if no rule limits viewing.",
            "2026-03-02T06:00:00Z",
        ),
    ]


# Why playback may not start, by the rule that blocks.
REASONS: Final[dict[Rule, str]] = {
    "locked": "A parent has locked this profile",
    "downtime": "Viewing is not allowed during downtime",
    "daily_limit": "Daily viewing time limit reached",
    "weekly_limit": "Weekly viewing time limit reached",
}


async def _decided(request: Request) -> Decided:
    _, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    return await decided(request, account_id, profile_id, may_finish=False)


async def balance(request: Request) -> Response:
    """GET /balance/{profile_id}: returns the minutes that are used and left today."""
    found = await _decided(request)
    if found.decision is None:
        return reply(Balance(found.profile_id, False, False, 0.0, 0.0, None, None, False, None))
    return reply(_of_a_child(found, found.decision))


def _of_a_child(found: Decided, decision: Decision) -> Balance:
    left, limit = decision.remaining_seconds, decision.daily_limit.limit_seconds
    return Balance(
        profile_id=found.profile_id,
        is_child_profile=True,
        has_limits=left is not None,
        used_minutes=lenient_json.minutes(found.row.used_seconds),
        educational_minutes=lenient_json.minutes(found.row.educational_seconds),
        limit_minutes=None if limit is None else limit // 60,
        remaining_minutes=None if left is None else lenient_json.minutes(left),
        is_unlimited_override=found.row.is_unlimited_override,
        next_reset_at=decision.daily_limit.ends,
    )


async def playback_eligible(request: Request) -> Response:
    """GET /playback-eligible/{profile_id}: returns whether a title may start now."""
    decision = (await _decided(request)).decision
    if decision is None or decision.remaining_seconds is None:
        return reply(Eligibility(True, None, None, None))
    reason = None if decision.reason is None else REASONS[decision.reason]
    remaining = lenient_json.minutes(decision.remaining_seconds)
    return reply(Eligibility(reason is None, remaining, reason, decision.daily_limit.ends))
