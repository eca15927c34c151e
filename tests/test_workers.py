"""Several processes serve together: started again, stopped, and never left behind."""

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import IO

import asyncpg
import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from bench.ports import free_port
from service.command.main import main
from tests.conftest import ROOT, RunningService, copied, served
from tests.eventually import eventually
from tests.family import PIN, SECRET, Family, add_family
from tests.faults.watching import add_viewers, all_watching, client_of

WORKERS = 2
SETTINGS = {
    "WEB_CONCURRENCY": str(WORKERS),
    "REQUEST_TIMEOUT_SECONDS": "20",
    "SHUTDOWN_DRAIN_SECONDS": "0.5",
    "SHUTDOWN_GRACE_SECONDS": "4",
    "POOL_MIN_SIZE": "1",
    "POOL_MAX_SIZE": "2",
}


@cache
def metrics_port() -> int:
    """The port of the service that the tests share, reserved when it starts."""
    return free_port()


READY = re.compile(rb'"event":"worker_ready","pid":(\d+)')


def children(pid: int) -> list[int]:
    """The ids of the processes that a process has started."""
    return [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]


def worker_ids(pid: int) -> list[int]:
    """The ids of the workers of a parent."""
    return [
        each
        for each in children(pid)
        if b"\0worker\0" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    names = [str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(name.startswith("socket:") for name in names)


@asynccontextmanager
async def connected(url: str, number: int) -> AsyncIterator[None]:
    """Connections that stay open, each after a response."""
    address = httpx.URL(url)
    async with AsyncExitStack() as opened:
        for _ in range(number):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            opened.callback(writer.close)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await reader.readline()
        yield


def whole(log: IO[bytes]) -> bytes:
    log.seek(0)
    return log.read()


def serving(log: IO[bytes]) -> list[int]:
    """The ids of the workers that have ever served, from the log."""
    return [int(found) for found in READY.findall(whole(log))]


@asynccontextmanager
async def workers_of(dsn: str, **variables: str) -> AsyncIterator[tuple[RunningService, IO[bytes]]]:
    """A service with workers, all of which serve, and its log."""
    with tempfile.TemporaryFile() as log:
        async with served(dsn, log, **{**SETTINGS, **variables}) as service:
            await eventually(lambda: len(serving(log)) == WORKERS)
            yield service, log


Logged = tuple[RunningService, IO[bytes]]


@pytest.fixture(scope="module")
def previous_secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a setting of the service, which workers read when they start."""
    path = tmp_path_factory.mktemp("secrets") / "previous"
    path.write_text(SECRET)
    return path


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path_factory.mktemp("manager") / "notify"))
        receiver.settimeout(60)
        yield receiver


@pytest.fixture(scope="module")
async def logged(
    postgres_dsn: str, template: str, previous_secret: Path, manager: socket.socket
) -> AsyncIterator[Logged]:
    """One service for the tests that leave it running, and its log."""
    variables = {
        "METRICS_PORT": str(metrics_port()),
        "JWT_SECRET_PREVIOUS_FILE": str(previous_secret),
        "NOTIFY_SOCKET": manager.getsockname(),
    }
    async with copied(postgres_dsn, template) as dsn, workers_of(dsn, **variables) as running:
        yield running


@pytest.fixture
def service(logged: Logged) -> RunningService:
    return logged[0]


async def test_new_connections_reach_every_worker(service: RunningService) -> None:
    ids = worker_ids(service.process.pid)
    assert len(ids) == WORKERS

    async def added() -> list[int]:
        before = [sockets(each) for each in ids]
        async with connected(service.url, 60):
            found = [sockets(each) - count for each, count in zip(ids, before, strict=True)]
        assert sum(found) == pytest.approx(60, abs=6)  # the pools open and close connections too
        return found

    # The kernel gives a connection to the worker that wakes first: on a busy machine always one.
    await eventually(added, until=lambda found: min(found) >= 5)


async def test_a_killed_worker_is_started_again_and_the_others_serve_meanwhile(
    logged: Logged,
) -> None:
    service, log = logged
    before = worker_ids(service.process.pid)
    os.kill(before[0], signal.SIGKILL)
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        for _ in range(30):
            answer = await client.get("/health/ready", headers={"Connection": "close"})
            assert answer.status_code == 200
    [started] = await eventually(lambda: set(serving(log)) - set(before))
    assert worker_ids(service.process.pid) == [*before[1:], started]


async def test_connections_of_a_stuck_worker_are_accepted_by_the_others(
    service: RunningService,
) -> None:
    stuck = worker_ids(service.process.pid)[0]
    os.kill(stuck, signal.SIGSTOP)
    try:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            for _ in range(20):
                answer = await client.get("/health/live", headers={"Connection": "close"})
                assert answer.status_code == 200
    finally:
        os.kill(stuck, signal.SIGCONT)


async def scraped() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of all workers, by name and labels."""
    async with httpx.AsyncClient(timeout=60) as client:
        shown = (await client.get(f"http://127.0.0.1:{metrics_port()}/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in text_string_to_metric_families(shown)
        for sample in metric.samples
    }


def live_requests(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> float:
    return sum(
        value
        for (name, labels), value in samples.items()
        if name == "viewing_time_http_requests_total" and ("route", "/health/live") in labels
    )


async def test_one_scrape_has_all_workers_and_keeps_the_counts_of_a_dead_one(
    logged: Logged,
) -> None:
    service, log = logged
    before = live_requests(await scraped())
    async with connected(service.url, 40):
        samples = await scraped()
    assert live_requests(samples) == before + 40
    labels = [labels for name, labels in samples if name == "viewing_time_ready"]
    assert labels == [(("worker", "1"),), (("worker", "2"),)]
    batches = [n for n, labels in samples if n == "viewing_time_heartbeat_batch_size_bucket"]
    assert len(batches) == 10
    known = len(serving(log))
    dying = worker_ids(service.process.pid)[0]
    os.kill(dying, signal.SIGKILL)
    await eventually(scraped, until=lambda samples: live_requests(samples) == before + 40)
    await eventually(lambda: len(serving(log)) > known)
    samples = await scraped()
    assert live_requests(samples) == before + 40
    assert samples["viewing_time_worker_restarts_total", ()] >= 1


async def test_a_stuck_worker_does_not_delay_the_scrape(service: RunningService) -> None:
    stuck = worker_ids(service.process.pid)[0]
    before = live_requests(await scraped())
    os.kill(stuck, signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):
            assert live_requests(await scraped()) == before
    finally:
        os.kill(stuck, signal.SIGCONT)


async def test_sighup_replaces_every_worker_without_a_lost_request(
    logged: Logged, manager: socket.socket
) -> None:
    service, log = logged
    before = worker_ids(service.process.pid)
    counted = live_requests(await scraped())
    connection = await asyncpg.connect(service.dsn)
    viewers = await add_viewers(connection, 8)
    async with client_of(service.url) as client, all_watching(client, viewers):
        service.process.send_signal(signal.SIGHUP)
        await eventually(lambda: b'"event":"rolled"' in whole(log), seconds=60)
        ready = await client.get("/health/ready")
        assert ready.status_code == 200
    after = worker_ids(service.process.pid)
    assert len(after) == WORKERS
    assert not set(after) & set(before)
    states = [manager.recv(200).partition(b"\n")[0] for _ in range(3)]
    assert states == [b"READY=1", b"RELOADING=1", b"READY=1"]
    for viewer in viewers:
        await viewer.settle(connection)
        assert viewer.unknown == 0
        assert {answer.status for answer in viewer.answers} == {200}
    await connection.close()
    samples = await scraped()
    assert live_requests(samples) == counted
    beats = samples[
        "viewing_time_heartbeats_total", (("outcome", "counted"), ("verdict", "allowed"))
    ]
    assert beats == sum(viewer.acknowledged for viewer in viewers)


async def test_worker_that_cannot_start_replaces_none(
    logged: Logged, previous_secret: Path
) -> None:
    service, log = logged
    before = worker_ids(service.process.pid)
    previous_secret.write_text("short")
    service.process.send_signal(signal.SIGHUP)
    await eventually(lambda: b'"event":"roll_stopped"' in whole(log))
    previous_secret.write_text(SECRET)
    assert b"JWT_SECRET_PREVIOUS must be at least 32 characters" in whole(log)
    assert worker_ids(service.process.pid) == before
    async with connected(service.url, 4):
        pass


async def test_roll_without_a_free_file_leaves_the_workers_serving(logged: Logged) -> None:
    service, log = logged
    parent = service.process.pid
    before = worker_ids(parent)
    limits = resource.prlimit(parent, resource.RLIMIT_NOFILE)
    files = len([*Path(f"/proc/{parent}/fd").iterdir()])
    resource.prlimit(parent, resource.RLIMIT_NOFILE, (files + 1, limits[1]))
    service.process.send_signal(signal.SIGHUP)
    await eventually(lambda: b"cannot be started: Too many open files." in whole(log))
    resource.prlimit(parent, resource.RLIMIT_NOFILE, limits)
    assert worker_ids(parent) == before
    async with connected(service.url, 4):
        pass


async def test_workers_share_the_processes_that_hash(service: RunningService) -> None:
    hashing = [
        each
        for each in children(service.process.pid)
        if b"pin_worker" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]
    assert len(hashing) == 1
    assert [children(each) for each in worker_ids(service.process.pid)] == [[]] * WORKERS
    connection = await asyncpg.connect(service.dsn)
    family = await add_family(connection)
    await connection.close()
    assert await verified(service.url, family) == [200] * 6
    os.kill(hashing[0], signal.SIGKILL)
    assert await verified(service.url, family) == [200] * 6


async def verified(url: str, family: Family) -> list[int]:
    """The statuses of checks of a PIN, each on a connection of its own."""
    path, body = f"{url}/api/v1/parental-controls/pin/verify", {"pin": PIN}
    statuses = []
    for _ in range(6):
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(path, json=body, headers=family.bearer)
            statuses.append(answer.status_code)
    return statuses


async def test_stop_drains_until_a_second_signal_and_a_killed_parent_leaves_no_worker(
    database: str,
) -> None:
    async with workers_of(database, SHUTDOWN_DRAIN_SECONDS="60") as (service, _):
        ids = worker_ids(service.process.pid)
        service.process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            answer = await eventually(
                lambda: client.get("/health/ready"), until=lambda answer: not answer.is_success
            )
        assert answer.json()["checks"] == {"process": "stopping"}
        assert answer.headers["connection"] == "close"
        service.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.process.wait, 60) == 0
    async with workers_of(database) as (service, _):
        ids += children(service.process.pid)
        service.process.kill()
    await eventually(lambda: not any(Path(f"/proc/{each}").exists() for each in ids))


def environment(dsn: str, **variables: str) -> dict[str, str]:
    own = {"DATABASE_URL": dsn, "JWT_SECRET": SECRET, "PORT": str(free_port())}
    return {**os.environ, **own, **SETTINGS, **variables}


@pytest.mark.parametrize(
    ("death", "sentence", "deaths"),
    [
        ("os.kill(os.getpid(), 9)", "has died at once 5 times in succession", 5),
        ("os._exit(3)", "The service could not start; the log says why.", 1),
    ],
)
async def test_service_ends_when_a_worker_dies_at_once_again_and_again(
    database: str, tmp_path: Path, death: str, sentence: str, deaths: int
) -> None:
    program = f"import os, sys\nif 'worker' in sys.orig_argv: {death}\n"
    (tmp_path / "sitecustomize.py").write_text(program)
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service", "serve"],
        cwd=ROOT,
        env=environment(database, PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 1
    assert sentence in process.stderr
    assert process.stdout.count('"workers_failed"') == 1
    died = Counter(re.findall(r'"event":"worker_died","worker":(\d+)', process.stdout))
    assert max(died.values()) == deaths


async def test_a_worker_that_hangs_in_its_start_is_killed(database: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if 'worker' in sys.orig_argv: time.sleep(60)\n"
        "elif 'serve' in sys.orig_argv:\n"
        "    from service import workers\n"
        "    workers.START_SECONDS, workers.RESTART_SECONDS = 0.3, (0.0,)\n"
    )
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service", "serve"],
        cwd=ROOT,
        env=environment(database, PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 1
    assert "has died at once 5 times in succession" in process.stderr
    assert set(re.findall(r'"event":"worker_died".*?"code":(-?\d+)', process.stdout)) == {"-9"}


@pytest.mark.parametrize("number", ["0", "-1", "x", "65", "1.5"])
def test_a_wrong_number_of_workers_is_refused(number: str) -> None:
    answer = CliRunner().invoke(main, ["serve", "--workers", number])
    assert answer.exit_code == 2
    assert f"must be auto or a whole number from 1 to 64, not '{number}'." in answer.output


def test_a_wrong_setting_of_workers_is_refused() -> None:
    variables = {"DATABASE_URL": "postgresql:///x", "JWT_SECRET": SECRET, "WEB_CONCURRENCY": "abc"}
    answer = CliRunner().invoke(main, ["serve"], env=variables)
    assert answer.exit_code == 1
    assert (
        "WEB_CONCURRENCY must be auto or a whole number from 1 to 64, not 'abc'." in answer.output
    )
