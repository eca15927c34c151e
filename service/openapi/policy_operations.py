"""The operations by which parents decide about a child: schedule, exceptions, lock, requests."""

from typing import Final

from service import errors
from service.openapi.operation import EVERYWHERE, Operation, account, owner
from service.openapi.parameters import (
    EXCEPTIONS_FROM,
    EXCEPTIONS_TO,
    GRANTS_FROM,
    GRANTS_TO,
    PIN_TOKEN,
    REQUEST_KEY,
    TIME_REQUEST_STATUS,
)
from service.parents import exceptions, grants, lock, pin_proof, requests, schedule
from service.viewing import rules
from service.viewing.policy import DAY_NAMES

# By the name of the handler, as in `operations`.
POLICY: Final[dict[str, Operation]] = {
    "schedule": owner(schedule.Schedule),
    "schedule_put": owner(
        schedule.Schedule,
        schedule.ScheduleBody,
        [
            errors.PIN_TOKEN_REQUIRED,
            *(
                errors.not_a_multiple(name, rules.LIMIT_STEP_MINUTES)
                for name in (
                    *(f"daily_limits.{day}" for day in DAY_NAMES),
                    "weekly_limit_minutes",
                )
            ),
        ],
        [PIN_TOKEN],
        EVERYWHERE,
    ),
    "exceptions": owner(
        exceptions.DayExceptions,
        sentences=[
            errors.DAYS_REVERSED,
            errors.date_range_too_long(exceptions.MAX_DAYS_AHEAD),
        ],
        parameters=[EXCEPTIONS_FROM, EXCEPTIONS_TO],
    ),
    "exception_put": owner(
        exceptions.DayException,
        exceptions.ExceptionBody,
        [
            errors.PIN_TOKEN_REQUIRED,
            errors.DAY_OVER,
            errors.too_far_ahead("date", exceptions.MAX_DAYS_AHEAD),
            errors.not_a_multiple("limit_minutes", rules.LIMIT_STEP_MINUTES),
        ],
        [PIN_TOKEN],
        "The day is one from the current viewing day to"
        f" {exceptions.MAX_DAYS_AHEAD} days after it."
        " A new exception without `limit_minutes` keeps the usual limit of the day; without"
        f" `lifts_downtime` it keeps downtime. {EVERYWHERE}",
    ),
    "exception_delete": owner(
        body=pin_proof.ProofBody,
        sentences=[errors.PIN_TOKEN_REQUIRED, errors.DAY_OVER],
        parameters=[PIN_TOKEN],
        note=f"A day without an exception is answered in the same way. {EVERYWHERE}",
    ),
    "lock": owner(lock.Lock),
    "lock_put": owner(
        lock.Lock,
        lock.LockBody,
        [
            errors.PIN_TOKEN_REQUIRED,
            errors.UNTIL_PAST,
            errors.too_far_ahead("until", exceptions.MAX_DAYS_AHEAD),
            errors.NOT_A_CHILD,
        ],
        [PIN_TOKEN],
        f"A lock replaces an earlier one. {EVERYWHERE}",
    ),
    "lock_clear": owner(
        lock.Lock,
        pin_proof.ProofBody,
        [errors.PIN_TOKEN_REQUIRED],
        [PIN_TOKEN],
        f"A profile that is not locked is answered in the same way. {EVERYWHERE}",
    ),
    "grants": owner(
        grants.GrantList,
        sentences=[errors.DAYS_REVERSED, errors.date_range_too_long(rules.HISTORY_DAYS_MAX)],
        parameters=[GRANTS_FROM, GRANTS_TO],
        note="A grant of an earlier version is listed on the UTC day on which it was made.",
    ),
    "grant_undo": owner(
        grants.RecordedGrant,
        pin_proof.ProofBody,
        [errors.PIN_TOKEN_REQUIRED, errors.GRANT_NOT_FOUND, errors.GRANT_OVER],
        [PIN_TOKEN],
        "Viewing since the grant stays counted. Today's limit stays lifted while another unlimited"
        " grant of the day stands. Undoing a grant twice has the effect and the response of once.",
    ),
    "time_requests": account(requests.TimeRequests, parameters=[TIME_REQUEST_STATUS]),
    "time_request_approve": account(
        requests.Approved,
        requests.ApproveBody,
        [
            errors.NO_PIN,
            errors.PIN_LOCKED,
            errors.TOO_MANY_PIN_REQUESTS,
            errors.PIN_INCORRECT,
            errors.PIN_TOKEN_INVALID,
            errors.PIN_TOKEN_REQUIRED,
            errors.TIME_REQUEST_NOT_FOUND,
        ],
        [REQUEST_KEY, PIN_TOKEN],
        "The grant is made once, also if several parents approve at the"
        " same time: the others get 409 with the state of the request. PIN and PIN token are those"
        " of a grant, and a strict account requires one.",
        also={409: requests.Decided},
        needs_body=False,
    ),
    "time_request_deny": account(
        requests.Denied,
        sentences=[errors.TIME_REQUEST_NOT_FOUND],
        parameters=[REQUEST_KEY],
        note="Nothing gets more time, so a strict account needs no PIN for it.",
        also={409: requests.Decided},
    ),
}
