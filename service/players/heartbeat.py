"""POST /heartbeat, the most frequent request.

It is an ASGI application in the route table, not a Starlette endpoint. It reads the scope and
writes bytes, which saves a Request and a Response for every beat.
"""

import logging
import re
from hashlib import blake2b
from time import monotonic
from typing import Final
from uuid import UUID, uuid4

from msgspec import UNSET, UnsetType
from starlette.types import Receive, Scope, Send

from service.context import Context
from service.database.driver import cause
from service.database.ids import time_ordered_id
from service.errors import SERVICE_UNAVAILABLE, ClientError, Overloaded, invalid_idempotency_key
from service.http import auth, lenient_json
from service.http.body_and_reply import body, slow_body
from service.http.decided import has_preference
from service.http.decision_reply import DecisionReply, decision_reply, unlimited_reply
from service.observing.trace import CURRENT, Trace, count_statement
from service.players.displaced import with_details
from service.players.heartbeat_body import HeartbeatBody, Verdict
from service.viewing.decision import decide
from service.viewing.heartbeat_statement import Beat
from service.viewing.policy import current_day, usage_from

logger = logging.getLogger("viewing_time.heartbeat")


BODY: Final = lenient_json.Body(HeartbeatBody)
SLOW_SECONDS: Final = 0.2
KEY: Final = re.compile(rb"[\x21-\x7e]{1,64}")
HEADERS: Final = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]
APPLIED: Final = (b"preference-applied", b"decision")
SHED: Final = lenient_json.encode({"detail": SERVICE_UNAVAILABLE.text})
SHED_HEADERS: Final = [
    *HEADERS,
    (b"content-length", str(len(SHED)).encode()),
    (b"retry-after", b"1"),
]


class Heartbeat:
    """Counts 30 seconds of viewing and returns the verdict."""

    async def refuse(self, scope: Scope, send: Send) -> None:
        """Load shedding: answers 503 without the cost of reading the body."""
        received = dict(reversed(scope["headers"])).get(b"x-request-id")
        ids = [] if received is None else [(b"x-request-id", Trace(received).request_id.encode())]
        await send({"type": "http.response.start", "status": 503, "headers": SHED_HEADERS + ids})
        await send({"type": "http.response.body", "body": SHED})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: Context = scope["state"]["context"]
        authorization = content_type = key = request_id = parent = prefer = None
        for name, value in reversed(scope["headers"]):  # the first of a repeated header counts
            if name == b"authorization":
                authorization = value.decode("latin-1")
            elif name == b"content-type":
                content_type = value.decode("latin-1")
            elif name == b"idempotency-key":
                key = value
            elif name == b"x-request-id":
                request_id = value
            elif name == b"traceparent":
                parent = value
            elif name == b"prefer":
                prefer = value if prefer is None else value + b"," + prefer
        trace = Trace(request_id, parent)
        CURRENT.set(trace)
        beat = None
        try:
            with context.deadlines.watch():
                beat = BODY.read(await body(receive), content_type)
                hashed = None if key is None else _hashed(beat, key)
                caller = auth.bearer(context, authorization)
                account_id = caller or await auth.verified(context, authorization)
                is_explained = prefer is not None and has_preference(prefer.decode("latin-1"))
                verdict = await _verdict(context, account_id, beat, hashed, is_explained)
        except (ClientError, Overloaded) as refusal:
            _refused(context, trace, beat, refusal)
            raise
        except Exception as error:
            if beat is None:
                if isinstance(error, TimeoutError):
                    slow = slow_body()
                    _refused(context, trace, beat, slow)
                    raise slow from error
                raise
            # Fails closed: viewing that cannot be counted is blocked.
            verdict = Verdict(beat.session_id or uuid4(), "blocked", 0.0, 0.0, False)
            # No variable holds the error: it refers to this frame, which would be a cycle.
            _processed(context, trace, beat, verdict, error)
        else:
            _processed(context, trace, beat, verdict, None)
        answer = lenient_json.encode(verdict)
        headers = [*HEADERS, (b"content-length", str(len(answer)).encode())]
        if request_id:
            headers.append((b"x-request-id", trace.request_id.encode()))
        if verdict.decision is not UNSET:
            headers.append(APPLIED)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def _hashed(beat: HeartbeatBody, key: bytes) -> tuple[UUID, bytes]:
    """Returns the id of the session that the beat may start, and the bytes to store.

    The id is derived from the key and the profile, so a repeated first beat finds its session
    although its player never received the id. The stored bytes are 8 of the key's hash and 2 of the
    request's. The latter hash excludes the session, because a player may repeat its first beat
    after it has received the id. Raises FieldError if the key is not 1 to 64 visible ASCII
    characters.
    """
    if not KEY.fullmatch(key):
        raise invalid_idempotency_key()
    digest = blake2b(key, digest_size=16, key=beat.profile_id.bytes).digest()
    request = (beat.title_id, beat.device_id, beat.device_type, beat.is_paused)
    of_request = blake2b(lenient_json.encode(request), digest_size=2).digest()
    return UUID(bytes=digest, version=4), digest[:8] + of_request


async def _verdict(
    context: Context,
    account_id: UUID,
    beat: HeartbeatBody,
    hashed: tuple[UUID, bytes] | None,
    is_explained: bool,
) -> Verdict:
    """Records the beat and decides by the committed balance."""
    configurations = context.configurations
    entry = await configurations.get(account_id, beat.profile_id, is_for_beat=True)
    current = entry.policy
    now = context.now()
    _, _, day, begin_seconds = current_day(current, now)
    is_start = beat.session_id is None
    session_id = beat.session_id or (hashed[0] if hashed else time_ordered_id(now))
    count_statement()
    try:
        recorded = await context.writer.record(
            Beat(
                beat.profile_id,
                account_id,
                beat.title_id,
                session_id,
                is_start,
                beat.device_id if is_start else None,
                beat.device_type if is_start else None,
                beat.is_paused,
                day,
                current.configuration.educational_exempt,
                hashed[1] if hashed else None,
                configurations.is_ageing(entry),
                begin_seconds,
                usage_from(current, day),
                beat.exclusive,
            )
        )
    except ClientError as refusal:
        raise await with_details(context, beat.profile_id, session_id, refusal) from None
    usage = recorded.usage
    if recorded.renewed is not None:
        configurations.renew(beat.profile_id, entry, *recorded.renewed)
    if (usage is not None) != entry.is_child:
        configurations.forget(account_id, beat.profile_id, "child or adult changed")
    is_educational = recorded.is_educational
    explanation: DecisionReply | UnsetType = UNSET
    if usage is None:
        if is_explained:
            explanation = unlimited_reply(beat.profile_id, now)
        return Verdict(session_id, "allowed", None, 0.0, is_educational, explanation)
    decision = decide(current, usage, now)
    if is_explained:
        is_counted = not (is_educational and current.configuration.educational_exempt)
        figures = (beat.profile_id, current, usage, decision)
        explanation = decision_reply(*figures, is_counted=is_counted)
    left = decision.remaining_seconds
    return Verdict(
        session_id,
        decision.enforcement,
        None if left is None else lenient_json.minutes(left),
        lenient_json.minutes(usage.used_seconds),
        is_educational,
        explanation,
    )


def _refused(
    context: Context, trace: Trace, beat: HeartbeatBody | None, refusal: ClientError | Overloaded
) -> None:
    """Counts a refused heartbeat; `event_loop` logs their number once a second."""
    trace.beat = "" if beat is None else str(beat.profile_id)
    is_overload = isinstance(refusal, Overloaded)
    context.metrics.heartbeats_overloaded += is_overload
    context.metrics.heartbeats_refused += not is_overload


def _processed(
    context: Context,
    trace: Trace,
    beat: HeartbeatBody,
    verdict: Verdict,
    failure: Exception | None,
) -> None:
    """Counts a heartbeat; logs it if it failed or was slow, and a sample of the others."""
    metrics = context.metrics
    ended_at = monotonic()
    seconds = ended_at - trace.begun
    metrics.heartbeats.add(ended_at, seconds)
    if failure is None:
        metrics.verdicts[verdict.enforcement] += 1
        sample = context.settings.heartbeat_log_sample
        if seconds <= SLOW_SECONDS and metrics.heartbeats.count % sample:
            return
    fields = {
        "profile_id": str(beat.profile_id),
        "enforcement": verdict.enforcement,
        "db_ops": trace.statements,
        "duration_ms": round(seconds * 1000, 3),
    }
    if failure is None:
        logger.info("heartbeat_processed", extra={"fields": fields})
        return
    reason = cause(failure)
    metrics.heartbeats_failed_closed += 1
    metrics.failures[reason] += 1
    fields["error"] = f"{type(failure).__name__}: {failure}"
    traceback = failure if reason == "own" else None
    logger.error("heartbeat_processed", extra={"fields": fields}, exc_info=traceback)
