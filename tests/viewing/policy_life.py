"""Random days of one child, lived in the service over HTTP and in the model at the same time."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from hypothesis import strategies as st

from service.database.driver import Connection
from service.http import auth
from tests.conftest import Running
from tests.family import HEARTBEAT, PIN_HASH, Family, add_family
from tests.viewing.policy_model import (
    DAY,
    SECOND,
    Child,
    Day,
    Exceptional,
    Session,
    Window,
    spans,
)

VIEWING: Final = "/api/v1/viewing-time"
PARENTAL: Final = "/api/v1/parental-controls/profiles"
NAMES: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CLOCKS: Final = ("America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca")
ZONES: Final = (*CLOCKS, "UTC", "Asia/Kathmandu", "Pacific/Chatham")
TITLES: Final = ("film", "series", "lesson")


def changes_of_clocks() -> list[tuple[str, date]]:
    """Each zone and date of a change: four zones in eight years, and Apia without 2011-12-30."""
    found = [
        (zone, span.begins.date())
        for zone in CLOCKS
        for span in spans(zone)
        if 2020 <= span.begins.year <= 2027
    ]
    return [*found, ("Pacific/Apia", date(2011, 12, 30))]


# Steps of a life


class Wait(NamedTuple):
    """Until a turn of the day (a rule begins or ends there), or from now; then some seconds."""

    turn: int | None
    seconds: int


class Watch(NamedTuple):
    """Watches until `leave` seconds are left of the limits."""

    leave: int


class Beat(NamedTuple):
    """A heartbeat of a new session, or of the one that plays, which may name another title."""

    title: str
    starts: bool
    is_paused: bool
    is_other: bool = False


class Give(NamedTuple):
    minutes: int | None
    mode: str


class Undo(NamedTuple):
    grant: int
    times: int


class Lock(NamedTuple):
    minutes: int | None


class Unlock(NamedTuple):
    pass


class Except(NamedTuple):
    days_ahead: int
    exception: Exceptional


class Unexcept(NamedTuple):
    days_ahead: int


class Change(NamedTuple):
    """Members of the schedule or of the configuration, as the model names them."""

    members: dict[str, Any]


class Ask(NamedTuple):
    """The decision for a title of which `minutes` are left."""

    title: str | None
    minutes: int | None


class End(NamedTuple):
    """The player ends the session."""


Action = Watch | Beat | End | Give | Undo | Lock | Unlock | Except | Unexcept | Change | Ask
Step = tuple[Wait, Action]


class Life(NamedTuple):
    """A policy, and the steps of each viewing day from `first` on."""

    first: date
    policy: dict[str, Any]
    days: list[list[Step]]


# Strategies

times = st.sampled_from([0, 60, 120, 150, 180, 420, 900, 1200, 1290, 1439]) | st.integers(0, 1439)
limits = st.sampled_from([15, 30, 60, 120, 1440])
windows = st.builds(Window, st.frozensets(st.integers(0, 6), min_size=1), times, times)
schedules: dict[str, st.SearchStrategy[Any]] = {
    "daily_limits": st.dictionaries(st.integers(0, 6), st.none() | limits),
    "downtime": st.lists(windows, max_size=3),
    "weekly_limit_minutes": st.none() | st.sampled_from([15, 60, 240, 600, 10080]),
    "week_starts_on": st.integers(0, 6),
    "rollover_max_minutes": st.sampled_from([0, 7, 60, 240]),
    "finish_minutes": st.sampled_from([0, 1, 15, 60]),
}
configurations: dict[str, st.SearchStrategy[Any]] = {
    "weekday_limit_minutes": st.none() | st.sampled_from([15, 60, 480]),
    "weekend_limit_minutes": st.none() | st.sampled_from([15, 60, 480]),
    "educational_exempt": st.booleans(),
}
places: dict[str, st.SearchStrategy[Any]] = {
    "zone": st.sampled_from(ZONES),
    "reset_hour": st.integers(0, 23),
}
exceptions = st.one_of(
    st.builds(Exceptional, st.just(False), st.none(), st.booleans()),
    st.builds(
        Exceptional, st.just(True), st.none() | st.sampled_from([15, 60, 1440]), st.booleans()
    ),
)
waits = st.builds(
    Wait,
    st.none() | st.integers(0, 9),
    st.sampled_from([0, 1, -1, -30, 30, -300, -301, 299, -901, 3600, 7200, 21600]),
)
actions = st.one_of(
    st.builds(Watch, st.sampled_from([0, 1, 30, 60, 300, 301, 900, 901, 3600])),
    st.builds(
        Beat,
        st.sampled_from(TITLES),
        st.booleans(),
        st.just(False) | st.booleans(),
        st.sampled_from([False, False, True]),
    ),
    st.builds(
        Give, st.none() | st.sampled_from([15, 30, 120]), st.sampled_from(["credit", "extend"])
    ),
    st.builds(Undo, st.integers(0, 3), st.integers(1, 2)),
    st.builds(Lock, st.none() | st.sampled_from([1, 60, 1500])),
    st.builds(Unlock),
    st.builds(Except, st.integers(0, 3), exceptions),
    st.builds(Unexcept, st.integers(0, 3)),
    st.builds(Change, st.fixed_dictionaries({}, optional=schedules)),
    st.builds(Change, st.fixed_dictionaries({}, optional=configurations)),
    st.builds(Change, st.fixed_dictionaries({}, optional=places)),
    st.builds(End),
    st.builds(Ask, st.none() | st.sampled_from(TITLES), st.none() | st.sampled_from([1, 15, 90])),
)
steps = st.tuples(waits, actions)


def lives(first: st.SearchStrategy[date], days: int, **fixed: Any) -> st.SearchStrategy[Life]:
    """Lives of so many viewing days, with `fixed` members of the policy."""
    free = {name: each for name, each in places.items() if name not in fixed}
    known = {name: st.just(value) for name, value in fixed.items()}
    policy = st.fixed_dictionaries(known | free | configurations, optional=schedules)
    day = st.lists(steps, min_size=1, max_size=4)
    return st.builds(Life, first, policy, st.lists(day, min_size=days, max_size=days))


# Living


def minutes(seconds: float) -> float:
    return round(seconds / 60, 2)


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def as_schedule(name: str, value: Any) -> Any:
    """A member of the schedule as the API has it."""
    if name == "daily_limits":
        return {NAMES[day]: limit for day, limit in value.items()}
    if name == "week_starts_on":
        return NAMES[value]
    if name == "downtime":
        return [
            {
                "days": [NAMES[day] for day in sorted(window.days)],
                "start": clock(window.start),
                "end": clock(window.end),
            }
            for window in value
        ]
    return value


@dataclass
class Living:
    """One child in the service and in the model."""

    running: Running
    connection: Connection
    family: Family
    child: Child
    series: UUID = field(default_factory=uuid4)
    log: list[str] = field(default_factory=list)
    session: tuple[str, Session] | None = None
    ids: list[str] = field(default_factory=list)
    announced: set[str] = field(default_factory=set)

    @property
    def now(self) -> datetime:
        return self.running.clock()

    @property
    def profile(self) -> str:
        return f"{PARENTAL}/{self.family.child}"

    async def request(self, method: str, url: str, **options: Any) -> Any:
        """The answer of a request by the parent, which must succeed."""
        answer = await self.running.client.request(
            method, url, headers=self.family.bearer | options.pop("headers", {}), **options
        )
        assert answer.is_success, (answer.status_code, answer.text, *self.story())
        return answer.json() if answer.content else None

    def story(self) -> Iterable[str]:
        """All that a failure must say."""
        lived = {day: each for day, each in self.child.days.items() if each != Day()}
        child = replace(self.child, days=lived)
        return (f"now {self.now.isoformat()}", repr(child), repr(self.session), *self.log)

    def agree(self, **pairs: tuple[Any, Any]) -> None:
        """Raises AssertionError if the service's value and the model's differ."""
        wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        lines = [f"{n}: the service {s!r}, the model {m!r}" for n, (s, m) in wrong.items()]
        assert not wrong, "\n".join([*lines, *self.story()])

    async def live(self, life: Life) -> None:
        """Lives all days; the clock moves from one reset to the next."""
        for steps in life.days:
            for wait, action in steps:
                self.wait(wait)
                self.log.append(f"{self.now.isoformat()} {action}")
                await self.do(action)
                if not isinstance(action, Ask | Beat):  # they compare themselves
                    await self.compare_decision()
            await self.compare_beat()
            await self.compare_balance()
            await self.compare_events()
            self.running.clock.fixed = self.child.next_reset(self.now)

    def wait(self, wait: Wait) -> None:
        """Moves the clock within the viewing day, never back."""
        now, last = self.now, self.child.next_reset(self.now) - SECOND
        until = now
        if wait.turn is not None:
            changes = [span.begins for span in spans(self.child.zone)]
            turns = [turn for turn in self.child.turns(now) + changes if now < turn <= last]
            until = sorted({*turns, last})[wait.turn % len({*turns, last})]
        self.running.clock.fixed = max(now, min(last, until + wait.seconds * SECOND))

    async def do(self, action: Action) -> None:
        child, now = self.child, self.now
        match action:
            case Watch(leave):
                await self.watch(leave)
            case Beat(title, starts, is_paused, is_other):
                await self.beat(title, starts, is_paused, is_other=is_other)
            case End():
                if self.session is not None:
                    url = f"{VIEWING}/session/{self.session[0]}/end"
                    await self.request("POST", url)
                    self.session[1].is_open = False
            case Give(given, mode):
                await self.give(given, mode)
            case Undo(index, times):
                await self.undo(index, times)
            case Lock(length):
                until = None if length is None else now + timedelta(minutes=length)
                body = {"until": None if until is None else until.isoformat()}
                await self.request("PUT", f"{self.profile}/lock", json=body)
                child.locked_until = child.next_reset(now) if until is None else until
            case Unlock():
                await self.request("DELETE", f"{self.profile}/lock")
                child.locked_until = None
            case Except(ahead, exception):
                day = child.viewing_day(now) + ahead * DAY
                await self.make_exception(child.viewing_day(now) + ahead * DAY, exception)
            case Unexcept(ahead):
                day = child.viewing_day(now) + ahead * DAY
                await self.request("DELETE", f"{self.profile}/exceptions/{day}")
                child.exceptions.pop(day, None)
            case Change(members):
                await self.change(members)
            case Ask(title, left):
                await self.compare_decision(title, left)

    async def make_exception(self, day: date, exception: Exceptional) -> None:
        """Sets the members of an exception; without a limit it keeps the one it had."""
        body: dict[str, Any] = {"lifts_downtime": exception.lifts_downtime}
        if exception.changes_limit:
            body["limit_minutes"] = exception.limit
        await self.request("PUT", f"{self.profile}/exceptions/{day}", json=body)
        before = self.child.exceptions.get(day)
        if before and not exception.changes_limit:
            exception = Exceptional(*before[:2], exception.lifts_downtime)
        self.child.exceptions[day] = exception

    async def change(self, members: dict[str, Any]) -> None:
        """Changes members of the schedule, the configuration, or both."""
        token = auth.pin_token(self.running.context, self.family.account, PIN_HASH)
        schedule = {n: as_schedule(n, v) for n, v in members.items() if n in schedules}
        if schedule:
            await self.request("PUT", f"{self.profile}/schedule", json=schedule)
        rest = {n: v for n, v in members.items() if n not in schedules}
        if rest:
            body = {"timezone" if n == "zone" else n: v for n, v in rest.items()}
            body["pin_token"] = token
            await self.request("PUT", f"{self.profile}/viewing-time", json=body)
        self.child.change(self.now, **members)

    async def watch(self, leave: int) -> None:
        """Counts many beats at once, in the tables and in the model."""
        child = self.child
        remaining = child.remaining(self.now)
        left = [r for n, r in remaining.items() if n.endswith("limit") and r is not None]
        seconds = max(0, min(left) - leave) if left else leave
        session = self.session[1] if self.session else None
        await self.connection.execute(
            "with s as (update viewing_sessions set total_seconds = total_seconds + $3 "
            "where id = $4) "
            "insert into viewing_time_balances as b (id, profile_id, reset_date, used_seconds, "
            "educational_seconds, is_unlimited_override) "
            "values (gen_random_uuid(), $1, $2, $3, 0, false) "
            "on conflict (profile_id, reset_date) do update "
            "set used_seconds = b.used_seconds + excluded.used_seconds",
            self.family.child,
            child.viewing_day(self.now),
            seconds,
            self.session and UUID(self.session[0]),
        )
        child.watch(self.now, seconds, None)
        if session:
            session.seconds += seconds

    async def beat(
        self, title: str, starts: bool, is_paused: bool, *, is_other: bool = False
    ) -> None:
        """Sends a heartbeat of a new session, or of the one that plays, and compares."""
        known = None if starts else self.session
        if known is None and self.session:
            self.session[1].is_open = False
        session = Session(title, title == "lesson") if known is None else known[1]
        body = self.family.beat(
            title_id=self.title(title if is_other else session.title),
            session_id=None if known is None else known[0],
            is_paused=is_paused,
        )
        answer = await self.request("POST", HEARTBEAT, json=body, headers={"Prefer": "decision"})
        played = Session(title, title == "lesson") if is_other else None
        expected = self.child.beat(self.now, session, is_paused=is_paused, played=played)
        self.session = (answer["session_id"], session)
        watched = session if played is None or title == session.title else played
        if not session.is_open:  # to watch on, it needs a new one
            watched = Session(watched.title, watched.is_educational)
        used = self.child.on(self.child.viewing_day(self.now)).used
        self.agree(
            enforcement=(answer["enforcement"], expected.enforcement),
            remaining=(answer["remaining_minutes"], in_minutes(expected.remaining)),
            used=(answer["used_minutes"], minutes(used)),
        )
        self.compare(answer["decision"], watched)
        if expected.enforcement != "allowed":
            state = expected.enforcement.replace("_", " ")
            if state == "blocked":
                state += f" {answer['decision']['reason']}"
            self.announced.add(f"{self.child.viewing_day(self.now)} {state}")

    async def give(self, given: int | None, mode: str) -> None:
        """Grants minutes, or an unlimited day, and compares."""
        url = f"{self.profile}/viewing-time/grant"
        answer = await self.request("POST", url, json={"minutes": given, "mode": mode})
        grant = self.child.grant(self.now, given, mode)
        self.ids.append(answer["grant_id"])
        self.agree(
            granted=(answer["granted_minutes"], given),
            effect=(answer["effect_minutes"], None if given is None else minutes(grant.effect)),
            remaining=(
                answer["remaining_minutes"],
                in_minutes(self.child.decide(self.now).remaining),
            ),
        )

    async def undo(self, index: int, times: int) -> None:
        """Takes one of today's grants back."""
        today = self.child.viewing_day(self.now)
        grants = list(zip(self.ids, self.child.grants, strict=True))
        grants = [each for each in grants if each[1].day == today]
        if grants:
            grant_id, grant = grants[index % len(grants)]
            for _ in range(times):
                await self.request("DELETE", f"{self.profile}/grants/{grant_id}")
                self.child.undo(grant)

    async def compare_beat(self) -> None:
        await self.beat("film", self.session is None, False)

    async def compare_events(self) -> None:
        """Compares the warnings and blocks of heartbeats with the events."""
        written = await self.connection.fetchval(
            "select array_agg(cause) from viewing_events where profile_id = $1 "
            "and type in ('viewing.warning', 'viewing.blocked')",
            self.family.child,
        )
        self.agree(events=(sorted(written or ()), sorted(self.announced)))

    async def compare_balance(self) -> None:
        """Compares balance and eligibility."""
        now, child = self.now, self.child
        balance = await self.request("GET", f"{VIEWING}/balance/{self.family.child}")
        expected = child.decide(now)
        day = child.on(child.viewing_day(now))
        limit = child.daily(now, lifts=False)
        self.agree(
            used=(balance["used_minutes"], minutes(day.used)),
            educational=(balance["educational_minutes"], minutes(day.educational)),
            limit=(balance["limit_minutes"], limit and limit.seconds // 60),
            has_limits=(balance["has_limits"], expected.remaining is not None),
            override=(balance["is_unlimited_override"], day.unlimited > 0),
            remaining=(balance["remaining_minutes"], in_minutes(expected.remaining)),
            next_reset=(at(balance["next_reset_at"]), child.next_reset(now)),
        )
        answer = await self.request("GET", f"{VIEWING}/playback-eligible/{self.family.child}")
        self.agree(
            eligible=(answer["eligible"], expected.enforcement != "blocked"),
            remaining=(answer["remaining_minutes"], in_minutes(expected.remaining)),
        )

    async def compare_decision(self, title: str | None = None, left: int | None = None) -> None:
        """Compares the decision for the title that plays, or for one that may start."""
        query: dict[str, Any] = {"title_id": title and str(self.title(title)), "minutes": left}
        query = {name: value for name, value in query.items() if value is not None}
        url = f"{VIEWING}/decision/{self.family.child}"
        decision = await self.request("GET", url, params=query)
        playing = self.session[1] if self.session and self.session[1].is_open else None
        is_other = playing is not None and title not in (None, playing.title)
        # Without a title the time is counted, also while an exempt one plays.
        if playing is None or is_other or (title is None and self.child.is_exempt(playing)):
            playing = Session(title or "any", title == "lesson")
        self.compare(decision, playing, left)

    def compare(self, decision: Any, session: Session, lasts: int | None = None) -> None:
        now, child = self.now, self.child
        expected = child.decide(now, session)
        is_allowed = expected.enforcement != "blocked"
        until = child.allowed_until(now, session) if is_allowed else None
        self.agree(
            at=(at(decision["at"]), now),
            enforcement=(decision["enforcement"], expected.enforcement),
            allowed=(decision["allowed"], is_allowed),
            reason=(decision["reason"], expected.reason),
            limited_by=(decision["limited_by"], expected.limited_by),
            remaining=(decision["remaining_minutes"], in_minutes(expected.remaining)),
            allowed_until=(at(decision["allowed_until"]), until),
            next_allowed_at=(
                at(decision["next_allowed_at"]),
                child.next_allowed_at(now),
            ),
            fits=(
                decision["fits"],
                lasts and is_allowed and (until is None or now + timedelta(minutes=lasts) <= until),
            ),
        )

        self.compare_rules(decision["rules"])

    def compare_rules(self, rules: Any) -> None:
        """Compares the figures of each rule."""
        now, child = self.now, self.child
        left = child.remaining(now)
        today = child.viewing_day(now)
        day, week = child.on(today), child.week(today)
        daily, weekly = child.daily(now, lifts=False), child.weekly(now, lifts=False)
        is_locked = child.locked_until is not None and now < child.locked_until
        start, end = child.downtime_from(now)
        limited = child.limit_minutes(today, today) is not None
        figures: dict[str, dict[str, Any]] = {
            "locked": {"ends_at": child.locked_until if is_locked else None},
            "downtime": {"ends_at": end} | ({} if child.is_down(now) else {"starts_at": start}),
            "daily_limit": {
                "limit_minutes": daily and minutes(daily.seconds),
                "used_minutes": minutes(day.used),
                "extended_minutes": minutes(60 * day.extended),
                "carried_minutes": minutes(child.carried(today, today)) if limited else 0,
                "starts_at": child.begins(today),
                "ends_at": child.begins(today + DAY),
                "is_lifted": limited and day.unlimited > 0,
            },
            "weekly_limit": {"limit_minutes": None},
        }
        if weekly is not None:
            figures["weekly_limit"] = {
                "limit_minutes": minutes(weekly.seconds),
                "used_minutes": minutes(weekly.used),
                "starts_at": child.begins(week[0]),
                "ends_at": child.begins(week[0] + 7 * DAY),
                "is_lifted": day.unlimited > 0,
            }
        for rule in rules:
            expected = figures[rule["rule"]] | {"remaining_minutes": in_minutes(left[rule["rule"]])}
            shown = {
                name: at(rule[name]) if name.endswith("_at") else rule[name] for name in expected
            }
            self.agree(**{rule["rule"]: (shown, expected)})

    def title(self, name: str) -> UUID:
        """The id of a title; the series has one of its own."""
        family = self.family
        return {"film": family.title, "lesson": family.lesson}.get(name, self.series)


async def live(running: Running, connection: Connection, life: Life) -> None:
    """Lives a life in a family of its own; raises AssertionError where service and model differ."""
    places = {name: value for name, value in life.policy.items() if name not in schedules}
    child = Child(**places)
    family = await add_family(
        connection,
        limit=child.weekday_limit_minutes,
        timezone=child.zone,
        reset_hour=child.reset_hour,
        exempt=child.educational_exempt,
    )
    living = Living(running, connection, family, child)
    await connection.execute(
        "insert into titles (id, title, title_type, is_featured, is_educational) "
        "values ($1, 'Series', 'series', false, false)",
        living.series,
    )
    await connection.execute(
        "update viewing_time_configs set weekend_limit_minutes = $2, created_at = '2000-01-01Z' "
        "where profile_id = $1",
        family.child,
        child.weekend_limit_minutes,
    )
    running.clock.fixed = child.begins(life.first)
    await living.change({n: v for n, v in life.policy.items() if n in schedules})
    await living.live(life)


def in_minutes(seconds: int | None) -> float | None:
    return None if seconds is None else minutes(seconds)


def at(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
