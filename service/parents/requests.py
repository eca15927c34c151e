"""Parents see their children's requests for more time, and approve or deny them."""

from datetime import datetime
from functools import partial
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service.database.driver import Source
from service.database.statement import Statement
from service.errors import TIME_REQUEST_DECIDED, TIME_REQUEST_NOT_FOUND, ClientError
from service.http import auth, lenient_json
from service.http.body_and_reply import read_optional, reply
from service.http.fields import (
    EffectMinutes,
    GrantId,
    IsUnlimited,
    RemainingMinutes,
    TimeRequestId,
    doc,
)
from service.http.idempotency import begin_once, repeatable
from service.http.lenient_values import reader
from service.http.time_requests import (
    Status,
    TimeRequest,
    TimeRequestRow,
    find,
    time_request,
)
from service.parents.grant import GrantBody, Planned, grant_proof, granted, record
from service.parents.pin_proof import PinProof
from service.viewing.policy import viewing_day

MAX_LISTED: Final = 500


class ApproveBody(GrantBody):
    """The grant that approves a request; what is left out is as the child has requested it."""

    minutes: Annotated[
        Annotated[int, Meta(ge=15, le=120)] | None,
        doc(
            "Minutes to grant; null or absent: those of the request. If it has none either,"
            " today's limit is lifted.",
            30,
        ),
    ] = None


class DeniedRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_found: bool
    is_denied: bool


class TimeRequests(msgspec.Struct, frozen=True):
    """The requests of all children of the account."""

    is_complete: Annotated[bool, doc(f"False if only the latest {MAX_LISTED} are listed.", True)]
    requests: Annotated[list[TimeRequest], doc("Requests, newest first.")]


class Approved(msgspec.Struct, frozen=True):
    """The approved request, its grant, and the minutes left after it."""

    request_id: TimeRequestId
    status: Annotated[Literal["approved"], doc("The state of the request.", "approved")]
    grant_id: GrantId
    granted_minutes: Annotated[
        int | None, doc("Minutes granted; null if today's limit was lifted.", 30)
    ]
    remaining_minutes: RemainingMinutes
    is_unlimited_override: IsUnlimited
    effect_minutes: EffectMinutes


class Denied(msgspec.Struct, frozen=True):
    """The denied request."""

    request_id: TimeRequestId
    status: Annotated[Literal["denied"], doc("The state of the request.", "denied")]


class Decided(msgspec.Struct, frozen=True):
    """The response to a decision about a request that is not pending."""

    detail: Annotated[str, doc("The reason.", TIME_REQUEST_DECIDED.text)]
    status: Annotated[Status, doc("The state of the request.", "approved")]


STATUS: Final = reader(msgspec.inspect.type_info(Status))
APPROVE: Final = lenient_json.Body(ApproveBody)
LIST: Final = Statement("viewing_request_list", TimeRequestRow)
DENY: Final = Statement("viewing_request_deny", DeniedRow)


async def time_requests(request: Request) -> Response:
    """GET /requests?status: lists the children's requests for more time, newest first."""
    context, account_id = await auth.caller(request)
    query = request.query_params
    status = STATUS(query["status"], ("query", "status")) if "status" in query else None
    rows = await LIST.all(context.pool, account_id, status, context.now(), MAX_LISTED + 1)
    auth.active(rows[0] if rows else None)
    found = [time_request(row) for row in rows[:MAX_LISTED] if row.request_id is not None]
    return reply(TimeRequests(len(rows) <= MAX_LISTED, found))


@repeatable
async def time_request_approve(request: Request) -> Response:
    """POST /requests/{request_id}/approve: approves a request and grants its time."""
    body = read_optional(request, APPROVE)
    context, account_id = await auth.caller(request)
    request_id = lenient_json.path_uuid(request.path_params["request_id"], "request_id")
    once = await begin_once(request, account_id, (request_id, body))
    found = await find(context.pool, account_id, request_id, context.now())
    proof = await grant_proof(request, once, account_id, found.profile_id, body)
    policy = (await context.configurations.get(account_id, found.profile_id)).policy
    day = viewing_day(policy, now := context.now())
    body.minutes = found.minutes if body.minutes is None else body.minutes
    planned = Planned(found.profile_id, body, policy, day, now, False, request_id)
    return await once.answer(partial(_approve, account_id, proof, planned))


async def _approve(account_id: UUID, proof: PinProof, planned: Planned, source: Source) -> Approved:
    row = await record(account_id, proof, planned, source)
    assert planned.request_id is not None
    if row.grant_id is None:
        raise await _decided(account_id, planned.request_id, planned.now, source)
    grant = granted(planned, row)
    return Approved(
        planned.request_id,
        "approved",
        row.grant_id,
        grant.granted_minutes,
        grant.remaining_minutes,
        grant.is_unlimited_override,
        lenient_json.maybe_minutes(row.effect_seconds),
    )


@repeatable
async def time_request_deny(request: Request) -> Response:
    """POST /requests/{request_id}/deny: denies a request for more time."""
    context, account_id = await auth.caller(request)
    request_id = lenient_json.path_uuid(request.path_params["request_id"], "request_id")
    once = await begin_once(request, account_id, request_id)
    return await once.answer(partial(_deny, account_id, request_id, context.now()))


async def _deny(account_id: UUID, request_id: UUID, now: datetime, source: Source) -> Denied:
    row = auth.active(await DENY.maybe(source, account_id, request_id, now))
    if not row.is_found:
        raise ClientError(TIME_REQUEST_NOT_FOUND)
    if not row.is_denied:
        raise await _decided(account_id, request_id, now, source)
    return Denied(request_id, "denied")


async def _decided(
    account_id: UUID, request_id: UUID, now: datetime, source: Source
) -> ClientError:
    """The error of a decision about a request that is not pending, with its state.

    A new statement reads the state: another decision may have been made since the first one began.
    """
    found = await find(source, account_id, request_id, now)
    error = ClientError(TIME_REQUEST_DECIDED)
    error.members.update(status=found.status)
    return error
