"""A change of a configuration, with its effect on the viewing days before it.

The statement writes days and limits that follow from the old policy. It does nothing if another
request has changed that policy, and is retried with the new one.
"""

import asyncio
from collections.abc import Sequence
from datetime import date, datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from service.context import Context
from service.database.ids import id_prefix, time_ordered_id
from service.database.statement import Statement
from service.errors import Overloaded
from service.http import auth
from service.parents.pin_attempt import DoneRow
from service.parents.pin_proof import PinProof
from service.parents.policy_change import limits_before
from service.viewing import rules
from service.viewing.policy import Policy, viewing_day

MAX_TRIES: Final = 10
# A beat can wait in the queue of an instance that has already acknowledged the change.
MOVE_SECONDS: Final = (0.0, 0.1, 0.2)


class UpdatedRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_strict: bool
    is_confirmed: bool
    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    reset_hour: int | None
    educational_exempt: bool | None
    timezone: str | None
    updated_at: datetime | None
    notified: str | None
    listeners: list[str]


UPDATE: Final = Statement("viewing_config_update", UpdatedRow)
MOVE: Final = Statement("balance_move", DoneRow)


class Members(NamedTuple):
    """The members to set; each limit has a flag, because a null limit means unlimited."""

    sets_weekday: bool
    weekday_limit_minutes: int | None
    sets_weekend: bool
    weekend_limit_minutes: int | None
    reset_hour: int | None
    educational_exempt: bool | None
    timezone: str | None

    @property
    def needs_pin(self) -> bool:
        """Whether the change needs the PIN in every account."""
        return self.reset_hour is not None or self.educational_exempt is not None

    @property
    def sets_limits(self) -> bool:
        return self.sets_weekday or self.sets_weekend

    @property
    def sets_reset(self) -> bool:
        return self.reset_hour is not None or self.timezone is not None


class Effects(NamedTuple):
    """The old configuration, the viewing days before and after the change, and kept limits."""

    weekday_limit_minutes: int | None = None
    weekend_limit_minutes: int | None = None
    reset_hour: int | None = None
    timezone: str | None = None
    day_floor: date | None = None
    old_day: date | None = None
    new_day: date | None = None
    past_days: Sequence[date] = ()
    past_limits: Sequence[int] = ()


NO_EFFECTS: Final = Effects()


def effects(policy: Policy, members: Members, now: datetime) -> Effects:
    """The effects of a change at `now`, as arguments of the statement; `policy` is the old one."""
    old = policy.configuration
    today = viewing_day(policy, now)
    found = Effects(
        old.weekday_limit_minutes,
        old.weekend_limit_minutes,
        old.reset_hour,
        old.timezone,
        policy.day_floor,
    )
    if members.sets_reset:
        new = msgspec.structs.replace(
            old,
            reset_hour=old.reset_hour if members.reset_hour is None else members.reset_hour,
            timezone=old.timezone if members.timezone is None else members.timezone,
        )
        new_day = rules.viewing_day(new, now)
        found = found._replace(old_day=today, new_day=new_day)
        today = max(today, new_day)
    if members.sets_limits:
        past_days, past_limits = limits_before(policy, today)
        found = found._replace(past_days=past_days, past_limits=past_limits)
    return found


async def changed(
    context: Context, account_id: UUID, profile_id: UUID, proof: PinProof, members: Members
) -> UpdatedRow:
    """The row of a change, as soon as every instance applies it.

    Without the PIN that the change needs, `is_confirmed` is false and nothing was done. Raises
    ClientError 401 and 403, and Overloaded after MAX_TRIES.
    """
    change = context.configurations.changes.begin()
    for _ in range(MAX_TRIES):
        found, now = NO_EFFECTS, context.now()
        if (members.sets_limits or members.sets_reset) and (
            proof.is_given or not members.needs_pin
        ):
            policy = (await context.configurations.get(account_id, profile_id)).policy
            found = effects(policy, members, now)
        defaults = msgspec.structs.astuple(rules.DEFAULTS)
        arguments = (*proof, members.needs_pin, *members, *defaults, change.origin, now)
        ids = (account_id, profile_id)
        row = await UPDATE.maybe(context.pool, *ids, *arguments, id_prefix(now), *found)
        row = auth.owned(row)
        if row.updated_at is not None or not row.is_confirmed:
            break
        context.configurations.drop(account_id, profile_id)
    else:
        raise Overloaded(1)
    if row.is_confirmed:
        context.configurations.forget(account_id, profile_id, "updated")
        await change.wait_for(row.listeners)
        if row.is_strict and found.old_day and found.new_day and found.old_day < found.new_day:
            await _move_late_beats(context, profile_id, found.old_day, found.new_day)
    return row


async def _move_late_beats(
    context: Context, profile_id: UUID, old_day: date, new_day: date
) -> None:
    """Moves the time of beats that were written after the change, on the day before it."""
    for pause in MOVE_SECONDS:
        await asyncio.sleep(pause)
        now = context.now()
        await MOVE.maybe(context.pool, profile_id, old_day, new_day, now, time_ordered_id(now))
