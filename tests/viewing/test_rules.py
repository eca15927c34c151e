"""The viewing day across clock changes, reset hours and year ends; limits and decisions."""

import zoneinfo
from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from importlib.resources import files
from itertools import product
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import msgspec
import pytest

from service.viewing import rules
from service.viewing.policy import limit_minutes, stored_policy
from service.viewing.rules import DEFAULTS, Configuration


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
        # Chatham: 2026-04-05 03:45 becomes 02:45, 2026-09-27 02:45 becomes 03:45. The first three
        # o'clock is the reset, and the second is not; a skipped one is at the change itself.
        ("Pacific/Chatham", 3, "2026-04-04 13:14:59", "2026-04-04", "2026-04-04 13:15"),
        ("Pacific/Chatham", 3, "2026-04-04 13:15:00", "2026-04-05", "2026-04-05 14:15"),
        ("Pacific/Chatham", 3, "2026-04-04 14:05:00", "2026-04-05", "2026-04-05 14:15"),
        ("Pacific/Chatham", 3, "2026-09-26 13:59:59", "2026-09-26", "2026-09-26 14:00"),
        ("Pacific/Chatham", 3, "2026-09-26 14:00:00", "2026-09-27", "2026-09-27 13:15"),
        # Troll moves by two hours: 2026-03-29 01:00 becomes 03:00, 2026-10-25 03:00 becomes 01:00.
        ("Antarctica/Troll", 2, "2026-03-29 00:59:59", "2026-03-28", "2026-03-29 01:00"),
        ("Antarctica/Troll", 2, "2026-03-29 01:00:00", "2026-03-29", "2026-03-30 00:00"),
        ("Antarctica/Troll", 2, "2026-10-25 00:00:00", "2026-10-25", "2026-10-26 02:00"),
        ("Antarctica/Troll", 2, "2026-10-25 01:30:00", "2026-10-25", "2026-10-26 02:00"),
        # Samoa skipped 2011-12-30: that viewing day is the rest of the night before, or empty.
        ("Pacific/Apia", 6, "2011-12-30 09:59:59", "2011-12-29", "2011-12-30 10:00"),
        ("Pacific/Apia", 6, "2011-12-30 10:00:00", "2011-12-30", "2011-12-30 16:00"),
        ("Pacific/Apia", 0, "2011-12-30 09:59:59", "2011-12-29", "2011-12-30 10:00"),
        ("Pacific/Apia", 0, "2011-12-30 10:00:00", "2011-12-31", "2011-12-31 10:00"),
        # Kwajalein skipped 1993-08-21.
        ("Pacific/Kwajalein", 0, "1993-08-21 11:59:59", "1993-08-20", "1993-08-21 12:00"),
        ("Pacific/Kwajalein", 0, "1993-08-21 12:00:00", "1993-08-22", "1993-08-22 12:00"),
        # Alaska went from 1867-10-19 15:30 back to 10-18 15:30: the viewing day continues.
        ("America/Sitka", 6, "1867-10-18 15:01:12", "1867-10-18", "1867-10-18 15:01:13"),
        ("America/Sitka", 6, "1867-10-18 15:01:13", "1867-10-19", "1867-10-20 15:01:13"),
        ("America/Sitka", 6, "1867-10-19 00:31:13", "1867-10-19", "1867-10-20 15:01:13"),
        ("America/Sitka", 6, "1867-10-20 15:01:12", "1867-10-19", "1867-10-20 15:01:13"),
        # Other names count as UTC.
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


FIRST, LAST = utc("2020-01-01"), utc("2030-01-01")
Span = tuple[datetime, datetime, timedelta]


def spans(zone: ZoneInfo, first: datetime = FIRST, last: datetime = LAST) -> list[Span]:
    """The periods of constant UTC offset in ten years: start, end, offset."""
    found: list[Span] = []
    start, now, step, offset = first, first, timedelta(hours=12), None
    while now < last:
        offset = now.astimezone(zone).utcoffset()
        if (now + step).astimezone(zone).utcoffset() != offset:
            same, other = now, now + step
            while other - same > timedelta(seconds=1):
                middle = same + timedelta(seconds=(other - same).total_seconds() // 2)
                is_same = middle.astimezone(zone).utcoffset() == offset
                same, other = (middle, other) if is_same else (same, middle)
            found.append((start, other, offset or timedelta()))
            start = other
        now += step
    assert offset is not None
    return [*found, (start, last + timedelta(days=366), offset)]


def turn(spans: Iterable[Span], day: date, reset_hour: int) -> datetime:
    """The first instant at which the local clock has reached the reset hour of the day."""
    hour = datetime.combine(day, time(reset_hour), UTC)
    return next(
        max(start, hour - offset) for start, ended, offset in spans if hour - offset < ended
    )


def families_of_zones() -> dict[tuple[Span, ...], str]:
    """One zone of each group of zones with the same changes."""
    return {tuple(spans(ZoneInfo(name))): name for name in sorted(rules._zone_names())}


@pytest.mark.slow
def test_a_viewing_day_ends_once_at_its_next_reset() -> None:
    """In every zone, for every reset hour, around every change of ten years and on other days."""
    second, random = timedelta(seconds=1), Random(12)
    zones = families_of_zones()
    assert len(zones) > 80
    for zone_spans, name in zones.items():
        changes = [start for start, _, _ in zone_spans[1:]]
        changes += [datetime(random.randint(2020, 2028), 12, 31, tzinfo=UTC)]
        changes += [datetime(random.randint(2020, 2029), month, 1, tzinfo=UTC) for month in (2, 7)]
        for change, reset_hour in product(changes, range(24)):
            configuration = configured(name, reset_hour)
            days = [change.date() + timedelta(days=n) for n in (-2, -1, 0, 1, 2)]
            turns = [turn(zone_spans, day, reset_hour) for day in days]
            assert [
                rules.next_reset(configuration, day - timedelta(days=1)) for day in days
            ] == turns
            assert turns == sorted(turns)
            instants = {change, change - second, *turns, *(at - second for at in turns[1:])}
            for now in sorted(at for at in instants if turns[0] <= at < turns[-1]):
                day = rules.viewing_day(configuration, now)
                assert day == days[bisect_right(turns, now) - 1], (name, reset_hour, now)


def test_viewing_days_follow_each_other_through_a_whole_year() -> None:
    """Without a gap, an overlap or a step back."""
    for name in ("Pacific/Chatham", "Africa/Casablanca", "Australia/Lord_Howe", "America/Havana"):
        for reset_hour in (0, 2, 3, 23):
            configuration = configured(name, reset_hour)
            now = utc("2026-01-01 00:00")
            day = rules.viewing_day(configuration, now)
            for _ in range(365):
                reset_at = rules.next_reset(configuration, day)
                assert now < reset_at <= now + timedelta(hours=26)
                assert rules.viewing_day(configuration, reset_at - timedelta(seconds=1)) == day
                assert rules.viewing_day(configuration, reset_at) == day + timedelta(days=1)
                day, now = day + timedelta(days=1), reset_at


def test_number_of_cached_days_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_DAYS", 3)
    for number in range(10):
        day = rules.viewing_day(configured(f"Mars/{number}", 6), utc("2026-11-24 06:00"))
        assert day == date(2026, 11, 24)
        assert len(rules._DAYS) <= 3


def test_the_weekend_limit_follows_the_viewing_day() -> None:
    configuration = configured("UTC", 6)
    policy = stored_policy(configuration)
    saturday_night = rules.viewing_day(configuration, utc("2026-11-23 05:00"))
    assert saturday_night == date(2026, 11, 22)
    assert limit_minutes(policy, saturday_night) == 180
    monday = rules.viewing_day(configuration, utc("2026-11-23 06:00"))
    assert limit_minutes(policy, monday) == 120
    assert limit_minutes(policy, date(2026, 11, 21)) == 180


def test_only_zones_of_the_list_are_zones() -> None:
    machine = {"localtime", "posixrules", "posix/UTC", "right/UTC", "tzdata.zi", "leapseconds"}
    assert not {name for name in machine if rules.zone(name)}
    assert {name for name in rules._zone_names() if rules.zone(name) is None} == set()
    assert {"UTC", "Europe/Kyiv", "Europe/Kiev", "US/Pacific", "EST"} <= rules._zone_names()


def test_a_link_among_the_zone_files_is_not_a_zone(tmp_path: Path) -> None:
    (tmp_path / "Home").write_bytes((files("tzdata") / "zoneinfo/Europe/Berlin").read_bytes())
    zoneinfo.reset_tzpath([tmp_path])
    try:
        assert ZoneInfo("Home").key == "Home"
        assert rules.zone("Home") is None
    finally:
        zoneinfo.reset_tzpath()


def test_a_zone_whose_file_cannot_be_read_is_not_a_zone(tmp_path: Path) -> None:
    (tmp_path / "Antarctica").mkdir()
    (tmp_path / "Antarctica" / "Vostok").write_bytes(b"not a zone file")
    rules.zone.cache_clear()
    zoneinfo.reset_tzpath([tmp_path])
    ZoneInfo.clear_cache()
    try:
        assert rules.zone("Antarctica/Vostok") is None
    finally:
        zoneinfo.reset_tzpath()
        ZoneInfo.clear_cache()
        rules.zone.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        *("", "'UTC'", "Mars/Base", "../UTC", "/etc/passwd", "/etc/localtime", "a" * 300, "a\0b"),
        *("utc", "EUROPE/BERLIN", "Europe", "Europe/", "Europe/Berlin ", "Etc/../UTC", "./UTC"),
        *("Europe//Berlin", "Ünited", "\udcff", "zone.tab", "zones", "__init__.py"),
    ],
)
def test_other_names_are_not_zones(name: str) -> None:
    assert rules.zone(name) is None
