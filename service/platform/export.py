"""A parent's copy of the data stored about a child: one JSON document, and a CSV file of each kind.

Sessions are read page by page, so memory does not grow with the history. All files show the same
moment. The folder exists only when the copy is complete, and only its owner can read it.
"""

import csv
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, BinaryIO, Final, TypeVar
from uuid import UUID

import msgspec

from service.database.driver import Connection
from service.database.pool import connected
from service.database.statement import Statement
from service.http import lenient_json
from service.platform.export_cells import cell
from service.settings import Settings

Row = TypeVar("Row", bound=msgspec.Struct)

PAGE_ROWS: Final = 500
STATEMENT_SECONDS: Final = 60.0
END_OF_TIME: Final = datetime(9999, 12, 31, tzinfo=UTC)
LAST_ID: Final = UUID(int=2**128 - 1)


class ExportedProfileRow(msgspec.Struct, frozen=True):
    profile_name: str


class ExportedSessionRow(msgspec.Struct, frozen=True):
    session_id: UUID
    title_id: UUID
    title_name: str | None
    device_id: str
    device_type: str | None
    is_educational: bool
    started_at: datetime
    last_heartbeat_at: datetime
    ended_at: datetime | None
    total_seconds: int
    earlier_days: str | None


class ExportedBalanceRow(msgspec.Struct, frozen=True):
    viewing_day: date
    used_seconds: int
    educational_seconds: int
    is_unlimited_override: bool
    limit_minutes: int | None
    had_no_limit: bool | None
    extended_minutes: int | None


class ExportedGrantRow(msgspec.Struct, frozen=True):
    granted_at: datetime
    granted_minutes: int | None
    is_remote: bool
    viewing_day: date | None
    mode: str | None
    effect_seconds: int | None
    undone_at: datetime | None
    request_id: UUID | None


class ExportedRequestRow(msgspec.Struct, frozen=True):
    request_id: UUID
    viewing_day: date
    requested_at: datetime
    minutes: int | None
    message: str | None
    device_id: str | None
    status: str
    expires_at: datetime
    decided_at: datetime | None


class ExportedConfigRow(msgspec.Struct, frozen=True):
    weekday_limit_minutes: int | None
    weekend_limit_minutes: int | None
    reset_hour: int
    educational_exempt: bool
    timezone: str
    updated_at: datetime
    day_floor: date | None


class ExportedScheduleRow(msgspec.Struct, frozen=True):
    daily_limits: str | None
    downtime: str
    weekly_limit_minutes: int | None
    week_starts_on: str
    rollover_max_minutes: int
    finish_minutes: int
    updated_at: datetime


class ExportedExceptionRow(msgspec.Struct, frozen=True):
    viewing_day: date
    changes_limit: bool
    limit_minutes: int | None
    lifts_downtime: bool
    updated_at: datetime


class ExportedLockRow(msgspec.Struct, frozen=True):
    locked_until: datetime
    locked_at: datetime


EXPORT_PROFILE: Final = Statement("profile_export", ExportedProfileRow)
EXPORT_SESSIONS: Final = Statement("session_export", ExportedSessionRow)
EXPORT_BALANCES: Final = Statement("balance_export", ExportedBalanceRow)
EXPORT_GRANTS: Final = Statement("grant_export", ExportedGrantRow)
EXPORT_REQUESTS: Final = Statement("viewing_request_export", ExportedRequestRow)
EXPORT_CONFIGURATION: Final = Statement("config_export", ExportedConfigRow)
EXPORT_SCHEDULE: Final = Statement("schedule_export", ExportedScheduleRow)
EXPORT_EXCEPTIONS: Final = Statement("exception_export", ExportedExceptionRow)
EXPORT_LOCK: Final = Statement("lock_export", ExportedLockRow)
# Kinds that are read at once; a profile has a few rows a day at most.
KINDS: Final[dict[str, Statement[Any]]] = {
    "balances": EXPORT_BALANCES,
    "grants": EXPORT_GRANTS,
    "requests": EXPORT_REQUESTS,
    "configurations": EXPORT_CONFIGURATION,
    "schedules": EXPORT_SCHEDULE,
    "exceptions": EXPORT_EXCEPTIONS,
    "locks": EXPORT_LOCK,
}
# JSON, which the driver reads as text.
DECODED: Final = ("earlier_days", "daily_limits", "downtime")


async def export(
    settings: Settings, profile_id: UUID, folder: Path, now: datetime
) -> dict[str, int]:
    """Writes the copy into a new `folder` and returns the number of rows of each kind.

    Raises LookupError if the profile does not exist, FileExistsError if the folder does.
    """
    async with (
        connected(settings, STATEMENT_SECONDS) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        profile = await EXPORT_PROFILE.one(connection, profile_id, timeout=STATEMENT_SECONDS)
        heading = {"profile_id": profile_id, "profile_name": profile.profile_name}
        with (
            _complete_folder(folder) as unfinished,
            (unfinished / "viewing-data.json").open("wb") as document,
        ):
            document.write(lenient_json.encode({**heading, "exported_at": now})[:-1])
            sessions = _sessions(connection, profile_id)
            counts = {
                "sessions": await _write(
                    unfinished, document, "sessions", ExportedSessionRow, sessions
                )
            }
            for name, statement in KINDS.items():
                rows = _rows(statement, connection, profile_id)
                counts[name] = await _write(unfinished, document, name, statement.row, rows)
            document.write(b"}\n")
        return counts


async def _sessions(connection: Connection, profile_id: UUID) -> AsyncIterator[ExportedSessionRow]:
    """Every session, newest first, read page by page."""
    last = (END_OF_TIME, LAST_ID)
    while page := await EXPORT_SESSIONS.all(connection, profile_id, *last, PAGE_ROWS):
        for session in page:
            yield session
        last = (page[-1].started_at, page[-1].session_id)


async def _rows(
    statement: Statement[Row], connection: Connection, profile_id: UUID
) -> AsyncIterator[Row]:
    for row in await statement.all(connection, profile_id):
        yield row


async def _write(
    folder: Path,
    document: BinaryIO,
    name: str,
    row_type: type[msgspec.Struct],
    rows: AsyncIterator[msgspec.Struct],
) -> int:
    """Writes rows to a member of the document and to a CSV file; returns their number."""
    count = 0
    document.write(f',\n"{name}":['.encode())
    # The byte order mark makes spreadsheets read the file as UTF-8.
    with (folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerow(row_type.__struct_fields__)
        async for row in rows:
            document.write(b",\n" if count else b"\n")
            values = _values(row)
            document.write(lenient_json.encode(values))
            table.writerow(map(cell, values.values()))
            count += 1
    document.write(b"]")
    return count


@contextmanager
def _complete_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, renamed to it on success and removed on failure."""
    if folder.exists():
        raise FileExistsError(f"{folder} already exists")
    unfinished = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield unfinished
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _values(row: msgspec.Struct) -> dict[str, object]:
    values: dict[str, object] = msgspec.to_builtins(row)
    texts = {name: values[name] for name in DECODED if isinstance(values.get(name), str)}
    return values | {name: json.loads(str(text)) for name, text in texts.items()}
