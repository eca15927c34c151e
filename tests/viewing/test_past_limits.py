"""The limit of a past day is the one that was in force on it."""

from datetime import date, timedelta

import msgspec
import pytest

from service.viewing import rules
from service.viewing.decision import PastDay
from service.viewing.past_limits import limit_in_force
from service.viewing.policy import UNLIMITED, Policy, stored_policy
from service.viewing.rules import Configuration

MONDAY = date(2026, 11, 23)
TUESDAY = MONDAY + timedelta(days=1)
CONFIGURATION = Configuration(120, 180, 6, True, "Europe/Berlin")


def policy(**schedule: object) -> Policy:
    """The policy with a schedule and with an exception on Tuesday."""
    exceptions = [["2026-11-24", True, 240, False]]
    stored = msgspec.json.encode({"schedule": schedule, "exceptions": exceptions})
    return stored_policy(CONFIGURATION, stored.decode())


def limit(policy: Policy, day: date, *balances: PastDay) -> int | None:
    """The limit in minutes."""
    seconds = limit_in_force(policy, day, {balance.day: balance for balance in balances})
    return None if seconds is None else seconds // 60


@pytest.mark.parametrize(
    ("day", "minutes"),
    [(MONDAY, 120), (TUESDAY, 240), (MONDAY + timedelta(2), 45), (MONDAY + timedelta(5), None)],
    ids=["weekday", "exception", "schedule", "schedule without a limit"],
)
def test_a_day_without_a_kept_limit_has_that_of_the_policy(day: date, minutes: int | None) -> None:
    assert limit(policy(daily_limits={"tue": 30, "wed": 45, "sat": None}), day) == minutes


@pytest.mark.parametrize(
    ("balance", "minutes"),
    [
        (PastDay(TUESDAY, 7200, False, 0, None), 240),
        (PastDay(TUESDAY, 7200, False, 0, 90), 90),
        (PastDay(TUESDAY, 7200, False, 0, UNLIMITED), None),
        (PastDay(TUESDAY, 7200, True, 0, 90), None),
        (PastDay(TUESDAY, 7200, False, 30, 90), 120),
        (PastDay(TUESDAY, 7200, False, 30, None), 270),
    ],
    ids=["not kept", "kept", "kept unlimited", "lifted", "extended", "extended, not kept"],
)
def test_the_limit_that_was_kept_with_the_balance_is_in_force(
    balance: PastDay, minutes: int | None
) -> None:
    assert limit(policy(), TUESDAY, balance) == minutes


def test_minutes_rolled_over_belong_to_the_limit_of_the_day() -> None:
    rolling = policy(rollover_max_minutes=60)
    used = PastDay(MONDAY, 60 * 85, False, 0, None)
    assert limit(rolling, TUESDAY, used) == 240 + 35
    assert limit(rolling, TUESDAY, used, PastDay(TUESDAY, 0, False, 0, 60)) == 60 + 35
    assert limit(rolling, TUESDAY) == 240 + 60
    assert limit(rolling, MONDAY, PastDay(MONDAY - timedelta(1), 0, False, 0, None)) == 120
    assert limit(policy(), TUESDAY, used) == 240


def test_defaults_apply_without_a_policy() -> None:
    assert limit(stored_policy(rules.DEFAULTS), MONDAY) == 120
