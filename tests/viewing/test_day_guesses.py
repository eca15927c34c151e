"""The viewing days that a statement gets for heartbeats of uncached profiles."""

from datetime import UTC, date, datetime, timedelta

import pytest
from msgspec.structs import replace

from service.viewing import day_guesses, rules
from service.viewing.day_guesses import DayGuesses
from service.viewing.rules import DEFAULTS

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
TOKYO = replace(DEFAULTS, timezone="Asia/Tokyo", reset_hour=0)


def test_the_defaults_are_always_the_first_guess() -> None:
    assert DayGuesses().at(NOON) == (["UTC 6"], [date(2026, 11, 25)], [1795586400])


def test_the_pair_that_was_learnt_first_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day_guesses, "MAX_GUESSES", 3)
    guesses = DayGuesses()
    for hour in (0, 1, 2, 2, 3, 6):
        guesses.learn(replace(TOKYO, reset_hour=hour))
    assert guesses.at(NOON).keys == ["UTC 6", "Asia/Tokyo 3", "Asia/Tokyo 6"]


def test_a_new_pair_is_known_at_once() -> None:
    guesses = DayGuesses()
    guesses.at(NOON)
    guesses.learn(TOKYO)
    assert guesses.at(NOON).keys == ["UTC 6", "Asia/Tokyo 0"]


def test_each_guess_is_the_viewing_day_also_after_a_reset_and_when_the_clock_goes_back() -> None:
    guesses = DayGuesses()
    pairs = [DEFAULTS, TOKYO, replace(DEFAULTS, timezone="America/St_Johns", reset_hour=23)]
    for pair in pairs:
        guesses.learn(pair)
    for minutes in (*range(0, 2880, 7), *range(2880, 0, -31)):
        now = NOON + timedelta(minutes=minutes)
        days = [rules.current_day(pair, now) for pair in pairs]
        assert guesses.at(now)[1:] == ([d.day for d in days], [d.begin_seconds for d in days])
