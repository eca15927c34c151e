"""The configurations in memory: loaded once at a time, forgotten when a parent changes them.

Kept by account and profile together, so a stranger's request never meets the owner's entry.
A change made here is forgotten here right after its commit; one made by another instance is heard
of through LISTEN, on a connection of its own; the TTL is the last resort.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import msgspec
from async_lru import alru_cache

from service import rules
from service.database import UNAVAILABLE, Connection, Pool, Statement, connect
from service.errors import ClientFault
from service.metrics import Metrics
from service.rules import Configuration
from service.settings import Settings

logger = logging.getLogger("viewing_time.config_cache")

CHANNEL: Final = "viewing_config_changed"
EVERYTHING: Final = "everything"
RECONNECT_SECONDS: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)


class ConfigurationRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_child: bool
    has_configuration: bool
    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    reset_hour: int | None
    educational_exempt: bool | None
    timezone: str | None
    updated_at: datetime | None


LOAD: Final = Statement("viewing_config_load", ConfigurationRow)


class Known(msgspec.Struct, frozen=True):
    """What the cache holds of a profile."""

    is_child: bool
    configuration: Configuration


class ConfigCache:
    """Configurations by account and profile; at most `config_cache_max_size`, oldest use first out.

    Single-flight: callers that miss together share one statement. A load in flight while its entry
    is forgotten gives its value to those who already wait and is not kept, so nothing stale comes
    back. Failures are not kept.
    """

    def __init__(
        self, settings: Settings, pool: Pool, metrics: Metrics, now: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._metrics = metrics
        self._now = now
        self.origin = uuid4().hex
        # Clearing the cache also clears its own counts.
        self._past_hits = self._past_misses = 0
        self._bad_zones: set[str] = set()
        self._listener: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        cached = alru_cache(
            maxsize=settings.config_cache_max_size,
            ttl=settings.config_cache_ttl_seconds,
            key=lambda account_id, profile_id: (account_id.int, profile_id.int),
        )
        self._cached = cached(self._load)
        self.get: Callable[[UUID, UUID], Awaitable[Known]] = self._cached

    async def start(self) -> None:
        """Starts to listen for changes made elsewhere."""
        connection = await self._listen()
        self._listener = asyncio.create_task(self._keep_listening(connection))

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    def listen_elsewhere(self) -> None:
        """Looks for the server that takes writes now, and forgets what was heard from the other."""
        if self._connection is not None:
            self._connection.terminate()

    def forget(self, account_id: UUID, profile_id: UUID, cause: str) -> None:
        """Drops one configuration, after the change that made it old has been committed."""
        self._cached.cache_invalidate(account_id, profile_id)
        self._metrics.invalidations[cause] += 1
        fields = {"profile_id": str(profile_id), "cause": cause}
        logger.info("config_cache_invalidated", extra={"fields": fields})

    def clear(self, cause: str) -> None:
        """Drops everything, when changes may have been missed."""
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

    async def _load(self, account_id: UUID, profile_id: UUID) -> Known:
        """Loads one configuration, storing a child's defaults where it has none.

        Raises ClientFault 401 or 403 like every statement that acts for an account.
        """
        defaults = msgspec.structs.astuple(rules.DEFAULTS)
        self._metrics.heartbeat_statements += 1
        row = await LOAD.maybe(self._pool, account_id, profile_id, False, *defaults, self._now())
        if row is None or not row.is_active:
            raise ClientFault(401, "User not found or inactive")
        if not row.is_owner:
            raise ClientFault(403, "Profile not found or access denied")
        return Known(row.is_child, self.configuration(profile_id, row))

    def configuration(self, profile_id: UUID, row: ConfigurationRow) -> Configuration:
        """The configuration in a row, or the defaults for a profile that has none."""
        if row.reset_hour is None or row.educational_exempt is None or row.timezone is None:
            return rules.DEFAULTS
        if rules.zone(row.timezone) is None and row.timezone not in self._bad_zones:
            self._bad_zones.add(row.timezone)
            fields = {"profile_id": str(profile_id), "timezone": row.timezone}
            logger.warning("timezone_unknown_counts_as_utc", extra={"fields": fields})
        return Configuration(
            row.weekday_limit_minutes,
            row.weekend_limit_minutes,
            row.reset_hour,
            row.educational_exempt,
            row.timezone,
        )

    async def _listen(self) -> Connection:
        connection = await connect(self._settings, direct=True)
        await connection.add_listener(CHANNEL, self._heard)
        self._connection = connection
        return connection

    def _heard(self, *notification: object) -> None:
        """Forgets what a notification names: `origin account profile`, or `origin everything`."""
        origin, _, changed = str(notification[-1]).partition(" ")
        if changed == EVERYTHING:
            self.clear("much changed at once")
        elif origin != self.origin:
            try:
                account_id, profile_id = changed.split(" ")
                self.forget(UUID(account_id), UUID(profile_id), "changed elsewhere")
            except ValueError:
                self.clear("notification not understood")

    async def _keep_listening(self, connection: Connection) -> None:
        """Listens for life: when the connection goes, so does the cache, until one is back."""
        while True:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _, lost=lost: lost.set())
            try:
                if not connection.is_closed():
                    await lost.wait()
            finally:
                connection.terminate()
            self.clear("listening connection lost")
            connection = await self._listen_again()
            self.clear("listening again")

    async def _listen_again(self) -> Connection:
        tries = 0
        while True:
            await asyncio.sleep(RECONNECT_SECONDS[min(tries, len(RECONNECT_SECONDS) - 1)])
            tries += 1
            try:
                return await self._listen()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                fields = {"error": str(error), "tries": tries}
                logger.warning("listening_connection_refused", extra={"fields": fields})
