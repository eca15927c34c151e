"""The command `viewing-time`."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from socket import socket
from typing import Final
from uuid import UUID

import click

from service import settings
from service.app import utc_now
from service.command import check, data, demo, imports, local_data, migrate
from service.command.dotenv import dotenv
from service.database import cures, in_force, schema, tables
from service.database.pool import connect
from service.errors import DatabaseError
from service.observing import open_files
from service.observing.logs import logging_to_stdout
from service.server import BackgroundTaskDied, PortTaken, bound, serve
from service.settings import Settings, SettingsError

logger = logging.getLogger("viewing_time.cli")

ADDRESSES: Final = ("database_direct_url", "database_url")
SYSTEMS: Final = "viewing-time runs on Linux, and on macOS where DATABASE_URL is set"


@click.group()
@click.pass_context
def main(context: click.Context) -> None:
    """Counts how long children watch and enforces what their parents allow."""
    if sys.platform in ("win32", "cygwin"):
        raise click.ClickException(f"{SYSTEMS}; not on Windows.")
    open_files.raise_limit()
    context.obj = lambda: _settings(_environment())


for command in (
    data.retain_command,
    data.erase_command,
    data.export_command,
    data.delete_command,
):
    main.add_command(command)
main.add_command(imports.import_command)


@main.command("serve")
@click.option("--migrate", "migrates", is_flag=True, help="Apply the migrations first.")
def serve_command(migrates: bool) -> None:
    """Serve on HOST:PORT with the database at DATABASE_URL."""
    chosen = _settings(_environment())
    with logging_to_stdout(chosen.log_level):
        if migrates:
            _look_at_ports(chosen)
            migrate.apply(*_address(chosen.database_direct_url, chosen.database_url))
        _serve(chosen, lambda: None)


@main.command("run")
def run_command() -> None:
    """Serve for development: embedded PostgreSQL, migrations, demo family, curl lines.

    Where DATABASE_URL is set, its database is migrated and served, and no demo family is loaded.
    """
    environment = _environment()
    is_ours = not _setting("database_url", environment)
    if is_ours and sys.platform != "linux":
        raise click.ClickException(f"{SYSTEMS}: the embedded PostgreSQL runs on Linux only.")
    local_data.make_private_folder()
    if not _setting("jwt_secret", environment):
        environment["JWT_SECRET"] = local_data.made_secret()
    if is_ours:
        local_data.point_at("postgresql:///", environment)  # until the database has an address
    _look_at_ports(_settings(environment))
    with local_data.database(environment) if is_ours else contextlib.nullcontext():
        chosen = _settings(environment)
        with logging_to_stdout(chosen.log_level):
            migrate.apply(*_address(chosen.database_direct_url, chosen.database_url))
            is_demo = is_ours and demo.load(chosen)
            _serve(chosen, lambda: _announce(chosen, is_demo))


@main.command("migrate")
@click.option("--list", "lists", is_flag=True, help="Only show which are applied.")
@click.option("--rollback", is_flag=True, help="Take back the latest one.")
@click.option("--to", "target", metavar="NAME", help="With --rollback: down to and with NAME.")
@click.option("--yes", is_flag=True, help="Do not ask before a rollback that does harm.")
def migrate_command(lists: bool, rollback: bool, target: str | None, yes: bool) -> None:
    """Bring the database at DATABASE_DIRECT_URL or DATABASE_URL to the schema of this version."""
    if target is not None and not rollback:
        raise click.UsageError("--to goes with --rollback.")
    if lists and rollback:
        raise click.UsageError("--list and --rollback exclude each other.")
    environment = _environment()
    address = _address(*(_setting(name, environment) for name in ADDRESSES))
    if not address[0]:
        raise click.ClickException("DATABASE_URL must be set.")
    if lists:
        migrate.show(*address)
    elif rollback:
        migrate.take_back(*address, target, yes=yes)
    elif not migrate.apply(*address):
        click.echo("Nothing to apply: the database is at the schema of this version.")


@main.command("check")
@click.option("--instances", default=1, show_default=True, type=click.IntRange(1, 1000))
def check_command(instances: int) -> None:
    """Say what would keep so many instances from serving, and what to do; exit 1 on a fault."""
    levels = []
    for finding in check.findings(_environment(), instances, utc_now):
        click.echo(finding)
        levels.append(finding.level)
    if "FAULT" in levels:
        raise click.exceptions.Exit(1)


@main.command("token")
@click.argument("account", type=click.UUID)
@click.option("--development", is_flag=True, help="Say that you mean it.")
@click.option("--minutes", default=60, show_default=True, type=click.IntRange(1, 525_600))
def token_command(account: UUID, development: bool, minutes: int) -> None:
    """Print an access token for ACCOUNT, signed with JWT_SECRET; for development only."""
    if not development:
        raise click.ClickException("Tokens are the platform's to issue; pass --development.")
    environment = _environment()
    secret = _setting("jwt_secret", environment) or local_data.kept_secret()
    issuer, audience = (_setting(name, environment) for name in ("jwt_issuer", "jwt_audience"))
    click.echo(demo.token(secret, account, timedelta(minutes=minutes), issuer, audience))


def _environment() -> dict[str, str]:
    """The environment, with `.env` in the working directory behind it."""
    try:
        return {**dotenv(Path(".env")), **os.environ}
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _settings(environment: dict[str, str]) -> Settings:
    try:
        return settings.read(environment)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _setting(name: str, environment: dict[str, str]) -> str:
    """One setting on its own; empty where it is absent."""
    try:
        return str(settings.setting(name, environment) or "")
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _address(direct: str, pooled: str) -> tuple[str, str]:
    """The address to migrate at, and the variable that gives it."""
    return (direct, "DATABASE_DIRECT_URL") if direct else (pooled, "DATABASE_URL")


def _serve(chosen: Settings, ready: Callable[[], None]) -> None:
    with _listening(chosen) as (listener, scrape_listener):
        _reach(chosen)
        try:
            has_started = serve(chosen, listener, scrape_listener, ready)
        except BackgroundTaskDied as error:
            raise click.ClickException(str(error)) from error
        if not has_started:
            raise click.ClickException("The service could not start; the log says why.")


def _look_at_ports(chosen: Settings) -> None:
    """Raises ClickException where a port is taken, before anything is started or migrated.

    A port that was bound while migrations run would keep clients waiting, so it is given back.
    """
    with _listening(chosen):
        pass


@contextlib.contextmanager
def _listening(chosen: Settings) -> Iterator[tuple[socket, socket | None]]:
    """The sockets to serve on, and to serve metrics on where METRICS_PORT is set."""
    with contextlib.ExitStack() as opened:
        try:
            listener = opened.enter_context(bound(chosen.host, chosen.port))
            scrape_listener = None
            if port := chosen.metrics_port:
                metrics = bound(chosen.metrics_host, port, "METRICS_PORT")
                scrape_listener = opened.enter_context(metrics)
        except PortTaken as error:
            raise click.ClickException(str(error)) from error
        yield listener, scrape_listener


def _reach(chosen: Settings) -> None:
    """Says in one sentence what is wrong with the database, before the server would in many."""
    try:
        reason = asyncio.run(_fault(chosen))
    except DatabaseError as error:
        raise click.ClickException(
            f"Cannot use the database at DATABASE_URL: {cures.sentence(error)}."
        ) from error
    if reason:
        raise click.ClickException(f"Cannot use the database at DATABASE_URL: {reason}.")


async def _fault(chosen: Settings) -> str:
    """What keeps the service from serving, and the remedy; empty where nothing does."""
    connection = await connect(chosen)
    try:
        if refused := _refused("database_setting", await in_force.problems(connection, chosen)):
            return refused
        state = await schema.state(connection)
        if state.error:
            return f"{state.error}: {state.remedy}"
        return _refused("database_table", await tables.problems(connection))
    finally:
        connection.terminate()


def _refused(event: str, found: list[cures.Problem]) -> str:
    """The first that keeps the service from starting; before it, each other is logged."""
    for wrong in found:
        if wrong.level == "refuse":
            return f"{wrong.what}: {wrong.remedy}"
        fields = {"what": wrong.what, "remedy": wrong.remedy}
        logger.warning(event, extra={"fields": fields})
    return ""


def _announce(chosen: Settings, is_demo: bool) -> None:
    click.echo(f"\nServing on {chosen.origin} (Ctrl-C stops).")
    if is_demo:
        click.echo(f"\n{demo.curls(chosen)}\n")
