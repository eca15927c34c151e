"""The results of a run as JSON, with all that is needed to judge them."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from bench.figure import Figure
from bench.harness import Bench, Scale, Window

RESULTS: Final = Path(__file__).parent / "results"
PACKAGES: Final = ("starlette", "uvicorn", "uvloop", "httptools", "asyncpg", "msgspec")


class Machine(msgspec.Struct, frozen=True):
    """Where it ran; `load` is the load average before, which tells whether it was idle."""

    processor: str
    cores: int
    memory_gib: float
    kernel: str
    load: float


class Report(msgspec.Struct, frozen=True):
    """One run."""

    date: datetime
    commit: str
    quick: bool
    client: str
    scale: Scale
    machine: Machine
    versions: dict[str, str]
    figures: list[Figure]
    windows: list[Window]
    first_error: str

    def heading(self) -> str:
        """What is to be known of a run before its figures are compared."""
        machine = self.machine
        return (
            f"{self.date:%Y-%m-%d %H:%M} UTC, commit {self.commit}, "
            f"{'quick' if self.quick else 'full'} run, load from {self.client}\n"
            f"{machine.cores} cores of {machine.processor}, {machine.memory_gib:.0f} GiB, "
            f"Linux {machine.kernel}, load average before {machine.load:.1f}\n"
            f"Python {self.versions['python']}, PostgreSQL {self.versions['postgresql']}; "
            f"{self.scale.profiles:,} profiles with balances of {self.scale.days} days"
        )


def machine() -> Machine:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return Machine(
        processor=next(names, platform.machine()),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        kernel=platform.release(),
        load=os.getloadavg()[0],
    )


def commit() -> str:
    """The commit that was measured, `+` where files differ from it; `unknown` without git."""
    here = RESULTS.parent
    try:
        name = subprocess.check_output(
            ["git", "describe", "--always", "--dirty=+"], cwd=here, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.decode().strip()


async def report(bench: Bench, where: Machine, figures: Sequence[Figure]) -> Report:
    """All that is known of the run."""
    server = await bench.connection.fetchval("show server_version")
    versions = {"python": platform.python_version(), "postgresql": server}
    errors = (window.outcome.first_error for window in bench.windows)
    return Report(
        date=datetime.now(UTC),
        commit=commit(),
        quick=bench.quick,
        client="wrk" if bench.with_wrk else "our own client",
        scale=bench.scale,
        machine=where,
        versions=versions | {name: version(name) for name in PACKAGES},
        figures=[*figures],
        windows=bench.windows,
        first_error=next(filter(None, errors), ""),
    )
