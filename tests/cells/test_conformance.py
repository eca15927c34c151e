"""Every scenario in `conformance/` has the same replies from a service with four cells.

The accounts of a scenario are in different cells, which are schemas of one database.
"""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from service.database.driver import Connection
from tests.cells.conftest import NAMES, cell_of, cells_text
from tests.conformance.replay import replay
from tests.conformance.scenario import ID, Document, Scenario, load
from tests.conformance.test_conformance import cheap, replaying
from tests.conftest import ROOT, copied, served

SCENARIOS: Final = load(ROOT / "tests" / "conformance")
ACCOUNT: Final = re.compile(
    r"insert into users ?\([^)]*\) values \('([0-9a-f-]{36})'", re.IGNORECASE
)
# The accounts of these are in one cell. A cell does not know the sessions of other cells, so there
# a foreign session is answered as an unknown one: 404, not 403. One inserts rows of two accounts
# with one statement.
TOGETHER: Final = {
    "auth: order of checks",
    "heartbeat: unknown and foreign things",
    "session end: own, twice, unknown, foreign",
    "weekly report: by name, then id, the account's children alone",
}


@dataclass(frozen=True)
class SpreadScenario(Scenario):
    """A scenario whose first account is in the cell `first`, and each further one in the next."""

    first: int

    def fresh(self) -> Document:
        step = 0 if self.name in TOGETHER else 1
        while True:
            document = super().fresh()
            found = [cell_of(UUID(match[1])) for row in document.rows for match in accounts(row)]
            if found == [NAMES[(self.first + n * step) % len(NAMES)] for n in range(len(found))]:
                return document


def accounts(statement: str) -> Iterator[re.Match[str]]:
    return ACCOUNT.finditer(statement)


@dataclass
class Routed:
    """Runs each statement of a scenario in the cells of the accounts that it is about."""

    connections: dict[str, Connection]
    _cells: dict[str, str] = field(default_factory=dict)  # by each id that belongs to an account

    async def execute(self, query: str) -> None:
        for cell in self._of(query):
            await self.connections[cell].execute(query)

    async def fetch(self, query: str) -> Sequence[Any]:
        """The rows of one cell; several cells have a count each, which are added."""
        found = [await self.connections[cell].fetch(query) for cell in self._of(query)]
        return found[0] if len(found) == 1 else [(sum(rows[0][0] for rows in found),)]

    def _of(self, query: str) -> Sequence[str]:
        if " titles" in query:
            return NAMES
        for match in accounts(query):
            self._cells[match[1]] = cell_of(UUID(match[1]))
        ids = [match[0] for match in ID.finditer(query)]
        cells = sorted({self._cells[each] for each in ids if each in self._cells})
        assert cells, f"no account is known for {query}"
        if len(cells) == 1:
            self._cells |= dict.fromkeys(ids, cells[0])
        return cells


@dataclass(frozen=True)
class Service:
    """A running service and its cells."""

    url: str
    secret: str
    database: Routed


@pytest.fixture(scope="module")
async def service(
    postgres_dsn: str, cells_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """One service with four cells in one database, for all scenarios."""
    file: Path = tmp_path_factory.mktemp("cells") / "cells.toml"
    async with AsyncExitStack() as opened:
        dsn = await opened.enter_async_context(copied(postgres_dsn, cells_template))
        file.write_text(cells_text(dict.fromkeys(NAMES, dsn)))
        connections = {}
        for name in NAMES:
            connections[name] = await asyncpg.connect(dsn, server_settings={"search_path": name})
            opened.push_async_callback(connections[name].close)
        running = await opened.enter_async_context(served(dsn, CELLS_FILE=str(file)))
        yield Service(running.url, running.jwt_secret, Routed(connections))


@pytest.mark.parametrize(
    "scenario",
    [
        SpreadScenario(each.file, each.name, cheap(each).text, number % len(NAMES))
        for number, each in enumerate(SCENARIOS)
    ],
    ids=lambda scenario: scenario.name,
)
async def test_scenario_has_the_expected_replies_from_several_cells(
    scenario: SpreadScenario, service: Service
) -> None:
    async with replaying(service.url) as client:
        await replay(scenario, client, service.database, service.secret)
