"""The entries of the configuration cache: a bounded number, most of which survive a circular walk.

Players send heartbeats in turn, so the least recently used entry is the one that is needed next: an
LRU cache never hits once there are more profiles than it holds. This one replaces entries that are
not in use. While all of them are, new entries replace each other in an eighth of the places.
"""

from math import inf
from typing import Final

import msgspec

from service.viewing.policy import Policy

# A player sends a heartbeat every 30 seconds: an entry that two of them did not use may go.
IDLE_SECONDS: Final = 60.0
# Places in which one new entry looks for an entry that is not in use.
MAX_PROBES: Final = 2


class Entry(msgspec.Struct, gc=False):
    """The cached policy of a profile, when it was read, and when it was used (monotonic).

    `announced` and `reach` are hints of `announcements.py`.
    """

    profile: int
    account: int
    is_child: bool
    policy: Policy
    since: float
    used: float
    announced: int = 0
    reach: int | None = None


class Entries:
    """At most `max_size` entries by profile; every operation takes constant time.

    `evictions` counts the entries in use that others have replaced.
    """

    def __init__(self, max_size: int) -> None:
        self.evictions = 0
        self._max_size = max_size
        self._newest_places = max(1, max_size // 8)
        self._by_profile: dict[int, Entry] = {}
        self._places: list[Entry] = []
        self._next_probed = self._next_newest = -1
        self.get: Final = self._by_profile.get

    def __len__(self) -> int:
        return len(self._by_profile)

    def put(self, entry: Entry) -> Entry:
        """Stores an entry and returns the one that is kept: one of its profile becomes equal to it.

        An entry that was read later stays as it is.
        """
        if kept := self._by_profile.get(entry.profile):
            if kept.since < entry.since:
                if kept.policy != entry.policy:
                    kept.reach = None
                kept.account, kept.is_child = entry.account, entry.is_child
                kept.policy, kept.since = entry.policy, entry.since
                kept.used = entry.used
            return kept
        if len(self._places) < self._max_size:
            self._places.append(entry)
        else:
            place = self._replaceable(entry.used - IDLE_SECONDS)
            replaced = self._places[place]
            if self._by_profile.get(replaced.profile) is replaced:
                del self._by_profile[replaced.profile]
            self._places[place] = entry
        self._by_profile[entry.profile] = entry
        return entry

    def drop(self, profile: int) -> None:
        """Removes an entry; its place counts as not in use."""
        if entry := self._by_profile.pop(profile, None):
            entry.used = -inf

    def clear(self) -> None:
        self._by_profile.clear()
        self._places.clear()

    def _replaceable(self, used_before: float) -> int:
        """Returns a place that has not been used since `used_before`, else one of the newest."""
        for _ in range(MAX_PROBES):
            place = self._next_probed = (self._next_probed + 1) % self._max_size
            if self._places[place].used < used_before:
                return place
        self.evictions += 1
        self._next_newest = (self._next_newest + 1) % self._newest_places
        return self._max_size - 1 - self._next_newest
