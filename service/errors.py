"""Every sentence that clients see, and the errors that carry one.

The sentences of the contract never change. Handlers raise them, the log and the metrics use their
labels, and the OpenAPI description lists them. `http/error_responses.py` turns errors into
responses.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Sentence(NamedTuple):
    """A response's status and `detail`; `label` is its reason in log and metrics, never sent."""

    status: int
    text: str
    label: str = ""


DELETION_ACCEPTED: Final = Sentence(202, "Deletion goes on in the background")

BODY_ENDED_EARLY: Final = Sentence(400, "Request body ended early", "body_ended_early")
NO_PIN: Final = Sentence(400, "No PIN set")
CURRENT_PIN_REQUIRED: Final = Sentence(400, "Current PIN required to change existing PIN")
CURRENT_PIN_INCORRECT: Final = Sentence(400, "Current PIN is incorrect")
IMPORT_NOT_WHOLE: Final = Sentence(
    400, "Several cells cannot import all lines or none: use mode=best", "import_not_whole"
)

TOKEN_MISSING: Final = Sentence(401, "Not authenticated", "token_missing")
TOKEN_INVALID: Final = Sentence(401, "Invalid or expired token")
TOKEN_WITHOUT_ACCOUNT: Final = Sentence(401, "Invalid token payload", "token_without_account")
ACCOUNT_INACTIVE: Final = Sentence(401, "User not found or inactive", "account_inactive")
PASSWORD_INCORRECT: Final = Sentence(401, "Incorrect account password", "password_wrong")

PROFILE_DENIED: Final = Sentence(403, "Profile not found or access denied", "profile_denied")
SESSION_OF_ANOTHER_PROFILE: Final = Sentence(
    403, "Session does not belong to this profile", "session_denied"
)
SESSION_DENIED: Final = Sentence(403, "Session access denied")
ADMIN_REQUIRED: Final = Sentence(403, "Admin privileges required")
PIN_INCORRECT: Final = Sentence(403, "Incorrect PIN")
PIN_LOCKED: Final = Sentence(403, "PIN locked due to too many failed attempts")
PIN_TOKEN_INVALID: Final = Sentence(403, "Invalid or expired PIN token")
PIN_TOKEN_REQUIRED: Final = Sentence(403, "Valid PIN token required")
DEMO_ELSEWHERE: Final = Sentence(403, "The demo works on this computer only, at 127.0.0.1")

PATH_NOT_FOUND: Final = Sentence(404, "Not Found")
ACCOUNT_NOT_FOUND: Final = Sentence(404, "Account not found")
PROFILE_NOT_FOUND: Final = Sentence(404, "Profile not found")
TITLE_NOT_FOUND: Final = Sentence(404, "Title not found", "title_unknown")
SESSION_NOT_FOUND: Final = Sentence(404, "Session not found", "session_unknown")
REPORT_LINK_UNUSABLE: Final = Sentence(404, "Link is unknown, has been used or has expired")
GRANT_NOT_FOUND: Final = Sentence(404, "Grant not found")
TIME_REQUEST_NOT_FOUND: Final = Sentence(404, "Request not found")

BODY_SLOW: Final = Sentence(408, "Request body did not arrive in time", "body_slow")

EMAIL_TAKEN: Final = Sentence(409, "Email belongs to another account")
PROFILE_TAKEN: Final = Sentence(409, "Profile belongs to another account")
SESSION_DISPLACED: Final = Sentence(409, "Session was ended by another device", "session_displaced")
TIME_REQUEST_DECIDED: Final = Sentence(
    409, "Request has been decided or has expired", "time_request_decided"
)
ACCOUNT_BEING_DELETED: Final = Sentence(409, "Account is being deleted")
PROFILE_BEING_DELETED: Final = Sentence(409, "Profile is being deleted")
TITLE_BEING_DELETED: Final = Sentence(409, "Title is being deleted")
RIGHT_MISSING: Final = Sentence(
    409, "The role of the service lacks a right; viewing-time check names it"
)

TEXT_TOO_LONG: Final = Sentence(409, "A text is longer than its column in the database allows")
TRIGGER_REFUSED: Final = Sentence(409, "A trigger of the database refuses it")

BODY_TOO_LARGE: Final = Sentence(413, "Request body too large", "body_too_large")

KEY_OF_ANOTHER_REQUEST: Final = Sentence(
    422, "Idempotency-Key has been used for another request", "key_of_another_request"
)
OWNER_NOT_FOUND: Final = Sentence(422, "Account not found")
GRANT_OVER: Final = Sentence(422, "Only a grant of the current viewing day can be undone")
DATES_REVERSED: Final = Sentence(422, "from_date must not be after to_date")
DAYS_REVERSED: Final = Sentence(422, "from must not be after to")
UNTIL_PAST: Final = Sentence(422, "until must be in the future")
NOT_A_CHILD: Final = Sentence(422, "Only a child profile can be locked")
ONLY_CHILDREN_REQUEST: Final = Sentence(422, "Only a child profile can request more time")
DAY_OVER: Final = Sentence(422, "The viewing day is over")

TOO_MANY_WAITING: Final = Sentence(429, "Too many requests are waiting", "too_many_waiting")
TOO_MANY_STREAMS: Final = Sentence(429, "Too many open streams of this account")
TOO_MANY_PIN_REQUESTS: Final = Sentence(429, "Too many PIN requests at once")
TOO_MANY_WRONG_PASSWORDS: Final = Sentence(429, "Too many wrong account passwords, try again later")

INTERNAL_ERROR: Final = Sentence(500, "Internal Server Error")
SERVICE_UNAVAILABLE: Final = Sentence(503, "Service temporarily unavailable")


def date_range_too_long(max_days: int) -> Sentence:
    return Sentence(422, f"Date range must not exceed {max_days} days")


def too_far_ahead(name: str, max_days: int) -> Sentence:
    return Sentence(422, f"{name} must be at most {max_days} days ahead")


def too_many_children(max_children: int) -> Sentence:
    text = f"More than {max_children} children: ask page by page with limit and after"
    return Sentence(422, text)


def too_many_time_requests(max_requests: int) -> Sentence:
    return Sentence(429, f"At most {max_requests} requests a viewing day", "too_many_time_requests")


def not_a_multiple(field: str, step_minutes: int) -> Sentence:
    return Sentence(422, f"{field} must be a multiple of {step_minutes} minutes")


def pin_token_required(fields: str) -> Sentence:
    """A change of `fields`, comma separated, needs a PIN token."""
    return Sentence(403, f"Valid PIN token required to change: {fields}")


def still_referred_to(table: str) -> Sentence:
    return Sentence(409, f"Table {table} still refers to it")


def value_needed(column: str | None, table: str) -> Sentence:
    return Sentence(409, f"Column {column} of table {table} needs a value")


def constraint_refused(constraint: str | None, table: str) -> Sentence:
    return Sentence(409, f"Constraint {constraint} of table {table} refuses it")


class ClientError(Exception):
    """A request that the client must change.

    `reason` is one of few labels for log and metrics; no response contains it. `members` come with
    `detail` in the response.
    """

    def __init__(
        self, sentence: Sentence, headers: Mapping[str, str] | None = None, reason: str = ""
    ) -> None:
        super().__init__(sentence.text)
        self.status = sentence.status
        self.detail: object = sentence.text
        self.members: dict[str, object] = {}
        self.headers = headers
        self.reason = reason or sentence.label or f"status_{sentence.status}"


class MalformedJson(ClientError):
    """The body is not JSON: 422, the only error that is reported before the token is checked."""

    def __init__(self, position: int, error: str) -> None:
        super().__init__(Sentence(422, "JSON decode error", "json_malformed"))
        self.detail = [
            {
                "type": "json_invalid",
                "loc": ["body", position],
                "msg": "JSON decode error",
                "input": {},
                "ctx": {"error": error},
            }
        ]


class FieldError(ClientError):
    """A field that cannot be read: 422 with the contract's list of one error."""

    def __init__(
        self,
        kind: str,
        loc: list[str | int],
        msg: str,
        value: object,
        ctx: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(Sentence(422, msg, "field_invalid"))
        entry: dict[str, object] = {"type": kind, "loc": loc, "msg": msg, "input": value}
        self.detail = [entry if ctx is None else {**entry, "ctx": ctx}]


def invalid_idempotency_key() -> FieldError:
    msg = "Idempotency-Key should be 1 to 64 visible ASCII characters"
    return FieldError("string_pattern_mismatch", ["header", "idempotency-key"], msg, None)


class RuleError(ClientError):
    """Readable fields that break a rule of the contract: 422 or 403 with one sentence."""


class Overloaded(Exception):
    """Load shedding: 503, to be retried after `retry_after` seconds."""

    reason: Final = "overloaded"

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"overloaded, retry after {retry_after} s")
        self.retry_after = retry_after
