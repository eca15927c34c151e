"""Admission to the hashing queue by expected waits, with a fake clock and fake workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from service.credentials import pin_hasher
from service.credentials.pin_hasher import PinHasher
from service.errors import Overloaded


class Workers:
    """Workers that compute nothing until the test ends a hash."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.start_seconds = 0.0
        self.at_work: list[asyncio.Future[bytes]] = []

    def monotonic(self) -> float:
        return self.now

    async def start(self) -> None:
        self.now += self.start_seconds

    async def stop(self) -> None:
        """Does nothing, because there is no process."""

    async def hash(self, secret: bytes, salt: bytes) -> bytes:
        digest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.at_work.append(digest)
        return await digest

    async def finish(self, seconds: float) -> None:
        """Advances the clock by `seconds`, then ends the oldest hash."""
        self.now += seconds
        self.at_work.pop(0).set_result(b"")
        await settled()

    async def lose(self) -> None:
        """Ends the worker with the oldest hash."""
        self.at_work.pop(0).set_exception(EOFError())
        await settled()


async def settled() -> None:
    """Runs the event loop until all tasks wait."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    fake = Workers()
    monkeypatch.setattr(pin_hasher, "time", fake)
    monkeypatch.setattr(pin_hasher, "Worker", lambda: fake)
    return fake


@pytest.fixture(params=[1])
async def hasher(workers: Workers, request: pytest.FixtureRequest) -> AsyncIterator[PinHasher]:
    """A running hasher at cost 12: a hash counts as 0.25 s until one is measured."""
    hasher = PinHasher(workers=request.param, rounds=12)
    await hasher.start()
    yield hasher
    await hasher.stop()


two_workers = pytest.mark.parametrize("hasher", [2], indirect=True)


async def start_hash(hasher: PinHasher) -> asyncio.Task[bool]:
    async def verify() -> bool:
        with hasher.admit() as turn:
            return await turn.verify("1234", None)

    task = asyncio.create_task(verify())
    await settled()
    return task


async def cancelled(task: asyncio.Task[bool]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def room(hasher: PinHasher) -> int:
    """The number of further turns that are admitted."""
    before = hasher.waiting
    with ExitStack() as places:
        while True:
            try:
                places.enter_context(hasher.admit())
            except Overloaded:
                return hasher.waiting - before


async def test_the_queue_holds_five_seconds_of_hashes(hasher: PinHasher, workers: Workers) -> None:
    assert room(hasher) == 5 / 0.25 + 1
    await start_hash(hasher)
    assert room(hasher) == 5 / 0.25
    await workers.finish(0.25)
    assert room(hasher) == 5 / 0.25 + 1


@two_workers
async def test_two_workers_double_the_queue(hasher: PinHasher) -> None:
    assert room(hasher) == 2 * (5 / 0.25 + 1)


async def test_a_running_hash_counts_with_its_age(hasher: PinHasher, workers: Workers) -> None:
    await start_hash(hasher)
    workers.now += 4
    assert room(hasher) == 5
    workers.now += 2
    assert room(hasher) == 0
    with pytest.raises(Overloaded) as refusal, hasher.admit():
        pytest.fail("admitted behind a hash that takes too long")
    assert refusal.value.retry_after == 6
    await workers.finish(0)
    assert room(hasher) > 0


@two_workers
async def test_a_slow_hash_does_not_fill_the_queue_of_another_worker(
    hasher: PinHasher, workers: Workers
) -> None:
    await start_hash(hasher)
    workers.now += 50
    assert room(hasher) == 5 / 0.25 + 1


async def test_a_running_hash_of_a_cancelled_request_counts(
    hasher: PinHasher, workers: Workers
) -> None:
    await cancelled(await start_hash(hasher))
    assert hasher.waiting == 0
    assert room(hasher) == 5 / 0.25
    workers.now += 6
    assert room(hasher) == 0
    await workers.finish(0)
    assert room(hasher) > 0


async def test_a_slow_hash_of_a_cancelled_request_enters_the_average_and_fades(
    hasher: PinHasher, workers: Workers
) -> None:
    await cancelled(await start_hash(hasher))
    await workers.finish(10)
    learned = room(hasher)
    assert 1 <= learned <= 5
    for _ in range(30):
        task = await start_hash(hasher)
        await workers.finish(0.25)
        assert await task is False
    assert room(hasher) > 18


async def test_a_cancelled_request_in_the_queue_is_not_hashed(
    hasher: PinHasher, workers: Workers
) -> None:
    first, second = await start_hash(hasher), await start_hash(hasher)
    await cancelled(second)
    assert (hasher.waiting, room(hasher)) == (1, 20)
    await workers.finish(0.25)
    assert await first is False
    assert (workers.at_work, hasher.hashed) == ([], 1)


async def test_replaced_worker_frees_the_queue_and_its_start_is_not_measured(
    hasher: PinHasher, workers: Workers
) -> None:
    task = await start_hash(hasher)
    workers.now += 50
    assert room(hasher) == 0
    workers.start_seconds = 3
    await workers.lose()
    assert room(hasher) == 20
    await workers.finish(0.25)
    assert await task is False
    assert room(hasher) == 21
