"""The merging of an import's lines: staged by COPY, then one statement a table.

Lines are merged in batches, a transaction each, or all in one. A line that is merged once more
changes nothing, so an import that broke off is simply run again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from time import monotonic
from typing import Annotated, Final, NamedTuple, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from service.database import refusals
from service.database.driver import Connection
from service.database.statement import Statement
from service.errors import (
    ADMIN_REQUIRED,
    RIGHT_MISSING,
    ClientError,
    Deadlock,
    MissingRight,
    Overloaded,
    Rejected,
)
from service.http import lenient_json
from service.http.fields import doc
from service.platform.import_lines import BadLine, Line, record
from service.viewing.config_changes import Changes

BATCH_LINES: Final = 5000
SLICE_SECONDS: Final = 0.001  # of reading; then the event loop has its turn
SEEN_SETS: Final = 256  # a set of millions takes 100 ms to grow
MAX_ERRORS: Final = 100  # told, of those counted; a statement tells no more either
COLUMNS: Final = ("line", "type", "members")
SECONDS: Final = 600.0  # the longest that a statement may take
COMMAND: Final = "import"  # the origin of what changes at the command line
TWICE: Final = "id: On an earlier line already"
# A concurrent transaction changed the same rows: the retry sees its result. Every other constraint
# is the platform's own, and refuses the retry too.
OVERTAKEN: Final = (
    "users_pkey",
    "users_email_key",
    "profiles_pkey",
    "profiles_user_id_fkey",
    "titles_pkey",
)
# The ids on earlier lines: by the type, and by the rest of a division.
Seen: TypeAlias = dict[tuple[str, int], set[int]]


class BegunRow(msgspec.Struct, frozen=True):
    lock_timeout: str
    idle_limit: str
    lock: str


class StagedRow(msgspec.Struct, frozen=True):
    pass


class MergedRow(msgspec.Struct, frozen=True):
    is_allowed: bool
    merged: int


class JudgedRow(MergedRow, frozen=True):
    refused: int
    lines: list[int]
    errors: list[str]


class ProfilesRow(JudgedRow, frozen=True):
    notified: str | None
    listeners: list[str]


BEGIN: Final = Statement("import_begin", BegunRow)
STAGE: Final = Statement("import_stage", StagedRow)
ACCOUNTS: Final = Statement("import_accounts", JudgedRow)
PROFILES: Final = Statement("import_profiles", ProfilesRow)
TITLES: Final = Statement("import_titles", JudgedRow)


class LineError(msgspec.Struct, frozen=True, order=True):
    line: Annotated[int, doc("The line's number, from 1.", 4)]
    error: Annotated[str, doc("Why the line was rejected.", "is_kids: Field required")]


class Outcome(msgspec.Struct):
    """Lines in force, by type; lines in error, counted, and the first of them told.

    `detail` is there where nothing was imported because of them.
    """

    accounts: Annotated[int, doc("Lines of accounts that were imported.", 1)] = 0
    profiles: Annotated[int, doc("Lines of profiles that were imported.", 2)] = 0
    titles: Annotated[int, doc("Lines of titles that were imported.", 2)] = 0
    error_count: Annotated[int, doc("Lines that were rejected.", 1)] = 0
    errors: Annotated[list[LineError], doc("The first 100 rejected lines.")] = []
    detail: Annotated[
        str | UnsetType, doc("Present only if nothing was imported.", "Nothing was imported")
    ] = UNSET


class _NothingMerged(Exception):
    """Undoes the transaction of an import that is all or nothing."""


class Import:
    """One import; `outcome` and `line`, the last one that is in, hold also when it breaks off.

    `caller_id` is the administrator who asks, None the operator at the command line; `whole` is all
    or nothing. With `changes` each batch is over when every instance has heard of it.
    """

    def __init__(
        self, caller_id: UUID | None, now: datetime, changes: Changes | None = None, *, whole: bool
    ) -> None:
        self.outcome = Outcome()
        self.line = 0
        self._arguments = (caller_id, now)
        self._changes = changes
        self._whole = whole
        self._seen: Seen = {}

    async def merge(self, connection: Connection, lines: Iterator[Line]) -> None:
        """Merges the lines through a connection of their own.

        Raises ClientError 403 for a caller who is no administrator, Overloaded where others changed
        the same rows meanwhile.
        """
        is_last = False
        while not is_last:
            batch = _Batch(lines, None if self._whole else BATCH_LINES, self._seen)
            try:
                await self._merge(connection, batch)
            except Deadlock as error:
                raise Overloaded(1) from error
            except MissingRight as error:
                raise ClientError(RIGHT_MISSING) from error
            except Rejected as error:
                if error.constraint in OVERTAKEN:
                    raise Overloaded(1) from error
                raise ClientError(refusals.sentence(error, is_deletion=False)) from error
            is_last = batch.is_last

    async def _merge(self, connection: Connection, batch: "_Batch") -> None:
        change = self._changes.begin() if self._changes else None
        with contextlib.suppress(_NothingMerged):
            async with connection.transaction():
                origin = change.origin if change else COMMAND
                merged = await self._merged(connection, batch, origin)
                if self._whole and batch.error_count:
                    raise _NothingMerged
            self.outcome.accounts += merged.accounts
            self.outcome.profiles += merged.profiles
            self.outcome.titles += merged.titles
            self.line = batch.line or self.line
            if change:
                await change.heard(merged.listeners, is_forgotten_here=False)
        self.outcome.error_count += batch.error_count
        self.outcome.errors += sorted(batch.errors)[: MAX_ERRORS - len(self.outcome.errors)]
        if self._whole and batch.error_count:
            wrong = f"{batch.error_count} of {batch.count} lines are in error"
            self.outcome.detail = f"Nothing was imported: {wrong}"

    async def _merged(self, connection: Connection, batch: "_Batch", origin: str) -> "_Merged":
        """Merges the lines of each type; accounts first, because profiles need theirs."""
        await BEGIN.one(connection, timeout=SECONDS)
        await STAGE.maybe(connection)
        await connection.copy_records_to_table(
            "import_lines", records=batch.records(), columns=COLUMNS
        )
        accounts = await ACCOUNTS.one(connection, *self._arguments, timeout=SECONDS)
        profiles = await PROFILES.one(connection, *self._arguments, origin, timeout=SECONDS)
        titles = await TITLES.one(connection, *self._arguments, timeout=SECONDS)
        if not (accounts.is_allowed and profiles.is_allowed and titles.is_allowed):
            raise ClientError(ADMIN_REQUIRED)
        for row in (accounts, profiles, titles):
            batch.error_count += row.refused
            batch.errors += map(LineError, row.lines, row.errors)
        return _Merged(accounts.merged, profiles.merged, titles.merged, profiles.listeners)


class _Merged(NamedTuple):
    """Lines of a batch that are in, by type, and the instances that must hear of it."""

    accounts: int
    profiles: int
    titles: int
    listeners: list[str]


class _Batch:
    """The lines of one transaction, `most` at most: read once, counted, their errors kept."""

    def __init__(self, lines: Iterator[Line], most: int | None, seen: Seen) -> None:
        self.count = 0
        self.line = 0
        self.is_last = False
        self.error_count = 0
        self.errors: list[LineError] = []
        self._lines = lines
        self._most = most
        self._seen = seen

    async def records(self) -> AsyncIterator[tuple[int, str, str]]:
        """The lines that can be staged, as the columns of the staging table.

        The one place where an import reads: other requests wait for no more than a slice of it.
        """
        begun = monotonic()
        while self.count != self._most:
            if monotonic() - begun > SLICE_SECONDS:
                await asyncio.sleep(0)
                begun = monotonic()
            line = next(self._lines, None)
            if line is None:
                self.is_last = True
                return
            if line.text is None:
                continue
            self.count += 1
            self.line = line.number
            try:
                kind, members = self._read(line.text)
            except BadLine as fault:
                self.error_count += 1
                if len(self.errors) < MAX_ERRORS:
                    self.errors.append(LineError(line.number, str(fault)))
            else:
                yield line.number, kind, members

    def _read(self, text: bytes | BadLine) -> tuple[str, str]:
        kind, wanted = record(text)
        key = wanted.id.int
        seen = self._seen.setdefault((kind, key % SEEN_SETS), set())
        if key in seen:
            raise BadLine(TWICE)
        seen.add(key)
        return kind, lenient_json.encode(wanted).decode()
