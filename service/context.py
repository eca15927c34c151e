"""The parts of the service that handlers use; built once by the application's lifespan."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from service.credentials.keys import Keys
from service.credentials.pin_hasher import PinHasher
from service.credentials.pin_turns import Turns
from service.credentials.tokens import Tokens
from service.database.cells import Directory
from service.database.driver import Pool
from service.database.reads import Reads
from service.database_errors import Unavailable
from service.deadlines import Deadlines
from service.events.backlog import Backlog
from service.events.stream import Streams
from service.observing.metrics import Metrics
from service.observing.supervision import Supervisor
from service.settings import Settings
from service.viewing.config_cache import ConfigCache
from service.viewing.deletion import Deletions
from service.viewing.heartbeat_writer import HeartbeatWriter

if TYPE_CHECKING:
    from service.operators.readiness import ReadinessWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The parts that all cells of a process share; `now` is the only clock, aware and in UTC."""

    pins: PinHasher
    pin_turns: Turns
    keys: Keys
    tokens: Tokens
    deadlines: Deadlines
    metrics: Metrics
    supervisor: Supervisor
    now: Callable[[], datetime]

    def parts(self) -> dict[str, Any]:
        """The arguments of `Context` with these parts."""
        return {field.name: getattr(self, field.name) for field in fields(Shared)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(Shared):
    """The parts of one cell, and the shared ones.

    A service has one cell unless CELLS_FILE gives it several; `cells` is None then.
    """

    settings: Settings
    pool: Pool
    reads: Reads
    configurations: ConfigCache
    writer: HeartbeatWriter
    deletions: Deletions
    streams: Streams
    backlog: Backlog
    readiness: "ReadinessWatch"
    cells: "Cells | None"

    def of(self, account_id: UUID) -> "Context":
        """The parts of an account's cell; raises Unavailable if no cell knows the account's."""
        return self if self.cells is None else self.cells.of(account_id)

    @property
    def every(self) -> "Sequence[Context]":
        """The parts of every cell."""
        return (self,) if self.cells is None else self.cells.every

    @property
    def is_full(self) -> bool:
        """Whether the next heartbeat would be refused, in whichever cell its account is."""
        if self.cells is None:
            return self.writer.is_full
        return all(cell.writer.is_full for cell in self.cells.every)


class Cells:
    """The cells of a service that has several; `directory` says which one an account is in."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.every: list[Context] = []  # in the order of CELLS_FILE
        # Held by a request with transactions in several cells: if one cell is slow, such requests
        # hold one connection of each other cell, not all.
        self.turn = asyncio.Lock()
        self._by_name: dict[str, Context] = {}

    def add(self, context: Context) -> None:
        self.every.append(context)
        self._by_name[context.settings.cell] = context

    def of(self, account_id: UUID) -> Context:
        """The parts of an account's cell; raises Unavailable if it is not known."""
        context = self._by_name.get(self.directory.cell(account_id))
        if context is None:
            raise Unavailable("no cell that answers knows where the account is")
        return context

    async def has_moved(self, account_id: UUID, asked: Context) -> bool:
        """Whether an account that the cell `asked` did not find is in another one.

        Queries that cell, which knows where it has moved its accounts; raises DatabaseError.
        """
        await self.directory.find(asked.pool, account_id)
        return self.of(account_id) is not asked
