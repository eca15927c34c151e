"""Rejects request heads that the parser accepts although HTTP/1.1 does not allow them.

The parser (llhttp) is strict about line ends, spaces, field names and body lengths. But it accepts
other versions than HTTP/1, several `Host` fields and any transfer coding before `chunked`, and it
stops at an `Upgrade`.
"""

import asyncio
import re
import urllib.parse
from typing import Any, Final, NamedTuple

import httptools
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.response_cycle import Cycle

MAX_HEADERS: Final = 128
CHECKED: Final = frozenset((b"host", b"expect", b"transfer-encoding"))
HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")
TOO_LARGE: Final = "Request head too large"


class Refused(Exception):
    """A request that is answered 400; the message is the sentence."""


class Head(NamedTuple):
    """The head of a request; `path` and `query` are those of its target."""

    method: bytes
    version: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    expects_continue: bool
    is_chunked: bool


class HeadProtocol(HttpToolsProtocol):
    """Starts a request when its head has been parsed.

    The parser raises its own error for an exception of a callback, with that as the context.
    """

    cycle: Any
    _is_head = False  # a head has begun and not ended
    _has_trailers = False
    _is_chunked = False
    _hosts = 0
    _host: bytes | None = None  # the last valid one

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._is_head = True
        self._has_trailers = self._is_chunked = False
        self._hosts = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_head:
            self._has_trailers = True  # which are dropped
            return
        name = name.lower()
        if name in CHECKED:
            self._check(name, value.strip())
        self.headers.append((name, value))

    def _check(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
            if value != self._host and not HOST.fullmatch(value):
                raise Refused("The Host header is not valid")
            self._host = value
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        else:
            self._is_chunked = True
            if value.lower() != b"chunked":
                raise Refused("The transfer coding is not supported")

    def on_headers_complete(self) -> None:
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise Refused("CONNECT is not supported")
        if self.parser.should_upgrade():
            return  # the head is parsed again without `Upgrade`
        version = self.parser.get_http_version()
        is_current = version == "1.1"
        if not is_current and (version != "1.0" or self._is_chunked):
            raise Refused("The HTTP version is not supported")
        if self._hosts > 1 or (is_current and not self._hosts):
            raise Refused("A request needs one Host header")
        if len(self.headers) > MAX_HEADERS:
            raise Refused(TOO_LARGE)
        if self._is_answering():
            # Never happens, because the data is cut before a request that must wait.
            raise Refused("The request came out of turn")
        path, query = _target(method, self.url)
        self._is_head = False
        keep_alive = is_current and self.parser.should_keep_alive()
        expects_continue = is_current and self.expect_100_continue
        head = Head(
            method,
            version,
            path,
            query,
            self.headers,
            keep_alive,
            expects_continue,
            self._is_chunked,
        )
        self.start(head)

    def start(self, head: Head) -> None:
        """Starts the application for a request whose head has arrived."""
        self.begin(head)

    def begin(self, head: Head, body: bytes | None = None, app: Any = None) -> Cycle:
        """Starts the application, or `app`, for a request; `body` is the whole body if known."""
        plain = head.path.decode("ascii")
        scope: HTTPScope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": head.method.decode("ascii"),
            "root_path": self.root_path,
            "path": urllib.parse.unquote(plain) if "%" in plain else plain,
            "raw_path": head.path,
            "query_string": head.query,
            "headers": head.headers,
            "state": self.app_state.copy(),
        }
        self.cycle = cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=head.expects_continue,
            keep_alive=head.keep_alive,
            on_response=self.on_response_complete,
        )
        if body is not None:
            cycle.body += body
            cycle.more_body = False
            cycle.message_event.set()
        self._start_asgi_task(cycle, app or self.app)
        return cycle

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def parse_without_upgrade(self) -> None:
        """Parses the head again without `Upgrade`, so that the body that follows is parsed.

        This needs a new parser, because the old one may have ended with the head.
        """
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))


def _target(method: bytes, url: bytes) -> tuple[bytes, bytes]:
    """The path and the query of a request target."""
    if url.startswith(b"/") and b"#" not in url:
        path, _, query = url.partition(b"?")
        return path, query
    if url == b"*" and method != b"OPTIONS":
        raise Refused("Only OPTIONS has the target *")
    if url == b"*":
        return url, b""
    parsed = httptools.parse_url(url)
    return parsed.path or b"/", parsed.query or b""
