"""What do heartbeats feel of parents who type their PIN?

Heartbeats come at a fixed rate by the clock, alone and beside parents who verify without pause;
what is added is the difference of neighbouring windows, the median of the rounds. The same beside
two workers, workers of another priority, threads, and with the hash on the event loop, as it was.
"""

import asyncio
from statistics import median
from typing import Final
from urllib.request import urlopen

from bench import seed
from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.load import Outcome, Plan
from bench.peer import Peer
from bench.seed import Viewer
from service.command.demo import PIN_HASH

RATE: Final = 200.0
CONNECTIONS: Final = 64
PARENTS: Final = (1, 6, 50)
USUAL: Final = 6
PIN: Final = "1234"
SETTLE: Final = 1.0
GIVE_PINS: Final = "update users set pin_hash = $2 where id = any ($1::uuid[])"
ADDED_P99: Final = Target(3, 1)
ADDED_MAX: Final = Target(10)
HELD_UP: Final = Target(5)
# What stood to choice, or was: the ways of `bench.pin_peer`.
OTHERS: Final = (
    "SCHED_IDLE",
    "SCHED_BATCH",
    "nice 19 in the service's session",
    "normal priority",
    "threads",
    "on the loop",
)
LAG: Final = b"viewing_time_event_loop_lag_max_seconds "


async def measure(bench: Bench) -> list[Figure]:
    parents = await seed.viewers(bench.connection, max(PARENTS))
    accounts = [parent.account_id for parent in parents]
    await bench.connection.execute(GIVE_PINS, accounts, PIN_HASH)
    figures: list[Figure] = []
    async with bench.service() as service:
        for number in (USUAL,) if bench.quick else PARENTS:
            figures += await _beside(bench, service, parents[:number], "", is_ours=True)
        held_up = await asyncio.to_thread(_held_up, service)
        figures.append(Figure("event loop held up at most", held_up, "ms", HELD_UP))
    if not bench.quick:
        async with bench.service("two workers", PIN_WORKERS="2") as service:
            named = ", two workers"
            figures += await _beside(bench, service, parents[:USUAL], named, is_ours=False)
    for other in OTHERS[-2:] if bench.quick else OTHERS:
        module = ("bench.pin_peer", other, "serve")
        async with bench.service(other, command=module) as peer:
            figures += await _beside(bench, peer, parents[:USUAL], f", {other}", is_ours=False)
    return figures


async def _beside(
    bench: Bench, peer: Peer, parents: list[Viewer], name: str, *, is_ours: bool
) -> list[Figure]:
    """The figures of heartbeats beside these parents."""
    await bench.warm(peer)
    pairs: list[tuple[Outcome, Outcome]] = []
    verified: list[float] = []
    for number in range(bench.scale.rounds):
        bench.progress(f"{len(parents)} parents{name}, round {number + 1}")
        alone = await _heartbeats(bench, peer)
        heartbeats = asyncio.create_task(_heartbeats(bench, peer))
        # Their connections come first: a server that hashes on its loop hardly takes new ones.
        await asyncio.sleep(SETTLE)
        parents_saw = await _storm(bench, peer, parents)
        beside = await heartbeats
        verified.append((parents_saw.completed - parents_saw.errors) / parents_saw.seconds)
        pairs.append((alone.outcome, beside.outcome))
    title = f"{len(parents)} parents verifying{name}"
    p99, most = (ADDED_P99, ADDED_MAX) if is_ours else (None, None)
    return [
        Figure(f"{title}: added p50", _added(pairs, "p50_ms"), "ms"),
        Figure(f"{title}: added p95", _added(pairs, "p95_ms"), "ms"),
        Figure(f"{title}: added p99", _added(pairs, "p99_ms"), "ms", p99),
        Figure(f"{title}: added maximum", _added(pairs, "highest_ms"), "ms", most),
        Figure(f"{title}: PINs verified", median(verified), "/s"),
    ]


def _held_up(service: Peer) -> float:
    """What the service's own ticker has seen since its start, in milliseconds."""
    with urlopen(f"http://127.0.0.1:{service.port}/metrics") as answer:
        line: bytes = next(line for line in answer if line.startswith(LAG))
    return float(line.removeprefix(LAG)) * 1000


def _added(pairs: list[tuple[Outcome, Outcome]], name: str) -> float:
    added: list[float] = [getattr(b, name) - getattr(a, name) for a, b in pairs]
    return median(added)


async def _heartbeats(bench: Bench, peer: Peer) -> Window:
    return await bench.open(peer, bench.viewers, CONNECTIONS, RATE, _seconds(bench))


async def _storm(bench: Bench, peer: Peer, parents: list[Viewer]) -> Outcome:
    """Each parent verifies the right PIN, again and again."""
    path = bench.folder / f"{len(parents)}-parents.requests"
    path.write_bytes(seed.verifications(parents, PIN))
    return await bench.client(Plan(peer.port, str(path), len(parents), _seconds(bench)))


def _seconds(bench: Bench) -> float:
    return 6.0 if bench.quick else 10.0
