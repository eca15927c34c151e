"""The parts of a heartbeat that the short path and the ordinary one share."""

import logging
from datetime import date, datetime
from typing import Final
from uuid import UUID

from msgspec import UNSET, UnsetType

from service.context import Context
from service.database.driver import cause
from service.database.ids import time_ordered_id
from service.http import lenient_json
from service.http.decision_reply import DecisionReply, decision_reply, unlimited_reply
from service.observing.trace import Trace
from service.players.heartbeat_body import HeartbeatBody, Verdict
from service.players.heartbeat_head import KeyHash
from service.viewing.announcements import NEVER, due, remember
from service.viewing.config_entries import Entry
from service.viewing.decision import decide
from service.viewing.heartbeat_statement import EVERY_DAY, Beat
from service.viewing.policy import Policy, current_day, usage_from
from service.viewing.recorded_row import Recorded
from service.viewing.rules import DEFAULTS
from service.viewing.usage import of_week

logger = logging.getLogger("viewing_time.heartbeat")

BODY: Final = lenient_json.Body(HeartbeatBody)
SLOW_SECONDS: Final = 0.2
HEADERS: Final = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]
APPLIED: Final = (b"preference-applied", b"decision")

# The parts of a beat that its policy decides: day, exempt, renews, begin_seconds, usage_from,
# announce_from, rules.
ByPolicy = tuple[date | None, bool, bool, int | None, date | None, int, str | None]
UNCACHED: Final[ByPolicy] = (None, DEFAULTS.educational_exempt, True, None, EVERY_DAY, NEVER, None)


def beat(
    context: Context,
    account_id: UUID,
    body: HeartbeatBody,
    key: KeyHash | None,
    entry: Entry | None,
    now: datetime,
) -> Beat:
    """The heartbeat as the statement records it, which reads the policy if there is no entry."""
    if entry is None:
        context.configurations.misses += 1
        day, exempt, renews, begin_seconds, first, announce_from, rules = UNCACHED
    else:
        by_policy = _by_policy(context, entry, now)
        day, exempt, renews, begin_seconds, first, announce_from, rules = by_policy
    is_start = body.session_id is None
    return Beat(
        body.profile_id,
        account_id,
        body.title_id,
        body.session_id or (key.session_id if key else time_ordered_id(now)),
        is_start,
        body.device_id if is_start else None,
        body.device_type if is_start else None,
        body.is_paused,
        day,
        exempt,
        key.stored if key else None,
        renews,
        begin_seconds,
        first,
        body.exclusive,
        announce_from,
        rules,
    )


def with_policy(context: Context, sent: Beat, entry: Entry, now: datetime) -> Beat:
    """The same beat with the viewing day that its statement did not find."""
    day, exempt, renews, begin_seconds, first, announce_from, rules = _by_policy(
        context, entry, now
    )
    return sent._replace(
        day=day,
        exempt=exempt,
        renews=renews,
        begin_seconds=begin_seconds,
        usage_from=first,
        announce_from=announce_from,
        rules=rules,
    )


def _by_policy(context: Context, entry: Entry, now: datetime) -> ByPolicy:
    policy = entry.policy
    _, _, day, begin_seconds = current_day(policy, now)
    renews = context.configurations.is_ageing(entry)
    exempt = policy.configuration.educational_exempt
    announce_from, rules = due(entry, day, now) if entry.is_child else (NEVER, None)
    first = usage_from(policy, day)
    return day, exempt, renews, begin_seconds, first, announce_from, rules


def verdict(
    context: Context,
    sent: Beat,
    entry: Entry | None,
    policy: Policy | None,
    recorded: Recorded,
    now: datetime,
    prefers_decision: bool,
) -> Verdict:
    """Decides by the committed balance and by the policy with which the beat was recorded.

    Caches a policy that the statement has read.
    """
    profile_id, usage, read = sent.profile_id, recorded.usage, recorded.renewed
    if read is not None:
        fresh = context.configurations.adopt(sent.account_id, profile_id, read)
        if policy is None:
            policy, now = fresh.policy, read.now
            usage = usage and of_week(usage, policy)
    if entry is not None and (usage is not None) != entry.is_child:
        context.configurations.forget(sent.account_id, profile_id, "child or adult changed")
    is_educational = recorded.is_educational
    explanation: DecisionReply | UnsetType = UNSET
    if usage is None or policy is None:
        if prefers_decision:
            explanation = unlimited_reply(profile_id, now)
        return Verdict(sent.session_id, "allowed", None, 0.0, is_educational, explanation)
    decision = decide(policy, usage, now)
    if entry is not None:
        remember(entry, usage, decision, sent.announce_from)
    if prefers_decision:
        is_counted = not (is_educational and policy.configuration.educational_exempt)
        explanation = decision_reply(profile_id, policy, usage, decision, is_counted=is_counted)
    return Verdict(
        sent.session_id,
        decision.enforcement,
        lenient_json.maybe_minutes(decision.remaining_seconds),
        lenient_json.minutes(usage.used_seconds),
        is_educational,
        explanation,
    )


def blocked(session_id: UUID) -> Verdict:
    """The answer to a heartbeat that failed: viewing that cannot be counted is blocked."""
    return Verdict(session_id, "blocked", 0.0, 0.0, False)


def is_logged(context: Context, answer: Verdict, ended_at: float, seconds: float) -> bool:
    """Counts a recorded heartbeat; whether it is slow or in the sample, so it must be logged.

    `ended_at` is monotonic.
    """
    metrics = context.metrics
    metrics.heartbeats.add(ended_at, seconds)
    metrics.verdicts[answer.enforcement] += 1
    if not metrics.heartbeats.count % context.settings.heartbeat_log_sample:
        return True
    return seconds > SLOW_SECONDS and metrics.slow_lines.take(ended_at)


def log(profile_id: UUID, answer: Verdict, trace: Trace, seconds: float) -> None:
    """Logs a recorded heartbeat."""
    fields = _fields(profile_id, answer, trace, seconds)
    logger.info("heartbeat_processed", extra={"fields": fields})


def failed(
    context: Context,
    profile_id: UUID,
    answer: Verdict,
    trace: Trace,
    ended_at: float,
    error: Exception,
) -> None:
    """Counts and logs a heartbeat that failed closed; `ended_at` is monotonic."""
    metrics = context.metrics
    seconds = ended_at - trace.begun
    metrics.heartbeats.add(ended_at, seconds)
    metrics.heartbeats_failed_closed += 1
    reason = cause(error)
    metrics.failures[reason] += 1
    fields = _fields(profile_id, answer, trace, seconds)
    fields["error"] = f"{type(error).__name__}: {error}"
    traceback = error if reason == "own" else None
    logger.error("heartbeat_processed", extra={"fields": fields}, exc_info=traceback)


def _fields(profile_id: UUID, answer: Verdict, trace: Trace, seconds: float) -> dict[str, object]:
    return {
        "profile_id": str(profile_id),
        "enforcement": answer.enforcement,
        "db_ops": trace.statements,
        "duration_ms": round(seconds * 1000, 3),
    }
