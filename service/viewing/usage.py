"""Reads the usage of a profile, for decisions that no heartbeat makes."""

from collections.abc import Sequence
from datetime import date
from typing import Any, Final, Protocol

import msgspec

from service.database.statement import Statement
from service.viewing.decision import PastDay, Usage
from service.viewing.policy import Policy, usage_from


def of_week(usage: Usage, policy: Policy) -> Usage:
    """The usage without the days before the viewing week of its day."""
    first = usage_from(policy, usage.day)
    if first is None or not usage.week:
        return usage
    week = [past for past in usage.week if past.day >= first]
    return msgspec.structs.replace(usage, week=week)


class PastDaysRow(Protocol):
    """The row of a statement that reads earlier days; the columns are in step."""

    @property
    def past_days(self) -> list[date] | None: ...
    @property
    def past_used_seconds(self) -> list[int] | None: ...
    @property
    def past_overrides(self) -> list[bool] | None: ...
    @property
    def past_extended_minutes(self) -> list[int] | None: ...
    @property
    def past_limit_minutes(self) -> list[int | None] | None: ...


class BalanceRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_child: bool
    used_seconds: int
    educational_seconds: int
    is_unlimited_override: bool
    extended_minutes: int
    is_title_found: bool
    is_title_educational: bool
    session_seconds: int
    past_days: list[date] | None
    past_used_seconds: list[int] | None
    past_overrides: list[bool] | None
    past_extended_minutes: list[int] | None
    past_limit_minutes: list[int | None] | None

    def usage(self, day: date, *, may_finish: bool = True) -> Usage:
        """The usage of the viewing day that was read."""
        today = (self.used_seconds, self.is_unlimited_override, self.extended_minutes)
        session_seconds = self.session_seconds if may_finish else 0
        return Usage(day, *today, week(self), session_seconds)


def week(row: PastDaysRow) -> list[PastDay]:
    """The days of the viewing week that were read, before the current one."""
    columns = (row.past_days, row.past_used_seconds, row.past_overrides)
    return past_days(*columns, row.past_extended_minutes, row.past_limit_minutes)


def past_days(*columns: Sequence[Any] | None) -> list[PastDay]:
    """The days in columns that are in step; the columns are null without a day."""
    return [PastDay(*day) for day in zip(*(column or () for column in columns), strict=True)]


READ_BALANCE: Final = Statement("balance_read", BalanceRow)
