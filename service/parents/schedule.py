"""GET and PUT of a child's schedule: limits by day, downtime, a weekly limit, roll-over."""

from datetime import date, datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from service.database.ids import id_prefix
from service.database.statement import Statement
from service.http import auth, lenient_json
from service.http.body_and_reply import read, reply
from service.http.fields import PinToken, ProfileId, Time, doc
from service.http.lenient_json import stored
from service.parents.pin_proof import pin_proof
from service.parents.policy_change import in_force, past_limits
from service.parents.viewing_config import QUARTERS, require_multiple
from service.viewing.policy import DAY_NAMES, ClockTime, DayName

MAX_WINDOWS: Final = 21

DayLimit = Annotated[int, Meta(ge=15, le=1440), QUARTERS]
WeekLimit = Annotated[int, Meta(ge=15, le=10080), QUARTERS]
BY_DAY: Final = Meta(extra_json_schema={"propertyNames": {"enum": [*DAY_NAMES]}})
DAILY: Final = doc(
    "Minutes allowed in the viewing day of each day of the week; null: no limit. A day that is"
    " missing has the limit of the configuration, for a weekday or for the weekend. The whole"
    " object is replaced.",
    {"wed": 60, "sat": 240, "sun": None},
)
DOWNTIME: Final = doc(
    "Windows in which nothing plays; windows that overlap count as one. The whole list is replaced."
)
WEEKLY: Final = doc("Minutes allowed in a viewing week; null: no limit.", 900)
WEEK_START: Final = doc("The day on which the viewing week begins, at the reset hour.", "mon")
ROLLOVER: Final = doc(
    "The most minutes left of a day's limit that are added to the next day of the week.", 30
)
FINISH: Final = doc(
    "Minutes for which a title that already plays may go on when the daily or weekly limit is"
    " reached; they are counted.",
    10,
)


class Window(msgspec.Struct, frozen=True):
    """Hours in which nothing plays, by the clock in the child's time zone."""

    days: Annotated[
        Annotated[list[DayName], Meta(min_length=1, max_length=7)],
        doc("The days on which the window begins.", ["sun", "mon", "tue", "wed", "thu"]),
    ]
    start: Annotated[ClockTime, doc("When it begins, as HH:MM; midnight is 00:00.", "20:00")]
    end: Annotated[
        ClockTime,
        doc(
            "When it ends. Not after `start`: on the next day; equal to `start`: after a day.",
            "06:30",
        ),
    ]


class ScheduleBody(msgspec.Struct):
    """The members to set; absent ones stay as they are."""

    daily_limits: Annotated[
        Annotated[dict[DayName, DayLimit | None], BY_DAY] | None | UnsetType, DAILY
    ] = UNSET
    downtime: Annotated[
        Annotated[list[Window], Meta(max_length=MAX_WINDOWS)] | UnsetType, DOWNTIME
    ] = UNSET
    weekly_limit_minutes: Annotated[WeekLimit | None | UnsetType, WEEKLY] = UNSET
    week_starts_on: Annotated[DayName | UnsetType, WEEK_START] = UNSET
    rollover_max_minutes: Annotated[Annotated[int, Meta(ge=0, le=240)] | UnsetType, ROLLOVER] = (
        UNSET
    )
    finish_minutes: Annotated[Annotated[int, Meta(ge=0, le=60)] | UnsetType, FINISH] = UNSET
    pin_token: PinToken = None


class ScheduleRow(msgspec.Struct, frozen=True):
    is_active: bool
    is_owner: bool
    daily_limits: str | None
    downtime: str | None
    weekly_limit_minutes: int | None
    week_starts_on: DayName | None
    rollover_max_minutes: int | None
    finish_minutes: int | None
    updated_at: datetime | None


class PutRow(ScheduleRow, frozen=True):
    is_confirmed: bool
    notified: str | None
    listeners: list[str]


class Schedule(msgspec.Struct, frozen=True):
    """The profile's schedule; a profile without one has the defaults."""

    profile_id: ProfileId
    daily_limits: Annotated[
        Annotated[dict[DayName, Annotated[int, QUARTERS] | None], BY_DAY] | None, DAILY
    ]
    downtime: Annotated[list[Window], DOWNTIME]
    weekly_limit_minutes: Annotated[Annotated[int, QUARTERS] | None, WEEKLY]
    week_starts_on: Annotated[DayName, WEEK_START]
    rollover_max_minutes: Annotated[int, ROLLOVER]
    finish_minutes: Annotated[int, FINISH]
    updated_at: Annotated[
        Time | None,
        doc("When the schedule last changed, in UTC; null without one.", "2026-03-01T09:15:00Z"),
    ]


BODY: Final = lenient_json.Body(ScheduleBody)
READ: Final = Statement("schedule_read", ScheduleRow)
PUT: Final = Statement("schedule_put", PutRow)
LIMITS: Final = msgspec.json.Decoder(dict[DayName, int | None] | None)
WINDOWS: Final = msgspec.json.Decoder(list[Window])


async def schedule(request: Request) -> Response:
    """GET /schedule: returns a child's limits by weekday and week, and its downtime."""
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    row = auth.owned(await READ.maybe(context.pool, account_id, profile_id))
    return _response(profile_id, row)


async def schedule_put(request: Request) -> Response:
    """PUT /schedule: changes limits by weekday and week, and downtime."""
    body = read(request, BODY)
    context, account_id = await auth.caller(request)
    profile_id = lenient_json.path_uuid(request.path_params["profile_id"], "profile_id")
    _check_multiples(body)
    proof = pin_proof(request, context, account_id, body.pin_token)
    kept: tuple[list[date], list[int]] = ([], [])
    if body.daily_limits is not UNSET:
        kept = await past_limits(context, account_id, profile_id, context.now())
    change = context.configurations.changes.begin()
    moment = (change.origin, now := context.now(), id_prefix(now))
    arguments = (*proof, *_members(body), *kept, *moment)
    row = await PUT.maybe(context.pool, account_id, profile_id, *arguments)
    row = await in_force(context, change, account_id, profile_id, row)
    return _response(profile_id, row)


def _check_multiples(body: ScheduleBody) -> None:
    """Raises RuleError for the first limit that is not a multiple of 15 minutes."""
    daily = body.daily_limits if isinstance(body.daily_limits, dict) else {}
    limits = {f"daily_limits.{day}": daily.get(day) for day in DAY_NAMES}
    for name, minutes in (*limits.items(), ("weekly_limit_minutes", body.weekly_limit_minutes)):
        require_multiple(name, minutes)


def _members(body: ScheduleBody) -> tuple[object, ...]:
    """The members as arguments; each limit has a flag, because null is a value of it."""
    return (
        body.daily_limits is not UNSET,
        _json(body.daily_limits),
        _json(body.downtime),
        body.weekly_limit_minutes is not UNSET,
        stored(body.weekly_limit_minutes),
        stored(body.week_starts_on),
        stored(body.rollover_max_minutes),
        stored(body.finish_minutes),
    )


def _json(member: object) -> str | None:
    return None if stored(member) is None else lenient_json.encode(member).decode()


def _response(profile_id: UUID, row: ScheduleRow) -> Response:
    limits = LIMITS.decode(row.daily_limits or "null")
    return reply(
        Schedule(
            profile_id,
            # PostgreSQL does not keep the order of the members.
            limits and {day: limits[day] for day in DAY_NAMES if day in limits},
            WINDOWS.decode(row.downtime or "[]"),
            row.weekly_limit_minutes,
            row.week_starts_on or "mon",
            row.rollover_max_minutes or 0,
            row.finish_minutes or 0,
            row.updated_at,
        )
    )
