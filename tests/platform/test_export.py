"""The export is complete, the same in JSON and CSV, safe in spreadsheets, and all or nothing."""

import csv
import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.database.driver import Connection
from service.platform.export import EXPORT_SESSIONS, KINDS, PAGE_ROWS, export
from service.settings import Settings
from tests.about_profiles import about_profiles, add_rows, columns
from tests.family import Family, add_family

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
STATEMENTS = {
    "viewing_sessions": EXPORT_SESSIONS,
    "viewing_time_balances": KINDS["balances"],
    "time_grants": KINDS["grants"],
    "viewing_requests": KINDS["requests"],
    "viewing_time_configs": KINDS["configurations"],
    "viewing_schedules": KINDS["schedules"],
    "viewing_exceptions": KINDS["exceptions"],
    "viewing_locks": KINDS["locks"],
}
# Tables and columns that are left out.
NOT_EXPORTED = {
    "viewing_events": "reports changes of rows that are in the copy",
    "viewing_clocks": "only when the last heartbeat was counted, which sessions show",
    "id": "names nothing outside the database, except a session and a request",
    "account_id": "the account of the parent who gets the copy",
    "grant_id": "in the grant, which names its request",
    "decided_by_user_id": "the same account",
    "profile_id": "at the head of the copy",
    "granted_by_user_id": "the account of the parent who gets the copy",
    "undone_by_user_id": "the same account",
    "created_at": "only when the service first stored a configuration",
    "paused_at": "only while a player is paused",
    "recent_keys": "recognizes repeated heartbeats",
    "recent_marks": "no longer used",
    "latest_credit_seconds": "in the grant",
    "viewing_time_balances.updated_at": "when the last heartbeat was counted, which sessions show",
}


async def watched(connection: Connection, family: Family, count: int = 3) -> None:
    """Adds `count` sessions, one per minute, `count` balances, one per day, and two grants."""
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at, total_seconds) "
        "select gen_random_uuid(), $1, $2, 'tv-' || n, t, t, 30 * n "
        "from generate_series(1, $4) as n, "
        "lateral (select $3::timestamptz - n * interval '1 minute') as m (t)",
        family.child,
        family.title,
        NOW,
        count,
    )
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds) "
        "select gen_random_uuid(), $1, $2::date - n, 30 * n from generate_series(1, $3) as n",
        family.child,
        NOW.date(),
        count,
    )
    await connection.executemany(
        "insert into time_grants (id, profile_id, granted_by_user_id, granted_minutes, is_remote, "
        "granted_at, reset_date, mode, effect_seconds, undone_at) "
        "values (gen_random_uuid(), $1, $2, $3, $4, $5, $6, $7, $8, $9)",
        [
            (family.child, family.account, 30, True, NOW, NOW.date(), "credit", 900, NOW),
            (family.child, family.account, None, False, NOW - timedelta(days=1), *4 * (None,)),
        ],
    )


def document(folder: Path) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads((folder / "viewing-data.json").read_text(encoding="utf-8"))
    return copy


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


async def test_json_and_csv_contain_everything_about_the_child(
    settings: Settings, connection: Connection, family: Family, tmp_path: Path
) -> None:
    other = await add_family(connection)
    for one in (family, other):
        await watched(connection, one, PAGE_ROWS + 1)
    folder = tmp_path / "copy"
    counts = await export(settings, family.child, folder, NOW)
    kinds = {"sessions": PAGE_ROWS + 1, "balances": PAGE_ROWS + 1, "grants": 2, "requests": 0}
    kinds |= {"configurations": 1, "schedules": 0, "exceptions": 0, "locks": 0}
    assert counts == kinds
    files = {"viewing-data.json", *(f"{kind}.csv" for kind in kinds)}
    assert {path.name for path in folder.iterdir()} == files
    copy = document(folder)
    assert copy["profile_id"] == str(family.child)
    assert (copy["profile_name"], copy["exported_at"]) == ("Ada", "2026-11-24T12:00:00Z")
    for name, count in counts.items():
        rows = table(folder, name)
        assert len(copy[name]) == len(rows) == count
        for member, row in zip(copy[name], rows, strict=True):
            assert {key: as_text(value) for key, value in member.items()} == row
    newest = copy["sessions"][0]
    assert (newest["title_name"], newest["device_id"]) == ("Cartoon", "tv-1")
    assert (newest["started_at"], newest["ended_at"]) == ("2026-11-24T11:59:00Z", None)
    assert copy["sessions"][-1]["total_seconds"] == 30 * (PAGE_ROWS + 1)
    assert copy["balances"][0]["viewing_day"] == str(date(2026, 11, 23))
    assert copy["grants"] == [
        {
            "granted_at": "2026-11-24T12:00:00Z",
            "granted_minutes": 30,
            "is_remote": True,
            "viewing_day": "2026-11-24",
            "mode": "credit",
            "effect_seconds": 900,
            "undone_at": "2026-11-24T12:00:00Z",
            "request_id": None,
        },
        {
            "granted_at": "2026-11-23T12:00:00Z",
            "granted_minutes": None,
            "is_remote": False,
            "viewing_day": None,
            "mode": None,
            "effect_seconds": None,
            "undone_at": None,
            "request_id": None,
        },
    ]


def as_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


async def test_every_table_and_column_about_a_profile_is_exported_or_has_a_reason(
    settings: Settings, connection: Connection, family: Family, tmp_path: Path
) -> None:
    await add_rows(connection, family)
    found = await export(settings, family.child, tmp_path / "copy", NOW)
    assert 0 not in found.values()
    missing = {
        f"{name}.{column}"
        for name in await about_profiles(connection)
        for column in await columns(connection, name)
        if name not in NOT_EXPORTED
        and not {column, f"{name}.{column}"} & NOT_EXPORTED.keys()
        and not re.search(rf"\.{column}\b", STATEMENTS[name].text)
    }
    assert missing == set()


async def test_rules_and_days_are_data_in_json_and_words_in_csv(
    settings: Settings, connection: Connection, family: Family, tmp_path: Path
) -> None:
    await watched(connection, family, 1)
    limits = {"mon": 60, "sun": None}
    windows = [
        {"days": ["mon", "tue"], "start": "20:00", "end": "07:00"},
        {"days": ["sun"], "start": "12:00", "end": "13:00"},
    ]
    days = {"2026-11-22": 1800, "2026-11-23": 60}
    stored_days = json.dumps([[day, seconds] for day, seconds in days.items()])
    await connection.execute(
        "insert into viewing_schedules (profile_id, daily_limits, downtime, updated_at) "
        "values ($1, $2, $3, $4)",
        family.child,
        json.dumps(limits),
        json.dumps(windows),
        NOW,
    )
    await connection.execute("update viewing_sessions set earlier_days = $1", stored_days)
    await connection.execute(
        "update viewing_time_balances set limit_minutes = -1, extended_minutes = 30"
    )
    await connection.execute(
        "insert into viewing_exceptions values ($1, '2026-12-24', true, null, false, $2), "
        "($1, '2026-12-25', false, null, true, $2)",
        family.child,
        NOW,
    )
    await export(settings, family.child, tmp_path / "copy", NOW)
    copy = document(tmp_path / "copy")
    [schedule], [row] = copy["schedules"], table(tmp_path / "copy", "schedules")
    assert (schedule["daily_limits"], schedule["downtime"]) == (limits, windows)
    assert row["daily_limits"] == "mon: 60, sun: unlimited"
    assert row["downtime"] == (
        "days: mon tue, start: 20:00, end: 07:00; days: sun, start: 12:00, end: 13:00"
    )
    assert copy["sessions"][0]["earlier_days"] == days
    [row] = table(tmp_path / "copy", "sessions")
    assert row["earlier_days"] == "2026-11-22: 1800, 2026-11-23: 60"
    [balance] = copy["balances"]
    assert (balance["limit_minutes"], balance["had_no_limit"]) == (None, True)
    assert balance["extended_minutes"] == 30
    assert [each["viewing_day"] for each in copy["exceptions"]] == ["2026-12-25", "2026-12-24"]


async def test_a_request_is_exported_with_its_message_and_named_by_its_grant(
    settings: Settings, connection: Connection, family: Family, tmp_path: Path
) -> None:
    request_id = uuid4()
    await connection.execute(
        "insert into viewing_requests values ($1, $2, $3, 30, '=1+1 <b>', 'tv-1', 'approved', "
        "$4::date, $5, $5::timestamptz + interval '1 hour', $5, $2, $1)",
        request_id,
        family.account,
        family.child,
        NOW.date(),
        NOW,
    )
    await watched(connection, family, 1)
    await connection.execute("update time_grants set request_id = $1", request_id)
    await export(settings, family.child, tmp_path / "copy", NOW)
    assert document(tmp_path / "copy")["requests"] == [
        {
            "request_id": str(request_id),
            "viewing_day": "2026-11-24",
            "requested_at": "2026-11-24T12:00:00Z",
            "minutes": 30,
            "message": "=1+1 <b>",
            "device_id": "tv-1",
            "status": "approved",
            "expires_at": "2026-11-24T13:00:00Z",
            "decided_at": "2026-11-24T12:00:00Z",
        }
    ]
    [row] = table(tmp_path / "copy", "requests")
    assert row["message"] == "'=1+1 <b>"
    grants = document(tmp_path / "copy")["grants"]
    assert {grant["request_id"] for grant in grants} == {str(request_id)}


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ('=HYPERLINK("http://x","y")', '\'=HYPERLINK("http://x","y")'),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r\n=1", "'\r\n=1"),
        ("＝1+1", "'＝1+1"),
        ('"quoted", and\nbroken', '"quoted", and\nbroken'),
        ("a=b", "a=b"),
        ("🚀 مرحبا <script>", "🚀 مرحبا <script>"),
    ],
)
async def test_text_is_not_a_formula_in_a_spreadsheet(
    settings: Settings,
    connection: Connection,
    family: Family,
    tmp_path: Path,
    name: str,
    cell: str,
) -> None:
    await watched(connection, family, 1)
    await connection.execute("update titles set title = $1", name)
    await export(settings, family.child, tmp_path / "copy", NOW)
    [row] = table(tmp_path / "copy", "sessions")
    assert row["title_name"] == cell
    assert document(tmp_path / "copy")["sessions"][0]["title_name"] == name


async def test_export_of_a_child_without_data(
    settings: Settings, family: Family, tmp_path: Path
) -> None:
    counts = await export(settings, family.child, tmp_path / "copy", NOW)
    assert counts == dict.fromkeys(counts, 0) | {"configurations": 1}
    copy = document(tmp_path / "copy")
    assert (copy["sessions"], copy["balances"], copy["grants"]) == ([], [], [])
    assert table(tmp_path / "copy", "sessions") == []


async def test_only_the_owner_can_read_the_folder(
    settings: Settings, family: Family, tmp_path: Path
) -> None:
    await export(settings, family.child, tmp_path / "copy", NOW)
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700


async def test_unknown_profile_leaves_no_files(
    settings: Settings, family: Family, tmp_path: Path
) -> None:
    with pytest.raises(LookupError):
        await export(settings, uuid4(), tmp_path / "copy", NOW)
    assert list(tmp_path.iterdir()) == []


async def test_failed_export_leaves_no_files(
    settings: Settings,
    connection: Connection,
    family: Family,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await watched(connection, family)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("service.platform.export.cell", full)
    with pytest.raises(OSError, match="No space"):
        await export(settings, family.child, tmp_path / "copy", NOW)
    assert list(tmp_path.iterdir()) == []


async def test_existing_folder_is_not_overwritten(
    settings: Settings, family: Family, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "letter").write_text("dear Ada")
    with pytest.raises(FileExistsError):
        await export(settings, family.child, folder, NOW)
    assert [path.name for path in tmp_path.rglob("*")] == ["copy", "letter"]
