"""Every scenario in `conformance/`, replayed over HTTP against a running service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import pytest

from tests.conformance.replay import replay
from tests.conformance.scenario import Scenario, load
from tests.conftest import RunningService
from tests.family import PASSWORD_HASH, PIN_HASH, cheap_hash
from tests.openapi.described import described

# The recorded hashes, which take 250 ms each to check, and cheap hashes of the same secrets.
HASHES: Final = {
    "$2b$12$YoG4b449C4UoHr36EJjxKubBY3Ies/pqA4UB.DOktrZqaUpQJ4LFW": PASSWORD_HASH,
    "$2b$12$rGX0FioDJUD2YvEaHnOh7uwrZz.PUug9IYfblgibyharVFCUJ3uKG": PIN_HASH,
    "$2b$12$duIxKbf7oXWSRrZfu6SttOB7iUJsC/4OsAltpCTq/of1.IL8PttBK": cheap_hash("9999"),
}


def cheap(scenario: Scenario) -> Scenario:
    text = scenario.text
    for recorded, hashed in HASHES.items():
        text = text.replace(recorded, hashed)
    return replace(scenario, text=text)


@asynccontextmanager
async def replaying(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that compares each reply with the description of the API."""
    async with httpx.AsyncClient(
        base_url=url,
        timeout=60,
        trust_env=False,
        follow_redirects=False,
        event_hooks={"response": [described]},
    ) as client:
        yield client


@pytest.mark.parametrize(
    "scenario", load(Path(__file__).parent), ids=lambda scenario: scenario.name
)
async def test_scenario_has_the_expected_replies(
    scenario: Scenario, service: RunningService
) -> None:
    connection = await asyncpg.connect(service.dsn)
    try:
        async with replaying(service.url) as client:
            await replay(cheap(scenario), client, connection, service.jwt_secret)
    finally:
        await connection.close()
