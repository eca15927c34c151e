"""Decides about a profile for a request."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from starlette.requests import Request

from service.context import Context
from service.errors import TITLE_NOT_FOUND, ClientError
from service.http import auth
from service.http.decision_reply import DecisionReply, decision_reply, unlimited_reply
from service.viewing.decision import Decision, Usage, decide
from service.viewing.policy import Policy, usage_from, viewing_day
from service.viewing.usage import READ_BALANCE, BalanceRow

PREFER: Final = "decision"  # the preference of RFC 7240
APPLIED: Final = {"Preference-Applied": PREFER}


class Decided(NamedTuple):
    """A decision and the values that it was made from; `decision` is None for an adult."""

    profile_id: UUID
    at: datetime
    policy: Policy
    row: BalanceRow
    usage: Usage
    decision: Decision | None
    is_counted: bool

    def reply(self, minutes: int | None = None) -> DecisionReply:
        """The decision as JSON; `minutes` are those of a title."""
        if self.decision is None:
            return unlimited_reply(self.profile_id, self.at, minutes)
        figures = (self.profile_id, self.policy, self.usage, self.decision)
        return decision_reply(*figures, is_counted=self.is_counted, minutes=minutes)


async def decided(
    request: Request,
    account_id: UUID,
    profile_id: UUID,
    title_id: UUID | None = None,
    *,
    may_finish: bool = True,
) -> Decided:
    """Decides about a profile now; raises ClientError 401, 403, or 404 for an unknown title.

    `may_finish` is false for a title that starts now: it cannot be finished after a limit.
    """
    context: Context = request.state.context
    policy = (await context.configurations.get(account_id, profile_id)).policy
    now = context.now()
    day = viewing_day(policy, now)
    exempt = policy.configuration.educational_exempt
    arguments = (account_id, profile_id, day, usage_from(policy, day), title_id, exempt)
    row = auth.owned(await READ_BALANCE.maybe(context.pool, *arguments))
    if not row.is_title_found:
        raise ClientError(TITLE_NOT_FOUND)
    usage = row.usage(day, may_finish=may_finish)
    decision = decide(policy, usage, now) if row.is_child else None
    is_counted = not (exempt and row.is_title_educational)
    return Decided(profile_id, now, policy, row, usage, decision, is_counted)


def prefers_decision(request: Request) -> bool:
    """Whether the request has the header `Prefer: decision`."""
    return has_preference(",".join(request.headers.getlist("prefer")))


def has_preference(header: str) -> bool:
    """Whether a `Prefer` header contains the preference `decision` (RFC 7240, section 2)."""
    preferences = (part.partition(";")[0].partition("=")[0] for part in header.split(","))
    return any(name.strip().lower() == PREFER for name in preferences)
