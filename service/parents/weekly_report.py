"""The last seven days of every child of an account."""

from datetime import UTC, date, timedelta
from time import monotonic
from typing import Annotated, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.database.statement import Statement
from service.errors import RuleError, too_many_children
from service.http import auth, lenient_json, negotiation
from service.http.body_and_reply import reply
from service.http.fields import (
    EducationalMinutes,
    ProfileId,
    TitleId,
    TotalMinutes,
    UtcDay,
    doc,
)
from service.parents import report_page
from service.parents.week import Day, Title, Week
from service.viewing import rules

TOP_TITLES: Final = 3
MAX_CHILDREN: Final = 50  # building their HTML page blocks the event loop for 10 ms


class ReportRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    profile_id: UUID | None
    profile_name: str | None
    has_configuration: bool
    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    watched_days: list[int] | None
    watched_seconds: list[int] | None
    educational_seconds: list[int] | None
    title_ids: list[UUID] | None
    title_names: list[str] | None
    title_seconds: list[int] | None


REPORT: Final = Statement("weekly_report", ReportRow)


class DailyTotal(msgspec.Struct, frozen=True):
    date: UtcDay
    minutes: Annotated[float, doc("Minutes watched that day.", 45.5)]


class TopTitle(msgspec.Struct, frozen=True):
    title_id: TitleId
    title_name: Annotated[str, doc("The title's name.", "Cartoon")]
    total_minutes: TotalMinutes


class ChildWeek(msgspec.Struct, frozen=True):
    """One child's week in minutes; usage in percent, null if no day has a limit."""

    profile_id: ProfileId
    profile_name: Annotated[str, doc("The child's name.", "Ada")]
    daily_totals: Annotated[list[DailyTotal], doc("The seven days, oldest first.")]
    average_daily_minutes: Annotated[float, doc("Minutes watched, divided by 7.", 6.5)]
    total_minutes: TotalMinutes
    educational_minutes: EducationalMinutes
    limit_usage_percent: Annotated[
        float | None,
        doc("Minutes watched in percent of the seven days' limits; null without a limit.", 5.1),
    ]
    top_titles: Annotated[list[TopTitle], doc("At most three titles, most watched first.")]


class WeeklyReport(msgspec.Struct, frozen=True):
    """The last seven days of every child of the account."""

    week_start: Annotated[date, doc("The first day of the week, in UTC.", "2026-02-23")]
    week_end: Annotated[date, doc("The last day of the week, in UTC: today.", "2026-03-01")]
    profiles: Annotated[list[ChildWeek], doc("Every child of the account, by name.")]


async def weekly_report(request: Request) -> Response:
    """GET /weekly-report: returns the last 7 UTC days with today, as JSON or as an HTML page."""
    context: Context = request.state.context
    started_at = monotonic()
    account_id = await auth.account(request)
    today = context.now().astimezone(UTC).date()
    days = [today - timedelta(days=ago) for ago in reversed(range(rules.REPORT_DAYS))]
    limit = lenient_json.query_integer(request.query_params, "limit", 1, MAX_CHILDREN)
    after = lenient_json.query_uuid(request.query_params, "after")
    arguments = (account_id, days[0], len(days), TOP_TITLES, (limit or MAX_CHILDREN) + 1, after)
    rows = await REPORT.all(context.pool, *arguments)
    auth.owned(rows[0] if rows else None)
    response = _response(request, rows, days, limit)
    ended_at = monotonic()
    context.metrics.reports.add(ended_at, ended_at - started_at)
    context.metrics.report_statements += 1
    return response


def _response(
    request: Request, rows: list[ReportRow], days: list[date], limit: int | None
) -> Response:
    """One page of children, with a link to the next.

    Without a limit, an account with more than MAX_CHILDREN gets a RuleError instead of a page.
    """
    weeks = [week for row in rows if (week := _week(row, days)) is not None]
    page, rest = weeks[: limit or MAX_CHILDREN], weeks[limit or MAX_CHILDREN :]
    if rest and limit is None:
        raise RuleError(too_many_children(MAX_CHILDREN))
    next_page = f"?limit={limit}&after={page[-1].profile_id}" if rest else ""
    accept = ", ".join(request.headers.getlist("accept"))
    if negotiation.prefers(accept, "text/html", "application/json"):
        response = report_page.page(page, days, next_page)
    else:
        response = reply(WeeklyReport(days[0], days[-1], [_child(week) for week in page]))
    response.headers["Vary"] = "Accept"
    if next_page:
        response.headers["Link"] = f'<{next_page}>; rel="next"'
    return response


def _child(week: Week) -> ChildWeek:
    return ChildWeek(
        profile_id=week.profile_id,
        profile_name=week.name,
        daily_totals=[DailyTotal(day.date, lenient_json.minutes(day.seconds)) for day in week.days],
        average_daily_minutes=round(week.seconds / 60 / len(week.days), 2),
        total_minutes=lenient_json.minutes(week.seconds),
        educational_minutes=lenient_json.minutes(week.educational_seconds),
        limit_usage_percent=week.limit_usage_percent,
        top_titles=[TopTitle(t.id, t.name, lenient_json.minutes(t.seconds)) for t in week.titles],
    )


def _week(row: ReportRow, days: list[date]) -> Week | None:
    """The child's week; None for the single row of an account without children."""
    if row.profile_id is None or row.profile_name is None:
        return None
    watched = zip(row.watched_seconds or (), row.educational_seconds or (), strict=True)
    seconds = dict(zip(row.watched_days or (), watched, strict=True))
    limits = rules.DEFAULTS
    if row.has_configuration:
        limits = msgspec.structs.replace(
            limits,
            weekday_limit_minutes=row.weekday_limit_minutes,
            weekend_limit_minutes=row.weekend_limit_minutes,
        )
    titles = zip(row.title_ids or (), row.title_names or (), row.title_seconds or (), strict=True)
    return Week(
        row.profile_id,
        row.profile_name,
        [
            Day(day, *seconds.get(number, (0, 0)), rules.limit_minutes(limits, day))
            for number, day in enumerate(days)
        ],
        [Title(*title) for title in titles],
    )
