"""Merges the lines of an import: staged by COPY, then one statement for each table.

    Import.merge            a batch of lines at a time; with `whole`, all lines are one batch
      Import._merge_batch   the transaction of a batch; waits until every instance acknowledged it
        Import._stage       import_begin, import_stage, then COPY of the batch's records
        Import._merge_staged  import_accounts, import_profiles, import_titles

Merging a line again changes nothing, so an interrupted import can be run again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from time import monotonic
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from service.database import refusals
from service.database.driver import Connection
from service.database.statement import Statement
from service.database_errors import Deadlock, MissingRight, Rejected
from service.errors import ADMIN_REQUIRED, RIGHT_MISSING, ClientError, Overloaded
from service.http import lenient_json
from service.http.fields import doc
from service.platform.import_ids import SeenIds
from service.platform.import_lines import BadLine, Line, parse
from service.viewing.config_changes import Changes

BATCH_LINES: Final = 5000  # the statements name as many refused lines
SLICE_SECONDS: Final = 0.001  # of reading, before other tasks of the event loop run
MAX_ERRORS: Final = 100  # in the outcome; all are counted
COLUMNS: Final = ("line", "type", "members")
STATEMENT_SECONDS: Final = 600.0
COMMAND_ORIGIN: Final = "import"  # of changes made at the command line
ID_REPEATED: Final = "id: On an earlier line already"
# A concurrent transaction changed the same rows: the retry sees its result. Any other constraint
# belongs to the platform and would refuse the retry too.
RETRIED_CONSTRAINTS: Final = (
    "users_pkey",
    "users_email_key",
    "profiles_pkey",
    "profiles_user_id_fkey",
    "titles_pkey",
)


class BegunRow(msgspec.Struct, frozen=True):
    lock_timeout: str
    idle_limit: str
    lock: str


class NoRow(msgspec.Struct, frozen=True):
    pass


class MergedRow(msgspec.Struct, frozen=True):
    is_allowed: bool
    merged: int
    refused: int
    lines: list[int]
    errors: list[str]


class MergedProfilesRow(MergedRow, frozen=True):
    notified: str | None
    listeners: list[str]


BEGIN_IMPORT: Final = Statement("import_begin", BegunRow)
STAGE: Final = Statement("import_stage", NoRow)
UNSTAGE: Final = Statement("import_unstage", NoRow)
MERGE_ACCOUNTS: Final = Statement("import_accounts", MergedRow)
MERGE_PROFILES: Final = Statement("import_profiles", MergedProfilesRow)
MERGE_TITLES: Final = Statement("import_titles", MergedRow)


class LineError(msgspec.Struct, frozen=True, order=True):
    line: Annotated[int, doc("The line's number, from 1.", 4)]
    error: Annotated[str, doc("Why the line was rejected.", "is_kids: Field required")]


class Outcome(msgspec.Struct):
    """Merged lines by type; lines in error, all counted and the first 100 listed.

    `detail` is present if nothing was imported because of them.
    """

    accounts: Annotated[int, doc("Lines of accounts that were imported.", 1)] = 0
    profiles: Annotated[int, doc("Lines of profiles that were imported.", 2)] = 0
    titles: Annotated[int, doc("Lines of titles that were imported.", 2)] = 0
    error_count: Annotated[int, doc("Lines that were rejected.", 1)] = 0
    errors: Annotated[list[LineError], doc("The first 100 rejected lines.")] = []
    detail: Annotated[
        str | UnsetType, doc("Present only if nothing was imported.", "Nothing was imported")
    ] = UNSET


class _Rollback(Exception):
    """Rolls back an import that is all or nothing."""


class Import:
    """One import. `outcome` and `line`, the last line merged, are valid also after an error.

    `caller_id` is an administrator, or None for an operator at the command line. With `whole`, all
    lines are merged or none. With `changes`, a batch is finished when every instance has
    acknowledged it. `rejected`, not with `whole`, is called with the errors of every batch in the
    order of lines. A dry run needs a transaction that the caller rolls back.
    """

    def __init__(
        self,
        caller_id: UUID | None,
        now: datetime,
        changes: Changes | None = None,
        *,
        whole: bool,
        is_dry_run: bool = False,
        rejected: Callable[[list[LineError]], None] | None = None,
    ) -> None:
        self.outcome = Outcome()
        self.line = 0
        self.arguments = (caller_id, now)
        self._changes = changes
        self._whole = whole
        self.is_dry_run = is_dry_run
        self.rejected = rejected
        self._ids = SeenIds()

    async def merge(self, connection: Connection, lines: Iterator[Line]) -> None:
        """Merges the lines, on a connection that nothing else uses.

        Raises ClientError 403 if the caller is not an administrator, Overloaded if a concurrent
        transaction changed the same rows.
        """
        is_last = False
        while not is_last:
            batch = _Batch(lines, None if self._whole else BATCH_LINES, self._ids)
            try:
                await self._merge_batch(connection, batch)
            except Deadlock as error:
                raise Overloaded(1) from error
            except MissingRight as error:
                raise ClientError(RIGHT_MISSING) from error
            except Rejected as error:
                if error.constraint in RETRIED_CONSTRAINTS:
                    raise Overloaded(1) from error
                raise ClientError(refusals.sentence(error, is_deletion=False)) from error
            is_last = batch.is_last

    async def _merge_batch(self, connection: Connection, batch: "_Batch") -> None:
        change = self._changes.begin() if self._changes else None
        outcome = self.outcome
        with contextlib.suppress(_Rollback):
            async with connection.transaction():
                await self._stage(connection, batch)
                origin = change.origin if change else COMMAND_ORIGIN
                accounts, profiles, titles = await self._merge_staged(connection, batch, origin)
                if self._whole and batch.error_count:
                    raise _Rollback
                if self.is_dry_run:
                    await UNSTAGE.maybe(connection)
            if self.rejected:
                self.rejected(sorted(batch.errors))
            outcome.accounts += accounts.merged
            outcome.profiles += profiles.merged
            outcome.titles += titles.merged
            self.line = batch.line or self.line
            if change:
                await change.wait_for(profiles.listeners, is_forgotten_here=False)
        outcome.error_count += batch.error_count
        outcome.errors += sorted(batch.errors)[: MAX_ERRORS - len(outcome.errors)]
        if self._whole and batch.error_count:
            errors = f"{batch.error_count} of {batch.count} lines are in error"
            outcome.detail = f"Nothing was imported: {errors}"

    async def _stage(self, connection: Connection, batch: "_Batch") -> None:
        await BEGIN_IMPORT.one(connection, timeout=STATEMENT_SECONDS)
        await STAGE.maybe(connection)
        await connection.copy_records_to_table(
            "import_lines", records=batch.records(), columns=COLUMNS
        )

    async def _merge_staged(
        self, connection: Connection, batch: "_Batch", origin: str
    ) -> tuple[MergedRow, MergedProfilesRow, MergedRow]:
        """Merges accounts, then profiles, which need their accounts, then titles."""
        arguments, timeout = self.arguments, STATEMENT_SECONDS
        accounts = await MERGE_ACCOUNTS.one(connection, *arguments, timeout=timeout)
        profiles = await MERGE_PROFILES.one(connection, *arguments, origin, timeout=timeout)
        titles = await MERGE_TITLES.one(connection, *arguments, timeout=timeout)
        if not (accounts.is_allowed and profiles.is_allowed and titles.is_allowed):
            raise ClientError(ADMIN_REQUIRED)
        for row in (accounts, profiles, titles):
            batch.error_count += row.refused
            batch.errors += map(LineError, row.lines, row.errors)
        return accounts, profiles, titles


class _Batch:
    """The lines of one transaction, at most `max_lines`: read once and counted."""

    def __init__(self, lines: Iterator[Line], max_lines: int | None, ids: SeenIds) -> None:
        self.count = 0
        self.line = 0
        self.is_last = False
        self.error_count = 0
        self.errors: list[LineError] = []
        self._lines = lines
        self._max_lines = max_lines
        self._max_errors = max_lines or MAX_ERRORS
        self._ids = ids

    async def records(self) -> AsyncIterator[tuple[int, str, str]]:
        """The valid lines, as rows of the staging table.

        Lines are read only here; after each slice, other tasks of the event loop run.
        """
        started_at = monotonic()
        while self.count != self._max_lines:
            if monotonic() - started_at > SLICE_SECONDS:
                await asyncio.sleep(0)
                started_at = monotonic()
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
            except BadLine as error:
                self.error_count += 1
                if len(self.errors) < self._max_errors:
                    self.errors.append(LineError(line.number, str(error)))
            else:
                yield line.number, kind, members

    def _read(self, text: bytes | BadLine) -> tuple[str, str]:
        kind, record = parse(text)
        if not self._ids.add(kind, record.id):
            raise BadLine(ID_REPEATED)
        return kind, lenient_json.encode(record).decode()
