"""A Citus cluster with two cells, where CITUS_BIN_DIR names programs that have the extension."""

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from service import cells_file
from service.embedded.supervisor import embedded_postgres
from service.settings import Settings
from tests.family import SECRET

PROGRAMS: Final = os.environ.get("CITUS_BIN_DIR", "")
NODES: Final = 4  # the coordinator, two workers, and one that a test adds
OPTIONS: Final = {
    "shared_preload_libraries": "citus",
    "wal_level": "logical",
    "max_connections": "100",
    "max_prepared_transactions": "100",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_worker_processes": "30",
}
CELLS: Final = """
[[cell]]
name = "a"
schema = "cell_a"

[[cell]]
name = "b"
schema = "cell_b"
"""


def place(dsn: str) -> tuple[str, int]:
    """The node as Citus knows it: its socket's directory and port."""
    parameters = parse_qs(urlsplit(dsn).query)
    return parameters["host"][0], int(parameters["port"][0])


@dataclass(frozen=True)
class Cluster:
    """`nodes` are addresses, the coordinator's first; `cells` are in the order of CELLS."""

    nodes: list[str]
    cells: tuple[Settings, ...]

    async def on(self, number: int, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Runs a statement on a node, as its owner."""
        connection = await asyncpg.connect(self.nodes[number])
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def holder(self, schema: str) -> int:
        """The number of the node that has a cell."""
        [row] = await self.on(
            0,
            "select distinct nodename, nodeport from citus_shards "
            "where table_name::text = $1 || '.users'",
            schema,
        )
        return [place(node) for node in self.nodes].index((row["nodename"], row["nodeport"]))


def migrate(nodes: list[str], file: Path) -> None:
    variables = {"CELLS_FILE": str(file), "CELLS_CITUS_URL": nodes[0], "JWT_SECRET": SECRET}
    command = [sys.executable, "-m", "service", "migrate"]
    subprocess.run(command, env={**os.environ, **variables}, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    if not PROGRAMS:
        pytest.skip("CITUS_BIN_DIR names no PostgreSQL with Citus")
    with (
        tempfile.TemporaryDirectory(prefix="vt-") as folder,
        mock.patch.dict(os.environ, PG_BIN_DIR=PROGRAMS),
        ExitStack() as servers,
    ):
        nodes = [
            servers.enter_context(
                embedded_postgres(Path(folder) / str(number), durable=False, options=OPTIONS)
            )
            for number in range(NODES)
        ]
        file = Path(folder) / "cells.toml"
        file.write_text(CELLS)
        settings = Settings(
            database_url="",
            cells_file=str(file),
            cells_citus_url=nodes[0],
            jwt_secret=SECRET,
            heartbeat_connections=1,
        )
        cluster = Cluster(nodes, cells_file.cells(settings))
        for number in range(NODES):
            await cluster.on(number, "create extension citus")
            host, _ = place(nodes[number])
            await cluster.on(number, f"alter system set citus.local_hostname = '{host}'")
            await cluster.on(number, "select pg_reload_conf()")
        await cluster.on(0, "select citus_set_coordinator_host($1, $2)", *place(nodes[0]))
        for node in nodes[1:3]:
            await cluster.on(0, "select citus_add_node($1, $2)", *place(node))
        for schema in ("cell_a", "cell_b"):
            await cluster.on(0, f"create schema {schema}")
        migrate(nodes, file)
        for schema in ("cell_a", "cell_b"):
            await cluster.on(
                0,
                "select set_config('citus.enable_unsafe_triggers', 'on', false), "
                "citus_schema_distribute($1::regnamespace)",
                schema,
            )
        migrate(nodes, file)  # also works when it is distributed
        for schema in ("cell_a", "cell_b"):  # every account is in the first cell
            await cluster.on(0, f"update {schema}.viewing_cell_slots set cell = 'a', epoch = 2")
        yield cluster
