"""Measures this commit beside another one: `python -m bench against COMMIT`.

Both services run on one database and are loaded in turn; the one that is loaded first alternates.
A figure is the median of the ratios of the rounds, so that a drift of the machine affects both.
"""

import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Final

import click

from bench.figure import Figure, Target
from bench.harness import Bench, Scale, Window
from bench.peer import ROOT, Peer, Program
from bench.report import git
from bench.seed import fresh_day

SCALE: Final = Scale(profiles=20_000, days=30, sessions=2, viewers=2_000, window=6, rounds=6)
CLOSED: Final = (64, 1000)  # in flight
OPEN: Final = 0
RATE: Final = 1000.0  # heartbeats a second in the open loop
CONNECTIONS: Final = 200
MAX_RATIO: Final = Target(1.03)
READINGS: Final[tuple[tuple[str, Callable[[Window], float], Target | None], ...]] = (
    ("service CPU", lambda window: window.server_us, None),
    ("PostgreSQL CPU", lambda window: window.postgres_us, None),
    ("CPU of both", lambda window: window.cpu_us, MAX_RATIO),
)


def question(commit: str) -> Callable[[Bench], Awaitable[list[Figure]]]:
    """The question that compares with `commit`."""

    async def measure(bench: Bench) -> list[Figure]:
        async with beside(bench, commit) as (base, ours):
            scale = bench.scale
            pairs = await rounds(bench, (base, ours), (*CLOSED, OPEN), scale.rounds, scale.window)
        return [figure for load, windows in pairs.items() for figure in _figures(load, windows)]

    return measure


def is_present(commit: str) -> bool:
    """Whether the repository has this commit; a shallow clone may lack it."""
    return bool(git("rev-parse", "--quiet", "--verify", f"{commit}^{{commit}}"))


@asynccontextmanager
async def beside(bench: Bench, commit: str) -> AsyncIterator[tuple[Peer, Peer]]:
    """The services of another commit and of this one, on one database."""
    async with (
        _program(bench, commit) as program,
        bench.service(commit, program=program) as base,
        bench.service() as ours,
    ):
        yield base, ours


@asynccontextmanager
async def _program(bench: Bench, commit: str) -> AsyncIterator[Program]:
    """The service of `commit` in a git worktree; it gets a venv if its dependencies differ."""
    root = bench.folder / "base"
    _run("git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(root), commit)
    try:
        python = sys.executable
        if _dependencies(root) != _dependencies(ROOT):
            bench.progress("installing the dependencies of the other commit")
            _run(python, "-m", "venv", str(root / ".venv"))
            python = str(root / ".venv" / "bin" / "python")
            _run(python, "-m", "pip", "install", "--quiet", "--editable", str(root))
        yield Program(root=root, python=python)
    finally:
        _run("git", "-C", str(ROOT), "worktree", "remove", "--force", str(root))


def _dependencies(root: Path) -> list[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return sorted(project["dependencies"])


def _run(*command: str) -> None:
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise click.ClickException(f"{' '.join(command)}: {finished.stderr.strip()}")


async def rounds(
    bench: Bench, peers: tuple[Peer, Peer], loads: Sequence[int], number: int, seconds: float
) -> dict[str, list[tuple[Window, Window]]]:
    """Pairs of windows of `seconds`, in the order of `peers`, by the name of the load.

    A load is the number of heartbeats in flight, or OPEN.
    """
    pairs: dict[str, list[tuple[Window, Window]]] = {}
    for done in range(number):
        for load in loads:
            name = f"{load:,} in flight" if load else f"open loop, {RATE:,.0f}/s"
            bench.progress(f"{name}, round {done + 1} of {number}")
            await fresh_day(bench.connection)
            order = peers[::-1] if done % 2 else peers
            windows = {peer.pid: await _window(bench, peer, load, seconds) for peer in order}
            base, ours = (windows[peer.pid] for peer in peers)
            pairs.setdefault(name, []).append((base, ours))
    return pairs


async def _window(bench: Bench, peer: Peer, load: int, seconds: float) -> Window:
    await bench.warm(peer)
    if load:
        return await bench.closed_loop(peer, load, seconds)
    return await bench.open_loop(peer, bench.viewers, CONNECTIONS, RATE, seconds)


def _figures(load: str, pairs: list[tuple[Window, Window]]) -> list[Figure]:
    ratios = [
        Figure(
            f"{load}: {name}, to the other commit's",
            median(reading(ours) / reading(base) for base, ours in pairs),
            "x",
            target,
        )
        for name, reading, target in READINGS
    ]
    costs = [
        Figure(f"{load}: CPU of both, {which}", median(pair[n].cpu_us for pair in pairs), "µs")
        for n, which in enumerate(("the other commit", "this commit"))
    ]
    return ratios + costs
