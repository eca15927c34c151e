"""HTTP on one connection: malformed, hostile and half-closed clients."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import msgspec
import pytest
from uvicorn.server import ServerState

from bench.procfs import resident_bytes
from service.http import protocol
from service.http.protocol import MAX_FRAMING_BYTES, Protocol
from service.http.request_head import MAX_HEADERS
from service.http.short_path import BODY_WAIT_SECONDS
from tests.conftest import ROOT
from tests.http.echoing import GATES, STREAM, UNREAD, Echo, ShortEcho, configuration

HOST: Final = "Host: service.test"
BODY: Final = b'{"a":"HTTP/1.1","b":"\r\n\r\nGET / HTTP/1.1\r\n"}'
NEXT: Final = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKS: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
MEGABYTE: Final = 1024 * 1024
TURNS: Final = 300


def request(
    line: str = "POST /echo HTTP/1.1", *lines: str, body: bytes | None = None, chunk: int = 0
) -> bytes:
    """A request with a Host, its body with a length or in chunks."""
    head = [line, HOST, *lines]
    if body is None:
        return "\r\n".join([*head, "", ""]).encode()
    if not chunk:
        return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body
    head += ["Transfer-Encoding: chunked", "", ""]
    return "\r\n".join(head).encode() + chunked(body, chunk)


def chunked(body: bytes, size: int, trailers: str = "") -> bytes:
    """A body in chunks of one size."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return chunks + f"0\r\n{trailers}\r\n".encode()


@dataclass(frozen=True)
class Answer:
    """A response as received."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def echo(self) -> Echo:
        return msgspec.json.decode(self.body, type=Echo)


def parsed(received: bytes) -> list[Answer]:
    """The complete responses with a length in received bytes, without `100 Continue`."""
    answers = []
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        status = int(line.split(" ")[1])
        headers = dict(field.split(": ", 1) for field in fields)
        length = int(headers.get("content-length", "0"))
        if not end or len(received) < length:
            break
        if status != 100:
            answers.append(Answer(status, headers, received[:length]))
        received = received[length:]
    return answers


class Transport(asyncio.Transport):
    """Collects the parts that are written."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[bytes] = []
        self.is_closed = self.is_paused = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.parts.append(bytes(data))

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


@dataclass
class Peer:
    """A client of the application in this process, without a socket."""

    served: Protocol
    transport: Transport

    async def send(self, *segments: bytes) -> None:
        """Sends segments as a socket does: not while reading is paused, and not after the end."""
        for segment in segments:
            await settled(lambda: self.transport.is_closed or not self.transport.is_paused)
            if self.transport.is_closed or self.transport.is_paused:
                return
            self.served.data_received(segment)
            await asyncio.sleep(0)

    async def answers(self, number: int) -> list[Answer]:
        """The responses, after `number` of them have arrived or the connection is closed."""
        await settled(lambda: self.transport.is_closed or len(parsed(self.received)) >= number)
        return parsed(self.received)

    @property
    def received(self) -> bytes:
        return b"".join(self.transport.parts)


@pytest.fixture(autouse=True, params=[None, ShortEcho()], ids=["ordinary", "short"])
def short_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole requests to POST /echo are answered on the short path too."""
    monkeypatch.setattr(Protocol, "short_path", request.param)
    GATES.clear()


async def settled(condition: Callable[[], bool]) -> None:
    """Runs the event loop until a condition holds, for `TURNS` turns at most."""
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0)


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    """A new connection."""
    config = configuration()
    config.load()
    state = ServerState()
    served, transport = Protocol(config, state, {}), Transport()
    served.connection_made(transport)
    try:
        yield Peer(served, transport)
    finally:
        served.connection_lost(ConnectionResetError())
        for task in state.tasks:
            task.cancel()


async def exchanged(*segments: bytes, number: int = 1) -> tuple[list[Answer], bool]:
    """The responses to the bytes sent, and whether the connection was closed after them."""
    async with peer() as client:
        await client.send(*segments)
        return await client.answers(number), client.transport.is_closed


@pytest.mark.parametrize("seconds", [0.0, 2 * BODY_WAIT_SECONDS])
async def test_a_body_may_come_after_its_head(seconds: float) -> None:
    sent = request(body=b"late")
    async with peer() as client:
        await client.send(sent[:-4])
        await asyncio.sleep(seconds)
        await client.send(sent[-4:])
        [answer] = await client.answers(1)
        assert answer.echo.body == "late"
        await client.send(sent)
        assert len(await client.answers(2)) == 2


@pytest.mark.parametrize("end", ["eof", "lost"])
async def test_a_client_that_ends_within_a_body_is_not_answered_200(end: str) -> None:
    async with peer() as client:
        await client.send(request(body=b"late")[:-4])
        if end == "eof":
            client.served.eof_received()
        else:
            client.served.connection_lost(None)
        await asyncio.sleep(2 * BODY_WAIT_SECONDS)
        assert [answer.status for answer in await client.answers(1)] in ([], [400])


# Upgrades are ignored


UPGRADES: Final = [
    ("Connection: Upgrade", "Upgrade: h2c"),
    ("connection: upgrade", "upgrade: websocket", "Sec-WebSocket-Version: 13"),
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB"),
    ("Upgrade: TLS/1.0, HTTP/2.0", "Connection: keep-alive", "Connection:  UPGRADE\t"),
    ("Connection: keep-alive,upgrade,close", "Upgrade: a", "Upgrade: b"),
]
BODIES: Final[list[dict[str, Any]]] = [
    {"body": BODY},
    {"body": BODY, "chunk": 7},
    {"body": BODY, "chunk": 1000},
    {"body": b""},
    {"body": b"", "chunk": 1},
    {},
]


def upgraded(upgrade: tuple[str, ...], body: dict[str, Any], method: str = "POST") -> bytes:
    return request(f"{method} /echo?x HTTP/1.1", *upgrade, **body)


def check_upgraded(answers: list[Answer], body: dict[str, Any], *, is_last: bool) -> None:
    assert [answer.status for answer in answers] == ([200] if is_last else [200, 200])
    assert answers[0].echo.body == body.get("body", b"").decode()
    assert answers[0].echo.target == "/echo?x"
    assert "upgrade" not in dict(answers[0].echo.headers)
    assert is_last or answers[1].echo.target == "/next"


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_an_upgrade_is_ignored_wherever_the_request_is_cut(
    upgrade: tuple[str, ...], body: dict[str, Any]
) -> None:
    sent = upgraded(upgrade, body) + NEXT
    is_last = "close" in upgrade[0]
    cuts = [[sent], [sent[at : at + 1] for at in range(len(sent))]]
    cuts += [[sent[:at], sent[at:]] for at in range(1, len(sent))]
    for segments in cuts:
        answers, is_closed = await exchanged(*segments, number=2)
        check_upgraded(answers, body, is_last=is_last)
        assert is_closed == is_last


@pytest.mark.parametrize(
    "method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "M-SEARCH", "PROPFIND"]
)
async def test_an_upgrade_is_ignored_for_every_method(method: str) -> None:
    for body in BODIES:
        sent = upgraded(UPGRADES[0], body, method) + NEXT
        answers, _ = await exchanged(sent, number=2)
        check_upgraded(answers, body, is_last=False)
        assert answers[0].echo.method == method


async def test_pipelined_upgrades_are_answered_in_order() -> None:
    sent = b"".join(
        request(f"POST /echo?{n} HTTP/1.1", *UPGRADES[n % 4], body=BODY, chunk=n % 5)
        for n in range(40)
    )
    answers, is_closed = await exchanged(sent, number=40)
    assert [answer.echo.target for answer in answers] == [f"/echo?{n}" for n in range(40)]
    assert {answer.echo.body for answer in answers} == {BODY.decode()}
    assert not is_closed


async def test_an_upgrade_changes_no_limit_on_the_head() -> None:
    long = [f"X-{n}: {'x' * 1000}" for n in range(100)]
    answers, is_closed = await exchanged(request("GET / HTTP/1.1", *UPGRADES[0], *long))
    assert [answer.status for answer in answers] == [400]
    assert is_closed
    for lines in [(HOST,), ("Transfer-Encoding: gzip, chunked",)]:
        answers, is_closed = await exchanged(request("GET / HTTP/1.1", *UPGRADES[0], *lines))
        assert [answer.status for answer in answers] == [400]
        assert is_closed


# Requests that another server could parse differently are refused


REFUSED: Final[dict[str, bytes]] = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": request("GET / HTTP/1.1", "Host: other"),
    "two equal hosts": request("GET / HTTP/1.1", HOST),
    "two hosts in HTTP/1.0": request("GET / HTTP/1.0", HOST),
    "a host of two words": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "a host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a host with a user": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": request("GET / HTTP/0.9"),
    "HTTP/1.2": request("GET / HTTP/1.2"),
    "HTTP/2.0": request("GET / HTTP/2.0"),
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/11.1": request("GET / HTTP/11.1"),
    "http/1.1": request("GET / http/1.1"),
    "no path": request("GET HTTP/1.1"),
    "an empty path": request("GET  HTTP/1.1"),
    "a relative path": request("GET echo HTTP/1.1"),
    "a space in the path": request("GET /a b HTTP/1.1"),
    "a byte beyond ASCII in the path": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "a NUL in the path": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET *": request("GET * HTTP/1.1"),
    "CONNECT": request("CONNECT service.test:80 HTTP/1.1"),
    "CONNECT to a path": request("CONNECT /echo HTTP/1.1", *UPGRADES[0], body=BODY),
    "a method in lower case": request("get / HTTP/1.1"),
    "an unknown method": request("BREW / HTTP/1.1"),
    "a folded header": request("GET / HTTP/1.1", "X: a\r\n b"),
    "a folded first header": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "a bare CR": request("GET / HTTP/1.1", "X: a\rb"),
    "a bare LF": request("GET / HTTP/1.1", "X: a\nY: b"),
    "bare LFs": b"GET / HTTP/1.1\nHost: x\n\n",
    "a NUL in a header": request("GET / HTTP/1.1", "X: a\0b"),
    "a NUL in a name": request("GET / HTTP/1.1", "X\0: a"),
    "a nameless header": request("GET / HTTP/1.1", ": a"),
    "a header without a colon": request("GET / HTTP/1.1", "X"),
    "two lengths": request("POST / HTTP/1.1", "Content-Length: 30", body=BODY),
    "two equal lengths": request("POST / HTTP/1.1", f"Content-Length: {len(BODY)}", body=BODY),
    "a list of lengths": request("POST / HTTP/1.1", "Content-Length: 5, 5") + b"hello",
    "a signed length": request("POST / HTTP/1.1", "Content-Length: +5") + b"hello",
    "a length in hex": request("POST / HTTP/1.1", "Content-Length: 0x5") + b"hello",
    "an empty length": request("POST / HTTP/1.1", "Content-Length:"),
    "a negative length": request("POST / HTTP/1.1", "Content-Length: -1"),
    "a huge length": request("POST / HTTP/1.1", "Content-Length: 99999999999999999999999"),
    "length and chunks": request("POST / HTTP/1.1", "Content-Length: 3", body=BODY, chunk=3),
    "chunks in HTTP/1.0": request("POST / HTTP/1.0", body=BODY, chunk=3),
    "another coding": request("POST / HTTP/1.1", "Transfer-Encoding: gzip"),
    "a coding below chunked": request("POST / HTTP/1.1", "Transfer-Encoding: gzip, chunked"),
    "identity and chunked": request(
        "POST / HTTP/1.1", "Transfer-Encoding: identity", body=BODY, chunk=3
    ),
    "chunked twice": request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=BODY, chunk=3),
    "a quoted coding": request("POST / HTTP/1.1", 'Transfer-Encoding: "chunked"'),
    "an empty coding": request("POST / HTTP/1.1", "Transfer-Encoding:"),
    **{
        f"a chunk of size {size!r}": request("POST / HTTP/1.1", "Transfer-Encoding: chunked")
        + size
        + b"\r\nhello\r\n0\r\n\r\n"
        for size in (b"0x5", b"-5", b"+5", b" 5", b"5 ", b"", b"f" * 17, b"5;", b"5;a\rb", b"5\n")
    },
    "a long chunk": request("POST / HTTP/1.1", "Transfer-Encoding: chunked") + b"5\r\nhello!\r\n",
    "a length in a trailer": request("POST / HTTP/1.1", "Transfer-Encoding: chunked")
    + chunked(BODY, 5, "Content-Length: 5\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_an_ambiguous_request_is_answered_400_and_the_connection_closed(
    name: str,
) -> None:
    sent = REFUSED[name]
    for segments in ([sent + NEXT], [sent[at : at + 1] for at in range(len(sent))] + [NEXT]):
        answers, is_closed = await exchanged(*segments, number=2)
        assert [answer.status for answer in answers] == [400]
        assert answers[0].headers["connection"] == "close"
        assert is_closed


@pytest.mark.parametrize(
    ("sent", "target"),
    [
        (b"GET /a HTTP/1.0\r\n\r\n", "/a"),
        (b"\r\n\r\nGET /a HTTP/1.1\r\nHost:\r\n\r\n", "/a"),
        (b"GET http://other.test/a?b=c HTTP/1.1\r\nHost: service.test:8000\r\n\r\n", "/a?b=c"),
        (b"GET http://other.test HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", "/"),
        (b"GET //other.test/a?b?c HTTP/1.1\r\nHost: a_b.test.\r\n\r\n", "//other.test/a?b?c"),
        (b"GET /a%2Fb%20c?d%20e HTTP/1.1\r\nHost: x\r\n\r\n", "/a/b c?d%20e"),
        (b"GET /a?b#c HTTP/1.1\r\nHost: x\r\n\r\n", "/a?b"),
        (b"GET /? HTTP/1.1\r\nHost: x\r\n\r\n", "/"),
    ],
)
async def test_valid_requests_are_accepted(sent: bytes, target: str) -> None:
    answers, is_closed = await exchanged(sent)
    assert [answer.echo.target for answer in answers] == [target]
    assert is_closed == (b"HTTP/1.0" in sent)


async def test_options_accepts_the_target_for_the_whole_server() -> None:
    answers, _ = await exchanged(request("OPTIONS * HTTP/1.1") + NEXT, number=2)
    assert len(answers) == 2


async def test_error_waits_for_earlier_responses() -> None:
    for invalid in (b"GARBAGE / HTTP/1.1\r\n\r\n", REFUSED["two hosts"]):
        for segments in ([NEXT + invalid], [NEXT, invalid]):
            answers, is_closed = await exchanged(*segments, number=3)
            assert [answer.status for answer in answers] == [200, 400]
            assert is_closed


async def test_an_error_in_a_body_ends_the_request() -> None:
    async with peer() as client:
        await client.send(request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked"))
        await client.send(b"5\r\nhello\r\nx\r\n")
        assert [answer.status for answer in await client.answers(2)] == [400]
        assert client.transport.is_closed
        await settled(lambda: not client.served.tasks)
        assert not client.served.tasks


# Trailers


async def test_trailers_are_dropped() -> None:
    trailers = "Authorization: Bearer x\r\nX-Forwarded-For: 1.1.1.1\r\nHost: y\r\nExpect: z\r\n"
    head = request("POST /echo HTTP/1.1", "Transfer-Encoding: chunked", "TE: trailers")
    for segments in (
        [head + chunked(BODY, 9, trailers) + NEXT],
        [bytes([byte]) for byte in head + chunked(BODY, 9, trailers) + NEXT],
    ):
        answers, is_closed = await exchanged(*segments, number=2)
        assert [name for name, _ in answers[0].echo.headers] == ["host", "transfer-encoding", "te"]
        assert answers[0].echo.body == BODY.decode()
        assert answers[1].echo.headers == [("host", "x")]
        assert not is_closed


@pytest.mark.parametrize("path", ["echo", "unread"])
async def test_connection_close_in_a_trailer_closes_the_connection(path: str) -> None:
    """The parser obeys the trailer, and would leave the next request unanswered."""
    head = request(f"POST /{path} HTTP/1.1", "Transfer-Encoding: chunked")
    sent = head + chunked(BODY, 9, "Connection: close\r\n")
    for segments in ([sent, NEXT], [head, sent[len(head) :], NEXT]):
        answers, is_closed = await exchanged(*segments, number=2)
        assert len(answers) == 1
        assert is_closed


# Bounds


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"x" * 1000),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n" * 10),
        (b"GET /", b"x" * 1000),
        (b"GET /?", b"x" * 100_000),
        (b"", b"\r\n" * 500),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 1000),
        (CHUNKS + b"5;", b"x" * 1000),
        (
            CHUNKS + b"0\r\n",
            b"X: y\r\n" * 99,
        ),
        (
            CHUNKS + b"0\r\nX: ",
            b"x" * 200_000,
        ),
        (
            b"POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1;" + b"x" * 200 + b"\r\ny\r\n",
        ),
    ],
)
async def test_bytes_outside_the_body_are_bounded(head: bytes, part: bytes) -> None:
    async with peer() as client:
        await client.send(head)
        sent = 0
        while not client.transport.is_closed and sent < 4 * MAX_FRAMING_BYTES:
            await client.send(part)
            await settled(lambda: client.transport.is_closed or not client.transport.is_paused)
            sent += len(part)
        assert [answer.status for answer in await client.answers(1)] == [400]
        assert client.transport.is_closed
        assert sent <= MAX_FRAMING_BYTES + len(part) + protocol.PIECE_BYTES


async def test_more_headers_than_the_maximum_are_refused() -> None:
    for number, status in ((MAX_HEADERS - 1, 200), (MAX_HEADERS, 400), (5000, 400)):
        sent = request("GET / HTTP/1.1", *["X: y"] * number)
        answers, _ = await exchanged(sent)
        assert [answer.status for answer in answers] == [status]


@pytest.mark.parametrize("chunk", [1, 2, 1000])
async def test_a_body_in_small_chunks_is_read(chunk: int) -> None:
    body = b"x" * 64 * 1024
    sent = request("POST /count HTTP/1.1", body=body, chunk=chunk) + NEXT
    answers, _ = await exchanged(
        *(sent[at : at + 9000] for at in range(0, len(sent), 9000)), number=2
    )
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].echo.body == str(len(body))


async def test_many_small_chunks_do_not_block_the_event_loop() -> None:
    """One read of the connection can return 256 KB of them."""
    body = b"x" * 42_000
    async with peer() as client:
        await client.send(request("POST /hold/chunks HTTP/1.1", "Transfer-Encoding: chunked"))
        client.served.data_received(chunked(body, 1))
        sizes = [0]
        while sizes[-1] < len(body):
            sizes.append(len(client.served.cycle.body))
            await asyncio.sleep(0)
        maximum = protocol.TURN_BYTES / len(b"1\r\nx\r\n") + 1
        assert max(b - a for a, b in pairwise(sizes)) <= maximum
        GATES["chunks"].set()
        (answer,) = await client.answers(1)
        assert answer.echo.body == str(len(body))


async def test_reading_pauses_until_the_application_takes_the_body() -> None:
    body = b"HTTP/1.1 " * 100_000
    async with peer() as client:
        await client.send(request("POST /hold/a HTTP/1.1", body=body))
        assert client.transport.is_paused
        assert len(client.served.cycle.body) <= 64 * 1024 + protocol.PIECE_BYTES
        async with peer() as other:
            await other.send(request("GET /go/a HTTP/1.1"))
        (answer,) = await client.answers(1)
        assert answer.echo.body == str(len(body))
        assert not client.transport.is_paused


async def test_a_large_body_is_held_within_the_bound_before_the_application_reads_it() -> None:
    body = b"x" * 1_000_000
    sizes = []
    async with peer() as client:
        served = client.served
        sent = request(body=body)
        for at in range(0, len(sent), 9_999):
            if client.transport.is_paused:
                break
            served.data_received(sent[at : at + 9_999])
            sizes.append(len(served.offered_body if served.offered else served.cycle.body))
    assert client.transport.is_paused
    assert max(sizes) <= 64 * 1024 + protocol.PIECE_BYTES


async def test_pipelined_requests_wait_unparsed_behind_a_slow_one() -> None:
    async with peer() as client:
        await client.send(request("GET /wait/b HTTP/1.1") + NEXT * 1000)
        for _ in range(5):
            client.served.cycle.flow.resume_reading()
        assert client.transport.is_paused
        assert len(client.served.tasks) == 1
        assert not client.served.pipeline
        assert client.received == b""
        async with peer() as other:
            await other.send(request("GET /go/b HTTP/1.1"))
        await settled(lambda: len(client.transport.parts) == 1)
        while len(client.transport.parts) < 1001:
            assert len(client.served.tasks) <= 2  # the one that answered may be ending
            await asyncio.sleep(0)
        assert [answer.echo.target for answer in parsed(client.received)[1:]] == ["/next"] * 1000
        assert not client.transport.is_paused


async def test_no_request_is_answered_after_one_that_ends_the_connection() -> None:
    last = request("GET /last HTTP/1.1", "Connection: close")
    for segments in ([NEXT + last + NEXT], [NEXT, last, NEXT]):
        answers, is_closed = await exchanged(*segments, number=3)
        assert [answer.echo.target for answer in answers] == ["/next", "/last"]
        assert is_closed


# Responses before the body has been read


@pytest.mark.parametrize("chunk", [0, 5, 1000])
async def test_connection_stays_usable_after_a_response_before_the_body(chunk: int) -> None:
    sent = request("POST /unread HTTP/1.1", body=BODY * 500, chunk=chunk)
    cuts = ([sent + NEXT], [sent[:100], sent[100:] + NEXT], [sent[:200], sent[200:], NEXT])
    for segments in cuts:
        answers, is_closed = await exchanged(*segments, number=2)
        assert [answer.status for answer in answers] == [503, 200]
        assert answers[0].body == UNREAD
        assert "connection" not in answers[0].headers
        assert not is_closed


@pytest.mark.parametrize(
    ("framing", "part"),
    [
        (f"Content-Length: {MEGABYTE}", b"x" * 1000),
        ("Transfer-Encoding: chunked", b"1\r\nx\r\n" * 150),
        ("Transfer-Encoding: chunked", b"384\r\n" + b"x" * 900 + b"\r\n"),
    ],
)
async def test_rest_of_an_unread_body_is_bounded(framing: str, part: bytes) -> None:
    async with peer() as client:
        await client.send(request("POST /unread HTTP/1.1", framing))
        assert len(await client.answers(1)) == 1
        sent = 0
        while not client.transport.is_closed and sent < MEGABYTE:
            await client.send(part)
            sent += len(part)
        assert MAX_FRAMING_BYTES <= sent + 1000 <= MAX_FRAMING_BYTES + 2000
        assert len(await client.answers(1)) == 1


@pytest.mark.parametrize("chunk", [0, 5])
async def test_100_continue_is_sent_before_the_body_is_read(chunk: int) -> None:
    sent = request("POST /echo HTTP/1.1", "Expect: 100-Continue", body=BODY, chunk=chunk)
    async with peer() as client:
        head, _, body = sent.partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        await settled(lambda: client.received != b"")
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body + NEXT)
        answers = await client.answers(2)
        assert [answer.echo.body for answer in answers] == [BODY.decode(), ""]


async def test_a_body_without_100_continue_closes_the_connection_with_the_response() -> None:
    """The client may still send it, so the start of its next request is unknown."""
    for chunk in (0, 5):
        sent = request("POST /unread HTTP/1.1", "Expect: 100-continue", body=BODY, chunk=chunk)
        head, _, body = sent.partition(b"\r\n\r\n")
        answers, is_closed = await exchanged(head + b"\r\n\r\n", NEXT, number=2)
        assert [answer.status for answer in answers] == [503]
        assert answers[0].headers["connection"] == "close"
        assert is_closed
        answers, is_closed = await exchanged(head + b"\r\n\r\n" + body, NEXT, number=2)
        assert [answer.status for answer in answers] == [503, 200]
        assert not is_closed


async def test_http_1_0_has_no_100_continue() -> None:
    async with peer() as client:
        await client.send(request("POST /echo HTTP/1.0", "Expect: 100-continue", body=BODY))
        assert len(await client.answers(1)) == 1
        assert b"100 Continue" not in client.received


# Responses are sent without delay


async def test_head_is_sent_with_the_first_chunk_and_later_chunks_at_once() -> None:
    async with peer() as client, peer() as other:
        await client.send(request("GET /stream/c HTTP/1.1"))
        await settled(lambda: client.served.cycle.response_started)
        for number, chunk in enumerate((*STREAM, b""), 1):
            assert len(client.transport.parts) == number - 1
            await other.send(request("GET /go/c HTTP/1.1"))
            await settled(lambda: len(client.transport.parts) == number)  # noqa: B023
            framed = b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b"0\r\n\r\n"
            received = client.transport.parts[-1]
            assert received.endswith(b"\r\n\r\n" + framed) if number == 1 else received == framed
        assert client.transport.parts[0].startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "line",
    [
        "GET /echo HTTP/1.1",
        "HEAD /echo HTTP/1.1",
        "GET /empty/204 HTTP/1.1",
        "GET /empty/304 HTTP/1.1",
        "HEAD /empty/200 HTTP/1.1",
        "GET /empty/200 HTTP/1.1",
    ],
)
async def test_response_is_one_write(line: str) -> None:
    async with peer() as client:
        await client.send(request(line))
        await settled(lambda: client.served.cycle.response_complete)
        assert len(client.transport.parts) == 1
        assert client.received.endswith(b"\r\n\r\n") == ("GET /echo" not in line)
        await client.send(NEXT)
        await settled(lambda: len(client.transport.parts) == 2)
        assert parsed(client.transport.parts[1])[0].echo.target == "/next"


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b"])
async def test_response_with_a_line_break_in_a_header_is_never_sent(value: bytes) -> None:
    async with peer() as client:
        await client.send(request("GET /wait/never HTTP/1.1"))
        cycle = client.served.cycle
        with pytest.raises(RuntimeError, match="line break"):
            await cycle.send(
                {"type": "http.response.start", "status": 200, "headers": [(b"x", value)]}
            )
        assert client.received == b""


# Half-closed clients


async def test_half_closed_client_gets_its_response() -> None:
    for sent in (NEXT, request(body=BODY), request(body=BODY, chunk=5), upgraded(UPGRADES[0], {})):
        async with peer() as client:
            client.served.data_received(sent)
            assert client.served.eof_received()
            (answer,) = await client.answers(1)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert client.transport.is_closed


async def test_a_half_closed_client_without_a_request_is_closed_at_once() -> None:
    for segments in ([], [NEXT[:10]], [NEXT], [NEXT, NEXT[:10]], [b"\r\n"]):
        async with peer() as client:
            await client.send(*segments)
            await client.answers(1)
            assert not client.served.eof_received()


async def test_half_closed_client_gets_400_for_an_incomplete_body() -> None:
    for sent in (request(body=BODY)[:-1], request(body=BODY, chunk=5)[:-1]):
        async with peer() as client:
            await client.send(sent)
            assert not client.served.eof_received()
            assert [answer.status for answer in await client.answers(1)] == [400]
            await settled(lambda: not client.served.tasks)
            assert not client.served.tasks


# Over a socket, from a process of its own


@dataclass(frozen=True)
class Process:
    """The application of `echoing` in a process of its own."""

    port: int
    pid: int


@pytest.fixture(scope="module")
async def process() -> AsyncIterator[Process]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        number = listener.fileno()
        command = [sys.executable, "-m", "tests.http.echoing", str(number)]
        running = subprocess.Popen(command, cwd=ROOT, pass_fds=[number])
        try:
            yield Process(listener.getsockname()[1], running.pid)
        finally:
            running.kill()  # its slow requests never end
            await asyncio.to_thread(running.wait, 60)


Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def wire(process: Process) -> AsyncIterator[Wire]:
    """A connection to the process."""
    reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def first(reader: asyncio.StreamReader) -> Answer:
    """The next response with a length."""
    received = await reader.readuntil(b"\r\n\r\n")
    (head,) = parsed(received.replace(b"content-length: ", b"content-length: 0\r\nx-length: "))
    length = int(head.headers["x-length"])
    return Answer(head.status, head.headers, await reader.readexactly(length))


async def test_a_body_behind_an_upgrade_is_never_a_request(process: Process) -> None:
    async with wire(process) as (reader, writer):
        for _ in range(2):
            lines = ("Connection: Upgrade", "Upgrade: h2c", f"Content-Length: {len(NEXT)}")
            writer.write(request("POST /echo HTTP/1.1", *lines))
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.write(NEXT)
            answer = await first(reader)
            assert (answer.echo.target, answer.echo.body) == ("/echo", NEXT.decode())
        writer.write(request("GET /last HTTP/1.1"))
        assert (await first(reader)).echo.target == "/last"


async def test_half_closed_sockets_get_their_responses(process: Process) -> None:
    for sent in (NEXT, request(body=BODY * 5000), request(body=BODY, chunk=3), NEXT * 50):
        async with wire(process) as (reader, writer):
            writer.write(sent)
            writer.write_eof()
            answers = parsed(await reader.read())
            assert [answer.status for answer in answers] == [200] * max(1, sent.count(NEXT))
    async with wire(process) as (reader, writer):
        writer.write_eof()
        assert await reader.read() == b""


async def bytes_sent(process: Process, head: bytes, part: bytes, maximum: int) -> int:
    """Sends until the connection is closed, or blocked for a second."""
    async with wire(process) as (_, writer):
        writer.write(head)
        sent = 0
        try:
            while sent < maximum:
                writer.write(part)
                async with asyncio.timeout(1):
                    await writer.drain()
                sent += len(part)
        except (ConnectionError, TimeoutError):
            pass
        return sent


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (
            CHUNKS + b"0\r\n",
            b"X: y\r\n" * 999,
        ),
        (
            CHUNKS + b"0\r\nX: ",
            b"x" * 99_999,
        ),
        (request("GET /wait/memory HTTP/1.1") + b"GET / HTTP/1.1\r\nX: ", b"x" * 99_999),
        (request("GET /wait/memory HTTP/1.1"), NEXT * 1000),
        (request("POST /hold/memory HTTP/1.1", "Content-Length: 99999999"), b"x" * 99_999),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n" * 20_000),
    ],
)
async def test_an_unread_response_costs_no_memory(
    process: Process, head: bytes, part: bytes
) -> None:
    """Of the 20 MB per connection the kernel buffers a part, the process only one read."""
    async with wire(process) as (reader, writer):
        writer.write(NEXT)
        await first(reader)
        before = resident_bytes(process.pid)
        sending = [bytes_sent(process, head, part, 20 * MEGABYTE) for _ in range(5)]
        task = asyncio.gather(*sending)
        grown = 0
        while not task.done():
            grown = max(grown, resident_bytes(process.pid) - before)
            writer.write(NEXT)
            assert (await first(reader)).echo.target == "/next"
            await asyncio.sleep(0.01)
        assert max(await task) < 20 * MEGABYTE
    print(f"+{grown / MEGABYTE:.1f} MB")
    assert grown < 8 * MEGABYTE
