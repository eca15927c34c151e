"""Reads the last seven days of the children of an account, in UTC or in each child's own days."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from service.context import Context
from service.database.statement import Statement
from service.errors import RuleError, too_many_children
from service.http import auth
from service.parents.report_view import Days, View, days_between
from service.parents.week import Day, Title, Week
from service.viewing import rules
from service.viewing.rules import Configuration

TOP_TITLES: Final = 3
MAX_CHILDREN: Final = 50  # building their HTML page blocks the event loop for 10 ms
SIX_DAYS: Final = timedelta(days=rules.REPORT_DAYS - 1)


class ReportRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    profile_id: UUID | None
    profile_name: str | None
    has_configuration: bool
    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    educational_exempt: bool | None
    watched_days: list[int] | None
    watched_seconds: list[int] | None
    educational_seconds: list[int] | None
    title_ids: list[UUID] | None
    title_names: list[str] | None
    title_seconds: list[int] | None


class ChildRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    profile_id: UUID | None
    profile_name: str | None
    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    reset_hour: int | None
    educational_exempt: bool | None
    timezone: str | None


class DaysRow(msgspec.Struct, frozen=True):
    profile_id: UUID
    watched_days: list[int] | None
    watched_seconds: list[int] | None
    educational_seconds: list[int] | None
    title_ids: list[UUID] | None
    title_names: list[str] | None
    title_seconds: list[int] | None


REPORT: Final = Statement("weekly_report", ReportRow)
LIST_CHILDREN: Final = Statement("report_children", ChildRow)
SUM_DAYS: Final = Statement("report_days", DaysRow)


class Child(NamedTuple):
    profile_id: UUID
    name: str
    configuration: Configuration
    days: Days


class Wanted(NamedTuple):
    """How to count, and which children: at most `limit` after the profile `after`."""

    view: View
    limit: int | None
    after: UUID | None


class Found(NamedTuple):
    """The children's weeks, by name, their first and last day, and whether there are more children.

    With days of each child the weeks can differ; the days are then the first and the last of any.
    """

    weeks: list[Week]
    first: date
    last: date
    has_more: bool


async def find_weeks(context: Context, account_id: UUID, wanted: Wanted) -> Found:
    """The children's weeks; raises ClientError 401 or 403.

    Without a limit, an account with more than MAX_CHILDREN gets a RuleError.
    """
    find = _in_own_days if wanted.view.zone == "child" else _in_utc
    most = wanted.limit or MAX_CHILDREN
    weeks = await find(context, account_id, wanted, most)
    if len(weeks) > most and wanted.limit is None:
        raise RuleError(too_many_children(MAX_CHILDREN))
    today = context.now().astimezone(UTC).date()
    shown = weeks[:most]
    first = min((week.days[0].date for week in shown), default=today - SIX_DAYS)
    last = max((week.days[-1].date for week in shown), default=today)
    return Found(shown, first, last, len(weeks) > most)


async def _in_utc(context: Context, account_id: UUID, wanted: Wanted, most: int) -> list[Week]:
    """At most `most` weeks and one more, of UTC days with the present limits."""
    first = context.now().astimezone(UTC).date() - SIX_DAYS
    arguments = (account_id, first, rules.REPORT_DAYS, TOP_TITLES, most + 1, wanted.after)
    context.metrics.report_statements += 1
    rows = await REPORT.all(context.pool, *arguments)
    auth.owned(rows[0] if rows else None)
    return [
        _week(row.profile_id, row.profile_name, first, _configuration(row), row, wanted.view)
        for row in rows
        if row.profile_id is not None and row.profile_name is not None
    ]


def _configuration(row: ReportRow) -> Configuration:
    """The limits of the row, and the defaults for a child without a configuration."""
    if not row.has_configuration:
        return rules.DEFAULTS
    return msgspec.structs.replace(
        rules.DEFAULTS,
        weekday_limit_minutes=row.weekday_limit_minutes,
        weekend_limit_minutes=row.weekend_limit_minutes,
        educational_exempt=row.educational_exempt is not False,
    )


async def _in_own_days(context: Context, account_id: UUID, wanted: Wanted, most: int) -> list[Week]:
    """At most `most` weeks and one more, each of the viewing days of its child."""
    context.metrics.report_statements += 1
    rows = await LIST_CHILDREN.all(context.pool, account_id, most + 1, wanted.after)
    auth.owned(rows[0] if rows else None)
    now = context.now()
    children = [child for row in rows if (child := _child(row, now)) is not None]
    sums = await _sums(context, account_id, children) if children else {}
    return [
        _week(child.profile_id, child.name, child.days.first, child.configuration, row, wanted.view)
        for child in children
        if (row := sums.get(child.profile_id)) is not None
    ]


def _child(row: ChildRow, now: datetime) -> Child | None:
    """The child of the row; None for the single row of an account without children."""
    if row.profile_id is None or row.profile_name is None:
        return None
    configuration = rules.stored_or_default(
        row.weekday_limit_minutes,
        row.weekend_limit_minutes,
        row.reset_hour,
        row.educational_exempt,
        row.timezone,
    )
    today = rules.viewing_day(configuration, now)
    days = days_between(configuration, today - SIX_DAYS, today)
    return Child(row.profile_id, row.profile_name, configuration, days)


async def _sums(
    context: Context, account_id: UUID, children: Sequence[Child]
) -> dict[UUID, DaysRow]:
    context.metrics.report_statements += 1
    rows = await SUM_DAYS.all(
        context.pool,
        account_id,
        [child.profile_id for child in children],
        [child.days.first for child in children],
        [bound for child in children for bound in child.days.bounds],
        rules.REPORT_DAYS,
        TOP_TITLES,
    )
    return {row.profile_id: row for row in rows}


def _week(
    profile_id: UUID,
    name: str,
    first: date,
    configuration: Configuration,
    sums: ReportRow | DaysRow,
    view: View,
) -> Week:
    watched = zip(sums.watched_seconds or (), sums.educational_seconds or (), strict=True)
    seconds = dict(zip(sums.watched_days or (), watched, strict=True))
    titles = zip(
        sums.title_ids or (), sums.title_names or (), sums.title_seconds or (), strict=True
    )
    is_exempt = view.counted and configuration.educational_exempt
    days = []
    for number in range(rules.REPORT_DAYS):
        day = first + timedelta(days=number)
        total, educational = seconds.get(number, (0, 0))
        minutes = rules.limit_minutes(configuration, day)
        limit = None if minutes is None else 60 * minutes
        days.append(Day(day, total, educational, limit, educational if is_exempt else 0))
    zone = configuration.timezone if rules.zone(configuration.timezone) else "UTC"
    begins = (zone, configuration.reset_hour)
    return Week(profile_id, name, days, [Title(*title) for title in titles], *begins, is_exempt)
