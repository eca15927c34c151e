"""Opens the parts of one cell in order; they are closed in reverse order."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from uuid import UUID

import msgspec

from service.context import Cells, Context, Shared
from service.database import cells as cells_of_database
from service.database.ids import id_prefix
from service.database.pool import Warmth, close_pool, open_pool
from service.database.reads import Reads
from service.events.backlog import Backlog
from service.events.outbox import Outbox
from service.events.stream import Streams
from service.events.webhooks import Webhooks
from service.operators.readiness import ReadinessWatch
from service.parents import history, pin_attempt, report_weeks
from service.platform.balance_months import MonthsAhead
from service.platform.retention_schedule import RetentionSchedule
from service.settings import Settings
from service.viewing import config_loader, rules
from service.viewing.config_cache import ConfigCache
from service.viewing.deletion import Deletions
from service.viewing.heartbeat_writer import HeartbeatWriter
from service.viewing.usage import READ_BALANCE


async def open_cell(
    settings: Settings,
    shared: Shared,
    parts: AsyncExitStack,
    writer_type: Callable[..., HeartbeatWriter],
    cells: Cells | None = None,
    *,
    is_up: bool = True,
) -> Context:
    """The parts of a cell, which `parts` closes.

    If the cell is not up, every part starts as it goes on after an outage: it tries again.
    """
    metrics, now = shared.metrics, shared.now
    min_size = settings.pool_min_size if is_up else 0
    pool = await open_pool(settings, _warmth(now()), min_size, settings.pool_max_size)
    parts.push_async_callback(close_pool, pool, settings.shutdown_grace_seconds / 4)
    if cells is None:
        await cells_of_database.check_name(pool, "")
    loads = await open_pool(settings, _load_warmth(now()), int(is_up), config_loader.CONNECTIONS)
    parts.push_async_callback(close_pool, loads, settings.shutdown_grace_seconds / 4)
    reads = Reads(settings, pool, metrics.standby_reads)
    await reads.start()
    parts.push_async_callback(reads.stop)
    configurations = ConfigCache(settings, loads, metrics, now)
    await configurations.start(is_up=is_up)
    parts.push_async_callback(configurations.stop)

    async def handed_over() -> None:
        await pool.expire_connections()
        await loads.expire_connections()
        configurations.changes.reconnect()

    writer = writer_type(settings, metrics, now, handed_over)
    if is_up:
        await writer.start()
    else:
        writer.start_later()
    parts.push_async_callback(writer.stop)
    months = MonthsAhead(pool)
    months.start()
    parts.push_async_callback(months.stop)
    schedule = RetentionSchedule(settings, now, metrics.retention_runs)
    schedule.start()
    parts.push_async_callback(schedule.stop)
    readiness = ReadinessWatch(settings, (pool, loads), writer, metrics, shared.supervisor)
    await readiness.start()
    parts.push_async_callback(readiness.stop)
    deletions = Deletions(settings, pool, metrics.deletions)
    deletions.start()
    parts.push_async_callback(deletions.stop)
    streams = Streams()
    streams.start()
    parts.push_async_callback(streams.stop)
    outbox = Outbox(settings, now, streams)
    await outbox.start()
    parts.push_async_callback(outbox.stop)
    webhooks = Webhooks(settings, metrics)
    await webhooks.start()
    parts.push_async_callback(webhooks.stop)
    backlog = Backlog(pool, has_webhook=bool(settings.webhook_url))
    backlog.start()
    parts.push_async_callback(backlog.stop)
    return Context(
        **shared.parts(),
        settings=settings,
        cells=cells,
        pool=pool,
        reads=reads,
        configurations=configurations,
        writer=writer,
        deletions=deletions,
        streams=streams,
        backlog=backlog,
        readiness=readiness,
    )


def _warmth(now: datetime) -> Warmth:
    """The statements of interactive requests, for an account that does not exist."""
    no_id, today = UUID(int=0), now.date()
    return (
        *_load_warmth(now),
        (READ_BALANCE, (no_id, no_id, today, None, None, False)),
        (history.LIST, (no_id, no_id, today, today, 1)),
        (history.LIST_DAYS, (no_id, no_id, [], 1)),
        (report_weeks.REPORT, (no_id, today, rules.REPORT_DAYS, 1, 1, None)),
        (report_weeks.LIST_CHILDREN, (no_id, 1, None, today)),
        (report_weeks.SUM_DAYS, (no_id, [], [], rules.REPORT_DAYS, 1)),
        (pin_attempt.ATTEMPT, (no_id, None, 1, pin_attempt.LOCKS, no_id)),
    )


def _load_warmth(now: datetime) -> Warmth:
    """The statement that loads configurations, for an account that does not exist."""
    no_id, defaults = UUID(int=0), msgspec.structs.astuple(rules.DEFAULTS)
    moment = (now, config_loader.LOCK_TIMEOUT, id_prefix(now))
    return ((config_loader.LOAD, ([no_id], [no_id], False, *defaults, *moment)),)
