"""The configurations in memory: loaded once at a time, forgotten when a parent changes them.

Kept by account and profile together, so a stranger's request never meets the owner's entry.
A change made here is forgotten here right after its commit; every change arrives through LISTEN, on
a connection of its own, also one made here whose commit nobody could wait for, and is acknowledged.
While that connection is lost nothing is believed; the TTL is the fallback.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Any, Final
from uuid import UUID

import msgspec
from async_lru import alru_cache

from service.database.connector import is_pooled
from service.database.driver import Connection, Pool, translated
from service.database.pool import PING, connect
from service.errors import ACCOUNT_INACTIVE, PROFILE_DENIED, ClientError, DatabaseError
from service.observing.metrics import Metrics
from service.observing.supervision import stopped, supervised
from service.settings import Settings
from service.viewing import rules
from service.viewing.config_changes import HEARD_CHANNEL, Changes
from service.viewing.config_loader import ConfigLoader
from service.viewing.rules import Configuration
from service.viewing.shared_errors import without_frames

logger = logging.getLogger("viewing_time.config_cache")

CHANNEL: Final = "viewing_config_changed"
EVERYTHING: Final = "everything"
LOOK_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 2.0
RECONNECT_SECONDS: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)


class Known(msgspec.Struct):
    """What the cache holds of a profile, and since when (monotonic)."""

    is_child: bool
    configuration: Configuration
    since: float


class ConfigCache:
    """Configurations by account and profile; at most `config_cache_max_size`, oldest use first out.

    Single-flight: callers that miss one profile together share its load. A load in flight while its
    entry is forgotten gives its value to those who already wait and is not kept, so nothing stale
    comes back. Failures are not kept.

    An entry is believed for `config_cache_ttl_seconds`. In the second half of that time a heartbeat
    brings the configuration back with its own statement and the entry starts anew; an entry that
    was forgotten meanwhile is no longer in the cache, and starting it anew is without effect.
    """

    def __init__(
        self, settings: Settings, pool: Pool, metrics: Metrics, now: Callable[[], datetime]
    ) -> None:
        """`pool` is for loads alone."""
        self._settings = settings
        self._metrics = metrics
        self._loader = ConfigLoader(settings, pool, metrics, now)
        self.changes = Changes()
        # Clearing the cache also clears its own counts.
        self._past_hits = self._past_misses = 0
        self._bad_zones: set[str] = set()
        self._listener: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._life = settings.config_cache_ttl_seconds
        cached = alru_cache(
            maxsize=settings.config_cache_max_size,
            key=lambda account_id, profile_id, _=False: (account_id.int, profile_id.int),
        )
        self._cached = cached(self._load)

    async def get(self, account_id: UUID, profile_id: UUID, is_for_beat: bool = False) -> Known:
        """What is known of a profile; raises ClientError 401 or 403 for a stranger's."""
        begun = monotonic()
        try:
            known = await self._cached(account_id, profile_id, is_for_beat)
            if begun - known.since > self._life:
                self._cached.cache_invalidate(account_id, profile_id)
                known = await self._cached(account_id, profile_id, is_for_beat)
        except Exception as error:
            without_frames(error)  # those of the cache refer to the task that failed
            raise
        return known

    def is_ageing(self, known: Known) -> bool:
        """Whether an entry is in the second half of its life."""
        return monotonic() - known.since > self._life / 2

    def renew(self, profile_id: UUID, known: Known, configuration: Configuration) -> None:
        """Starts an entry anew with what a heartbeat brought back."""
        known.configuration = self._in_a_zone(profile_id, configuration)
        known.since = monotonic()

    async def start(self) -> None:
        """Starts to listen for changes made elsewhere."""
        connection = await self._listen()
        self._listener = supervised("configuration listener", self._keep_listening(connection))

    async def stop(self) -> None:
        await stopped(self._listener)
        await self._loader.stop()
        await self.changes.stop()

    def listen_elsewhere(self) -> None:
        """Looks for the server that takes writes now, and forgets what was heard from the other."""
        if self._connection is not None:
            self._connection.terminate()

    def drop(self, account_id: UUID, profile_id: UUID) -> None:
        """Forgets one configuration without a word."""
        self._cached.cache_invalidate(account_id, profile_id)

    def forget(self, account_id: UUID, profile_id: UUID, cause: str) -> None:
        """Drops one configuration, after the change that made it old has been committed."""
        self.drop(account_id, profile_id)
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

    async def _load(self, account_id: UUID, profile_id: UUID, is_for_beat: bool) -> Known:
        """Loads one configuration; raises what the loader raises, and ClientError 401 or 403."""
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
        return Known(row.is_child, self._in_a_zone(profile_id, configuration), since)

    def _in_a_zone(self, profile_id: UUID, configuration: Configuration) -> Configuration:
        """The same; says once of each zone that is none that it counts as UTC."""
        name = configuration.timezone
        if rules.zone(name) is None and name not in self._bad_zones:
            self._bad_zones.add(name)
            fields = {"profile_id": str(profile_id), "timezone": name}
            logger.warning("timezone_unknown_counts_as_utc", extra={"fields": fields})
        return configuration

    async def _listen(self) -> Connection:
        connection = await connect(self._settings, direct=True)
        try:
            # A notification may arrive while the last statement is still running.
            async with self.changes.speaking:
                with translated(connection):
                    await connection.add_listener(HEARD_CHANNEL, self.changes.acknowledged)
                    if not is_pooled(self._settings, direct=True):
                        await self.changes.name(connection)
                    await connection.add_listener(CHANNEL, self._heard)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        return connection

    def _heard(self, connection: Any, _pid: int, _channel: str, payload: object) -> None:
        """Takes a notification: `origin account profile`, or `origin everything`.

        Where the origin ends in `.nonce`, it waits for our acknowledgement.
        """
        origin, _, changed = str(payload).partition(" ")
        instance, _, nonce = origin.partition(".")
        self._forget_changed(changed, is_own=instance == self.changes.origin)
        if nonce:
            self.changes.acknowledge(connection, instance, nonce)

    def _forget_changed(self, changed: str, *, is_own: bool) -> None:
        if changed == EVERYTHING:
            self.clear("much changed at once")
            return
        try:
            account_id, profile_id = map(UUID, changed.split(" "))
        except ValueError:
            self.clear("notification not understood")
            return
        if is_own:
            self.drop(account_id, profile_id)  # counted and told by who made the change
        else:
            self.forget(account_id, profile_id, "changed elsewhere")

    async def _keep_listening(self, connection: Connection) -> None:
        """Listens for life: when the connection goes, so does the cache, until one is back."""
        while True:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _, lost=lost: lost.set())
            try:
                if not connection.is_closed():
                    await _until_lost(connection, lost, self.changes.speaking)
            finally:
                self._life = 0.0
                connection.terminate()
            self.clear("listening connection lost")
            connection = await self._listen_again()
            self._life = self._settings.config_cache_ttl_seconds
            self.clear("listening again")

    async def _listen_again(self) -> Connection:
        tries = 0
        while True:
            await asyncio.sleep(RECONNECT_SECONDS[min(tries, len(RECONNECT_SECONDS) - 1)])
            tries += 1
            try:
                return await self._listen()
            except DatabaseError as error:
                fields = {"error": str(error), "tries": tries}
                logger.warning("listening_connection_refused", extra={"fields": fields})


async def _until_lost(connection: Connection, lost: asyncio.Event, speaking: asyncio.Lock) -> None:
    """Returns when a connection is gone, also when a network has swallowed it without a word."""
    while True:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await lost.wait()
            return
        except TimeoutError:
            pass  # nothing has been heard of its end: is it still there?
        try:
            async with speaking:
                await PING.one(connection, timeout=ANSWER_SECONDS)
        except DatabaseError as error:
            fields = {"error": f"{type(error).__name__}: {error}"}
            logger.warning("listening_connection_silent", extra={"fields": fields})
            return
