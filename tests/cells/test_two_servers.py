"""Cells on two servers: one is lost, hangs or is replaced, and the families of the other watch on.

Every answered heartbeat is counted once, in its cell; those of a cell that is down fail closed.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from bench.replication import Server, shared_folder
from service.database.driver import Connection
from tests.cells.conftest import NAMES, account_of, cells_text
from tests.conftest import in_memory, served
from tests.eventually import eventually
from tests.family import Family, add_family
from tests.faults.test_standby import (
    SETTINGS,
    STREAMING,
    SYNCHRONOUS,
    WAIT_SECONDS,
    blocked,
    counted,
)
from tests.faults.watching import Viewer, all_watching, client_of

INSTANCES = 2


@dataclass
class Servers:
    """The cells a and b are on `first`; c and d on `second`, which has a standby."""

    first: Server
    second: Server
    standby: Server
    database: str

    def urls(self) -> dict[str, str]:
        user = "postgresql://viewing_time"
        hosts = f"127.0.0.1:{self.second.port},127.0.0.1:{self.standby.port}"
        pair = f"{user}@{hosts}/{self.database}?target_session_attrs=read-write"
        first = self.first.dsn(self.database)
        return {"a": first, "b": first, "c": pair, "d": pair}

    @asynccontextmanager
    async def cell(self, name: str, *, promoted: bool = False) -> AsyncIterator[Connection]:
        """A connection to the tables of a cell."""
        second = self.standby if promoted else self.second
        server = self.first if name in "ab" else second
        connection = await asyncpg.connect(
            server.dsn(self.database), server_settings={"search_path": name}
        )
        try:
            yield connection
        finally:
            connection.terminate()


@pytest.fixture(scope="module")
async def servers(postgres_dsn: str, cells_template: str) -> AsyncIterator[Servers]:
    """Copies of the PostgreSQL of this worker, each with the tables of every cell."""
    with shared_folder(in_memory()) as folder:
        async with AsyncExitStack() as parts:
            first, second, standby = (Server(folder / name) for name in ("1", "2", "3"))
            for server, source in ((first, ""), (second, ""), (standby, second.dsn("postgres"))):
                await server.copy(source or postgres_dsn, is_standby=bool(source))
                await server.start()
                parts.push_async_callback(server.stop)
            connection = await second.connection("postgres")
            await eventually(lambda: connection.fetchval(STREAMING), WAIT_SECONDS)
            await connection.execute("alter system set synchronous_standby_names = '*'")
            await connection.execute("select pg_reload_conf()")
            await eventually(lambda: connection.fetchval(SYNCHRONOUS), WAIT_SECONDS)
            await connection.close()
            yield Servers(first, second, standby, cells_template)


async def viewers_of(servers: Servers, cell: str) -> list[Viewer]:
    """Two viewers in a cell, one with idempotency keys."""
    async with servers.cell(cell) as connection:
        families = [Family(account_of(cell)) for _ in range(2)]
        for family in families:
            await add_family(connection, limit=None, family=family)
    return [Viewer(family, keyed=n == 0) for n, family in enumerate(families)]


def failures(viewers: list[Viewer]) -> int:
    """How many heartbeats were not counted."""
    return sum(not answer.is_counted for viewer in viewers for answer in viewer.answers)


async def test_families_of_the_other_server_watch_on(servers: Servers, tmp_path: Path) -> None:
    file = tmp_path / "cells.toml"
    file.write_text(cells_text(servers.urls()))
    viewers = {name: await viewers_of(servers, name) for name in NAMES}
    of_first, of_second = viewers["a"] + viewers["b"], viewers["c"] + viewers["d"]
    async with AsyncExitStack() as parts:
        for number in range(INSTANCES):
            dsn = servers.first.dsn(servers.database)
            service = await parts.enter_async_context(served(dsn, CELLS_FILE=str(file), **SETTINGS))
            client = await parts.enter_async_context(client_of(service.url))
            some = (of_first + of_second)[number::INSTANCES]
            await parts.enter_async_context(all_watching(client, some))
        await counted(of_first + of_second)

        await servers.first.kill()
        before = failures(of_second)
        await blocked(of_first)
        await counted(of_second)
        await servers.first.start()
        await counted(of_first)

        servers.first.freeze()
        await blocked(of_first)
        await counted(of_second)
        assert failures(of_second) == before
        servers.first.thaw()
        await counted(of_first)

        before = failures(of_first)
        await servers.second.kill()
        await blocked(of_second)
        await servers.standby.promote()
        await counted(of_second)
        await counted(of_first)
        assert failures(of_first) == before
    for name in NAMES:
        async with servers.cell(name, promoted=True) as connection:
            for viewer in viewers[name]:
                await viewer.settle(connection)
