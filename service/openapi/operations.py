"""The parts of the description that a handler and its docstring do not contain.

An operation names the Structs that its handler reads and returns, and the sentences of its errors.
`document` adds what follows from those, such as the errors of every operation with a body.
"""

from typing import Final

from service import errors
from service.http.fields import EXAMPLE_GRANT, EXAMPLE_PROFILE
from service.http.urls import PROFILE
from service.openapi.operation import (
    EVERYWHERE,
    EXPLAINED,
    OPERATORS,
    PARENTS,
    STREAM,
    Caller,
    Operation,
    account,
    anyone,
    owner,
)
from service.openapi.parameters import (
    AFTER,
    COUNTED,
    FROM_DATE,
    LAST_EVENT_ID,
    LAST_EVENT_ID_QUERY,
    LIMIT,
    PIN_TOKEN,
    PREFER,
    REQUEST_KEY,
    STREAM_DURATION,
    TO_DATE,
    ZONE,
)
from service.openapi.platform_operations import RECORDS
from service.openapi.player_operations import PLAYING
from service.openapi.policy_operations import POLICY
from service.operators import admin_metrics, health, start
from service.parents import (
    grant,
    history,
    pin,
    report_link,
    report_weeks,
    strict,
    viewing_config,
    weekly_report,
)
from service.viewing import rules

DELAYED: Final = "The response takes at least 200 milliseconds, whatever the outcome."
ATTEMPTS: Final = (
    "An attempt is counted before it is checked; five wrong ones in a row lock the PIN for 30"
    " minutes. If the operator sets PIN_LOCK_ESCALATION, each wrong one after a lock locks it for"
    " twice as long, up to 24 hours. An attempt that the service could not finish does not count."
    " An account can have six PIN requests at once."
)
PASSWORDS: Final = (
    "Wrong passwords are counted for each account: after five in a row the next is checked only"
    " after a second, and each further one doubles that delay, up to 15 minutes. They do not lock"
    " the PIN."
)
CHECKED_AGAIN: Final = (
    "A request that is repeated with its `Idempotency-Key` checks the PIN or password again, which"
    " counts as an attempt, unless its first response was that the PIN or password is wrong."
)

STRICT: Final = (
    "In a strict account every change of limits, schedules, exceptions and locks, and every grant,"
    " needs a PIN token: without one it is rejected with 403. An account without a PIN cannot"
    " become strict."
)

GRANT_URL: Final = f"{PROFILE.format(profile_id=EXAMPLE_PROFILE)}/grants/{EXAMPLE_GRANT}"
PIN_ERRORS: Final = [errors.NO_PIN, errors.PIN_LOCKED, errors.TOO_MANY_PIN_REQUESTS]


# By the name of the handler.
OPERATIONS: Final[dict[str, Operation]] = {
    **PLAYING,
    "pin_status": account(pin.PinStatus),
    "pin_set": account(
        pin.PinDone,
        pin.PinSetBody,
        [*PIN_ERRORS, errors.CURRENT_PIN_REQUIRED, errors.CURRENT_PIN_INCORRECT],
        [REQUEST_KEY],
        f"{ATTEMPTS} {DELAYED} {CHECKED_AGAIN}",
    ),
    "pin_verify": account(
        pin.PinVerified,
        pin.PinVerifyBody,
        [*PIN_ERRORS, errors.PIN_INCORRECT],
        [REQUEST_KEY],
        f"{ATTEMPTS} {DELAYED} {CHECKED_AGAIN} Each response has a new token.",
    ),
    "pin_reset": account(
        pin.PinDone,
        pin.PinResetBody,
        [errors.PASSWORD_INCORRECT, errors.TOO_MANY_PIN_REQUESTS, errors.TOO_MANY_WRONG_PASSWORDS],
        [REQUEST_KEY],
        f"It also ends a lock of the PIN. {PASSWORDS} {DELAYED} {CHECKED_AGAIN}",
    ),
    "strict": account(strict.Strict),
    "strict_update": account(
        strict.Strict, strict.StrictBody, [errors.PIN_TOKEN_REQUIRED], [PIN_TOKEN], STRICT
    ),
    "viewing_config": owner(
        viewing_config.ViewingConfiguration, note="The first request stores the defaults."
    ),
    "viewing_config_update": owner(
        viewing_config.ViewingConfiguration,
        viewing_config.ConfigurationBody,
        [
            errors.pin_token_required("educational_exempt"),
            errors.pin_token_required("reset_hour"),
            errors.pin_token_required("educational_exempt, reset_hour"),
            errors.PIN_TOKEN_REQUIRED,
            errors.not_a_multiple("weekday_limit_minutes", rules.LIMIT_STEP_MINUTES),
            errors.not_a_multiple("weekend_limit_minutes", rules.LIMIT_STEP_MINUTES),
        ],
        [PIN_TOKEN],
        f"{EVERYWHERE} In a strict account a change of zone or reset hour gives no second"
        " allowance: if it begins another viewing day, the time used moves to that day, and a"
        " change back to an earlier day takes effect when the current day has ended.",
    ),
    **POLICY,
    "grant": owner(
        grant.Grant,
        grant.GrantBody,
        [
            *PIN_ERRORS,
            errors.PIN_INCORRECT,
            errors.PIN_TOKEN_INVALID,
            errors.PIN_TOKEN_REQUIRED,
        ],
        [REQUEST_KEY, PIN_TOKEN, PREFER],
        "A grant with `pin` or `pin_token` is made on the child's device, any other remotely, also"
        " with the header `X-PIN-Token`. A strict account requires one of the three. If the request"
        " has `mode` or the preference `decision`, the response also has `grant_id` and"
        " `effect_minutes`."
        f" {ATTEMPTS} {CHECKED_AGAIN}",
        headers={
            "Location": ("The URL of the grant, which can be undone there.", GRANT_URL),
            **EXPLAINED,
        },
    ),
    "history": owner(
        history.History,
        sentences=[errors.DATES_REVERSED, errors.date_range_too_long(rules.HISTORY_DAYS_MAX)],
        parameters=[FROM_DATE, TO_DATE, ZONE, COUNTED],
        note="At most 500 sessions are listed. With `zone=child` a session that was watched on"
        " several viewing days is in each of them, with the minutes of that day.",
        headers={"X-Truncated": ("Present if older sessions are missing.", "true")},
    ),
    "events": account(
        sentences=[errors.TOO_MANY_STREAMS],
        parameters=[LAST_EVENT_ID, LAST_EVENT_ID_QUERY, STREAM_DURATION],
        note=STREAM,
        text={"text/event-stream": "Server-sent events, as the HTML standard defines them."},
    ),
    "weekly_report": account(
        weekly_report.WeeklyReport,
        sentences=[errors.PROFILE_DENIED, errors.too_many_children(report_weeks.MAX_CHILDREN)],
        parameters=[LIMIT, AFTER, ZONE, COUNTED],
        note="An account with more children than `limit` allows gets them page by page: with"
        " `limit`, the `Link` header names the next page, if there is one.",
        text={
            "text/html": "The report as a page for people, if `Accept` prefers it. It always counts"
            " as with `zone=child` and `counted=true`. It is in the language that `Accept-Language`"
            " prefers: English, German, French or Spanish."
        },
        headers={
            "Content-Language": ("The language of the page.", "en"),
            "Link": (
                "The next page of children.",
                f'<?limit=20&after={EXAMPLE_PROFILE}>; rel="next"',
            ),
        },
    ),
    "report_link": account(
        report_link.ReportLink,
        parameters=[REQUEST_KEY],
        note="For a browser, which has no access token: the URL shows the page of the weekly"
        " report once, within five minutes, and needs none. Open it in the browser itself, because"
        " a program that previews links uses it up. An account has at most"
        f" {report_link.MAX_LINKS} open links; the oldest one is dropped for a new one. A request"
        " that is repeated with its `Idempotency-Key` gets a new link.",
    ),
    "linked_report": Operation(
        PARENTS,
        Caller.ANYONE,
        sentences=[errors.REPORT_LINK_UNUSABLE, errors.SERVICE_UNAVAILABLE],
        note="The second request gets 404, as a page if `Accept` prefers HTML. So does a link that"
        " has expired, or whose account is not active.",
        text={"text/html": "The page of the weekly report."},
        headers={"Content-Language": ("The language of the page.", "en")},
    ),
    **RECORDS,
    "admin_metrics": Operation(
        OPERATORS,
        Caller.ADMIN,
        admin_metrics.Counts,
        note="Durations are in milliseconds.",
    ),
    "health_live": anyone(health.Alive),
    "health_ready": anyone(
        health.Readiness,
        also={503: health.Readiness},
        note="The result of the latest check, which is repeated in the background: the request"
        " waits for nothing.",
    ),
    "start": anyone(
        start.Start,
        sentences=[errors.PATH_NOT_FOUND],
        note="404 for a request with `Authorization`.",
        text={"text/html": "The same as a page, if `Accept` prefers it."},
    ),
    "openapi_json": anyone(text={"application/json": "The OpenAPI 3.1 document."}),
    "docs": anyone(text={"text/html": "The page."}),
}
