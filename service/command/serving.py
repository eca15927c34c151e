"""Serving with checks before it: the ports are free, and the database can be used."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from socket import socket

import click
from starlette.routing import Route

from service import server, worker, workers
from service.command import check_database, environment
from service.command.cell_connections import connected_cells
from service.database import cures
from service.database_errors import DatabaseError, WrongTables
from service.listeners import PassedWrong, PortTaken, opened, sharing
from service.observing.logs import logging_to_stdout
from service.setting_values import READERS
from service.settings import Settings
from service.worker_process import WorkersFailed


def serve(settings: Settings, ready: Callable[[], None], routes: Sequence[Route] = ()) -> None:
    """Serves until a signal; raises ClickException if the service cannot start or has to stop."""
    with _listening(settings) as (listener, scrape_listener):
        _check_database(settings)
        try:
            has_started = server.serve(
                settings, sharing(listener), scrape_listener, lambda _: ready(), routes=routes
            )
        except server.BackgroundTaskDied as error:
            raise click.ClickException(str(error)) from error
        if not has_started:
            raise click.ClickException("The service could not start; the log says why.")


def serve_with_workers(
    settings: Settings, variables: dict[str, str], ready: Callable[[], None]
) -> None:
    """Serves with WEB_CONCURRENCY processes, likewise; `variables` are theirs."""
    with _listening(settings) as listeners:
        _check_database(settings)
        try:
            asyncio.run(workers.Workers(settings, *listeners, variables, ready).run())
        except WorkersFailed as error:
            raise click.ClickException(str(error)) from error


@click.command("worker", hidden=True)
@click.argument("own")
@click.argument("others")
@click.argument("links")
def worker_command(own: str, others: str, links: str) -> None:
    """Serve as one of several processes; each argument has numbers of inherited files."""
    try:
        settings = environment.all_settings(environment.variables())
    except click.ClickException as error:
        error.show()
        raise click.exceptions.Exit(worker.COULD_NOT_START) from error
    control, hashing = _inherited(links)
    with logging_to_stdout(settings.log_level):
        try:
            has_started = worker.serve(
                settings, _inherited(own), _inherited(others), control, hashing
            )
        except server.BackgroundTaskDied as error:
            raise click.ClickException(str(error)) from error
        if not has_started:
            raise click.exceptions.Exit(worker.COULD_NOT_START)


def _inherited(files: str) -> list[socket]:
    return [socket(fileno=int(file)) for file in files.split(",")]


def valid_workers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """The value of `--workers`, if it can be the setting WEB_CONCURRENCY."""
    if value is not None:
        try:
            READERS["web_concurrency"](value)
        except ValueError as error:
            raise click.BadParameter(f"{error}, not {value[:80]!r}.") from error
    return value


def check_ports(settings: Settings) -> None:
    """Raises ClickException if a port is taken, before anything is started or migrated."""
    with _listening(settings):
        pass  # closed again: clients that connect during migrations would wait for a response


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[tuple[socket, socket | None]]:
    """The sockets to serve on, and to serve metrics on if METRICS_PORT is set."""
    addresses = (settings.host, settings.port), (settings.metrics_host, settings.metrics_port)
    try:
        listener, scrape_listener = opened(*addresses, os.environ)
    except (PassedWrong, PortTaken) as error:
        raise click.ClickException(str(error)) from error
    with listener, scrape_listener or contextlib.nullcontext():
        yield listener, scrape_listener


def _check_database(settings: Settings) -> None:
    """Raises ClickException with one sentence if the database cannot be used.

    Of several cells, one can be down: it serves as soon as it is up.
    """
    down = []
    every = environment.cells(settings)
    for cell in every:
        place = f"of cell {cell.cell}" if cell.cell else "at DATABASE_URL"
        try:
            reason = asyncio.run(check_database.startup_error(cell))
        except WrongTables as error:
            reason = str(error)
        except DatabaseError as error:
            reason = cures.sentence(error)
            down.append(reason)
            if len(down) < len(every):
                continue
        if reason:
            raise click.ClickException(f"Cannot use the database {place}: {reason}.")
    if every[0].cell:
        try:
            asyncio.run(_check_map(every))
        except WrongTables as error:
            raise click.ClickException(f"Cannot use the cells: {error}.") from error


async def _check_map(cells: Sequence[Settings]) -> None:
    """Raises WrongTables if the cells that answer have the map of other cells, or none."""
    async with connected_cells(cells, cells[0].request_timeout_seconds) as found:
        if found.connections:
            found.directory.check(found.settings)
