"""The last seven days of every child of an account."""

from datetime import date
from time import monotonic
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.http import auth, lenient_json, negotiation
from service.http.body_and_reply import reply
from service.http.fields import (
    EducationalMinutes,
    ProfileId,
    ReportDay,
    TitleId,
    TotalMinutes,
    doc,
)
from service.parents import report_page
from service.parents.report_view import PAGE_VIEW, View, read_view
from service.parents.report_weeks import MAX_CHILDREN, Found, Wanted, find_weeks
from service.parents.report_words import words_for
from service.parents.week import Week


class DailyTotal(msgspec.Struct, frozen=True):
    date: ReportDay
    minutes: Annotated[
        float,
        doc("Minutes watched that day; with `counted=true`, those that count.", 45.5),
    ]


class TopTitle(msgspec.Struct, frozen=True):
    title_id: TitleId
    title_name: Annotated[str, doc("The title's name.", "Cartoon")]
    total_minutes: TotalMinutes


class ChildWeek(msgspec.Struct, frozen=True):
    """One child's week in minutes; usage in percent, null if no day has a limit.

    With `counted=true` all sums are of the minutes that count against the limit, except
    `educational_minutes` and `top_titles`.
    """

    profile_id: ProfileId
    profile_name: Annotated[str, doc("The child's name.", "Ada")]
    daily_totals: Annotated[list[DailyTotal], doc("The seven days, oldest first.")]
    average_daily_minutes: Annotated[float, doc("Minutes watched, divided by 7.", 6.5)]
    total_minutes: TotalMinutes
    educational_minutes: EducationalMinutes
    limit_usage_percent: Annotated[
        float | None,
        doc(
            "Total minutes in percent of the seven days' limits; null without a limit. With"
            " `zone=child` each day has the limit that was in force on it.",
            5.1,
        ),
    ]
    top_titles: Annotated[list[TopTitle], doc("At most three titles, most watched first.")]


class WeeklyReport(msgspec.Struct, frozen=True):
    """The last seven days of every child of the account."""

    week_start: Annotated[
        date,
        doc("The first day, in UTC; with `zone=child`, the first one of any child.", "2026-02-23"),
    ]
    week_end: Annotated[
        date,
        doc("Today, in UTC; with `zone=child`, the last day of any child.", "2026-03-01"),
    ]
    profiles: Annotated[list[ChildWeek], doc("Every child of the account, by name.")]


async def weekly_report(request: Request) -> Response:
    """GET /weekly-report: returns what each child watched in the last 7 days."""
    started_at = monotonic()
    context, account_id = await auth.caller(request)
    view = read_view(request.query_params) or View()
    limit = lenient_json.query_integer(request.query_params, "limit", 1, MAX_CHILDREN)
    after = lenient_json.query_uuid(request.query_params, "after")
    is_page = negotiation.prefers(_header(request, "accept"), "text/html", "application/json")
    wanted = Wanted(PAGE_VIEW if is_page else view, limit, after)
    found = await find_weeks(context, account_id, wanted)
    response = _response(request, found, limit, is_page)
    ended_at = monotonic()
    context.metrics.reports.add(ended_at, ended_at - started_at)
    return response


def _header(request: Request, name: str) -> str:
    return ", ".join(request.headers.getlist(name))


def _response(request: Request, found: Found, limit: int | None, is_page: bool) -> Response:
    next_url = _next_url(request, found, limit)
    response = _page(request, found, next_url) if is_page else _json(found)
    if next_url:
        response.headers["Link"] = f'<{next_url}>; rel="next"'
    return response


def _json(found: Found) -> Response:
    weeks = [_child(week) for week in found.weeks]
    response = reply(WeeklyReport(found.first, found.last, weeks))
    response.headers["Vary"] = "Accept"
    return response


def _page(request: Request, found: Found, next_url: str) -> Response:
    words = words_for(_header(request, "accept-language"))
    more = report_page.next_page(next_url, words) if next_url else ""
    response = report_page.page(found, words, more)
    response.headers["Vary"] = "Accept, Accept-Language"
    return response


def _next_url(request: Request, found: Found, limit: int | None) -> str:
    """The relative URL of the next page of children, with the same `zone` and `counted`."""
    if not found.has_more:
        return ""
    params = request.query_params
    chosen = {name: params[name] for name in View.__struct_fields__ if name in params}
    return "?" + urlencode({"limit": limit, "after": found.weeks[-1].profile_id, **chosen})


def _child(week: Week) -> ChildWeek:
    total = week.counted_seconds
    return ChildWeek(
        profile_id=week.profile_id,
        profile_name=week.name,
        daily_totals=[
            DailyTotal(day.date, lenient_json.minutes(day.counted_seconds)) for day in week.days
        ],
        average_daily_minutes=round(total / 60 / len(week.days), 2),
        total_minutes=lenient_json.minutes(total),
        educational_minutes=lenient_json.minutes(week.educational_seconds),
        limit_usage_percent=week.limit_usage_percent,
        top_titles=[TopTitle(t.id, t.name, lenient_json.minutes(t.seconds)) for t in week.titles],
    )
