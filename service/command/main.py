"""The command `viewing-time`."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from socket import socket
from typing import Final
from uuid import UUID

import click

from service.app import utc_now
from service.command import (
    check,
    check_database,
    data,
    demo,
    events,
    imports,
    local_data,
    migrate,
    partition,
)
from service.command.dotenv import dotenv
from service.database import cures
from service.database_errors import DatabaseError
from service.listeners import PortTaken, bound
from service.observing import open_files
from service.observing.logs import logging_to_stdout
from service.server import BackgroundTaskDied, serve
from service.settings import Settings, SettingsError, read, setting

ADDRESSES: Final = ("database_direct_url", "database_url")
SYSTEMS: Final = "viewing-time runs on Linux, and on macOS where DATABASE_URL is set"


@click.group()
@click.pass_context
def main(context: click.Context) -> None:
    """Counts how long children watch, and enforces the limits that their parents set."""
    if sys.platform in ("win32", "cygwin"):
        raise click.ClickException(f"{SYSTEMS}; not on Windows.")
    open_files.raise_limit()
    context.obj = lambda: _settings(_environment())


for command in (*data.COMMANDS, imports.import_command, events.events_command):
    main.add_command(command)


@main.command("serve")
@click.option("--migrate", "migrates", is_flag=True, help="Apply the migrations first.")
def serve_command(migrates: bool) -> None:
    """Serve on HOST:PORT with the database at DATABASE_URL."""
    settings = _settings(_environment())
    with logging_to_stdout(settings.log_level):
        if migrates:
            _check_ports(settings)
            migrate.apply(*_address(settings.database_direct_url, settings.database_url))
        _serve(settings, lambda: None)


@main.command("run")
def run_command() -> None:
    """Serve for development: embedded PostgreSQL, migrations, demo family, curl lines.

    If DATABASE_URL is set, that database is migrated and served, without a demo family.
    """
    environment = _environment()
    is_ours = not _setting("database_url", environment)
    if is_ours and sys.platform != "linux":
        raise click.ClickException(f"{SYSTEMS}: the embedded PostgreSQL runs on Linux only.")
    local_data.make_private_folder()
    if not _setting("jwt_secret", environment):
        environment["JWT_SECRET"] = local_data.created_secret()
    if is_ours:
        local_data.point_at("postgresql:///", environment)  # until the database has an address
    _check_ports(_settings(environment))
    with local_data.database(environment) if is_ours else contextlib.nullcontext():
        settings = _settings(environment)
        with logging_to_stdout(settings.log_level):
            migrate.apply(*_address(settings.database_direct_url, settings.database_url))
            is_demo = is_ours and demo.load(settings)
            _serve(settings, lambda: _announce(settings, is_demo))


@main.command("migrate")
@click.option("--list", "lists", is_flag=True, help="List the migrations, applied or pending.")
@click.option("--rollback", is_flag=True, help="Roll back the latest migration.")
@click.option(
    "--to", "target", metavar="NAME", help="With --rollback: roll back NAME and all later ones."
)
@click.option("--yes", is_flag=True, help="Skip the confirmation of a harmful rollback.")
def migrate_command(lists: bool, rollback: bool, target: str | None, yes: bool) -> None:
    """Migrate the database at DATABASE_DIRECT_URL, else at DATABASE_URL, to this version."""
    if target is not None and not rollback:
        raise click.UsageError("--to needs --rollback.")
    if lists and rollback:
        raise click.UsageError("--list and --rollback exclude each other.")
    environment = _environment()
    address = _address(*(_setting(name, environment) for name in ADDRESSES))
    if not address[0]:
        raise click.ClickException("DATABASE_URL must be set.")
    if lists:
        migrate.show(*address)
    elif rollback:
        migrate.roll_back(*address, target, yes=yes)
    elif not migrate.apply(*address):
        click.echo("Nothing to apply: the database has the schema of this version.")


@main.command("partition")
@click.option("--dry-run", is_flag=True, help="Only report whether it can be done.")
def partition_command(dry_run: bool) -> None:
    """Partition the table of balances by month, while services run.

    New databases have partitions from the start; retention drops them. For a partitioned table, the
    command creates missing months. It can be interrupted at any time and run again.
    """
    environment = _environment()
    address = _address(*(_setting(name, environment) for name in ADDRESSES))
    if not address[0]:
        raise click.ClickException("DATABASE_URL must be set.")
    with logging_to_stdout("WARNING"):
        partition.run(*address, is_dry_run=dry_run)


@main.command("check")
@click.option(
    "--instances",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="How many instances share the database.",
)
def check_command(instances: int) -> None:
    """Report what would stop the service from working here, with remedies; exit 1 on a FAULT."""
    levels = []
    for finding in check.findings(_environment(), instances, utc_now):
        click.echo(finding)
        levels.append(finding.level)
    if "FAULT" in levels:
        raise click.exceptions.Exit(1)


@main.command("token")
@click.argument("account", type=click.UUID)
@click.option("--development", is_flag=True, help="Confirm that the token is for development.")
@click.option(
    "--minutes",
    default=60,
    show_default=True,
    type=click.IntRange(1, 525_600),
    help="Until the token expires.",
)
def token_command(account: UUID, development: bool, minutes: int) -> None:
    """Print an access token for ACCOUNT, signed with JWT_SECRET; for development only."""
    if not development:
        raise click.ClickException("The platform issues tokens; --development makes one here.")
    environment = _environment()
    secret = _setting("jwt_secret", environment) or local_data.kept_secret()
    issuer, audience = (_setting(name, environment) for name in ("jwt_issuer", "jwt_audience"))
    click.echo(demo.token(secret, account, timedelta(minutes=minutes), issuer, audience))


def _environment() -> dict[str, str]:
    """The environment; `.env` in the working directory adds variables that are not set."""
    try:
        return {**dotenv(Path(".env")), **os.environ}
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _settings(environment: dict[str, str]) -> Settings:
    try:
        return read(environment)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _setting(name: str, environment: dict[str, str]) -> str:
    """One setting, without reading the others; empty if it is absent."""
    try:
        return str(setting(name, environment) or "")
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _address(direct: str, pooled: str) -> tuple[str, str]:
    """The address of the database to migrate, and the setting that contains it."""
    return (direct, "DATABASE_DIRECT_URL") if direct else (pooled, "DATABASE_URL")


def _serve(settings: Settings, ready: Callable[[], None]) -> None:
    with _listening(settings) as (listener, scrape_listener):
        _check_database(settings)
        try:
            has_started = serve(settings, listener, scrape_listener, ready)
        except BackgroundTaskDied as error:
            raise click.ClickException(str(error)) from error
        if not has_started:
            raise click.ClickException("The service could not start; the log says why.")


def _check_ports(settings: Settings) -> None:
    """Raises ClickException if a port is taken, before anything is started or migrated."""
    with _listening(settings):
        pass  # closed again: clients that connect during migrations would wait for a response


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[tuple[socket, socket | None]]:
    """The sockets to serve on, and to serve metrics on if METRICS_PORT is set."""
    with contextlib.ExitStack() as opened:
        try:
            listener = opened.enter_context(bound(settings.host, settings.port))
            scrape_listener = None
            if port := settings.metrics_port:
                metrics = bound(settings.metrics_host, port, "METRICS_PORT")
                scrape_listener = opened.enter_context(metrics)
        except PortTaken as error:
            raise click.ClickException(str(error)) from error
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


def _announce(settings: Settings, is_demo: bool) -> None:
    click.echo(f"\nServing on {settings.origin} (Ctrl-C stops).")
    if is_demo:
        click.echo(f"\n{demo.curls(settings)}\n")
