"""The guide for operators: its commands run, and its backups lose no more than it says."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import httpx
import pytest

from bench.ports import free_port
from service.command.check_database import connections
from service.database import migrate
from service.embedded.programs import find_binaries
from service.embedded.supervisor import embedded_postgres
from service.settings import Settings
from tests.conftest import ROOT, in_memory, named, served
from tests.eventually import eventually
from tests.family import HEARTBEAT, SECRET, add_family
from tests.guides import run_guide

GUIDE: Final = ROOT / "docs" / "operators.md"
BINARIES: Final = find_binaries()


async def test_the_commands_of_the_guide_run_on_an_adopted_database(
    empty_database: str, tmp_path: Path
) -> None:
    restored = f"restored_{uuid4().hex}"
    connection = await asyncpg.connect(empty_database)
    await connection.execute((ROOT / "tests/legacy_schema.sql").read_text(encoding="utf-8"))
    try:
        await run_guide(
            GUIDE,
            tmp_path,
            DATABASE_URL=empty_database,
            JWT_SECRET=SECRET,
            PORT=str(free_port()),
            SHUTDOWN_DRAIN_SECONDS="0",
            RESTORED=restored,
            RESTORED_URL=named(empty_database, restored),
            PATH=f"{Path(sys.executable).parent}:{BINARIES}:{os.environ['PATH']}",
        )
    finally:
        await connection.execute(f"drop database if exists {restored} with (force)")
        await connection.close()


def constants() -> dict[str, dict[str, tuple[float, float]]]:
    """The names of the guide's first block of Python."""
    code = GUIDE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, dict[str, tuple[float, float]]] = {}
    exec(code, names)
    return names


@pytest.mark.parametrize("peer", ["service", "PostgreSQL"])
def test_the_formula_of_the_guide_agrees_with_the_measurement_that_it_names(peer: str) -> None:
    [name] = {*ROOT.glob("bench/results/*-full.json")}
    assert str(name.relative_to(ROOT)) in GUIDE.read_text(encoding="utf-8")
    figures = {each["name"]: each["value"] for each in json.loads(name.read_text())["figures"]}
    formula = constants()["CORES"]
    one, statement = formula["service" if peer == "service" else "PostgreSQL, small tables"]
    for rate in (250, 1_000, 4_000, 8_000):
        statements = figures[f"{rate:,}/s: statements per heartbeat"]
        computed = (one + statements * statement) * 1e6
        assert computed == pytest.approx(figures[f"{rate:,}/s: {peer} CPU"], rel=0.15)
        assert rate * statements == pytest.approx(min(rate, 280), rel=0.25)


def test_the_connections_of_the_guide_are_those_of_the_default_settings() -> None:
    settings = Settings(database_url="postgresql:///x", jwt_secret=SECRET)
    assert f"connections = processes * {connections(settings)} " in GUIDE.read_text()


def program(name: str, *arguments: str) -> None:
    """Runs a program of PostgreSQL."""
    subprocess.run([BINARIES / name, *arguments], check=True, capture_output=True)


@contextmanager
def received_log(dsn: str, folder: Path) -> Iterator[None]:
    """Receives the log of the server, as its synchronous standby, until the block ends."""
    arguments = ("-d", dsn, "-D", str(folder), "--synchronous", "--no-loop")
    receiver = subprocess.Popen([BINARIES / "pg_receivewal", *arguments])
    try:
        yield
    finally:
        receiver.kill()
        receiver.wait()


async def test_a_base_backup_and_the_received_log_lose_no_answered_heartbeat() -> None:
    with tempfile.TemporaryDirectory(prefix="vt-", dir=in_memory()) as name:
        folder = Path(name)
        lost, log, restored = folder / "lost", folder / "log", folder / "restored"
        log.mkdir()
        restored.mkdir()
        options = {"synchronous_standby_names": "pg_receivewal"}
        with (
            embedded_postgres(lost, durable=False, options=options) as dsn,
            received_log(dsn, log),
        ):
            await asyncio.to_thread(migrate.migrate, dsn)
            connection = await asyncpg.connect(dsn)
            family = await add_family(connection)
            await connection.close()
            backup = ("-D", str(restored / "cluster"), "-X", "none", "-c", "fast", "--no-sync")
            await asyncio.to_thread(program, "pg_basebackup", "-d", dsn, *backup)
            async with (
                served(dsn) as service,
                httpx.AsyncClient(base_url=service.url, timeout=60) as client,
            ):
                beat = family.beat()
                for _ in range(5):
                    answer = await client.post(HEARTBEAT, json=beat, headers=family.bearer)
                    beat["session_id"] = answer.json()["session_id"]
                shutil.copytree(log, folder / "kept")  # at this moment the server is lost
        cluster = restored / "cluster"
        for file in (folder / "kept").iterdir():
            shutil.copy(file, cluster / "pg_wal" / file.name.removesuffix(".partial"))
        (cluster / "recovery.signal").touch()
        owner = (lost / "cluster").stat()
        for path in (cluster, *cluster.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        options = {"restore_command": "false"}
        with embedded_postgres(restored, durable=False, options=options) as dsn:
            connection = await asyncpg.connect(dsn)
            counted = "select total_seconds from viewing_sessions where profile_id = $1"
            assert await connection.fetchval(counted, family.child) == 5 * 30
            await eventually(partial(connection.fetchval, "select not pg_is_in_recovery()"))
            await connection.close()
