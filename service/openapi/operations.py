"""What the description says of each route beyond its handler's docstring.

An operation names the Structs that its handler reads and answers with, and the sentences that it
refuses with. What every operation of a kind has in common is added in `openapi`.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from enum import Enum
from typing import Annotated, Any, Final, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Meta

from service.credentials.pin_turns import TOO_MANY
from service.errors import TOO_MANY_WAITING
from service.http import auth, idempotency
from service.http.fields import EXAMPLE_PROFILE, doc
from service.operators import admin_metrics, health
from service.parents import grant, history, pin, viewing_config, weekly_report
from service.platform import accounts, bodies, erasure, import_merge, imports, profiles, titles
from service.players import balance, heartbeat, session
from service.viewing import deletion
from service.viewing.config_changes import MAX_WAIT_SECONDS

Struct = type[msgspec.Struct]


class Caller(Enum):
    """Who may call: anyone, an account, one that owns the profile, or an administrator."""

    ANYONE = "anyone"
    ACCOUNT = "account"
    OWNER = "owner"
    ADMINISTRATOR = "administrator"


class Parameter(NamedTuple):
    """A value in the path, the query or a header; `kind` is its type, annotated as a field."""

    name: str
    place: str
    kind: Any
    required: bool = False


class Operation(NamedTuple):
    """One method of one path.

    `answer` is the Struct of a 200, or None for a 204; `text` maps the media types of other bodies
    of a 200 to what they are. `also` maps other statuses to the Structs that come with them.
    """

    tag: str
    caller: Caller
    answer: Struct | None = None
    body: Struct | None = None
    refuses: Mapping[int, Sequence[str]] = {}
    parameters: Sequence[Parameter] = ()
    note: str = ""
    text: Mapping[str, str] = {}
    also: Mapping[int, Struct] = {}
    lines: Sequence[Struct] = ()


PLAYERS: Final = "Players"
PARENTS: Final = "Parents"
OWNERS: Final = "Administration"
OPERATIONS_TAG: Final = "Operations"
TAGS: Final = {
    PLAYERS: "What a player asks and tells while a child watches.",
    PARENTS: "What a parent reads, allows and grants.",
    OWNERS: "For administrators: accounts, profiles and titles from the systems that own them.",
    OPERATIONS_TAG: "For those who run the service, and this description.",
}

LOCKED: Final = "PIN locked due to too many failed attempts"
NO_PIN: Final = "No PIN set"
WRONG_PIN: Final = "Incorrect PIN"
LATER: Final = [deletion.ACCEPTED]
IN_BATCHES: Final = (
    "With 5,000 sessions or more it is done in the background, in batches, also across restarts:"
    " 202. The same request answers 202 until it is done, and 404 afterwards."
)
NO_TITLE: Final = "Title not found"
NO_SESSION: Final = "Session not found"
NO_PROFILE: Final = "Profile not found"
SLOW: Final = "Answers no sooner than after 200 milliseconds, whatever the outcome."
COUNTED: Final = (
    "An attempt is counted before it is checked; five wrong ones in a row lock the PIN for"
    " 30 minutes. One that the service could not finish is given back. An account may have six"
    " requests with a PIN at once."
)

SLOWED: Final = (
    "Wrong passwords are counted for each account: after five in a row the next is looked at after"
    " a second, and each further one doubles the delay, up to 15 minutes. The PIN is not locked."
)

Key = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[!-~]+$")]
KEY: Final = Parameter(
    "Idempotency-Key",
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
PROVED_AGAIN: Final = (
    "With an `Idempotency-Key` that was used, a PIN or password is checked again, as an attempt;"
    " only a wrong one that comes again with its key is not counted again."
)
REQUEST_KEY: Final = Parameter(
    "Idempotency-Key",
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
LANGUAGE: Final = Parameter(
    "Accept-Language",
    "header",
    Annotated[str, doc("The language of the dates on the HTML page.", "de-AT, en;q=0.5")],
)
FROM: Final = Parameter(
    "from_date", "query", Annotated[date, doc("The first day, in UTC.", "2026-02-01")], True
)
TO: Final = Parameter(
    "to_date",
    "query",
    Annotated[date, doc("The last day, in UTC, at most 90 days after the first.", "2026-03-01")],
    True,
)
LIMIT: Final = Parameter(
    "limit",
    "query",
    Annotated[
        int,
        Meta(ge=1, le=weekly_report.MAX_CHILDREN),
        doc("The most children to return; absent: all of them.", 20),
    ],
)
AFTER: Final = Parameter(
    "after",
    "query",
    Annotated[
        UUID,
        doc("Return only children after this profile, by name, then id.", EXAMPLE_PROFILE),
    ],
)
MODE: Final = Parameter(
    "mode",
    "query",
    Annotated[
        str,
        Meta(extra_json_schema={"enum": [*imports.MODES], "default": "all"}),
        doc("`all`: every line or none; `best`: the lines without errors.", "best"),
    ],
)

VIEWING: Final = "/api/v1/viewing-time"
PARENTAL: Final = "/api/v1/parental-controls"
PROFILE: Final = f"{PARENTAL}/profiles/{{profile_id}}"
HEARD: Final = (
    "Answered when every instance has heard of the change: heartbeats sent after the answer go by"
    f" it. An instance that does not respond is waited for {MAX_WAIT_SECONDS * 1000:.0f}"
    " milliseconds at most."
)
ADMIN: Final = "/api/v1/admin"

# Rules that only the platform's database has, for example.
REFERRED: Final = "Table watchlists still refers to it"
RULE: Final = "Column country of table users needs a value"

OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", f"{VIEWING}/heartbeat"): Operation(
        PLAYERS,
        Caller.OWNER,
        heartbeat.Verdict,
        heartbeat.HeartbeatBody,
        {
            403: ["Session does not belong to this profile"],
            404: [NO_TITLE, NO_SESSION],
            422: ["Idempotency-Key has been used for another request"],
            429: [TOO_MANY_WAITING],
        },
        [KEY],
        "Sent every 30 seconds while a title plays; each counts 30 seconds. `remaining_minutes` is"
        " null without a limit. Fails closed: where viewing cannot be counted, the answer is"
        " `blocked`.",
    ),
    ("GET", f"{VIEWING}/balance/{{profile_id}}"): Operation(PLAYERS, Caller.OWNER, balance.Balance),
    ("GET", f"{VIEWING}/playback-eligible/{{profile_id}}"): Operation(
        PLAYERS, Caller.OWNER, balance.Eligibility
    ),
    ("POST", f"{VIEWING}/session/{{session_id}}/end"): Operation(
        PLAYERS,
        Caller.ACCOUNT,
        session.SessionEnd,
        refuses={404: [NO_SESSION], 403: ["Session access denied"], 422: [idempotency.USED]},
        parameters=[REQUEST_KEY],
    ),
    ("GET", f"{PARENTAL}/pin/status"): Operation(PARENTS, Caller.ACCOUNT, pin.PinStatus),
    ("POST", f"{PARENTAL}/pin"): Operation(
        PARENTS,
        Caller.ACCOUNT,
        pin.PinDone,
        pin.SetBody,
        {
            400: [pin.CURRENT_NEEDED, pin.WRONG_CURRENT, NO_PIN],
            403: [LOCKED],
            422: [idempotency.USED],
            429: [TOO_MANY],
        },
        [REQUEST_KEY],
        f"{COUNTED} {SLOW} {PROVED_AGAIN}",
    ),
    ("POST", f"{PARENTAL}/pin/verify"): Operation(
        PARENTS,
        Caller.ACCOUNT,
        pin.PinVerified,
        pin.VerifyBody,
        {400: [NO_PIN], 403: [WRONG_PIN, LOCKED], 422: [idempotency.USED], 429: [TOO_MANY]},
        [REQUEST_KEY],
        f"{COUNTED} {SLOW} {PROVED_AGAIN} The token is a new one.",
    ),
    ("POST", f"{PARENTAL}/pin/reset"): Operation(
        PARENTS,
        Caller.ACCOUNT,
        pin.PinDone,
        pin.ResetBody,
        {
            401: [pin.WRONG_PASSWORD],
            422: [idempotency.USED],
            429: [TOO_MANY, pin.TOO_EARLY],
        },
        [REQUEST_KEY],
        f"{SLOWED} {SLOW} {PROVED_AGAIN}",
    ),
    ("GET", f"{PROFILE}/viewing-time"): Operation(
        PARENTS, Caller.OWNER, viewing_config.ViewingConfiguration
    ),
    ("PUT", f"{PROFILE}/viewing-time"): Operation(
        PARENTS,
        Caller.OWNER,
        viewing_config.ViewingConfiguration,
        viewing_config.ConfigurationBody,
        {
            403: [
                "Valid PIN token required to change: educational_exempt",
                "Valid PIN token required to change: reset_hour",
                "Valid PIN token required to change: educational_exempt, reset_hour",
            ],
            422: [
                "weekday_limit_minutes must be a multiple of 15 minutes",
                "weekend_limit_minutes must be a multiple of 15 minutes",
            ],
        },
        note=HEARD,
    ),
    ("POST", f"{PROFILE}/viewing-time/grant"): Operation(
        PARENTS,
        Caller.OWNER,
        grant.Grant,
        grant.GrantBody,
        {
            400: [NO_PIN],
            403: [WRONG_PIN, LOCKED, grant.BAD_TOKEN],
            422: [idempotency.USED],
            429: [TOO_MANY],
        },
        [REQUEST_KEY],
        "With `pin` or `pin_token` a grant on the child's device, else a remote one."
        f" {COUNTED} {PROVED_AGAIN}",
    ),
    ("GET", f"{PROFILE}/history"): Operation(
        PARENTS,
        Caller.OWNER,
        history.History,
        refuses={
            422: ["from_date must not be after to_date", "Date range must not exceed 90 days"]
        },
        parameters=[FROM, TO],
    ),
    ("GET", f"{PARENTAL}/weekly-report"): Operation(
        PARENTS,
        Caller.ACCOUNT,
        weekly_report.WeeklyReport,
        refuses={403: [auth.NOT_OWNER], 422: [weekly_report.TOO_MANY]},
        parameters=[LANGUAGE, LIMIT, AFTER],
        note="An account with more children than `limit` may be gets them page by page: with"
        " `limit`, the `Link` header says where the next page is, as long as there is one.",
        text={"text/html": "The report as a page for people, where `Accept` prefers it."},
    ),
    ("GET", f"{ADMIN}/metrics"): Operation(
        OPERATIONS_TAG, Caller.ADMINISTRATOR, admin_metrics.Counts
    ),
    ("PUT", f"{ADMIN}/accounts/{{account_id}}"): Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        accounts.Account,
        bodies.AccountBody,
        {409: ["Email belongs to another account", accounts.BEING_DELETED, RULE]},
    ),
    ("DELETE", f"{ADMIN}/accounts/{{account_id}}"): Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        refuses={202: LATER, 404: ["Account not found"], 409: [REFERRED]},
        note=IN_BATCHES,
    ),
    ("PUT", f"{ADMIN}/profiles/{{profile_id}}"): Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        profiles.Profile,
        bodies.ProfileBody,
        {422: [profiles.NO_ACCOUNT], 409: [profiles.NOT_MOVED, profiles.BEING_DELETED, RULE]},
        note=HEARD,
    ),
    ("DELETE", f"{ADMIN}/profiles/{{profile_id}}"): Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        refuses={202: LATER, 404: [NO_PROFILE], 409: [REFERRED]},
        note=IN_BATCHES,
    ),
    ("DELETE", f"{ADMIN}/profiles/{{profile_id}}/viewing-data"): Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        erasure.Erased,
        refuses={404: [NO_PROFILE], 409: [REFERRED]},
        note=HEARD,
    ),
    ("PUT", f"{ADMIN}/titles/{{title_id}}"): Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        titles.Title,
        bodies.TitleBody,
        {409: [titles.BEING_DELETED, RULE]},
    ),
    ("DELETE", f"{ADMIN}/titles/{{title_id}}"): Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        refuses={202: LATER, 404: [NO_TITLE], 409: [REFERRED]},
        note=IN_BATCHES,
    ),
    ("POST", f"{ADMIN}/import"): Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        import_merge.Outcome,
        refuses={409: [RULE], 422: [idempotency.USED]},
        parameters=[MODE, REQUEST_KEY],
        note="Up to 100 MB of lines, each a JSON object of at most 1 MB: `type` (`account`,"
        " `profile` or `title`), `id`, and the members that a PUT of it takes, each of at most"
        " 64 KiB. The same lines again change nothing.",
        also={422: import_merge.Outcome},
        lines=[bodies.AccountBody, bodies.ProfileBody, bodies.TitleBody],
    ),
    ("GET", "/health/live"): Operation(OPERATIONS_TAG, Caller.ANYONE, health.Alive),
    ("GET", "/health/ready"): Operation(
        OPERATIONS_TAG, Caller.ANYONE, health.Readiness, also={503: health.Readiness}
    ),
    ("GET", "/health"): Operation(
        OPERATIONS_TAG, Caller.ANYONE, health.Readiness, also={503: health.Readiness}
    ),
    ("GET", "/openapi.json"): Operation(
        OPERATIONS_TAG, Caller.ANYONE, text={"application/json": "OpenAPI 3.1."}
    ),
    ("GET", "/docs"): Operation(OPERATIONS_TAG, Caller.ANYONE, text={"text/html": "A page."}),
}

OWN_SENTENCES: Final = {
    401: [auth.NOT_AUTHENTICATED, auth.INVALID_TOKEN, auth.INVALID_PAYLOAD, auth.INACTIVE],
    404: ["Not Found"],
    408: ["Request body did not arrive in time"],
    413: ["Request body too large"],
    503: ["Service temporarily unavailable"],
}
