"""Committed events are numbered once, in the order in which they were written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

import pytest

from service.database.driver import Connection
from service.database.pool import connected
from service.database.statement import STATEMENT_TIMES
from service.database_errors import ReadOnly
from service.events import outbox
from service.events.outbox import Outbox, number
from service.events.stream import Streams
from service.settings import Settings
from tests.conftest import NOW, Clock, logged
from tests.eventually import eventually
from tests.family import Family

WRITE = """
insert into viewing_events (account_id, profile_id, type, occurred_at, data)
select $1, $2, 'lock.cleared', now(), jsonb_build_object('number', n)
from generate_series($3::int, $4::int) as n
"""


async def write(connection: Connection, family: Family, first: int, last: int) -> None:
    """Writes the events `first` to `last` of the child."""
    await connection.execute(WRITE, family.account, family.child, first, last)


async def read(connection: Connection) -> list[tuple[int | None, int]]:
    """The position and the number of each event, in the order in which they are read."""
    rows = await connection.fetch(
        "select position, (data->>'number')::int from viewing_events order by position, seq"
    )
    return [(position, each) for position, each in rows]


async def position(connection: Connection) -> int | None:
    found: int | None = await connection.fetchval("select position from viewing_event_feed")
    return found


@asynccontextmanager
async def numbering(settings: Settings) -> AsyncIterator[Connection]:
    async with connected(settings, 5, by_index=True) as connection:
        yield connection


@pytest.fixture
async def numberer(settings: Settings) -> AsyncIterator[Connection]:
    """A connection like that of an outbox."""
    async with numbering(settings) as opened:
        yield opened


async def test_events_are_numbered_in_the_order_in_which_they_were_written(
    connection: Connection, numberer: Connection, family: Family
) -> None:
    await write(connection, family, 1, 3)
    await number(numberer)
    await write(connection, family, 4, 5)
    await number(numberer)
    assert await read(connection) == [(n, n) for n in range(1, 6)]
    assert await position(connection) == 5


async def test_transaction_that_commits_late_is_not_skipped(
    connection: Connection, numberer: Connection, settings: Settings, family: Family
) -> None:
    async with numbering(settings) as late, late.transaction():
        await write(late, family, 1, 1)
        await write(connection, family, 2, 3)
        await number(numberer)
        assert await read(connection) == [(1, 2), (2, 3)]
    await number(numberer)
    assert await read(connection) == [(1, 2), (2, 3), (3, 1)]


async def test_event_of_a_transaction_that_is_rolled_back_gets_no_position(
    connection: Connection, numberer: Connection, settings: Settings, family: Family
) -> None:
    async with numbering(settings) as other:
        change = other.transaction()
        await change.start()
        await write(other, family, 1, 1)
        await change.rollback()
    await write(connection, family, 2, 2)
    await number(numberer)
    assert await read(connection) == [(1, 2)]


async def test_more_events_than_one_transaction_numbers_are_all_numbered(
    connection: Connection,
    numberer: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "MAX_NUMBERED", 10)
    await write(connection, family, 1, 35)
    await number(numberer)
    assert await read(connection) == [(n, n) for n in range(1, 36)]


async def test_several_instances_give_every_position_once_and_keep_the_order(
    connection: Connection, settings: Settings, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_NUMBERED", 7)
    is_writing = True

    async def instance() -> None:
        async with numbering(settings) as own:
            while is_writing:
                await number(own)
            await number(own)

    instances = asyncio.gather(*(instance() for _ in range(3)))
    for first in range(1, 600, 3):
        await write(connection, family, first, first + 2)
    is_writing = False
    await instances
    assert await read(connection) == [(n, n) for n in range(1, 601)]
    assert await position(connection) == 600


async def test_reader_sees_every_position_up_to_the_highest_one(
    connection: Connection, settings: Settings, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_NUMBERED", 5)
    is_writing = True
    async with AsyncExitStack() as opened:
        writers = [await opened.enter_async_context(numbering(settings)) for _ in range(2)]
        numberers = [await opened.enter_async_context(numbering(settings)) for _ in range(2)]

        async def write_each(own: Connection, count: int) -> None:
            for each in range(count):
                async with own.transaction():
                    await write(own, family, each, each)
                    await asyncio.sleep(0.001 * (each % 3))

        async def number_each(own: Connection) -> None:
            while is_writing:
                await number(own)

        numbering_tasks = asyncio.gather(*map(number_each, numberers))
        writing = asyncio.gather(*(write_each(own, 100) for own in writers))
        seen: list[int] = []
        while not writing.done() or len(seen) < 200:
            rows = await connection.fetch(
                "select position from viewing_events where position > $1 order by position",
                seen[-1] if seen else 0,
            )
            seen += [row[0] for row in rows]
        is_writing = False
        await numbering_tasks
    assert seen == [*range(1, 201)]


async def test_locked_feed_is_left_to_the_transaction_that_has_locked_it(
    connection: Connection, numberer: Connection, settings: Settings, family: Family
) -> None:
    await write(connection, family, 1, 1)
    async with numbering(settings) as other, other.transaction():
        assert await outbox.LOCK.maybe(other) is not None
        await number(numberer)
        assert await read(connection) == [(None, 1)]


async def test_deletion_that_holds_its_events_does_not_stop_those_of_others(
    connection: Connection, numberer: Connection, settings: Settings, family: Family
) -> None:
    await write(connection, family, 1, 2)
    async with numbering(settings) as other, other.transaction():
        await other.execute("delete from viewing_events where data = '{\"number\": 1}'")
        await number(numberer)
        assert await read(connection) == [(1, 2), (None, 1)]


async def test_process_that_stops_while_it_numbers_does_not_stop_the_others(
    connection: Connection, numberer: Connection, settings: Settings, family: Family
) -> None:
    async with numbering(settings) as stopped:
        await stopped.execute("begin")
        locked = await outbox.LOCK.maybe(stopped)
        assert locked is not None
        assert locked.idle_limit == "5s"
        assert locked.webhook_from is None
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where state = 'idle in transaction' and datname = current_database()"
        )
        await write(connection, family, 1, 1)

        async def is_numbered() -> bool:
            await number(numberer)
            return await read(connection) == [(1, 1)]

        await eventually(is_numbered)


@pytest.fixture
async def working(settings: Settings, family: Family) -> AsyncIterator[Outbox]:
    """An outbox that runs."""
    started = Outbox(settings, Clock(NOW), Streams())
    await started.start()
    yield started
    await started.stop()


async def test_outbox_numbers_what_is_written(
    connection: Connection, working: Outbox, family: Family
) -> None:
    await write(connection, family, 1, 2)
    await eventually(lambda: read(connection), until=lambda rows: rows == [(1, 1), (2, 2)])


async def test_missing_row_of_the_feed_is_created_after_the_highest_position(
    connection: Connection, numberer: Connection, working: Outbox, family: Family
) -> None:
    await write(connection, family, 1, 2)
    await eventually(lambda: read(connection), until=lambda rows: rows == [(1, 1), (2, 2)])
    await connection.execute("delete from viewing_event_feed")
    await write(connection, family, 3, 3)
    await eventually(lambda: read(connection), until=lambda rows: rows[-1] == (3, 3))
    assert await outbox.OPEN.maybe(numberer) is None


async def test_feed_that_was_restored_alone_gives_no_position_twice(
    connection: Connection, numberer: Connection, settings: Settings, family: Family
) -> None:
    await write(connection, family, 1, 3)
    await number(numberer)
    await connection.execute("update viewing_event_feed set position = 1")
    started = Outbox(settings, Clock(NOW), Streams())
    await started.start()
    try:
        await write(connection, family, 4, 4)
        await eventually(lambda: read(connection), until=lambda rows: rows[-1] == (4, 4))
    finally:
        await started.stop()


async def test_outbox_connects_again_when_its_connection_is_killed(
    connection: Connection,
    working: Outbox,
    family: Family,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await write(connection, family, 1, 1)
    await eventually(lambda: read(connection), until=lambda rows: rows == [(1, 1)])
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and application_name = 'viewing-time'"
    )
    await write(connection, family, 2, 2)
    await eventually(lambda: read(connection), until=lambda rows: rows == [(1, 1), (2, 2)])
    assert len(logged(caplog, "events_connection_failed")) >= 1


async def test_outbox_leaves_a_server_that_has_become_read_only(
    numberer: Connection, settings: Settings
) -> None:
    await numberer.execute("set default_transaction_read_only = on")
    with pytest.raises(ReadOnly):
        await Outbox(settings, Clock(NOW), Streams()).search(numberer)


async def test_search_without_new_events_is_one_statement(
    numberer: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "NUMBER", None)
    monkeypatch.setattr(outbox, "LOCK", None)
    before = sum(sum(times.counts) for times in STATEMENT_TIMES.values())
    await Outbox(settings, Clock(NOW), Streams()).search(numberer)
    assert sum(sum(times.counts) for times in STATEMENT_TIMES.values()) - before == 1


async def test_id_of_an_event_sorts_by_the_time_at_which_it_was_written(
    connection: Connection, family: Family
) -> None:
    for each in range(3):
        await write(connection, family, each, each)
        await asyncio.sleep(0.002)
    rows = await connection.fetch("select id from viewing_events order by seq")
    ids = [UUID(str(row[0])) for row in rows]
    assert ids == sorted(ids)
    assert {each.version for each in ids} == {7}
