"""A change of a child's policy: in force everywhere, with the limits of past days kept."""

from datetime import date, datetime
from typing import Final, Protocol, TypeVar
from uuid import UUID

import msgspec

from service.context import Context
from service.errors import PIN_TOKEN_REQUIRED, RuleError
from service.http import auth
from service.viewing import rules
from service.viewing.config_changes import Change
from service.viewing.policy import UNLIMITED, Policy, limit_minutes, viewing_day

PAST_DAYS: Final = 14  # before the current one, whose limits reports can compare


class ChangedRow(auth.OwnedRow, Protocol):
    """The row of a statement that changes a policy and notifies the other instances."""

    @property
    def is_confirmed(self) -> bool: ...
    @property
    def listeners(self) -> list[str]: ...


class ClearedRow(msgspec.Struct, frozen=True):
    """A changed row without values, because the statement deletes them."""

    is_active: bool
    is_owner: bool
    is_confirmed: bool
    notified: str | None
    listeners: list[str]


Changed = TypeVar("Changed", bound=ChangedRow)


async def in_force(
    context: Context, change: Change, account_id: UUID, profile_id: UUID, row: Changed | None
) -> Changed:
    """The row of a change, as soon as every instance applies it.

    Raises ClientError 401 or 403, or RuleError without the proof that a strict account requires.
    """
    row = auth.owned(row)
    if not row.is_confirmed:
        raise RuleError(PIN_TOKEN_REQUIRED)
    context.configurations.forget(account_id, profile_id, "updated")
    await change.wait_for(row.listeners)
    return row


async def past_limits(
    context: Context, account_id: UUID, profile_id: UUID, now: datetime
) -> tuple[list[date], list[int]]:
    """The days before the current one and the limits in force on them, for their balances."""
    policy = (await context.configurations.get(account_id, profile_id)).policy
    return limits_before(policy, viewing_day(policy, now))


def limits_before(policy: Policy, today: date) -> tuple[list[date], list[int]]:
    """The PAST_DAYS days before `today`, and the limits that `policy` gives them."""
    days = [today - number * rules.DAY for number in range(1, PAST_DAYS + 1)]
    limits = [limit_minutes(policy, day) for day in days]
    return days, [UNLIMITED if limit is None else limit for limit in limits]
