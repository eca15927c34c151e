"""One embedded PostgreSQL for each worker, one migrated template in it, a copy for each test."""

import asyncio
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Final
from unittest import mock
from uuid import uuid4

import asyncpg
import bcrypt
import httpx
import pytest
from xdist.scheduler import LoadScopeScheduling

from bench.ports import free_port
from service import cell_startup
from service.app import application
from service.context import Context
from service.credentials import pin_hasher
from service.database import migrate
from service.database.driver import Connection, Pool
from service.database.pool import Warmth, open_pool
from service.embedded.supervisor import embedded_postgres
from service.observing import open_files
from service.settings import Settings
from tests.eventually import eventually
from tests.family import SECRET, Family, add_family, bearer
from tests.http.connected import Connected
from tests.processes import dying_with_parent, kill_left_behind, mark_run
from tests.quick import no_process, starts_processes

ROOT = Path(__file__).parent.parent
FILES = open_files.raise_limit()
# The time of an application in this process until a test changes it.
NOW: Final = datetime.fromisoformat(os.environ.get("TEST_INSTANT", "2026-11-25T12:00:00+00:00"))
# Of the tests with random steps: a run fails by a fault, not because it tries other steps.
SEED: Final = int(os.environ.get("TEST_SEED", "3"))
# The files with a fixture that is made once for all their tests.
SHARING: Final = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "tests").rglob("test_*.py")
    if 'scope="module"' in path.read_text()
}
MIN_FREE_BYTES: Final = 4 * 2**30

# A shell ignores SIGINT in background jobs, and child processes inherit that; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        mark_run()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Kills processes that the tests have left behind, and fails the run because of them."""
    if hasattr(session.config, "workerinput"):
        return
    for line in kill_left_behind():
        session.config.get_terminal_writer().line(f"left behind: {line}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a free worker the next test, or all tests of a file that share a fixture."""
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = _unit_of
    return scheduler


def _unit_of(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return file if file in SHARING else nodeid


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps the collector of garbage from all that lives until the end of the run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks quick tests."""
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        fixtures = [each for name in item.fixturenames for each in _definitions(item, name)]
        if item.get_closest_marker("slow") or "postgres_dsn" in item.fixturenames:
            continue
        if not any(map(starts_processes, (item.function, *(each.func for each in fixtures)))):
            item.add_marker("quick")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    with no_process() if item.get_closest_marker("quick") else nullcontext():
        return (yield)


def _definitions(item: pytest.Function, name: str) -> Sequence[Any]:
    return item._fixtureinfo.name2fixturedefs.get(name, ())


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """The PostgreSQL of this worker. It is deleted at the end, so nothing is synced to disk.

    TEST_POSTGRES is the address of a running one, for tests that start pytest themselves.
    """
    if dsn := os.environ.get("TEST_POSTGRES"):
        yield dsn
        return
    with tempfile.TemporaryDirectory(prefix="vt-", dir=in_memory()) as folder:
        options = {
            "shared_preload_libraries": "pg_stat_statements",
            "pg_stat_statements.max": "50000",  # it forgets counts when all databases have more
            "max_connections": "200",
        }
        with embedded_postgres(Path(folder) / "pg", durable=False, options=options) as dsn:
            yield dsn


def in_memory() -> str | None:
    """A directory in memory, if it has room: copying the template takes a third of the time."""
    shared = Path("/dev/shm")
    has_room = shared.is_dir() and shutil.disk_usage(shared).free > MIN_FREE_BYTES
    return str(shared) if has_room else None


def named(dsn: str, database: str) -> str:
    """The URL of another database on the same server."""
    return re.sub(r"^(postgresql://[^/]*/)[^?]*", rf"\g<1>{database}", dsn)


@asynccontextmanager
async def copied(dsn: str, template: str) -> AsyncIterator[str]:
    """A fresh copy of a template database, which is dropped at the end."""
    name = f"test_{uuid4().hex}"
    server = await asyncpg.connect(dsn)
    try:
        # PostgreSQL 13 and 14 have no other strategy, and no such option.
        strategy = "strategy file_copy" if server.get_server_version().major >= 15 else ""
        await server.execute(f"create database {name} template {template} {strategy}")
        yield named(dsn, name)
        await server.execute(f"drop database {name} with (force)")
    finally:
        await server.close()


@pytest.fixture(scope="session")
async def template(postgres_dsn: str) -> str:
    """The name of a database to which every migration has been applied."""
    if "TEST_POSTGRES" in os.environ:
        return "template_migrated"
    server = await asyncpg.connect(postgres_dsn)
    await server.execute("create database template_migrated template template0")
    await server.close()
    await asyncio.to_thread(migrate.migrate, named(postgres_dsn, "template_migrated"))
    server = await asyncpg.connect(named(postgres_dsn, "template_migrated"))
    await server.execute("create extension pg_stat_statements")
    await server.close()
    return "template_migrated"


@pytest.fixture
async def empty_database(postgres_dsn: str) -> AsyncIterator[str]:
    """A database without a table."""
    async with copied(postgres_dsn, "template0") as dsn:
        yield dsn


@pytest.fixture
async def database(postgres_dsn: str, template: str) -> AsyncIterator[str]:
    """A migrated database for one test."""
    async with copied(postgres_dsn, template) as dsn:
        yield dsn


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    """A connection to the test's database."""
    opened = await asyncpg.connect(database)
    yield opened
    await opened.close()


@pytest.fixture
async def family(connection: Connection) -> Family:
    """A parent with a PIN, a child with a configuration, an adult profile, two titles."""
    return await add_family(connection)


@pytest.fixture
async def admin(connection: Connection) -> dict[str, str]:
    """The header with the access token of an administrator who has no profile."""
    account = uuid4()
    await connection.execute(
        "insert into users (id, email, password_hash, is_admin, is_active) "
        "values ($1, 'admin@example.test', '!', true, true)",
        account,
    )
    return bearer(account)


@pytest.fixture
def short_path() -> bool:
    """Whether plain heartbeats take the short path; some modules run with both."""
    return True


@pytest.fixture
def settings(database: str, short_path: bool, request: pytest.FixtureRequest) -> Settings:
    """Settings for an application on the test's database; cheap hashes."""
    is_impatient = request.node.get_closest_marker("impatient") is not None
    return Settings(
        database_url=database,
        request_timeout_seconds=2.0 if is_impatient else 120.0,
        short_path=short_path,
        jwt_secret=SECRET,
        bcrypt_rounds=4,
        pool_min_size=2,
        pool_max_size=4,
        cors_origins=("http://localhost:5173",),
    )


@dataclass
class Clock:
    """The application's clock; a test moves it."""

    fixed: datetime

    def __call__(self) -> datetime:
        return self.fixed


class ThreadWorker(pin_hasher.Worker):
    """Hashes PINs in threads, which start faster than processes."""

    async def start(self) -> None:
        """Does nothing, because there is no process."""

    async def hash(self, secret: bytes, salt: bytes) -> bytes:
        return await asyncio.to_thread(bcrypt.hashpw, secret, salt)


@dataclass(frozen=True)
class Running:
    """An application in this process, and an HTTP client for it."""

    context: Context
    client: httpx.AsyncClient
    clock: Clock
    transport: Connected


Starter = Callable[..., Awaitable[Running]]


async def cold_pool(settings: Settings, _: Warmth, min_size: int, max_size: int) -> Pool:
    """A pool whose connections have run nothing yet."""
    return await open_pool(settings, (), min_size, max_size)


@asynccontextmanager
async def in_process(
    settings: Settings,
    end: Callable[[], None] | None = None,
    now: datetime = NOW,
    *,
    warm: bool = False,
) -> AsyncIterator[Running]:
    """An application in this process, over ASGI, until the block ends; its clock stands at `now`.

    The test fails if a background task dies, unless `end` is given. Only a `warm` one has run its
    statements on every connection: that takes PostgreSQL longer than most tests do.
    """
    clock = Clock(now)
    died: list[bool] = []
    app = application(settings, clock, end=end or partial(died.append, True))
    async with AsyncExitStack() as parts:
        opener = open_pool if warm else cold_pool
        with (
            mock.patch.object(pin_hasher, "Worker", ThreadWorker),
            mock.patch.object(cell_startup, "open_pool", opener),
        ):
            state = await parts.enter_async_context(app.router.lifespan_context(app))
        assert state is not None

        transport = Connected(app, state)
        async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
            yield Running(state["context"], client, clock, transport)
    assert died == [], "a background task died; the log says which"


@pytest.fixture
async def start(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Starter]:
    """Starts applications in this process; they are stopped after the test."""
    warm = request.node.get_closest_marker("warm") is not None
    async with AsyncExitStack() as running:

        async def starter(settings: Settings = settings, now: datetime = NOW) -> Running:
            return await running.enter_async_context(in_process(settings, now=now, warm=warm))

        yield starter


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application in this process."""
    return await start()


@pytest.fixture
def client(running: Running) -> httpx.AsyncClient:
    """Its HTTP client."""
    return running.client


@dataclass(frozen=True)
class RunningService:
    """A service in a process of its own."""

    url: str
    dsn: str
    jwt_secret: str
    process: subprocess.Popen[bytes]


@asynccontextmanager
async def served(
    dsn: str, log: IO[bytes] | None = None, files: int | None = None, /, **variables: str
) -> AsyncIterator[RunningService]:
    """A service process with the database `dsn` on a free port; stopped even if the test fails.

    It writes to `log`, and may open `files`.
    """
    environment = {
        **os.environ,
        "DATABASE_URL": dsn,
        "JWT_SECRET": SECRET,
        "BCRYPT_ROUNDS": "4",  # workers have the lowest priority and get no core on a busy machine
        "CORS_ORIGINS": "http://localhost:5173",
        "PORT": str(free_port()),
        "REQUEST_TIMEOUT_SECONDS": "20",  # a test that waits for time-outs sets a shorter one
        **variables,
    }
    with tempfile.TemporaryFile() as own:
        log = log or own
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=dying_with_parent(files),
        )
        try:
            url = f"http://127.0.0.1:{environment['PORT']}"
            await answering(url, process)
            yield RunningService(url, dsn, SECRET, process)
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace"))
            raise
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 60)


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The fields of each log line of an event."""
    return [vars(line)["fields"] for line in caplog.records if line.getMessage() == event]


def needs_files(count: int) -> None:
    """Skips a test that opens `count` files if the machine allows fewer."""
    if count > FILES:
        pytest.skip(f"the test opens {count:,} files, and the hard limit is {FILES:,}")


async def answering(url: str, process: subprocess.Popen[bytes]) -> None:
    """Returns when the service at `url` answers; AssertionError if it ends instead."""

    async with httpx.AsyncClient(base_url=url) as asking:

        async def is_live() -> bool:
            assert process.poll() is None, f"the service ended with {process.returncode}"
            try:
                return (await asking.get("/health/live")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(is_live, seconds=60)


@pytest.fixture(scope="session")
async def service(postgres_dsn: str, template: str) -> AsyncIterator[RunningService]:
    """One service process, shared by all tests that need a service over HTTP."""
    async with copied(postgres_dsn, template) as dsn, served(dsn) as running:
        yield running
