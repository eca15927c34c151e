"""One child's week of viewing: pure. Amounts are seconds unless they say minutes, days are UTC."""

from datetime import date
from uuid import UUID

import msgspec


class Day(msgspec.Struct, frozen=True):
    """A day; the educational seconds are a part of the seconds, no limit is unlimited."""

    date: date
    seconds: int
    educational_seconds: int
    limit_minutes: int | None


class Title(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    seconds: int


class Week(msgspec.Struct, frozen=True):
    """A child's days in order and its most watched titles, most watched first."""

    profile_id: UUID
    name: str
    days: list[Day]
    titles: list[Title]

    @property
    def seconds(self) -> int:
        return sum(day.seconds for day in self.days)

    @property
    def educational_seconds(self) -> int:
        return sum(day.educational_seconds for day in self.days)

    @property
    def limit_usage_percent(self) -> float | None:
        """Viewing against the sum of the limits; an unlimited day adds none, None without any."""
        limit = sum(60 * (day.limit_minutes or 0) for day in self.days)
        return round(self.seconds / limit * 100, 1) if limit else None
