"""The row of the statement that records heartbeats, and the outcome of each beat."""

from datetime import date, datetime
from itertools import repeat
from typing import NamedTuple
from uuid import UUID

import msgspec

from service.viewing.decision import PastDay, Usage
from service.viewing.rules import Configuration, stored_or_default
from service.viewing.usage import week


class Renewed(NamedTuple):
    """The stored parts of a policy, read by a statement; for an adult they are the defaults.

    The statement was sent at `sent_at` (monotonic), and its time is `now`.
    """

    configuration: Configuration
    stored: str | None
    is_child: bool
    sent_at: float
    now: datetime


class Recorded(NamedTuple):
    """The outcome of a committed beat; `usage` is None for an adult profile.

    `renewed` is None unless the beat has `renews`.
    """

    is_educational: bool
    usage: Usage | None
    renewed: Renewed | None


class RecordedRow(msgspec.Struct, frozen=True):
    beats: list[int]
    refusals: list[int]
    educational: list[bool | None]
    children: list[UUID] | None
    used_seconds: list[int] | None
    overrides: list[bool] | None
    renewed: list[int] | None
    weekday_limits: list[int | None] | None
    weekend_limits: list[int | None] | None
    reset_hours: list[int | None] | None
    exemptions: list[bool | None] | None
    timezones: list[str | None] | None
    policies: list[str | None] | None
    are_children: list[bool | None] | None
    extended: list[UUID] | None
    extended_minutes: list[int] | None
    playing: list[int] | None
    session_seconds: list[int] | None
    past: list[int] | None
    past_days: list[date] | None
    past_used_seconds: list[int] | None
    past_overrides: list[bool] | None
    past_extended_minutes: list[int] | None
    past_limit_minutes: list[int | None] | None
    events: int | None

    def balances(self) -> dict[UUID, tuple[int, bool]]:
        """Used seconds and override by child profile."""
        used = zip(self.used_seconds or (), self.overrides or (), strict=True)
        return dict(zip(self.children or (), used, strict=True))

    def extensions(self) -> dict[UUID, int]:
        """Minutes by which the day was extended, by child profile."""
        if self.extended is None:
            return {}
        return dict(zip(self.extended, self.extended_minutes or (), strict=True))

    def policies_renewed(self, sent_at: float, now: datetime) -> dict[int, Renewed]:
        """Policies by the position of the beat with `renews`."""
        if self.renewed is None:
            return {}
        limits = (self.weekday_limits or (), self.weekend_limits or ())
        columns = (*limits, self.reset_hours or (), self.exemptions or (), self.timezones or ())
        configurations = map(stored_or_default, *columns)
        kinds = (self.policies or (), map(bool, self.are_children or ()))
        renewed = map(Renewed, configurations, *kinds, repeat(sent_at), repeat(now))
        return dict(zip(self.renewed, renewed, strict=True))

    def weeks(self) -> dict[int, tuple[int, list[PastDay]]]:
        """Seconds of the session and the earlier balances, by the position of the beat."""
        if self.playing is None:
            return {}
        playing = zip(self.playing, self.session_seconds or (), strict=True)
        weeks: dict[int, tuple[int, list[PastDay]]] = {
            position: (seconds, []) for position, seconds in playing
        }
        for position, past in zip(self.past or (), week(self), strict=True):
            weeks[position][1].append(past)
        return weeks
