"""Statements for heartbeats follow each other after a pause, in which further heartbeats join."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from unittest.mock import Mock
from uuid import uuid4

import msgspec
import pytest

from service.database.driver import Connection
from service.observing.metrics import Metrics
from service.settings import Settings
from service.viewing import heartbeat_queue, heartbeat_writer
from service.viewing.heartbeat_statement import Waiting
from service.viewing.heartbeat_writer import HeartbeatWriter
from service.viewing.recorded_row import Recorded
from tests.conftest import NOW
from tests.eventually import eventually
from tests.viewing.test_heartbeat_writer import beat_of

LONG = 60.0  # a pause that no test waits for
ENOUGH = heartbeat_queue.ENOUGH_BEATS


class Counted(HeartbeatWriter):
    """A writer without a database: `statements` has the size of each batch."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Metrics(), lambda: NOW, Mock())
        self.statements: list[int] = []
        self.held: dict[int, asyncio.Event] = {}  # statements that run until it is set, by number

    async def _open(self) -> Connection:
        return cast(Connection, Mock(is_closed=lambda: False))

    async def _send(self, connection: Any, beats: list[Waiting], lock_seconds: float) -> None:
        number = len(self.statements)
        self.statements.append(len(beats))
        if number in self.held:
            await self.held[number].wait()
        for _, future in beats:
            future.set_result(Mock(spec=Recorded))

    def beats(self, number: int) -> list[asyncio.Future[Recorded]]:
        return [self.record(beat_of(uuid4())) for _ in range(number)]


Start = Callable[..., Any]


@pytest.fixture
def started(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A started writer with a pause of these seconds, stopped at the end."""

    @asynccontextmanager
    async def start(pause: float, **changes: Any) -> AsyncIterator[Counted]:
        monkeypatch.setattr(heartbeat_writer, "SPACING_SECONDS", pause)
        writer = Counted(msgspec.structs.replace(settings, **changes))
        await writer.start()
        await turns()
        try:
            yield writer
        finally:
            await writer.stop()

    return start


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_heartbeat_after_the_pause_is_sent_at_once(started: Start) -> None:
    async with started(0.02) as writer:
        await asyncio.gather(*writer.beats(2))
        await asyncio.sleep(0.04)
        writer.beats(1)
        await turns(2)  # the lane wakes, and sends
        assert writer.statements == [2, 1]


async def test_heartbeats_that_come_alone_do_not_wait_for_each_other(started: Start) -> None:
    async with started(LONG) as writer:
        for _ in range(3):
            await asyncio.gather(*writer.beats(1))
        assert writer.statements == [1, 1, 1]


async def test_heartbeats_of_a_pause_share_one_statement(started: Start) -> None:
    async with started(0.5) as writer:
        await asyncio.gather(*writer.beats(2))
        later = []
        for _ in range(ENOUGH - 1):
            later += writer.beats(1)
            await turns()
        assert writer.statements == [2]
        await asyncio.gather(*later)
        assert writer.statements == [2, ENOUGH - 1]


async def test_a_heartbeat_that_came_during_a_statement_waits_for_more(started: Start) -> None:
    async with started(0.5) as writer:
        end = writer.held[0] = asyncio.Event()
        beats = writer.beats(1)
        await turns()
        beats += writer.beats(1)
        end.set()
        await turns()
        beats += writer.beats(1)
        await asyncio.gather(*beats)
        assert writer.statements == [1, 2]


async def test_the_pause_ends_with_enough_heartbeats(started: Start) -> None:
    async with started(LONG) as writer:
        await asyncio.gather(*writer.beats(2))
        first = writer.beats(ENOUGH - 1)
        await turns()
        assert writer.statements == [2]
        await asyncio.gather(*first, *writer.beats(3))
        assert writer.statements == [2, ENOUGH + 2]


async def test_a_full_batch_does_not_wait(started: Start) -> None:
    async with started(LONG, heartbeat_batch_max=4) as writer:
        await asyncio.gather(*writer.beats(2))
        await asyncio.gather(*writer.beats(4))
        assert writer.statements == [2, 4]


async def test_a_burst_during_a_statement_is_sent_at_its_end(started: Start) -> None:
    async with started(LONG) as writer:
        end = writer.held[0] = asyncio.Event()
        running = writer.beats(1)
        await turns()
        burst = writer.beats(200)
        await turns()
        assert writer.statements == [1]
        end.set()
        await asyncio.gather(*running, *burst)
        assert writer.statements == [1, 200]


async def test_a_stuck_statement_delays_no_others_by_more_than_the_pause(started: Start) -> None:
    async with started(0.02) as writer:
        end = writer.held[0] = asyncio.Event()
        stuck = writer.beats(1)
        await turns()
        for _ in range(3):
            await asyncio.wait_for(asyncio.gather(*writer.beats(1)), 60)
        assert writer.statements == [1] * 4
        end.set()
        await asyncio.gather(*stuck)


async def test_a_stop_does_not_wait_for_the_pause(started: Start) -> None:
    async with started(LONG) as writer:
        await asyncio.gather(*writer.beats(2))
        waiting = writer.beats(3)
        await turns()
        assert writer.statements == [2]
        await asyncio.wait_for(writer.stop(), 60)
        await asyncio.gather(*waiting)
        assert writer.statements == [2, 3]


async def test_one_timer_serves_all_heartbeats_of_a_pause(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(0.5) as writer:
        await asyncio.gather(*writer.beats(2))
        loop = asyncio.get_running_loop()
        timers = Mock(side_effect=loop.call_later)
        monkeypatch.setattr(loop, "call_later", timers)
        waiting = writer.beats(5)
        await turns()
        monkeypatch.undo()
        assert timers.call_count == 1
        await asyncio.gather(*waiting)


async def test_a_burst_wakes_one_connection(started: Start) -> None:
    async with started(0.0) as writer:
        for _ in range(3):
            await asyncio.gather(*writer.beats(ENOUGH + 5))
        await eventually(lambda: not writer.waiting)
        assert writer.statements == [ENOUGH + 5] * 3
