"""The last seven days of every child of an account."""

from datetime import UTC, date, timedelta
from time import monotonic
from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service import auth, rules, wire
from service.context import Context
from service.database import Statement
from service.exchange import reply
from service.rules import Configuration

TOP_TITLES: Final = 3


class ReportRow(msgspec.Struct, frozen=True):
    is_active: bool
    profile_id: UUID | None
    profile_name: str | None
    has_configuration: bool
    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    watched_days: list[int] | None
    watched_seconds: list[int] | None
    educational_seconds: int
    title_ids: list[UUID] | None
    title_names: list[str] | None
    title_seconds: list[int] | None


REPORT: Final = Statement("weekly_report", ReportRow)


class DailyTotal(msgspec.Struct, frozen=True):
    date: date
    minutes: float


class TopTitle(msgspec.Struct, frozen=True):
    title_id: UUID
    title_name: str
    total_minutes: float


class ChildWeek(msgspec.Struct, frozen=True):
    """One child's week in minutes; usage in percent, null where no day has a limit."""

    profile_id: UUID | None
    profile_name: str | None
    daily_totals: list[DailyTotal]
    average_daily_minutes: float
    total_minutes: float
    educational_minutes: float
    limit_usage_percent: float | None
    top_titles: list[TopTitle]


class WeeklyReport(msgspec.Struct, frozen=True):
    week_start: date
    week_end: date
    profiles: list[ChildWeek]


async def weekly_report(request: Request) -> Response:
    """GET /weekly-report: the last 7 UTC days, today included, from one statement."""
    context: Context = request.state.context
    begun = monotonic()
    account_id = auth.account(request)
    today = context.now().astimezone(UTC).date()
    days = [today - timedelta(days=ago) for ago in reversed(range(rules.REPORT_DAYS))]
    rows = await REPORT.all(context.pool, account_id, days[0], len(days), TOP_TITLES)
    auth.active(rows[0] if rows else None)
    children = [_week(row, days) for row in rows if row.profile_id is not None]
    ended = monotonic()
    context.metrics.reports.add(ended, ended - begun)
    context.metrics.report_statements += 1
    return reply(WeeklyReport(days[0], days[-1], children))


def _week(row: ReportRow, days: list[date]) -> ChildWeek:
    seconds = dict(zip(row.watched_days or (), row.watched_seconds or (), strict=True))
    total = sum(seconds.values())
    limit = rules.week_limit_seconds(_limits(row), days)
    titles = zip(row.title_ids or (), row.title_names or (), row.title_seconds or (), strict=True)
    return ChildWeek(
        profile_id=row.profile_id,
        profile_name=row.profile_name,
        daily_totals=[
            DailyTotal(day, wire.minutes(seconds.get(number, 0))) for number, day in enumerate(days)
        ],
        average_daily_minutes=round(total / 60 / len(days), 2),
        total_minutes=wire.minutes(total),
        educational_minutes=wire.minutes(row.educational_seconds),
        limit_usage_percent=round(total / limit * 100, 1) if limit else None,
        top_titles=[TopTitle(key, name, wire.minutes(took)) for key, name, took in titles],
    )


def _limits(row: ReportRow) -> Configuration:
    if not row.has_configuration:
        return rules.DEFAULTS
    return msgspec.structs.replace(
        rules.DEFAULTS,
        weekday_limit_minutes=row.weekday_limit_minutes,
        weekend_limit_minutes=row.weekend_limit_minutes,
    )
