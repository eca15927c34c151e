"""Policies in memory: loaded once at a time, dropped when a parent changes them.

An entry belongs to one account, so a stranger's request never finds it. An instance drops the entry
right after the commit of its own change. Every change also arrives as a notification, even if its
request ended before the commit. The time to live is the fallback.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from math import inf
from time import monotonic
from typing import Final
from uuid import UUID

import msgspec

from service.database.driver import Pool
from service.database_errors import DatabaseError
from service.errors import ACCOUNT_INACTIVE, PROFILE_DENIED, ClientError, Overloaded
from service.observing.metrics import Metrics
from service.settings import Settings
from service.viewing import rules
from service.viewing.config_changes import Changes
from service.viewing.config_entries import Entries, Entry
from service.viewing.config_loader import ConfigLoader
from service.viewing.policy import Policy, stored_policy, unreadable_policy
from service.viewing.recorded_row import Renewed
from service.viewing.rules import Configuration
from service.viewing.shared_errors import without_frames

logger = logging.getLogger("viewing_time.config_cache")

# Profiles whose latest drop is remembered; with more, all values that are being read count as old.
MAX_DROPPED: Final = 1024


class ConfigCache:
    """A cache of policies by profile, with single-flight loads.

    Concurrent misses of one profile share a load. If the entry is dropped during the load, the
    callers that already wait get the value, and it is not cached. Errors are not cached.

    An entry is valid for `config_cache_ttl_seconds`. In the second half of that time a heartbeat
    reads the policy with its own statement and renews the entry, and so does a heartbeat without an
    entry. What was read before its profile was dropped is not cached.
    """

    def __init__(
        self, settings: Settings, pool: Pool, metrics: Metrics, now: Callable[[], datetime]
    ) -> None:
        """`pool` is used for loads only."""
        self.hits = self.misses = 0
        self._metrics = metrics
        self._loader = ConfigLoader(settings, pool, metrics, now)
        self.changes = Changes(settings, self)
        self._bad_zones: set[str] = set()
        self._bad_policies: set[UUID] = set()
        self._ttl_seconds = self._life_seconds = settings.config_cache_ttl_seconds
        self._entries = Entries(settings.config_cache_max_size)
        # When profiles were dropped: what was read before that is not cached.
        self._dropped: dict[int, float] = {}
        self._all_dropped_at = -inf

    async def start(self, *, is_up: bool = True) -> None:
        """Listens for changes; if the database is not up, as soon as it is."""
        await self.changes.start(is_up=is_up)

    async def stop(self) -> None:
        await self.changes.stop()
        await self._loader.stop()

    def peek(self, account_id: UUID, profile_id: UUID) -> Entry | None:
        """Returns the entry of a profile, or None if there is no valid one of this account."""
        entry = self._entries.get(profile_id.int)
        if entry is None or entry.account != account_id.int:
            return None
        now = monotonic()
        if now - entry.since > self._life_seconds:
            return None
        entry.used = now
        self.hits += 1
        return entry

    async def get(self, account_id: UUID, profile_id: UUID, is_for_beat: bool = False) -> Entry:
        """Returns the entry of a profile; raises ClientError 401 or 403 for a stranger's."""
        if entry := self.peek(account_id, profile_id):
            return entry
        self.misses += 1
        try:
            return await self._load(account_id, profile_id, is_for_beat)
        except (ClientError, DatabaseError, Overloaded) as error:
            without_frames(error)  # other callers get the same error
            raise

    def is_ageing(self, entry: Entry) -> bool:
        """Whether an entry is in the second half of its life."""
        return monotonic() - entry.since > self._life_seconds / 2

    def adopt(self, account_id: UUID, profile_id: UUID, read: Renewed) -> Entry:
        """Returns an entry with the policy that a heartbeat has read.

        Caches it too, unless the profile has been dropped since the heartbeat was sent.
        """
        policy = self._policy(profile_id, read.configuration, read.stored)
        ids = (profile_id.int, account_id.int)
        entry = Entry(*ids, read.is_child, policy, read.sent_at, monotonic())
        self._put(entry)
        return entry

    def trust(self, is_listening: bool) -> None:
        """Sets the life of entries: their time to live while changes are received, else 0."""
        self._life_seconds = self._ttl_seconds if is_listening else 0.0

    def drop(self, account_id: UUID, profile_id: UUID) -> None:
        """Drops one entry, without a count or a log line."""
        self._loader.forget(account_id, profile_id)
        self._entries.drop(profile_id.int)
        if len(self._dropped) == MAX_DROPPED:
            self._drop_what_is_read()
        self._dropped[profile_id.int] = monotonic()

    def forget(self, account_id: UUID, profile_id: UUID, cause: str) -> None:
        """Drops one entry after the commit that changed it."""
        self.drop(account_id, profile_id)
        self._metrics.invalidations[cause] += 1
        fields = {"profile_id": str(profile_id), "cause": cause}
        logger.info("config_cache_invalidated", extra={"fields": fields})

    def clear(self, cause: str) -> None:
        """Drops every entry, because changes may have been missed."""
        self._loader.forget_all()
        self._entries.clear()
        self._drop_what_is_read()
        self._metrics.invalidations[cause] += 1
        logger.info("config_cache_cleared", extra={"fields": {"cause": cause}})

    @property
    def size(self) -> int:
        return len(self._entries)

    @property
    def evictions(self) -> int:
        """Entries in use that others have replaced."""
        return self._entries.evictions

    def _drop_what_is_read(self) -> None:
        """Nothing that has been read so far, or is being read, will be cached."""
        self._dropped.clear()
        self._all_dropped_at = monotonic()

    async def _load(self, account_id: UUID, profile_id: UUID, is_for_beat: bool) -> Entry:
        since = monotonic()
        row = await self._loader.load(account_id, profile_id, is_for_beat)
        if not row.is_active:
            raise ClientError(ACCOUNT_INACTIVE)
        if not row.is_owner:
            raise ClientError(PROFILE_DENIED)
        configuration = rules.stored_or_default(
            row.weekday_limit_minutes,
            row.weekend_limit_minutes,
            row.reset_hour,
            row.educational_exempt,
            row.timezone,
        )
        policy = self._policy(profile_id, configuration, row.policy)
        ids = (profile_id.int, account_id.int)
        return self._put(Entry(*ids, row.is_child, policy, since, monotonic()))

    def _put(self, entry: Entry) -> Entry:
        """Caches an entry, unless its profile has been dropped since it was read."""
        dropped_at = self._dropped.get(entry.profile, -inf)
        if entry.since <= max(dropped_at, self._all_dropped_at):
            return entry
        return self._entries.put(entry)

    def _policy(self, profile_id: UUID, configuration: Configuration, stored: str | None) -> Policy:
        """The policy that was read; a child whose stored rules are wrong is locked."""
        self._check_zone(profile_id, configuration)
        try:
            return stored_policy(configuration, stored)
        except msgspec.DecodeError as error:
            if profile_id not in self._bad_policies:
                self._bad_policies.add(profile_id)
                fields = {"profile_id": str(profile_id), "error": str(error)}
                logger.error("policy_unreadable_locks_profile", extra={"fields": fields})
            return unreadable_policy(configuration)

    def _check_zone(self, profile_id: UUID, configuration: Configuration) -> None:
        """Logs each unknown zone once, because it counts as UTC."""
        name = configuration.timezone
        if rules.zone(name) is None and name not in self._bad_zones:
            self._bad_zones.add(name)
            fields = {"profile_id": str(profile_id), "timezone": name}
            logger.warning("timezone_unknown_counts_as_utc", extra={"fields": fields})
