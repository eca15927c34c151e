"""`viewing-time run`: the service with an embedded PostgreSQL and a demo family."""

import contextlib
import logging
import sys
from functools import partial
from typing import Final

import click

from service.command import demo, environment, local_data, migrate, serving
from service.demo import PATH, page
from service.observing.logs import logging_to_stdout
from service.operators import start
from service.settings import FIELDS, Settings, masked

# Their lines about the start repeat what is printed here.
REPEATING: Final = ("uvicorn.error", "viewing_time.app", "service.database.migrate")
PAGES: Final = (PATH, "/docs", "/admin/live")


@click.command("run")
def run_command() -> None:
    """Serve for development: embedded PostgreSQL, migrations, demo family, curl lines.

    If DATABASE_URL is set, that database is migrated and served, without a demo family.
    """
    variables = environment.variables()
    if environment.setting("cells_file", variables):
        raise click.ClickException("`run` serves one cell: unset CELLS_FILE, or use `serve`.")
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
            _silence_repetitions(settings)
            migrate.apply((settings,), is_brief=is_ours)
            is_demo = is_ours and demo.load(settings)
            routes = page.routes(partial(demo.family, settings)) if is_demo else ()
            click.echo("Starting the service.")
            serving.serve(settings, lambda: _announce(settings, is_ours, is_demo), routes)


def _silence_repetitions(settings: Settings) -> None:
    if settings.log_level == FIELDS["log_level"].default:
        for name in REPEATING:
            logging.getLogger(name).setLevel(logging.WARNING)


def _announce(settings: Settings, is_ours: bool, is_demo: bool) -> None:
    click.echo(f"\nServing on {settings.origin} (Ctrl-C stops).")
    click.echo("\nSettings that are not at their defaults; docs/settings.md explains all:")
    for name, value in _changed(settings, is_ours).items():
        click.echo(f"  {name.upper()} = {value}")
    if is_demo:
        click.echo(f"\n{demo.curls(settings)}")
    click.echo("\nOpen in a browser:")
    for path in PAGES:
        if is_demo or path != PATH:
            click.echo(f"  {settings.origin + path:<34} {start.PAGES[path]}")
    if is_demo:
        click.echo("The access token is the one in the curl lines, after `Bearer`.")
    click.echo()


def _changed(settings: Settings, is_ours: bool) -> dict[str, object]:
    """The settings that are not at their defaults; secrets are masked."""
    shown = masked(settings)
    if is_ours:
        shown["database_url"] = "the embedded PostgreSQL"
        del shown["database_direct_url"]
    return {
        name: value
        for name, value in shown.items()
        if name in FIELDS and value != FIELDS[name].default
    }
