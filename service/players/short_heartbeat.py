"""The short path of POST /heartbeat: a plain beat whose token is cached.

The answer is written when the statement has committed. The ordinary path (`heartbeat`) answers
every other beat, also one that was sent to the writer from here and failed or was refused: it gets
the outcome and does not record the beat again.
"""

import asyncio
from collections.abc import Awaitable
from time import monotonic
from typing import Final, Protocol

from msgspec import UNSET
from starlette.types import Message, Receive, Scope, Send

from service.context import Context
from service.deadlines import DeadlinePassed
from service.http import auth, lenient_json
from service.http.request_head import Head as RequestHead
from service.http.short_path import Reply
from service.observing.trace import CURRENT, Trace
from service.players import beats
from service.players.beats import BODY
from service.players.heartbeat import ANSWERED, PATH, Recording, send_beat
from service.players.heartbeat_body import Verdict
from service.players.heartbeat_head import Head, key_hash, read_head
from service.viewing.recorded_row import Recorded

LINES: Final = b"".join(b"%b: %b\r\n" % header for header in beats.HEADERS)
APPLIED: Final = b"%b: %b\r\n" % beats.APPLIED


class OrdinaryPath(Protocol):
    """The application, which answers what the short path does not."""

    @property
    def draining(self) -> bool: ...

    def heartbeat(
        self, scope: Scope, receive: Receive, send: Send, recording: Recording
    ) -> Awaitable[None]: ...


class ShortHeartbeat:
    """Takes plain heartbeats from the connections of one service."""

    path: Final = PATH.encode()

    def __init__(self, context: Context, ordinary: OrdinaryPath) -> None:
        self.context = context
        self.ordinary = ordinary

    def take(self, request: RequestHead, body: bytes, reply: Reply) -> bool:
        """Sends a plain beat to the writer; false if it is not plain, and nothing has happened."""
        context = self.context
        if self.ordinary.draining or context.is_full:
            return False
        begun = monotonic()
        try:
            head = read_head(request.headers)
            if head.has_origin:
                return False
            account_id = auth.bearer(context, head.authorization)
            if account_id is None:
                return False
            read = BODY.read(body, head.content_type)
            key = None if head.key is None else key_hash(read, head.key)
            recording = send_beat(context.of(account_id), account_id, read, key, begun)
            if recording is None:
                return False
        except Exception:
            return False  # the ordinary path raises it again, answers it and logs it
        taken = Taken(self, head, body, recording, reply)
        context.deadlines.enter(taken)
        recording.outcome[0].add_done_callback(taken.answer)
        return True


class Taken:
    """A beat that waits for its outcome."""

    __slots__ = ("_body", "_head", "_path", "_recording", "_reply")

    def __init__(
        self, path: ShortHeartbeat, head: Head, body: bytes, recording: Recording, reply: Reply
    ) -> None:
        self._path = path
        self._head = head
        self._body = body
        self._recording = recording
        self._reply = reply

    def expire(self) -> None:
        """Gives the beat up, because its deadline has passed."""
        self._recording.outcome[0].cancel()

    def answer(self, outcome: asyncio.Future[Recorded]) -> None:
        """Answers the beat with its outcome."""
        context, head = self._path.context, self._head
        context.deadlines.leave(self)
        cell, begun, beat, entry, policy, now, _ = self._recording
        if outcome.cancelled() or outcome.exception() is not None:
            self._hand_over()
            return
        figures = (beat, entry, policy, outcome.result(), now, head.prefers_decision)
        try:
            verdict = beats.verdict(cell, *figures)
        except Exception:
            self._hand_over()  # the ordinary path raises it again, answers it and logs it
            return
        body = lenient_json.encode(verdict)
        context.metrics.requests[ANSWERED] += 1
        ended_at = monotonic()
        seconds = ended_at - begun
        is_logged = beats.is_logged(context, verdict, ended_at, seconds)
        lines = b"%bcontent-length: %d\r\n" % (LINES, len(body))
        if is_logged or head.request_id:
            trace = Trace(head.request_id, head.traceparent)
            if is_logged:
                self._log(verdict, trace, seconds)
            if head.request_id:
                lines += b"x-request-id: %b\r\n" % trace.request_id.encode()
        if verdict.decision is not UNSET:
            lines += APPLIED
        self._reply.send(body, lines)

    def _log(self, verdict: Verdict, trace: Trace, seconds: float) -> None:
        trace.statements = 1
        outer = CURRENT.set(trace)
        beats.log(self._recording.beat.profile_id, verdict, trace, seconds)
        CURRENT.reset(outer)

    def _hand_over(self) -> None:
        """Gives the beat to the ordinary path with its outcome."""
        recording = self._recording
        if recording.outcome[0].cancelled():
            late: asyncio.Future[Recorded] = asyncio.get_running_loop().create_future()
            late.set_exception(DeadlinePassed("the deadline has passed"))
            recording = recording._replace(outcome=[late])

        async def whole_body() -> Message:
            return {"type": "http.request", "body": self._body}

        async def finish(scope: Scope, _: Receive, send: Send) -> None:
            await self._path.ordinary.heartbeat(scope, whole_body, send, recording)

        self._reply.hand_over(finish)
