"""HTTP/1.1 on one connection: bytes in, requests out, within bounds.

The parser has no bounds and cannot stop between two requests. So received bytes are parsed in
pieces that hold one request at most, and the bytes behind a request that is being answered wait
unparsed, with reading paused: at most what one read returned.
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from service.http.request_head import MAX_HEADERS, TOO_LARGE, HeadProtocol, Refused
from service.http.response_cycle import Flow

# Bytes of a request that are not its body: head, chunk sizes and extensions, trailers. The rest of
# a body that was answered unread counts too.
MAX_FRAMING_BYTES: Final = 64 * 1024
CHUNK_BYTES: Final = 16  # that do not count for each chunk, because its length takes some
PIECE_BYTES: Final = 16 * 1024
TURN_BYTES: Final = 64 * 1024  # parsed before other connections: ten thousand chunks fit into them
HEAD_SECONDS: Final = 10.0
UNREAD_SECONDS: Final = 30.0  # without a client reading any of an answer that waits for it
VERSION: Final = b"HTTP/1."
INVALID: Final = "Invalid HTTP request received."


class Protocol(HeadProtocol):
    """HTTP/1.1 with limits on the size and duration of requests, which the parser does not have.

    A request is parsed when the one before it is answered.
    """

    _held = b""  # received; parsed up to `_at`
    _at = 0
    _framing_bytes = 0
    _is_whole = True  # no request has begun that has not ended
    _refusal = ""  # follows the answer that is being given
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self._parse_held)
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self._tick(), self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        if self._unread is not None:
            self._unread.cancel()
        self._held = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if (
            self._is_whole
            and not self._held
            and len(data) <= PIECE_BYTES
            and not self._is_answering()
            and data.count(VERSION) < 2
        ):
            # Nearly always: one request, or a part of one, is parsed where it is.
            data = data[len(data) - self._parse(data) :]
            if not data:
                return
        self._held = self._held[self._at :] + data if self._held else data
        self._at = 0
        if not self.flow.read_paused:
            self._parse_held()

    def _parse_held(self) -> None:
        """Parses what was received, up to the end of a request that must be answered first."""
        data, at, size = self._held, self._at, len(self._held)
        enough = at + TURN_BYTES
        while at < size and not self._refusal and not self.transport.is_closing():
            is_next = self._is_whole or self._is_head
            if self.flow.read_paused or (is_next and self._is_answering()) or at >= enough:
                self._held, self._at = data, at
                self.flow.pause_reading()
                if at >= enough:
                    self.loop.call_soon(self.flow.resume_reading)
                return
            # A piece holds the version of one request, the one that begins or has begun. A head
            # cannot end without its version, so at most one ends in the piece.
            end = min(size, at + PIECE_BYTES)
            own = data.find(VERSION, at, end) if self._is_whole else at
            following = data.find(VERSION, own + 1, end + len(VERSION)) if own >= 0 else -1
            if following >= 0:
                end = min(end, following)
            at = end - self._parse(data if end - at == size else memoryview(data)[at:end])
        self._held = b""

    def _parse(self, piece: bytes | memoryview) -> int:
        """Parses a piece; returns how many bytes of it are left."""
        self._framing_bytes += len(piece)
        try:
            left = self._feed(piece)
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
            return  # an `Upgrade`: parsed again without it
        self._is_whole = True
        self._framing_bytes = 0
        if self._has_trailers and not self.parser.should_keep_alive():
            self._end()  # the parser took a trailer for a header, and parses no further request
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
        """Keeps a connection that the client closed in its direction until it has its answer."""
        if not self._is_answering():
            return False
        if not self._is_whole and not self._is_head:
            self._refuse("The request body ended early")
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
        """Answers 400 in the place of the request that is being received, and closes."""
        if self.transport.is_closing():
            return
        self.logger.warning(message)
        cycle = self.cycle
        if not self._is_answering():
            is_answered = not self._is_whole and not self._is_head
            if is_answered:
                self.transport.close()
            else:
                self.send_400_response(message)
        elif self._is_whole or self._is_head:  # it is the next request
            self._refusal = message
            self.flow.pause_reading()
        elif cycle.response_started:
            self.transport.close()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self.send_400_response(message)

    def _end(self) -> None:
        """Closes the connection after the answer that is being given."""
        if self._is_answering():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _tick(self) -> float:
        return min(HEAD_SECONDS, self.timeout_keep_alive)

    def _look(self) -> None:
        """Closes a connection that is idle, or has been receiving a request, for too long.

        One timer that looks now and then costs less than one for each request.
        """
        left = self._tick()
        if not self._is_answering():
            most = self.timeout_keep_alive if self._is_whole else HEAD_SECONDS
            left = min(left, self._since + most - self.loop.time())
        if left <= 0:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(left, self._look)
