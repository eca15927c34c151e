"""Opens every part of the service in order, warms it up, and closes it in reverse order."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Final

from service.cell_startup import open_cell
from service.cells_file import cells
from service.context import Cells, Context, Shared
from service.credentials.keys import Keys
from service.credentials.pin_hasher import PinHasher
from service.credentials.pin_shared import Sharing
from service.credentials.pin_turns import Turns
from service.credentials.tokens import Tokens
from service.database.cells import Directory, check_accounts
from service.database.driver import is_outage
from service.database.pool import connected
from service.database_errors import DatabaseError, WrongTables
from service.deadlines import Deadlines
from service.observing import open_files
from service.observing.event_loop import monitoring
from service.observing.metrics import Metrics
from service.observing.supervision import Supervisor, stopped, supervised
from service.settings import Settings
from service.viewing.heartbeat_writer import HeartbeatWriter

if TYPE_CHECKING:
    from service.operators.tracing import Telemetry

logger = logging.getLogger("viewing_time.cells")

MAP_SECONDS: Final = 30.0  # between two readings of the map of every cell


async def build(
    settings: Settings,
    now: Callable[[], datetime],
    parts: AsyncExitStack,
    telemetry: "Telemetry | None",
    end: Callable[[], None],
    sharing: Sharing | None,
) -> Context:
    """Opens every part; `parts` closes them in reverse order, also if a later one cannot be opened.

    `end` is called when a background task has died. PINs are hashed by the processes of `sharing`,
    else by processes of this one. With several cells it returns the context of the first one.
    """
    metrics = Metrics()
    metrics.connections.max = open_files.for_connections(settings, open_files.raise_limit())
    supervisor = parts.enter_context(Supervisor(metrics, end, is_outage))
    if telemetry is not None:
        parts.push_async_callback(telemetry.stop)
    tokens = Tokens(settings.tokens_max_size)
    keys = Keys(settings, tokens)
    await keys.start()
    parts.push_async_callback(keys.stop)
    hasher_type = PinHasher if telemetry is None else telemetry.pin_hasher
    pins = hasher_type(workers=settings.pin_workers, rounds=settings.bcrypt_rounds)
    if sharing is not None:
        pins.workers = [sharing.worker() for _ in pins.workers]
    await pins.start()
    parts.push_async_callback(pins.stop)
    deadlines = Deadlines(settings.request_timeout_seconds)
    shared = Shared(
        pins=pins,
        pin_turns=Turns(),
        keys=keys,
        tokens=tokens,
        deadlines=deadlines,
        metrics=metrics,
        supervisor=supervisor,
        now=now,
    )
    writer_type = HeartbeatWriter if telemetry is None else telemetry.writer
    if settings.cells_file:
        context = await _open_cells(cells(settings), shared, parts, writer_type)
    else:
        context = await open_cell(settings, shared, parts, writer_type)
    await parts.enter_async_context(monitoring(metrics))
    parts.callback(deadlines.end)
    return context


async def _open_cells(
    found: Sequence[Settings],
    shared: Shared,
    parts: AsyncExitStack,
    writer_type: Callable[..., HeartbeatWriter],
) -> Context:
    """Opens every cell; one that is down serves as soon as it is up.

    Raises WrongTables for a cell that is not the one of CELLS_FILE, DatabaseError if all are down.
    """
    directory = Directory()
    failures = await asyncio.gather(*(_read_map(cell, directory) for cell in found))
    down = [failure for failure in failures if failure is not None]
    for failure in down:
        if isinstance(failure, WrongTables) or len(down) == len(found):
            raise failure
    directory.check({cell.cell for cell in found})
    every = Cells(directory)
    for cell, outage in zip(found, failures, strict=True):
        every.add(await open_cell(cell, shared, parts, writer_type, every, is_up=outage is None))
    task = supervised("cell map", _keep_reading(found, directory))
    parts.push_async_callback(stopped, task)
    return every.every[0]


async def _keep_reading(found: Sequence[Settings], directory: Directory) -> None:
    """Reads the maps again, for the case that a cell was down when this process started."""
    while True:
        await asyncio.sleep(MAP_SECONDS)
        await asyncio.gather(*(_read_map(cell, directory) for cell in found))


async def _read_map(settings: Settings, directory: Directory) -> DatabaseError | None:
    """Adds what a cell knows; returns its failure."""
    try:
        async with connected(settings, settings.request_timeout_seconds) as connection:
            if await directory.read(connection, settings.cell):
                await check_accounts(connection, settings.cell)
    except DatabaseError as error:
        fields = {"cell": settings.cell, "error": f"{type(error).__name__}: {error}"}
        logger.error("cell_map_not_read", extra={"fields": fields})
        return error
    return None
