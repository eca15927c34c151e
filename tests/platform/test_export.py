"""The export is complete, the same in JSON and CSV, safe in spreadsheets, and all or nothing."""

import csv
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.database.driver import Connection
from service.platform.export import PAGE_ROWS, export
from service.settings import Settings
from tests.family import Family, add_family

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
FILES = {"viewing-data.json", "sessions.csv", "balances.csv", "grants.csv"}


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
        "granted_at) values (gen_random_uuid(), $1, $2, $3, $4, $5)",
        [
            (family.child, family.account, 30, True, NOW),
            (family.child, family.account, None, False, NOW - timedelta(days=1)),
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
    assert counts == {"sessions": PAGE_ROWS + 1, "balances": PAGE_ROWS + 1, "grants": 2}
    assert {path.name for path in folder.iterdir()} == FILES
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
    assert [grant["granted_minutes"] for grant in copy["grants"]] == [30, None]


def as_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


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
    assert set((await export(settings, family.child, tmp_path / "copy", NOW)).values()) == {0}
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

    monkeypatch.setattr("service.platform.export._cell", full)
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
