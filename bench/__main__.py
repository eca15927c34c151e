"""The command: `python -m bench [--quick] [QUESTION …]`; `make bench ARGS=…` is the same."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import click
import msgspec

from bench import (
    arrivals,
    batching,
    chart,
    cold,
    heartbeat,
    keys,
    observing,
    pin,
    reads,
    statements,
    wrk,
)
from bench.figure import Figure, Target, table
from bench.harness import Bench, opened
from bench.report import RESULTS, Report, machine, report
from bench.seed import fresh_day
from service.observing import open_files

MIN_FILES: Final = 1_200  # a thousand connections, and what else client and service have open

Question = Callable[[Bench], Awaitable[list[Figure]]]

QUESTIONS: Final[Mapping[str, Question]] = {
    "statements": statements.measure,
    "heartbeat": heartbeat.measure,
    "keys": keys.measure,
    "arrivals": arrivals.measure,
    "cold": cold.measure,
    "pin": pin.measure,
    "reads": reads.measure,
    "observing": observing.measure,
}
# They need time to say anything: a quick run asks them only by name.
SLOW: Final = ("pin", "reads")
ONLY_WHEN_NAMED: Final[Mapping[str, Question]] = {"batching": batching.measure}
ALL: Final = {**QUESTIONS, **ONLY_WHEN_NAMED}


@click.command()
@click.argument("questions", nargs=-1, type=click.Choice([*ALL]))
@click.option("--quick", is_flag=True, help="Less than a minute in all; less to rely on.")
@click.option("--own-client", is_flag=True, help="Do not use wrk, though it is installed.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Where to write.")
def main(questions: tuple[str, ...], quick: bool, own_client: bool, out: Path) -> None:
    """Measure the service on a PostgreSQL of its own, print one table, write JSON and a chart."""
    if (files := open_files.raise_limit()) < MIN_FILES:
        raise click.ClickException(
            f"{files:,} files may be open (`ulimit -Hn`), not {MIN_FILES:,}."
        )
    with_wrk = wrk.installed() and not own_client
    try:
        result = asyncio.run(_run(questions or _usual(quick), quick, with_wrk))
    except asyncio.CancelledError:
        raise SystemExit(143) from None  # by SIGTERM; what was started has been stopped
    click.echo(f"\n{result.heading()}\n\n{table(result.figures)}")
    for path in _write(result, out):
        click.echo(f"written: {path}", err=True)
    if result.first_error:
        click.echo(f"an answer that was an error:\n{result.first_error}", err=True)


def _usual(quick: bool) -> tuple[str, ...]:
    return tuple(name for name in QUESTIONS if not (quick and name in SLOW))


async def _run(questions: tuple[str, ...], quick: bool, with_wrk: bool) -> Report:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    where = machine()
    figures: list[Figure] = []
    async with opened(quick, with_wrk) as bench:
        for name in questions:
            bench.question = name
            await fresh_day(bench.connection)
            figures += await ALL[name](bench)
        figures += _faults(bench)
        return await report(bench, where, figures)


def _faults(bench: Bench) -> list[Figure]:
    """What must not happen in any window; these are counts."""
    errors = sum(window.outcome.errors for window in bench.windows)
    return [
        Figure("answers that were errors or failed closed", errors, "", Target(0)),
        Figure("heartbeats answered and not in the tables", bench.unaccounted, "", Target(0)),
    ]


def _write(result: Report, folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{result.date:%Y%m%d-%H%M%S}{'-quick' if result.quick else ''}"
    data, picture = folder / f"{name}.json", folder / f"{name}.svg"
    data.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    picture.write_text(chart.chart(result.heading(), result.figures), encoding="utf-8")
    return data, picture


if __name__ == "__main__":
    main()
