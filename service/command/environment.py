"""The settings of a command, from its environment and `.env`; a mistake is one sentence."""

import os
from pathlib import Path
from typing import Final

import click
import msgspec

from service import cells_file, settings
from service.command.dotenv import dotenv

SYSTEMS: Final = "viewing-time runs on Linux, and on macOS where DATABASE_URL is set"
PLACES: Final = (
    *("database_url", "database_direct_url", "database_schema"),
    *("cells_file", "cells_citus_url"),
)


def variables() -> dict[str, str]:
    """The environment; `.env` in the working directory adds variables that are not set."""
    try:
        return {**dotenv(Path(".env")), **os.environ}
    except settings.SettingsError as error:
        raise click.ClickException(str(error)) from error


def all_settings(variables: dict[str, str]) -> settings.Settings:
    """The settings; the cells of CELLS_FILE are valid too."""
    try:
        found = settings.read(variables)
    except settings.SettingsError as error:
        raise click.ClickException(str(error)) from error
    cells(found)
    return found


def cells(found: settings.Settings) -> tuple[settings.Settings, ...]:
    """The settings of each cell."""
    try:
        return cells_file.cells(found)
    except settings.SettingsError as error:
        raise click.ClickException(str(error)) from error


def setting(name: str, variables: dict[str, str]) -> str:
    """One setting, without reading the others; empty if it is absent."""
    try:
        return str(settings.setting(name, variables) or "")
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def cells_to_migrate(variables: dict[str, str]) -> tuple[settings.Settings, ...]:
    """The settings of each cell that migrations need; the others are at their defaults."""
    values = {name: setting(name, variables) for name in PLACES}
    if not (values["database_url"] or values["database_direct_url"] or values["cells_file"]):
        raise click.ClickException("DATABASE_URL must be set.")
    defaults = settings.Settings(database_url="", jwt_secret="")
    return cells(msgspec.structs.replace(defaults, **values))


def place(cell: settings.Settings) -> tuple[str, str]:
    """The address for migrations, and what contains it: a setting, or CELLS_FILE."""
    found = address(cell.database_direct_url, cell.database_url)
    return (found[0], "its url") if cell.cell else found


def address(direct: str, pooled: str) -> tuple[str, str]:
    """The address for migrations, and the setting that contains it."""
    return (direct, "DATABASE_DIRECT_URL") if direct else (pooled, "DATABASE_URL")
