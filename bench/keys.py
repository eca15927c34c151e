"""Measures the cost of an idempotency key in a session that already stores 100 keys."""

from statistics import median
from typing import Final

from bench.figure import Figure, Target
from bench.harness import Bench
from bench.seed import fresh_day

LOADS: Final = (64, 1000)
MAX_STORED: Final = 100  # keys of a session
FILL_SECONDS: Final = 10.0
MAX_FILLS: Final = 6
MAX_RATIO: Final = Target(1.1)
TOLERANCE: Final = 0.1
FEWEST_STORED: Final = """
select min(length(recent_keys)) / 10 from viewing_sessions
where ended_at is null and profile_id = any ($1::uuid[])
"""


async def measure(bench: Bench) -> list[Figure]:
    with_keys, without = bench.viewers[:1000], bench.viewers[1000:2000]
    profiles = [viewer.profile_id for viewer in with_keys]
    ratios: dict[int, list[float]] = {load: [] for load in LOADS}
    async with bench.service() as service:
        await bench.warm(service)
        for _ in range(1 if bench.is_quick else MAX_FILLS):
            bench.progress("filling the sessions with keys")
            seconds = 1.0 if bench.is_quick else FILL_SECONDS
            await bench.keyed(service, with_keys, 1000, seconds, keys=True)
            stored = await bench.connection.fetchval(FEWEST_STORED, profiles)
            if stored >= MAX_STORED:
                break
        for number in range(1, bench.scale.rounds + 1):
            for load in LOADS:
                bench.progress(f"{load:,} in flight, round {number} of {bench.scale.rounds}")
                await fresh_day(bench.connection)
                await bench.warm(service)
                window = bench.scale.window
                plain = await bench.keyed(service, without, load, window, keys=False)
                keyed = await bench.keyed(service, with_keys, load, window, keys=True)
                ratios[load].append(keyed.cpu_us / plain.cpu_us)
    name = "in flight: CPU with a key, to one without"
    return [
        *(
            Figure(f"{load:,} {name}", median(found), "x", MAX_RATIO, TOLERANCE)
            for load, found in ratios.items()
        ),
        Figure("keys stored in a session before the measurement, at least", stored),
    ]
