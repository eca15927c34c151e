"""The scenarios of the HTTP API, replayed against a service whose cells are on Citus."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from service.database.pool import connected
from tests import conformance
from tests.citus.conftest import Cluster
from tests.conformance.replay import replay
from tests.conformance.scenario import Scenario, load
from tests.conformance.test_conformance import cheap
from tests.conftest import RunningService, served

pytestmark = pytest.mark.slow
SCENARIOS: Final = load(Path(conformance.__file__).parent)


class Holder:
    """The database of a replay: a connection to the node that has the cell, for each statement."""

    def __init__(self, cluster: Cluster) -> None:
        self.cell = cluster.cells[0]

    async def execute(self, query: str, /) -> object:
        async with connected(self.cell, 60.0) as connection:
            return await connection.execute(query)

    async def fetch(self, query: str, /) -> Sequence[Any]:
        async with connected(self.cell, 60.0) as connection:
            return await connection.fetch(query)


@pytest.fixture(scope="module")
async def citus(cluster: Cluster) -> AsyncIterator[RunningService]:
    variables = {"CELLS_FILE": cluster.cells[0].cells_file, "CELLS_CITUS_URL": cluster.nodes[0]}
    async with served("", **variables) as service:
        yield service


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_scenario_has_the_same_replies(
    scenario: Scenario, citus: RunningService, cluster: Cluster
) -> None:
    async with httpx.AsyncClient(base_url=citus.url, timeout=30, trust_env=False) as client:
        await replay(cheap(scenario), client, Holder(cluster), citus.jwt_secret)
