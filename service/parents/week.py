"""One child's week of viewing, without I/O. Amounts are in seconds."""

from datetime import date
from uuid import UUID

import msgspec


class Day(msgspec.Struct, frozen=True):
    """A day; `seconds` include the educational ones, and no limit means unlimited.

    `exempt_seconds` are those that the report does not count, because they are exempt.
    """

    date: date
    seconds: int
    educational_seconds: int
    limit_seconds: int | None
    exempt_seconds: int = 0

    @property
    def counted_seconds(self) -> int:
        return self.seconds - self.exempt_seconds


class Title(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    seconds: int


class Week(msgspec.Struct, frozen=True):
    """A child's days in order and its most watched titles, most watched first.

    Its days begin at `reset_hour` in `timezone`. `is_exempt`: educational time is not counted.
    """

    profile_id: UUID
    name: str
    days: list[Day]
    titles: list[Title]
    timezone: str = "UTC"
    reset_hour: int = 0
    is_exempt: bool = False

    @property
    def counted_seconds(self) -> int:
        return sum(day.counted_seconds for day in self.days)

    @property
    def educational_seconds(self) -> int:
        return sum(day.educational_seconds for day in self.days)

    @property
    def limit_usage_percent(self) -> float | None:
        """Counted viewing in percent of the sum of the limits; None if no day has a limit."""
        limit = sum(day.limit_seconds or 0 for day in self.days)
        return round(self.counted_seconds / limit * 100, 1) if limit else None

    @property
    def usage_of_limited_days_percent(self) -> float | None:
        """The same of the days that have a limit, since other days cannot exceed one."""
        limited = [day for day in self.days if day.limit_seconds is not None]
        return msgspec.structs.replace(self, days=limited).limit_usage_percent
