"""Serving with checks before it: the ports are free, and the database can be used."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from socket import socket

import click

from service import server
from service.command import check_database
from service.database import cures
from service.database_errors import DatabaseError
from service.listeners import PassedWrong, PortTaken, opened
from service.settings import Settings


def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Serves until a signal; raises ClickException if the service cannot start or has to stop."""
    with _listening(settings) as (listener, scrape_listener):
        _check_database(settings)
        try:
            has_started = server.serve(settings, listener, scrape_listener, ready)
        except server.BackgroundTaskDied as error:
            raise click.ClickException(str(error)) from error
        if not has_started:
            raise click.ClickException("The service could not start; the log says why.")


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
    """Raises ClickException with one sentence if the database cannot be used."""
    try:
        reason = asyncio.run(check_database.startup_error(settings))
    except DatabaseError as error:
        raise click.ClickException(
            f"Cannot use the database at DATABASE_URL: {cures.sentence(error)}."
        ) from error
    if reason:
        raise click.ClickException(f"Cannot use the database at DATABASE_URL: {reason}.")
