"""The decision: the contract's limits first, then each rule that families add."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest

from service.viewing import outlook, rules
from service.viewing.decision import RULES, Decision, PastDay, Usage, decide
from service.viewing.frame import frame
from service.viewing.policy import Policy, stored_policy, unreadable_policy, viewing_day
from service.viewing.rules import DAY, DEFAULTS, Configuration

THURSDAY = date(2026, 11, 26)
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
EVERY_DAY = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def policy(
    weekday: int | None = 120,
    *,
    zone: str = "UTC",
    reset_hour: int = 6,
    exceptions: list[tuple[str, bool, int | None, bool]] | None = None,
    locked_until: datetime | None = None,
    day_floor: date | None = None,
    **schedule: Any,
) -> Policy:
    """A policy with the same limit on every day, from the JSON that statements return."""
    stored = {
        "schedule": schedule or None,
        "exceptions": exceptions,
        "locked_until": locked_until,
        "day_floor": day_floor,
    }
    configuration = Configuration(weekday, weekday, reset_hour, True, zone)
    return stored_policy(configuration, msgspec.json.encode(stored).decode())


def at(policy: Policy, now: datetime, used: int = 0, **usage: Any) -> Decision:
    """Decides at `now` for a child who has used `used` seconds of the day."""
    return decide(policy, Usage(viewing_day(policy, now), used, **usage), now)


def test_plain_configuration_is_the_whole_policy_of_a_family_that_uses_nothing() -> None:
    assert stored_policy(DEFAULTS) == Policy(DEFAULTS, (120,) * 5 + (180,) * 2)


@pytest.mark.parametrize(
    ("limit", "used", "override", "enforcement", "remaining"),
    [
        (120, 0, False, "allowed", 7200),
        (120, 7200 - 901, False, "allowed", 901),
        (120, 7200 - 900, False, "warning_15", 900),
        (120, 7200 - 301, False, "warning_15", 301),
        (120, 7200 - 300, False, "warning_5", 300),
        (120, 7199, False, "warning_5", 1),
        (120, 7200, False, "blocked", 0),
        (120, 9999, False, "blocked", 0),
        (120, 9999, True, "allowed", None),
        (None, 9999, False, "allowed", None),
    ],
)
def test_decision_follows_limit_and_used_seconds(
    limit: int | None, used: int, override: bool, enforcement: str, remaining: int | None
) -> None:
    decision = at(policy(limit), NOON, used, is_unlimited=override)
    assert (decision.enforcement, decision.remaining_seconds) == (enforcement, remaining)
    assert decision.reason == ("daily_limit" if enforcement == "blocked" else None)


def test_a_day_that_daily_limits_lack_has_the_usual_limit() -> None:
    limits = policy(60, daily_limits={"mon": 30, "thu": None}).limits
    assert limits == (30, 60, 60, None, 60, 60, 60)


def test_an_exception_replaces_the_limit_of_its_day_only() -> None:
    ours = policy(60, exceptions=[("2026-11-26", True, None, False)])
    assert at(ours, NOON, 9999).enforcement == "allowed"
    assert at(ours, NOON + timedelta(days=1), 9999).enforcement == "blocked"


def test_an_exception_that_changes_no_limit_keeps_the_usual_one() -> None:
    ours = policy(60, exceptions=[("2026-11-26", False, None, True)])
    assert at(ours, NOON, 3600).reason == "daily_limit"


@pytest.mark.parametrize(
    ("now", "remaining", "begins", "ends"),
    [
        ("2026-11-26 18:45", 900, "2026-11-26 19:00", "2026-11-27 06:00"),
        ("2026-11-26 19:00", 0, "2026-11-26 19:00", "2026-11-27 06:00"),
        ("2026-11-27 05:59:59", 0, "2026-11-26 19:00", "2026-11-27 06:00"),
        ("2026-11-27 06:00", 13 * 3600, "2026-11-27 19:00", "2026-11-28 06:00"),
    ],
)
def test_downtime_blocks_over_midnight_and_the_reset_hour(
    now: str, remaining: int, begins: str, ends: str
) -> None:
    night = [{"days": EVERY_DAY, "start": "20:00", "end": "07:00"}]
    downtime = at(policy(None, zone="Europe/Berlin", downtime=night), utc(now)).downtime
    assert downtime.remaining_seconds == remaining
    assert (downtime.begins, downtime.ends) == (utc(begins), utc(ends))


@pytest.mark.parametrize("now", ["2026-11-28 12:00", "2026-11-29 12:00", "2026-11-29 23:59"])
def test_downtime_of_a_weekend_begins_and_ends_alike_on_each_day(now: str) -> None:
    weekend = [
        {"days": ["fri"], "start": "16:00", "end": "00:00"},
        {"days": ["sat", "sun"], "start": "00:00", "end": "00:00"},
    ]
    downtime = at(policy(None, reset_hour=0, downtime=weekend), utc(now)).downtime
    assert (downtime.begins, downtime.ends) == (utc("2026-11-27 16:00"), utc("2026-11-30 00:00"))


def test_downtime_with_a_minute_off_a_week_ends_with_that_minute() -> None:
    always = [
        {"days": EVERY_DAY[1:], "start": "00:00", "end": "00:00"},
        {"days": ["mon"], "start": "00:00", "end": "11:59"},
        {"days": ["mon"], "start": "12:00", "end": "00:00"},
    ]
    downtime = at(policy(None, downtime=always), utc("2026-11-30 11:58")).downtime
    assert (downtime.begins, downtime.ends) == (utc("2026-11-23 12:00"), utc("2026-11-30 11:59"))
    downtime = at(policy(None, downtime=always), utc("2026-11-30 11:59")).downtime
    assert (downtime.begins, downtime.ends) == (utc("2026-11-30 12:00"), utc("2026-12-07 11:59"))


@pytest.mark.parametrize(
    ("zone", "day", "start", "end", "begins", "ends"),
    [
        # The clock goes from 2 to 3: a skipped start is the change.
        ("Europe/Berlin", "2026-03-29", "02:30", "04:00", "2026-03-29 01:00", "2026-03-29 02:00"),
        # The clock goes from 3 back to 2: a start that comes twice is the first one.
        ("Europe/Berlin", "2026-10-25", "02:30", "04:00", "2026-10-25 00:30", "2026-10-25 03:00"),
        # Half an hour.
        (
            "Australia/Lord_Howe",
            "2026-10-04",
            "02:15",
            "03:00",
            "2026-10-03 15:30",
            "2026-10-03 16:00",
        ),
        # A date that does not exist: the window of Thursday night ends at the change.
        ("Pacific/Apia", "2011-12-29", "22:00", "07:00", "2011-12-30 08:00", "2011-12-30 10:00"),
    ],
)
def test_downtime_follows_changes_of_clocks(
    zone: str, day: str, start: str, end: str, begins: str, ends: str
) -> None:
    first = date.fromisoformat(day)
    window = [{"days": [EVERY_DAY[first.weekday()]], "start": start, "end": end}]
    ours = policy(None, zone=zone, reset_hour=0, downtime=window)
    interval = frame(ours, first).downtime[0]
    assert interval == (utc(begins), utc(ends))


def test_a_window_inside_a_skipped_hour_is_empty() -> None:
    window = [{"days": ["sun"], "start": "02:10", "end": "02:50"}]
    ours = policy(None, zone="Europe/Berlin", reset_hour=0, downtime=window)
    assert frame(ours, date(2026, 3, 29)).downtime[0].begins.date() == date(2026, 4, 5)


def test_overlapping_and_touching_windows_merge() -> None:
    windows = [
        {"days": ["thu"], "start": "18:00", "end": "20:00"},
        {"days": ["thu"], "start": "19:00", "end": "21:00"},
        {"days": ["thu"], "start": "21:00", "end": "22:00"},
    ]
    downtime = at(policy(None, downtime=windows), NOON).downtime
    assert (downtime.begins, downtime.ends) == (utc("2026-11-26 18:00"), utc("2026-11-26 22:00"))


def test_whole_days_of_downtime_have_no_end() -> None:
    always = policy(None, downtime=[{"days": EVERY_DAY, "start": "00:00", "end": "00:00"}])
    decision = at(always, NOON)
    assert (decision.reason, decision.downtime.ends) == ("downtime", None)
    assert outlook.next_allowed_at(always, Usage(THURSDAY), NOON) is None


def test_an_exception_lifts_downtime_inside_its_viewing_day_only() -> None:
    night = [{"days": EVERY_DAY, "start": "20:00", "end": "07:00"}]
    ours = policy(None, downtime=night, exceptions=[("2026-11-26", False, None, True)])
    assert at(ours, utc("2026-11-27 05:59")).enforcement == "warning_5"
    assert at(ours, utc("2026-11-27 06:00")).reason == "downtime"
    assert at(ours, utc("2026-11-26 23:00")).downtime.is_lifted


def test_weekly_limit_counts_the_viewing_week_without_lifted_days() -> None:
    ours = policy(None, weekly_limit_minutes=120, week_starts_on="tue")
    week = [
        PastDay(date(2026, 11, 24), 3600, False, 0, None),
        PastDay(date(2026, 11, 25), 9999, True, 0, None),
    ]
    decision = at(ours, NOON, 3000, week=week)
    assert (decision.remaining_seconds, decision.enforcement) == (600, "warning_15")
    assert decision.weekly_limit.begins == utc("2026-11-24 06:00")
    assert decision.weekly_limit.ends == utc("2026-12-01 06:00")
    assert at(ours, NOON, 3600, week=week).reason == "weekly_limit"
    assert at(ours, NOON, 3600, week=week, is_unlimited=True).enforcement == "allowed"
    assert at(ours, NOON, 3600, week=week, extended_minutes=15).remaining_seconds == 900


def test_rollover_adds_what_the_days_before_left() -> None:
    ours = policy(60, rollover_max_minutes=30, week_starts_on="mon")
    # Monday leaves 10 minutes, Tuesday 30 of 70, Wednesday has no balance: 30 of 90 at most.
    week = [
        PastDay(date(2026, 11, 23), 3000, False, 0, None),
        PastDay(date(2026, 11, 24), 2400, False, 0, None),
    ]
    assert at(ours, NOON, 0, week=week).daily_limit.carried_seconds == 1800
    week.append(PastDay(date(2026, 11, 25), 5000, False, 0, None))
    assert at(ours, NOON, 0, week=week).daily_limit.carried_seconds == 400


def test_rollover_never_crosses_the_start_of_the_week() -> None:
    ours = policy(60, rollover_max_minutes=30, week_starts_on="thu")
    assert at(ours, NOON).daily_limit.carried_seconds == 0


def test_rollover_uses_the_limit_that_was_in_force() -> None:
    ours = policy(15, rollover_max_minutes=240, week_starts_on="wed")
    week = [PastDay(date(2026, 11, 25), 600, False, 0, 60)]
    assert at(ours, NOON, 0, week=week).daily_limit.carried_seconds == 3000
    week = [PastDay(date(2026, 11, 25), 600, False, 0, -1)]
    assert at(ours, NOON, 0, week=week).daily_limit.carried_seconds == 0


def test_a_title_that_played_when_the_limit_ran_out_may_be_finished() -> None:
    ours = policy(60, finish_minutes=10)
    decision = at(ours, NOON, 3600 + 240, session_seconds=270)
    assert (decision.enforcement, decision.remaining_seconds) == ("warning_5", 360)
    assert (decision.reason, decision.is_finishing) == (None, True)
    assert at(ours, NOON, 3600 + 600, session_seconds=9999).reason == "daily_limit"


def test_a_session_that_starts_after_the_limit_may_not_finish() -> None:
    ours = policy(60, finish_minutes=10)
    assert at(ours, NOON, 3600 + 30, session_seconds=30).reason == "daily_limit"
    assert at(ours, NOON, 3600 + 30).reason == "daily_limit"


def test_downtime_and_a_lock_end_the_time_to_finish() -> None:
    night = [{"days": EVERY_DAY, "start": "12:02", "end": "14:00"}]
    ours = policy(60, finish_minutes=10, downtime=night)
    assert at(ours, NOON, 3600, session_seconds=99).remaining_seconds == 120
    assert at(ours, NOON + timedelta(minutes=3), 3600, session_seconds=99).reason == "downtime"
    locked = policy(60, finish_minutes=10, locked_until=NOON + timedelta(hours=1))
    assert at(locked, NOON, 3600, session_seconds=99).reason == "locked"


def test_a_lock_blocks_until_its_end() -> None:
    locked = policy(None, locked_until=NOON + timedelta(hours=1))
    assert at(locked, NOON, is_unlimited=True).reason == "locked"
    assert at(locked, NOON + timedelta(hours=1)).enforcement == "allowed"


def test_the_viewing_day_does_not_go_back_before_its_floor() -> None:
    assert viewing_day(policy(reset_hour=18, day_floor=THURSDAY), NOON) == THURSDAY
    later = NOON + timedelta(days=2)
    assert viewing_day(policy(reset_hour=18, day_floor=THURSDAY), later) == date(2026, 11, 27)


@pytest.mark.parametrize(
    ("now", "reason"), [("2026-11-25 12:00", "downtime"), ("2026-11-25 18:00", None)]
)
def test_downtime_applies_while_the_floor_is_ahead_of_the_calendar(
    now: str, reason: str | None
) -> None:
    """A family moved from Kiritimati to Niue, where 12:00 UTC is one o'clock at night."""
    night = [{"days": EVERY_DAY, "start": "20:00", "end": "07:00"}]
    ours = policy(None, zone="Pacific/Niue", day_floor=THURSDAY, downtime=night)
    assert at(ours, utc(now)).reason == reason


def test_an_unreadable_policy_locks_until_a_parent_acts() -> None:
    ours = unreadable_policy(DEFAULTS)
    decision = at(ours, NOON)
    assert (decision.reason, decision.changes_at, decision.lock.ends) == ("locked", None, None)
    assert outlook.next_allowed_at(ours, Usage(THURSDAY), NOON) is None


def test_ties_are_reported_in_the_order_of_the_rules() -> None:
    always = [{"days": EVERY_DAY, "start": "00:00", "end": "00:00"}]
    everything = policy(
        15,
        downtime=always,
        weekly_limit_minutes=15,
        locked_until=NOON + timedelta(hours=1),
    )
    decision = at(everything, NOON, 900)
    assert decision.reason == RULES[0] == "locked"
    assert len(decision.blocking) == len(RULES)


def test_allowed_until_goes_on_over_the_reset() -> None:
    night = [{"days": EVERY_DAY, "start": "08:00", "end": "09:00"}]
    ours = policy(120, downtime=night)
    now = utc("2026-11-26 05:00")
    usage = Usage(date(2026, 11, 25), 1800)
    assert outlook.allowed_until(ours, usage, now) == utc("2026-11-26 08:00")
    assert outlook.allowed_until(policy(75), usage, utc("2026-11-26 05:50")) == utc(
        "2026-11-26 07:15"
    )


def test_allowed_until_includes_the_time_to_finish() -> None:
    assert outlook.allowed_until(policy(60, finish_minutes=10), Usage(THURSDAY), NOON) == utc(
        "2026-11-26 13:10"
    )


def test_allowed_until_ignores_limits_for_a_title_that_is_not_counted() -> None:
    night = [{"days": EVERY_DAY, "start": "20:00", "end": "07:00"}]
    ours = policy(60, downtime=night)
    until = outlook.allowed_until(ours, Usage(THURSDAY), NOON, is_counted=False)
    assert until == utc("2026-11-26 20:00")


def test_next_allowed_at_considers_all_rules() -> None:
    night = [{"days": EVERY_DAY, "start": "20:00", "end": "09:00"}]
    ours = policy(60, downtime=night, locked_until=utc("2026-11-26 21:00"))
    assert outlook.next_allowed_at(ours, Usage(THURSDAY), NOON) == utc("2026-11-27 09:00")


def test_next_allowed_at_waits_for_the_week_to_end() -> None:
    ours = policy(None, weekly_limit_minutes=15, week_starts_on="mon")
    assert outlook.next_allowed_at(ours, Usage(THURSDAY, 900), NOON) == utc("2026-11-30 06:00")


def test_next_allowed_at_is_now_for_a_child_who_may_watch() -> None:
    assert outlook.next_allowed_at(policy(60), Usage(THURSDAY), NOON) == NOON


def test_usage_of_a_later_day_keeps_the_week() -> None:
    ours = policy(60, weekly_limit_minutes=60, week_starts_on="mon")
    sunday = outlook.on_day(ours, Usage(THURSDAY, 60), date(2026, 11, 29))
    assert [past.day for past in sunday.week] == [THURSDAY]
    assert outlook.on_day(ours, sunday, date(2026, 11, 30)).week == ()


@pytest.mark.parametrize(
    ("used", "changes"),
    [(0, "12:45"), (3600 - 900, "12:10"), (3600 - 300, "12:05"), (3600, None)],
)
def test_the_decision_says_when_the_enforcement_changes(used: int, changes: str | None) -> None:
    expected = utc(f"2026-11-26 {changes}") if changes else utc("2026-11-27 06:00")
    assert at(policy(60), NOON, used).changes_at == expected


@pytest.mark.parametrize(
    ("days", "begins", "ends"),
    [(14, utc("2026-12-10 20:00"), utc("2026-12-11 05:00")), (22, None, None)],
)
def test_downtime_after_a_long_holiday_has_an_end_or_is_not_known(
    days: int, begins: datetime | None, ends: datetime | None
) -> None:
    holiday: list[tuple[str, bool, int | None, bool]] = [
        (f"{THURSDAY + n * DAY}", False, None, True) for n in range(days)
    ]
    night = [{"days": EVERY_DAY, "start": "20:00", "end": "05:00"}]
    downtime = at(policy(None, downtime=night, exceptions=holiday), NOON).downtime
    assert (downtime.begins, downtime.ends) == (begins, ends)


def test_exceptions_of_a_year_are_not_all_computed_for_one_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    year: list[tuple[str, bool, int | None, bool]] = [
        (f"{THURSDAY + n * DAY}", False, None, True) for n in range(366)
    ]
    night = [{"days": EVERY_DAY, "start": "20:00", "end": "07:00"}]
    resets: list[date] = []

    def reset(configuration: Configuration, day: date) -> datetime:
        resets.append(day)
        return datetime(day.year, day.month, day.day, 6, tzinfo=UTC)

    monkeypatch.setattr(rules, "reset", reset)
    downtime = at(policy(None, downtime=night, exceptions=year), NOON).downtime
    assert (downtime.is_lifted, downtime.remaining_seconds) == (True, None)
    assert len(resets) < 100
