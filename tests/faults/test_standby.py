"""A primary is lost under load and its standby is promoted: the service goes on by itself.

All tests share two PostgreSQLs, which change their roles. The service has the addresses of both.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

from bench.replication import Server, shared_folder
from service.database.driver import Connection, translated
from service.database_errors import Unavailable
from tests.conftest import in_memory, served
from tests.eventually import eventually
from tests.family import session_seconds
from tests.faults.watching import Viewer, add_viewers, all_watching, client_of

WAIT_SECONDS: Final = 60.0
VIEWERS: Final = 6
SETTINGS: Final = {"SHUTDOWN_DRAIN_SECONDS": "0", "POOL_MIN_SIZE": "2", "POOL_MAX_SIZE": "4"}
REPORT: Final = "/api/v1/parental-controls/weekly-report"
STREAMING: Final = "select count(*) from pg_stat_replication where state = 'streaming'"
SYNCHRONOUS: Final = "select count(*) from pg_stat_replication where sync_state = 'sync'"
LSN: Final = "select pg_wal_lsn_diff({}, '0/0')::int8"
END_CONNECTIONS: Final = (
    "select pg_terminate_backend(pid) from pg_stat_activity "
    "where application_name like 'viewing-time%'"
)


@dataclass
class Pair:
    """Two servers in their present roles; `is_whole` is false while the standby does not run."""

    primary: Server
    standby: Server
    database: str
    is_whole: bool = True

    def url(self, attributes: str, first: Server | None = None) -> str:
        """The address of both servers; `first` is the one that is tried first."""
        servers = sorted((self.primary, self.standby), key=lambda server: server is not first)
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        query = f"target_session_attrs={attributes}"
        return f"postgresql://viewing_time@{hosts}/{self.database}?{query}"

    async def lose_primary(self) -> None:
        await self.primary.kill()
        self.is_whole = False

    async def promote(self) -> None:
        """Promotes the standby; the lost primary is to be the next standby."""
        await self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    async def rewind(self) -> None:
        """The lost primary comes back as a standby, with what it has."""
        await self.standby.rewind(self.primary)
        await self._join()

    async def copy(self) -> None:
        """The lost primary comes back as a standby, with a new base backup."""
        await self.standby.copy(self.primary.dsn("postgres"), is_standby=True)
        await self._join()

    async def _join(self) -> None:
        await self.standby.start()
        self.is_whole = True
        await self.eventually(STREAMING)

    async def eventually(self, query: str) -> Any:
        async with self.connection() as connection:
            return await eventually(lambda: connection.fetchval(query), WAIT_SECONDS)

    @asynccontextmanager
    async def connection(self, server: Server | None = None) -> AsyncIterator[Connection]:
        """A connection to the primary, or to `server`."""
        opened = await (server or self.primary).connection(self.database)
        try:
            yield opened
        finally:
            opened.terminate()


@pytest.fixture(scope="module")
async def servers(postgres_dsn: str, template: str) -> AsyncIterator[Pair]:
    """Copies of the PostgreSQL of this worker, with a migrated database."""
    with shared_folder(in_memory()) as folder:
        async with AsyncExitStack() as parts:
            first, second = (Server(folder / name) for name in ("first", "second"))
            await first.copy(postgres_dsn, is_standby=False)
            await first.start()
            parts.push_async_callback(first.stop)
            await second.copy(first.dsn("postgres"), is_standby=True)
            await second.start()
            parts.push_async_callback(second.stop)
            yield Pair(first, second, template)


@pytest.fixture
async def pair(servers: Pair) -> Pair:
    """A primary that takes writes, and a standby that receives them."""
    if not servers.is_whole:
        await servers.standby.kill()
        await servers.copy()
    await synchronous(servers, "")
    await servers.eventually(STREAMING)
    return servers


@asynccontextmanager
async def watching(
    pair: Pair, viewers: list[Viewer], **settings: str
) -> AsyncIterator[httpx.AsyncClient]:
    """Viewers of a service that has the addresses of both servers."""
    async with (
        served(pair.url("read-write", pair.primary), **SETTINGS, **settings) as service,
        client_of(service.url) as client,
        all_watching(client, viewers),
    ):
        await counted(viewers)
        yield client


async def counted(viewers: list[Viewer], more: int = 5) -> None:
    """Waits until each viewer has `more` further heartbeats acknowledged."""
    wanted = [viewer.acknowledged + more for viewer in viewers]

    def is_done() -> bool:
        return all(v.acknowledged >= n for v, n in zip(viewers, wanted, strict=True))

    await eventually(is_done, WAIT_SECONDS)


async def synchronous(pair: Pair, names: str) -> None:
    """Sets `synchronous_standby_names` of the primary."""
    async with pair.connection() as connection:
        await connection.execute(f"alter system set synchronous_standby_names = '{names}'")
        await connection.execute("select pg_reload_conf()")
    if names:
        await pair.eventually(SYNCHRONOUS)


async def new_viewers(pair: Pair) -> list[Viewer]:
    async with pair.connection() as connection:
        return await add_viewers(connection, VIEWERS)


@asynccontextmanager
async def nothing_sent(pair: Pair) -> AsyncIterator[None]:
    """The primary sends nothing to the standby."""
    sender = await pair.eventually("select pid from pg_stat_replication")
    os.kill(sender, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # the primary was lost
            os.kill(sender, signal.SIGCONT)


async def blocked(viewers: list[Viewer]) -> None:
    """Waits until the two latest heartbeats of each viewer have failed closed."""
    sent = [len(viewer.answers) + 2 for viewer in viewers]

    def is_so() -> bool:
        return all(
            len(v.answers) >= n and not any(a.is_counted for a in v.answers[-2:])
            for v, n in zip(viewers, sent, strict=True)
        )

    await eventually(is_so, WAIT_SECONDS)


async def can_read(client: httpx.AsyncClient, viewer: Viewer) -> bool:
    """Whether the weekly report is answered, also while there is no primary."""
    return (await client.get(REPORT, headers=viewer.family.bearer)).status_code == 200


@asynccontextmanager
async def old_primary(pair: Pair) -> AsyncIterator[Connection]:
    """The lost primary runs again and takes writes, and is the first one of the address."""
    await pair.standby.start()
    try:
        async with pair.connection(pair.standby) as connection:
            yield connection
    finally:
        await pair.standby.kill()


async def test_a_synchronous_standby_that_is_promoted_has_every_answered_heartbeat(
    pair: Pair,
) -> None:
    viewers = await new_viewers(pair)
    await synchronous(pair, "*")
    settings = {"REQUEST_TIMEOUT_SECONDS": "1", "DATABASE_READ_URL": pair.url("any")}
    async with watching(pair, viewers, **settings) as client:
        async with nothing_sent(pair):  # retries of what only the primary has are not answered
            await blocked(viewers)
            await pair.lose_primary()
        await eventually(lambda: can_read(client, viewers[0]), WAIT_SECONDS)
        await pair.promote()
        await counted(viewers)
        async with old_primary(pair) as old:
            with pytest.raises(TimeoutError):  # it waits for a standby
                await old.execute("create table alone ()", timeout=0.5)
        await pair.rewind()
        await counted(viewers)
    async with pair.connection() as connection:
        for viewer in viewers:
            await viewer.settle(connection)


async def sample(pair: Pair, viewers: list[Viewer], samples: list[tuple[int, list[int]]]) -> None:
    """Adds the end of the primary's log, and the heartbeats answered before, until it is lost."""
    async with pair.connection() as connection:
        with suppress(Unavailable), translated(connection):
            while True:
                acknowledged = [viewer.acknowledged for viewer in viewers]
                end = await connection.fetchval(LSN.format("pg_current_wal_flush_lsn()"))
                samples.append((end, acknowledged))
                await asyncio.sleep(0.01)


async def heartbeats(connection: Connection, viewers: list[Viewer]) -> list[int]:
    """The heartbeats of each viewer that the tables have."""
    return [await session_seconds(connection, v.family.child) // 30 for v in viewers]


async def test_an_asynchronous_standby_loses_at_most_what_it_has_not_received(pair: Pair) -> None:
    viewers = await new_viewers(pair)
    samples: list[tuple[int, list[int]]] = []
    async with watching(pair, viewers):
        sampling = asyncio.create_task(sample(pair, viewers, samples))
        await counted(viewers)
        async with nothing_sent(pair):
            await counted(viewers)
            await pair.lose_primary()
        await sampling
        await blocked(viewers)
        answered = [viewer.acknowledged for viewer in viewers]
        unknown = [viewer.unknown for viewer in viewers]
        async with pair.connection(pair.standby) as standby:
            received = await standby.fetchval(LSN.format("pg_last_wal_receive_lsn()"))
            replayed = LSN.format("pg_last_wal_replay_lsn()")
            await eventually(lambda: standby.fetchval(replayed), WAIT_SECONDS, received.__le__)
            kept = await heartbeats(standby, viewers)
        await pair.promote()
        await counted(viewers)
        async with old_primary(pair) as old:
            found = await heartbeats(old, viewers)
            async with pair.connection() as connection:
                await connection.execute(END_CONNECTIONS)
            await counted(viewers)
            assert await heartbeats(old, viewers) == found
        await pair.copy()
        await counted(viewers)
    promised = max((end, sent) for end, sent in samples if end <= received)[1]
    lost = [n - m for n, m in zip(answered, kept, strict=True)]
    print(f"{sum(answered)} heartbeats were answered, {sum(lost)} of them are lost")
    assert min(lost) > 0
    assert all(n <= m for n, m in zip(promised, kept, strict=True))
    async with pair.connection() as connection:
        found = await heartbeats(connection, viewers)
    for viewer, first, before, doubtful, now in zip(
        viewers, kept, answered, unknown, found, strict=True
    ):
        assert viewer.errors == []
        after = first + viewer.acknowledged - before
        assert after <= now <= after + viewer.unknown - doubtful
