"""GET /metrics counts exactly, with a bounded number of series."""

import asyncio
import re
import subprocess
import time
from uuid import uuid4

import httpx
import pytest

from bench.ports import free_port
from service.database.driver import Connection
from service.database_errors import Unavailable
from service.observing.metrics import Histogram, Metrics
from service.worker_metrics import RESTARTS
from tests.conftest import ROOT, Running, Starter, served
from tests.family import HEARTBEAT, PIN, Family, add_family
from tests.operators.exposition import Scrape, scrape, value
from tests.operators.prometheus import programs
from tests.statement_counts import BACKGROUND, of_requests

PINS = "/api/v1/parental-controls/pin"


def grown(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    return value(after, name, **labels) - value(before, name, **labels)


@pytest.mark.warm
async def test_known_traffic_is_counted_exactly(
    running: Running, connection: Connection, family: Family
) -> None:
    client, stranger = running.client, uuid4()
    before = await scrape(client)
    ran = await of_requests(connection)
    for _ in range(5):
        await client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    await client.post(HEARTBEAT, json=family.beat(profile_id=stranger), headers=family.bearer)
    await client.post(HEARTBEAT, json=family.beat())
    url = f"/api/v1/viewing-time/balance/{family.child}"
    await client.get(url, headers=family.bearer)
    await client.get("/nowhere")
    await client.request("PROPFIND", "/nowhere")
    after = await scrape(client)

    def more(name: str, **labels: str) -> float:
        return grown(before, after, name, **labels)

    assert more("heartbeats_total", outcome="counted", verdict="allowed") == 5
    assert more("heartbeats_total", outcome="refused", verdict="none") == 2
    assert more("heartbeat_duration_seconds_count") == 5
    assert more("heartbeat_duration_seconds_bucket", le="+Inf") == 5
    # Five writes, one beat that was sent again with its viewing day, and one of another account.
    assert more("heartbeat_statements_total") == 7
    assert more("statement_duration_seconds_count", statement="heartbeat_record") == 7
    assert more("statement_duration_seconds_count", statement="balance_read") == 1
    assert await of_requests(connection) - ran == 5 + 2 + 1
    assert more("pool_wait_duration_seconds_count") == 1
    assert more("heartbeat_batch_size_sum") == more("heartbeat_batch_size_count") == 7
    assert more("config_cache_lookups_total", result="hit") == 5
    assert more("config_cache_lookups_total", result="miss") == 2
    routes = {"POST": HEARTBEAT, "GET": "/api/v1/viewing-time/balance/{profile_id}"}
    for method, route, status, count in [
        ("POST", routes["POST"], 200, 5),
        ("POST", routes["POST"], 403, 1),
        ("POST", routes["POST"], 401, 1),
        ("GET", routes["GET"], 200, 1),
        ("GET", "unmatched", 404, 1),
        ("other", "unmatched", 404, 1),
        ("GET", "/metrics", 200, 1),
    ]:
        labels = {"method": method, "route": route, "status": str(status)}
        assert more("http_requests_total", **labels) == count, labels


async def test_pins_reports_and_invalidations_are_counted(running: Running, family: Family) -> None:
    client = running.client
    for pin in [PIN, "0000"]:
        await client.post(f"{PINS}/verify", json={"pin": pin}, headers=family.bearer)
    url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
    await client.put(url, json={"weekday_limit_minutes": 60}, headers=family.bearer)
    await client.get("/api/v1/parental-controls/weekly-report", headers=family.bearer)
    after = await scrape(client)
    assert value(after, "pin_attempts_total", outcome="right") == 1
    assert value(after, "pin_attempts_total", outcome="wrong") == 1
    assert value(after, "pin_attempts_total", outcome="locked") == 0
    assert value(after, "pin_attempt_duration_seconds_count") == 2
    assert value(after, "pin_hashes_total") == 2
    assert value(after, "pin_queue_length") == 0
    assert value(after, "config_cache_invalidations_total", cause="updated") == 1
    assert value(after, "weekly_report_duration_seconds_count") == 1
    assert value(after, "weekly_report_statements_total") == 1


async def test_attempts_at_a_locked_pin_are_counted_separately(
    running: Running, family: Family
) -> None:
    url, wrong = f"{PINS}/verify", {"pin": "0000"}
    tries = (running.client.post(url, json=wrong, headers=family.bearer) for _ in range(6))
    await asyncio.gather(*tries)
    after = await scrape(running.client)
    assert value(after, "pin_attempts_total", outcome="wrong") == 5
    assert value(after, "pin_attempts_total", outcome="locked") == 1
    assert value(after, "pin_lockouts_total") == 1


async def test_requests_of_parents_count_no_heartbeat_statements(
    running: Running, connection: Connection
) -> None:
    for _ in range(2):
        family = await add_family(connection)
        url = f"/api/v1/viewing-time/balance/{family.child}"
        await running.client.get(url, headers=family.bearer)
    assert value(await scrape(running.client), "heartbeat_statements_total") == 0


async def test_right_pin_at_the_last_attempt_is_not_a_lockout(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("update users set pin_failed_attempts = 4")
    await running.client.post(f"{PINS}/verify", json={"pin": PIN}, headers=family.bearer)
    assert value(await scrape(running.client), "pin_lockouts_total") == 0


async def test_two_applications_have_separate_counts(start: Starter, family: Family) -> None:
    one, other = await start(), await start()
    await one.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    labels = {"outcome": "counted", "verdict": "allowed"}
    assert value(await scrape(one.client), "heartbeats_total", **labels) == 1
    assert value(await scrape(other.client), "heartbeats_total", **labels) == 0


async def test_number_of_series_does_not_depend_on_profiles(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection)
    await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    url = "/api/v1/viewing-time/balance"
    await running.client.get(f"{url}/{uuid4()}", headers=family.bearer)
    await running.client.get(f"/{uuid4()}")
    few = await scrape(running.client)
    for _ in range(200):
        stranger = uuid4()
        await running.client.get(f"{url}/{stranger}", headers=family.bearer)
        await running.client.get(f"/{stranger}")
    # Tasks run statements at their own times, some of them for the first time meanwhile.
    meanwhile = {("statement", name) for name in BACKGROUND} | {("route", "/metrics")}
    more = {*await scrape(running.client)} - {*few}
    assert [sample for sample in more if not sample.labels & meanwhile] == []
    # The process of the tests runs statements of the commands too.
    timed = [dict(sample.labels) for sample in few if "statement_duration" in sample.name]
    assert len(few) - len(timed) < 300
    assert len(timed) == 8 * len({labels["statement"] for labels in timed})


async def test_ready_is_zero_without_a_database(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert value(await scrape(running.client), "ready") == 1

    async def unreachable() -> None:
        raise Unavailable("unreachable")

    monkeypatch.setattr(running.context.readiness, "_check_database", unreachable)
    await running.context.readiness.check()
    assert (await running.client.get("/health")).status_code == 503
    assert value(await scrape(running.client), "ready") == 0


async def test_pool_and_process_metrics(running: Running) -> None:
    async with running.context.pool.acquire():
        shown = await scrape(running.client)
    assert value(shown, "pool_connections", state="in_use") == 1
    assert value(shown, "pool_connections", state="idle") == 1
    assert value(shown, "pool_max_connections") == 4
    plain = {sample.name: number for sample, number in shown.items()}
    assert plain["process_resident_memory_bytes"] > 1_000_000
    assert 0 < plain["process_open_fds"] < plain["process_max_fds"]
    assert plain["viewing_time_build_info"] == 1


async def test_event_loop_lag_is_measured(running: Running) -> None:
    await asyncio.sleep(0.06)
    time.sleep(0.12)  # noqa: ASYNC251 (holding up the loop is what is tested)
    await asyncio.sleep(0.06)
    shown = await scrape(running.client)
    assert value(shown, "event_loop_lag_max_seconds") > 0.06
    late = value(shown, "event_loop_lag_seconds_count")
    assert late - value(shown, "event_loop_lag_seconds_bucket", le="0.05") >= 1


async def test_event_loop_runs_other_tasks_during_a_scrape(running: Running) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await scrape(running.client)
    task.cancel()
    assert turns >= 20


def test_value_equal_to_a_bound_is_in_its_bucket() -> None:
    histogram = Histogram((0.1, 0.2))
    for seconds in (0.1, 0.15, 0.2, 0.3):
        histogram.add(seconds)
    assert histogram.counts == [1, 2, 1]
    assert round(histogram.sum, 9) == 0.75


def test_quantiles_are_measured_values() -> None:
    metrics = Metrics()
    assert metrics.heartbeats.quantiles_ms(50, 95) == [0.0, 0.0]
    for millisecond in range(1, 201):
        metrics.heartbeats.add(metrics.started, millisecond / 1000)
    assert [round(ms) for ms in metrics.heartbeats.quantiles_ms(50, 95)] == [100, 190]


def test_quantiles_ignore_values_older_than_five_minutes() -> None:
    metrics = Metrics()
    metrics.heartbeats.add(metrics.started - 301, 9.0)
    metrics.heartbeats.add(metrics.started, 0.001)
    assert metrics.heartbeats.quantiles_ms(95) == [1.0]


async def test_readme_lists_every_metric(running: Running) -> None:
    text = (await running.client.get("/metrics")).text
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    table = re.compile(r"^\| `(\w+)` \| (?:counter|gauge|histogram) \|", re.MULTILINE)
    explained = set(table.findall((ROOT / "ops/README.md").read_text()))
    of_several_processes = {RESTARTS[0]}
    assert names | of_several_processes == explained


async def test_promtool_accepts_the_metrics(running: Running, family: Family) -> None:
    await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    text = (await running.client.get("/metrics")).content
    promtool, _ = programs()
    checked = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, timeout=60
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_metrics_are_served_only_on_metrics_port(database: str) -> None:
    port = free_port()
    async with (
        served(database, METRICS_PORT=str(port)) as service,
        httpx.AsyncClient(timeout=60) as client,
    ):
        assert (await client.get(f"{service.url}/metrics")).status_code == 404
        own = f"http://127.0.0.1:{port}"
        assert value(await scrape(client, f"{own}/metrics"), "ready") == 1
        assert (await client.get(f"{own}/health/live")).status_code == 404
        assert (await client.post(f"{own}{HEARTBEAT}", json={})).status_code == 404
