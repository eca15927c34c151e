"""Measures the rate of heartbeats beside the peers in Go and in Node.js.

The servers run at the same time and are loaded in turn, round by round; a ratio is the median of
the ratios of each round.
"""

from contextlib import AsyncExitStack
from statistics import median
from typing import Final

from bench import peers
from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.peer import Peer
from bench.seed import fresh_day

IN_FLIGHT: Final = (64, 1000)
TARGET: Final = Target(2.8, 3.5, at_least=True)
TOLERANCE: Final = 0.15


async def measure(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as running:
        servers = [await running.enter_async_context(bench.service())]
        for language in peers.LANGUAGES:
            if command := peers.command(language):
                other = bench.other(language, command)
                servers.append(await running.enter_async_context(other))
        rounds: dict[int, list[list[Window]]] = {load: [] for load in IN_FLIGHT}
        for number in range(1, bench.scale.rounds + 1):
            for load in IN_FLIGHT:
                bench.progress(f"{load:,} in flight, round {number} of {bench.scale.rounds}")
                await fresh_day(bench.connection)
                rounds[load].append([await _window(bench, peer, load) for peer in servers])
    return [
        figure
        for load in IN_FLIGHT
        for ours, *others in [list(zip(*rounds[load], strict=True))]
        for theirs in others
        for figure in _figures(load, ours, theirs)
    ]


async def _window(bench: Bench, peer: Peer, load: int) -> Window:
    await bench.warm(peer)
    return await bench.closed_loop(peer, load)


def _figures(load: int, ours: tuple[Window, ...], theirs: tuple[Window, ...]) -> list[Figure]:
    name, language = f"{load:,} in flight", theirs[0].peer
    pairs = list(zip(ours, theirs, strict=True))
    return [
        Figure(f"{name}: heartbeats, {language}", median(w.per_second for w in theirs), "/s"),
        Figure(f"{name}: CPU of both, {language}", median(w.cpu_us for w in theirs), "µs"),
        Figure(
            f"{name}: rate, to {language}'s",
            median(us.per_second / them.per_second for us, them in pairs),
            "x",
            TARGET,
            TOLERANCE,
        ),
    ]
