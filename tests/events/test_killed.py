"""Three service processes, one of them killed again and again: every committed event arrives."""

import asyncio
import random
from contextlib import AsyncExitStack
from uuid import uuid4

from service.database.driver import Connection
from tests.conftest import RunningService, served
from tests.events.receiving import FAULT, OK, SECRET, Received, Receiving, receiving
from tests.eventually import eventually
from tests.family import Family

INSERT = (
    "insert into viewing_events (id, account_id, profile_id, type, occurred_at, data) "
    "values ($1, $2, $3, 'lock.cleared', now(), jsonb_build_object('number', $4::int))"
)
EVENTS = 400


async def test_every_committed_event_arrives_although_instances_are_killed(
    database: str, connection: Connection, family: Family
) -> None:
    """And in order for each profile, from a receiver that fails one time in four."""
    chance = random.Random(2)
    await connection.execute("update viewing_event_feed set webhook_from = 0")

    async def answer(_: Received) -> bytes:
        await asyncio.sleep(chance.uniform(0, 0.1))
        return chance.choices([OK, FAULT, b""], [6, 1, 1])[0]

    async with receiving(Receiving(answer)) as platform, AsyncExitStack() as running:
        variables = {"WEBHOOK_URL": platform.url, "WEBHOOK_SECRET": SECRET}

        async def begin() -> RunningService:
            return await running.enter_async_context(served(database, **variables))

        services = [await begin() for _ in range(3)]
        committed: list[int] = []
        for number in range(EVENTS):
            change = connection.transaction()
            await change.start()
            who = [family.child, family.adult, None][number % 3]
            await connection.execute(INSERT, uuid4(), family.account, who, number)
            if chance.random() < 0.9:
                await change.commit()
                committed.append(number)
            else:
                await change.rollback()
            await asyncio.sleep(0.005)
            if number % 150 == 149:
                killed = services.pop(0)
                killed.process.kill()
                await asyncio.to_thread(killed.process.wait)
                services.append(await begin())
        left = "select count(*) from viewing_events where delivered_at is null"
        await eventually(
            lambda: connection.fetchval(left), seconds=120, until=lambda count: count == 0
        )
    arrived = list(dict.fromkeys(platform.accepted))
    assert sorted(arrived) == committed
    for remainder in range(3):
        of_profile = [number for number in arrived if number % 3 == remainder]
        assert of_profile == sorted(of_profile)
