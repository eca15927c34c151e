"""What a question may use: the database, the peers, a measured window."""

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final

import asyncpg
import msgspec

from bench import peer, seed, wrk
from bench.load import Outcome, Plan
from bench.peer import Peer
from bench.procfs import cpu_seconds
from bench.seed import Viewer
from service.database import migrate
from service.database.driver import Connection
from service.embedded.supervisor import USER, embedded_postgres

DATA: Final = Path(__file__).parent.parent / ".data"
ROLE: Final = "served"  # the services' own, so that their statements can be told from ours
REMEMBERED_SECONDS: Final = 30.0  # half of what a service keeps a configuration for
SETTLE_SECONDS: Final = 0.2  # until what was in flight at the end of a window is done
OPTIONS: Final = {"shared_preload_libraries": "pg_stat_statements"}
# But for the signs of life that a service asks for every few seconds, however many heartbeats come.
STATEMENTS: Final = f"""
select coalesce(sum(calls), 0)::int8 from pg_stat_statements
where userid = '{ROLE}'::regrole and query not like '%transaction_read_only%'
"""
# Each beat of the load counts 30 seconds in the session that it goes on with.
LEDGER: Final = """
select coalesce(sum(total_seconds), 0) / 30 from viewing_sessions where ended_at is null
"""


class Scale(msgspec.Struct, frozen=True):
    """How much of everything: windows in seconds."""

    profiles: int
    days: int
    sessions: int
    viewers: int
    window: int
    rounds: int


FULL: Final = Scale(profiles=20_000, days=365, sessions=10, viewers=2_000, window=8, rounds=3)
QUICK: Final = Scale(profiles=20_000, days=7, sessions=1, viewers=2_000, window=2, rounds=1)


class Window(msgspec.Struct, frozen=True):
    """What one stretch of load found.

    `handled` counts what the server did, `completed` what the client saw of it; CPU times are
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


class Reading(msgspec.Struct, frozen=True):
    """The counters at one moment."""

    handled: int
    statements: int


@dataclass
class Bench:
    """One run: what a question may use, and in `windows` all that was seen."""

    quick: bool
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
    began: float = field(default_factory=monotonic)

    def progress(self, text: str) -> None:
        """Tells the person who waits."""
        seconds = monotonic() - self.began
        print(f"[{seconds:4.0f} s] {self.question}: {text}", file=sys.stderr, flush=True)

    def service(
        self, name: str = "service", command: Sequence[str] = peer.SERVE, **variables: str
    ) -> AbstractAsyncContextManager[Peer]:
        """A service process with the default settings, but for `variables`."""
        served = self.dsn.replace(f"user={USER}", f"user={ROLE}")
        return peer.service(name, served, self.folder, variables, command)

    def echo(self) -> AbstractAsyncContextManager[Peer]:
        """A server that does nothing."""
        return peer.nothing(self.folder)

    def requests(self, viewers: list[Viewer]) -> str:
        """A file with a heartbeat of each of them."""
        path = self.folder / f"{viewers[0].profile_id}-{len(viewers)}.requests"
        if not path.exists():
            path.write_bytes(seed.heartbeats(viewers))
        return str(path)

    async def once(self, peer: Peer, viewers: list[Viewer], connections: int = 64) -> Window:
        """One heartbeat of each viewer, which also fills what the service remembers."""
        return await self._window(Plan(peer.port, self.requests(viewers), connections), peer)

    async def warm(self, peer: Peer) -> None:
        """Sees to it that the service remembers the usual viewers, and will for a while."""
        if not peer.counter and monotonic() - self.warmed.get(peer.pid, -inf) > REMEMBERED_SECONDS:
            await self.once(peer, self.viewers)
            self.warmed[peer.pid] = monotonic()

    async def closed(self, peer: Peer, connections: int, seconds: float = 0) -> Window:
        """`connections` heartbeats always in flight; for the usual time unless told otherwise."""
        seconds = seconds or self.scale.window
        plan = Plan(peer.port, self.requests(self.viewers), connections, seconds)
        return await self._window(plan, peer)

    async def open(
        self, peer: Peer, viewers: list[Viewer], connections: int, rate: float, seconds: float
    ) -> Window:
        """`rate` heartbeats a second at random moments, whatever the answers do."""
        return await self._window(
            Plan(peer.port, self.requests(viewers), connections, seconds, rate), peer
        )

    async def keyed(
        self, peer: Peer, viewers: list[Viewer], connections: int, seconds: float, *, keys: bool
    ) -> Window:
        """`connections` heartbeats in flight, each with an idempotency key of its own, or without.

        Always by our own client, which makes the keys.
        """
        path = self.folder / f"{viewers[0].profile_id}-keys-{keys}.requests"
        path.write_bytes(seed.heartbeats(viewers, keyed=keys))
        plan = Plan(peer.port, str(path), connections, seconds, fresh_keys=True)
        return await self._window(plan, peer)

    async def _window(self, plan: Plan, peer: Peer) -> Window:
        before = await self.reading(peer)
        service, postgres = cpu_seconds(peer.pid), cpu_seconds(self.postmaster)
        outcome = await self._load(plan)
        await asyncio.sleep(SETTLE_SECONDS)
        service = cpu_seconds(peer.pid) - service
        postgres = cpu_seconds(self.postmaster) - postgres
        after = await self.reading(peer)
        handled = max(1, after.handled - before.handled)
        window = Window(
            question=self.question,
            peer=peer.name,
            connections=plan.connections,
            rate=plan.rate,
            handled=handled,
            server_us=service * 1e6 / handled,
            postgres_us=postgres * 1e6 / handled,
            statements=(after.statements - before.statements) / handled,
            outcome=outcome,
        )
        # What is in flight when wrk ends was handled and is not in its count.
        self.unaccounted += max(0, outcome.completed - outcome.errors - handled)
        self.unaccounted += max(0, handled - outcome.completed - plan.connections)
        self.windows.append(window)
        return window

    async def reading(self, peer: Peer) -> Reading:
        """What the peer has handled so far, and the statements that PostgreSQL saw."""
        if peer.counter:
            return Reading(await peer.get(peer.counter), 0)
        handled = await self.connection.fetchval(LEDGER)
        return Reading(handled, await self.connection.fetchval(STATEMENTS))

    async def _load(self, plan: Plan) -> Outcome:
        """The load comes from a process of its own."""
        own = plan.rate or plan.fresh_keys or plan.seconds < 1  # wrk knows whole seconds only
        if self.with_wrk and not own:
            return await wrk.closed_loop(plan)
        return await self.client(plan)

    async def client(self, plan: Plan) -> Outcome:
        """What our own client sees, in a process of its own."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.load",
            msgspec.json.encode(plan),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            said, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            raise
        return msgspec.json.decode(said, type=Outcome)


@asynccontextmanager
async def opened(quick: bool, with_wrk: bool) -> AsyncIterator[Bench]:
    """A bench on a PostgreSQL of its own, with everything seeded."""
    scale = QUICK if quick else FULL
    allow_open_files()
    DATA.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=DATA) as name:
        folder = Path(name)
        with embedded_postgres(folder / "postgres", options=OPTIONS) as dsn:
            note = folder / "postgres" / "cluster" / "postmaster.pid"
            postmaster = int(note.read_text().partition("\n")[0])
            connection = await asyncpg.connect(dsn)
            bench = Bench(quick, scale, with_wrk, folder, dsn, postmaster, connection, [], "seed")
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
    """A thousand connections need more than the usual 1,024 files, here and in the servers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
