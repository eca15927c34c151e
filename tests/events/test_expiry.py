"""A request that nobody decides expires once, whichever instances look for it."""

import asyncio
from datetime import timedelta

import pytest

from service.database.driver import Connection
from service.events import outbox
from service.events.expiry import MAX_AT_ONCE, expire
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import Family, add_family
from tests.parents.test_requests import TOMORROW
from tests.players.test_requests import NOON, asked, decide, events, shown


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application at noon on a Wednesday."""
    return await start(now=NOON)


async def test_only_pending_requests_of_earlier_days_expire(
    running: Running, connection: Connection, family: Family
) -> None:
    denied, pending, later = family, await add_family(connection), await add_family(connection)
    await decide(running, denied, await asked(running, denied))
    over = await asked(running, pending, minutes=30)
    assert await expire(running.context.pool, TOMORROW - timedelta(microseconds=1)) == 0
    running.clock.fixed = TOMORROW
    kept = await asked(running, later)
    running.clock.fixed = NOON
    assert await expire(running.context.pool, TOMORROW) == 1
    assert await expire(running.context.pool, TOMORROW) == 0
    assert (await shown(running, later, kept))["status"] == "pending"
    found = await events(connection)
    assert [each for each in found if each[0] == "request.expired"] == [
        ("request.expired", {"request_id": str(over)})
    ]
    [row] = await connection.fetch(
        "select account_id, profile_id, occurred_at from viewing_events "
        "where type = 'request.expired'"
    )
    assert tuple(row) == (pending.account, pending.child, TOMORROW)
    status = await connection.fetchval("select status from viewing_requests where id = $1", over)
    assert status == "expired"


async def test_each_of_many_requests_expires_once_on_several_instances(
    start: Starter, connection: Connection, family: Family
) -> None:
    count = 2 * MAX_AT_ONCE + 1
    await connection.execute(
        "with p as (insert into profiles (id, user_id, name, is_kids) "
        "select gen_random_uuid(), $1, 'child', true from generate_series(1, $2) returning id) "
        "insert into viewing_requests (id, account_id, profile_id, status, reset_date, "
        "requested_at, expires_at) "
        "select gen_random_uuid(), $1, p.id, 'pending', $3::date, $4, $5 from p",
        family.account,
        count,
        NOON.date(),
        NOON,
        TOMORROW,
    )
    instances = [await start(now=NOON) for _ in range(3)]
    ended = await asyncio.gather(*(expire(each.context.pool, TOMORROW) for each in instances))
    rest = await expire(instances[0].context.pool, TOMORROW)
    assert sum(ended) + rest == count
    found = await events(connection)
    assert len(found) == len({data["request_id"] for _, data in found}) == count


async def test_a_request_that_a_parent_decides_at_the_moment_does_not_expire(
    running: Running, connection: Connection, family: Family
) -> None:
    request_id = await asked(running, family)
    async with connection.transaction():
        await connection.execute(
            "update viewing_requests set status = 'approved' where id = $1", request_id
        )
        assert await expire(running.context.pool, TOMORROW) == 0
    assert await expire(running.context.pool, TOMORROW) == 0
    assert [kind for kind, _ in await events(connection)] == ["request.created"]


async def test_a_running_instance_ends_requests_in_the_background(
    start: Starter, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = await asked(await start(now=NOON), family)
    monkeypatch.setattr(outbox, "EXPIRY_SECONDS", 0.1)
    await start(now=TOMORROW)

    async def has_event() -> bool:
        return ("request.expired", {"request_id": str(request_id)}) in await events(connection)

    await eventually(has_event)
