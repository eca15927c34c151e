"""Requests of one account wait for each other, in bounded queues, PINs before passwords."""

import asyncio
from uuid import uuid4

import pytest

from service.credentials.pin_turns import MAX_WAITING, Turns
from service.errors import ClientError

ACCOUNT = uuid4()


class Requests:
    """Requests of one account; each takes a turn and records it."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.free = asyncio.Event()

    async def add(self, name: str, is_password: bool = False) -> asyncio.Task[None]:
        task = asyncio.create_task(self._ask(name, is_password))
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def _ask(self, name: str, is_password: bool) -> None:
        async with self.turns.turn(ACCOUNT, is_password=is_password):
            await self.free.wait()
            self.served.append(name)

    async def finish(self) -> list[str]:
        self.free.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert len(self.turns) == 0
        return self.served


async def test_pin_precedes_waiting_passwords() -> None:
    requests = Requests()
    for number in range(3):
        await requests.add(f"password {number}", is_password=True)
    await requests.add("pin")
    assert await requests.finish() == ["password 0", "pin", "password 1", "password 2"]


async def test_a_password_waits_for_a_bounded_number_of_pins() -> None:
    requests = Requests()

    async def one_after_the_other(name: str) -> None:
        for _ in range(20):
            async with requests.turns.turn(ACCOUNT):
                requests.served.append(name)
                await asyncio.sleep(0)

    first = await requests.add("first")
    requests.tasks += [asyncio.create_task(one_after_the_other(name)) for name in "abc"]
    await asyncio.sleep(0)
    await requests.add("password", is_password=True)
    requests.free.set()
    await first
    served = await requests.finish()
    assert served.index("password") <= 1 + MAX_WAITING


async def test_too_many_waiting_requests_of_a_kind_get_429_with_retry_after() -> None:
    requests = Requests()
    for number in range(1 + MAX_WAITING):
        await requests.add(f"pin {number}")
    for number in range(MAX_WAITING):
        await requests.add(f"password {number}", is_password=True)
    for is_password in (False, True):
        with pytest.raises(ClientError) as refusal:
            await (await requests.add("too many", is_password))
        assert (refusal.value.status, refusal.value.headers) == (429, {"Retry-After": "1"})
    assert len(await requests.finish()) == 1 + 2 * MAX_WAITING


async def test_another_account_does_not_wait() -> None:
    requests = Requests()
    await requests.add("first")
    async with requests.turns.turn(uuid4()):
        assert len(requests.turns) == 2
    assert await requests.finish() == ["first"]


async def test_a_request_cancelled_while_it_waits_delays_no_other() -> None:
    requests = Requests()
    await requests.add("first")
    leaving = await requests.add("leaving")
    await requests.add("last")
    leaving.cancel()
    assert await requests.finish() == ["first", "last"]


async def test_request_cancelled_at_the_start_of_its_turn_passes_it_on() -> None:
    requests = Requests()
    async with requests.turns.turn(ACCOUNT):
        leaving = await requests.add("leaving")
        await requests.add("last")
    leaving.cancel()
    assert await requests.finish() == ["last"]


async def test_a_request_that_fails_passes_its_turn_on() -> None:
    turns = Turns()
    for _ in range(2):
        with pytest.raises(KeyError):
            async with turns.turn(ACCOUNT):
                raise KeyError
    assert len(turns) == 0
