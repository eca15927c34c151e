"""The current request: its id, its trace, and the number of its statements."""

import re
from contextvars import ContextVar
from time import monotonic
from typing import Final
from uuid import uuid4

REQUEST_ID: Final = re.compile(rb"[\x21\x23-\x26\x28-\x5b\x5d-\x7e]{1,64}")
TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
ZERO_IDS: Final = ("0" * 32, "0" * 16)


class Trace:
    """One request. Its ids are parsed only when they are logged.

    A request id is 1 to 64 visible ASCII characters without quotes and backslashes; another one
    is replaced. `traceparent` follows W3C Trace Context; an invalid one is ignored. `begun` is
    monotonic; `cause` is the error of a failed request, `reason` the label of a refused one. With
    `omits_profile` the log line has no profile. `beat` is the profile id of a refused heartbeat,
    empty if it could not be read.
    """

    __slots__ = (
        "_request_id",
        "_traceparent",
        "beat",
        "begun",
        "cause",
        "omits_profile",
        "reason",
        "statements",
    )

    def __init__(self, request_id: bytes | None = None, traceparent: bytes | None = None) -> None:
        self.begun = monotonic()
        self.statements = 0
        self.cause = ""
        self.reason = ""
        self.beat: str | None = None
        self.omits_profile = False
        self._request_id = request_id
        self._traceparent = traceparent

    @property
    def request_id(self) -> str:
        """The client's id for the request if it is valid, else a new one."""
        if self._request_id is None or not REQUEST_ID.fullmatch(self._request_id):
            self._request_id = uuid4().hex.encode()
        return self._request_id.decode("ascii")

    @property
    def parent(self) -> tuple[str, str] | None:
        """The ids of the caller's trace and span, if the request carries them."""
        match = TRACEPARENT.fullmatch(self._traceparent or b"")
        if match is None or match[0][:2] == b"ff" or (match[0][:2] == b"00" and match[3]):
            return None
        ids = (match[1].decode(), match[2].decode())
        return None if ids[0] == ZERO_IDS[0] or ids[1] == ZERO_IDS[1] else ids

    def fields(self) -> dict[str, object]:
        """The fields of every log line of the request."""
        ids = zip(("trace_id", "parent_id"), self.parent or (), strict=False)
        return {"request_id": self.request_id, **dict(ids)}


CURRENT: Final[ContextVar[Trace | None]] = ContextVar("trace", default=None)


def record_error(error: BaseException) -> None:
    """Records the error that the current request fails with."""
    if trace := CURRENT.get():
        trace.cause = f"{type(error).__name__}: {error}"


def record_refusal(reason: str) -> None:
    """Records why the current request is refused."""
    if trace := CURRENT.get():
        trace.reason = reason


def omit_profile() -> None:
    """Keeps the current request's profile out of its log line."""
    if trace := CURRENT.get():
        trace.omits_profile = True


def count_statement() -> None:
    """Counts a statement for the current request, if there is one."""
    if trace := CURRENT.get():
        trace.statements += 1
