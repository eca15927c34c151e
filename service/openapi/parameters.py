"""The parameters of operations: values in the path, the query and the headers."""

import re
from datetime import date
from typing import Annotated, Any, Final, NamedTuple
from uuid import UUID

from msgspec import Meta

from service.http import fields, idempotency
from service.http.fields import doc
from service.http.time_requests import Status
from service.parents import exceptions, report_view
from service.parents.event_stream import MAX_SECONDS
from service.parents.grants import DEFAULT_DAYS
from service.parents.report_weeks import MAX_CHILDREN
from service.platform.imports import MODES
from service.players.decision import MAX_MINUTES
from service.viewing import rules

PATH_NAME: Final = re.compile(r"\{(\w+)\}")


class Parameter(NamedTuple):
    """A value in the path, the query or a header; `kind` is its type, annotated like a field."""

    name: str
    place: str
    kind: Any
    required: bool = False


IN_PATH: Final = {
    name: Parameter(name, "path", kind, True)
    for name, kind in {
        "account_id": fields.AccountId,
        "profile_id": fields.ProfileId,
        "session_id": fields.SessionId,
        "title_id": fields.TitleId,
        "date": fields.ViewingDay,
        "grant_id": fields.GrantId,
        "request_id": fields.TimeRequestId,
        "token": Annotated[str, doc("From the URL of a link.", "Zq3xV0bq3mYg0pX1n2s6d5t7c8e9r4u1")],
    }.items()
}

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
Key = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[!-~]+$")]
HEARTBEAT_KEY: Final = Parameter(
    IDEMPOTENCY_KEY,
    "header",
    Annotated[
        Key,
        doc(
            "1 to 64 visible ASCII characters. A heartbeat that is sent again with its key is"
            " counted once: use a new key for every heartbeat, and the same one to repeat it. Every"
            " instance knows the keys of a session's latest 100 heartbeats. A key that was used for"
            " another request is rejected with 422.",
            "7f9c24e8-3b12-4a3c",
        ),
    ],
)
LastEventId = Annotated[
    UUID,
    doc("The id of the latest event that the client has.", "01a21afc-f826-7f42-9b02-bdb0686afcf3"),
]
LAST_EVENT_ID: Final = Parameter("Last-Event-ID", "header", LastEventId)
LAST_EVENT_ID_QUERY: Final = Parameter("last_event_id", "query", LastEventId)
STREAM_DURATION: Final = Parameter(
    "seconds",
    "query",
    Annotated[
        int,
        Meta(ge=1, le=MAX_SECONDS),
        doc(
            "The stream ends after this time, so that a client behind a proxy that keeps whole"
            " responses gets its events too: it asks again with the latest id.",
            20,
        ),
    ],
)
REQUEST_KEY: Final = Parameter(
    IDEMPOTENCY_KEY,
    "header",
    Annotated[
        Key,
        doc(
            "1 to 64 visible ASCII characters. A request that is sent again with its key within 24"
            " hours is carried out once, on any instance, and gets the same response, even if the"
            " first response was lost or both requests arrived at once. Use a new key for every"
            " request. A request that changed nothing can be sent again. The latest"
            f" {idempotency.MAX_KEYS:,} keys of an account are kept.",
            "b1f0a6c2-5d0e-4a7b",
        ),
    ],
)
PREFER: Final = Parameter(
    "Prefer",
    "header",
    Annotated[
        str,
        doc(
            "`decision` (RFC 7240): the response also has the decision about each rule, and the"
            " header `Preference-Applied: decision`.",
            "decision",
        ),
    ],
)
WATCHED_TITLE: Final = Parameter(
    "title_id",
    "query",
    Annotated[
        UUID,
        doc(
            "The title that plays or is to play; without it, the one that plays. An educational"
            " title can be exempt from the limits, and only the title that plays may be finished.",
            fields.EXAMPLE_TITLE,
        ),
    ],
)
TITLE_MINUTES: Final = Parameter(
    "minutes",
    "query",
    Annotated[
        Annotated[int, Meta(ge=1, le=MAX_MINUTES)],
        doc("What is left of the title; the answer then has `fits`.", 45),
    ],
)
PIN_TOKEN: Final = Parameter(
    "X-PIN-Token",
    "header",
    Annotated[
        str,
        doc(
            "A token from `POST /pin/verify`, for clients that cannot send it in the body. A"
            " `pin_token` in the body is used instead of it, even if it is invalid. A strict"
            " account requires one of them.",
            fields.EXAMPLE_JWT,
        ),
    ],
)

FIRST_DAY: Final = doc("The first day.", "2026-02-01")
LAST_DAY: Final = doc("The last day, at most 90 days after the first.", "2026-03-01")
FROM_DATE: Final = Parameter("from_date", "query", Annotated[date, FIRST_DAY], True)
TO_DATE: Final = Parameter("to_date", "query", Annotated[date, LAST_DAY], True)

EXCEPTIONS_FROM: Final = Parameter(
    "from",
    "query",
    Annotated[date, doc("The first viewing day; absent: the current one.", "2026-12-01")],
)
EXCEPTIONS_TO: Final = Parameter(
    "to",
    "query",
    Annotated[
        date,
        doc(
            f"The last viewing day; absent: {exceptions.MAX_DAYS_AHEAD} days after the first, which"
            " is as far as it can be.",
            "2026-12-31",
        ),
    ],
)
ZONE: Final = Parameter("zone", "query", report_view.Zone)
COUNTED: Final = Parameter("counted", "query", report_view.Counted)
GRANTS_FROM: Final = Parameter(
    "from",
    "query",
    Annotated[
        date,
        doc(f"The first viewing day; absent: the range has {DEFAULT_DAYS} days.", "2026-02-01"),
    ],
)
GRANTS_TO: Final = Parameter(
    "to",
    "query",
    Annotated[
        date,
        doc(
            f"The last viewing day, at most {rules.HISTORY_DAYS_MAX} days after the first; absent:"
            " the current one.",
            "2026-03-01",
        ),
    ],
)

TIME_REQUEST_STATUS: Final = Parameter(
    "status",
    "query",
    Annotated[Status, doc("Only requests of this state; absent: all.", "pending")],
)

COUNT: Final = doc(
    "The most children to return; absent: all of them, or 422 if there are more than"
    f" {MAX_CHILDREN}.",
    20,
)
LIMIT: Final = Parameter("limit", "query", Annotated[int, Meta(ge=1, le=MAX_CHILDREN), COUNT])
LAST_PROFILE: Final = doc(
    "Return only children after this profile, by name, then id.", fields.EXAMPLE_PROFILE
)
AFTER: Final = Parameter("after", "query", Annotated[UUID, LAST_PROFILE])

MODE: Final = Parameter(
    "mode",
    "query",
    Annotated[
        str,
        Meta(extra_json_schema={"enum": [*MODES], "default": "all"}),
        doc("`all`: every line or none; `best`: the lines without errors.", "best"),
    ],
)
