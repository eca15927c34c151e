"""HTTP/1.1 on one connection, with limits on the size and duration of requests.

The parser has no limits and cannot stop between two requests. So received bytes are parsed in
pieces that hold at most one request. Bytes behind a request that is being answered wait unparsed,
with reading paused, so they are at most what one read returned.
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from service.http.request_head import MAX_HEADERS, TOO_LARGE, Refused
from service.http.response_cycle import Flow
from service.http.short_path import ShortProtocol

# Bytes of a request outside its body: head, chunk sizes and extensions, trailers. Body bytes that
# arrive after the response count too.
MAX_FRAMING_BYTES: Final = 64 * 1024
CHUNK_BYTES: Final = 16  # of each chunk that do not count, because its length needs some
PIECE_BYTES: Final = 16 * 1024
TURN_BYTES: Final = 64 * 1024  # parsed before other connections; may be ten thousand chunks
HEAD_SECONDS: Final = 10.0
UNREAD_SECONDS: Final = 30.0  # in which the client reads nothing of its response
VERSION: Final = b"HTTP/1."
INVALID: Final = "Invalid HTTP request received."


class Protocol(ShortProtocol):
    """Parses a request when the one before it is answered."""

    _held = b""  # received; parsed up to `_at`
    _at = 0
    _framing_bytes = 0
    _is_whole = True  # the latest request has arrived as a whole
    _refusal = ""  # 400 with this sentence follows the current response
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self._parse_held)
        self._since = self.loop.time()
        self._timer: asyncio.Handle = self.loop.call_soon(self._check_time)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        if self._unread is not None:
            self._unread.cancel()
        self._held = b""
        super().connection_lost(exc)
        if self.cycle is not None and self.cycle.owner is not None:
            self.cycle.owner.client_left()

    def data_received(self, data: bytes) -> None:
        if (
            self._is_whole
            and not self._held
            and len(data) <= PIECE_BYTES
            and not self._is_answering()
            and data.count(VERSION) < 2
        ):
            # Nearly always the data is one request, or a part of one: no copy is needed.
            data = data[len(data) - self._parse(data) :]
            if not data:
                return
        self._held = self._held[self._at :] + data if self._held else data
        self._at = 0
        if not self.flow.read_paused:
            self._parse_held()

    def _parse_held(self) -> None:
        """Parses received bytes up to the end of a request that must be answered first."""
        data, at, size = self._held, self._at, len(self._held)
        turn_end = at + TURN_BYTES
        while at < size and not self._refusal and not self.transport.is_closing():
            is_next = self._is_whole or self._is_head
            if self.flow.read_paused or (is_next and self._is_answering()) or at >= turn_end:
                self._held, self._at = data, at
                self.flow.pause_reading()
                if at >= turn_end:
                    self.loop.call_soon(self.flow.resume_reading)
                return
            # No head ends before its version, so a piece with one version has at most one end.
            end = min(size, at + PIECE_BYTES)
            own = data.find(VERSION, at, end) if self._is_whole else at
            following = data.find(VERSION, own + 1, end + len(VERSION)) if own >= 0 else -1
            if following >= 0:
                end = min(end, following)
            at = end - self._parse(data if end - at == size else memoryview(data)[at:end])
        self._held = b""

    def _parse(self, piece: bytes | memoryview) -> int:
        """Parses a piece; returns the number of bytes that are left."""
        self._framing_bytes += len(piece)
        try:
            left = self._feed(piece)
            if self.offered is not None:
                self.await_body()
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(str(cause) if isinstance(cause, Refused) else INVALID)
            return 0
        is_too_large = self._framing_bytes > MAX_FRAMING_BYTES
        if is_too_large or (self._is_head and len(self.headers) > MAX_HEADERS):
            self._refuse(TOO_LARGE)
        return left

    def _feed(self, piece: bytes | memoryview) -> int:
        try:
            self.parser.feed_data(piece)
            return 0
        except httptools.HttpParserUpgrade as stop:
            left: int = len(piece) - stop.args[0]
        self._framing_bytes -= left
        self.parse_without_upgrade()
        return left

    def on_message_begin(self) -> None:
        self._is_whole = False
        self._since = self.loop.time()
        super().on_message_begin()

    def on_chunk_header(self) -> None:
        if not self.cycle.response_complete:
            self._framing_bytes = max(self._framing_bytes - CHUNK_BYTES, 0)

    def on_body(self, body: bytes) -> None:
        if self.offered is not None:
            self._framing_bytes -= len(body)
            self.offered_body += body
            if len(self.offered_body) > PIECE_BYTES:
                self.stop_offering()  # the application pauses reading, and refuses it
            return
        cycle = self.cycle
        if cycle.response_complete:
            return
        self._framing_bytes -= len(body)
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._is_head:
            return  # an `Upgrade`; the head is parsed again without it
        self._is_whole = True
        self._framing_bytes = 0
        if self.offered is not None:
            self.offer()
            return
        if self._has_trailers and not self.parser.should_keep_alive():
            self._end()  # the parser took a trailer for a header, and cannot parse another request
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._refusal:
            self.send_400_response(self._refusal)
            return
        self._since = self.loop.time()
        self.flow.resume_reading()

    def eof_received(self) -> Any:
        """Keeps a connection that the client has half closed until the response is sent.

        Closes it if the response has no end.
        """
        self.stop_offering()
        if not self._is_answering():
            return False
        if not self._is_whole and not self._is_head:
            self._refuse("The request body ended early")
            return False
        if self.cycle.owner is not None:
            return False
        self._end()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _refuse(self, message: str) -> None:
        """Responds 400 to the request that is being received, and closes the connection."""
        self.stop_offering()
        if self.transport.is_closing():
            return
        self.logger.warning(message)
        cycle = self.cycle
        is_next = self._is_whole or self._is_head  # the bytes belong to the next request
        if not self._is_answering():
            if is_next:
                self.send_400_response(message)
            else:
                self.transport.close()
        elif is_next:
            self._refusal = message
            self.flow.pause_reading()
        elif cycle.response_started:
            self.transport.close()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self.send_400_response(message)

    def _end(self) -> None:
        """Closes the connection after the current response."""
        if self._is_answering():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _check_time(self) -> None:
        """Closes a connection that has been idle, or receiving a head, for too long.

        One timer per connection that checks now and then costs less than one per request.
        """
        seconds = min(HEAD_SECONDS, self.timeout_keep_alive)
        if not self._is_answering():
            max_seconds = self.timeout_keep_alive if self._is_whole else HEAD_SECONDS
            seconds = min(seconds, self._since + max_seconds - self.loop.time())
        if seconds <= 0:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(seconds, self._check_time)
