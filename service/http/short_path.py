"""The short path of the most frequent request: no scope, no task, no message, one write.

A connection offers it whole requests to one path. The application answers those that it does not
take, those whose body is slow, and those that it has taken and cannot answer.
"""

import asyncio
import typing
from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.http.request_head import Head, HeadProtocol

Headers = Sequence[tuple[bytes, bytes]]
OK: Final = STATUS_LINE[200]
# Many clients send the body in a packet after the head; the application waits for a slower one.
BODY_WAIT_SECONDS: Final = 0.05


class ShortPath(typing.Protocol):
    """Answers requests without the application."""

    @property
    def path(self) -> bytes: ...

    def take(self, head: Head, body: bytes, reply: "Reply") -> bool:
        """Whether it has taken the request, so that it will use `reply`; if not, it did nothing."""


class Start:
    """The first bytes of a response, joined again when the date changes."""

    def __init__(self) -> None:
        self._headers: Headers | None = None
        self._joined = b""

    def joined(self, headers: Headers) -> bytes:
        """The status line and `headers`, which the server replaces once a second."""
        if headers is not self._headers:
            self._headers = headers
            self._joined = OK + b"".join(b"%b: %b\r\n" % header for header in headers)
        return self._joined


START: Final = Start()


class Event:
    """Does nothing, because no task waits on the short path."""

    def set(self) -> None:
        pass


class Reply:
    """The response to a taken request, in the place of the cycle that the connection expects."""

    __slots__ = ("_body", "_connection", "_head", "disconnected", "keep_alive", "response_complete")

    message_event: Final = Event()
    owner: Final = None

    def __init__(self, connection: "ShortProtocol", head: Head, body: bytes) -> None:
        self._connection = connection
        self._head = head
        self._body = body
        self.keep_alive: bool = head.keep_alive
        self.disconnected = self.response_complete = False

    def send(self, body: bytes, headers: bytes) -> None:
        """Sends the response 200; `headers` are lines that end with a line break."""
        if self.disconnected:
            return
        connection = self._connection
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        start = START.joined(connection.server_state.default_headers)
        connection.transport.write(b"".join((start, headers, end, body)))
        self.response_complete = True
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    def hand_over(self, application: ASGIApp) -> None:
        """Lets an application answer instead, also if the client has gone."""
        cycle = self._connection.begin(self._head, self._body, application)
        cycle.keep_alive, cycle.disconnected = self.keep_alive, self.disconnected


class ShortProtocol(HeadProtocol):
    """Offers requests to `short_path`; `offered` is one whose body is still to arrive."""

    short_path: ShortPath | None = None
    offered: Head | None = None
    offered_body = b""
    _body_wait: asyncio.TimerHandle | None = None

    def start(self, head: Head) -> None:
        if (
            self.short_path is not None
            and head.path == self.short_path.path
            and head.method == b"POST"
            and head.version == "1.1"
            and not (head.is_chunked or head.expects_continue or self.flow.write_paused)
        ):
            self.offered, self.offered_body = head, b""
        else:
            self.begin(head)

    def offer(self) -> None:
        """Offers a request that has arrived whole."""
        head, body = self._taken_back()
        assert self.short_path is not None
        self.cycle = reply = Reply(self, head, body)
        if not self.short_path.take(head, body, reply):
            self.begin(head, body)

    def await_body(self) -> None:
        """Waits for the body of an offered request."""
        if self._body_wait is None:
            self._body_wait = self.loop.call_later(BODY_WAIT_SECONDS, self.stop_offering)

    def stop_offering(self) -> None:
        """Gives an offered request whose body is incomplete to the application."""
        if self.offered is not None:
            head, body = self._taken_back()
            self.begin(head).body += body

    def connection_lost(self, exc: Exception | None) -> None:
        if self.offered is not None:
            self._taken_back()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self.stop_offering()
        super().shutdown()

    def _taken_back(self) -> tuple[Head, bytes]:
        if self._body_wait is not None:
            self._body_wait.cancel()
            self._body_wait = None
        head, self.offered = self.offered, None
        assert head is not None
        return head, self.offered_body
