"""A grant of more time today, made remotely or with the PIN on the child's device."""

from datetime import date, datetime
from functools import partial
from typing import Annotated, Final, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.driver import Source
from service.database.ids import id_prefix
from service.database.statement import Statement
from service.errors import (
    PIN_INCORRECT,
    PIN_TOKEN_INVALID,
    PIN_TOKEN_REQUIRED,
    ClientError,
    RuleError,
)
from service.http import auth, lenient_json
from service.http.body_and_reply import read, reply
from service.http.decided import APPLIED, prefers_decision
from service.http.decision_reply import DecisionReply, decision_reply, unlimited_reply
from service.http.fields import EffectMinutes, GrantId, IsUnlimited, RemainingMinutes, doc
from service.http.idempotency import RequestedOnce, begin_once, repeatable
from service.http.lenient_json import maybe_minutes
from service.http.urls import PROFILE
from service.parents.pin_attempt import Pin, attempt, delayed_response, hashing_turn
from service.parents.pin_proof import NO_PROOF, PinProof, pin_proof
from service.viewing.decision import Usage, decide
from service.viewing.policy import Policy, usage_from, viewing_day
from service.viewing.usage import week


class GrantBody(msgspec.Struct):
    """Minutes to grant; null or absent means unlimited for today."""

    minutes: Annotated[
        Annotated[int, Meta(ge=15, le=120)] | None,
        doc("Minutes to grant; null or absent lifts today's limit.", 30),
    ] = None
    pin: Annotated[
        Pin | None, doc("PIN of a parent who is at the child's device, 4 ASCII digits.", None)
    ] = None
    pin_token: Annotated[
        str | None, doc("Instead of `pin`. With neither, the grant is remote.", None)
    ] = None
    mode: Annotated[
        Literal["credit", "extend"] | UnsetType,
        doc(
            "`credit`, the default, lowers the minutes used today, not below 0. `extend` adds the"
            " minutes to today's limit, so none of them are lost. Without `minutes` it has no"
            " effect.",
            "extend",
        ),
    ] = UNSET


class GrantRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    is_confirmed: bool
    is_child: bool
    used_seconds: int
    extended_minutes: int
    is_unlimited_override: bool
    grant_id: UUID | None
    effect_seconds: int | None
    session_seconds: int
    past_days: list[date] | None
    past_used_seconds: list[int] | None
    past_overrides: list[bool] | None
    past_extended_minutes: list[int] | None
    past_limit_minutes: list[int | None] | None

    def usage(self, day: date, *, may_finish: bool) -> Usage:
        """The usage of the viewing day after the grant."""
        today = (self.used_seconds, self.is_unlimited_override, self.extended_minutes)
        return Usage(day, *today, week(self), self.session_seconds if may_finish else 0)


class Planned(NamedTuple):
    """A grant that is to be recorded, and what its response is made from."""

    profile_id: UUID
    body: GrantBody
    policy: Policy
    day: date
    now: datetime
    is_explained: bool
    request_id: UUID | None = None  # that the grant approves


BODY: Final = lenient_json.Body(GrantBody)
RECORD_GRANT: Final = Statement("grant_record", GrantRow)


class Grant(msgspec.Struct, frozen=True):
    """The grant, and the minutes left after it."""

    granted_minutes: Annotated[
        int | None, doc("Minutes granted; null if today's limit was lifted.", 30)
    ]
    remaining_minutes: RemainingMinutes
    is_unlimited_override: IsUnlimited
    grant_id: GrantId | UnsetType = UNSET
    effect_minutes: EffectMinutes | UnsetType = UNSET
    decision: DecisionReply | UnsetType = UNSET


ADDED: Final = ("grant_id", "effect_minutes")  # to the members of the contract


@repeatable
async def grant(request: Request) -> Response:
    """POST /grant: gives a child more time today."""
    body = read(request, BODY)
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    once = await begin_once(request, account_id, (profile_id, body), profile_id)
    proof = await grant_proof(request, once, account_id, profile_id, body)
    policy = (await context.configurations.get(account_id, profile_id)).policy
    day = viewing_day(policy, now := context.now())
    planned = Planned(profile_id, body, policy, day, now, prefers_decision(request))
    stored = await once.outcome(partial(_record, account_id, proof, planned))
    return _response(planned, msgspec.json.decode(stored))


async def _record(account_id: UUID, proof: PinProof, planned: Planned, source: Source) -> Grant:
    row = await record(account_id, proof, planned, source)
    return granted(planned, row)


async def record(account_id: UUID, proof: PinProof, planned: Planned, source: Source) -> GrantRow:
    """Records the grant; the row has no grant if the request to approve is not pending.

    Raises RuleError if the PIN has changed since it was verified, and without the proof that a
    strict account requires.
    """
    profile_id, body, policy, day, now, _, request_id = planned
    mode = "unlimited" if body.minutes is None else body.mode or "credit"
    is_remote = body.pin is None and body.pin_token is None
    read = (usage_from(policy, day), policy.configuration.educational_exempt)
    arguments = (*proof, day, body.minutes, mode, is_remote, now, id_prefix(now), *read, request_id)
    row = auth.owned(await RECORD_GRANT.maybe(source, account_id, profile_id, *arguments))
    if not row.is_confirmed:
        raise RuleError(PIN_TOKEN_REQUIRED if is_remote else PIN_TOKEN_INVALID)
    return row


def granted(planned: Planned, row: GrantRow) -> Grant:
    """The recorded grant, and what is left after it."""
    usage = row.usage(planned.day, may_finish=False)
    return Grant(
        planned.body.minutes,
        maybe_minutes(decide(planned.policy, usage, planned.now).remaining_seconds),
        row.is_unlimited_override,
        row.grant_id or UNSET,
        maybe_minutes(row.effect_seconds),
        _decision(planned, row) if planned.is_explained else UNSET,
    )


def _decision(planned: Planned, row: GrantRow) -> DecisionReply:
    """The decision after the grant."""
    profile_id, policy, now = planned.profile_id, planned.policy, planned.now
    if not row.is_child:
        return unlimited_reply(profile_id, now)
    usage = row.usage(planned.day, may_finish=True)
    return decision_reply(profile_id, policy, usage, decide(policy, usage, now))


def _response(planned: Planned, members: dict[str, object]) -> Response:
    """The response to a grant; of members beyond the contract only those that are asked for."""
    headers = {}
    if "grant_id" in members:
        grants = f"{PROFILE.format(profile_id=planned.profile_id)}/grants"
        headers["Location"] = f"{grants}/{members['grant_id']}"
    if planned.is_explained and "decision" in members:
        headers |= APPLIED
    else:
        members.pop("decision", None)
    if planned.body.mode is UNSET and not planned.is_explained:
        members = {name: members[name] for name in members if name not in ADDED}
    return reply(members, headers=headers)


async def grant_proof(
    request: Request, once: RequestedOnce, account_id: UUID, profile_id: UUID, body: GrantBody
) -> PinProof:
    """The proof of the PIN: in the body of an on-device grant, in the header of a remote one.

    A PIN is one counted attempt, with the errors of `attempt`. Another account's profile is
    rejected first, so that it takes no slot in the hashing queue.
    """
    context: Context = request.state.context
    if body.pin is not None:
        async with delayed_response():
            auth.owned(await auth.CHECK.maybe(context.pool, account_id, profile_id))
            async with hashing_turn(context, account_id) as turn:
                refusal = ClientError(PIN_INCORRECT)
                proof = (account_id, body.pin, refusal, profile_id)
                pin_hash = await attempt(context, turn, once, *proof)
                return PinProof(True, auth.pin_mark(pin_hash))
    if once.is_repeated:
        return NO_PROOF
    if body.pin_token is None:
        return pin_proof(request, context, account_id, None)
    invalid = RuleError(PIN_TOKEN_INVALID)
    return PinProof(True, auth.confirmed_pin(context, account_id, body.pin_token, invalid))
