"""Measures the first heartbeats after a start, and the memory of a full cache."""

from statistics import median
from typing import Final

from bench import seed
from bench.figure import Figure, Target
from bench.harness import Bench
from bench.procfs import resident_bytes

PROFILES: Final = 10_000  # the capacity of the cache of a service
STARTS: Final = 5
STEADY: Final = 300  # heartbeats one after the other, including the first


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
        Figure("cold profiles: statements per heartbeat", window.statements, "", Target(2), 0.25),
        Figure("cold profiles, 64 in flight: heartbeats", window.per_second, "/s"),
        Figure("memory after start", empty / 2**20, "MiB"),
        Figure(f"memory at {PROFILES:,} cached profiles", full / 2**20, "MiB"),
    ]


async def _first_to_steady(bench: Bench) -> float:
    """The time of the first heartbeat as a multiple of the median, one in flight."""
    bench.progress("first heartbeat after start")
    async with bench.service() as service:
        # Five starts send more heartbeats than the limit of a day.
        await seed.fresh_day(bench.connection)
        window = await bench.each_once(service, bench.viewers[:1] * STEADY, connections=1)
    return window.outcome.first_ms / window.outcome.p50_ms
