"""Checks how the tables that every heartbeat writes to are stored."""

from collections.abc import Iterator
from typing import Final

import msgspec

from service.database.cures import Problem
from service.database.driver import Connection
from service.database.schema import SECONDS
from service.database.statement import Statement

MIN_DAYS_LEFT: Final = 31
# Below this size, the log of whole pages after a checkpoint is small.
LARGE_BYTES: Final = 4 * 2**30
MIN_CHECKPOINT_SECONDS: Final = 900
MIN_LOG_MEGABYTES: Final = 4096


class StorageRow(msgspec.Struct, frozen=True):
    days_left: int | None
    default_rows: int
    has_bound: bool
    bytes: int
    slow_table: str | None
    checkpoint_seconds: int
    log_megabytes: int


STORAGE: Final = Statement("check_storage", StorageRow)


async def problems(connection: Connection) -> list[Problem]:
    """The problems that make heartbeats slow, or will stop them, with their remedies."""
    return [*found(await STORAGE.one(connection, timeout=SECONDS))]


def found(row: StorageRow) -> Iterator[Problem]:
    if row.has_bound:
        yield Problem(
            "fault",
            "constraint ck_vtb_before of table viewing_time_balances, left by an interrupted "
            "command, will refuse heartbeats of a later month",
            "run `viewing-time partition` again",
        )
    if row.days_left is not None and row.days_left < MIN_DAYS_LEFT:
        yield Problem(
            "warn",
            f"partitions of balances end in {row.days_left} days",
            "run `viewing-time migrate`, and grant the rights that `viewing-time check` names",
        )
    if row.default_rows:
        yield Problem(
            "warn",
            f"about {row.default_rows:,} balances are in no partition of a month",
            "run `viewing-time partition` when few children watch",
        )
    if row.slow_table:
        yield Problem(
            "warn",
            f"table {row.slow_table} has no fillfactor, or autovacuum is off",
            f"`alter table {row.slow_table} set (fillfactor = 90, autovacuum_enabled = true)`",
        )
    is_often = row.checkpoint_seconds < MIN_CHECKPOINT_SECONDS
    if row.bytes > LARGE_BYTES and (is_often or row.log_megabytes < MIN_LOG_MEGABYTES):
        yield Problem(
            "warn",
            f"checkpoints can begin every {row.checkpoint_seconds:,} s or "
            f"{row.log_megabytes:,} MB, and after each one heartbeats log whole pages",
            "set checkpoint_timeout = '30min', max_wal_size = '16GB', wal_compression = on",
        )
