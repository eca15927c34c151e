"""A parent's copy of what is kept about a child: one JSON document, and a CSV file of each kind.

Sessions are written page by page, so a long history needs no more memory than a short one. All
files show the same moment. The copy appears when it is complete, and only its owner may read it.
"""

import csv
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO, Final
from uuid import UUID

import msgspec

from service.database.driver import Connection
from service.database.pool import connected
from service.database.statement import Statement
from service.http import lenient_json
from service.settings import Settings

PAGE: Final = 500
SECONDS: Final = 60.0  # for each statement
END_OF_TIME: Final = datetime(9999, 12, 31, tzinfo=UTC)
LAST_ID: Final = UUID(int=2**128 - 1)
# What spreadsheets take for the start of a formula, also after the full-width signs of East Asia.
FORMULA: Final = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  as typed by those who try


class ProfileRow(msgspec.Struct, frozen=True):
    profile_name: str


class SessionRow(msgspec.Struct, frozen=True):
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


class BalanceRow(msgspec.Struct, frozen=True):
    viewing_day: date
    used_seconds: int
    educational_seconds: int
    is_unlimited_override: bool


class GrantRow(msgspec.Struct, frozen=True):
    granted_at: datetime
    granted_minutes: int | None
    is_remote: bool


PROFILE: Final = Statement("profile_export", ProfileRow)
SESSIONS: Final = Statement("session_export", SessionRow)
BALANCES: Final = Statement("balance_export", BalanceRow)
GRANTS: Final = Statement("grant_export", GrantRow)


async def export(
    settings: Settings, profile_id: UUID, folder: Path, now: datetime
) -> dict[str, int]:
    """Writes the copy into a new `folder`; returns how many rows of each kind.

    Raises LookupError where there is no such profile, FileExistsError where the folder is there.
    """
    async with (
        connected(settings, SECONDS) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        profile = await PROFILE.one(connection, profile_id, timeout=SECONDS)
        about = {"profile_id": profile_id, "profile_name": profile.profile_name}
        with _copy(folder, {**about, "exported_at": now}) as copy:
            with copy.section("sessions", SessionRow) as write:
                async for session in _sessions(connection, profile_id):
                    write(session)
            with copy.section("balances", BalanceRow) as write:
                for balance in await BALANCES.all(connection, profile_id):
                    write(balance)
            with copy.section("grants", GrantRow) as write:
                for grant in await GRANTS.all(connection, profile_id):
                    write(grant)
            return copy.counts


async def _sessions(connection: Connection, profile_id: UUID) -> AsyncIterator[SessionRow]:
    """Every session, newest first, a page at a time."""
    last = (END_OF_TIME, LAST_ID)
    while page := await SESSIONS.all(connection, profile_id, *last, PAGE):
        for session in page:
            yield session
        last = (page[-1].started_at, page[-1].session_id)


class _Copy:
    """The files of a copy, written section by section."""

    def __init__(self, folder: Path, document: BinaryIO) -> None:
        self._folder = folder
        self._document = document
        self.counts: dict[str, int] = {}

    @contextmanager
    def section(
        self, name: str, row: type[msgspec.Struct]
    ) -> Iterator[Callable[[msgspec.Struct], None]]:
        """Begins a member of the document and a CSV file; yields what writes a row to both."""
        self.counts[name] = 0
        self._document.write(f',\n"{name}":['.encode())
        # The mark tells spreadsheets that the file is UTF-8.
        with (self._folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.writer(file)
            table.writerow(row.__struct_fields__)

            def write(written: msgspec.Struct) -> None:
                self._document.write(b",\n" if self.counts[name] else b"\n")
                self._document.write(lenient_json.encode(written))
                table.writerow(_cell(value) for value in msgspec.to_builtins(written).values())
                self.counts[name] += 1

            yield write
        self._document.write(b"]")


@contextmanager
def _copy(folder: Path, heading: Mapping[str, object]) -> Iterator[_Copy]:
    """Files in a folder beside the one asked for, which takes its name when it is complete."""
    if folder.exists():
        raise FileExistsError(f"{folder} is there already")
    unfinished = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with (unfinished / "viewing-data.json").open("wb") as document:
            document.write(lenient_json.encode(heading)[:-1])
            yield _Copy(unfinished, document)
            document.write(b"}\n")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _cell(value: object) -> object:
    """A value as a spreadsheet may show it: text that looks like a formula is kept from being one.

    See OWASP, CSV injection.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value
