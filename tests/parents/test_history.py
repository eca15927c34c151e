"""History: UTC days, ranges, many sessions, unusual names."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from service.database.driver import Connection
from tests.conftest import Running
from tests.family import Family, add_family


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
