"""Cells that are schemas of a Citus database."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from hashlib import sha256
from itertools import count
from random import Random
from time import monotonic
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from service.database.driver import Connection
from service.database.pool import close_pool, connect, connected, open_pool
from service.database.statement import text
from service.database_errors import DatabaseError
from service.errors import Overloaded
from service.observing.metrics import Metrics
from service.settings import Settings
from service.viewing.announcements import NEVER
from service.viewing.config_cache import ConfigCache
from service.viewing.config_changes import CHANNEL, LISTENER
from service.viewing.heartbeat_statement import NO_ID, Beat
from service.viewing.heartbeat_writer import HeartbeatWriter
from tests.citus.conftest import Cluster, place
from tests.eventually import eventually
from tests.viewing.test_heartbeat_function import (
    BEGIN,
    FILM,
    PROFILES,
    Life,
    add_families,
    closing,
    is_child,
    owner,
    run,
    stored,
)

pytestmark = pytest.mark.slow
BATCHES: Final = 100
WRITTEN: Final = ("viewing_sessions", "viewing_time_balances", "viewing_clocks", "viewing_events")


async def clear(connection: Connection) -> None:
    await connection.execute("delete from users")
    await connection.execute("delete from titles")


async def test_every_node_has_the_functions_of_each_cell(cluster: Cluster) -> None:
    for number in range(3):
        rows = await cluster.on(
            number,
            "select p.pronamespace::regnamespace::text from pg_proc as p "
            "where p.proname = 'viewing_heartbeats' order by 1",
        )
        assert [schema for (schema,) in rows] == ["cell_a", "cell_b"]


async def test_the_function_on_the_holder_does_what_the_statement_does_without_citus(
    cluster: Cluster, connection: Connection
) -> None:
    async with connected(cluster.cells[0], 60.0, by_index=True) as holder:
        await connection.execute("set timezone = 'UTC'")
        for each in (connection, holder):
            await clear(each)
            await add_families(each, Random(5), BEGIN)
        life = Life(Random(5), BEGIN, by_clock=True)
        for number in range(BATCHES):
            arguments = life.batch()
            expected = await run(connection, text("heartbeat_record"), arguments)
            answer = await run(holder, text("heartbeat_call"), arguments)
            # Citus counts a row that is not inserted because of a conflict; it is only a hint.
            if isinstance(answer, dict) and isinstance(expected, dict):
                answer["events"] = expected["events"]
            assert answer == expected, (number, arguments)
        plain, distributed = await stored(connection), await stored(holder)
        for table in WRITTEN:
            assert distributed[table] == plain[table], table


async def test_a_connection_leads_to_the_node_that_has_the_cell(cluster: Cluster) -> None:
    for cell in cluster.cells:
        number = await cluster.holder(cell.database_schema)
        async with connected(cell, 60.0) as connection:
            group = await connection.fetchval("select groupid from pg_dist_local_group")
            [(there,)] = await cluster.on(number, "select groupid from pg_dist_local_group")
            assert group == there
            shown = await connection.fetchval("show citus.override_table_visibility")
            assert shown == "off"


async def test_on_another_node_the_function_fails_as_on_a_standby(cluster: Cluster) -> None:
    number = 3 - await cluster.holder("cell_a")
    elsewhere = await asyncpg.connect(
        cluster.nodes[number], server_settings={"search_path": "cell_a"}
    )
    async with closing(elsewhere):
        arguments = Life(Random(1), BEGIN, by_clock=False).batch()
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await elsewhere.fetch(text("heartbeat_call"), *arguments)


async def test_a_change_on_any_node_reaches_every_instance(cluster: Cluster) -> None:
    settings, metrics = cluster.cells[0], [Metrics(), Metrics()]
    pool = await open_pool(settings, (), 0, 1)
    caches = [ConfigCache(settings, pool, each, lambda: BEGIN) for each in metrics]
    named = "application_name = any($1)"
    names = [LISTENER + cache.changes.instance for cache in caches]

    async def listeners(number: int) -> int:
        [(count,)] = await cluster.on(
            number, f"select count(*) from pg_stat_activity where {named}", names
        )
        return int(count)

    def heard(cause: str) -> list[int]:
        return [each.invalidations[cause] for each in metrics]

    async with AsyncExitStack() as parts:
        parts.push_async_callback(close_pool, pool, 5)
        for cache in caches:
            await cache.start()
            parts.push_async_callback(cache.stop)
        for number in range(3):
            await eventually(partial(listeners, number), 60, lambda count: count == 2)
        before = heard("listening again")
        for number in range(3):
            await cluster.on(number, "select pg_notify($1, $2)", CHANNEL, f"x {NO_ID} {NO_ID}")
        await eventually(lambda: heard("changed elsewhere") == [3, 3])
        ended = f"select pg_terminate_backend(pid) from pg_stat_activity where {named}"
        await cluster.on(0, ended, names)
        await eventually(lambda: heard("listening again") == [each + 1 for each in before], 60)
        assert await listeners(0) == 2


async def test_the_lock_time_out_of_a_migration_reaches_the_node(cluster: Cluster) -> None:
    async with connected(cluster.cells[1], 60.0) as holder, holder.transaction():
        await holder.execute("select from titles")
        coordinator = await asyncpg.connect(
            cluster.nodes[0], server_settings={"citus.propagate_set_commands": "local"}
        )
        async with closing(coordinator):
            with pytest.raises(asyncpg.InternalServerError, match="marked as essential"):
                await coordinator.execute(
                    "begin; set local lock_timeout = '100ms'; "
                    "alter table cell_b.titles add column probe int",
                    timeout=60,
                )


def new_beat(profile: UUID, session: UUID, number: int) -> Beat:
    return Beat(
        profile_id=profile,
        account_id=owner(profile),
        title_id=FILM,
        session_id=session,
        starts=number == 0,
        device_id="tv" if number == 0 else None,
        device_type="tv" if number == 0 else None,
        paused=False,
        day=BEGIN.date(),
        exempt=False,
        key=sha256(str(number).encode()).digest()[:10],
        renews=False,
        begin_seconds=int(BEGIN.timestamp()) - 3600,
        usage_from=None,
        exclusive=False,
        announce_from=NEVER,
        rules=None,
    )


@pytest.mark.parametrize("kind", ["profile", "account"])
async def test_a_deletion_takes_locks_in_the_order_of_heartbeats(
    cluster: Cluster, kind: str
) -> None:
    settings, number, profile = cluster.cells[0], await cluster.holder("cell_a"), PROFILES[1]
    keys = {"profile": profile, "account": owner(profile)}

    async def record(connection: Connection, session: UUID) -> None:
        columns = [(field,) for field in new_beat(profile, session, 0)]
        scalars = ("0" * 24, BEGIN, "100ms", False, None, None, None)
        row = await connection.fetchrow(text("heartbeat_call"), *columns, *scalars)
        assert row is not None
        assert row["refusals"] == [0]

    async with connected(settings, 60.0) as viewing, connected(settings, 60.0) as deleting:
        await clear(viewing)
        await add_families(viewing, Random(5), BEGIN)
        await record(viewing, UUID(int=1))
        await deleting.execute("set lock_timeout = '60s'")
        waits = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
        pid = await deleting.fetchval("select pg_backend_pid()")
        async with viewing.transaction():
            # The first lock of a heartbeat that starts a session.
            await viewing.execute("select from profiles where id = $1 for no key update", profile)
            deletion = asyncio.create_task(
                deleting.fetchrow(text(f"{kind}_delete"), None, True, keys[kind], 5000)
            )
            await eventually(lambda: cluster.on(number, waits, pid), 60, lambda rows: rows[0][0])
            await record(viewing, UUID(int=2))
        row = await deletion
        assert row is not None
        assert row["is_deleted"]


class Watching:
    """Profiles that send heartbeats, each with a key, until each has an answer."""

    def __init__(self, writer: HeartbeatWriter) -> None:
        self.writer = writer
        self.acknowledged: dict[UUID, int] = {}
        self.latest = monotonic()
        self.gap = 0.0
        self.stopping = False

    async def watch(self, profile: UUID, session: UUID) -> None:
        for number in count():
            if self.stopping:
                return
            beat = new_beat(profile, session, number)
            while not await self.sent(beat):
                await asyncio.sleep(0.02)
            self.acknowledged[profile] = number + 1
            self.gap = max(self.gap, monotonic() - self.latest)
            self.latest = monotonic()
            await asyncio.sleep(0.01)

    def have_gone_on(self, before: dict[UUID, int]) -> bool:
        return all(self.acknowledged[each] > beats + 5 for each, beats in before.items())

    async def sent(self, beat: Beat) -> bool:
        try:
            await self.writer.record(beat)
        except (DatabaseError, Overloaded):  # it fails closed
            return False
        return True


async def test_a_move_under_load_loses_and_doubles_no_heartbeat(cluster: Cluster) -> None:
    settings: Settings = cluster.cells[0]
    watchers = [profile for profile in PROFILES if is_child(profile) and owner(profile).int != 4]
    async with connected(settings, 60.0) as connection:
        await clear(connection)
        await add_families(connection, Random(5), BEGIN - timedelta(days=100))
    await cluster.on(0, "select citus_add_node($1, $2)", *place(cluster.nodes[3]))

    async def handed_over() -> None:
        pass

    writer = HeartbeatWriter(settings, Metrics(), lambda: BEGIN, handed_over)
    await writer.start()
    watching = Watching(writer)
    tasks = [
        asyncio.create_task(watching.watch(profile, UUID(int=profile.int + 10**6)))
        for profile in watchers
    ]
    await eventually(lambda: min(watching.acknowledged.values(), default=0) > 5)
    for node in (3, 1, 2):
        await cluster.on(
            0, "select citus_schema_move('cell_a', $1::text, $2::int)", *place(cluster.nodes[node])
        )
        await eventually(partial(watching.have_gone_on, dict(watching.acknowledged)))
        [(services,)] = await cluster.on(
            node,
            "select count(*) from pg_stat_activity where application_name = 'viewing-time'",
        )
        assert services > 0, "the writer has not followed the cell"
    watching.stopping = True
    await asyncio.gather(*tasks)
    await writer.stop()
    print(f"{sum(watching.acknowledged.values())} beats, the longest gap {watching.gap:.1f} s")
    connection = await connect(settings, 60.0)
    async with closing(connection):
        rows = await connection.fetch(
            "select s.profile_id, s.total_seconds, v.used_seconds from viewing_sessions as s "
            "join viewing_time_balances as v on v.profile_id = s.profile_id "
            "where v.reset_date = $1",
            BEGIN.date(),
        )
    assert {row["profile_id"]: (row["total_seconds"], row["used_seconds"]) for row in rows} == {
        profile: (30 * beats, 30 * beats) for profile, beats in watching.acknowledged.items()
    }
