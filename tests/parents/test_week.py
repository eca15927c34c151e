"""The sums of a child's week."""

from datetime import date, timedelta
from uuid import uuid4

import pytest

from service.parents.week import Day, Week

MONDAY = date(2026, 11, 16)


def week(*days: tuple[int, int, int | None]) -> Week:
    """A week of days of seconds, educational seconds and limit in minutes."""
    dated = [
        Day(MONDAY + timedelta(n), seconds, educational, None if limit is None else 60 * limit)
        for n, (seconds, educational, limit) in enumerate(days)
    ]
    return Week(uuid4(), "Ada", dated, [])


def test_week_sums_its_days() -> None:
    some = week((600, 60, 120), (0, 0, 120), (1200, 1200, None))
    assert (some.counted_seconds, some.educational_seconds) == (1800, 1260)


@pytest.mark.parametrize(
    ("days", "percent"),
    [
        ([(3600, 0, 120), (3600, 0, 180)], 40.0),
        ([(3600, 0, 120), (3600, 0, None)], 100.0),
        ([(60, 0, 15), (0, 0, 480)], 0.2),
        ([(36_000, 0, 15)], 4000.0),
        ([(3600, 0, None), (3600, 0, None)], None),
    ],
)
def test_usage_is_viewing_in_percent_of_the_limits(
    days: list[tuple[int, int, int | None]], percent: float | None
) -> None:
    assert week(*days).limit_usage_percent == percent


def test_exempt_time_is_neither_counted_nor_in_the_usage() -> None:
    days = [Day(MONDAY, 3600, 1200, 3600, 1200), Day(MONDAY + timedelta(1), 600, 600, 3600, 600)]
    some = Week(uuid4(), "Ada", days, [])
    assert [day.counted_seconds for day in some.days] == [2400, 0]
    assert (some.counted_seconds, some.educational_seconds) == (2400, 1800)
    assert some.limit_usage_percent == 33.3


def test_usage_of_limited_days_leaves_out_the_others() -> None:
    some = week((3600, 0, 120), (36_000, 0, None))
    assert some.limit_usage_percent == 550.0
    assert some.usage_of_limited_days_percent == 50.0
    assert week((3600, 0, None)).usage_of_limited_days_percent is None
