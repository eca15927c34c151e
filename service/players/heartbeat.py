"""POST /heartbeat, the most frequent request.

It is an ASGI application in the route table, not a Starlette endpoint. It reads the scope and
writes bytes, which saves a Request and a Response for every beat.
"""

import asyncio
from datetime import datetime
from time import monotonic
from typing import Final, NamedTuple
from uuid import UUID, uuid4

from msgspec import UNSET
from starlette.types import Receive, Scope, Send

from service.context import Context
from service.database_errors import Rejected
from service.errors import SERVICE_UNAVAILABLE, ClientError, Overloaded
from service.http import auth, lenient_json
from service.http.body_and_reply import body, slow_body
from service.http.cells import has_moved
from service.http.urls import VIEWING
from service.observing.trace import CURRENT, Trace, count_statement
from service.players import beats
from service.players.beats import APPLIED, BODY, HEADERS
from service.players.displaced import with_details
from service.players.heartbeat_body import HeartbeatBody, Verdict
from service.players.heartbeat_head import KeyHash, key_hash, read_head
from service.viewing.config_entries import Entry
from service.viewing.heartbeat_statement import Beat, DayUnknown
from service.viewing.policy import Policy
from service.viewing.recorded_row import Recorded, Renewed

PATH: Final = f"{VIEWING}/heartbeat"
ANSWERED: Final = ("POST", PATH, 200)  # a key of `Metrics.requests`

SHED: Final = lenient_json.encode({"detail": SERVICE_UNAVAILABLE.text})
SHED_HEADERS: Final = [
    *HEADERS,
    (b"content-length", str(len(SHED)).encode()),
    (b"retry-after", b"1"),
]


class Recording(NamedTuple):
    """A beat that the writer of a cell has; `begun` is monotonic.

    The only member of `outcome` is taken out before it is awaited: a frame that still had it when
    it raises would be in a reference cycle with its error.
    """

    cell: Context
    begun: float
    beat: Beat
    entry: Entry | None
    policy: Policy | None
    now: datetime
    outcome: list[asyncio.Future[Recorded]]


def send_beat(
    context: Context, account_id: UUID, body: HeartbeatBody, key: KeyHash | None, begun: float
) -> Recording | None:
    """Sends a beat to the writer; raises Overloaded, ClientError 429.

    Returns None if the policy must be loaded first: it is not cached, and another beat of the
    profile waits. So beats of a stranger cannot fill the queue of a profile.
    """
    entry, now = context.configurations.peek(account_id, body.profile_id), context.now()
    if entry is None and context.writer.has_beat(body.profile_id):
        return None
    return _sent(context, account_id, body, key, begun, entry, now)


async def _loaded(
    context: Context, account_id: UUID, body: HeartbeatBody, key: KeyHash | None, begun: float
) -> Recording:
    """Loads the policy, then sends a beat to the writer."""
    entry = await context.configurations.get(account_id, body.profile_id, is_for_beat=True)
    return _sent(context, account_id, body, key, begun, entry, context.now())


async def _followed(
    context: Context, account_id: UUID, body: HeartbeatBody, key: KeyHash | None, begun: float
) -> Recording:
    """As `_loaded`, in another cell if the account has moved there."""
    try:
        return await _loaded(context, account_id, body, key, begun)
    except ClientError:
        if not await has_moved(account_id, context):
            raise
    return await _loaded(context.of(account_id), account_id, body, key, begun)


def _sent(
    context: Context,
    account_id: UUID,
    body: HeartbeatBody,
    key: KeyHash | None,
    begun: float,
    entry: Entry | None,
    now: datetime,
) -> Recording:
    policy = None if entry is None else entry.policy
    beat = beats.beat(context, account_id, body, key, entry, now)
    return Recording(context, begun, beat, entry, policy, now, [context.writer.record(beat)])


class Heartbeat:
    """Counts viewing time and returns whether the child may watch on."""

    async def refuse(self, scope: Scope, send: Send) -> None:
        """Load shedding: answers 503 without the cost of reading the body."""
        received = dict(reversed(scope["headers"])).get(b"x-request-id")
        ids = [] if received is None else [(b"x-request-id", Trace(received).request_id.encode())]
        await send({"type": "http.response.start", "status": 503, "headers": SHED_HEADERS + ids})
        await send({"type": "http.response.body", "body": SHED})

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, recording: Recording | None = None
    ) -> None:
        """Answers a beat, which is not recorded again if the short path has sent it."""
        context: Context = scope["state"]["context"]
        head = read_head(scope["headers"])
        trace = Trace(head.request_id, head.traceparent)
        if recording is not None:
            trace.begun = recording.begun
        CURRENT.set(trace)
        beat = None
        try:
            with context.deadlines.watch(recording and recording.begun):
                beat = BODY.read(await body(receive), head.content_type)
                key = None if head.key is None else key_hash(beat, head.key)
                if recording is None:
                    caller = auth.bearer(context, head.authorization)
                    account_id = caller or await auth.verified(context, head.authorization)
                    cell = context.of(account_id)
                    arguments = (cell, account_id, beat, key, trace.begun)
                    recording = send_beat(*arguments) or await _followed(*arguments)
                verdict = await _verdict(recording, beat, key, head.prefers_decision)
        except (ClientError, Overloaded) as refusal:
            count_refused(context, trace, beat, refusal)
            raise
        except Exception as error:
            if beat is None:
                if isinstance(error, TimeoutError):
                    slow = slow_body()
                    count_refused(context, trace, beat, slow)
                    raise slow from error
                raise
            verdict = beats.blocked(beat.session_id or uuid4())
            # No variable holds the error: it refers to this frame, which would be a cycle.
            beats.failed(context, beat.profile_id, verdict, trace, monotonic(), error)
        else:
            ended_at = monotonic()
            seconds = ended_at - trace.begun
            if beats.is_logged(context, verdict, ended_at, seconds):
                beats.log(beat.profile_id, verdict, trace, seconds)
        answer = lenient_json.encode(verdict)
        headers = [*HEADERS, (b"content-length", str(len(answer)).encode())]
        if head.request_id:
            headers.append((b"x-request-id", trace.request_id.encode()))
        if verdict.decision is not UNSET:
            headers.append(APPLIED)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def _verdict(
    recording: Recording, body: HeartbeatBody, key: KeyHash | None, prefers_decision: bool
) -> Verdict:
    """Decides when the beat has been committed; follows an account that has moved."""
    try:
        return await _recorded(recording, prefers_decision)
    except (ClientError, Rejected):
        account_id = recording.beat.account_id
        if not await has_moved(account_id, recording.cell):
            raise
    cell = recording.cell.of(account_id)
    again = await _loaded(cell, account_id, body, key, recording.begun)
    return await _recorded(again, prefers_decision)


async def _recorded(recording: Recording, prefers_decision: bool) -> Verdict:
    context, _, beat, entry, policy, now, outcome = recording
    count_statement()
    try:
        try:
            recorded = await outcome.pop()
        except DayUnknown as unknown:
            entry = await _entry(context, beat, unknown.read)
            policy = entry.policy
            beat = beats.with_policy(context, beat, entry, now)
            count_statement()
            recorded = await context.writer.record(beat)
    except ClientError as refusal:
        raise await with_details(context, beat.profile_id, beat.session_id, refusal) from None
    return beats.verdict(context, beat, entry, policy, recorded, now, prefers_decision)


async def _entry(context: Context, sent: Beat, read: Renewed | None) -> Entry:
    """The policy that the statement of a beat has read; it is loaded if there was none."""
    account_id, profile_id = sent.account_id, sent.profile_id
    if read is not None:
        return context.configurations.adopt(account_id, profile_id, read)
    return await context.configurations.get(account_id, profile_id, is_for_beat=True)


def count_refused(
    context: Context, trace: Trace, body: HeartbeatBody | None, refusal: ClientError | Overloaded
) -> None:
    """Counts a refused heartbeat; `event_loop` logs their number once a second."""
    trace.beat = "" if body is None else str(body.profile_id)
    is_overload = isinstance(refusal, Overloaded)
    context.metrics.heartbeats_overloaded += is_overload
    context.metrics.heartbeats_refused += not is_overload
