"""Measures a start: the first heartbeat, uncached profiles and their memory, all players at once.

Players that lose their service connect again at the same moment. Every connection that the kernel
drops for want of room costs its player a second. Drops are counted in the whole network namespace,
so nothing else must listen here under load.
"""

from statistics import median
from typing import Final

from bench import seed
from bench.figure import Figure, Target
from bench.harness import Bench
from bench.procfs import listen_drops, resident_bytes
from service.observing import open_files

PROFILES: Final = 10_000
STARTS: Final = 5
STEADY: Final = 300  # heartbeats one after the other, including the first
PLAYERS: Final = 5_000
BURSTS: Final = 5
MIN_FILES: Final = PLAYERS + 300
LAST: Final = Target(0.8)


async def measure(bench: Bench) -> list[Figure]:
    starts = [await _first_to_steady(bench) for _ in range(1 if bench.is_quick else STARTS)]
    all_viewers = await seed.viewers(bench.connection, PROFILES)
    bench.progress(f"{PROFILES:,} uncached profiles")
    async with bench.service() as service:
        empty = resident_bytes(service.pid)
        window = await bench.each_once(service, all_viewers)
        full = resident_bytes(service.pid)
    return [
        Figure("first heartbeat after start, to the median", median(starts), "x", Target(2)),
        Figure("cold profiles: statements per heartbeat", window.statements, "", Target(0.5)),
        Figure("cold profiles, 64 in flight: heartbeats", window.per_second, "/s"),
        Figure("memory after start", empty / 2**20, "MiB"),
        Figure(f"memory at {PROFILES:,} cached profiles", full / 2**20, "MiB"),
        *await _bursts(bench),
    ]


async def _first_to_steady(bench: Bench) -> float:
    """The time of the first heartbeat as a multiple of the median, one in flight."""
    bench.progress("first heartbeat after start")
    async with bench.service() as service:
        # Five starts send more heartbeats than the limit of a day.
        await seed.fresh_day(bench.connection)
        window = await bench.each_once(service, bench.viewers[:1] * STEADY, connections=1)
    return window.outcome.first_ms / window.outcome.p50_ms


async def _bursts(bench: Bench) -> list[Figure]:
    """Players that the service knows connect at once, and send a heartbeat each."""
    if open_files.raise_limit() < MIN_FILES:
        bench.progress(f"no burst of connections, which takes {MIN_FILES:,} open files")
        return []
    players = await seed.viewers(bench.connection, PLAYERS)
    async with bench.service() as service:
        windows, drops = [], 0
        for number in range(1 if bench.is_quick else BURSTS):
            bench.progress(f"{PLAYERS:,} players at once, burst {number + 1}")
            await seed.fresh_day(bench.connection)
            await bench.each_once(service, players)
            before = listen_drops()
            windows.append(await bench.burst(service, players))
            drops += listen_drops() - before
    name = f"{PLAYERS:,} players at once"
    return [
        Figure(f"{name}: last response", median(w.outcome.seconds for w in windows), "s", LAST),
        Figure(f"{name}: p50", median(w.outcome.p50_ms for w in windows), "ms"),
        Figure(f"{name}: service CPU", median(w.server_us for w in windows), "µs"),
        Figure(f"{name}: connections dropped", drops, "", Target(0)),
    ]
