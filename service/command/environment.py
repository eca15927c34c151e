"""The settings of a command, from its environment and `.env`; a mistake is one sentence."""

import os
from pathlib import Path
from typing import Final

import click

from service import settings
from service.command.dotenv import dotenv

SYSTEMS: Final = "viewing-time runs on Linux, and on macOS where DATABASE_URL is set"


def variables() -> dict[str, str]:
    """The environment; `.env` in the working directory adds variables that are not set."""
    try:
        return {**dotenv(Path(".env")), **os.environ}
    except settings.SettingsError as error:
        raise click.ClickException(str(error)) from error


def all_settings(variables: dict[str, str]) -> settings.Settings:
    try:
        return settings.read(variables)
    except settings.SettingsError as error:
        raise click.ClickException(str(error)) from error


def setting(name: str, variables: dict[str, str]) -> str:
    """One setting, without reading the others; empty if it is absent."""
    try:
        return str(settings.setting(name, variables) or "")
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def database(variables: dict[str, str]) -> tuple[str, str]:
    """The address of the database to migrate, and the setting that contains it."""
    found = address(setting("database_direct_url", variables), setting("database_url", variables))
    if not found[0]:
        raise click.ClickException("DATABASE_URL must be set.")
    return found


def address(direct: str, pooled: str) -> tuple[str, str]:
    """The address for migrations, and the setting that contains it."""
    return (direct, "DATABASE_DIRECT_URL") if direct else (pooled, "DATABASE_URL")
