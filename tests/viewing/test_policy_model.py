"""The model of the rules, computed by hand, and the service compared with it over HTTP."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from random import SystemRandom
from time import monotonic
from typing import Final

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from service.database.driver import Connection
from service.viewing.config_cache import ConfigCache
from tests.conftest import Running
from tests.viewing.policy_life import Life, changes_of_clocks, live, lives
from tests.viewing.policy_model import (
    Answer,
    Child,
    Exceptional,
    Session,
    Window,
    first_instant,
)

EVERY_DAY = frozenset(range(7))
NIGHT = Window(EVERY_DAY, 20 * 60, 7 * 60)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def blocked(rule: str) -> Answer:
    return Answer("blocked", rule, rule, 0)


# The clocks, computed by hand


@pytest.mark.parametrize(
    ("zone", "day", "clock", "instant"),
    [
        ("UTC", "2026-11-24", "06:00", "2026-11-24 06:00"),
        ("Asia/Kathmandu", "2026-06-01", "00:00", "2026-05-31 18:15"),
        # New York: 02:00 becomes 03:00 on 2026-03-08, and 01:00 again on 2026-11-01.
        ("America/New_York", "2026-03-08", "01:59", "2026-03-08 06:59"),
        ("America/New_York", "2026-03-08", "02:30", "2026-03-08 07:00"),
        ("America/New_York", "2026-03-08", "03:00", "2026-03-08 07:00"),
        ("America/New_York", "2026-11-01", "01:30", "2026-11-01 05:30"),
        ("America/New_York", "2026-11-01", "02:00", "2026-11-01 07:00"),
        # Berlin: 02:00 becomes 03:00 on 2026-03-29, 03:00 becomes 02:00 on 2026-10-25.
        ("Europe/Berlin", "2026-03-29", "02:30", "2026-03-29 01:00"),
        ("Europe/Berlin", "2026-10-25", "02:30", "2026-10-25 00:30"),
        ("Europe/Berlin", "2026-10-25", "03:00", "2026-10-25 02:00"),
        # Lord Howe: 02:00 becomes 02:30 on 2026-10-04, and 01:30 on 2026-04-05.
        ("Australia/Lord_Howe", "2026-10-04", "02:10", "2026-10-03 15:30"),
        ("Australia/Lord_Howe", "2026-10-04", "02:30", "2026-10-03 15:30"),
        ("Australia/Lord_Howe", "2026-10-04", "02:40", "2026-10-03 15:40"),
        ("Australia/Lord_Howe", "2026-04-05", "01:45", "2026-04-04 14:45"),
        ("Australia/Lord_Howe", "2026-04-05", "02:00", "2026-04-04 15:30"),
        # Casablanca, Ramadan: 03:00 becomes 02:00 on 2026-02-15, 02:00 becomes 03:00 on 2026-03-22.
        ("Africa/Casablanca", "2026-02-15", "02:30", "2026-02-15 01:30"),
        ("Africa/Casablanca", "2026-02-15", "03:00", "2026-02-15 03:00"),
        ("Africa/Casablanca", "2026-03-22", "02:30", "2026-03-22 02:00"),
        # Apia had no 2011-12-30: after 2011-12-29 24:00 came 2011-12-31 00:00.
        ("Pacific/Apia", "2011-12-29", "23:59", "2011-12-30 09:59"),
        ("Pacific/Apia", "2011-12-30", "00:00", "2011-12-30 10:00"),
        ("Pacific/Apia", "2011-12-30", "20:00", "2011-12-30 10:00"),
        ("Pacific/Apia", "2011-12-31", "00:00", "2011-12-30 10:00"),
        ("Pacific/Apia", "2011-12-31", "06:00", "2011-12-30 16:00"),
    ],
)
def test_a_local_time_is_the_first_instant_at_which_the_clock_has_reached_it(
    zone: str, day: str, clock: str, instant: str
) -> None:
    assert first_instant(zone, date.fromisoformat(day), minutes(clock)) == utc(instant)


@pytest.mark.parametrize(
    ("reset_hour", "at", "day"),
    [
        (0, "2011-12-30 09:59:59", "2011-12-29"),
        (0, "2011-12-30 10:00:00", "2011-12-31"),  # the day that was skipped has no instant
        (6, "2011-12-30 09:59:59", "2011-12-29"),
        (6, "2011-12-30 10:00:00", "2011-12-30"),  # until 06:00 of the next date
        (6, "2011-12-30 16:00:00", "2011-12-31"),
    ],
)
def test_apia_has_no_instant_on_the_date_that_it_skipped(
    reset_hour: int, at: str, day: str
) -> None:
    child = Child("Pacific/Apia", reset_hour)
    assert child.viewing_day(utc(at)) == date.fromisoformat(day)


# Downtime


@pytest.mark.parametrize(
    ("zone", "start", "end", "begins", "ends"),
    [
        # A night of 11 hours, of 10 and of 12 hours.
        ("Europe/Berlin", "20:00", "07:00", "2026-03-25 19:00", "2026-03-26 06:00"),
        ("Europe/Berlin", "20:00", "07:00", "2026-03-28 19:00", "2026-03-29 05:00"),
        ("Europe/Berlin", "20:00", "07:00", "2026-10-24 18:00", "2026-10-25 06:00"),
        # A start that is skipped begins at the change; one that comes twice at the first.
        ("Europe/Berlin", "02:30", "04:00", "2026-03-29 01:00", "2026-03-29 02:00"),
        ("Europe/Berlin", "02:30", "04:00", "2026-10-25 00:30", "2026-10-25 03:00"),
        ("Australia/Lord_Howe", "02:10", "03:00", "2026-10-03 15:30", "2026-10-03 16:00"),
        ("Australia/Lord_Howe", "01:45", "03:00", "2026-04-04 14:45", "2026-04-04 16:30"),
        ("Africa/Casablanca", "01:00", "04:00", "2026-02-15 00:00", "2026-02-15 04:00"),
        # A whole day by the clock has 24 hours, or 23.
        ("Europe/Berlin", "12:00", "12:00", "2026-03-25 11:00", "2026-03-26 11:00"),
        ("Europe/Berlin", "12:00", "12:00", "2026-03-28 11:00", "2026-03-29 10:00"),
        # The night over the date that Apia skipped goes on until the next morning.
        ("Pacific/Apia", "20:00", "07:00", "2011-12-30 06:00", "2011-12-30 17:00"),
    ],
)
def test_downtime_follows_the_clock_on_the_wall(
    zone: str, start: str, end: str, begins: str, ends: str
) -> None:
    days = EVERY_DAY
    if start == end:
        local = utc(begins) + timedelta(hours=1)
        days = frozenset({local.weekday()})
    child = Child(zone, 0, None, None)
    child.downtime = [Window(days, minutes(start), minutes(end))]
    before = utc(begins) - timedelta(minutes=7)
    assert child.decide(before) == Answer("warning_15", None, "downtime", 420)
    assert child.allowed_until(before, Session("film")) == utc(begins)
    assert child.decide(utc(begins)) == blocked("downtime")
    assert child.decide(utc(ends) - timedelta(seconds=1)) == blocked("downtime")
    assert child.next_allowed_at(utc(begins)) == utc(ends)
    assert child.decide(utc(ends)).enforcement == "allowed"


def test_a_window_inside_skipped_time_is_empty() -> None:
    child = Child("Europe/Berlin", 0, None, None)
    child.downtime = [Window(EVERY_DAY, minutes("02:10"), minutes("02:50"))]
    assert child.next_downtime(utc("2026-03-28 12:00")) == utc("2026-03-30 00:10")


def test_an_exception_lifts_the_downtime_of_its_viewing_day_only() -> None:
    child = Child("UTC", 6, None, None, downtime=[NIGHT])
    child.exceptions[date(2026, 11, 24)] = Exceptional(False, None, True)
    assert not child.is_down(utc("2026-11-24 23:00"))
    assert child.is_down(utc("2026-11-24 05:59"))
    assert child.next_downtime(utc("2026-11-24 12:00")) == utc("2026-11-25 06:00")


def test_downtime_on_every_day_leaves_nothing_until_a_parent_acts() -> None:
    child = Child(downtime=[Window(EVERY_DAY, 600, 600)])
    assert child.next_allowed_at(utc("2026-11-24 12:00")) is None


# Limits

MONDAY = utc("2026-11-23 12:00")
TUESDAY = MONDAY + timedelta(days=1)


def test_the_limit_of_an_exception_precedes_the_day_and_the_day_the_weekday() -> None:
    child = Child()
    assert child.decide(MONDAY).remaining == 120 * 60
    child.daily_limits = {0: 60, 1: None}
    assert child.decide(MONDAY).remaining == 60 * 60
    assert child.decide(TUESDAY).remaining is None
    child.exceptions[TUESDAY.date()] = Exceptional(True, 15, False)
    assert child.decide(TUESDAY).remaining == 15 * 60
    child.exceptions[MONDAY.date()] = Exceptional(True, None, False)
    assert child.decide(MONDAY) == Answer("allowed", None, None, None)


def test_what_is_left_rolls_over_from_day_to_day_within_the_week() -> None:
    child = Child(rollover_max_minutes=100)
    child.on(MONDAY.date()).used = 3600
    assert child.decide(TUESDAY).remaining == (120 + 60) * 60
    assert child.decide(TUESDAY + timedelta(days=1)).remaining == (120 + 100) * 60
    child.week_starts_on = 1
    assert child.decide(TUESDAY).remaining == 120 * 60


def test_a_day_without_a_limit_rolls_nothing_over() -> None:
    child = Child(rollover_max_minutes=60)
    child.grant(MONDAY, None)
    assert child.decide(TUESDAY).remaining == 120 * 60


def test_a_changed_limit_does_not_change_what_was_left_before() -> None:
    child = Child(rollover_max_minutes=240)
    child.watch(MONDAY, 1200, None)
    child.change(TUESDAY, weekday_limit_minutes=60)
    assert child.decide(TUESDAY).remaining == (60 + 100) * 60


def test_the_week_leaves_out_days_with_an_override() -> None:
    child = Child(weekly_limit_minutes=150)
    child.on(MONDAY.date()).used = 6000
    assert child.decide(TUESDAY).remaining == 150 * 60 - 6000
    child.grant(MONDAY, None)
    assert child.decide(TUESDAY).remaining == 120 * 60


def test_the_week_begins_at_the_reset_hour() -> None:
    child = Child(weekly_limit_minutes=15)
    sunday = utc("2026-11-23 05:59:30")
    child.on(sunday.date() - timedelta(days=1)).used = 900
    assert child.decide(sunday) == blocked("weekly_limit")
    assert child.next_allowed_at(sunday) == utc("2026-11-23 06:00")


def test_extended_minutes_add_to_both_limits_and_credit_never_goes_below_zero() -> None:
    child = Child(weekly_limit_minutes=120)
    credit = child.grant(MONDAY, 30)
    assert child.decide(MONDAY).remaining == 120 * 60
    extended = child.grant(MONDAY, 30, "extend")
    assert child.decide(MONDAY).remaining == 150 * 60
    for _ in range(2):
        child.undo(extended)
        child.undo(credit)
    assert child.decide(MONDAY).remaining == 120 * 60


def test_a_credit_is_taken_back_as_far_as_it_took_effect() -> None:
    child = Child()
    child.on(MONDAY.date()).used = 600
    grant = child.grant(MONDAY, 30)
    child.on(MONDAY.date()).used += 60
    child.undo(grant)
    assert child.on(MONDAY.date()).used == 660


def test_an_override_stands_until_its_last_grant_is_taken_back() -> None:
    child = Child()
    first, second = child.grant(MONDAY, None), child.grant(MONDAY, None)
    child.undo(first)
    assert child.decide(MONDAY).remaining is None
    child.undo(second)
    assert child.decide(MONDAY).remaining == 7200


# Locks, finishing a title, looking ahead


def test_a_lock_blocks_until_it_ends() -> None:
    child = Child(locked_until=MONDAY + timedelta(hours=1))
    assert child.decide(MONDAY) == blocked("locked")
    assert child.next_allowed_at(MONDAY) == child.locked_until


def test_the_title_that_played_when_the_limit_ran_out_may_be_finished() -> None:
    child = Child(finish_minutes=2)
    child.on(MONDAY.date()).used = 7140
    session = Session("film")
    left = [child.beat(MONDAY + timedelta(seconds=30 * n), session).remaining for n in range(1, 8)]
    assert left == [30, 120, 90, 60, 30, 0, 0]
    assert child.decide(MONDAY, Session("film")) == blocked("daily_limit")


def test_a_session_that_began_after_the_limit_may_not_go_on() -> None:
    child = Child(finish_minutes=60)
    child.on(MONDAY.date()).used = 7200
    session = Session("film")
    assert child.beat(MONDAY, session).enforcement == "blocked"
    assert child.beat(MONDAY, session).enforcement == "blocked"


def test_downtime_ends_the_grace() -> None:
    child = Child(finish_minutes=60, downtime=[NIGHT])
    at = utc("2026-11-23 19:58:20")
    child.on(MONDAY.date()).used = 7170
    assert child.beat(at, Session("film")) == Answer("warning_5", None, "daily_limit", 100)


def test_a_child_who_watches_on_uses_the_next_day_too() -> None:
    child = Child(reset_hour=0)
    at = utc("2026-11-23 23:30")
    child.on(MONDAY.date()).used = 3600
    assert child.allowed_until(at, Session("film")) == utc("2026-11-24 02:00")
    child.finish_minutes = 10
    assert child.allowed_until(at, Session("film")) == utc("2026-11-24 02:10")
    assert (
        Child(weekday_limit_minutes=None, weekend_limit_minutes=None).allowed_until(
            at, Session("film")
        )
        is None
    )


# The service over HTTP

CHANGES: Final = changes_of_clocks()
DAYS: Final = 8  # of one life: a week and the day after it
LIVES: Final = 3  # around each change of clocks
CHUNKS: Final = 13
FREE_LIVES: Final = 20  # at any time, in each chunk
FREE_CHUNKS: Final = 3
FIRST: Final = st.dates(date(2020, 1, 1), date(2027, 12, 1))
SHORTENING_SECONDS: Final = 60.0


async def agree(
    running: Running,
    connection: Connection,
    lives: st.SearchStrategy[Life],
    count: int,
    number: int,
) -> int:
    """Lives `count` random lives in the service and in the model; returns the number of days.

    A life in which the two differ is made shorter for a minute, and then printed.
    """
    loop, days = asyncio.get_running_loop(), 0
    failures: dict[str, AssertionError] = {}
    until = 0.0

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(lives)
    def explore(life: Life) -> None:
        nonlocal days, until
        if failures and monotonic() > until:
            if error := failures.get(repr(life)):
                raise error
            return
        try:
            asyncio.run_coroutine_threadsafe(live(running, connection, life), loop).result()
        except AssertionError as error:
            until = until or monotonic() + SHORTENING_SECONDS
            failures[repr(life)] = error
            raise
        days += len(life.days)

    print(f"seed {number}")
    await asyncio.to_thread(explore)
    return days


@pytest.mark.parametrize("chunk", range(CHUNKS))
async def test_service_and_model_agree_around_every_change_of_clocks(
    running: Running, connection: Connection, chunk: int
) -> None:
    """Three days before each change and four after it, with every reset hour."""
    numbers = range(chunk, len(CHANGES), CHUNKS)
    for number in numbers:
        zone, change = CHANGES[number]
        first = st.just(change - timedelta(days=3))
        chosen = lives(first, DAYS, zone=zone, reset_hour=number % 24)
        assert await agree(running, connection, chosen, LIVES, number) >= DAYS * LIVES


@pytest.mark.parametrize("chunk", range(CHUNKS))
async def test_service_and_model_agree_while_no_policy_is_cached(
    running: Running, connection: Connection, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """One life around each change of clocks; every heartbeat reads its policy."""
    monkeypatch.setattr(ConfigCache, "peek", lambda *_: None)
    for number in range(chunk, len(CHANGES), CHUNKS):
        zone, change = CHANGES[number]
        first = st.just(change - timedelta(days=3))
        chosen = lives(first, DAYS, zone=zone, reset_hour=number % 24)
        assert await agree(running, connection, chosen, 1, number + 1000) >= DAYS


@pytest.mark.parametrize("chunk", range(FREE_CHUNKS))
async def test_service_and_model_agree_on_any_day(
    running: Running, connection: Connection, chunk: int
) -> None:
    days = await agree(running, connection, lives(FIRST, DAYS), FREE_LIVES, chunk)
    assert days >= DAYS * FREE_LIVES


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_service_and_model_agree_on_days_that_no_run_has_seen(
    running: Running, connection: Connection
) -> None:
    number = SystemRandom().randrange(10**9)
    assert await agree(running, connection, lives(FIRST, DAYS), 500, number) >= 500 * DAYS


def test_the_lives_contain_2000_days_every_change_and_every_reset_hour() -> None:
    assert DAYS * (LIVES * len(CHANGES) + FREE_LIVES * FREE_CHUNKS) >= 2000
    assert len(CHANGES) == 65
    assert {number % 24 for number in range(len(CHANGES))} == {*range(24)}
