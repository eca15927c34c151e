"""The command: `python -m bench [--quick] [QUESTION …]`, or `python -m bench against COMMIT`."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import click

from bench import (
    against,
    arrivals,
    batching,
    cache,
    cells,
    curve,
    events,
    failover,
    growth,
    heartbeat,
    instances,
    keys,
    languages,
    observing,
    pin,
    policy,
    reads,
    reconnect,
    servers,
    spread,
    statements,
    streams,
    verdict,
    workers,
    wrk,
)
from bench.figure import Figure, table
from bench.harness import FULL, QUICK, Bench, Scale, open_bench
from bench.report import RESULTS, Report, committed, machine, report
from bench.seed import fresh_day
from service.observing import open_files

MIN_FILES: Final = 1_200  # a thousand connections, and the other files of client and service
MISSED: Final = 1  # exit code
REFUSED: Final = 3  # exit code

Question = Callable[[Bench], Awaitable[list[Figure]]]

QUESTIONS: Final[Mapping[str, Question]] = {
    "statements": statements.measure,
    "heartbeat": heartbeat.measure,
    "keys": keys.measure,
    "arrivals": arrivals.measure,
    "curve": curve.measure,
    "languages": languages.measure,
    "reconnect": reconnect.measure,
    "cache": cache.measure,
    "pin": pin.measure,
    "reads": reads.measure,
    "observing": observing.measure,
    "policy": policy.measure,
}
# A quick run skips these, because they need time to be reliable.
SLOW: Final = ("curve", "cache", "languages", "pin", "reads", "policy")
ONLY_BY_NAME: Final[Mapping[str, Question]] = {
    "batching": batching.measure,
    "cells": cells.measure,
    "events": events.measure,
    "failover": failover.measure,
    "growth": growth.measure,
    "instances": instances.measure,
    "servers": servers.measure,
    "spread": spread.measure,
    "streams": streams.measure,
    "workers": workers.measure,
    "pin_ways": pin.measure_ways,
}
ALL: Final = {**QUESTIONS, **ONLY_BY_NAME}
AGAINST: Final = "against"


@click.command()
@click.argument("questions", nargs=-1)
@click.option("--quick", is_flag=True, help="About a minute in all; less reliable.")
@click.option("--own-client", is_flag=True, help="Do not use wrk, even if it is installed.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Where to write.")
def main(questions: tuple[str, ...], quick: bool, own_client: bool, out: Path) -> None:
    """Measure the service on a PostgreSQL of its own, print a table, write JSON and a chart.

    QUESTIONS are names of questions, or `against COMMIT` to compare with another commit. The exit
    code is 1 if a target is missed, and 3, with nothing written, if there were error answers.
    """
    kind, scale, selected = plan(questions, quick)
    if (files := open_files.raise_limit()) < MIN_FILES:
        raise click.ClickException(
            f"{files:,} files may be open (`ulimit -Hn`), not {MIN_FILES:,}."
        )
    with_wrk = wrk.installed() and not own_client
    try:
        result, errors = asyncio.run(run_all(kind, scale, selected, with_wrk))
    except asyncio.CancelledError:
        raise SystemExit(143) from None  # SIGTERM; everything started here has been stopped
    click.echo(f"\n{result.heading()}\n\n{table(result.figures)}")
    if errors:
        _list("refused, and nothing written, because of error answers", errors)
        raise SystemExit(REFUSED)
    reference = committed(kind, result.client, result.date)
    for path in result.write(out):
        click.echo(f"written: {path}", err=True)
    if reference:
        worse = verdict.regressions(result.figures, reference)
        _list(f"worse than the committed run of {reference.date:%Y-%m-%d %H:%M}", worse)
    elif AGAINST not in questions:
        click.echo(f"no committed {kind} run with {result.client} to compare with", err=True)
    if missed := verdict.missed(result.figures):
        _list("targets missed", missed)
        raise SystemExit(MISSED)


def plan(questions: tuple[str, ...], quick: bool) -> tuple[str, Scale, dict[str, Question]]:
    """The kind of the run, its scale and its questions."""
    if AGAINST in questions:
        if len(questions) != 2 or questions[0] != AGAINST or quick:
            raise click.UsageError("`against` takes one commit, and no other question or option.")
        commit = questions[1]
        return f"{AGAINST} {commit}", against.SCALE, {AGAINST: against.question(commit)}
    if unknown := set(questions) - set(ALL):
        raise click.UsageError(f"{', '.join(sorted(unknown))}: the questions are {', '.join(ALL)}.")
    names = questions or [name for name in QUESTIONS if not (quick and name in SLOW)]
    selected = {name: ALL[name] for name in names}
    return ("quick", QUICK, selected) if quick else ("full", FULL, selected)


async def run_all(
    kind: str, scale: Scale, questions: Mapping[str, Question], with_wrk: bool
) -> tuple[Report, list[str]]:
    """The report, and a sentence for each window with errors."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    host = machine()
    figures: list[Figure] = []
    async with open_bench(scale, with_wrk) as bench:
        for name, measure in questions.items():
            bench.question = name
            await fresh_day(bench.connection)
            figures += await measure(bench)
        errors = verdict.errors(bench.windows, bench.unaccounted)
        return await report(bench, host, kind, figures), errors


def _list(title: str, sentences: list[str]) -> None:
    if sentences:
        click.echo("\n".join([f"\n{title}:", *(f"  {each}" for each in sentences)]), err=True)


if __name__ == "__main__":
    main()
