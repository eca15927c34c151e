"""History: UTC days and those of the child, ranges, many sessions, unusual names."""

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from service.database.driver import Connection
from service.viewing import rules
from service.viewing.rules import Configuration
from tests.conftest import Running
from tests.family import HEARTBEAT, Family, add_family
from tests.statement_counts import of_requests


async def history(running: Running, family: Family, **query: str) -> httpx.Response:
    return await running.client.get(
        f"/api/v1/parental-controls/profiles/{family.child}/history",
        params=query,
        headers=family.bearer,
    )


async def add_sessions(
    connection: Connection, family: Family, started_at: datetime, count: int = 1, seconds: int = 60
) -> None:
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, is_educational, "
        "started_at, last_heartbeat_at, total_seconds) "
        "select gen_random_uuid(), $1, $2, 'd', false, "
        "$3::timestamptz + make_interval(secs => n), $3, $5 "
        "from generate_series(0, $4 - 1) as n",
        family.child,
        family.title,
        started_at,
        count,
        seconds,
    )


async def test_days_are_utc_days(running: Running, connection: Connection, family: Family) -> None:
    for text in ("2026-05-01T00:00:00", "2026-05-01T23:59:59", "2026-05-02T00:00:00"):
        await add_sessions(connection, family, datetime.fromisoformat(text).replace(tzinfo=UTC))
    answer = (await history(running, family, from_date="2026-05-01", to_date="2026-05-01")).json()
    assert [(day["date"], len(day["sessions"])) for day in answer["days"]] == [("2026-05-01", 2)]
    started = [session["started_at"] for session in answer["days"][0]["sessions"]]
    assert started == ["2026-05-01T23:59:59Z", "2026-05-01T00:00:00Z"]


async def test_at_most_five_hundred_sessions_newest_first(
    running: Running, connection: Connection, family: Family
) -> None:
    await add_sessions(connection, family, datetime(2026, 5, 1, tzinfo=UTC), 501)
    answer = (await history(running, family, from_date="2026-05-01", to_date="2026-05-02")).json()
    [day] = answer["days"]
    assert len(day["sessions"]) == 500
    assert day["sessions"][-1]["started_at"] == "2026-05-01T00:00:01Z"
    assert day["total_minutes"] == 500.0


@pytest.mark.parametrize(
    ("from_date", "to_date", "status"),
    [
        ("0001-01-01", "0001-01-02", 200),
        ("9999-12-30", "9999-12-31", 200),
        ("9999-12-31", "0001-01-01", 422),
        ("0001-01-01", "9999-12-31", 422),
        ("2026-01-01", "2026-04-01", 200),
        ("2026-01-01", "2026-04-02", 422),
        ("2026-02-30", "2026-03-01", 422),
        ("0000-01-01", "0000-01-01", 422),
        ("-1", "1e400", 422),
        ("2026-01-01\0", "2026-01-01", 422),
    ],
)
async def test_range_must_not_exceed_90_days(
    running: Running, family: Family, from_date: str, to_date: str, status: int
) -> None:
    answer = await history(running, family, from_date=from_date, to_date=to_date)
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"profile_id": str(family.child), "days": []}


async def test_names_are_returned_unchanged(
    running: Running, connection: Connection, family: Family
) -> None:
    name = '"It\'s" <script>alert(1)</script> 🚀 مرحبا'
    await connection.execute("update titles set title = $1", name)
    await add_sessions(connection, family, datetime(2026, 5, 1, tzinfo=UTC))
    answer: Any = await history(running, family, from_date="2026-05-01", to_date="2026-05-01")
    assert answer.json()["days"][0]["sessions"][0]["title_name"] == name


async def test_a_bad_range_of_another_accounts_profile_is_403(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    answer = await running.client.get(
        f"/api/v1/parental-controls/profiles/{family.child}/history",
        params={"from_date": "2026-02-02", "to_date": "2026-02-01"},
        headers=stranger.bearer,
    )
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ({}, "missing"),
        ({"from_date": "2026-05-01"}, "missing"),
        ({"to_date": "2026-05-01"}, "missing"),
        ({"from_date": "", "to_date": "2026-05-01"}, "date_from_datetime_parsing"),
        ({"from_date": "2026-05-01", "to_date": "<script>"}, "date_from_datetime_parsing"),
        (
            {"from_date": "2026-05-01T12:00:00", "to_date": "2026-05-02"},
            "date_from_datetime_inexact",
        ),
        ({"from_date": "10000-01-01", "to_date": "2026-05-02"}, "date_from_datetime_parsing"),
    ],
)
async def test_missing_and_malformed_dates_are_422(
    running: Running, family: Family, query: dict[str, str], kind: str
) -> None:
    answer = await history(running, family, **query)
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, kind)


async def test_deleting_a_title_deletes_its_sessions(
    running: Running, connection: Connection, family: Family
) -> None:
    await add_sessions(connection, family, datetime(2026, 5, 1, tzinfo=UTC), 2)
    await connection.execute(
        "update viewing_sessions set title_id = $1 where ctid in "
        "(select min(ctid) from viewing_sessions)",
        family.lesson,
    )
    await connection.execute("delete from titles where id = $1", family.title)
    answer = (await history(running, family, from_date="2026-05-01", to_date="2026-05-01")).json()
    assert [s["title_name"] for s in answer["days"][0]["sessions"]] == ["Planets"]


async def add_session(
    connection: Connection,
    family: Family,
    started_at: datetime,
    last_heartbeat_at: datetime | None = None,
    *,
    seconds: int = 60,
    earlier_days: list[tuple[str, int]] | None = None,
    title: UUID | None = None,
) -> UUID:
    """Stores a session as heartbeats leave it; `earlier_days` are those before its last one."""
    session = uuid4()
    parts = [(f"{day}T12:00:00Z", part) for day, part in earlier_days or ()]
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, is_educational, "
        "started_at, last_heartbeat_at, total_seconds, earlier_days) "
        "values ($1, $2, $3, 'd', $4, $5, $6, $7, $8)",
        session,
        family.child,
        title or family.title,
        title == family.lesson,
        started_at,
        last_heartbeat_at or started_at,
        seconds,
        json.dumps(parts) if parts else None,
    )
    return session


def minutes(answer: httpx.Response) -> dict[str, list[float]]:
    """The minutes of the sessions of each day, which add up to the minutes of the day."""
    found = {}
    for day in answer.json()["days"]:
        found[day["date"]] = [session["duration_minutes"] for session in day["sessions"]]
        assert sum(found[day["date"]]) == pytest.approx(day["total_minutes"])
    return found


async def test_with_zone_child_days_begin_at_the_childs_reset_hour(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, timezone="America/New_York", reset_hour=6)
    for text, seconds in (
        ("2026-05-01T09:59:59", 60),
        ("2026-05-01T10:00:00", 120),
        ("2026-05-02T09:59:59", 180),
        ("2026-05-02T10:00:00", 240),
    ):
        started_at = datetime.fromisoformat(text).replace(tzinfo=UTC)
        await add_session(connection, family, started_at, seconds=seconds)
    days = {"from_date": "2026-05-01", "to_date": "2026-05-01"}
    assert minutes(await history(running, family, **days, zone="child")) == {"2026-05-01": [3, 2]}
    assert minutes(await history(running, family, **days)) == {"2026-05-01": [2, 1]}
    assert minutes(await history(running, family, **days, zone="utc")) == {"2026-05-01": [2, 1]}


@pytest.mark.parametrize("reset_hour", [0, 2, 23])
@pytest.mark.parametrize(
    ("timezone", "change"),
    [
        ("America/New_York", date(2026, 3, 8)),
        ("America/New_York", date(2026, 11, 1)),
        ("Europe/Berlin", date(2026, 3, 29)),
        ("Europe/Berlin", date(2026, 10, 25)),
        ("Australia/Lord_Howe", date(2026, 4, 5)),
        ("Africa/Casablanca", date(2026, 2, 15)),
        ("Pacific/Apia", date(2011, 12, 30)),
    ],
)
async def test_with_zone_child_each_session_is_in_its_viewing_day_across_changes_of_clocks(
    running: Running, connection: Connection, timezone: str, change: date, reset_hour: int
) -> None:
    family = await add_family(connection, timezone=timezone, reset_hour=reset_hour)
    configuration = Configuration(120, 120, reset_hour, True, timezone)
    first, last = change - timedelta(days=1), change + timedelta(days=1)
    begins = datetime(change.year, change.month, change.day, tzinfo=UTC) - timedelta(days=3)
    expected: Counter[str] = Counter()
    for quarter in range(6 * 96):
        started_at = begins + timedelta(minutes=15 * quarter)
        day = rules.viewing_day(configuration, started_at)
        await add_session(connection, family, started_at)
        expected[str(day)] += first <= day <= last
    days = {"from_date": str(first), "to_date": str(last)}
    found = minutes(await history(running, family, **days, zone="child"))
    assert {day: len(sessions) for day, sessions in found.items()} == dict(+expected)


async def test_the_time_of_a_session_belongs_to_the_days_on_which_it_was_watched(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, timezone="Europe/Berlin", reset_hour=6)
    session = await add_session(
        connection,
        family,
        datetime(2026, 5, 1, 3, 30, tzinfo=UTC),
        datetime(2026, 5, 4, 4, 10, tzinfo=UTC),
        seconds=2400,
        earlier_days=[("2026-04-30", 1500), ("2026-05-02", 300)],
    )
    await add_session(connection, family, datetime(2026, 5, 4, 5, tzinfo=UTC), seconds=120)

    async def found(from_date: str, to_date: str) -> dict[str, list[float]]:
        days = {"from_date": from_date, "to_date": to_date, "zone": "child"}
        return minutes(await history(running, family, **days))

    split = {"2026-05-04": [2.0, 10.0], "2026-05-02": [5.0], "2026-04-30": [25.0]}
    answer = await found("2026-04-30", "2026-05-04")
    assert answer == split
    assert [*answer] == [*split]
    later = {day: parts for day, parts in split.items() if day > "2026-05-01"}
    assert await found("2026-05-02", "2026-05-04") == later
    assert await found("2026-05-03", "2026-05-03") == {}
    assert await found("2026-05-04", "2026-05-05") == {"2026-05-04": [2.0, 10.0]}
    assert await found("2026-04-29", "2026-05-01") == {"2026-04-30": [25.0]}
    days = {"from_date": "2026-04-30", "to_date": "2026-05-04"}
    [_, utc_day] = (await history(running, family, **days)).json()["days"]
    assert (utc_day["date"], utc_day["total_minutes"]) == ("2026-05-01", 40.0)
    assert [each["session_id"] for each in utc_day["sessions"]] == [str(session)]


async def test_a_session_from_before_the_split_belongs_to_the_day_on_which_it_started(
    running: Running, connection: Connection, family: Family
) -> None:
    started_at = datetime(2026, 5, 1, 23, 50, tzinfo=UTC)
    await add_session(connection, family, started_at, started_at + timedelta(hours=1), seconds=3600)
    days = {"from_date": "2026-05-01", "to_date": "2026-05-02", "zone": "child"}
    assert minutes(await history(running, family, **days)) == {"2026-05-01": [60.0]}


async def test_parts_of_one_day_are_added_after_a_change_of_the_zone(
    running: Running, connection: Connection, family: Family
) -> None:
    started_at = datetime(2026, 5, 1, 22, tzinfo=UTC)
    earlier = [("2026-05-01", 600)]
    await add_session(connection, family, started_at, seconds=900, earlier_days=earlier)
    days = {"from_date": "2026-05-01", "to_date": "2026-05-02", "zone": "child"}
    assert minutes(await history(running, family, **days)) == {"2026-05-01": [15.0]}


@pytest.mark.parametrize("zone", ["utc", "child"])
@pytest.mark.parametrize(
    ("exempt", "sums"), [(True, (2.0, 5.0, 2.0)), (False, (7.0, 5.0, 7.0))], ids=["exempt", "not"]
)
async def test_counted_sums_leave_out_exempt_educational_time(
    running: Running,
    connection: Connection,
    zone: str,
    exempt: bool,
    sums: tuple[float, float, float],
) -> None:
    family = await add_family(connection, exempt=exempt)
    moment = datetime(2026, 5, 1, 12, tzinfo=UTC)
    await add_session(connection, family, moment, seconds=120)
    await add_session(connection, family, moment, seconds=300, title=family.lesson)
    days = {"from_date": "2026-05-01", "to_date": "2026-05-01"}
    names = ("total_minutes", "educational_minutes", "counted_minutes")
    [day] = (await history(running, family, **days, zone=zone, counted="yes")).json()["days"]
    assert tuple(day[name] for name in names) == sums
    assert len(day["sessions"]) == 2
    for query in ({"zone": zone}, {"zone": zone, "counted": "false"}, {}):
        [day] = (await history(running, family, **days, **query)).json()["days"]
        assert tuple(day[name] for name in names) == (7.0, 5.0, 2.0)


@pytest.mark.parametrize("query", [{}, {"zone": "utc"}, {"zone": "child"}, {"counted": "true"}])
async def test_history_says_when_it_was_cut_at_500_sessions(
    running: Running, connection: Connection, family: Family, query: dict[str, str]
) -> None:
    days = {"from_date": "2026-05-01", "to_date": "2026-05-02"}
    await add_sessions(connection, family, datetime(2026, 5, 1, tzinfo=UTC), 499)
    started_at = datetime(2026, 4, 30, 23, tzinfo=UTC)
    earlier = [("2026-04-30", 30)]
    moment = datetime(2026, 5, 2, tzinfo=UTC)
    await add_session(connection, family, started_at, moment, earlier_days=earlier)
    if query.get("zone") != "child":
        await add_sessions(connection, family, datetime(2026, 5, 1, 12, tzinfo=UTC))
    whole = await history(running, family, **days, **query)
    assert "x-truncated" not in whole.headers
    await add_sessions(connection, family, datetime(2026, 5, 2, 12, tzinfo=UTC))
    cut = await history(running, family, **days, **query)
    assert cut.headers["x-truncated"] == "true"
    for answer, is_truncated in ((whole, False), (cut, True)):
        assert sum(map(len, minutes(answer).values())) == 500
        members = {"is_truncated": is_truncated} if query else {}
        assert answer.json().keys() - {"profile_id", "days"} == members.keys()
        assert answer.json().get("is_truncated", False) == (is_truncated and bool(query))


@pytest.mark.parametrize(
    ("from_date", "to_date"), [("0001-01-01", "0001-01-05"), ("9999-12-01", "9999-12-31")]
)
@pytest.mark.parametrize("timezone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
async def test_with_zone_child_a_range_may_reach_the_ends_of_the_calendar(
    running: Running, connection: Connection, timezone: str, from_date: str, to_date: str
) -> None:
    family = await add_family(connection, timezone=timezone)
    days = {"from_date": from_date, "to_date": to_date, "zone": "child"}
    assert minutes(await history(running, family, **days)) == {}


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("zone", "UTC", "enum"),
        ("zone", "Europe/Berlin", "enum"),
        ("zone", "", "enum"),
        ("counted", "maybe", "bool_parsing"),
        ("counted", "", "bool_parsing"),
    ],
)
async def test_a_malformed_zone_or_counted_is_422(
    running: Running, family: Family, name: str, value: str, kind: str
) -> None:
    days = {"from_date": "2026-05-01", "to_date": "2026-05-02"}
    answer = await history(running, family, **days, **{name: value})
    [fault] = answer.json()["detail"]
    assert (answer.status_code, fault["type"], fault["loc"]) == (422, kind, ["query", name])
    assert fault["input"] == value


async def test_with_zone_child_another_accounts_profile_is_403(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    answer = await running.client.get(
        f"/api/v1/parental-controls/profiles/{family.child}/history",
        params={"from_date": "2026-02-01", "to_date": "2026-02-01", "zone": "child"},
        headers=stranger.bearer,
    )
    assert answer.status_code == 403


@pytest.mark.parametrize("reset_hour", [0, 3, 6])
@pytest.mark.parametrize(
    ("timezone", "change"),
    [
        ("Europe/Berlin", date(2026, 3, 29)),
        ("Europe/Berlin", date(2026, 10, 25)),
        ("America/New_York", date(2026, 5, 2)),
        ("Australia/Lord_Howe", date(2026, 4, 5)),
    ],
)
async def test_with_zone_child_the_minutes_of_days_are_those_of_their_balances(
    running: Running, connection: Connection, timezone: str, change: date, reset_hour: int
) -> None:
    family = await add_family(connection, timezone=timezone, reset_hour=reset_hour)
    configuration = Configuration(120, 120, reset_hour, True, timezone)
    first, last = change - timedelta(days=2), change + timedelta(days=2)
    resets = [rules.reset(configuration, first + timedelta(days=n)) for n in range(1, 5)]
    session = None
    for reset in resets:
        # The session is played around each reset, and in the first minutes of a day that may
        # have 23 or 25 hours.
        for seconds in (-60, -30, -1, 0, 30, 600):
            running.clock.fixed = reset + timedelta(seconds=seconds)
            body = family.beat(session_id=session)
            answer = await running.client.post(HEARTBEAT, json=body, headers=family.bearer)
            session = answer.json()["session_id"]
    days = {"from_date": str(first), "to_date": str(last), "zone": "child", "counted": "true"}
    found = minutes(await history(running, family, **days))
    balances = await connection.fetch(
        "select reset_date, used_seconds from viewing_time_balances order by reset_date desc"
    )
    assert found == {str(row["reset_date"]): [row["used_seconds"] / 60] for row in balances}
    assert len(found) == 5


@pytest.mark.warm
async def test_history_is_one_statement_also_by_viewing_days(
    running: Running, connection: Connection, family: Family
) -> None:
    days = {"from_date": "2026-05-01", "to_date": "2026-05-02"}
    await history(running, family, **days, zone="child")  # reads the configuration
    for query in ({}, {"counted": "true"}, {"zone": "child", "counted": "true"}):
        before = await of_requests(connection)
        assert (await history(running, family, **days, **query)).status_code == 200
        assert await of_requests(connection) - before == 1
