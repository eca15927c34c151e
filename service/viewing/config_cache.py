"""Policies in memory: loaded once at a time, dropped when a parent changes them.

The key is the account with the profile, so a stranger's request never finds the owner's entry. An
instance drops the entry right after the commit of its own change. Every change also arrives as a
notification, even if its request ended before the commit. The time to live is the fallback.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from uuid import UUID

import msgspec
from async_lru import alru_cache

from service.database.driver import Pool
from service.errors import ACCOUNT_INACTIVE, PROFILE_DENIED, ClientError, DatabaseError, Overloaded
from service.observing.metrics import Metrics
from service.settings import Settings
from service.viewing import rules
from service.viewing.config_changes import Changes
from service.viewing.config_loader import ConfigLoader
from service.viewing.policy import Policy, stored_policy, unreadable_policy
from service.viewing.rules import Configuration
from service.viewing.shared_errors import without_frames

logger = logging.getLogger("viewing_time.config_cache")


class Entry(msgspec.Struct):
    """The cached policy of a profile, and when it was read (monotonic)."""

    is_child: bool
    policy: Policy
    since: float


class ConfigCache:
    """An LRU cache of policies by account and profile, with single-flight loads.

    Concurrent misses of one profile share a load. If the entry is dropped during the load, the
    callers that already wait get the value, and it is not cached. Errors are not cached.

    An entry is valid for `config_cache_ttl_seconds`. In the second half of that time a heartbeat
    reads the policy with its own statement and renews the entry. Renewing an entry that has
    been dropped meanwhile has no effect.
    """

    def __init__(
        self, settings: Settings, pool: Pool, metrics: Metrics, now: Callable[[], datetime]
    ) -> None:
        """`pool` is used for loads only."""
        self._metrics = metrics
        self._loader = ConfigLoader(settings, pool, metrics, now)
        self.changes = Changes(settings, self)
        # Clearing the cache also clears its own counts.
        self._past_hits = self._past_misses = 0
        self._bad_zones: set[str] = set()
        self._bad_policies: set[UUID] = set()
        self._ttl_seconds = self._life_seconds = settings.config_cache_ttl_seconds
        cached = alru_cache(
            maxsize=settings.config_cache_max_size,
            key=lambda account_id, profile_id, _=False: (account_id.int, profile_id.int),
        )
        self._cached = cached(self._load)

    async def start(self) -> None:
        await self.changes.start()

    async def stop(self) -> None:
        await self.changes.stop()
        await self._loader.stop()

    async def get(self, account_id: UUID, profile_id: UUID, is_for_beat: bool = False) -> Entry:
        """Returns the entry of a profile; raises ClientError 401 or 403 for a stranger's."""
        started_at = monotonic()
        try:
            entry = await self._cached(account_id, profile_id, is_for_beat)
            if started_at - entry.since > self._life_seconds:
                self.drop(account_id, profile_id)
                entry = await self._cached(account_id, profile_id, is_for_beat)
        except (ClientError, DatabaseError, Overloaded) as error:
            without_frames(error)  # the frames of the cache refer to the task that failed
            raise
        return entry

    def is_ageing(self, entry: Entry) -> bool:
        """Whether an entry is in the second half of its life."""
        return monotonic() - entry.since > self._life_seconds / 2

    def renew(
        self, profile_id: UUID, entry: Entry, configuration: Configuration, stored: str | None
    ) -> None:
        """Renews an entry with the policy that a heartbeat has read."""
        entry.policy = self._policy(profile_id, configuration, stored)
        entry.since = monotonic()

    def trust(self, is_listening: bool) -> None:
        """Sets the life of entries: their time to live while changes are received, else 0."""
        self._life_seconds = self._ttl_seconds if is_listening else 0.0

    def drop(self, account_id: UUID, profile_id: UUID) -> None:
        """Drops one entry, without a count or a log line."""
        self._cached.cache_invalidate(account_id, profile_id)

    def forget(self, account_id: UUID, profile_id: UUID, cause: str) -> None:
        """Drops one entry after the commit that changed it."""
        self.drop(account_id, profile_id)
        self._metrics.invalidations[cause] += 1
        fields = {"profile_id": str(profile_id), "cause": cause}
        logger.info("config_cache_invalidated", extra={"fields": fields})

    def clear(self, cause: str) -> None:
        """Drops every entry, because changes may have been missed."""
        self._past_hits, self._past_misses = self.hits, self.misses
        self._cached.cache_clear()
        self._metrics.invalidations[cause] += 1
        logger.info("config_cache_cleared", extra={"fields": {"cause": cause}})

    @property
    def hits(self) -> int:
        return self._past_hits + self._cached.cache_info().hits

    @property
    def misses(self) -> int:
        return self._past_misses + self._cached.cache_info().misses

    @property
    def size(self) -> int:
        return self._cached.cache_info().currsize

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
        return Entry(row.is_child, policy, since)

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
