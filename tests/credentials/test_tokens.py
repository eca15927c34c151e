"""The cache of verified tokens: bounded, useful while it is too small, without withdrawn keys."""

from uuid import UUID

from service.credentials.jwks import Jwk
from service.credentials.tokens import Tokens, Verified

NOW = 1_000.0
VALID = Verified(UUID(int=1), NOW + 60, None)
EXPIRED = Verified(UUID(int=1), NOW, None)


def hits(tokens: Tokens, names: range) -> int:
    """Uses every token once; returns how many of them were in the cache."""
    found = 0
    for name in map(str, names):
        if tokens.get(name) is None:
            tokens.add(name, VALID, NOW)
        else:
            found += 1
    return found


def test_most_tokens_stay_when_more_are_used_in_turn_than_the_cache_holds() -> None:
    for used, least in ((1_001, 990), (1_500, 750), (2_000, 750), (10_000, 600)):
        tokens = Tokens(1_000)
        for _ in range(5):
            found = hits(tokens, range(used))
        assert found >= least, used
        assert len(tokens) == 1_000
        assert tokens.evictions > 0


def test_other_players_take_over_the_cache() -> None:
    tokens = Tokens(1_000)
    hits(tokens, range(1_000))
    for _ in range(100):
        found = hits(tokens, range(1_000, 2_000))
    assert found > 800


def test_a_new_token_is_found_again_at_once() -> None:
    for size in (1, 2, 3, 100):
        tokens = Tokens(size)
        for name in map(str, range(3 * size)):
            tokens.add(name, VALID, NOW)
            assert tokens.get(name) is VALID
            assert len(tokens) <= size


def test_expired_tokens_leave_before_valid_ones() -> None:
    tokens = Tokens(100)
    for number in range(100):
        tokens.add(f"old {number}", VALID if number % 2 else EXPIRED, NOW - 60)
    hits(tokens, range(50))
    assert tokens.evictions == 0
    assert hits(tokens, range(50)) == 50
    assert all(tokens.get(f"old {number}") for number in range(1, 100, 2))
    hits(tokens, range(50, 60))
    assert tokens.evictions == 10


def test_tokens_of_a_withdrawn_key_leave_and_make_room() -> None:
    first, second = Jwk("EC", "first"), Jwk("EC", "second")
    tokens = Tokens(3)
    for name, signer in (("a", first), ("b", second), ("c", None)):
        tokens.add(name, Verified(UUID(int=1), NOW + 60, signer), NOW)
    tokens.withdraw({first})
    assert [tokens.get(name) is None for name in "abc"] == [True, False, False]
    tokens.add("d", VALID, NOW)
    assert (len(tokens), tokens.evictions) == (3, 0)
