"""The guides for players and parents' apps run against a service with the demo family."""

import asyncio
import shutil
from pathlib import Path

import pytest

from service.command import demo
from service.database.driver import Connection
from service.settings import Settings
from tests.conftest import ROOT, served
from tests.family import PASSWORD_HASH, PIN_HASH, bearer, far_reset_hour
from tests.guides import run_guide


@pytest.mark.parametrize("name", ["players", "parents"])
async def test_the_code_of_a_guide_runs(
    settings: Settings, connection: Connection, tmp_path: Path, name: str
) -> None:
    assert await asyncio.to_thread(demo.load, settings)
    # Hashes of low cost, and a viewing day that does not end during the test.
    await connection.execute(
        "update users set pin_hash = $1, password_hash = $2", PIN_HASH, PASSWORD_HASH
    )
    await connection.execute(
        "insert into viewing_time_configs (id, profile_id, weekday_limit_minutes, "
        "weekend_limit_minutes, reset_hour, educational_exempt, timezone) "
        "values (gen_random_uuid(), $1, 120, 180, $2, true, 'UTC')",
        demo.CHILD,
        far_reset_hour(),
    )
    shutil.copy(ROOT / "examples" / "player.mjs", tmp_path)
    token = bearer(demo.ACCOUNT)["Authorization"].removeprefix("Bearer ")
    async with served(settings.database_url) as running:
        variables = {"VIEWING_TIME_URL": running.url, "VIEWING_TIME_TOKEN": token}
        await run_guide(ROOT / "docs" / f"{name}.md", tmp_path, **variables)
