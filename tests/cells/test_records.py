"""Records with an id or an e-mail address that only one of all cells may have."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from math import inf
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import httpx
import pytest
from msgspec.structs import replace

from service.cells_file import cells as all_cells
from service.command.cells import begin, opened
from service.database import cell_moves
from service.database_errors import NoAnswer
from service.platform import import_cells, records
from tests.cells.conftest import NAMES, FourCells
from tests.cells.test_service import ADMIN, admin, start_cells
from tests.conftest import Running, Starter
from tests.eventually import eventually

TAKEN = (409, {"detail": "Profile belongs to another account"})
EMAIL_TAKEN = (409, {"detail": "Email belongs to another account"})
BUSY = (503, {"detail": "Service temporarily unavailable"})
Shown = tuple[int, Any]
WAITING = (
    "select exists (select from pg_locks where not granted and database = "
    "(select oid from pg_database where datname = current_database()))"
)


class Platform:
    """An administrator of cell c, who puts records."""

    def __init__(self, running: Running, headers: dict[str, str]) -> None:
        self.running = running
        self.headers = headers

    async def put(self, url: str, body: dict[str, Any]) -> Shown:
        put = self.running.client.put(f"{ADMIN}/{url}", json=body, headers=self.headers)
        answer: httpx.Response = await put
        return answer.status_code, answer.json()

    async def obeyed(self, *puts: Callable[[], Awaitable[Shown]]) -> list[int]:
        """The statuses of requests that are sent at once, and again while a lock takes too long."""

        async def again(put: Callable[[], Awaitable[Shown]]) -> int:
            return (await eventually(put, until=lambda shown: shown != BUSY))[0]

        return sorted(await asyncio.gather(*map(again, puts)))

    async def profile(self, profile: UUID, account: UUID, name: str = "Ada") -> Shown:
        body = {"account_id": str(account), "name": name, "is_kids": True}
        return await self.put(f"profiles/{profile}", body)

    async def account(self, account: UUID, email: str) -> Shown:
        return await self.put(f"accounts/{account}", {"email": email})


@pytest.fixture
async def platform(cells: FourCells, start: Starter) -> Platform:
    operator = await admin(cells, "c")
    return Platform(await start_cells(start, cells), operator.bearer)


async def owners(cells: FourCells, profile: UUID) -> list[UUID]:
    """The accounts that have a profile, in all cells."""
    read = "select user_id from profiles where id = $1"
    found = [await each.fetchval(read, profile) for each in cells.connections.values()]
    return [account for account in found if account]


async def holders(cells: FourCells, email: str) -> list[UUID]:
    """The accounts that have an e-mail address, in all cells."""
    read = "select id from users where email = $1"
    found = [await each.fetchval(read, email) for each in cells.connections.values()]
    return [account for account in found if account]


async def end_connections(cells: FourCells, cell: str, *, allowed: bool) -> None:
    """Lets a cell that has a database of its own answer again, or not."""
    database = await cells.connections[cell].fetchval("select current_database()")
    other = cells.connections["a"]
    await other.execute(f"alter database {database} allow_connections {allowed}")
    await cells.connections[cell].execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )


async def test_a_profile_of_another_cell_is_refused(cells: FourCells, platform: Platform) -> None:
    families = {name: await cells.family(name) for name in NAMES}
    for name, family in families.items():
        for other in families.values():
            expected = 200 if other is family else 409
            status, answer = await platform.profile(family.child, other.account)
            assert status == expected
            assert other is family or (status, answer) == TAKEN
        assert await owners(cells, family.child) == [family.account]
        insert = "insert into pending_deletions (kind, id) values ('profile', $1)"
        await cells.connections[name].execute(insert, family.child)
    being_deleted = (409, {"detail": "Profile is being deleted"})
    for account in (families["a"].account, families["b"].account):
        assert await platform.profile(families["a"].child, account) == being_deleted
    unknown = (422, {"detail": "Account not found"})
    assert await platform.profile(families["a"].child, cells.account("b")) == unknown


async def test_an_email_address_of_another_cell_is_refused(
    cells: FourCells, platform: Platform
) -> None:
    accounts = {name: cells.account(name) for name in NAMES}
    for name, account in accounts.items():
        assert (await platform.account(account, f"{name}@x.test"))[0] == 200
    for name, account in accounts.items():
        for other in NAMES:
            shown = await platform.account(account, f"{other}@x.test")
            assert shown[0] == 200 if other == name else shown == EMAIL_TAKEN
        assert await holders(cells, f"{name}@x.test") == [account]
    assert await platform.account(cells.account("b"), "a@x.test") == EMAIL_TAKEN
    assert (await platform.account(accounts["a"], "new@x.test"))[0] == 200
    assert (await platform.account(accounts["b"], "a@x.test"))[0] == 200


async def test_of_many_requests_at_once_one_is_obeyed(cells: FourCells, platform: Platform) -> None:
    families = [await cells.family(name) for name in NAMES]
    for turn in range(3):
        profile, email = uuid4(), f"{turn}@x.test"
        puts = [partial(platform.profile, profile, family.account) for family in families]
        assert await platform.obeyed(*puts) == [200, 409, 409, 409]
        assert len(await owners(cells, profile)) == 1
        puts = [partial(platform.account, cells.account(name), email) for name in NAMES]
        assert await platform.obeyed(*puts) == [200, 409, 409, 409]
        assert len(await holders(cells, email)) == 1


async def test_what_is_new_needs_every_cell_and_nothing_else_does(
    cells: FourCells, platform: Platform
) -> None:
    family, email = await cells.family("a"), "a@x.test"
    assert (await platform.account(family.account, email))[0] == 200
    await end_connections(cells, "d", allowed=False)
    profile, account = uuid4(), cells.account("a")
    assert await platform.profile(profile, family.account) == BUSY
    assert await platform.account(family.account, "new@x.test") == BUSY
    assert await platform.account(account, "new@x.test") == BUSY
    assert await owners(cells, profile) == await holders(cells, "new@x.test") == []
    assert (await platform.account(family.account, email))[0] == 200
    assert (await platform.profile(family.child, family.account, "Zoë"))[0] == 200
    await end_connections(cells, "d", allowed=True)

    async def put() -> Shown:
        return await platform.profile(profile, family.account)

    assert (await eventually(put, until=lambda shown: shown[0] != 503))[0] == 200


async def test_only_administrators_ask_other_cells(cells: FourCells, start: Starter) -> None:
    family = await cells.family("a")
    platform = Platform(await start_cells(start, cells), family.bearer)
    await end_connections(cells, "d", allowed=False)
    status, _ = await platform.profile(uuid4(), family.account)
    assert status == 403
    await end_connections(cells, "d", allowed=True)


async def test_a_profile_that_moves_meanwhile_is_found(
    cells: FourCells, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request looks in cell b before the account arrives there, and in c after it has left."""
    family, other = await cells.family("c"), await cells.family("a")
    looked, moved = asyncio.Event(), asyncio.Event()

    class Looking:
        async def all(self, source: Any, *keys: Any) -> Any:
            found = await find.all(source, *keys)
            if await source.fetchval("select name from viewing_cell") == "b":
                looked.set()
                await asyncio.wait([asyncio.create_task(moved.wait())], timeout=0.5)
            return found

    find = import_cells.FIND
    monkeypatch.setattr(records, "FIND", Looking())
    async with opened(all_cells(cells.settings)) as found:
        await begin(found)
        put = partial(platform.profile, family.child, other.account)
        putting = asyncio.create_task(platform.obeyed(put))
        await looked.wait()
        await cell_moves.move(found.up["c"], found.up["b"], [family.account])
        moved.set()
        assert await putting == [409]
    assert await owners(cells, family.child) == [family.account]


async def test_titles_that_are_put_at_once_are_the_same_in_every_cell(
    cells: FourCells, platform: Platform
) -> None:
    title = uuid4()
    for turn in range(3):
        bodies = [{"title": f"{turn} {n}", "is_educational": False} for n in range(8)]
        puts = [partial(platform.put, f"titles/{title}", body) for body in bodies]
        assert {*await platform.obeyed(*puts)} == {200}
        read = "select title from titles where id = $1"
        assert len({await each.fetchval(read, title) for each in cells.connections.values()}) == 1


async def test_requests_that_wait_for_a_slow_cell_leave_connections_to_families(
    cells: FourCells, start: Starter
) -> None:
    operator, family = await admin(cells, "c"), await cells.family("a")
    settings = replace(cells.settings, pool_min_size=1, pool_max_size=2)
    platform = Platform(await start_cells(start, cells, settings), operator.bearer)
    body = {"title": "Cartoon", "is_educational": False}
    puts = [
        *(partial(platform.profile, uuid4(), family.account) for _ in range(3)),
        *(partial(platform.put, f"titles/{uuid4()}", body) for _ in range(3)),
    ]
    async with cells.connections["d"].transaction():
        await cells.connections["d"].execute("lock table profiles, titles")
        asked = [asyncio.create_task(platform.obeyed(put)) for put in puts]
        await eventually(partial(cells.connections["d"].fetchval, WAITING))
        for _ in range(3):
            url = f"/api/v1/viewing-time/balance/{family.child}"
            answer = await platform.running.client.get(url, headers=family.bearer)
            assert answer.status_code == 200
        assert not any(each.done() for each in asked)
    assert await asyncio.gather(*asked) == [[200]] * len(puts)


async def test_a_cell_that_is_unreachable_is_not_asked(
    cells: FourCells, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be frozen, and the request would then end before the other cells are asked."""
    family, title = await cells.family("d"), uuid4()
    frozen = platform.running.context.every[0]
    body = {"title": "Cartoon", "is_educational": False}
    lost = AsyncMock(side_effect=NoAnswer("frozen"))
    monkeypatch.setattr(frozen.readiness, "_check_database", lost)
    monkeypatch.setattr(frozen.readiness, "_reached_at", -inf)
    await frozen.readiness.check()
    async with AsyncExitStack() as taken:
        for _ in range(frozen.settings.pool_max_size):
            await taken.enter_async_context(frozen.pool.acquire())
        assert await platform.put(f"titles/{title}", body) == BUSY
        for name in "bcd":
            read = "select count(*) from titles where id = $1"
            assert await cells.connections[name].fetchval(read, title) == 1
        assert await platform.profile(uuid4(), family.account) == BUSY
        assert (await platform.profile(family.child, family.account))[0] == 200
        url = f"{ADMIN}/profiles/{family.child}"
        answer = await platform.running.client.delete(url, headers=platform.headers)
        assert answer.status_code == 204
