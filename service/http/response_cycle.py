"""Writes the response to one request.

The head is written together with the first chunk of the body. Each write is a system call, and
with responses as small as ours a second one would be a quarter of the work for a heartbeat. Every
later chunk is written at once.

A response without an end can be handed over to an owner, so that its task ends. The stack of a
task takes more memory than all other objects of a connection together.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

HAND_OVER: Final = "http.response.hand_over"  # with the `owner`
OWNED: Final[Any] = {"method": "GET"}  # the scope of a response that has been handed over
FRAMING: Final = frozenset((b"content-length", b"transfer-encoding", b"connection"))


class Flow(FlowControl):
    """Flow control that parses the bytes already received before it reads more."""

    def __init__(self, transport: Any, parse_held: Callable[[], None]) -> None:
        super().__init__(transport)
        self._parse_held = parse_held

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._parse_held()
            if not self.read_paused:
                self._transport.resume_reading()


class Client(Protocol):
    """The connection of a response, for its owner."""

    def write(self, body: bytes) -> bool: ...

    def end(self) -> None: ...


class Owner(Protocol):
    """Continues a response after its task."""

    def take(self, client: Client) -> None: ...

    def client_left(self) -> None: ...


class Cycle(RequestResponseCycle):
    """Writes the response to one request."""

    owner: Owner | None = None
    _head = b""  # not yet written
    _is_until_close = False  # the end of the connection is the end of the body

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            if "owner" in message:
                message["owner"].client_left()
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            self._continue(message.get("body", b""), message.get("more_body", False))
        elif kind == HAND_OVER and self.response_started and not self.response_complete:
            self._hand_over(message["owner"])
        else:
            raise RuntimeError(f"Unexpected ASGI message '{kind}'")

    def _hand_over(self, owner: Owner) -> None:
        self.disconnected = True  # for the application, which sends nothing more
        self.scope = OWNED
        self.owner = owner
        owner.take(self)

    def write(self, body: bytes) -> bool:
        """Sends a chunk at once, or closes the connection if its client reads too slowly."""
        if self.flow.write_paused:
            self.transport.abort()
            return False
        self._continue(body, True)
        return True

    def end(self) -> None:
        """Ends a response that has been handed over, and its connection."""
        if not self.transport.is_closing():
            self.keep_alive = False
            self._continue(b"", False)

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if self.waiting_for_100_continue and self.more_body and not self.body:
            # The client may or may not send its body after a final response, so the start of its
            # next request is unknown (RFC 9110, section 10.1.1).
            self.keep_alive = False
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status]]
        has_close = False
        count = 1
        for raw_name, value in (*self.default_headers, *headers):
            count += 1
            name = raw_name.lower()
            if name not in FRAMING:
                pass
            elif name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif name == b"connection" and b"close" in value.lower().replace(b" ", b"").split(b","):
                self.keep_alive = False
                has_close = True
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive and not has_close:
            lines.append(b"connection: close\r\n")
            count += 1
        is_bodiless = self.scope["method"] == "HEAD" or status in (204, 304)
        has_no_length = self.chunked_encoding is None and not is_bodiless
        if has_no_length and self.scope["http_version"] == "1.0":
            self._is_until_close = True
        elif has_no_length:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
            count += 1
        head = b"".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == count or b"\0" in head:
            raise RuntimeError("A response header contains a line break or NUL")
        self._head = head + b"\r\n"

    def _continue(self, body: bytes, has_more: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            part = b""
        elif self.chunked_encoding:
            part = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not has_more:
                part += b"0\r\n\r\n"
        elif self._is_until_close:
            part = body
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("Response content longer than Content-Length")
            part = body
        if head or part:
            self.transport.write(head + part)
        if not has_more:
            if self.expected_content_length:
                raise RuntimeError("Response content shorter than Content-Length")
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            cast(Callable[[], None], self.on_response)()
