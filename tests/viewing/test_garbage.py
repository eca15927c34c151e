"""Failed heartbeats leave few reference cycles, because the garbage collector runs rarely."""

import asyncio
import gc
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from starlette.types import ASGIApp, Message

from service.database.driver import Connection
from service.dispatch import Service
from service.players.heartbeat import Heartbeat
from service.players.short_heartbeat import ShortHeartbeat
from service.settings import Settings
from tests.conftest import Running, in_process
from tests.family import Family, add_family
from tests.faults.proxy import Proxy, proxied

FAILURES = 50
OURS = re.compile("/service/(viewing|players)/")

Fault = Callable[[Connection, Proxy], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def failing_statement(connection: Connection, proxy: Proxy) -> AsyncIterator[None]:
    await connection.execute("alter table viewing_sessions rename to hidden")
    yield
    await connection.execute("alter table hidden rename to viewing_sessions")


@asynccontextmanager
async def failing_load(connection: Connection, proxy: Proxy) -> AsyncIterator[None]:
    await connection.execute("alter table viewing_time_configs rename to hidden")
    yield
    await connection.execute("alter table hidden rename to viewing_time_configs")


@asynccontextmanager
async def lost_server(connection: Connection, proxy: Proxy) -> AsyncIterator[None]:
    proxy.turn("reset")
    yield
    proxy.turn("ok")


Send = Callable[[Running, Family], Awaitable[None]]


def request_of(family: Family) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and the body of a heartbeat."""
    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", family.bearer["Authorization"].encode()),
    ]
    return headers, msgspec.json.encode(family.beat())


async def blocked(running: Running, family: Family) -> None:
    """Sends a heartbeat without an HTTP client, which leaves cycles of its own."""
    headers, body = request_of(family)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "state": {"context": running.context}, "headers": headers}
    await Heartbeat()(scope, receive, send)
    assert b'"blocked"' in sent[1]["body"]


async def blocked_short(running: Running, family: Family) -> None:
    """Sends a heartbeat on the short path, which hands it over when it has failed."""
    headers, body = request_of(family)
    given: Any = SimpleNamespace(headers=headers)
    done = asyncio.Event()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def answered(app: ASGIApp) -> None:
        scope = {"type": "http", "state": {"context": running.context}, "headers": headers}
        await app(scope, cast(Any, None), send)
        done.set()

    reply: Any = SimpleNamespace(hand_over=lambda app: asyncio.ensure_future(answered(app)))
    application: Any = SimpleNamespace(
        draining=False, heartbeat=partial(Service.heartbeat, cast(Service, None))
    )
    if ShortHeartbeat(running.context, application).take(given, body, reply):
        await done.wait()
        assert b'"blocked"' in sent[1]["body"]
    else:
        await blocked(running, family)  # the first beat, or no policy is cached


# The driver and asyncio leave cycles of their own for each connection that fails, and on a busy
# machine more connections do.
@pytest.mark.parametrize("blocked", [blocked, blocked_short])
@pytest.mark.parametrize(
    ("fault", "max_left"), [(failing_statement, 5), (failing_load, 5), (lost_server, 800)]
)
async def test_fifty_failures_leave_a_few_objects(
    settings: Settings,
    connection: Connection,
    fault: Fault,
    max_left: int,
    blocked: Send,
) -> None:
    families = [await add_family(connection) for _ in range(5)]
    async with AsyncExitStack() as parts:
        proxy = await parts.enter_async_context(proxied(settings.database_url))
        through = msgspec.structs.replace(settings, database_url=proxy.dsn)
        running = await parts.enter_async_context(in_process(through))
        await parts.enter_async_context(fault(connection, proxy))
        for family in families:
            await blocked(running, family)
        logging.disable()  # pytest keeps every record, and with it the error
        gc.collect()
        gc.disable()
        try:
            for _ in range(FAILURES // 10):
                await asyncio.gather(*(blocked(running, f) for f in families for _ in range(2)))
            gc.set_debug(gc.DEBUG_SAVEALL)
            assert gc.collect() <= max_left
            frames = [left.f_code for left in gc.garbage if isinstance(left, FrameType)]
            assert not [code for code in frames if OURS.search(code.co_filename)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
            logging.disable(logging.NOTSET)
