"""The minutes a child has left today, and whether playback may start."""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.http import auth, lenient_json
from service.http.body_and_reply import reply
from service.http.fields import IsUnlimited, ProfileId, RemainingMinutes, Time, UsedMinutes, doc
from service.viewing import rules


class BalanceRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_child: bool
    used_seconds: int
    educational_seconds: int
    is_unlimited_override: bool


READ: Final = Statement("balance_read", BalanceRow)


class Balance(msgspec.Struct, frozen=True):
    """Minutes of the viewing day; a null limit and null remaining minutes mean unlimited."""

    profile_id: ProfileId
    is_child_profile: Annotated[bool, doc("A child's profile; only these have limits.", True)]
    has_limits: Annotated[bool, doc("A limit applies today, and no parent has lifted it.", True)]
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
            "When the next viewing day starts, in UTC; null without a limit.",
            "2026-03-02T06:00:00Z",
        ),
    ]


class Today(msgspec.Struct, frozen=True):
    """A profile's balance, limit and next reset today."""

    profile_id: UUID
    row: BalanceRow
    limit: int | None
    next_reset: datetime

    @property
    def remaining(self) -> float | None:
        decision = rules.decide(self.limit, self.row.used_seconds, self.row.is_unlimited_override)
        seconds = decision.remaining_seconds
        return None if seconds is None else lenient_json.minutes(seconds)


async def _today(request: Request) -> Today:
    context: Context = request.state.context
    account_id = await auth.account(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    configuration = (await context.configurations.get(account_id, profile_id)).configuration
    day = rules.viewing_day(configuration, context.now())
    row = auth.owned(await READ.maybe(context.pool, account_id, profile_id, day))
    limit = rules.limit_minutes(configuration, day)
    return Today(profile_id, row, limit, rules.next_reset(configuration, day))


async def balance(request: Request) -> Response:
    """GET /balance/{profile_id}: returns the used and remaining minutes of a profile today."""
    today = await _today(request)
    if not today.row.is_child:
        return reply(Balance(today.profile_id, False, False, 0.0, 0.0, None, None, False, None))
    return reply(_of_a_child(today))


def _of_a_child(today: Today) -> Balance:
    return Balance(
        profile_id=today.profile_id,
        is_child_profile=True,
        has_limits=today.remaining is not None,
        used_minutes=lenient_json.minutes(today.row.used_seconds),
        educational_minutes=lenient_json.minutes(today.row.educational_seconds),
        limit_minutes=today.limit,
        remaining_minutes=today.remaining,
        is_unlimited_override=today.row.is_unlimited_override,
        next_reset_at=today.next_reset,
    )


async def playback_eligible(request: Request) -> Response:
    """GET /playback-eligible/{profile_id}: returns whether this profile may watch now."""
    today = await _today(request)
    if not today.row.is_child or today.remaining is None:
        return reply(Eligibility(True, None, None, None))
    if today.remaining == 0:
        reason = "Daily viewing time limit reached"
        return reply(Eligibility(False, 0.0, reason, today.next_reset))
    return reply(Eligibility(True, today.remaining, None, today.next_reset))
