"""The limits of viewing days as they were in force, for reports: pure, no I/O, no clock."""

from collections.abc import Mapping
from datetime import date

from service.viewing.decision import PastDay, carried_seconds
from service.viewing.frame import frame
from service.viewing.policy import UNLIMITED, Policy, limit_minutes


def limit_in_force(policy: Policy, day: date, balances: Mapping[date, PastDay]) -> int | None:
    """The limit of a viewing day in seconds, with minutes rolled over and added; None: unlimited.

    It is the limit that was kept with the day's balance, or else that of the policy. `balances` are
    those of the viewing week of `day`, and may have further days.
    """
    minutes, extended = limit_minutes(policy, day), 0
    if (balance := balances.get(day)) is not None:
        if balance.limit_minutes is not None:
            minutes = None if balance.limit_minutes == UNLIMITED else balance.limit_minutes
        if balance.is_unlimited:
            minutes = None
        extended = balance.extended_minutes
    if minutes is None:
        return None
    carried = 0
    if policy.rollover_max_minutes:
        carried = carried_seconds(policy, frame(policy, day), [*balances.values()])
    return 60 * (minutes + extended) + carried
