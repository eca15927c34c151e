"""The viewing day across clock changes, reset hours and year ends; limits and verdicts."""

from datetime import UTC, date, datetime, timedelta

import msgspec
import pytest

from service import rules
from service.rules import DEFAULTS, Configuration


def configured(zone: str, reset_hour: int) -> Configuration:
    return msgspec.structs.replace(DEFAULTS, timezone=zone, reset_hour=reset_hour)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "reset_hour", "now", "day", "reset"),
    [
        # An ordinary day: the hour before the reset is yesterday's.
        ("UTC", 6, "2026-11-24 05:59:59", "2026-11-23", "2026-11-24 06:00"),
        ("UTC", 6, "2026-11-24 06:00:00", "2026-11-24", "2026-11-25 06:00"),
        ("UTC", 0, "2026-11-24 00:00:00", "2026-11-24", "2026-11-25 00:00"),
        ("UTC", 23, "2026-11-24 22:59:59", "2026-11-23", "2026-11-24 23:00"),
        ("UTC", 23, "2026-11-24 23:00:00", "2026-11-24", "2026-11-25 23:00"),
        # Year ends, leap days, the far side of the date line.
        ("UTC", 6, "2027-01-01 05:00:00", "2026-12-31", "2027-01-01 06:00"),
        ("UTC", 0, "2026-12-31 23:59:59", "2026-12-31", "2027-01-01 00:00"),
        ("UTC", 3, "2028-03-01 02:59:00", "2028-02-29", "2028-03-01 03:00"),
        ("Pacific/Kiritimati", 2, "2026-12-31 12:30:00", "2027-01-01", "2027-01-01 12:00"),
        ("Pacific/Kiritimati", 2, "2026-12-31 11:59:00", "2026-12-31", "2026-12-31 12:00"),
        ("Asia/Kathmandu", 0, "2026-06-01 18:14:59", "2026-06-01", "2026-06-01 18:15"),
        ("Asia/Kathmandu", 0, "2026-06-01 18:15:00", "2026-06-02", "2026-06-02 18:15"),
        # New York springs forward on 2026-03-08: 02:00 EST becomes 03:00 EDT.
        ("America/New_York", 3, "2026-03-08 06:59:59", "2026-03-07", "2026-03-08 07:00"),
        ("America/New_York", 3, "2026-03-08 07:00:00", "2026-03-08", "2026-03-09 07:00"),
        ("America/New_York", 2, "2026-03-08 06:59:59", "2026-03-07", "2026-03-08 07:00"),
        ("America/New_York", 2, "2026-03-08 07:00:00", "2026-03-08", "2026-03-09 06:00"),
        ("America/New_York", 0, "2026-03-08 05:00:00", "2026-03-08", "2026-03-09 04:00"),
        # ... and falls back on 2026-11-01: 02:00 EDT becomes 01:00 EST.
        ("America/New_York", 0, "2026-11-01 04:00:00", "2026-11-01", "2026-11-02 05:00"),
        ("America/New_York", 2, "2026-11-01 06:59:59", "2026-10-31", "2026-11-01 07:00"),
        ("America/New_York", 2, "2026-11-01 07:00:00", "2026-11-01", "2026-11-02 07:00"),
        ("America/New_York", 23, "2026-11-01 02:59:59", "2026-10-30", "2026-11-01 03:00"),
        # Berlin: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00.
        ("Europe/Berlin", 2, "2026-03-29 00:59:59", "2026-03-28", "2026-03-29 01:00"),
        ("Europe/Berlin", 2, "2026-03-29 01:00:00", "2026-03-29", "2026-03-30 00:00"),
        ("Europe/Berlin", 3, "2026-03-29 01:00:00", "2026-03-29", "2026-03-30 01:00"),
        ("Europe/Berlin", 2, "2026-10-24 23:59:59", "2026-10-24", "2026-10-25 00:00"),
        ("Europe/Berlin", 2, "2026-10-25 00:00:00", "2026-10-25", "2026-10-26 01:00"),
        ("Europe/Berlin", 2, "2026-10-25 01:30:00", "2026-10-25", "2026-10-26 01:00"),
        ("Europe/Berlin", 3, "2026-10-25 01:59:59", "2026-10-24", "2026-10-25 02:00"),
        # Lord Howe moves by half an hour: 2026-04-05 02:00 becomes 01:30, 2026-10-04 02:00 02:30.
        ("Australia/Lord_Howe", 2, "2026-04-04 15:15:00", "2026-04-04", "2026-04-04 15:30"),
        ("Australia/Lord_Howe", 2, "2026-04-04 15:30:00", "2026-04-05", "2026-04-05 15:30"),
        ("Australia/Lord_Howe", 2, "2026-10-03 15:29:59", "2026-10-03", "2026-10-03 15:30"),
        ("Australia/Lord_Howe", 2, "2026-10-03 15:30:00", "2026-10-04", "2026-10-04 15:00"),
        # What is no zone counts as UTC.
        ("'UTC'", 6, "2026-11-24 05:59:59", "2026-11-23", "2026-11-24 06:00"),
        ("Mars/Base", 6, "2026-11-24 06:00:00", "2026-11-24", "2026-11-25 06:00"),
    ],
)
def test_viewing_day_and_next_reset(
    zone: str, reset_hour: int, now: str, day: str, reset: str
) -> None:
    configuration = configured(zone, reset_hour)
    found = rules.viewing_day(configuration, utc(now))
    assert found == date.fromisoformat(day)
    assert rules.next_reset(configuration, found) == utc(reset)


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe"])
@pytest.mark.parametrize("reset_hour", [0, 2, 3, 23])
def test_viewing_days_follow_each_other_without_gap_or_overlap(zone: str, reset_hour: int) -> None:
    configuration = configured(zone, reset_hour)
    now = utc("2026-01-01 00:00")
    day = rules.viewing_day(configuration, now)
    for _ in range(2 * 24 * 366):
        now += timedelta(minutes=30)
        found = rules.viewing_day(configuration, now)
        assert found - day in (timedelta(0), timedelta(days=1)), now
        assert rules.next_reset(configuration, found) > now
        day = found


def test_weekend_is_the_viewing_days_own() -> None:
    configuration = configured("UTC", 6)
    saturday_night = rules.viewing_day(configuration, utc("2026-11-23 05:00"))
    assert saturday_night == date(2026, 11, 22)
    assert rules.limit_minutes(configuration, saturday_night) == 180
    monday = rules.viewing_day(configuration, utc("2026-11-23 06:00"))
    assert rules.limit_minutes(configuration, monday) == 120
    assert rules.limit_minutes(configuration, date(2026, 11, 21)) == 180


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
def test_verdict(
    limit: int | None, used: int, override: bool, enforcement: str, remaining: int | None
) -> None:
    assert rules.verdict(limit, used, override) == (enforcement, remaining)


@pytest.mark.parametrize("name", ["", "'UTC'", "Mars/Base", "../UTC", "/etc/passwd", "a" * 300])
def test_what_is_no_zone(name: str) -> None:
    assert rules.zone(name) is None
