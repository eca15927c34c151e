"""Measures the latency that PIN verification adds to heartbeats.

Heartbeats are sent at a fixed rate, alone and beside parents who verify their PIN without pause.
The added latency is the difference of two neighbouring windows, as the median of the rounds. The
question `pin_ways` compares other numbers of parents, two workers, other priorities, threads, and
hashing on the event loop; it runs only by name, because it takes ten minutes.
"""

import asyncio
from statistics import median
from typing import Final
from urllib.request import urlopen

from bench import seed
from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.load_process import LoadProcess
from bench.peer import Peer, Program
from bench.plan import Outcome, Plan
from bench.seed import Viewer
from service.command.demo import PIN_HASH

RATE: Final = 200.0
CONNECTIONS: Final = 64
PARENTS: Final = (1, 6, 50)
USUAL: Final = 6
PIN: Final = "1234"
SETTLE_SECONDS: Final = 1.0
GIVE_PINS: Final = "update users set pin_hash = $2 where id = any ($1::uuid[])"
ADDED_P99: Final = Target(3, 1)
ADDED_MAX: Final = Target(10)
MAX_LAG: Final = Target(5)
# The alternatives, which `bench.pin_peer` serves.
WAYS: Final = (
    "SCHED_IDLE",
    "SCHED_BATCH",
    "nice 19 only",
    "normal priority",
    "threads",
    "on the loop",
)
LAG: Final = b"viewing_time_event_loop_lag_max_seconds "


async def measure(bench: Bench) -> list[Figure]:
    parents = await _parents(bench)
    async with bench.service() as service:
        figures = await _beside(bench, service, parents[:USUAL], has_targets=True)
        lag = await asyncio.to_thread(_lag_ms, service)
    return [*figures, Figure("longest delay of the event loop", lag, "ms", MAX_LAG)]


async def measure_ways(bench: Bench) -> list[Figure]:
    parents = await _parents(bench)
    figures: list[Figure] = []
    async with bench.service() as service:
        for number in PARENTS:
            figures += await _beside(bench, service, parents[:number])
    async with bench.service("two workers", {"PIN_WORKERS": "2"}) as service:
        figures += await _beside(bench, service, parents[:USUAL], ", two workers")
    for way in WAYS:
        program = Program(("bench.pin_peer", way, "serve"))
        async with bench.service(way, program=program) as peer:
            figures += await _beside(bench, peer, parents[:USUAL], f", {way}")
    return figures


async def _parents(bench: Bench) -> list[Viewer]:
    """Viewers whose accounts have a PIN."""
    parents = await seed.viewers(bench.connection, max(PARENTS))
    accounts = [parent.account_id for parent in parents]
    await bench.connection.execute(GIVE_PINS, accounts, PIN_HASH)
    return parents


async def _beside(
    bench: Bench, peer: Peer, parents: list[Viewer], name: str = "", *, has_targets: bool = False
) -> list[Figure]:
    """The latency that these parents add to heartbeats."""
    await bench.warm(peer)
    pairs: list[tuple[Outcome, Outcome]] = []
    verified: list[float] = []
    for number in range(bench.scale.rounds):
        bench.progress(f"{len(parents)} parents{name}, round {number + 1}")
        alone = await _heartbeats(bench, peer)
        heartbeats = asyncio.create_task(_heartbeats(bench, peer))
        # Heartbeats connect first: a server that hashes on its loop hardly accepts connections.
        await asyncio.sleep(SETTLE_SECONDS)
        verification = await _verify(bench, peer, parents)
        beside = await heartbeats
        verified.append((verification.completed - verification.errors) / verification.seconds)
        pairs.append((alone.outcome, beside.outcome))
    title = f"{len(parents)} parents verifying{name}"
    p99, highest = (ADDED_P99, ADDED_MAX) if has_targets else (None, None)
    return [
        Figure(f"{title}: added p50", _added(pairs, "p50_ms"), "ms"),
        Figure(f"{title}: added p95", _added(pairs, "p95_ms"), "ms"),
        Figure(f"{title}: added p99", _added(pairs, "p99_ms"), "ms", p99),
        Figure(f"{title}: added maximum", _added(pairs, "highest_ms"), "ms", highest),
        Figure(f"{title}: PINs verified", median(verified), "/s"),
    ]


def _lag_ms(service: Peer) -> float:
    """The longest event loop lag since the start of the service."""
    with urlopen(f"http://127.0.0.1:{service.port}/metrics") as response:
        line: bytes = next(line for line in response if line.startswith(LAG))
    return float(line.removeprefix(LAG)) * 1000


def _added(pairs: list[tuple[Outcome, Outcome]], name: str) -> float:
    added: list[float] = [getattr(b, name) - getattr(a, name) for a, b in pairs]
    return median(added)


async def _heartbeats(bench: Bench, peer: Peer) -> Window:
    return await bench.open_loop(peer, bench.viewers, CONNECTIONS, RATE, _seconds(bench))


async def _verify(bench: Bench, peer: Peer, parents: list[Viewer]) -> Outcome:
    """Each parent verifies the right PIN without pause."""
    path = bench.folder / f"{len(parents)}-parents.requests"
    path.write_bytes(seed.verifications(parents, PIN))
    async with LoadProcess(Plan(peer.port, str(path), len(parents), _seconds(bench))) as client:
        await client.run()
        return await client.outcome()


def _seconds(bench: Bench) -> float:
    return 6.0 if bench.is_quick else 8.0
