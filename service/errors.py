"""What can go wrong that a client is told about, in the contract's own words.

Raised anywhere below the handlers, turned into responses by one table in `faults.py`.
"""

from collections.abc import Mapping
from typing import Any, Final

TOO_MANY_WAITING: Final = "Too many requests are waiting"

# Labels of log and metrics. The fault of a token has one of its own: its sentence tells too little.
REASONS: Final = {
    "Idempotency-Key has been used for another request": "key_of_another_request",
    "Incorrect account password": "password_wrong",
    "Invalid token payload": "token_without_account",
    "Not authenticated": "token_missing",
    "Profile not found or access denied": "profile_denied",
    "Request body did not arrive in time": "body_slow",
    "Request body ended early": "body_ended_early",
    "Request body too large": "body_too_large",
    "Session does not belong to this profile": "session_denied",
    "Session not found": "session_unknown",
    "Title not found": "title_unknown",
    TOO_MANY_WAITING: "too_many_waiting",
    "User not found or inactive": "account_inactive",
}


class ClientError(Exception):
    """A request the client must change: `status`, the contract's `detail`, extra headers.

    `reason` is one of few words for log and metrics; no answer contains it.
    """

    def __init__(
        self,
        status: int,
        detail: object,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.reason = reason or REASONS.get(str(detail), f"status_{status}")


class MalformedJson(ClientError):
    """The body is no JSON: 422, the one fault that is answered before the token is looked at."""

    def __init__(self, position: int, error: str) -> None:
        fault = {
            "type": "json_invalid",
            "loc": ["body", position],
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error},
        }
        super().__init__(422, [fault], reason="json_malformed")


class FieldError(ClientError):
    """A field that cannot be read: 422 with the contract's list of one fault."""

    def __init__(
        self,
        kind: str,
        loc: list[str | int],
        msg: str,
        value: object,
        ctx: Mapping[str, Any] | None = None,
    ) -> None:
        fault: dict[str, object] = {"type": kind, "loc": loc, "msg": msg, "input": value}
        if ctx is not None:
            fault["ctx"] = ctx
        super().__init__(422, [fault], reason="field_invalid")


class RuleError(ClientError):
    """Readable fields that break a rule of the contract: 422 or 403 with one sentence."""


class Overloaded(Exception):
    """More work than can be done in time: 503, to be tried again after `retry_after` seconds."""

    reason: Final = "overloaded"

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"overloaded, retry after {retry_after} s")
        self.retry_after = retry_after


class Unavailable(Exception):
    """The database cannot be reached, its connection was lost, or it did not answer: 503."""


class Unsent(Unavailable):
    """The connection was lost before the statement was sent: nothing of it was applied."""
