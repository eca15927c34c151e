"""The entries of the configuration cache: bounded, and most of them survive a circular walk."""

from random import Random

import pytest

from service.viewing.config_entries import IDLE_SECONDS, Entries, Entry
from service.viewing.policy import stored_policy
from service.viewing.rules import DEFAULTS

POLICY = stored_policy(DEFAULTS)


def entry(profile: int, at: float = 0.0) -> Entry:
    return Entry(profile, 1, True, POLICY, at, at)


def hits(entries: Entries, profiles: list[int], at: float) -> int:
    """Uses profiles in this order, and stores those that are missing; returns the hits."""
    found = 0
    for profile in profiles:
        if kept := entries.get(profile):
            kept.used = at
            found += 1
        else:
            entries.put(entry(profile, at))
    return found


@pytest.mark.parametrize("times", [2, 10])
def test_most_entries_survive_a_circular_walk_longer_than_the_cache(times: int) -> None:
    entries = Entries(1000)
    walk = list(range(1000 * times))
    hits(entries, walk, 0.0)
    assert [hits(entries, walk, 30.0 * turn) for turn in range(1, 4)] == [875] * 3
    assert len(entries) == 1000


def test_random_order_hits_in_proportion_to_the_size() -> None:
    entries, random = Entries(1000), Random(1)
    hits(entries, random.choices(range(4000), k=20_000), 0.0)
    assert 2200 < hits(entries, random.choices(range(4000), k=10_000), 1.0) < 2800


def test_entries_out_of_use_make_way_for_new_ones() -> None:
    entries = Entries(1000)
    hits(entries, list(range(1000)), 0.0)
    evening = list(range(5000, 6000))
    hits(entries, evening, IDLE_SECONDS + 1)
    assert hits(entries, evening, IDLE_SECONDS + 31) == 1000
    assert entries.evictions == 0


def test_evictions_of_entries_in_use_are_counted() -> None:
    entries = Entries(8)
    hits(entries, list(range(10)), 0.0)
    assert entries.evictions == 2
    assert len(entries) == 8


def test_a_dropped_entry_leaves_its_place() -> None:
    entries = Entries(8)
    hits(entries, list(range(8)), 0.0)
    entries.drop(1)
    entries.drop(99)
    assert entries.get(1) is None
    assert len(entries) == 7
    assert hits(entries, [1, 1, 1], 0.0) == 2
    assert [entries.get(profile) is not None for profile in range(8)] == [True] * 8
    assert (len(entries), entries.evictions) == (8, 0)


def test_a_newer_entry_of_a_profile_takes_no_second_place() -> None:
    entries = Entries(4)
    first = entries.put(entry(1))
    assert entries.put(Entry(1, 2, False, POLICY, 5.0, 6.0)) is first
    assert (first.account, first.is_child, first.since, first.used) == (2, False, 5.0, 6.0)
    hits(entries, [2, 3, 4], 0.0)
    assert (len(entries), entries.evictions) == (4, 0)


def test_random_use_never_exceeds_the_bound() -> None:
    entries, random = Entries(7), Random(2)
    for number in range(5000):
        profile = random.randrange(20)
        if random.random() < 0.2:
            entries.drop(profile)
        elif random.random() < 0.002:
            entries.clear()
        else:
            hits(entries, [profile], 7.0 * number)
            kept = entries.get(profile)
            assert kept is not None
            assert kept.profile == profile
        assert len(entries) <= 7
