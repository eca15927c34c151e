"""Rules, dashboard and runbook fit the service."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.ports import free_port
from service.database.driver import Connection
from service.worker_metrics import RESTARTS
from tests.conftest import ROOT, Running, served
from tests.family import HEARTBEAT, PIN, Family
from tests.operators.exposition import scrape
from tests.operators.prometheus import programs

OPS = ROOT / "ops"
NAME = re.compile(r"\b(?:job:)?(?:viewing_time|process)_\w+(?::\w+)?")
RECORD = re.compile(r"record: (\S+)")
ALERT = re.compile(r"alert: (\w+)")
RULES = (OPS / "rules.yml").read_text()


def queries() -> list[str]:
    """The queries of the dashboard."""
    dashboard = json.loads((OPS / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


async def test_rules_and_dashboard_use_existing_metrics(running: Running) -> None:
    names = {sample.name for sample in await scrape(running.client)}
    await running.client.get("/")
    names |= {sample.name for sample in await scrape(running.client)}
    # These series start with their first event.
    names |= {
        "viewing_time_config_cache_invalidations_total",
        "viewing_time_heartbeats_refused_total",
        "viewing_time_requests_unauthenticated_total",
        RESTARTS[0],  # only with several processes
    }
    names |= set(RECORD.findall(RULES))
    used = set(NAME.findall("\n".join([RULES, *queries()])))
    assert used - names == set()
    assert len(used) > 25


def test_every_alert_is_in_the_runbook_and_has_a_test() -> None:
    alerts = set(ALERT.findall(RULES))
    runbook = (OPS / "README.md").read_text().partition("## Runbook")[2]
    assert re.findall(r"^### (\w+)$", runbook, re.MULTILINE) == ALERT.findall(RULES)
    tested = (OPS / "rules_test.yml").read_text()
    fired = set(re.findall(r"- alertname: (\w+)", tested))
    silent = set(re.findall(r"{alertname: (\w+), eval_time: \w+, exp_alerts: \[\]}", tested))
    assert (fired, silent) == (alerts, alerts)


def test_rules_pass_their_own_tests() -> None:
    promtool, _ = programs()
    for command in (
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "rules_test.yml"],
    ):
        done = subprocess.run(
            [promtool, *command], cwd=OPS, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[httpx.AsyncClient]:
    """A Prometheus that scrapes `target` every second, with our rules."""
    _, program = programs()
    address = f"127.0.0.1:{free_port()}"
    configuration = (OPS / "prometheus.yml").read_text()
    configuration = configuration.replace("15s", "1s").replace("127.0.0.1:8000", target)
    configuration = configuration.replace("rules.yml", str(OPS / "rules.yml"))
    (folder / "prometheus.yml").write_text(configuration)
    process = subprocess.Popen(
        [
            program,
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}/api/v1", timeout=10) as client:
            yield client
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


async def result_of(client: httpx.AsyncClient, query: str) -> list[Any]:
    """The series of a query; raises httpx.TransportError until Prometheus has started."""
    answer = (await client.get("query", params={"query": query})).json()
    assert answer["status"] == "success", (query, answer)
    series: list[Any] = answer["data"]["result"]
    return series


async def traffic(service: httpx.AsyncClient, family: Family) -> None:
    """One request of each kind that the dashboard shows."""
    parental = "/api/v1/parental-controls"
    await service.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    await service.get(f"{parental}/weekly-report", headers=family.bearer)
    await service.post(f"{parental}/pin/verify", json={"pin": PIN}, headers=family.bearer)
    limits = f"{parental}/profiles/{family.child}/viewing-time"
    await service.put(limits, json={"weekday_limit_minutes": 60}, headers=family.bearer)
    await service.post(HEARTBEAT, json=family.beat())


async def test_prometheus_scrapes_the_service_and_the_dashboard_has_data(
    database: str, connection: Connection, family: Family, tmp_path: Path
) -> None:
    programs()
    expected = [
        re.sub(r'job=~"\$job",instance=~"\$instance"', 'job="viewing-time"', query).replace(
            "$__rate_interval", "10s"
        )
        for query in queries()
    ]
    async with (
        served(database) as running,
        httpx.AsyncClient(base_url=running.url, timeout=60) as service,
        prometheus(tmp_path, running.url.removeprefix("http://")) as client,
    ):
        unanswered = set(expected)
        for _ in range(120):
            await traffic(service, family)
            try:
                unanswered -= {query for query in unanswered if await result_of(client, query)}
            except httpx.TransportError:
                await asyncio.sleep(0.5)
            if not unanswered:
                break
            await asyncio.sleep(0.5)
        assert unanswered == set()
        rules = (await client.get("rules")).json()["data"]["groups"]
        states = {rule["name"]: rule["health"] for group in rules for rule in group["rules"]}
        assert set(states) == {*RECORD.findall(RULES), *ALERT.findall(RULES)}
        assert set(states.values()) <= {"ok", "unknown"}
        [target] = (await client.get("targets")).json()["data"]["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        assert target["lastScrapeDuration"] < 10


@pytest.mark.parametrize("path", ["rules.yml", "dashboard.json"])
def test_every_query_of_process_metrics_names_the_job(path: str) -> None:
    """Other services in the same Prometheus export them too."""
    text = (OPS / path).read_text()
    assert not re.search(r"\bprocess_\w+\b(?!{)", text)
