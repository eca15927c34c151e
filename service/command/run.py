"""`viewing-time run`: the service with an embedded PostgreSQL and a demo family."""

import contextlib
import sys
from functools import partial

import click

from service.command import demo, environment, local_data, migrate, serving
from service.demo import page
from service.observing.logs import logging_to_stdout
from service.settings import Settings


@click.command("run")
def run_command() -> None:
    """Serve for development: embedded PostgreSQL, migrations, demo family, curl lines.

    If DATABASE_URL is set, that database is migrated and served, without a demo family.
    """
    variables = environment.variables()
    is_ours = not environment.setting("database_url", variables)
    if is_ours and sys.platform != "linux":
        raise click.ClickException(
            f"{environment.SYSTEMS}: the embedded PostgreSQL runs on Linux only."
        )
    local_data.make_private_folder()
    if not environment.setting("jwt_secret", variables):
        variables["JWT_SECRET"] = local_data.created_secret()
    if is_ours:
        local_data.point_at("postgresql:///", variables)  # until the database has an address
    serving.check_ports(environment.all_settings(variables))
    with local_data.database(variables) if is_ours else contextlib.nullcontext():
        settings = environment.all_settings(variables)
        with logging_to_stdout(settings.log_level):
            migrate.apply(*environment.address(settings.database_direct_url, settings.database_url))
            is_demo = is_ours and demo.load(settings)
            routes = page.routes(partial(demo.family, settings)) if is_demo else ()
            serving.serve(settings, lambda: _announce(settings, is_demo), routes)


def _announce(settings: Settings, is_demo: bool) -> None:
    click.echo(f"\nServing on {settings.origin} (Ctrl-C stops).")
    if is_demo:
        click.echo(f"\n{demo.curls(settings)}\n")
