"""Failed heartbeats leave few reference cycles, because the garbage collector runs rarely."""

import asyncio
import gc
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import FrameType

import msgspec
import pytest
from starlette.types import Message

from service.database.driver import Connection
from service.players.heartbeat import Heartbeat
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


async def blocked(running: Running, family: Family) -> None:
    """Sends a heartbeat without an HTTP client, which leaves cycles of its own."""
    body = msgspec.json.encode(family.beat())
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", family.bearer["Authorization"].encode()),
    ]
    scope = {"type": "http", "state": {"context": running.context}, "headers": headers}
    await Heartbeat()(scope, receive, send)
    assert b'"blocked"' in sent[1]["body"]


# The driver and asyncio leave cycles of their own for each connection that fails.
@pytest.mark.parametrize(
    ("fault", "max_left"), [(failing_statement, 5), (failing_load, 5), (lost_server, 400)]
)
async def test_fifty_failures_leave_a_few_objects(
    settings: Settings,
    connection: Connection,
    fault: Fault,
    max_left: int,
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
