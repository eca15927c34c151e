"""Runs wrk, a load generator that needs less CPU than our own client, if it is installed.

Its script does not know the connection of a request, so all connections share one sequence of
requests. At the end wrk closes its connections without counting requests in flight.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Final

import msgspec

from bench.plan import Outcome, Plan

SCRIPT: Final = Path(__file__).with_name("wrk.lua")


def installed() -> bool:
    return shutil.which("wrk") is not None


async def closed_loop(plan: Plan) -> Outcome:
    """Keeps a request in flight on every connection; raises RuntimeError with the output of wrk."""
    process = await asyncio.create_subprocess_exec(
        "wrk",
        "-t1",
        f"-c{plan.connections}",
        f"-d{max(1, round(plan.seconds))}s",
        "--timeout=30s",
        f"--script={SCRIPT}",
        f"http://127.0.0.1:{plan.port}/",
        "--",
        plan.requests,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    last = output.rstrip().rpartition(b"\n")[2]
    if process.returncode or not last.startswith(b"{"):
        raise RuntimeError(f"wrk failed: {output.decode(errors='replace')}")
    return msgspec.json.decode(last, type=Outcome)
