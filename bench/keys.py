"""Measures the cost of an idempotency key in a session that already keeps 100 keys."""

from statistics import median
from typing import Final

from bench.figure import Figure, Target
from bench.harness import Bench
from bench.seed import fresh_day

LOADS: Final = (64, 1000)
FILLING_SECONDS: Final = 30.0  # enough for 100 beats of each of 1,000 viewers
MAX_RATIO: Final = Target(1.1)


async def measure(bench: Bench) -> list[Figure]:
    with_keys, without = bench.viewers[:1000], bench.viewers[1000:2000]
    ratios: dict[int, list[float]] = {load: [] for load in LOADS}
    async with bench.service() as service:
        await bench.warm(service)
        bench.progress("filling the sessions with keys")
        seconds = 1.0 if bench.is_quick else FILLING_SECONDS
        await bench.keyed(service, with_keys, 1000, seconds, keys=True)
        for number in range(1, bench.scale.rounds + 1):
            for load in LOADS:
                bench.progress(f"{load:,} in flight, round {number} of {bench.scale.rounds}")
                await fresh_day(bench.connection)
                await bench.warm(service)
                window = bench.scale.window
                plain = await bench.keyed(service, without, load, window, keys=False)
                keyed = await bench.keyed(service, with_keys, load, window, keys=True)
                ratios[load].append(keyed.cpu_us / plain.cpu_us)
    kept = "select max(length(recent_keys)) / 10 from viewing_sessions"
    return [
        *(
            Figure(f"{load:,} in flight: CPU with a key", median(found), "x", MAX_RATIO)
            for load, found in ratios.items()
        ),
        Figure("keys kept in a session", await bench.connection.fetchval(kept)),
    ]
