"""Verified access tokens in memory, so that the token of a player is verified once.

Players send heartbeats in turn, so the least recently used token is the one that is needed next: an
LRU cache never hits once there are more players than it holds. In this one most tokens stay, and
new ones replace each other in an eighth of the places.
"""

from collections.abc import Set
from typing import Final
from uuid import UUID

import msgspec

from service.credentials.jwks import Jwk

# Places in which a new token looks for an expired one.
MAX_PROBES: Final = 8
# One in this many of the new tokens gets a lasting place, for when other players watch.
LASTING: Final = 32


class Verified(msgspec.Struct, frozen=True, gc=False):
    """An accepted access token; `expires` in epoch seconds, `signer` is None for a secret."""

    account_id: UUID
    expires: float
    signer: Jwk | None


class Tokens:
    """At most `max_size` verified tokens; `get` also returns a token that has expired since.

    `evictions` counts the valid tokens that others have replaced.
    """

    def __init__(self, max_size: int) -> None:
        self.evictions = 0
        self._max_size = max_size
        self._newest_places = max(1, max_size // 8)
        self._verified: dict[str, Verified] = {}
        self._places: list[str] = []
        self._probed = 0
        self.get: Final = self._verified.get

    def __len__(self) -> int:
        return len(self._places)

    def add(self, token: str, verified: Verified, now: float) -> None:
        """Keeps a token that is valid `now` (epoch seconds); another one leaves a full cache."""
        if token not in self._verified:
            if len(self._places) < self._max_size:
                self._places.append(token)
            else:
                place = self._replaceable(now)
                del self._verified[self._places[place]]
                self._places[place] = token
        self._verified[token] = verified

    def _replaceable(self, now: float) -> int:
        """The place of an expired token, else one of the newest."""
        places = self._places
        for _ in range(MAX_PROBES):
            self._probed = (self._probed + 1) % self._max_size
            if self._verified[places[self._probed]].expires <= now:
                return self._probed
        self.evictions += 1
        newest = self._max_size - 1 - self.evictions % self._newest_places
        if self.evictions % LASTING == 0:
            lasting = self.evictions // LASTING % self._max_size
            places[newest], places[lasting] = places[lasting], places[newest]
        return newest

    def withdraw(self, signers: Set[Jwk]) -> None:
        """Drops the tokens that these keys have signed."""
        for token in [t for t in self._places if self._verified[t].signer in signers]:
            del self._verified[token]
        self._places = [*self._verified]
