"""What does an idempotency key cost, once a session has as many as it remembers?"""

from statistics import median
from typing import Final

from bench.figure import Figure, Target
from bench.harness import Bench, Window
from bench.seed import fresh_day

LOADS: Final = (64, 1000)
FILLING_SECONDS: Final = 40.0  # a hundred beats of each of a thousand viewers
MAX_RATIO: Final = Target(1.1)


async def measure(bench: Bench) -> list[Figure]:
    with_keys, without = bench.viewers[:1000], bench.viewers[1000:2000]
    ratios: dict[int, list[float]] = {load: [] for load in LOADS}
    async with bench.service() as service:
        await bench.warm(service)
        bench.progress("filling the sessions with keys")
        seconds = 1.0 if bench.quick else FILLING_SECONDS
        await bench.keyed(service, with_keys, 1000, seconds, keys=True)
        for number in range(1, bench.scale.rounds + 1):
            for load in LOADS:
                bench.progress(f"{load:,} in flight, round {number} of {bench.scale.rounds}")
                await fresh_day(bench.connection)
                await bench.warm(service)
                window = bench.scale.window
                plain = await bench.keyed(service, without, load, window, keys=False)
                keyed = await bench.keyed(service, with_keys, load, window, keys=True)
                ratios[load].append(_cost(keyed) / _cost(plain))
    kept = "select max(length(recent_keys)) / 10 from viewing_sessions"
    return [
        *(
            Figure(
                f"{load:,} in flight: CPU with a key",
                median(found),
                "x",
                MAX_RATIO,
            )
            for load, found in ratios.items()
        ),
        Figure("keys kept of a session", await bench.connection.fetchval(kept)),
    ]


def _cost(window: Window) -> float:
    """Microseconds of the service and of PostgreSQL for a heartbeat."""
    return window.server_us + window.postgres_us
