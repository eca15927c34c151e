"""The results of a run as JSON, with the machine, the versions and the scale."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from bench import chart
from bench.figure import Figure
from bench.harness import Bench, Scale, Window

RESULTS: Final = Path(__file__).parent / "results"
PACKAGES: Final = ("starlette", "uvicorn", "uvloop", "httptools", "asyncpg", "msgspec")


class Machine(msgspec.Struct, frozen=True):
    """The machine of the run; `load` is the load average before it, near 0 on an idle machine."""

    processor: str
    cores: int
    memory_gib: float
    kernel: str
    load: float


class Report(msgspec.Struct, frozen=True):
    """One run; `kind` is `full`, `quick` or `against COMMIT`."""

    date: datetime
    commit: str
    kind: str
    client: str
    scale: Scale
    machine: Machine
    versions: dict[str, str]
    figures: list[Figure]
    windows: list[Window]

    def heading(self) -> str:
        """The facts to read before figures are compared."""
        machine = self.machine
        return (
            f"{self.date:%Y-%m-%d %H:%M} UTC, commit {self.commit}, "
            f"{self.kind} run, load from {self.client}\n"
            f"{machine.cores} cores of {machine.processor}, {machine.memory_gib:.0f} GiB, "
            f"Linux {machine.kernel}, load average before {machine.load:.1f}\n"
            f"Python {self.versions['python']}, PostgreSQL {self.versions['postgresql']}; "
            f"{self.scale.profiles:,} profiles with balances of {self.scale.days} days"
        )

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Writes the run as JSON and as a picture; returns both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.date:%Y%m%d-%H%M%S}-{self.kind.replace(' ', '-').replace('/', '-')}"
        data, picture = folder / f"{name}.json", folder / f"{name}.svg"
        data.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        picture.write_text(chart.chart(self.heading(), self.figures), encoding="utf-8")
        return data, picture


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
    return git("describe", "--always", "--dirty=+").strip() or "unknown"


def committed(kind: str, client: str, before: datetime) -> Report | None:
    """The latest committed run of this kind with this client; None if there is none."""
    names = sorted(git("ls-files", "results/*.json").split(), reverse=True)
    texts = ((RESULTS.parent / name).read_bytes() for name in names)
    runs = (msgspec.json.decode(text, type=Report) for text in texts)
    matching = (run for run in runs if (run.kind, run.client) == (kind, client))
    return next((run for run in matching if run.date < before), None)


def git(*arguments: str) -> str:
    """The output of git in this folder; empty without git or a repository."""
    try:
        return subprocess.check_output(
            ["git", *arguments], cwd=RESULTS.parent, stderr=subprocess.DEVNULL, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""


async def report(bench: Bench, host: Machine, kind: str, figures: Sequence[Figure]) -> Report:
    server = await bench.connection.fetchval("show server_version")
    versions = {"python": platform.python_version(), "postgresql": server}
    return Report(
        date=datetime.now(UTC),
        commit=commit(),
        kind=kind,
        client="wrk" if bench.with_wrk else "our own client",
        scale=bench.scale,
        machine=host,
        versions=versions | {name: version(name) for name in PACKAGES},
        figures=[*figures],
        windows=bench.windows,
    )
