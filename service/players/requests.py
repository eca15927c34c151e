"""A child asks its parents for more time, and its player waits for the decision."""

from datetime import datetime
from functools import partial
from math import ceil
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service.database.driver import Source
from service.database.ids import time_ordered_id
from service.database.statement import Statement
from service.errors import ONLY_CHILDREN_REQUEST, ClientError, RuleError, too_many_time_requests
from service.http import auth, lenient_json
from service.http.body_and_reply import read, reply
from service.http.fields import ProfileId, TimeRequestId, doc
from service.http.idempotency import begin_once, repeatable
from service.http.lenient_values import reader
from service.http.time_requests import ExpiresAt, find
from service.http.urls import VIEWING
from service.viewing.policy import current_day
from service.viewing.rules import ViewingDay

MAX_REQUESTS: Final = 5  # of a viewing day
MAX_MESSAGE_CHARACTERS: Final = 200
# After the spaces at both ends are removed.
Message = Annotated[
    str, Meta(max_length=MAX_MESSAGE_CHARACTERS, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")
]


class TimeRequestBody(msgspec.Struct):
    """Asks for more time today."""

    profile_id: ProfileId
    minutes: Annotated[
        Annotated[int, Meta(ge=15, le=120)] | None,
        doc("Minutes requested; null or absent: the rest of the viewing day.", 30),
    ] = None
    message: Annotated[
        str | None,
        doc(
            f"A line to the parents, at most {MAX_MESSAGE_CHARACTERS} characters without the spaces"
            " at its ends; no control characters. It is stored as it is sent: escape it where"
            " markup has a meaning.",
            "Until the end?",
        ),
    ] = None
    device_id: Annotated[
        Annotated[str, Meta(max_length=100)] | None, doc("The player's id.", "tv-1")
    ] = None


class CreatedRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_child: bool
    request_id: UUID | None
    expires_at: datetime | None
    is_new: bool


class Asked(msgspec.Struct, frozen=True):
    """The request as it is stored for a repetition."""

    request_id: UUID
    expires_at: datetime
    is_new: bool


class PendingRequest(msgspec.Struct, frozen=True):
    """The pending request of the child: a new one with 201, an earlier one with 200."""

    request_id: TimeRequestId
    status: Annotated[Literal["pending"], doc("No parent has decided yet.", "pending")]
    expires_at: ExpiresAt


BODY: Final = lenient_json.Body(TimeRequestBody)
CREATE: Final = Statement("viewing_request_create", CreatedRow)
_read_message: Final = reader(msgspec.inspect.type_info(Message))


@repeatable
async def time_request_create(request: Request) -> Response:
    """POST /requests: asks the parents for more time."""
    body = _trimmed(read(request, BODY))
    context, account_id = await auth.caller(request)
    once = await begin_once(request, account_id, body, body.profile_id)
    policy = (await context.configurations.get(account_id, body.profile_id)).policy
    today = current_day(policy, now := context.now())
    asked = await once.outcome(partial(_ask, account_id, body, today, now))
    return _response(msgspec.json.decode(asked, type=Asked))


async def time_request(request: Request) -> Response:
    """GET /requests/{request_id}: returns a request for more time and its decision."""
    context, account_id = await auth.caller(request)
    request_id = lenient_json.path_uuid(request.path_params["request_id"], "request_id")
    return reply(await find(context.pool, account_id, request_id, context.now()))


def _trimmed(body: TimeRequestBody) -> TimeRequestBody:
    """The body without spaces at the ends of its message; raises FieldError."""
    text = _read_message((body.message or "").strip(), ("body", "message"))
    return msgspec.structs.replace(body, message=text or None)


async def _ask(
    account_id: UUID, body: TimeRequestBody, today: ViewingDay, now: datetime, source: Source
) -> Asked:
    """Stores the request, unless one is pending; raises ClientError 429 after too many of a day."""
    wishes = (body.minutes, body.message, body.device_id)
    bounds = (today.day, today.ends, now, MAX_REQUESTS)
    arguments = (account_id, body.profile_id, time_ordered_id(now), *wishes, *bounds)
    row = auth.owned(await CREATE.maybe(source, *arguments))
    if not row.is_child:
        raise RuleError(ONLY_CHILDREN_REQUEST)
    if row.request_id is None or row.expires_at is None:
        seconds = ceil((today.ends - now).total_seconds())
        raise ClientError(too_many_time_requests(MAX_REQUESTS), {"Retry-After": str(seconds)})
    return Asked(row.request_id, row.expires_at, row.is_new)


def _response(asked: Asked) -> Response:
    location = {"Location": f"{VIEWING}/requests/{asked.request_id}"}
    pending = PendingRequest(asked.request_id, "pending", asked.expires_at)
    return reply(pending, 201 if asked.is_new else 200, location)
