"""GET /events: the events of an account for the apps of its parents, as server-sent events."""

import secrets
from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.context import Context
from service.database.statement import Statement
from service.database_errors import Unavailable
from service.deadlines import DeadlinePassed, within
from service.events.event import EventRow
from service.events.stream import End, Stream, encoded
from service.http import auth
from service.http.lenient_json import query_integer
from service.http.lenient_values import read_uuid
from service.http.response_cycle import HAND_OVER

MAX_SECONDS: Final = 3600  # that a client can request
MAX_PAGE: Final = 200  # kept events that are read and sent at a time
# Clients that lost their streams together come back spread over this time.
MIN_RETRY_MS: Final = 1_000
MAX_RETRY_MS: Final = 5_000
# Some proxies pass nothing on until they have received this much.
PADDING: Final = b":" + b" " * 2048 + b"\n"
NO_ID: Final = UUID(int=0)  # sorts before every event
HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
    (b"connection", b"close"),
]


class OpenRow(msgspec.Struct, frozen=True):
    is_active: bool
    event_id: UUID | None
    position: int | None


OPEN: Final = Statement("event_stream_open", OpenRow)
PAGE: Final = Statement("event_page", EventRow)


async def events(request: Request) -> Response:
    """GET /events: streams the account's events as they happen."""
    last_id = _last_event_id(request)
    context, account_id = await auth.caller(request)
    seconds = auth.seconds_left(request)
    requested = query_integer(request.query_params, "seconds", 1, MAX_SECONDS)
    row = auth.active(await OPEN.maybe(context.pool, account_id, last_id))
    stream = Stream(context.streams, account_id, row.position or 0)
    # Without an event the client gets an id, so that it can resume from here.
    first_id = None if last_id else row.event_id or NO_ID
    unknown_id = None if row.event_id else last_id or NO_ID
    if requested is not None and requested < seconds:
        return EventStream(context, stream, requested, "requested", first_id, unknown_id)
    return EventStream(context, stream, seconds, "expired", first_id, unknown_id)


def _last_event_id(request: Request) -> UUID | None:
    """The header, or the parameter for clients that cannot set it; raises FieldError."""
    if text := request.headers.get("last-event-id"):
        return read_uuid(text, ("header", "last-event-id"))
    if text := request.query_params.get("last_event_id"):
        return read_uuid(text, ("query", "last_event_id"))
    return None


class EventStream(Response):
    """Sends kept events, then new ones, until the stream ends: for `end`, after `seconds`.

    `first_id` is what the client resumes after until it has an event. `unknown_id` is an id that it
    has and that is not an event of its account: the kept events are those with greater ids.
    """

    def __init__(
        self,
        context: Context,
        stream: Stream,
        seconds: float,
        end: End,
        first_id: UUID | None,
        unknown_id: UUID | None,
    ) -> None:
        self._context = context
        self._stream = stream
        self._seconds = seconds
        self._end = end
        self._first_id = first_id
        self._unknown_id = unknown_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = self._stream
        first_live = stream.open(self._seconds, self._end)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send(_chunk(self._first()))
            await self._send_kept(first_live, send)
            await send({"type": HAND_OVER, "owner": stream})
        except BaseException:
            stream.client_left()
            raise

    def _first(self) -> bytes:
        retry = MIN_RETRY_MS + secrets.randbelow(MAX_RETRY_MS - MIN_RETRY_MS)
        first_id = b"" if self._first_id is None else b"id: %b\n" % str(self._first_id).encode()
        return PADDING + b"retry: %d\n" % retry + first_id + b"\n"

    async def _send_kept(self, last: int, send: Send) -> None:
        """Sends the events up to the position `last`, a page at a time."""
        stream = self._stream
        after, count = stream.after, MAX_PAGE
        while count == MAX_PAGE and after < last and not stream.end:
            try:
                rows = await self._page(after, last)
            except (Unavailable, DeadlinePassed):
                stream.finish("unavailable")  # the client resumes
                return
            if rows:
                after = rows[-1].position
                await send(_chunk(b"".join(map(encoded, rows))))
            count = len(rows)

    async def _page(self, after: int, last: int) -> list[EventRow]:
        context, account_id = self._context, self._stream.account_id
        arguments = (account_id, after, last, self._unknown_id, MAX_PAGE)
        seconds = context.settings.request_timeout_seconds
        return await within(seconds, PAGE.all(context.pool, *arguments))


def _chunk(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}
