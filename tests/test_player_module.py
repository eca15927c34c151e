"""examples/player.mjs in Node.js: alone in virtual time, and against a live service."""

import asyncio
import shutil
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from service.database.driver import Connection
from tests.conftest import ROOT, RunningService
from tests.family import add_family, bearer, far_reset_hour, open_sessions, session_seconds

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
NODE = ROOT / "tests" / "node"


@pytest.fixture
async def connection(service: RunningService) -> AsyncIterator[Connection]:
    """A connection to the live service's database."""
    opened = await asyncpg.connect(service.dsn)
    yield opened
    await opened.close()


async def node(*arguments: str) -> str:
    """Returns what a program prints in Node.js; AssertionError if it fails."""
    process = await asyncio.create_subprocess_exec(
        "node", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_player_keeps_its_promises_in_virtual_time() -> None:
    output = await node("--test", str(NODE / "player.test.mjs"))
    assert "# fail 0" in output


@pytest.mark.parametrize(("seed", "rate"), [(1, 0.0), (2, 0.3), (3, 0.6)])
async def test_the_service_credits_what_was_watched_whatever_is_lost(
    service: RunningService, connection: Connection, seed: int, rate: float
) -> None:
    family = await add_family(connection, limit=None, reset_hour=far_reset_hour())
    token = bearer(family.account)["Authorization"].removeprefix("Bearer ")
    arguments = (service.url, token, str(family.child), str(family.title), str(seed), str(rate))
    watched = msgspec.json.decode(await node(str(NODE / "watch.mjs"), *arguments))
    assert await session_seconds(connection, family.child) == watched["expected"] > 1200
    assert await open_sessions(connection, family.child) == 0
    assert ("unreachable" in watched["screens"]) is (rate > 0)
