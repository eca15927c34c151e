"""Reads the usage of a profile, for decisions that no heartbeat makes."""

from datetime import date
from typing import Final

import msgspec

from service.database.statement import Statement
from service.viewing.decision import PastDay, Usage


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
        columns = (
            *(self.past_days or (), self.past_used_seconds or (), self.past_overrides or ()),
            *(self.past_extended_minutes or (), self.past_limit_minutes or ()),
        )
        today = (self.used_seconds, self.is_unlimited_override, self.extended_minutes)
        session_seconds = self.session_seconds if may_finish else 0
        return Usage(day, *today, [*map(PastDay, *columns)], session_seconds)


READ_BALANCE: Final = Statement("balance_read", BalanceRow)
