"""The heartbeat: the hottest path, one straight line from the socket to the committed row.

An ASGI application in the route table, not a Starlette endpoint: it reads the scope and writes
bytes, which saves a Request and a Response for every beat.
"""

import logging
import re
from hashlib import blake2b
from time import monotonic
from typing import Annotated, Final, Literal, NamedTuple
from uuid import UUID, uuid4

import msgspec
from msgspec import Meta
from starlette.types import Receive, Scope, Send

from service.context import Context
from service.database.driver import cause
from service.database.ids import time_ordered_id
from service.errors import SERVICE_UNAVAILABLE, ClientError, Overloaded, invalid_idempotency_key
from service.http import auth, lenient_json
from service.http.body_and_reply import body, slow_body
from service.http.fields import (
    IsEducational,
    ProfileId,
    RemainingMinutes,
    SessionId,
    TitleId,
    UsedMinutes,
    doc,
)
from service.observing.trace import CURRENT, Trace, count_statement
from service.viewing import rules
from service.viewing.heartbeat_statement import Beat

logger = logging.getLogger("viewing_time.heartbeat")


class HeartbeatBody(msgspec.Struct):
    """What a player sends every 30 seconds; without a session id a new session starts."""

    profile_id: ProfileId
    title_id: TitleId
    device_id: Annotated[
        str, Meta(max_length=100), doc("The player's own name for itself.", "tv-1")
    ]
    session_id: Annotated[
        UUID | None,
        doc("The session to continue. Null or absent: start one and end the open one.", None),
    ] = None
    device_type: Annotated[
        Literal["tv", "mobile", "tablet", "web"], doc("The kind of player.", "tv")
    ] = "web"
    is_paused: Annotated[
        bool, doc("Playback is paused; after 300 seconds heartbeats stop counting.", False)
    ] = False


class Verdict(msgspec.Struct, frozen=True):
    """What the player is told; null remaining minutes are unlimited."""

    session_id: SessionId
    enforcement: Annotated[
        rules.Enforcement,
        doc(
            "Whether to continue (`allowed`), to continue and warn that at most 15 or 5 minutes"
            " are left, or to stop.",
            "allowed",
        ),
    ]
    remaining_minutes: RemainingMinutes
    used_minutes: UsedMinutes
    is_educational: IsEducational


BODY: Final = lenient_json.Body(HeartbeatBody)
SLOW_SECONDS: Final = 0.2
KEY: Final = re.compile(rb"[\x21-\x7e]{1,64}")
FULL: Final = lenient_json.encode({"detail": SERVICE_UNAVAILABLE.text})
FULL_HEADERS: Final = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(FULL)).encode()),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"retry-after", b"1"),
]


class Heartbeat:
    """POST /heartbeat: counts 30 seconds and says whether to go on."""

    async def refuse(self, scope: Scope, send: Send) -> None:
        """What a beat is answered that comes while too many wait: unread, so it costs little."""
        given = dict(reversed(scope["headers"])).get(b"x-request-id")
        own = [] if given is None else [(b"x-request-id", Trace(given).request_id.encode())]
        await send({"type": "http.response.start", "status": 503, "headers": FULL_HEADERS + own})
        await send({"type": "http.response.body", "body": FULL})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: Context = scope["state"]["context"]
        authorization = content_type = key = request_id = parent = None
        for name, value in reversed(scope["headers"]):  # of a repeated one the first holds
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
        trace = Trace(request_id, parent)
        CURRENT.set(trace)
        wanted = None
        try:
            with context.deadlines.watch():
                wanted = BODY.read(await body(receive), content_type)
                keyed = None if key is None else _keyed(wanted, key)
                caller = auth.bearer(context, authorization)
                account_id = caller or await auth.verified(context, authorization)
                verdict = await _verdict(context, account_id, wanted, keyed)
        except (ClientError, Overloaded) as refusal:
            _refused(context, trace, wanted, refusal)
            raise
        except Exception as error:
            if wanted is None:
                if isinstance(error, TimeoutError):
                    slow = slow_body()
                    _refused(context, trace, wanted, slow)
                    raise slow from error
                raise
            verdict = _blocked(wanted)
            # Not kept in a variable: the error would hold this frame, and this frame the error.
            _processed(context, trace, wanted, verdict, error)
        else:
            _processed(context, trace, wanted, verdict, None)
        answer = lenient_json.encode(verdict)
        headers = _headers(answer, trace if request_id else None)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


class Keyed(NamedTuple):
    """An idempotency key: the id of the session that its beat may start, and what is stored of it.

    The id is made from the key, so a repeated first beat finds the session whose id its sender does
    not know. Stored are 8 bytes of the key's hash and 2 of the request's.
    """

    session_id: UUID
    stored: bytes


def _keyed(wanted: HeartbeatBody, key: bytes) -> Keyed:
    """Hashes a key with the profile's id; raises FieldError if it is not 1 to 64 visible ASCII.

    The session is not part of the request's hash: a player may send its first beat again after it
    has learned the session's id.
    """
    if not KEY.fullmatch(key):
        raise invalid_idempotency_key()
    digest = blake2b(key, digest_size=16, key=wanted.profile_id.bytes).digest()
    request = (wanted.title_id, wanted.device_id, wanted.device_type, wanted.is_paused)
    of_request = blake2b(lenient_json.encode(request), digest_size=2).digest()
    return Keyed(UUID(bytes=digest, version=4), digest[:8] + of_request)


async def _verdict(
    context: Context, account_id: UUID, wanted: HeartbeatBody, keyed: Keyed | None
) -> Verdict:
    """Records the beat and judges the balance that came back from it."""
    known = await context.configurations.get(account_id, wanted.profile_id, is_for_beat=True)
    configuration = known.configuration
    now = context.now()
    day = rules.viewing_day(configuration, now)
    session_id = wanted.session_id or (keyed.session_id if keyed else time_ordered_id(now))
    count_statement()
    recorded = await context.writer.record(
        Beat(
            wanted.profile_id,
            account_id,
            wanted.title_id,
            session_id,
            wanted.session_id is None,
            wanted.device_id,
            wanted.device_type,
            wanted.is_paused,
            day,
            configuration.educational_exempt,
            keyed.stored if keyed else None,
            context.configurations.is_ageing(known),
        )
    )
    if recorded.renewed is not None:
        context.configurations.renew(wanted.profile_id, known, recorded.renewed)
    used = recorded.used_seconds
    if (used is not None) != known.is_child:
        context.configurations.forget(account_id, wanted.profile_id, "child or adult changed")
    if used is None:
        return Verdict(session_id, "allowed", None, 0.0, recorded.is_educational)
    limit = rules.limit_minutes(configuration, day)
    enforcement, left = rules.decide(limit, used, recorded.override)
    remaining = None if left is None else lenient_json.minutes(left)
    return Verdict(
        session_id, enforcement, remaining, lenient_json.minutes(used), recorded.is_educational
    )


def _blocked(wanted: HeartbeatBody) -> Verdict:
    """Fails closed: viewing that nobody can count does not go on."""
    return Verdict(wanted.session_id or uuid4(), "blocked", 0.0, 0.0, False)


def _refused(
    context: Context, trace: Trace, wanted: HeartbeatBody | None, refusal: ClientError | Overloaded
) -> None:
    """Counts a refused heartbeat; `request_log` has it reported with others, not by a line."""
    trace.beat = "" if wanted is None else str(wanted.profile_id)
    if isinstance(refusal, ClientError):
        context.metrics.heartbeats_refused += 1
    else:
        context.metrics.heartbeats_overloaded += 1


def _processed(
    context: Context,
    trace: Trace,
    wanted: HeartbeatBody,
    verdict: Verdict,
    failure: Exception | None,
) -> None:
    """Counts a heartbeat; logs every one that failed or was slow, and a sample of the others."""
    metrics = context.metrics
    ended = monotonic()
    took = ended - trace.begun
    metrics.heartbeats.add(ended, took)
    if failure is not None:
        metrics.heartbeats_failed_closed += 1
        metrics.failures[cause(failure)] += 1
    else:
        metrics.verdicts[verdict.enforcement] += 1
        sample = context.settings.heartbeat_log_sample
        if took <= SLOW_SECONDS and metrics.heartbeats.count % sample:
            return
    fields = {
        "profile_id": str(wanted.profile_id),
        "enforcement": verdict.enforcement,
        "db_ops": trace.statements,
        "duration_ms": round(took * 1000, 3),
        **({} if failure is None else {"error": f"{type(failure).__name__}: {failure}"}),
    }
    is_known = failure is None or cause(failure) != "own"
    logger.log(
        logging.INFO if failure is None else logging.ERROR,
        "heartbeat_processed",
        extra={"fields": fields},
        exc_info=None if is_known else failure,
    )


def _headers(answer: bytes, trace: Trace | None) -> list[tuple[bytes, bytes]]:
    """The request id goes back to those who sent one; none is made for a beat without."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if trace is not None:
        headers.append((b"x-request-id", trace.request_id.encode()))
    return headers
