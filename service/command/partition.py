"""The command `partition`."""

import click

from service.command.migrate import one_sentence
from service.database import partition


def run(dsn: str, variable: str, *, is_dry_run: bool) -> None:
    """Partitions the table of balances and prints each step."""
    with one_sentence(variable):
        partition.partition(dsn, click.echo, is_dry_run=is_dry_run)
