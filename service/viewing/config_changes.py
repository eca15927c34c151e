"""Cache invalidation between instances: NOTIFY, LISTEN and acknowledgements.

A statement that changes a configuration notifies CHANNEL and returns the ids of the instances that
listen. Each instance drops the entry and then acknowledges the change. The request that made the
change is answered after the acknowledgements, or after 250 ms.

An instance listens while its listening connection is open, whose `application_name` has its id. A
notification reaches the node that runs the statement, so with Citus it listens on every node.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import msgspec

from service.database.connector import is_pooled
from service.database.driver import Connection, translated
from service.database.pool import connect, takes_writes
from service.database.statement import Statement
from service.database_errors import DatabaseError
from service.observing.supervision import stopped, supervised
from service.settings import Settings
from service.viewing import config_nodes

if TYPE_CHECKING:
    from service.viewing.config_cache import ConfigCache

logger = logging.getLogger("viewing_time.config_changes")

# The payload is `origin account profile` or `origin everything`, where `origin` is an instance or
# `instance.nonce`; a nonce requests an acknowledgement. The statements write the payload.
CHANNEL: Final = "viewing_config_changed"
EVERYTHING: Final = "everything"
# The payload is `nonce,nonce instance`.
ACKNOWLEDGEMENT_CHANNEL: Final = "viewing_config_heard"
LISTENER: Final = "viewing-time listener "  # followed by the id; the statements search for it
MAX_WAIT_SECONDS: Final = 0.25
MAX_ACKNOWLEDGED: Final = 100  # in one notification, of 8,000 bytes at most
PING_INTERVAL_SECONDS: Final = 5.0
PING_TIMEOUT_SECONDS: Final = 2.0
RECONNECT_SECONDS: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)


class NameRow(msgspec.Struct, frozen=True):
    name: str


class NotifiedRow(msgspec.Struct, frozen=True):
    notified: str


NAME: Final = Statement("config_listener", NameRow)
ACKNOWLEDGE: Final = Statement("config_acknowledge", NotifiedRow)


class Change:
    """One change that this instance makes; `origin` is the first word of its notification."""

    def __init__(self, instance: str, nonce: str) -> None:
        self.origin = f"{instance}.{nonce}"
        self.acknowledged: set[str] = set()
        self._own_instance = instance
        self._has_acknowledgement = asyncio.Event()

    def acknowledge(self, instance: str) -> None:
        self.acknowledged.add(instance)
        self._has_acknowledgement.set()

    async def wait_for(self, instances: Iterable[str], *, is_forgotten_here: bool = True) -> None:
        """Returns when all `instances` have acknowledged, or after MAX_WAIT_SECONDS."""
        missing = set(instances) - self.acknowledged
        if is_forgotten_here:
            missing.discard(self._own_instance)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                while missing:
                    await self._has_acknowledgement.wait()
                    self._has_acknowledgement.clear()
                    missing -= self.acknowledged
        if missing:
            fields = {"instances": len(missing), "waited_seconds": MAX_WAIT_SECONDS}
            logger.warning("config_change_not_acknowledged", extra={"fields": fields})


class Changes:
    """Makes changes, receives those of all instances, and acknowledges them."""

    def __init__(self, settings: Settings, cache: "ConfigCache") -> None:
        self.instance = uuid4().hex
        self.connection: Connection | None = None
        self._settings = settings
        self._cache = cache
        # One statement at a time on the listening connection.
        self.lock = asyncio.Lock()
        self._under_way: WeakValueDictionary[str, Change] = WeakValueDictionary()
        self._unacknowledged: list[str] = []
        self.acknowledging: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._listening_elsewhere: asyncio.Task[None] | None = None

    async def start(self, *, is_up: bool) -> None:
        """Listens, and keeps listening; if the database is not up, as soon as it is."""
        connection = await self.listen() if is_up else None
        self._cache.trust(is_up)
        self._listening = supervised("configuration listener", self._keep_listening(connection))
        if self._settings.cells_citus_url:
            listening = config_nodes.listen(self._settings, self, self._cache.clear)
            self._listening_elsewhere = supervised("listener on other nodes", listening)

    async def stop(self) -> None:
        await stopped(self._listening, self._listening_elsewhere, self.acknowledging)

    def begin(self) -> Change:
        """Registers a change before its statement runs."""
        nonce = uuid4().hex
        change = self._under_way[nonce] = Change(self.instance, nonce)
        return change

    def reconnect(self) -> None:
        """Connects to the new primary after a failover; until then the cache is not trusted."""
        if self.connection is not None:
            self.connection.terminate()

    async def listen(self) -> Connection:
        """Opens a connection and listens on it."""
        connection = await connect(self._settings, direct=True)
        try:
            # A notification may arrive while the last statement is still running.
            async with self.lock:
                await self.subscribe(connection)
        except BaseException:
            connection.terminate()
            raise
        self.connection = connection
        return connection

    async def subscribe(self, connection: Connection) -> None:
        """Listens on a connection, under the name by which statements find it."""
        with translated(connection):
            await connection.add_listener(ACKNOWLEDGEMENT_CHANNEL, self.acknowledged)
            # Behind a pooler, the name would stay on a connection that others use.
            if not is_pooled(self._settings, direct=True):
                await NAME.maybe(connection, LISTENER + self.instance)
            await connection.add_listener(CHANNEL, self.changed)

    def changed(self, connection: Any, _pid: int, _channel: str, payload: object) -> None:
        """Receives a change: invalidates the cache, then acknowledges."""
        origin, _, entry = str(payload).partition(" ")
        instance, _, nonce = origin.partition(".")
        if entry == EVERYTHING:
            self._cache.clear("much changed at once")
        else:
            self._invalidate(entry, is_own=instance == self.instance)
        if not nonce:
            return
        if instance == self.instance:
            self.acknowledged(f"{nonce} {instance}")
            return
        self._unacknowledged.append(nonce)
        if self.acknowledging is None or self.acknowledging.done():
            self.acknowledging = supervised(
                "configuration acknowledgements", self._acknowledge(self.connection or connection)
            )

    def acknowledged(self, *notification: object) -> None:
        """Receives an acknowledgement."""
        nonces, _, instance = str(notification[-1]).partition(" ")
        for nonce in nonces.split(","):
            if change := self._under_way.get(nonce):
                change.acknowledge(instance)

    def _invalidate(self, entry: str, *, is_own: bool) -> None:
        try:
            account_id, profile_id = map(UUID, entry.split(" "))
        except ValueError:
            self._cache.clear("notification not understood")
            return
        if is_own:
            self._cache.drop(account_id, profile_id)  # its request counts and logs it
        else:
            self._cache.forget(account_id, profile_id, "changed elsewhere")

    async def _acknowledge(self, connection: Connection) -> None:
        """Sends the acknowledgements; `_keep_listening` detects a lost connection."""
        while nonces := self._unacknowledged[:MAX_ACKNOWLEDGED]:
            del self._unacknowledged[:MAX_ACKNOWLEDGED]
            try:
                async with self.lock:
                    await ACKNOWLEDGE.maybe(connection, f"{','.join(nonces)} {self.instance}")
            except DatabaseError as error:
                self._unacknowledged.clear()
                fields = {"error": f"{type(error).__name__}: {error}"}
                logger.warning("config_change_unacknowledged", extra={"fields": fields})

    async def _keep_listening(self, connection: "Connection | None") -> None:
        """Reconnects when the connection is lost; meanwhile the cache is not trusted."""
        while True:
            if connection is not None:
                await self._listen_until_lost(connection)
            connection = await self._listen_again()
            self._cache.trust(True)
            self._cache.clear("listening again")

    async def _listen_until_lost(self, connection: Connection) -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            if not connection.is_closed():
                await self.until_lost(connection, lost)
        finally:
            self._cache.trust(False)
            connection.terminate()
        self._cache.clear("listening connection lost")

    async def _listen_again(self) -> Connection:
        tries = 0
        while True:
            await asyncio.sleep(RECONNECT_SECONDS[min(tries, len(RECONNECT_SECONDS) - 1)])
            tries += 1
            try:
                return await self.listen()
            except DatabaseError as error:
                fields = {"error": str(error), "tries": tries}
                logger.warning("listening_connection_refused", extra={"fields": fields})

    async def until_lost(self, connection: Connection, lost: asyncio.Event) -> None:
        """Returns when a connection is closed, does not answer a ping, or the cell has moved."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_INTERVAL_SECONDS):
                    await lost.wait()
                return
            try:
                async with self.lock:
                    if not await takes_writes(self._settings, connection, PING_TIMEOUT_SECONDS):
                        return
            except DatabaseError as error:
                fields = {"error": f"{type(error).__name__}: {error}"}
                logger.warning("listening_connection_silent", extra={"fields": fields})
                return
