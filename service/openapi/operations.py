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

from service import errors
from service.http import idempotency
from service.http.fields import EXAMPLE_PROFILE, doc
from service.operators import admin_metrics, health
from service.parents import grant, history, pin, viewing_config, weekly_report
from service.platform import accounts, bodies, erasure, import_merge, imports, profiles, titles
from service.players import balance, heartbeat, session
from service.viewing import rules
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
    sentences: Sequence[errors.Sentence] = ()
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

IN_BATCHES: Final = (
    "With 5,000 sessions or more it is done in the background, in batches, also across restarts:"
    " 202. The same request answers 202 until it is done, and 404 afterwards."
)
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

HEARD: Final = (
    "Answered when every instance has heard of the change: heartbeats sent after the answer go by"
    f" it. An instance that does not respond is waited for {MAX_WAIT_SECONDS * 1000:.0f}"
    " milliseconds at most."
)

# Examples of rules that only the platform's database has.
REFERRED: Final = errors.still_referred_to("watchlists")
RULE: Final = errors.value_needed("country", "users")

# By the name of the handler.
OPERATIONS: Final[dict[str, Operation]] = {
    "heartbeat": Operation(
        PLAYERS,
        Caller.OWNER,
        heartbeat.Verdict,
        heartbeat.HeartbeatBody,
        [
            errors.SESSION_OF_ANOTHER_PROFILE,
            errors.TITLE_NOT_FOUND,
            errors.SESSION_NOT_FOUND,
            errors.KEY_OF_ANOTHER_REQUEST,
            errors.TOO_MANY_WAITING,
        ],
        [KEY],
        "Sent every 30 seconds while a title plays; each counts 30 seconds. `remaining_minutes` is"
        " null without a limit. Fails closed: where viewing cannot be counted, the answer is"
        " `blocked`.",
    ),
    "balance": Operation(PLAYERS, Caller.OWNER, balance.Balance),
    "playback_eligible": Operation(PLAYERS, Caller.OWNER, balance.Eligibility),
    "session_end": Operation(
        PLAYERS,
        Caller.ACCOUNT,
        session.SessionEnd,
        sentences=[
            errors.SESSION_NOT_FOUND,
            errors.SESSION_DENIED,
            errors.KEY_OF_ANOTHER_REQUEST,
        ],
        parameters=[REQUEST_KEY],
    ),
    "pin_status": Operation(PARENTS, Caller.ACCOUNT, pin.PinStatus),
    "pin_set": Operation(
        PARENTS,
        Caller.ACCOUNT,
        pin.PinDone,
        pin.SetBody,
        [
            errors.CURRENT_PIN_REQUIRED,
            errors.CURRENT_PIN_INCORRECT,
            errors.NO_PIN,
            errors.PIN_LOCKED,
            errors.KEY_OF_ANOTHER_REQUEST,
            errors.TOO_MANY_PIN_REQUESTS,
        ],
        [REQUEST_KEY],
        f"{COUNTED} {SLOW} {PROVED_AGAIN}",
    ),
    "pin_verify": Operation(
        PARENTS,
        Caller.ACCOUNT,
        pin.PinVerified,
        pin.VerifyBody,
        [
            errors.NO_PIN,
            errors.PIN_INCORRECT,
            errors.PIN_LOCKED,
            errors.KEY_OF_ANOTHER_REQUEST,
            errors.TOO_MANY_PIN_REQUESTS,
        ],
        [REQUEST_KEY],
        f"{COUNTED} {SLOW} {PROVED_AGAIN} The token is a new one.",
    ),
    "pin_reset": Operation(
        PARENTS,
        Caller.ACCOUNT,
        pin.PinDone,
        pin.ResetBody,
        [
            errors.PASSWORD_INCORRECT,
            errors.KEY_OF_ANOTHER_REQUEST,
            errors.TOO_MANY_PIN_REQUESTS,
            errors.TOO_MANY_WRONG_PASSWORDS,
        ],
        [REQUEST_KEY],
        f"{SLOWED} {SLOW} {PROVED_AGAIN}",
    ),
    "viewing_config": Operation(PARENTS, Caller.OWNER, viewing_config.ViewingConfiguration),
    "viewing_config_update": Operation(
        PARENTS,
        Caller.OWNER,
        viewing_config.ViewingConfiguration,
        viewing_config.ConfigurationBody,
        [
            errors.pin_token_required("educational_exempt"),
            errors.pin_token_required("reset_hour"),
            errors.pin_token_required("educational_exempt, reset_hour"),
            errors.not_a_multiple("weekday_limit_minutes", rules.LIMIT_STEP_MINUTES),
            errors.not_a_multiple("weekend_limit_minutes", rules.LIMIT_STEP_MINUTES),
        ],
        note=HEARD,
    ),
    "grant": Operation(
        PARENTS,
        Caller.OWNER,
        grant.Grant,
        grant.GrantBody,
        [
            errors.NO_PIN,
            errors.PIN_INCORRECT,
            errors.PIN_LOCKED,
            errors.PIN_TOKEN_INVALID,
            errors.KEY_OF_ANOTHER_REQUEST,
            errors.TOO_MANY_PIN_REQUESTS,
        ],
        [REQUEST_KEY],
        "With `pin` or `pin_token` a grant on the child's device, else a remote one."
        f" {COUNTED} {PROVED_AGAIN}",
    ),
    "history": Operation(
        PARENTS,
        Caller.OWNER,
        history.History,
        sentences=[
            errors.DATES_REVERSED,
            errors.date_range_too_long(rules.HISTORY_DAYS_MAX),
        ],
        parameters=[FROM, TO],
    ),
    "weekly_report": Operation(
        PARENTS,
        Caller.ACCOUNT,
        weekly_report.WeeklyReport,
        sentences=[
            errors.PROFILE_DENIED,
            errors.too_many_children(weekly_report.MAX_CHILDREN),
        ],
        parameters=[LIMIT, AFTER],
        note="An account with more children than `limit` may be gets them page by page: with"
        " `limit`, the `Link` header says where the next page is, as long as there is one.",
        text={"text/html": "The report as a page for people, where `Accept` prefers it."},
    ),
    "admin_metrics": Operation(OPERATIONS_TAG, Caller.ADMINISTRATOR, admin_metrics.Counts),
    "account_put": Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        accounts.Account,
        bodies.AccountBody,
        [errors.EMAIL_TAKEN, errors.ACCOUNT_BEING_DELETED, RULE],
    ),
    "account_delete": Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        sentences=[errors.DELETION_ACCEPTED, errors.ACCOUNT_NOT_FOUND, REFERRED],
        note=IN_BATCHES,
    ),
    "profile_put": Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        profiles.Profile,
        bodies.ProfileBody,
        [
            errors.OWNER_NOT_FOUND,
            errors.PROFILE_TAKEN,
            errors.PROFILE_BEING_DELETED,
            RULE,
        ],
        note=HEARD,
    ),
    "profile_delete": Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        sentences=[errors.DELETION_ACCEPTED, errors.PROFILE_NOT_FOUND, REFERRED],
        note=IN_BATCHES,
    ),
    "viewing_data_erase": Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        erasure.Erased,
        sentences=[errors.PROFILE_NOT_FOUND, REFERRED],
        note=HEARD,
    ),
    "title_put": Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        titles.Title,
        bodies.TitleBody,
        [errors.TITLE_BEING_DELETED, RULE],
    ),
    "title_delete": Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        sentences=[errors.DELETION_ACCEPTED, errors.TITLE_NOT_FOUND, REFERRED],
        note=IN_BATCHES,
    ),
    "import_records": Operation(
        OWNERS,
        Caller.ADMINISTRATOR,
        import_merge.Outcome,
        sentences=[RULE, errors.KEY_OF_ANOTHER_REQUEST],
        parameters=[MODE, REQUEST_KEY],
        note="Up to 100 MB of lines, each a JSON object of at most 1 MB: `type` (`account`,"
        " `profile` or `title`), `id`, and the members that a PUT of it takes, each of at most"
        " 64 KiB. The same lines again change nothing.",
        also={422: import_merge.Outcome},
        lines=[bodies.AccountBody, bodies.ProfileBody, bodies.TitleBody],
    ),
    "health_live": Operation(OPERATIONS_TAG, Caller.ANYONE, health.Alive),
    "health_ready": Operation(
        OPERATIONS_TAG, Caller.ANYONE, health.Readiness, also={503: health.Readiness}
    ),
    "openapi_json": Operation(
        OPERATIONS_TAG, Caller.ANYONE, text={"application/json": "OpenAPI 3.1."}
    ),
    "docs": Operation(OPERATIONS_TAG, Caller.ANYONE, text={"text/html": "A page."}),
}
