"""The description of the operations that players call."""

from typing import Final

from service import errors
from service.http.decision_reply import DecisionReply
from service.http.fields import EXAMPLE_TIME_REQUEST
from service.http.time_requests import TimeRequest
from service.http.urls import VIEWING
from service.openapi.operation import EXPLAINED, PLAYERS, Caller, Operation
from service.openapi.parameters import (
    HEARTBEAT_KEY,
    PREFER,
    REQUEST_KEY,
    TITLE_MINUTES,
    WATCHED_TITLE,
)
from service.players import balance, displaced, heartbeat_body, requests, session

PLAYING: Final[dict[str, Operation]] = {
    "heartbeat": Operation(
        PLAYERS,
        Caller.OWNER,
        heartbeat_body.Verdict,
        heartbeat_body.HeartbeatBody,
        [
            errors.SESSION_OF_ANOTHER_PROFILE,
            errors.TITLE_NOT_FOUND,
            errors.SESSION_NOT_FOUND,
            errors.TOO_MANY_WAITING,
        ],
        [HEARTBEAT_KEY, PREFER],
        "Send one every 30 seconds while a title plays; each counts 30 seconds (with"
        " `CREDIT=clock`, the seconds since the latest one, at most 30). If viewing cannot"
        " be counted, the verdict is `blocked` (the service fails closed).",
        headers=EXPLAINED,
        also={409: displaced.Displaced},
    ),
    "balance": Operation(PLAYERS, Caller.OWNER, balance.Balance),
    "decision": Operation(
        PLAYERS,
        Caller.OWNER,
        DecisionReply,
        sentences=[errors.TITLE_NOT_FOUND],
        parameters=[WATCHED_TITLE, TITLE_MINUTES],
        note="Every rule gives its own result; the one with the least time left decides.",
    ),
    "playback_eligible": Operation(PLAYERS, Caller.OWNER, balance.Eligibility),
    "session_end": Operation(
        PLAYERS,
        Caller.ACCOUNT,
        session.SessionEnd,
        sentences=[errors.SESSION_NOT_FOUND, errors.SESSION_DENIED],
        parameters=[REQUEST_KEY],
        note="A repetition moves the end of the session.",
    ),
    "time_request_create": Operation(
        PLAYERS,
        Caller.OWNER,
        requests.PendingRequest,
        requests.TimeRequestBody,
        [errors.ONLY_CHILDREN_REQUEST, errors.too_many_time_requests(requests.MAX_REQUESTS)],
        [REQUEST_KEY],
        "A profile has one pending request: asking again returns it with 200, without a change."
        f" After {requests.MAX_REQUESTS} requests of a viewing day the next one is rejected with"
        " 429 until the reset. A request that nobody decides expires at the reset.",
        headers={
            "Location": ("The URL of the request.", f"{VIEWING}/requests/{EXAMPLE_TIME_REQUEST}")
        },
        also={201: requests.PendingRequest},
    ),
    "time_request": Operation(
        PLAYERS, Caller.ACCOUNT, TimeRequest, sentences=[errors.TIME_REQUEST_NOT_FOUND]
    ),
}
