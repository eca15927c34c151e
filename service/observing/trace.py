"""What is known of the request at work: its id, its trace, how many statements it took."""

import re
from contextvars import ContextVar
from time import monotonic
from typing import Final
from uuid import uuid4

REQUEST_ID: Final = re.compile(rb"[\x21\x23-\x26\x28-\x5b\x5d-\x7e]{1,64}")
TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
NOBODYS: Final = ("0" * 32, "0" * 16)


class Trace:
    """One request; what is only written to a log is made when it is written.

    A request id is 1 to 64 visible ASCII characters without quotes and backslashes; another one
    is replaced. `traceparent` is read as W3C Trace Context says; another one is ignored. `begun`
    is monotonic; `cause` is what a failed request failed for, `reason` why it was refused; a
    `nameless` request is logged without the profile it is about. `beat` is there for a refused
    heartbeat: the profile it names, if it could be read.
    """

    __slots__ = (
        "_request_id",
        "_traceparent",
        "beat",
        "begun",
        "cause",
        "nameless",
        "reason",
        "statements",
    )

    def __init__(self, request_id: bytes | None = None, traceparent: bytes | None = None) -> None:
        self.begun = monotonic()
        self.statements = 0
        self.cause = ""
        self.reason = ""
        self.beat: str | None = None
        self.nameless = False
        self._request_id = request_id
        self._traceparent = traceparent

    @property
    def request_id(self) -> str:
        """The client's id for the request where it is sane, else one of ours."""
        given = self._request_id
        if given is None or not REQUEST_ID.fullmatch(given):
            given = self._request_id = uuid4().hex.encode()
        return given.decode("ascii")

    @property
    def parent(self) -> tuple[str, str] | None:
        """The ids of the trace and of the span that called us, if a caller named them."""
        given = self._traceparent
        match = None if given is None else TRACEPARENT.fullmatch(given)
        if match is None or match[0][:2] == b"ff" or (match[0][:2] == b"00" and match[3]):
            return None
        ids = (match[1].decode(), match[2].decode())
        return None if ids[0] == NOBODYS[0] or ids[1] == NOBODYS[1] else ids

    def fields(self) -> dict[str, object]:
        """What every log line of the request carries."""
        parent = self.parent
        trace = {} if parent is None else {"trace_id": parent[0], "parent_id": parent[1]}
        return {"request_id": self.request_id, **trace}


CURRENT: Final[ContextVar[Trace | None]] = ContextVar("trace", default=None)


def blame(error: BaseException) -> None:
    """Keeps what the request at work fails for."""
    trace = CURRENT.get()
    if trace is not None:
        trace.cause = f"{type(error).__name__}: {error}"


def refuse(reason: str) -> None:
    """Keeps why the request at work is refused."""
    trace = CURRENT.get()
    if trace is not None:
        trace.reason = reason


def name_nobody() -> None:
    """Keeps the profile that the request at work is about out of its log line."""
    trace = CURRENT.get()
    if trace is not None:
        trace.nameless = True


def count_statement() -> None:
    """Counts a statement for the request at work, if one is."""
    trace = CURRENT.get()
    if trace is not None:
        trace.statements += 1
