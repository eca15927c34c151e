"""The command `partition`."""

from collections.abc import Sequence
from functools import partial

from service.command import environment
from service.command.each_cell import in_each, say
from service.command.migrate import one_sentence
from service.database import partition
from service.settings import Settings


def run(cells: Sequence[Settings], *, is_dry_run: bool) -> None:
    """Partitions the table of balances of every cell and prints each step."""

    def run_in(cell: Settings) -> None:
        dsn, variable = environment.place(cell)
        report = partial(say, cell)
        with one_sentence(variable):
            partition.partition(dsn, report, is_dry_run=is_dry_run, schema=cell.database_schema)

    in_each(cells, run_in)
