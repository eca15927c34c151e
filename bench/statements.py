"""Counts the statements that PostgreSQL executes for a heartbeat.

Every statement of the service's role counts, including transaction control. The count that the
service reports to administrators is compared with it.
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
            window = await bench.closed_loop(service, load, seconds=0.5 if bench.is_quick else 4)
            name = f"statements per heartbeat, {load:,} in flight"
            figures.append(
                Figure(name, window.statements, "", MAX_STATEMENTS.get(load, Target(1.0)), 0.25)
            )
        after = await bench.reading(service)
        metrics = await service.get("/api/v1/admin/metrics", token(ADMIN))
    executed = (after.statements - before.statements) / (after.handled - before.handled)
    reported = metrics["heartbeat"]["avg_db_ops_per_heartbeat"]
    off = abs(reported / executed - 1) * 100
    return [*figures, Figure("the service's own count is wrong by", off, "%", Target(2))]
