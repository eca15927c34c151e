"""Open streams: which clients follow the events of which account.

A stream has no connection to the database, no task and no timer for its comments. The outbox reads
new events once for all streams and adds them to those of their accounts, which write them at once.
A client that does not read in time loses its stream, so memory is bounded; it resumes later.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Final, Literal, Protocol, get_args
from uuid import UUID

import msgspec

from service.database_errors import Unavailable
from service.errors import TOO_MANY_STREAMS, ClientError
from service.events.event import EventRow, event
from service.observing.supervision import stopped, supervised

End = Literal[
    "client",
    "requested",
    "slow",
    "expired",
    "inactive",
    "unavailable",
    "restarted",
    "stopping",
]

MAX_STREAMS_PER_ACCOUNT: Final = 20
RETRY_SECONDS: Final = 60  # after too many
MAX_QUEUED: Final = 100  # new events while the client reads kept ones
COMMENT_SECONDS: Final = 15.0
TURNS: Final = 60  # streams take turns, so that their comments delay no heartbeat
ENDS_PER_SECOND: Final = 20_000
COMMENT: Final = b":\n\n"

_encode: Final = msgspec.json.Encoder().encode


def encoded(row: EventRow) -> bytes:
    """An event as a client receives it; its JSON contains no line break."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        str(row.event_id).encode(),
        row.type.encode(),
        _encode(event(row)),
    )


class Client(Protocol):
    """The connection to a client; `write` returns False if it has closed it."""

    def write(self, body: bytes) -> bool: ...

    def end(self) -> None: ...


class Stream:
    """The events of one account for one client, after the position `after`.

    Until it takes the client, new events wait in a queue. `end` is the reason why it has ended.
    """

    __slots__ = ("_client", "_expiry", "_queue", "_streams", "account_id", "after", "end", "turn")

    def __init__(self, streams: "Streams", account_id: UUID, after: int) -> None:
        self.account_id = account_id
        self.after = after
        self.end: End | None = None
        self.turn = 0
        self._streams = streams
        self._queue: list[bytes] | None = []
        self._client: Client | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def open(self, seconds: float, reason: End = "expired") -> int:
        """Opens it for `seconds` at most; events after the returned position will be added.

        Raises ClientError 429, Unavailable.
        """
        position = self._streams.enter(self)
        if isfinite(seconds):
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(seconds, self.finish, reason)
        return position

    def add(self, position: int, chunk: bytes) -> None:
        """Sends an event, except one that the client already has from another instance."""
        if position <= self.after or self.end:
            return
        if self._queue is None:
            self.write(chunk)
        elif len(self._queue) < MAX_QUEUED:
            self._queue.append(chunk)
        else:
            self.finish("slow")

    def write(self, chunk: bytes) -> None:
        if self._client is not None and not self._client.write(chunk):
            self.finish("slow")

    def take(self, client: Client) -> None:
        """Sends what has waited, and everything from now on."""
        self._client = client
        chunk, self._queue = b"".join(self._queue or ()), None
        if self.end:
            client.end()
        elif chunk:
            self.write(chunk)

    def client_left(self) -> None:
        self.finish("client")

    def finish(self, reason: End) -> None:
        """Ends the stream, unless it has ended."""
        if self.end:
            return
        self.end = reason
        self._streams.leave(self)
        if self._expiry is not None:
            self._expiry.cancel()
        if self._client is not None:
            self._client.end()


class Streams:
    """The open streams of this instance; they have got the events up to `position`."""

    def __init__(self) -> None:
        self.position: int | None = None  # None: not known yet
        self.ended = Counter[str](dict.fromkeys(get_args(End), 0))  # streams, by reason
        self._by_account: dict[UUID, list[Stream]] = {}
        self._opened = 0
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._by_account.values()))

    @property
    def accounts(self) -> list[UUID]:
        return [*self._by_account]

    def start(self) -> None:
        self._task = supervised("event streams", self._comment())

    async def stop(self) -> None:
        await stopped(self._task)

    def enter(self, stream: Stream) -> int:
        """Adds a stream and returns the position; raises ClientError 429, Unavailable.

        While the process is stopping, the stream ends at once: browsers come back after the end of
        a response, and do not after an error.
        """
        if self.position is None:
            raise Unavailable("the events have not been read yet")
        if len(self._by_account.get(stream.account_id, ())) >= MAX_STREAMS_PER_ACCOUNT:
            raise ClientError(TOO_MANY_STREAMS, {"Retry-After": str(RETRY_SECONDS)})
        self._by_account.setdefault(stream.account_id, []).append(stream)
        self._opened += 1
        stream.turn = self._opened % TURNS
        if self._is_stopping:
            stream.finish("stopping")
        return self.position

    def leave(self, stream: Stream) -> None:
        """Removes a stream that has ended."""
        self.ended[str(stream.end)] += 1
        streams = self._by_account[stream.account_id]
        streams.remove(stream)
        if not streams:
            del self._by_account[stream.account_id]

    def add(self, rows: Iterable[EventRow]) -> None:
        """Sends events, in the order of their positions."""
        for row in rows:
            if streams := self._by_account.get(row.account_id):
                chunk = encoded(row)
                for stream in [*streams]:
                    stream.add(row.position, chunk)
            self.position = row.position

    def restart(self, position: int) -> None:
        """Ends all streams; later ones get events after `position`.

        A failover may have lost positions, and given them to other events since. Clients resume by
        the ids of events.
        """
        self.position = position
        self._finish_all("restarted")

    def finish(self, account_id: UUID) -> None:
        """Ends the streams of an account that is not active any more."""
        for stream in [*self._by_account.get(account_id, ())]:
            stream.finish("inactive")

    def drain(self) -> None:
        """Ends all streams, and later ones as soon as they open."""
        self._is_stopping = True
        self._finish_all("stopping")

    def _finish_all(self, reason: End) -> None:
        """Ends the streams one by one, because many at once would delay heartbeats."""
        loop = asyncio.get_running_loop()
        for number, stream in enumerate(self._all()):
            loop.call_later(number / ENDS_PER_SECOND, stream.finish, reason)

    async def _comment(self) -> None:
        """Sends each stream a comment every COMMENT_SECONDS, so that proxies keep it open."""
        turn = 0
        while True:
            await asyncio.sleep(COMMENT_SECONDS / TURNS)
            turn = (turn + 1) % TURNS
            for stream in [each for each in self._all() if each.turn == turn]:
                stream.write(COMMENT)

    def _all(self) -> Iterator[Stream]:
        for streams in self._by_account.values():
            yield from streams
