"""A background task that dies is logged, makes the process unready and ends it."""

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from bench.ports import free_port
from service.app import utc_now
from service.database.driver import is_outage
from service.http.urls import VIEWING
from service.observing.metrics import Metrics
from service.observing.supervision import Supervisor, stopped, supervised
from service.settings import Settings
from service.viewing import config_loader
from tests.conftest import ROOT, Running, answering, in_process
from tests.eventually import eventually
from tests.family import HEARTBEAT, SECRET, Family

Kill = Callable[[Running, Family, pytest.MonkeyPatch], Awaitable[object]]


def broken(*_: object, **__: object) -> Any:
    raise RuntimeError("a bug")


async def nothing(*_: object) -> None:
    """Does nothing, because the patched function ends the task."""


async def beat(running: Running, family: Family, *_: object) -> None:
    await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)


async def lane(running: Running, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.context.writer._queue, "release", broken)
    await beat(running, family)


async def cancelled_lane(running: Running, *_: object) -> None:
    running.context.writer._lanes[0].cancel()


async def hasher(running: Running, *_: object) -> None:
    running.context.pins._servers[0].cancel()


async def loader(running: Running, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    async def too_few_rows(*_: object) -> list[object]:
        return []

    monkeypatch.setattr(config_loader.LOAD, "all", too_few_rows)
    await running.client.get(f"{VIEWING}/balance/{family.child}", headers=family.bearer)


@pytest.mark.parametrize(
    ("name", "patched", "kill"),
    [
        ("heartbeat lane", None, lane),
        ("heartbeat lane", None, cancelled_lane),
        ("configuration listener", "service.viewing.config_changes.Changes.until_lost", nothing),
        ("configuration loader", None, loader),
        ("published keys", "service.credentials.keys.Keys._keep_reading", nothing),
        ("reading of published keys", "service.credentials.keys.Keys._adopt_published", nothing),
        ("PIN hasher", None, hasher),
        ("retention", "service.platform.retention_schedule.retain", nothing),
        ("event loop watch", "service.observing.event_loop._measure_lag", nothing),
        ("readiness", "service.operators.readiness.ReadinessWatch._keep_checking", nothing),
        ("reporter", "service.observing.event_loop._report_heartbeats", nothing),
    ],
)
async def test_a_background_task_that_dies_ends_the_process_once(
    settings: Settings,
    family: Family,
    tmp_path: Path,
    name: str,
    patched: str | None,
    kill: Kill,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if patched is not None:

        async def dies(*_: object, **__: object) -> None:
            await asyncio.sleep(0.05)
            raise RuntimeError("a bug")

        monkeypatch.setattr(patched, dies)
    (tmp_path / "keys.json").write_text('{"keys":[]}')
    changed = msgspec.structs.replace(
        settings,
        retention_interval_hours=1,
        jwt_jwks_file=str(tmp_path / "keys.json"),
    )
    ended = asyncio.Event()
    ends: list[bool] = []

    def end() -> None:
        ends.append(True)
        ended.set()

    async with in_process(changed, end, now=utc_now()) as running:
        await kill(running, family, monkeypatch)
        async with asyncio.timeout(60):
            await ended.wait()
        answer = await running.client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json() == {"status": "degraded", "checks": {"process": "failed"}}
        assert running.context.metrics.failures["own"] >= 1
    lines = [line for line in caplog.records if line.getMessage() == "background_task_died"]
    assert lines[0].levelno == logging.CRITICAL
    assert name in [vars(line)["fields"]["task"] for line in lines]
    assert ends == [True]


async def test_graceful_shutdown_reports_no_dead_task(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    changed = msgspec.structs.replace(settings, retention_interval_hours=1)
    async with in_process(changed, now=utc_now()):
        pass
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.ERROR] == []


def test_every_background_task_is_supervised() -> None:
    """`supervision` creates all tasks except those of modules that await or check their own."""
    makers = {
        path.stem
        for path in (ROOT / "service").rglob("*.py")
        if "create_task(" in path.read_text() or "ensure_future(" in path.read_text()
    }
    # The parent process has no readiness; it ends itself if one of its tasks fails.
    of_the_parent = {"pin_shared", "worker_process", "workers"}
    assert makers == {"deadlines", "supervision", "webhooks"} | of_the_parent


@asynccontextmanager
async def supervising() -> AsyncIterator[tuple[Metrics, list[bool]]]:
    metrics, ends = Metrics(), []
    with Supervisor(metrics, lambda: ends.append(True), is_outage):
        yield metrics, ends


async def test_task_that_returns_or_is_stopped_does_not_end_the_process() -> None:
    async def returns() -> int:
        return 1

    async with supervising() as (_, ends):
        endless = supervised("endless", asyncio.sleep(1000))
        assert await supervised("short", returns()) == 1
        await stopped(endless, None)
        await asyncio.sleep(0)
        assert endless.cancelled()
        assert ends == []


async def test_failed_callback_is_counted_and_does_not_end_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with supervising() as (metrics, ends):
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        asyncio.get_running_loop().call_later(0, lambda: open("/nowhere"))  # noqa: PTH123, SIM115
        lost = asyncio.create_task(asyncio.to_thread(broken))
        await eventually(lost.done)
        del lost
        gc.collect()
        assert metrics.failures["own"] == 3
        assert ends == []
    lines = [line for line in caplog.records if line.getMessage() == "callback_failed"]
    kinds = [line.exc_info[0] for line in lines if line.exc_info is not None]
    assert kinds == [ZeroDivisionError, FileNotFoundError, RuntimeError]


async def test_connection_reset_by_the_peer_is_not_counted_as_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with supervising() as (metrics, ends):
        lost = {"message": "lost", "exception": ConnectionResetError("by peer"), "transport": None}
        asyncio.get_running_loop().call_exception_handler(lost)
        assert (metrics.failures["own"], ends) == (0, [])
    [line] = [line for line in caplog.records if line.getMessage() == "connection_failed"]
    assert vars(line)["fields"]["error"] == "ConnectionResetError: by peer"


async def test_a_thread_that_dies_ends_the_process() -> None:
    async with supervising() as (metrics, ends):
        thread = threading.Thread(target=broken, name="helper")
        thread.start()
        thread.join()
        await asyncio.sleep(0.01)
        assert (metrics.failures["own"], ends) == (1, [True])
    assert threading.excepthook is not None


LANE_DIES = """
from service.viewing.heartbeat_queue import HeartbeatQueue
def release(*_):
    raise RuntimeError("a bug in the lane")
HeartbeatQueue.release = release
from service.command.main import main
main(["serve"])
"""


async def test_process_whose_heartbeat_lane_dies_logs_it_and_exits_with_1(
    database: str, family: Family, tmp_path: Path
) -> None:
    port = str(free_port())
    environment = {
        **os.environ,
        "DATABASE_URL": database,
        "JWT_SECRET": SECRET,
        "PORT": port,
        "SHUTDOWN_DRAIN_SECONDS": "0.5",
    }
    with (tmp_path / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", LANE_DIES],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.PIPE,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            await answering(url, process)
            async with httpx.AsyncClient(timeout=60) as client:
                body = family.beat(profile_id=family.adult)  # whose viewing day is known
                await client.post(f"{url}{HEARTBEAT}", json=body, headers=family.bearer)
                ready = await client.get(f"{url}/health/ready")
                assert ready.status_code == 503
                assert ready.json()["checks"] == {"process": "failed"}
            code = await asyncio.to_thread(process.wait, 60)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
    assert code == 1
    assert process.stderr is not None
    assert b"A background task of the service has died" in process.stderr.read()
    process.stderr.close()
    lines = list(map(json.loads, (tmp_path / "log").read_text().splitlines()))
    [died] = [line for line in lines if line["event"] == "background_task_died"]
    assert (died["level"], died["task"]) == ("CRITICAL", "heartbeat lane")
    assert "RuntimeError: a bug in the lane" in died["error"]
    assert "stopped" in [line["event"] for line in lines]
