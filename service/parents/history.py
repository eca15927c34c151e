"""The viewing sessions of a child, by day."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Final, NamedTuple
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.database.driver import Source
from service.database.statement import Statement
from service.errors import DATES_REVERSED
from service.http import auth, lenient_json
from service.http.body_and_reply import reply
from service.http.fields import (
    EXAMPLE_SESSION,
    EXAMPLE_TITLE,
    EducationalMinutes,
    EndedAt,
    ProfileId,
    ReportDay,
    Time,
    doc,
)
from service.http.query_dates import query_date, require_range
from service.parents.report_view import View, days_between, read_view
from service.viewing import rules
from service.viewing.rules import Configuration


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


class HistoryDayRow(HistoryRow, frozen=True):
    day: int | None
    is_truncated: bool


class Found(NamedTuple):
    """The sessions of each day, newest first, and whether there are more."""

    days: list[tuple[date, list[HistoryRow]]]
    is_truncated: bool


LIST: Final = Statement("history_list", HistoryRow)
LIST_DAYS: Final = Statement("history_days", HistoryDayRow)
# Present if older sessions are missing.
TRUNCATED: Final = {"X-Truncated": "true"}


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
    duration_minutes: Annotated[
        float, doc("Minutes counted in the session; with `zone=child`, on this day.", 30.5)
    ]


class WatchedDay(msgspec.Struct, frozen=True):
    """A UTC day, or a viewing day of the child with `zone=child`."""

    date: ReportDay
    total_minutes: Annotated[
        float,
        doc("Minutes watched; with `counted=true`, those that count against the limit.", 45.5),
    ]
    educational_minutes: EducationalMinutes
    counted_minutes: Annotated[
        float,
        doc(
            "Minutes watched of titles that are not educational; with `counted=true`, those that"
            " count against the limit.",
            33.5,
        ),
    ]
    sessions: Annotated[list[WatchedSession], doc("The day's sessions, newest first.")]


class History(msgspec.Struct, frozen=True):
    """The sessions of the requested days."""

    profile_id: ProfileId
    days: Annotated[list[WatchedDay], doc("Days with sessions, newest first.")]
    is_truncated: Annotated[
        bool | UnsetType,
        doc("Older sessions are missing. Present if `zone` or `counted` is given.", False),
    ] = UNSET


async def history(request: Request) -> Response:
    """GET /history?from_date&to_date: lists what a child watched, by day, newest first."""
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    from_date = query_date(request.query_params, "from_date")
    to_date = query_date(request.query_params, "to_date")
    view = read_view(request.query_params)
    require_range(from_date, to_date, rules.HISTORY_DAYS_MAX, DATES_REVERSED)
    wanted = (account_id, profile_id, from_date, to_date)
    if view is None:
        return _response(profile_id, await context.reads.run(_in_utc, *wanted))
    configuration = (await context.configurations.get(account_id, profile_id)).policy.configuration
    run = context.reads.run
    is_of_child = view.zone == "child"
    reading = run(_in_own_days, *wanted, configuration) if is_of_child else run(_in_utc, *wanted)
    return _response(profile_id, await reading, view, configuration.educational_exempt)


async def _in_utc(
    source: Source, account_id: UUID, profile_id: UUID, from_date: date, to_date: date
) -> Found:
    """The sessions that started on each UTC day; raises ClientError 401 or 403."""
    most = rules.HISTORY_SESSIONS_MAX
    rows = await LIST.all(source, account_id, profile_id, from_date, to_date, most + 1)
    auth.owned(rows[0] if rows else None)
    days = groupby((row for row in rows[:most] if row.started_at is not None), key=_utc_day)
    return Found([(day, [*sessions]) for day, sessions in days], len(rows) > most)


async def _in_own_days(
    source: Source,
    account_id: UUID,
    profile_id: UUID,
    from_date: date,
    to_date: date,
    configuration: Configuration,
) -> Found:
    """The sessions that were watched on each viewing day; raises ClientError 401 or 403."""
    days = days_between(configuration, from_date, to_date)
    arguments = (account_id, profile_id, days.bounds, rules.HISTORY_SESSIONS_MAX)
    rows = await LIST_DAYS.all(source, *arguments)
    first = auth.owned(rows[0] if rows else None)
    numbered = groupby(rows, key=lambda row: row.day)
    return Found(
        [
            (days.first + timedelta(days=number), [*sessions])
            for number, sessions in numbered
            if number is not None
        ],
        first.is_truncated,
    )


def _utc_day(row: HistoryRow) -> date:
    assert row.started_at is not None
    return row.started_at.astimezone(UTC).date()


def _response(
    profile_id: UUID, found: Found, view: View | None = None, is_exempt: bool = False
) -> Response:
    """The contract's response if `view` is None: without `is_truncated`, all time counted."""
    is_counted = view is not None and view.counted
    days = [_day(day, rows, is_counted, is_exempt) for day, rows in found.days]
    is_truncated = UNSET if view is None else found.is_truncated
    headers = TRUNCATED if found.is_truncated else None
    return reply(History(profile_id, days, is_truncated), headers=headers)


def _day(day: date, rows: Sequence[HistoryRow], is_counted: bool, is_exempt: bool) -> WatchedDay:
    total = sum(row.total_seconds or 0 for row in rows)
    educational = sum(row.total_seconds or 0 for row in rows if row.is_educational)
    counted = total - educational
    if is_counted:
        total = counted = counted if is_exempt else total
    return WatchedDay(
        date=day,
        total_minutes=lenient_json.minutes(total),
        educational_minutes=lenient_json.minutes(educational),
        counted_minutes=lenient_json.minutes(counted),
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
