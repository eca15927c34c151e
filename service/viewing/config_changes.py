"""A change of a configuration: answered when every live instance has forgotten what was before.

An instance is live while its listening connection is, which carries the instance's id in its
`application_name`. The statement that changes something returns the ids of these connections; each
instance acknowledges the change with a notification of its own, after it has forgotten the entry.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Final
from uuid import uuid4
from weakref import WeakValueDictionary

import msgspec

from service.database.driver import Connection
from service.database.statement import Statement
from service.errors import DatabaseError
from service.observing.supervision import stopped, supervised

logger = logging.getLogger("viewing_time.config_changes")

HEARD_CHANNEL: Final = "viewing_config_heard"
LISTENER: Final = "viewing-time listener "  # and the id; the statements look for it
MAX_WAIT_SECONDS: Final = 0.25
MAX_ACKNOWLEDGED: Final = 100  # in one notification, of 8,000 bytes at most


class NameRow(msgspec.Struct, frozen=True):
    name: str


class HeardRow(msgspec.Struct, frozen=True):
    told: str


NAME: Final = Statement("config_listener", NameRow)
HEARD: Final = Statement("config_heard", HeardRow)


class Change:
    """One change under way; `origin` goes into its notification."""

    def __init__(self, origin: str, nonce: str) -> None:
        self.origin = f"{origin}.{nonce}"
        self._here = origin
        self._heard: set[str] = set()
        self._news = asyncio.Event()

    def acknowledged(self, instance: str) -> None:
        self._heard.add(instance)
        self._news.set()

    async def heard(self, instances: Iterable[str], *, is_forgotten_here: bool = True) -> None:
        """Returns when all `instances` have acknowledged, at the latest after 250 ms."""
        missing = set(instances) - self._heard - ({self._here} if is_forgotten_here else set())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                while missing:
                    await self._news.wait()
                    self._news.clear()
                    missing -= self._heard
        if missing:
            fields = {"instances": len(missing), "waited_seconds": MAX_WAIT_SECONDS}
            logger.warning("config_change_not_acknowledged", extra={"fields": fields})


class Changes:
    """The changes that this instance makes, and those of others that it acknowledges."""

    def __init__(self) -> None:
        self.origin = uuid4().hex
        # One statement at a time on the listening connection.
        self.speaking = asyncio.Lock()
        self._under_way: WeakValueDictionary[str, Change] = WeakValueDictionary()
        self._heard: list[str] = []
        self._acknowledging: asyncio.Task[None] | None = None

    def begin(self) -> Change:
        """A change that is about to be made here."""
        nonce = uuid4().hex
        change = self._under_way[nonce] = Change(self.origin, nonce)
        return change

    async def name(self, connection: Connection) -> None:
        """Has the listening connection show whose it is: from now on it is waited for.

        A pooler would show that name on connections that others use, so it gets none.
        """
        await NAME.maybe(connection, LISTENER + self.origin)

    async def stop(self) -> None:
        await stopped(self._acknowledging)

    def acknowledge(self, connection: Connection, instance: str, nonce: str) -> None:
        """Reports on the listening connection that a change was heard; returns at once."""
        if instance == self.origin:
            self.acknowledged(f"{nonce} {instance}")
            return
        self._heard.append(nonce)
        if self._acknowledging is None or self._acknowledging.done():
            self._acknowledging = supervised(
                "configuration acknowledgements", self._acknowledge(connection)
            )

    def acknowledged(self, *notification: object) -> None:
        """Takes an acknowledgement: `nonce,nonce instance`."""
        nonces, _, instance = str(notification[-1]).partition(" ")
        for nonce in nonces.split(","):
            if change := self._under_way.get(nonce):
                change.acknowledged(instance)

    async def _acknowledge(self, connection: Connection) -> None:
        """Sends what is to be acknowledged; a lost connection is the listener's to find out."""
        while self._heard:
            nonces, self._heard = self._heard[:MAX_ACKNOWLEDGED], self._heard[MAX_ACKNOWLEDGED:]
            try:
                async with self.speaking:
                    await HEARD.maybe(connection, f"{','.join(nonces)} {self.origin}")
            except DatabaseError as error:
                self._heard.clear()
                fields = {"error": f"{type(error).__name__}: {error}"}
                logger.warning("config_change_unacknowledged", extra={"fields": fields})
