"""Opens every part of the service in order, warms it up, and closes it in reverse order."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from service.context import Context
from service.credentials.keys import Keys
from service.credentials.pin_hasher import PinHasher
from service.credentials.pin_shared import Sharing
from service.credentials.pin_turns import Turns
from service.credentials.tokens import Tokens
from service.database.driver import is_outage
from service.database.ids import id_prefix
from service.database.pool import Warmth, close_pool, open_pool
from service.database.reads import Reads
from service.deadlines import Deadlines
from service.events.backlog import Backlog
from service.events.outbox import Outbox
from service.events.stream import Streams
from service.events.webhooks import Webhooks
from service.observing import open_files
from service.observing.event_loop import monitoring
from service.observing.metrics import Metrics
from service.observing.supervision import Supervisor
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

if TYPE_CHECKING:
    from service.operators.tracing import Telemetry


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
    else by processes of this one.
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
    sizes = (settings.pool_min_size, settings.pool_max_size)
    pool = await open_pool(settings, _warmth(now()), *sizes)
    parts.push_async_callback(close_pool, pool, settings.shutdown_grace_seconds / 4)
    reads = Reads(settings, pool, metrics.standby_reads)
    await reads.start()
    parts.push_async_callback(reads.stop)
    loads = await open_pool(settings, _load_warmth(now()), 1, config_loader.CONNECTIONS)
    parts.push_async_callback(close_pool, loads, settings.shutdown_grace_seconds / 4)
    configurations = ConfigCache(settings, loads, metrics, now)
    await configurations.start()
    parts.push_async_callback(configurations.stop)

    async def handed_over() -> None:
        await pool.expire_connections()
        await loads.expire_connections()
        configurations.changes.reconnect()

    writer_type = HeartbeatWriter if telemetry is None else telemetry.writer
    writer = writer_type(settings, metrics, now, handed_over)
    await writer.start()
    parts.push_async_callback(writer.stop)
    months = MonthsAhead(pool)
    months.start()
    parts.push_async_callback(months.stop)
    schedule = RetentionSchedule(settings, now, metrics.retention_runs)
    schedule.start()
    parts.push_async_callback(schedule.stop)
    readiness = ReadinessWatch(settings, (pool, loads), writer, metrics, supervisor)
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
    backlog = Backlog(pool, metrics, has_webhook=bool(settings.webhook_url))
    backlog.start()
    parts.push_async_callback(backlog.stop)
    await parts.enter_async_context(monitoring(metrics))
    deadlines = Deadlines(settings.request_timeout_seconds)
    parts.callback(deadlines.end)
    return Context(
        settings=settings,
        pool=pool,
        reads=reads,
        configurations=configurations,
        writer=writer,
        pins=pins,
        pin_turns=Turns(),
        keys=keys,
        tokens=tokens,
        deadlines=deadlines,
        deletions=deletions,
        streams=streams,
        metrics=metrics,
        supervisor=supervisor,
        readiness=readiness,
        now=now,
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
