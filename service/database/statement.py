"""A statement: a file of `sql/` and the type of its rows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, Final, Generic, TypeVar

import asyncpg
import msgspec

from service.database.driver import AnyConnection, Source, translated
from service.observing.metrics import STATEMENT_SECONDS, WAIT_SECONDS, Histogram
from service.observing.trace import count_statement

Row = TypeVar("Row", bound=msgspec.Struct)

ROLLBACK: Final = ".rollback"  # ends the name of a step that undoes another one
# Of the whole process: run times by file name, and waits for a connection.
STATEMENT_TIMES: Final[dict[str, Histogram]] = {}
POOL_WAIT: Final = Histogram(WAIT_SECONDS)


def files(name: str) -> Path:
    """The folder `name` (`sql`, `migrations`), beside the package."""
    return Path(__file__).parents[2] / name


@cache
def _packed(folder: str) -> dict[str, str]:
    """The texts of `sql` or `migrations` in the wheel, one small file; empty in a checkout."""
    path = Path(__file__).parents[1] / f"{folder}.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}


@cache
def migration_texts() -> dict[str, str]:
    """The text of each step of a migration by its file's name without `.sql`."""
    paths = files("migrations").glob("*.sql")
    return _packed("migrations") or {
        path.name.removesuffix(".sql"): path.read_text("utf-8") for path in paths
    }


def text(name: str) -> str:
    """The text of the statement `name`."""
    return _packed("sql").get(name) or (files("sql") / f"{name}.sql").read_text(encoding="utf-8")


class Statement(Generic[Row]):
    """One file of `sql/` and the type of its rows, whose fields are the select list in order."""

    def __init__(self, name: str, row: type[Row]) -> None:
        self.name = name
        self.row = row
        self.text = text(name)
        self._times = STATEMENT_TIMES.setdefault(name, Histogram(STATEMENT_SECONDS))

    async def all(self, source: Source, *arguments: Any) -> list[Row]:
        """Every row of the result."""
        row = self.row
        async with self._timed(source) as connection:
            records = await connection.fetch(self.text, *arguments)
        return [row(*record) for record in records]

    async def maybe(self, source: Source, *arguments: Any) -> Row | None:
        """The first row of the result, if there is one."""
        async with self._timed(source) as connection:
            record = await connection.fetchrow(self.text, *arguments)
        return None if record is None else self.row(*record)

    async def one(self, source: Source, *arguments: Any, timeout: float) -> Row:
        """The row of a statement that always has one; raises LookupError if it has none."""
        async with self._timed(source) as connection:
            record = await connection.fetchrow(self.text, *arguments, timeout=timeout)
        if record is None:
            raise LookupError(f"{self.name} answered without a row")
        return self.row(*record)

    @asynccontextmanager
    async def _timed(self, source: Source) -> AsyncIterator[AnyConnection]:
        """A connection for one run of the statement; measures the run and the wait before it."""
        if isinstance(source, asyncpg.Pool):
            requested_at = monotonic()
            with translated(source):
                async with source.acquire() as connection:
                    POOL_WAIT.add(monotonic() - requested_at)
                    async with self._timed(connection):
                        yield connection
            return
        count_statement()
        started_at = monotonic()
        try:
            with translated(source):
                yield source
        finally:
            self._times.add(monotonic() - started_at)
