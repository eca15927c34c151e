"""In every fault of the database, requests end in time, counts stay right, the service recovers.

One service process meets all faults of one PostgreSQL, through a proxy. No other module uses this
PostgreSQL, because most faults would break its tests.
"""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import pytest

from service.database import migrate
from service.database.driver import Connection
from service.embedded.supervisor import embedded_postgres
from tests.conftest import served
from tests.eventually import eventually
from tests.family import used_seconds
from tests.faults.proxy import Mode, Proxy, proxied
from tests.faults.watching import BALANCE, Viewer, add_viewers, all_watching, client_of

TIMEOUT_SECONDS: Final = 1.0
# Allowed on top of the promised times, for the scheduler of a busy machine.
SLACK_SECONDS: Final = 4.0
RECOVERY_SECONDS: Final = 4.0
TRUTH_SECONDS: Final = 5.0
# Readiness fails within 3 seconds: the service checks once a second, with a time-out of 2.
LONG_SECONDS: Final = 3.5
FALL_SECONDS: Final = 3.0
SHORT_SECONDS: Final = 1.5
VIEWERS: Final = 6
SETTINGS: Final = {
    "REQUEST_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    "SHUTDOWN_DRAIN_SECONDS": "0",
    "POOL_MIN_SIZE": "2",
    "POOL_MAX_SIZE": "4",
}
SERVICE: Final = "application_name like 'viewing-time%'"


class Server:
    """A PostgreSQL that a test may stop or break, with a migrated database in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dsn = ""
        self._running = ExitStack()

    async def start(self) -> None:
        """Starts it, at the same address each time; committed rows survive a crash."""
        options = {"synchronous_commit": "on"}
        started = embedded_postgres(self.folder, durable=False, options=options, database="hurt")
        self.dsn = await asyncio.to_thread(self._running.enter_context, started)

    async def stop(self) -> None:
        await asyncio.to_thread(self._running.close)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the server and to every process of it."""
        main = (self.folder / "cluster" / "postmaster.pid").read_text().partition("\n")[0]
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *children):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(int(pid), number)


@asynccontextmanager
async def server_of_its_own() -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory(prefix="vt-") as folder:
        server = Server(Path(folder) / "pg")
        await server.start()
        try:
            await asyncio.to_thread(migrate.migrate, server.dsn)
            yield server
        finally:
            await server.stop()


@dataclass(frozen=True)
class Probe:
    """A request that is not a heartbeat."""

    path: str
    sent: float
    took: float
    status: int


@dataclass
class Scene:
    """A service, its PostgreSQL, the proxy between them, the probes and the viewers."""

    server: Server
    proxy: Proxy
    client: httpx.AsyncClient
    probes: list[Probe] = field(default_factory=list)
    viewers: list[Viewer] = field(default_factory=list)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the superuser that bypasses the proxy."""
        opened = await asyncpg.connect(self.server.dsn)
        try:
            yield opened
        finally:
            opened.terminate()

    async def probe(self, path: str, headers: dict[str, str]) -> None:
        """Sends requests in a loop until it is cancelled."""
        while True:
            sent = time.monotonic()
            status = (await self.client.get(path, headers=headers)).status_code
            self.probes.append(Probe(path, sent, time.monotonic() - sent, status))
            await asyncio.sleep(0.05)

    async def recovered(self, since: float, *, ready: bool = False) -> None:
        """Waits until every viewer has been counted again; with `ready`, also for readiness."""
        while time.monotonic() < since + RECOVERY_SECONDS + SLACK_SECONDS:
            counted = all(
                any(a.is_counted and a.sent > since for a in viewer.answers)
                for viewer in self.viewers
            )
            if counted and (not ready or self.answers("/health/ready", 200, since)):
                return
            await asyncio.sleep(0.05)

    def answers(self, path: str, status: int, since: float) -> list[float]:
        """The seconds after `since` at which a path was answered with this status."""
        ends = ((p.sent + p.took, p) for p in self.probes if p.path.startswith(path))
        return [end - since for end, p in ends if p.status == status and end > since]


@pytest.fixture(scope="module")
async def shared_scene() -> AsyncIterator[Scene]:
    """One service for every fault of this module; it is not restarted."""
    async with AsyncExitStack() as parts:
        server = await parts.enter_async_context(server_of_its_own())
        admin = await asyncpg.connect(server.dsn)
        await admin.execute(
            "create role player login; grant all on all tables in schema public to player"
        )
        await admin.close()
        dsn = server.dsn.replace("user=viewing_time", "user=player")
        proxy = await parts.enter_async_context(proxied(dsn))
        service = await parts.enter_async_context(served(proxy.dsn, **SETTINGS))
        yield Scene(server, proxy, await parts.enter_async_context(client_of(service.url)))


@pytest.fixture
async def scene(shared_scene: Scene) -> Scene:
    async with shared_scene.connection() as connection:
        viewers = await add_viewers(connection, VIEWERS)
    return Scene(shared_scene.server, shared_scene.proxy, shared_scene.client, [], viewers)


Fault = AbstractAsyncContextManager[None]


async def survive(
    scene: Scene, fault: Fault, *, ready_falls: bool, seconds: float | None = None
) -> None:
    """Runs a service under load through a fault, and checks every promise."""
    seconds = seconds or (LONG_SECONDS if ready_falls else SHORT_SECONDS)
    bearer = scene.viewers[0].family.bearer
    paths = (f"{BALANCE}/{scene.viewers[0].family.child}", "/health/ready", "/health/live")
    async with all_watching(scene.client, scene.viewers):
        probing = [asyncio.create_task(scene.probe(path, bearer)) for path in paths]
        await asyncio.sleep(0.3)
        async with fault:
            started_at = time.monotonic()
            await asyncio.sleep(seconds)
            while ready_falls and time.monotonic() < started_at + FALL_SECONDS + SLACK_SECONDS:
                if scene.answers("/health/ready", 503, started_at):
                    break
                await asyncio.sleep(0.05)
        ended = time.monotonic()
        await scene.recovered(ended, ready=True)
        for task in probing:
            task.cancel()
        await asyncio.gather(*probing, return_exceptions=True)
    recovery = max(viewer.recovered(ended) for viewer in scene.viewers)
    slowest = max(viewer.worst for viewer in scene.viewers)
    blocked = sum(not a.is_counted for v in scene.viewers for a in v.answers)
    counted = sum(v.acknowledged for v in scene.viewers)
    ready = next(iter(scene.answers("/health/ready", 200, ended)), inf)
    unready_after = scene.answers("/health/ready", 503, started_at)
    print(
        f"recovered {recovery:.2f} s, ready {ready:.2f} s, not ready after "
        f"{unready_after[0] if unready_after else -1:.2f} s, slowest beat {slowest:.2f} s, "
        f"{counted} counted, {blocked} not"
    )
    assert recovery <= RECOVERY_SECONDS + SLACK_SECONDS
    assert slowest <= TIMEOUT_SECONDS + SLACK_SECONDS
    assert ready <= TRUTH_SECONDS + SLACK_SECONDS
    assert (
        bool(unready_after and unready_after[0] <= FALL_SECONDS + SLACK_SECONDS) or not ready_falls
    )
    for probe in scene.probes:
        maximum = 0.0 if probe.path.startswith("/health") else TIMEOUT_SECONDS
        assert probe.took <= maximum + SLACK_SECONDS, probe
        assert probe.status == 200 or (probe.status == 503 and probe.path != "/health/live"), probe
    async with scene.connection() as connection:
        for viewer in scene.viewers:
            await viewer.settle(connection)


@asynccontextmanager
async def network(proxy: Proxy, mode: Mode) -> AsyncIterator[None]:
    proxy.turn(mode)
    yield
    proxy.turn("ok")


@pytest.mark.parametrize("mode", ["black hole", "reset"])
async def test_network_failure(scene: Scene, mode: Mode) -> None:
    await survive(scene, network(scene.proxy, mode), ready_falls=True)


async def test_a_network_that_is_slow(scene: Scene) -> None:
    patient = {**SETTINGS, "REQUEST_TIMEOUT_SECONDS": "20"}
    async with served(scene.proxy.dsn, **patient) as service, client_of(service.url) as client:
        scene.client = client
        await survive(scene, network(scene.proxy, "slow"), ready_falls=False)
    assert sum(viewer.unknown for viewer in scene.viewers) == 0


@asynccontextmanager
async def standstill(server: Server) -> AsyncIterator[None]:
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


async def test_a_server_that_stands_still(scene: Scene) -> None:
    await survive(scene, standstill(scene.server), ready_falls=True)


@asynccontextmanager
async def terminations(scene: Scene) -> AsyncIterator[None]:
    async def terminate() -> None:
        async with scene.connection() as connection:
            while True:
                await connection.execute(
                    f"select pg_terminate_backend(pid) from pg_stat_activity where {SERVICE}"
                )
                await asyncio.sleep(0.1)

    task = asyncio.create_task(terminate())
    try:
        yield
    finally:
        task.cancel()


async def test_connections_that_are_terminated(scene: Scene) -> None:
    await survive(scene, terminations(scene), ready_falls=False)


@asynccontextmanager
async def absence(server: Server) -> AsyncIterator[None]:
    await server.stop()
    yield
    await server.start()


async def test_a_server_that_starts_again(scene: Scene) -> None:
    await survive(scene, absence(scene.server), ready_falls=True)


@asynccontextmanager
async def crash(scene: Scene) -> AsyncIterator[None]:
    """Kills one backend, so that the server ends all others and recovers."""
    async with scene.connection() as connection:
        pid = await connection.fetchval(f"select max(pid) from pg_stat_activity where {SERVICE}")
    os.kill(pid, signal.SIGKILL)
    yield


async def test_a_server_that_crashes(scene: Scene) -> None:
    await survive(scene, crash(scene), ready_falls=False)


@asynccontextmanager
async def statements(scene: Scene, begin: str, end: str) -> AsyncIterator[None]:
    """A fault that statements cause and take back."""
    async with scene.connection() as connection:
        await connection.execute(begin)
        try:
            yield
        finally:
            await connection.execute(end)


async def test_server_without_free_connections(scene: Scene) -> None:
    fault = statements(
        scene,
        "alter role player connection limit 0; "
        f"select pg_terminate_backend(pid) from pg_stat_activity where {SERVICE}",
        "alter role player connection limit -1",
    )
    await survive(scene, fault, ready_falls=True)


async def test_full_disk(scene: Scene) -> None:
    fault = statements(
        scene,
        "create function full_disk() returns trigger language plpgsql as $$ begin "
        "raise exception 'no space left' using errcode = '53100'; end $$; "
        "create trigger full_disk before insert or update on viewing_time_balances "
        "execute function full_disk()",
        "drop trigger full_disk on viewing_time_balances; drop function full_disk()",
    )
    await survive(scene, fault, ready_falls=False)
    assert sum(viewer.unknown for viewer in scene.viewers) > 0


async def test_session_locked_for_ten_seconds_delays_no_other(scene: Scene) -> None:
    locked, *others = scene.viewers
    fault = statements(
        scene,
        "begin; select from viewing_time_balances "
        f"where profile_id = '{locked.family.child}' for update",
        "rollback",
    )
    held: list[float] = []

    @asynccontextmanager
    async def noted() -> AsyncIterator[None]:
        async with fault:
            held.append(time.monotonic())
            yield
            held.append(time.monotonic())

    await survive(scene, noted(), ready_falls=False, seconds=10.0)
    began, ended = held
    during = [a for a in locked.answers if began < a.sent and a.sent + a.took < ended]
    assert not any(a.is_counted for a in during)
    for viewer in others:
        held_up = [a for a in viewer.answers if not a.is_counted]
        assert len(held_up) <= len(viewer.answers) / 20


async def test_locked_table(scene: Scene) -> None:
    fault = statements(
        scene, "begin; lock table viewing_time_balances in access exclusive mode", "rollback"
    )
    await survive(scene, fault, ready_falls=False, seconds=3.0)


TABLES: Final = ("users", "profiles", "titles", "viewing_time_configs")
COUNTED: Final = ("viewing_sessions", "viewing_time_balances")


async def copy(tables: tuple[str, ...], source: Connection, target: Connection) -> None:
    """Copies rows in place of replication."""
    for table in tables:
        rows = await source.fetch(f"select * from {table}")
        await target.copy_records_to_table(table, records=[tuple(row) for row in rows])


async def reads_only(connection: Connection, value: str) -> None:
    await connection.execute(f"alter system set default_transaction_read_only = {value}")
    await connection.execute("select pg_reload_conf()")
    await eventually(
        lambda: connection.fetchval(
            "select current_setting('default_transaction_read_only') = $1", value
        )
    )


@asynccontextmanager
async def handover(old: Connection, new: Connection, before: Proxy) -> AsyncIterator[None]:
    """A planned failover: the old server becomes read-only, then the new one takes over."""
    await reads_only(old, "on")
    yield
    await _promote(old, new)


@asynccontextmanager
async def failover(old: Connection, new: Connection, before: Proxy) -> AsyncIterator[None]:
    """The old server does not respond any more, and the new one takes over."""
    before.turn("black hole")
    yield
    await _promote(old, new)


async def _promote(old: Connection, new: Connection) -> None:
    async with new.transaction():
        await new.execute("set transaction read write")
        await copy(COUNTED, old, new)
    await reads_only(new, "off")


@pytest.mark.parametrize("change", [handover, failover])
async def test_handover_and_failover_to_another_server(change: Callable[..., Fault]) -> None:
    async with AsyncExitStack() as parts:
        servers = [await parts.enter_async_context(server_of_its_own()) for _ in range(2)]
        proxies = [await parts.enter_async_context(proxied(s.dsn)) for s in servers]
        old, new = [await asyncpg.connect(s.dsn) for s in servers]
        for connection in (old, new):
            parts.callback(connection.terminate)
        if change is handover and old.get_server_version().major < 14:
            pytest.skip("PostgreSQL 13 does not report to clients that it is read-only")
        viewers = await add_viewers(old, VIEWERS)
        await copy(TABLES, old, new)
        await reads_only(new, "on")
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
        dsn = f"postgresql://viewing_time@{hosts}/hurt?target_session_attrs=read-write"
        service = await parts.enter_async_context(served(dsn, **SETTINGS))
        client = await parts.enter_async_context(client_of(service.url))
        scene = Scene(servers[1], proxies[1], client, [], viewers)
        await survive(scene, change(old, new, proxies[0]), ready_falls=True)
        for viewer in viewers:
            path = f"{BALANCE}/{viewer.family.child}"
            balance = (await client.get(path, headers=viewer.family.bearer)).json()
            used = await used_seconds(new, viewer.family.child)
            assert balance["used_minutes"] == used / 60
        if change is handover:
            left = f"select count(*) from pg_stat_activity where {SERVICE}"
            await eventually(lambda: old.fetchval(left), until=lambda count: count == 0)
