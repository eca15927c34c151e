"""Partitions of balances are created ahead of time, and dropped when all their days are expired."""

from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import msgspec
import pytest

from service.app import utc_now
from service.database.driver import Connection
from service.database.pool import connect
from service.platform import balance_months
from service.platform.balance_months import add_months
from service.platform.retention import Cutoffs, Removed, retain
from service.settings import Settings
from tests.balance_shapes import make_plain, partitions
from tests.conftest import Starter, logged
from tests.eventually import eventually
from tests.family import Family

BEFORE = "viewing_time_balances_before"
DEFAULT = "viewing_time_balances_default"
# Years before and after any test runs.
CUTOFFS = Cutoffs(
    datetime(2020, 1, 1, tzinfo=UTC), date(2020, 3, 10), datetime(2020, 1, 1, tzinfo=UTC)
)


def month(day: date) -> str:
    return f"viewing_time_balances_{day:%Y_%m}"


def months_ahead() -> set[str]:
    """The current month and the six after it."""
    first = utc_now().date().replace(day=1)
    found = set()
    for _ in range(7):
        found.add(month(first))
        first = (first + timedelta(days=31)).replace(day=1)
    return found


async def add_balances(connection: Connection, family: Family, *days: date) -> None:
    await connection.executemany(
        "insert into viewing_time_balances (id, profile_id, reset_date) values ($1, $2, $3)",
        [(uuid4(), family.child, day) for day in days],
    )


async def days(connection: Connection) -> list[date]:
    rows = await connection.fetch("select reset_date from viewing_time_balances order by 1")
    return [row[0] for row in rows]


@pytest.fixture
async def old_months(connection: Connection, family: Family) -> None:
    """Partitions of the first three months of 2020, with a balance on every third day or so."""
    await connection.execute(f"drop table {BEFORE}")
    for number in (1, 2, 3):
        await connection.execute(
            f"create table {month(date(2020, number, 1))} partition of viewing_time_balances "
            f"for values from ('2020-{number:02}-01') to ('2020-{number + 1:02}-01')"
        )
    dates = [date(2020, n, day) for n in (1, 2, 3) for day in (1, 5, 9, 10, 28)]
    await add_balances(connection, family, *dates)


@pytest.mark.usefixtures("old_months")
async def test_retention_drops_whole_months_and_deletes_rows_of_the_oldest_one_that_is_left(
    settings: Settings, connection: Connection, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await add_balances(connection, family, utc_now().date())
    reported: list[Removed] = []
    assert await retain(settings, CUTOFFS, reported.append, is_forced=True) == Removed(balances=13)
    assert [step.balances for step in reported[:3]] == [0, 5, 10]
    names = [fields["partition"] for fields in logged(caplog, "balance_month_dropped")]
    assert names == ["viewing_time_balances_2020_01", "viewing_time_balances_2020_02"]
    left = await partitions(connection)
    assert "viewing_time_balances_2020_03" in left
    assert not left & set(names)
    assert (await days(connection))[:2] == [date(2020, 3, 10), date(2020, 3, 28)]
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed()


@pytest.mark.usefixtures("old_months")
async def test_more_than_half_of_the_balances_need_force_also_if_their_month_would_be_dropped(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.platform.retention.MAX_UNCHECKED_ROWS", 3)
    before = await partitions(connection)
    with pytest.raises(Exception, match=r"^13 of about 15 balances are .* --force"):
        await retain(settings, CUTOFFS, lambda _: None)
    assert await partitions(connection) == before
    assert len(await days(connection)) == 15


@pytest.mark.usefixtures("old_months")
async def test_a_month_that_is_in_use_is_not_waited_for_and_loses_its_rows_one_by_one(
    settings: Settings,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A waiting drop would keep heartbeats waiting behind it."""
    monkeypatch.setattr(balance_months, "MAX_LOCK_TRIES", 2)
    monkeypatch.setattr(balance_months, "LOCK_PAUSE_SECONDS", 0.01)
    async with connection.transaction():
        await connection.execute("lock table viewing_time_balances in access share mode")
        removed = await retain(settings, CUTOFFS, lambda _: None, is_forced=True)
    assert removed == Removed(balances=13)
    assert len(logged(caplog, "balance_month_not_dropped")) == 1
    assert "viewing_time_balances_2020_01" in await partitions(connection)
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed()
    assert "viewing_time_balances_2020_01" not in await partitions(connection)


@pytest.mark.usefixtures("old_months")
async def test_a_role_that_may_not_drop_partitions_deletes_rows(
    settings: Settings, connection: Connection, database: str
) -> None:
    role = f"narrow_{uuid4().hex}"
    await connection.execute(f"create role {role} login")
    try:
        await connection.execute(
            f"grant select, insert, update, delete on all tables in schema public to {role}"
        )
        narrow = msgspec.structs.replace(settings, database_url=f"{database}&user={role}")
        before = await partitions(connection)
        removed = await retain(narrow, CUTOFFS, lambda _: None, is_forced=True)
        assert removed == Removed(balances=13)
        assert await partitions(connection) == before
        for function in ("viewing_balance_month_drop(date)", "viewing_balance_month_add(bool)"):
            await connection.execute(f"grant execute on function {function} to {role}")
        assert await retain(narrow, CUTOFFS, lambda _: None) == Removed()
        assert "viewing_time_balances_2020_01" not in await partitions(connection)
    finally:
        await connection.execute(f"drop owned by {role}; drop role {role}")


async def test_a_function_with_the_rights_of_the_owner_ignores_tables_of_its_caller(
    settings: Settings, connection: Connection
) -> None:
    """Its caller could otherwise have the owner write to a table of the caller's choice."""
    opened = await connect(settings)
    try:
        await opened.execute("create temporary table viewing_time_balances (reset_date date)")
        await opened.execute("set search_path = pg_temp, public")
        await connection.execute(f"drop table {max(months_ahead())}")
        assert await opened.fetchval("select public.viewing_balance_month_add(false)")
    finally:
        await opened.close()
    assert await partitions(connection) == months_ahead() | {BEFORE, DEFAULT}


async def test_a_service_creates_missing_months_at_its_start(
    start: Starter, connection: Connection
) -> None:
    missing = sorted(months_ahead())[-2:]
    for name in missing:
        await connection.execute(f"drop table {name}")
    await start()

    async def is_complete() -> bool:
        return months_ahead() <= await partitions(connection)

    await eventually(is_complete)


async def test_retention_creates_missing_months(settings: Settings, connection: Connection) -> None:
    await connection.execute(f"drop table {max(months_ahead())}")
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed()
    assert months_ahead() <= await partitions(connection)


async def test_balances_of_a_month_without_partition_are_kept_and_moved_to_a_new_one(
    connection: Connection, family: Family
) -> None:
    """The new partition has the storage settings, the indexes and the foreign key of the others."""
    last = max(months_ahead())
    options = "select reloptions::text from pg_class where oid = $1::text::regclass"
    expected = await connection.fetchval(options, last)
    await connection.execute(f"drop table {last}")
    day = datetime.strptime(last[-7:], "%Y_%m").date()
    await add_balances(connection, family, day, date(2999, 1, 1))
    assert await connection.fetchval(f"select count(*) from {DEFAULT}") == 2
    await add_months(connection)
    assert await connection.fetchval(f"select reset_date from {last}") == day
    assert await connection.fetchval(f"select reset_date from {DEFAULT}") == date(2999, 1, 1)
    assert await connection.fetchval(options, last) == expected
    keys = "select count(*) from pg_constraint where conrelid = $1::text::regclass"
    keys += " and contype in ('p', 'u', 'f')"
    assert await connection.fetchval(keys, last) == 3
    await connection.execute("delete from profiles where id = $1", family.child)
    assert await days(connection) == []


async def test_a_large_default_partition_is_read_only_if_the_operator_asks(
    connection: Connection, family: Family
) -> None:
    """The server reads it while heartbeats of the default partition wait."""
    last = max(months_ahead())
    await connection.execute(f"drop table {last}")
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date) "
        "select gen_random_uuid(), $1, date '2999-01-01' + n from generate_series(1, 110000) as n",
        family.child,
    )
    await add_months(connection)
    assert last not in await partitions(connection)
    assert await connection.fetchval("select viewing_balance_month_add(true)") == last


async def test_a_new_month_waits_no_longer_than_a_heartbeat_can(
    connection: Connection,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(balance_months, "MAX_LOCK_TRIES", 2)
    monkeypatch.setattr(balance_months, "LOCK_PAUSE_SECONDS", 0.01)
    last = max(months_ahead())
    await connection.execute(f"drop table {last}")
    opened = await connect(settings)
    try:
        async with connection.transaction():
            await connection.execute("lock table profiles in row exclusive mode")
            await add_months(opened)  # ends although the lock is still held
        assert len(logged(caplog, "balance_months_not_added")) == 1
        await add_months(opened)
    finally:
        await opened.close()
    assert last in await partitions(connection)


async def test_one_table_stays_one_table(settings: Settings, connection: Connection) -> None:
    await make_plain(connection)
    await add_months(connection)
    assert await retain(settings, CUTOFFS, lambda _: None) == Removed()
    assert await partitions(connection) == set()
