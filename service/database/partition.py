"""Partitions the table of balances by month, while services run.

Only the last step locks the table, for milliseconds. The steps before it build what that step would
otherwise need to read all rows for. An interrupted run changes no row, and another run repeats it.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import psycopg

from service.database import cures
from service.database.migrate import add_months, invalid_indexes, patiently, take_lock
from service.database.migrate_session import (
    Connection,
    MigrationError,
    explained,
    guarding,
    sql,
)

WIDE_INDEX: Final = "viewing_time_balances_wide"


class State(NamedTuple):
    is_partitioned: bool
    obstacle: str | None
    size: int


def partition(
    dsn: str, report: Callable[[str], None], *, is_dry_run: bool, schema: str = ""
) -> None:
    """Partitions the table, or adds the missing months of one that is partitioned.

    Reports each step. Raises MigrationError.
    """
    with guarding(dsn, schema) as (guard, _, _):
        take_lock(guard)
        state = _state(guard)
        if not state.is_partitioned and state.obstacle is not None:
            raise MigrationError(
                f"Table viewing_time_balances cannot be partitioned: {state.obstacle}."
            )
        if is_dry_run:
            report(_intention(state))
            return
        with explained("Partitioning", guard):
            if state.is_partitioned:
                report("The table of balances is partitioned already.")
            else:
                _partition(guard, report)
            for name in add_months(guard, is_forced=True):
                report(f"created partition {name}")


def _state(guard: Connection) -> State:
    try:
        return State(*guard.execute(sql("migration_partition_state")).fetchall()[0])
    except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable) as error:
        raise MigrationError(f"The migrations are not applied: {cures.MIGRATE}.") from error


def _intention(state: State) -> str:
    if state.is_partitioned:
        return "The table of balances is partitioned already; missing months would be created."
    return (
        f"would partition a table of {state.size / 2**20:,.0f} MB with indexes: build one more, "
        "read all rows once, lock the table for milliseconds"
    )


def _partition(guard: Connection, report: Callable[[str], None]) -> None:
    for _, drop_statement in invalid_indexes(guard, [WIDE_INDEX]):
        guard.execute(drop_statement)
    report("building a unique index on (id, reset_date)")
    guard.execute(sql("migration_partition_index"))
    try:
        bound = patiently(guard, "migration_partition_bound")[0][0]
        report(f"checking that all balances are before {bound}")
        validate(guard, bound)
        report("locking the table")
        patiently(guard, "migration_partition_swap", bound)
    except BaseException:
        # From that day on, the constraint would refuse heartbeats.
        patiently(guard, "migration_partition_unbound")
        raise
    report(f"partitioned: balances before {bound} are in viewing_time_balances_before")


def validate(guard: Connection, bound: object) -> None:
    try:
        guard.execute(sql("migration_partition_validate"))
    except psycopg.errors.CheckViolation as error:
        raise MigrationError(
            f"Some balances have a viewing day from {bound} on, which a wrong clock has made: "
            "delete them first."
        ) from error
