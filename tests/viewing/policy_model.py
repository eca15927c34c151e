"""The rules of viewing once more, slow and simple, to compare the service with.

The model is written from the promises of the API, without code of the service. It asks every
question of one instant: whether a window contains it, which viewing day it is in, what was used
until then. To look ahead it tries one instant after the other.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

DAY: Final = timedelta(days=1)
SECOND: Final = timedelta(seconds=1)
FIRST: Final = datetime(2010, 1, 1, tzinfo=UTC)
LAST: Final = datetime(2030, 1, 1, tzinfo=UTC)
DAYS_AHEAD: Final = 16
RULES: Final = ("locked", "downtime", "daily_limit", "weekly_limit")
LIMITS: Final = {"weekday_limit_minutes", "weekend_limit_minutes", "daily_limits"}
LEVELS: Final = ((0, "blocked"), (300, "warning_5"), (900, "warning_15"))


class Span(NamedTuple):
    """A time during which the clocks of a zone have one offset."""

    begins: datetime
    ends: datetime
    offset: timedelta


def offset_at(zone: str, at: datetime) -> timedelta:
    offset = at.astimezone(ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return offset


@cache
def spans(zone: str) -> list[Span]:
    """The spans of a zone, found by walking from day to day and halving the day of a change."""
    found, begins, at = [], FIRST, FIRST
    while at < LAST:
        before, after = at, at + DAY
        if offset_at(zone, before) != offset_at(zone, after):
            while after - before > SECOND:
                middle = before + (after - before) // SECOND // 2 * SECOND
                if offset_at(zone, middle) == offset_at(zone, before):
                    before = middle
                else:
                    after = middle
            found.append(Span(begins, after, offset_at(zone, before)))
            begins = after
        at += DAY
    return [*found, Span(begins, LAST, offset_at(zone, begins))]


@cache
def first_instant(zone: str, day: date, minute: int) -> datetime:
    """The first instant at which the local clock has reached `minute` of `day`."""
    wall = datetime.combine(day, time(minute // 60, minute % 60), UTC)
    reached = (max(span.begins, wall - span.offset) for span in spans(zone))
    return next(
        at for span, at in zip(spans(zone), reached, strict=True) if span.begins <= at < span.ends
    )


class Window(NamedTuple):
    """Blocked hours, in minutes after midnight, of the weekdays on which they begin."""

    days: frozenset[int]
    start: int
    end: int


class Exceptional(NamedTuple):
    """Another limit for one viewing day, or a day without downtime."""

    changes_limit: bool
    limit: int | None
    lifts_downtime: bool


@dataclass
class Day:
    """One viewing day: seconds used, minutes added to the limit, unlimited grants in force.

    A day that is over keeps the limit of the policy that was in force, in `kept` if `is_kept`.
    """

    used: int = 0
    educational: int = 0
    extended: int = 0
    unlimited: int = 0
    is_kept: bool = False
    kept: int | None = None


@dataclass
class Session:
    """A viewing session of a title, and the seconds that it has counted."""

    title: str
    is_educational: bool = False
    seconds: int = 0
    paused_at: datetime | None = None
    is_open: bool = True


@dataclass
class Grant:
    """A grant of a viewing day; `effect` is the seconds that it added (0: it was unlimited)."""

    day: date
    mode: str
    minutes: int | None
    effect: int
    is_undone: bool = False


class Limit(NamedTuple):
    """A limit in force, in seconds, and what of it is used."""

    seconds: int
    used: int


class Answer(NamedTuple):
    """The verdict, the rule that blocks, the one that leaves the least, and the seconds left."""

    enforcement: str
    reason: str | None
    limited_by: str | None
    remaining: int | None


@dataclass
class Child:
    """One child: what its parents decided, and the time it has watched."""

    zone: str = "UTC"
    reset_hour: int = 6
    weekday_limit_minutes: int | None = 120
    weekend_limit_minutes: int | None = 180
    educational_exempt: bool = True
    daily_limits: dict[int, int | None] = field(default_factory=dict)
    downtime: list[Window] = field(default_factory=list)
    weekly_limit_minutes: int | None = None
    week_starts_on: int = 0
    rollover_max_minutes: int = 0
    finish_minutes: int = 0
    exceptions: dict[date, Exceptional] = field(default_factory=dict)
    locked_until: datetime | None = None
    days: dict[date, Day] = field(default_factory=dict)
    grants: list[Grant] = field(default_factory=list)

    # The viewing day

    def begins(self, day: date) -> datetime:
        return first_instant(self.zone, day, 60 * self.reset_hour)

    def viewing_day(self, at: datetime) -> date:
        """The latest day that has begun."""
        day = at.date() + 2 * DAY
        while self.begins(day) > at:
            day -= DAY
        return day

    def next_reset(self, at: datetime) -> datetime:
        return self.begins(self.viewing_day(at) + DAY)

    def on(self, day: date) -> Day:
        return self.days.setdefault(day, Day())

    # Downtime

    def windows(self, days: Iterable[date]) -> Iterator[tuple[datetime, datetime]]:
        """From when to when downtime that begins on these dates lasts."""
        for day in days:
            for window in self.downtime:
                if day.weekday() in window.days:
                    last = day if window.end > window.start else day + DAY
                    yield (
                        first_instant(self.zone, day, window.start),
                        first_instant(self.zone, last, window.end),
                    )

    def is_down(self, at: datetime) -> bool:
        around = [at.date() + n * DAY for n in range(-3, 3)]
        if not any(start <= at < end for start, end in self.windows(around)):
            return False
        exception = self.exceptions.get(self.viewing_day(at))
        return exception is None or not exception.lifts_downtime

    def turns(self, at: datetime) -> list[datetime]:
        """The instants after `at` at which a rule may begin or end to block, in order."""
        days = [at.date() + n * DAY for n in range(-3, DAYS_AHEAD)]
        found = {self.begins(day) for day in days}
        found.update(turn for window in self.windows(days) for turn in window)
        if self.locked_until is not None:
            found.add(self.locked_until)
        return sorted(turn for turn in found if turn > at)

    def next_downtime(self, at: datetime) -> datetime | None:
        if not self.downtime:
            return None
        return next((turn for turn in self.turns(at) if self.is_down(turn)), None)

    def downtime_from(self, at: datetime) -> tuple[datetime | None, datetime | None]:
        """The start of the next downtime, or `at` inside one, and its end."""
        start = at if self.is_down(at) else self.next_downtime(at)
        if start is None:
            return None, None
        return start, next((turn for turn in self.turns(start) if not self.is_down(turn)), None)

    # Limits

    def limit_minutes(self, day: date, today: date) -> int | None:
        """The limit that was decided for a day, without what was carried or granted."""
        if day < today and day in self.days and self.days[day].is_kept:
            return self.days[day].kept
        exception = self.exceptions.get(day)
        if exception is not None and exception.changes_limit:
            return exception.limit
        if day.weekday() in self.daily_limits:
            return self.daily_limits[day.weekday()]
        return self.weekend_limit_minutes if day.weekday() >= 5 else self.weekday_limit_minutes

    def limit_seconds(self, day: date, today: date, *, lifts: bool = True) -> int | None:
        """The limit with all that is added to it; `lifts`: an unlimited grant lifts it."""
        minutes = self.limit_minutes(day, today)
        if minutes is None or (lifts and self.on(day).unlimited):
            return None
        return 60 * (minutes + self.on(day).extended) + self.carried(day, today)

    def carried(self, day: date, today: date) -> int:
        """The seconds left on the day before, in the same week."""
        before = None
        if day.weekday() != self.week_starts_on:
            before = self.limit_seconds(day - DAY, today)
        if before is None:
            return 0
        return min(60 * self.rollover_max_minutes, max(0, before - self.on(day - DAY).used))

    def week(self, day: date) -> list[date]:
        """The days of the viewing week up to this one."""
        days = [day]
        while days[0].weekday() != self.week_starts_on:
            days.insert(0, days[0] - DAY)
        return days

    def daily(self, at: datetime, *, lifts: bool = True) -> Limit | None:
        today = self.viewing_day(at)
        seconds = self.limit_seconds(today, today, lifts=lifts)
        return None if seconds is None else Limit(seconds, self.on(today).used)

    def weekly(self, at: datetime, *, lifts: bool = True) -> Limit | None:
        today = self.viewing_day(at)
        if self.weekly_limit_minutes is None or (lifts and self.on(today).unlimited):
            return None
        days = [self.on(day) for day in self.week(today)]
        counted = [day for day in days if not day.unlimited]
        minutes = self.weekly_limit_minutes + sum(day.extended for day in counted)
        return Limit(60 * minutes, sum(day.used for day in counted))

    # The decision

    def remaining(self, at: datetime) -> dict[str, int | None]:
        """The seconds that each rule leaves, in the order of the rules; None: it limits nothing."""
        is_locked = self.locked_until is not None and at < self.locked_until
        downtime = at if self.is_down(at) else self.next_downtime(at)
        limits = (self.daily(at), self.weekly(at))
        left = [
            0 if is_locked else None,
            None if downtime is None else (downtime - at) // SECOND,
            *(None if limit is None else max(0, limit.seconds - limit.used) for limit in limits),
        ]
        return dict(zip(RULES, left, strict=True))

    def decide(self, at: datetime, session: Session | None = None) -> Answer:
        """The verdict for a new session, or for one that plays."""
        left = {rule: left for rule, left in self.remaining(at).items() if left is not None}
        if not left:
            return Answer("allowed", None, None, None)
        rule = min(left, key=lambda rule: left[rule])  # the first of those that leave the least
        if left[rule] > 0:
            return Answer(level(left[rule]), None, rule, left[rule])
        grace = self.grace(at, session) if rule in ("daily_limit", "weekly_limit") else 0
        if grace > 0:
            return Answer("warning_5", None, rule, grace)
        return Answer("blocked", rule, rule, 0)

    def grace(self, at: datetime, session: Session | None) -> int:
        """The seconds that a session may go on after the limits have run out."""
        if session is None or not session.is_open or self.is_exempt(session):
            return 0
        limits = [limit for limit in (self.daily(at), self.weekly(at)) if limit is not None]
        overrun = max(limit.used - limit.seconds for limit in limits)
        if session.seconds <= overrun:
            return 0
        left = 60 * self.finish_minutes - overrun
        downtime = self.remaining(at)["downtime"]
        return left if downtime is None else min(left, downtime)

    def is_exempt(self, session: Session) -> bool:
        return session.is_educational and self.educational_exempt

    def ahead(self, at: datetime) -> "Child":
        """A copy to look ahead with. Only the days until today count.

        A later day has a balance if a change of zone or reset hour has moved the day back.
        """
        child, today = deepcopy(self), self.viewing_day(at)
        child.days = {day: each for day, each in child.days.items() if day <= today}
        return child

    def next_allowed_at(self, at: datetime) -> datetime | None:
        """The first instant from `at` on at which a new session may play."""
        child, instants = self.ahead(at), [at, *self.turns(at)]
        allowed = (each for each in instants if child.decide(each).enforcement != "blocked")
        return next(allowed, None)

    def allowed_until(self, at: datetime, session: Session) -> datetime | None:
        """When a child who watches on is stopped; None: not within the days ahead."""
        child, playing = self.ahead(at), replace(session)
        end = at + (DAYS_AHEAD - 4) * DAY
        while at < end:
            answer = child.decide(at, playing)
            if answer.enforcement == "blocked":
                return at
            until = child.next_reset(at)
            if answer.remaining is not None:
                until = min(until, at + answer.remaining * SECOND)
            child.watch(at, (until - at) // SECOND, playing)
            at = until
        return None

    # Events

    def watch(self, at: datetime, seconds: int, session: Session | None) -> None:
        day = self.on(self.viewing_day(at))
        if session is not None:
            session.seconds += seconds
        if session is not None and self.is_exempt(session):
            day.educational += seconds
        else:
            day.used += seconds

    def beat(
        self,
        at: datetime,
        session: Session,
        *,
        is_paused: bool = False,
        played: Session | None = None,
    ) -> Answer:
        """Counts a heartbeat and decides; the first 300 seconds of a pause count.

        `played` has the title of a heartbeat that names another one than its session.
        """
        if session.paused_at is None or at - session.paused_at <= 300 * SECOND:
            if played is None:
                self.watch(at, 30, session)
            else:
                self.watch(at, 30, replace(played))
                session.seconds += 30
        if not is_paused:
            session.paused_at = None
        elif session.paused_at is None:
            session.paused_at = at
        is_other = played is not None and played.title != session.title
        return self.decide(at, played if is_other else session)

    def grant(self, at: datetime, minutes: int | None, mode: str = "credit") -> Grant:
        today = self.viewing_day(at)
        day, effect = self.on(today), 0
        if minutes is None:
            day.unlimited += 1
        elif mode == "extend":
            day.extended += minutes
            effect = 60 * minutes
        else:
            effect = min(day.used, 60 * minutes)
            day.used -= effect
        self.grants.append(Grant(today, mode, minutes, effect))
        return self.grants[-1]

    def undo(self, grant: Grant) -> None:
        """Takes a grant back as far as it took effect; twice is once."""
        if grant.is_undone:
            return
        grant.is_undone = True
        day = self.on(grant.day)
        if grant.minutes is None:
            day.unlimited -= 1
        elif grant.mode == "extend":
            day.extended -= grant.minutes
        else:
            day.used += grant.effect

    def change(self, at: datetime, **members: Any) -> None:
        """Changes members of the policy; the days that are over keep the limits they had."""
        today = self.viewing_day(at)
        for n in range(1, 8) if LIMITS & {*members} else ():
            past = self.on(today - n * DAY)
            if not past.is_kept:
                past.kept = self.limit_minutes(today - n * DAY, today)
                past.is_kept = True
        for name, value in members.items():
            assert hasattr(self, name)
            setattr(self, name, value)


def level(remaining: int) -> str:
    return next((name for most, name in LEVELS if remaining <= most), "allowed")
