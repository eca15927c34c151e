"""Every scenario in `conformance/`, replayed over HTTP against a running service."""

from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.conformance.replay import replay
from tests.conformance.scenario import Scenario, load
from tests.conftest import RunningService
from tests.openapi.described import described


@pytest.mark.parametrize(
    "scenario", load(Path(__file__).parent), ids=lambda scenario: scenario.name
)
async def test_scenario(scenario: Scenario, service: RunningService) -> None:
    connection = await asyncpg.connect(service.dsn)
    try:
        async with httpx.AsyncClient(
            base_url=service.url,
            timeout=30,
            trust_env=False,
            follow_redirects=False,
            event_hooks={"response": [described]},
        ) as client:
            await replay(scenario, client, connection, service.jwt_secret)
    finally:
        await connection.close()
