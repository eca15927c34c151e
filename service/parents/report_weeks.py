"""Reads the last seven days of the children of an account, in UTC or in each child's own days."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from service.context import Context
from service.database.driver import Source
from service.database.statement import Statement
from service.errors import RuleError, too_many_children
from service.http import auth
from service.parents.report_view import View, days_between
from service.parents.week import Day, Title, Week
from service.viewing import rules
from service.viewing.past_limits import limit_in_force
from service.viewing.policy import limit_minutes, policy_or_locked, stored_policy, viewing_day
from service.viewing.rules import Configuration
from service.viewing.usage import past_days

TOP_TITLES: Final = 3
MAX_CHILDREN: Final = 50  # building their HTML page blocks the event loop for 10 ms
SIX_DAYS: Final = timedelta(days=rules.REPORT_DAYS - 1)
# The days of a report, those before them in their viewing week, and one for zones west of UTC.
TWO_WEEKS: Final = timedelta(days=14)


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
    policy: str | None
    balance_days: list[date] | None
    used_seconds: list[int] | None
    overrides: list[bool] | None
    extended_minutes: list[int] | None
    limit_minutes: list[int | None] | None


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
    """A child, the first of its days, and the limits of all of them in seconds."""

    profile_id: UUID
    name: str
    configuration: Configuration
    first: date
    limits: list[int | None]


class Wanted(NamedTuple):
    """How to count, and which children: at most `limit` after the profile `after`."""

    view: View
    limit: int | None
    after: UUID | None


class Found(NamedTuple):
    """The children's weeks, by name, their first and last day, and whether there are more children.

    If the children have days of their own, `first` and `last` are the first and the last of any.
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
    weeks = await context.reads.run(find, context, account_id, wanted, most)
    if len(weeks) > most and wanted.limit is None:
        raise RuleError(too_many_children(MAX_CHILDREN))
    today = context.now().astimezone(UTC).date()
    shown = weeks[:most]
    first = min((week.days[0].date for week in shown), default=today - SIX_DAYS)
    last = max((week.days[-1].date for week in shown), default=today)
    return Found(shown, first, last, len(weeks) > most)


async def _in_utc(
    source: Source, context: Context, account_id: UUID, wanted: Wanted, most: int
) -> list[Week]:
    """At most `most` weeks and one more, of UTC days with the present limits."""
    first = context.now().astimezone(UTC).date() - SIX_DAYS
    arguments = (account_id, first, rules.REPORT_DAYS, TOP_TITLES, most + 1, wanted.after)
    context.metrics.report_statements += 1
    rows = await REPORT.all(source, *arguments)
    auth.owned(rows[0] if rows else None)
    children = ((row, _child_in_utc(row, first)) for row in rows)
    return [_week(child, row, wanted.view) for row, child in children if child is not None]


def _child_in_utc(row: ReportRow, first: date) -> Child | None:
    """The child of the row; None for the single row of an account without children."""
    if row.profile_id is None or row.profile_name is None:
        return None
    configuration = rules.DEFAULTS
    if row.has_configuration:
        configuration = msgspec.structs.replace(
            configuration,
            weekday_limit_minutes=row.weekday_limit_minutes,
            weekend_limit_minutes=row.weekend_limit_minutes,
            educational_exempt=row.educational_exempt is not False,
        )
    policy = stored_policy(configuration)
    minutes = [limit_minutes(policy, day) for day in _days(first)]
    limits = [None if limit is None else 60 * limit for limit in minutes]
    return Child(row.profile_id, row.profile_name, configuration, first, limits)


async def _in_own_days(
    source: Source, context: Context, account_id: UUID, wanted: Wanted, most: int
) -> list[Week]:
    """At most `most` weeks and one more, of the child's days with the limits in force on them."""
    now = context.now()
    context.metrics.report_statements += 1
    arguments = (account_id, most + 1, wanted.after, now.date() - TWO_WEEKS)
    rows = await LIST_CHILDREN.all(source, *arguments)
    auth.owned(rows[0] if rows else None)
    children = [child for row in rows if (child := _child(row, now)) is not None]
    sums = await _sums(source, context, account_id, children) if children else {}
    found = ((child, sums.get(child.profile_id)) for child in children)
    return [_week(child, row, wanted.view) for child, row in found if row is not None]


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
    policy = policy_or_locked(configuration, row.policy)
    first = viewing_day(policy, now) - SIX_DAYS
    columns = (row.balance_days, row.used_seconds, row.overrides)
    past = past_days(*columns, row.extended_minutes, row.limit_minutes)
    balances = {balance.day: balance for balance in past}
    limits = [limit_in_force(policy, day, balances) for day in _days(first)]
    return Child(row.profile_id, row.profile_name, configuration, first, limits)


async def _sums(
    source: Source, context: Context, account_id: UUID, children: Sequence[Child]
) -> dict[UUID, DaysRow]:
    days = [
        days_between(child.configuration, child.first, child.first + SIX_DAYS) for child in children
    ]
    context.metrics.report_statements += 1
    rows = await SUM_DAYS.all(
        source,
        account_id,
        [child.profile_id for child in children],
        [bound for each in days for bound in each.bounds],
        rules.REPORT_DAYS,
        TOP_TITLES,
    )
    return {row.profile_id: row for row in rows}


def _days(first: date) -> list[date]:
    return [first + timedelta(days=number) for number in range(rules.REPORT_DAYS)]


def _week(child: Child, sums: ReportRow | DaysRow, view: View) -> Week:
    watched = zip(sums.watched_seconds or (), sums.educational_seconds or (), strict=True)
    seconds = dict(zip(sums.watched_days or (), watched, strict=True))
    columns = (sums.title_ids or (), sums.title_names or (), sums.title_seconds or ())
    titles = [Title(*title) for title in zip(*columns, strict=True)]
    configuration = child.configuration
    is_exempt = view.counted and configuration.educational_exempt
    days = []
    for number, (day, limit) in enumerate(zip(_days(child.first), child.limits, strict=True)):
        total, educational = seconds.get(number, (0, 0))
        days.append(Day(day, total, educational, limit, educational if is_exempt else 0))
    zone = configuration.timezone if rules.zone(configuration.timezone) else "UTC"
    begins = (zone, configuration.reset_hour)
    return Week(child.profile_id, child.name, days, titles, *begins, is_exempt)
