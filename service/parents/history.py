"""The viewing sessions of a child, by day."""

from datetime import UTC, date, datetime
from itertools import groupby
from typing import Annotated, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.errors import DATES_REVERSED, RuleError, date_range_too_long
from service.http import auth, lenient_json
from service.http.body_and_reply import reply
from service.http.fields import (
    EXAMPLE_SESSION,
    EXAMPLE_TITLE,
    EducationalMinutes,
    EndedAt,
    ProfileId,
    Time,
    TotalMinutes,
    UtcDay,
    doc,
)
from service.http.query_dates import query_date
from service.viewing import rules


class HistoryRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    session_id: UUID | None
    title_id: UUID | None
    title_name: str | None
    device_type: str | None
    is_educational: bool | None
    started_at: datetime | None
    ended_at: datetime | None
    total_seconds: int | None


LIST: Final = Statement("history_list", HistoryRow)


class WatchedSession(msgspec.Struct, frozen=True):
    session_id: Annotated[UUID | None, doc("The viewing session's id.", EXAMPLE_SESSION)]
    title_id: Annotated[UUID | None, doc("The title's id.", EXAMPLE_TITLE)]
    title_name: Annotated[str | None, doc("The title's name.", "Cartoon")]
    device_type: Annotated[str | None, doc("The kind of player; null if unknown.", "tv")]
    is_educational: Annotated[bool | None, doc("The title was educational.", False)]
    started_at: Annotated[
        Time | None, doc("When the session started, in UTC.", "2026-03-01T17:29:30.250000Z")
    ]
    ended_at: EndedAt
    duration_minutes: Annotated[float, doc("Minutes counted in the session.", 30.5)]


class WatchedDay(msgspec.Struct, frozen=True):
    """A UTC day; counted minutes are those that were not educational."""

    date: UtcDay
    total_minutes: TotalMinutes
    educational_minutes: EducationalMinutes
    counted_minutes: Annotated[float, doc("Minutes watched of other titles.", 33.5)]
    sessions: Annotated[list[WatchedSession], doc("The day's sessions, newest first.")]


class History(msgspec.Struct, frozen=True):
    """The sessions of the requested days."""

    profile_id: ProfileId
    days: Annotated[list[WatchedDay], doc("Days with sessions, newest first.")]


async def history(request: Request) -> Response:
    """GET /history?from_date&to_date: returns at most 500 sessions by UTC day, newest first."""
    context: Context = request.state.context
    account_id = await auth.account(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    from_date = query_date(request.query_params, "from_date")
    to_date = query_date(request.query_params, "to_date")
    if from_date > to_date:
        raise RuleError(DATES_REVERSED)
    if (to_date - from_date).days > rules.HISTORY_DAYS_MAX:
        raise RuleError(date_range_too_long(rules.HISTORY_DAYS_MAX))
    arguments = (account_id, profile_id, from_date, to_date, rules.HISTORY_SESSIONS_MAX)
    rows = await LIST.all(context.pool, *arguments)
    auth.owned(rows[0] if rows else None)
    days = groupby((row for row in rows if row.started_at is not None), key=_utc_day)
    return reply(History(profile_id, [_day(day, list(rows)) for day, rows in days]))


def _utc_day(row: HistoryRow) -> date:
    assert row.started_at is not None
    return row.started_at.astimezone(UTC).date()


def _day(day: date, rows: list[HistoryRow]) -> WatchedDay:
    total = sum(row.total_seconds or 0 for row in rows)
    educational = sum(row.total_seconds or 0 for row in rows if row.is_educational)
    return WatchedDay(
        date=day,
        total_minutes=lenient_json.minutes(total),
        educational_minutes=lenient_json.minutes(educational),
        counted_minutes=lenient_json.minutes(total - educational),
        sessions=[
            WatchedSession(
                row.session_id,
                row.title_id,
                row.title_name,
                row.device_type,
                row.is_educational,
                row.started_at,
                row.ended_at,
                lenient_json.minutes(row.total_seconds or 0),
            )
            for row in rows
        ],
    )
