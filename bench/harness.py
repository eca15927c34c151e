"""The database, the servers and the measured windows of load that every question uses."""

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final

import asyncpg
import msgspec

from bench import peer, seed, wrk
from bench.load_process import LoadProcess
from bench.peer import OURS, Peer, Program
from bench.plan import Outcome, Plan, together
from bench.procfs import cpu_seconds
from bench.seed import Viewer
from service.database import migrate
from service.database.driver import Connection
from service.embedded.supervisor import USER, embedded_postgres

DATA: Final = Path(__file__).parent.parent / ".data"
ROLE: Final = "served"  # the role of the services, so that only their statements are counted
WARM_SECONDS: Final = 30.0  # half the time for which a service caches a configuration
SETTLE_SECONDS: Final = 0.2  # until requests in flight at the end of a window are done
DEFAULTS: Final[Mapping[str, str]] = {}  # the default settings of a service
OPTIONS: Final = {"shared_preload_libraries": "pg_stat_statements"}
# Statements of readiness checks, pending deletions and events, which run without load too.
# PostgreSQL replaces constants in the texts of statements, but keeps names.
BACKGROUND: Final = (
    "is_writable|to_regclass|_yoyo_migration|from pending_deletions|viewing_event_feed"
)
STATEMENTS: Final = f"""
select coalesce(sum(calls), 0)::int8 from pg_stat_statements
where userid = '{ROLE}'::regrole and query !~ '{BACKGROUND}'
"""
# Each heartbeat of the load adds 30 seconds to the open session that it continues.
LEDGER: Final = """
select coalesce(sum(total_seconds), 0) / 30 from viewing_sessions where ended_at is null
"""


CpuSeconds = tuple[float, float]  # of the service and of PostgreSQL


class Scale(msgspec.Struct, frozen=True):
    """The size of the data and of the windows (in seconds)."""

    profiles: int
    days: int
    sessions: int
    viewers: int
    window: int
    rounds: int


# A quarter of the profiles are adults.
FULL: Final = Scale(profiles=20_000, days=365, sessions=10, viewers=2_000, window=6, rounds=3)
QUICK: Final = Scale(profiles=20_000, days=7, sessions=1, viewers=2_000, window=2, rounds=1)


class Window(msgspec.Struct, frozen=True):
    """The result of one window of load.

    `handled` is the server's count of requests, `outcome.completed` the client's; CPU times are
    microseconds for each request handled.
    """

    question: str
    peer: str
    connections: int
    handled: int
    server_us: float
    postgres_us: float
    statements: float
    outcome: Outcome
    rate: float = 0.0

    @property
    def per_second(self) -> float:
        return self.outcome.per_second

    @property
    def cpu_us(self) -> float:
        """Service and PostgreSQL together."""
        return self.server_us + self.postgres_us


class Reading(msgspec.Struct, frozen=True):
    """The server's counters at one moment."""

    handled: int
    statements: int


@dataclass
class Bench:
    """One run: the resources of its questions, and in `windows` every result."""

    scale: Scale
    with_wrk: bool
    folder: Path
    dsn: str
    postmaster: int
    connection: Connection
    viewers: list[Viewer]
    question: str = ""
    windows: list[Window] = field(default_factory=list)
    unaccounted: int = 0
    warmed: dict[int, float] = field(default_factory=dict)
    started_at: float = field(default_factory=monotonic)

    @property
    def is_quick(self) -> bool:
        return self.scale is QUICK

    @property
    def served_dsn(self) -> str:
        """The database of the services, by their role."""
        return self.dsn.replace(f"user={USER}", f"user={ROLE}")

    def progress(self, text: str) -> None:
        """Prints a line of progress on standard error."""
        seconds = monotonic() - self.started_at
        print(f"[{seconds:4.0f} s] {self.question}: {text}", file=sys.stderr, flush=True)

    def service(
        self,
        name: str = "service",
        variables: Mapping[str, str] = DEFAULTS,
        program: Program = OURS,
    ) -> AbstractAsyncContextManager[Peer]:
        """A service process with default settings, except `variables`."""
        return peer.service(name, self.served_dsn, self.folder, variables, program)

    def other(self, name: str, command: Sequence[str]) -> AbstractAsyncContextManager[Peer]:
        """A heartbeat service of another language."""
        return peer.other(name, command, self.served_dsn, self.folder)

    def echo(self) -> AbstractAsyncContextManager[Peer]:
        """A server without work of its own."""
        return peer.echo_server(self.folder)

    def requests(self, viewers: list[Viewer]) -> str:
        """Path of a file with a heartbeat of each viewer."""
        path = self.folder / f"{viewers[0].profile_id}-{len(viewers)}.requests"
        if not path.exists():
            path.write_bytes(seed.heartbeats(viewers))
        return str(path)

    async def each_once(self, peer: Peer, viewers: list[Viewer], connections: int = 64) -> Window:
        """Sends one heartbeat of each viewer, which also fills the service's cache."""
        return await self._window(Plan(peer.port, self.requests(viewers), connections), peer)

    async def warm(self, peer: Peer) -> None:
        """Fills the cache of a service with the usual viewers, at most every 30 seconds."""
        if not peer.counter and monotonic() - self.warmed.get(peer.pid, -inf) > WARM_SECONDS:
            await self.each_once(peer, self.viewers)
            self.warmed[peer.pid] = monotonic()

    async def closed_loop(
        self, peer: Peer, connections: int, seconds: float = 0, viewers: list[Viewer] | None = None
    ) -> Window:
        """Keeps `connections` heartbeats in flight, by default of the usual viewers."""
        requests = self.requests(viewers or self.viewers)
        plan = Plan(peer.port, requests, connections, seconds or self.scale.window)
        return await self._window(plan, peer)

    async def open_loop(
        self, peer: Peer, viewers: list[Viewer], connections: int, rate: float, seconds: float
    ) -> Window:
        """Sends `rate` heartbeats a second at random moments, independent of the responses."""
        return await self._window(
            Plan(peer.port, self.requests(viewers), connections, seconds, rate), peer
        )

    async def burst(self, peer: Peer, viewers: list[Viewer]) -> Window:
        """Opens a connection for each viewer at once, and sends a heartbeat on each."""
        plan = Plan(peer.port, self.requests(viewers), len(viewers), at_once=True)
        return await self._window(plan, peer)

    async def keyed(
        self, peer: Peer, viewers: list[Viewer], connections: int, seconds: float, *, keys: bool
    ) -> Window:
        """Keeps `connections` heartbeats in flight, each with a new idempotency key, or without.

        Always with our own client, because wrk cannot make the keys.
        """
        path = self.folder / f"{viewers[0].profile_id}-keys-{keys}.requests"
        path.write_bytes(seed.heartbeats(viewers, keyed=keys))
        plan = Plan(peer.port, str(path), connections, seconds, fresh_keys=True)
        return await self._window(plan, peer)

    async def divided(
        self, peers: Sequence[Peer], connections: int, seconds: float, rate: float = 0.0
    ) -> Window:
        """Divides the usual viewers, and the load, between instances on one database.

        Always with our own client, one process for each instance. The percentiles are those of the
        slowest instance.
        """
        number = len(peers)
        plans = [
            Plan(
                port=peer.port,
                requests=self.requests(self.viewers[n::number]),
                connections=connections // number,
                seconds=seconds,
                rate=rate / number,
            )
            for n, peer in enumerate(peers)
        ]
        async with AsyncExitStack() as running:
            opened = (running.enter_async_context(LoadProcess(plan)) for plan in plans)
            loads = await asyncio.gather(*opened)
            begin = await self.reading(peers[0]), self._cpu_seconds(peers)
            await asyncio.gather(*(load.run() for load in loads))
            ended = self._cpu_seconds(peers)
            end = await self.reading(peers[0]), ended
            outcome = together([await load.outcome() for load in loads])
        return self._measured(peers[-1].name, connections, rate, begin, end, outcome)

    async def _window(self, plan: Plan, peer: Peer) -> Window:
        own = plan.rate or plan.fresh_keys or plan.seconds < 1  # wrk supports whole seconds only
        if self.with_wrk and not own:
            begin = await self.reading(peer), self._cpu_seconds([peer])
            outcome = await wrk.closed_loop(plan)
            await asyncio.sleep(SETTLE_SECONDS)
            ended = self._cpu_seconds([peer])
            end = await self.reading(peer), ended
        else:
            async with LoadProcess(plan) as client:
                begin = await self.reading(peer), self._cpu_seconds([peer])
                await client.run()
                ended = self._cpu_seconds([peer])
                end = await self.reading(peer), ended
                outcome = await client.outcome()
        return self._measured(peer.name, plan.connections, plan.rate, begin, end, outcome)

    def _measured(
        self,
        name: str,
        connections: int,
        rate: float,
        begin: tuple[Reading, CpuSeconds],
        end: tuple[Reading, CpuSeconds],
        outcome: Outcome,
    ) -> Window:
        """Keeps and returns a window, from the counters at its begin and at its end."""
        (before, (service_begun, postgres_begun)), (after, (service, postgres)) = begin, end
        handled = max(1, after.handled - before.handled)
        window = Window(
            question=self.question,
            peer=name,
            connections=connections,
            rate=rate,
            handled=handled,
            server_us=(service - service_begun) * 1e6 / handled,
            postgres_us=(postgres - postgres_begun) * 1e6 / handled,
            statements=(after.statements - before.statements) / handled,
            outcome=outcome,
        )
        # Requests in flight when wrk ends are handled but missing in its count.
        self.unaccounted += max(0, outcome.completed - outcome.errors - handled)
        self.unaccounted += max(0, handled - outcome.completed - connections)
        self.windows.append(window)
        return window

    async def reading(self, peer: Peer) -> Reading:
        """Requests handled and statements sent by the peer so far."""
        if peer.counter:
            return Reading(await peer.get(peer.counter), 0)
        handled = await self.connection.fetchval(LEDGER)
        return Reading(handled, await self.connection.fetchval(STATEMENTS))

    def _cpu_seconds(self, peers: Sequence[Peer]) -> CpuSeconds:
        """CPU time of the peers and of PostgreSQL so far."""
        return sum(cpu_seconds(peer.pid) for peer in peers), cpu_seconds(self.postmaster)


@asynccontextmanager
async def open_bench(scale: Scale, with_wrk: bool) -> AsyncIterator[Bench]:
    """A bench with a seeded PostgreSQL of its own."""
    allow_open_files()
    DATA.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=DATA) as name:
        folder = Path(name)
        with embedded_postgres(folder / "postgres", options=OPTIONS) as dsn:
            pid_file = folder / "postgres" / "cluster" / "postmaster.pid"
            postmaster = int(pid_file.read_text().partition("\n")[0])
            connection = await asyncpg.connect(dsn)
            bench = Bench(scale, with_wrk, folder, dsn, postmaster, connection, [], "seed")
            try:
                await asyncio.to_thread(migrate.migrate, dsn)
                await connection.execute(f"create role {ROLE} login in role {USER}")
                await connection.execute("create extension pg_stat_statements")
                await seed.seed(
                    connection, scale.profiles, scale.days, scale.sessions, bench.progress
                )
                bench.viewers = await seed.viewers(connection, scale.viewers)
                yield bench
            finally:
                await connection.close()


def allow_open_files() -> None:
    """Raises the limit of open files, here and for the servers, to allow 1,000 connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
