"""An import into several cells: a line goes to the cell of its account, a title to every cell.

Every cell commits for itself, so a batch can be merged in some of them only. The lines of the
others are rejected; importing them again changes nothing where they are merged.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Final
from uuid import UUID

import msgspec

from service.database.cells import Directory
from service.database.cures import sentence
from service.database.driver import Connection, translated
from service.database.statement import Statement
from service.database_errors import DatabaseError, Elsewhere
from service.errors import Overloaded
from service.platform.import_ids import SeenIds
from service.platform.import_lines import AccountLine, BadLine, Line, ProfileLine, Record, parse
from service.platform.import_merge import (
    BATCH_LINES,
    ID_REPEATED,
    MAX_ERRORS,
    SLICE_SECONDS,
    Import,
    LineError,
    Outcome,
)
from service.viewing.config_changes import Changes

EMAIL_TAKEN: Final = "email: Belongs to another account"
PROFILE_TAKEN: Final = "account_id: Profile belongs to another account"
UNKNOWN_CELL: Final = "No cell that answers knows where the account is"


class OwnedRow(msgspec.Struct, frozen=True):
    account_id: UUID
    profile_id: UUID | None
    email: str | None
    is_pending: bool


FIND: Final = Statement("record_elsewhere", OwnedRow)


@dataclass
class CellOfImport:
    """A cell, and what was merged in it; `failure` says why its lines are rejected."""

    connection: "Connection | None" = None
    changes: Changes | None = None
    failure: str = ""
    outcome: Outcome = field(default_factory=Outcome)


@dataclass
class _Batch:
    """Lines with their records, and the error of each rejected line by its number."""

    records: list[tuple[Line, Record]] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    line: int = 0
    is_last: bool = False


class CellsImport:
    """Merges the lines of `job`, which is not all or nothing; `job` gets the outcome."""

    def __init__(
        self, job: Import, cells: Mapping[str, CellOfImport], directory: Directory
    ) -> None:
        self._job = job
        self._cells = cells
        self._directory = directory
        self._ids = SeenIds()

    async def merge(self, lines: Iterator[Line]) -> None:
        """Merges the lines; raises as Import.merge, but no error of a cell."""
        is_last = False
        while not is_last:
            batch = await self._read(lines)
            routed = self._routed(batch)
            await self._refuse_taken(batch)
            parts = [
                (name, [line for line in its_lines if line.number not in batch.errors])
                for name, its_lines in routed.items()
            ]
            results = await asyncio.gather(
                *(self._merge_in(batch, *part) for part in parts), return_exceptions=True
            )
            if failures := [each for each in results if isinstance(each, BaseException)]:
                raise failures[0]
            self._count(batch)
            is_last = batch.is_last

    async def _read(self, lines: Iterator[Line]) -> _Batch:
        batch, count, started_at = _Batch(), 0, monotonic()
        while count < BATCH_LINES:
            if monotonic() - started_at > SLICE_SECONDS:
                await asyncio.sleep(0)
                started_at = monotonic()
            line = next(lines, None)
            if line is None:
                batch.is_last = True
                break
            if line.text is None:
                continue
            count += 1
            batch.line = line.number
            try:
                kind, record = parse(line.text)
                if not self._ids.add(kind, record.id):
                    raise BadLine(ID_REPEATED)
                batch.records.append((line, record))
            except BadLine as error:
                batch.errors[line.number] = str(error)
        return batch

    def _routed(self, batch: _Batch) -> dict[str, list[Line]]:
        """The lines of each cell."""
        routed: dict[str, list[Line]] = {name: [] for name in self._cells}
        for line, record in batch.records:
            account_id = _account(record)
            names = [*routed] if account_id is None else [self._directory.cell(account_id)]
            for name in names:
                if name in routed:
                    routed[name].append(line)
                else:
                    batch.errors[line.number] = UNKNOWN_CELL
        return routed

    async def _refuse_taken(self, batch: _Batch) -> None:
        """Rejects lines with an e-mail address or a profile that another cell has."""
        accounts: dict[str, tuple[int, UUID]] = {}
        profiles: dict[UUID, tuple[int, UUID]] = {}
        for line, record in batch.records:
            match record:
                case AccountLine(id=key, email=email):
                    if accounts.setdefault(email, (line.number, key))[1] != key:
                        batch.errors[line.number] = EMAIL_TAKEN
                case ProfileLine(id=key, account_id=account_id):
                    profiles[key] = (line.number, account_id)
        for cell in self._cells.values():
            if cell.connection is None or not (profiles or accounts):
                continue
            try:
                found = await FIND.all(cell.connection, [*profiles], [*accounts])
            except DatabaseError as error:
                _fail(cell, error)
                continue
            for row in found:
                if row.profile_id is not None:
                    number, account_id = profiles[row.profile_id]
                    taken = PROFILE_TAKEN
                else:
                    number, account_id = accounts[row.email or ""]
                    taken = EMAIL_TAKEN
                if account_id != row.account_id:
                    batch.errors[number] = taken

    async def _merge_in(self, batch: _Batch, name: str, lines: list[Line]) -> None:
        """Merges the lines of a cell; if it fails, they are rejected."""
        cell, errors = self._cells[name], list[LineError]()
        job = self._job
        part = Import(
            *job.arguments,
            cell.changes,
            whole=False,
            is_dry_run=job.is_dry_run,
            rejected=errors.extend,
        )
        if cell.connection is not None:
            try:
                with translated(cell.connection):
                    await part.merge(cell.connection, iter(lines))
            except Elsewhere as error:  # the account has been moved meanwhile
                raise Overloaded(1) from error
            except DatabaseError as error:
                _fail(cell, error)
        if cell.connection is None:
            reason = f"Cell {name} cannot be used: {cell.failure}"
            errors = [LineError(line.number, reason) for line in lines]
        for each in errors:
            batch.errors.setdefault(each.line, each.error)
        _add(cell.outcome, part.outcome)

    def _count(self, batch: _Batch) -> None:
        """Adds a batch to the outcome, where a title counts once."""
        job, outcome = self._job, self._job.outcome
        for line, record in batch.records:
            if line.number not in batch.errors:
                match record:
                    case AccountLine():
                        outcome.accounts += 1
                    case ProfileLine():
                        outcome.profiles += 1
                    case _:
                        outcome.titles += 1
        errors = [LineError(*each) for each in sorted(batch.errors.items())]
        outcome.error_count += len(errors)
        outcome.errors += errors[: MAX_ERRORS - len(outcome.errors)]
        if job.rejected:
            job.rejected(errors)
        job.line = batch.line or job.line


def _account(record: Record) -> UUID | None:
    """The account that a record belongs to; None for a title."""
    match record:
        case AccountLine(id=account_id) | ProfileLine(account_id=account_id):
            return account_id
    return None


def _fail(cell: CellOfImport, error: DatabaseError) -> None:
    """Leaves a cell out from here on."""
    cell.connection, cell.failure = None, sentence(error)


def _add(outcome: Outcome, other: Outcome) -> None:
    outcome.accounts += other.accounts
    outcome.profiles += other.profiles
    outcome.titles += other.titles
