"""How many statements does PostgreSQL see for a heartbeat?

Everything that the service's role sends counts, transaction control too. The service's own count,
which administrators read, is held against it.
"""

from typing import Final

from bench.figure import Figure, Target
from bench.harness import Bench
from bench.seed import ADMIN, token

IN_FLIGHT: Final = (1, 8, 64, 256, 1000)
MAX_STATEMENTS: Final = {1000: Target(0.02)}


async def measure(bench: Bench) -> list[Figure]:
    figures = []
    async with bench.service() as service:
        before = await bench.reading(service)
        await bench.warm(service)
        for load in IN_FLIGHT:
            bench.progress(f"{load:,} in flight")
            window = await bench.closed(service, load, seconds=0.5 if bench.quick else 5)
            name = f"statements per heartbeat, {load:,} in flight"
            figures.append(
                Figure(name, window.statements, "", MAX_STATEMENTS.get(load, Target(1.0)))
            )
        after = await bench.reading(service)
        metrics = await service.get("/api/v1/admin/metrics", token(ADMIN))
    seen = (after.statements - before.statements) / (after.handled - before.handled)
    own = metrics["heartbeat"]["avg_db_ops_per_heartbeat"]
    off = abs(own / seen - 1) * 100
    return [*figures, Figure("the service's own count is off by", off, "%", Target(2))]
