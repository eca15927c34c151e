"""The command `viewing-time`."""

import sys
from datetime import timedelta
from functools import partial
from uuid import UUID

import click

from service.app import utc_now
from service.command import (
    cells,
    cells_spread,
    check,
    data,
    demo,
    environment,
    events,
    healthcheck,
    imports,
    local_data,
    migrate,
    partition,
    run,
    serving,
)
from service.observing import open_files
from service.observing.logs import logging_to_stdout
from service.service_manager import READY, notify
from service.version import VERSION


@click.group()
@click.version_option(VERSION, message="viewing-time %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Counts how long children watch, and enforces the limits that their parents set."""
    if sys.platform in ("win32", "cygwin"):
        raise click.ClickException(f"{environment.SYSTEMS}; not on Windows.")
    open_files.raise_limit()
    context.obj = lambda: environment.all_settings(environment.variables())


for command in (
    *data.COMMANDS,
    imports.import_command,
    cells.cells_command,
    events.events_command,
    healthcheck.probe,
    run.run_command,
    serving.worker_command,
):
    main.add_command(command)


cells.cells_command.add_command(cells_spread.spread_command)


@main.command("serve")
@click.option("--migrate", "migrates", is_flag=True, help="Apply the migrations first.")
@click.option(
    "--workers",
    metavar="N|auto",
    callback=serving.valid_workers,
    help="How many processes serve; auto: as many as there are cores.  [default: WEB_CONCURRENCY]",
)
def serve_command(migrates: bool, workers: str | None) -> None:
    """Serve on HOST:PORT with the database at DATABASE_URL."""
    variables = environment.variables()
    if workers:
        variables["WEB_CONCURRENCY"] = workers
    settings = environment.all_settings(variables)
    with logging_to_stdout(settings.log_level):
        if migrates:
            serving.check_ports(settings)
            migrate.apply_to_serve(environment.cells(settings))
        ready = partial(notify, READY)
        if settings.web_concurrency == 1:
            serving.serve(settings, ready)
        else:
            serving.serve_with_workers(settings, variables, ready)


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
    cells = environment.cells_to_migrate(environment.variables())
    if lists:
        migrate.show(cells)
    elif rollback:
        migrate.roll_back(cells, target, yes=yes)
    elif not migrate.apply(cells):
        click.echo("Nothing to apply: the database has the schema of this version.")


@main.command("partition")
@click.option("--dry-run", is_flag=True, help="Only report whether it can be done.")
def partition_command(dry_run: bool) -> None:
    """Partition the table of balances by month, while services run.

    New databases have partitions from the start; retention drops them. For a partitioned table, the
    command creates missing months. It can be interrupted at any time and run again.
    """
    cells = environment.cells_to_migrate(environment.variables())
    with logging_to_stdout("WARNING"):
        partition.run(cells, is_dry_run=dry_run)


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
    for finding in check.findings(environment.variables(), instances, utc_now):
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
    variables = environment.variables()
    secret = environment.setting("jwt_secret", variables) or local_data.kept_secret()
    issuer, audience = (
        environment.setting(name, variables) for name in ("jwt_issuer", "jwt_audience")
    )
    click.echo(demo.token(secret, account, timedelta(minutes=minutes), issuer, audience))
