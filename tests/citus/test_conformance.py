"""The HTTP API and the commands, with cells on Citus."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from service.database.pool import connected
from service.http.urls import ADMIN, PARENTAL
from tests import conformance
from tests.citus.conftest import Cluster
from tests.conformance.replay import replay
from tests.conformance.scenario import Scenario, load
from tests.conformance.test_conformance import cheap
from tests.conftest import ROOT, RunningService, served
from tests.family import PASSWORD_HASH, SECRET, Family, add_family

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
    async with httpx.AsyncClient(base_url=citus.url, timeout=60, trust_env=False) as client:
        await replay(cheap(scenario), client, Holder(cluster), citus.jwt_secret)


async def test_administrators_and_operators_act_in_every_cell(
    citus: RunningService, cluster: Cluster, tmp_path: Path
) -> None:
    family, admin, added = Family(), Family(), Family()
    async with connected(cluster.cells[0], 60.0) as connection:
        await add_family(connection, family=family)
        await add_family(connection, family=admin)
        await connection.execute("update users set is_admin = true where id = $1", admin.account)
    variables = {"CELLS_FILE": cluster.cells[0].cells_file, "CELLS_CITUS_URL": cluster.nodes[0]}
    ids = {"account_id": added.account, "name": "x", "is_kids": True}
    named = {"title": "x", "title_type": "movie", "is_educational": False}
    secret = {"email": f"{added.account}@example.test", "password_hash": PASSWORD_HASH}
    lines = [
        json.dumps({"type": kind, "id": key, **members}, default=str)
        for kind, key, members in (
            ("account", added.account, secret),
            ("profile", added.child, ids),
            ("title", added.title, named),
        )
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(lines))

    def command(*arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "service", *map(str, arguments)],
            env={**os.environ, **variables, "JWT_SECRET": SECRET, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "verified: 1 accounts" in command("cells", "move-account", family.account, "--to", "b")
    assert "cell a: 1 accounts, 1 profiles" in command("import", "--mode", "best", "records.jsonl")
    assert "cell b: wrote" in command("export", family.child)
    assert "cell b: deleted" in command("retain")
    assert "cell b: removed" in command("erase", "--yes", family.child)
    title = json.dumps(named)
    async with httpx.AsyncClient(base_url=citus.url, timeout=60, trust_env=False) as client:
        for method, path, caller, body, status in (
            ("GET", f"{PARENTAL}/weekly-report", family, "", 200),
            ("POST", f"{PARENTAL}/weekly-report/link", family, "{}", 200),
            ("POST", f"{ADMIN}/import?mode=best", admin, "\n".join(lines), 200),
            ("PUT", f"{ADMIN}/titles/{family.title}", admin, title, 200),
            ("DELETE", f"{ADMIN}/titles/{family.title}", admin, "", 204),
            ("DELETE", f"{ADMIN}/profiles/{family.child}/viewing-data", admin, "", 200),
            ("DELETE", f"{ADMIN}/profiles/{family.child}", admin, "", 204),
            ("DELETE", f"{ADMIN}/accounts/{family.account}", admin, "", 204),
        ):
            headers = {**caller.bearer, "Content-Type": "application/json"}
            answer = await client.request(method, path, headers=headers, content=body)
            assert answer.status_code == status, (method, path, answer.text)
