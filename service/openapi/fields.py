"""What each field of the API means, with its unit, and a value to show; by its name.

A name means the same wherever it is used; where it does not, `Struct.name` has the say.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Field(NamedTuple):
    """A field's meaning, an example, and what its type alone does not say of its values."""

    meaning: str
    example: Any
    rule: Mapping[str, Any] = {}


ACCOUNT: Final = "d0000000-0000-4000-8000-000000000001"
CHILD: Final = "d0000000-0000-4000-8000-000000000011"
TITLE: Final = "d0000000-0000-4000-8000-000000000021"
SESSION: Final = "5f0c3a52-7d0e-4a7b-9c1f-2f6d1f3f7a10"
TOKEN: Final = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl"  # noqa: S105 (an example)
HASH: Final = "$2b$12$YoG4b449C4UoHr36EJjxKubBY3Ies/pqA4UB.DOktrZqaUpQJ4LFW"
QUARTERS: Final = {"multipleOf": 15}

UNKNOWN: Final = Field("", None)

FIELDS: Final[dict[str, Field]] = {
    "profile_id": Field("The profile.", CHILD),
    "title_id": Field("The title.", TITLE),
    "session_id": Field("The viewing session.", SESSION),
    "account_id": Field("The account.", ACCOUNT),
    "HeartbeatBody.session_id": Field(
        "The session that goes on; null or absent, a new one starts and the open one ends.", None
    ),
    "device_id": Field("The player, as it names itself.", "tv-1"),
    "device_type": Field("The kind of player.", "tv"),
    "is_paused": Field("Playback stands still; after 300 seconds of it no beat counts.", False),
    "enforcement": Field(
        "Go on (`allowed`), go on and warn that 15 or 5 minutes or less are left, or stop.",
        "allowed",
    ),
    "remaining_minutes": Field(
        "Minutes left of the viewing day, never below 0; null is unlimited.", 89.5
    ),
    "used_minutes": Field("Minutes counted against the limit of the viewing day.", 30.5),
    "educational_minutes": Field("Minutes of educational titles.", 12.0),
    "is_educational": Field("The title is educational.", False),
    "is_child_profile": Field("A child's profile, which may have limits.", True),
    "has_limits": Field("There is a limit today, and no override of it.", True),
    "limit_minutes": Field("Minutes allowed on the viewing day; null is unlimited.", 120),
    "is_unlimited_override": Field("A parent has lifted the limit of the viewing day.", False),
    "next_reset_at": Field(
        "When the next viewing day begins, UTC; null for adults.", "2026-03-02T06:00:00Z"
    ),
    "Eligibility.next_reset_at": Field(
        "When the next viewing day begins, UTC; null where there is no limit.",
        "2026-03-02T06:00:00Z",
    ),
    "warning_threshold_minutes": Field("Minutes left at which players warn.", [15, 5]),
    "eligible": Field("Playback may begin.", True),
    "reason": Field("Why playback may not begin.", None),
    "total_seconds": Field("Seconds counted in the session.", 1830),
    "started_at": Field("When the session began, UTC.", "2026-03-01T17:29:30.250000Z"),
    "ended_at": Field(
        "When the session ended, UTC; null while it is open.", "2026-03-01T18:00:00Z"
    ),
    "has_pin": Field("The account has a PIN.", True),
    "locked_until": Field("Until when no PIN is tried, UTC; null is not locked.", None),
    "pin": Field("The parent's PIN, 4 ASCII digits.", "1234"),
    "new_pin": Field("The PIN from now on, 4 ASCII digits.", "4321"),
    "current_pin": Field("The PIN until now; needed where there is one.", "1234"),
    "password": Field("The account's password.", "correct horse"),
    "verified": Field("The PIN was right.", True),
    "pin_token": Field("Proof, for 5 minutes, that the PIN was entered right.", TOKEN),
    "ConfigurationBody.pin_token": Field(
        "From `POST /pin/verify`; needed to change `reset_hour` or `educational_exempt`.", TOKEN
    ),
    "GrantBody.pin": Field("The PIN of a parent at the child's device, 4 ASCII digits.", None),
    "GrantBody.pin_token": Field("Instead of `pin`; with neither, the grant is remote.", None),
    "minutes": Field("Minutes to grant; null or absent lifts today's limit.", 30),
    "DailyTotal.minutes": Field("Minutes watched that day.", 45.5),
    "granted_minutes": Field("Minutes granted; null where today's limit was lifted.", 30),
    "weekday_limit_minutes": Field(
        "Minutes allowed on a viewing day from Monday to Friday; null is unlimited.", 120, QUARTERS
    ),
    "weekend_limit_minutes": Field(
        "Minutes allowed on a Saturday or Sunday; null is unlimited.", 180, QUARTERS
    ),
    "reset_hour": Field("Local hour at which the viewing day begins.", 6),
    "educational_exempt": Field("Educational titles do not count against the limit.", True),
    "timezone": Field(
        "IANA zone of the viewing day, spelled as in IANA's list; the zone of a machine"
        " (`localtime`) is refused. A changed zone can begin another viewing day at once, with the"
        " allowance of that day; strict accounts, which will prevent this, do not exist yet.",
        "Europe/Berlin",
    ),
    "updated_at": Field("When the configuration last changed, UTC.", "2026-03-01T09:15:00Z"),
    "days": Field("Days with sessions, newest first.", ...),
    "date": Field("A day of UTC.", "2026-03-01"),
    "total_minutes": Field("Minutes watched.", 45.5),
    "counted_minutes": Field("Minutes that were not educational.", 33.5),
    "sessions": Field("The day's sessions, newest first.", ...),
    "title_name": Field("The title's name.", "Cartoon"),
    "WatchedSession.device_type": Field("The kind of player, if it was told.", "tv"),
    "duration_minutes": Field("Minutes counted in the session.", 30.5),
    "week_start": Field("The first day, of UTC.", "2026-02-23"),
    "week_end": Field("The last day, of UTC: today.", "2026-03-01"),
    "WeeklyReport.profiles": Field("Every child of the account, by name.", ...),
    "profile_name": Field("The child's name.", "Ada"),
    "daily_totals": Field("The seven days, oldest first.", ...),
    "average_daily_minutes": Field("A seventh of the minutes watched.", 6.5),
    "limit_usage_percent": Field(
        "Minutes watched against the sum of the limits, in percent; null without a limit.", 5.1
    ),
    "top_titles": Field("At most three, most watched first.", ...),
    "id": Field("The id that the owning system gave.", ACCOUNT),
    "email": Field("The parent's address, unique; never written to.", "parent@demo.example"),
    "password_hash": Field("bcrypt, at most 2^16 rounds; by it a PIN is reset.", HASH),
    "subscription_tier": Field("As the owning system names it.", "basic"),
    "is_admin": Field("May use the endpoints of administrators.", False),
    "is_active": Field("May use the service at all.", True),
    "name": Field("Shown to the parent.", "Ada"),
    "is_kids": Field("A child, with limits; false is an adult.", True),
    "parental_rating": Field("As the owning system names it.", "TV-G"),
    "title": Field("The title's name.", "Cartoon"),
    "title_type": Field("As the owning system names it.", "movie"),
    "TitleBody.is_educational": Field("Viewing it may be exempt from the limit.", False),
    "accounts": Field("Lines of accounts in force.", 1),
    "Outcome.profiles": Field("Lines of profiles in force.", 2),
    "titles": Field("Lines of titles in force.", 2),
    "error_count": Field("Lines in error.", 1),
    "errors": Field("The first 100 of them.", ...),
    "line": Field("Number of the line, from 1.", 4),
    "error": Field("What is wrong with the line.", "is_kids: Field required"),
    "Erased.sessions": Field("Rows of sessions removed.", 12),
    "balances": Field("Rows of balances removed.", 5),
    "grants": Field("Rows of grants removed.", 1),
    "configurations": Field("Rows of configurations removed.", 1),
    "status": Field("`ok`, or `degraded` where no requests should be sent here.", "ok"),
    "checks": Field("What was looked at.", ...),
    "database": Field("Whether the database answers and takes writes.", "ok"),
    "schema": Field("There only when tables or migrations are missing.", "outdated"),
    "connections": Field("There only when no more client can connect.", "exhausted"),
    "heartbeats": Field("There only when heartbeats wait and none is written.", "stuck"),
    "process": Field(
        "There only when the process is about to stop, or a background task has died.", "stopping"
    ),
    "instance": Field(
        "The process that counted: host, port, an id of its start.", "vt-1:8000/3f9a0c21"
    ),
    "uptime_seconds": Field("Seconds since start.", 86400.5),
    "heartbeat": Field("Heartbeats since start.", ...),
    "config_cache": Field("The configurations in memory.", ...),
    "weekly_report": Field("Weekly reports since start.", ...),
    "Counts.pin": Field("Hashing of PINs since start.", ...),
    "total_processed": Field("Heartbeats answered.", 120000),
    "avg_db_ops_per_heartbeat": Field("Statements per heartbeat.", 0.0312),
    "avg_duration_ms": Field("Milliseconds, mean since start.", 2.417),
    "max_duration_ms": Field("Milliseconds, longest since start.", 48.02),
    "p95_duration_ms": Field("Milliseconds, 95th percentile of the latest.", 4.203),
    "hit_rate": Field("Share of lookups answered from memory, 0 to 1.", 0.9871),
    "total_hits": Field("Lookups answered from memory.", 118452),
    "total_misses": Field("Lookups that went to the database.", 1548),
    "total_invalidations": Field("Configurations forgotten after a change.", 17),
    "current_size": Field("Configurations in memory.", 1000),
    "max_size": Field("The most that are kept.", 10000),
    "p50_duration_ms": Field("Milliseconds, median of the latest.", 1.902),
    "total_refused": Field("Heartbeats refused, for their sender's fault or for overload.", 25),
    "total_failed_closed": Field("Heartbeats answered `blocked` since they were not counted.", 0),
    "total_db_ops": Field("Statements that heartbeats have cost.", 3744),
    "queue_length": Field("Heartbeats that wait for their row.", 3),
    "total_attempts": Field("Attempts at a PIN by what came of them.", {"right": 40, "wrong": 2}),
    "pool": Field("Connections to the database.", ...),
    "in_use": Field("Connections at work.", 1),
    "PoolCounts.current_size": Field("Open connections.", 5),
    "PoolCounts.max_size": Field("The most that are opened.", 20),
    "total_generated": Field("Reports answered.", 310),
    "avg_db_ops_per_report": Field("Statements per report.", 1.0),
    "total_hashed": Field("PINs and passwords hashed or checked.", 42),
    "waiting": Field("Those that wait for a process.", 0),
    "worker_restarts": Field("Processes replaced because they had died.", 0),
    "detail": Field("What happened, in one sentence.", "PIN set successfully"),
    "Refusal.detail": Field("Why, in one sentence.", "Profile not found or access denied"),
    "Outcome.detail": Field("There only where nothing was imported.", "Nothing was imported"),
    "FieldFaults.detail": Field("One fault: the first that was found.", ...),
    "type": Field("The kind of fault; part of the contract.", "uuid_parsing"),
    "loc": Field(
        "Where: `body`, `query`, `path` or `header`, and the field.", ["body", "profile_id"]
    ),
    "msg": Field("The fault for people; may change.", "Input should be a valid UUID"),
    "input": Field("The refused value; null where it is secret or no scalar.", "42"),
    "ctx": Field("The bounds that were overstepped, where there are any.", {"le": 120}),
}


def field(struct: str, name: str) -> Field:
    """A field of a Struct; without a meaning where nobody has said it."""
    return FIELDS.get(f"{struct}.{name}") or FIELDS.get(name, UNKNOWN)
