"""Every committed cause has its event, and every event arrives, whatever fails on the way.

Four instances on one PostgreSQL, a receiver of the webhook, and streams. Each process is killed at
some time, and the database too. When the faults have ended, the tables are compared with what the
receiver and the streams have received.
"""

import asyncio
import os
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final

import asyncpg
import httpx
import pytest

from service.database.driver import Connection
from tests.conftest import SEED
from tests.eventually import eventually
from tests.faults.causes import (
    AUDIT,
    DOOMED_MINUTES,
    Change,
    announced,
    changes,
    check_balances,
    required,
    written,
)
from tests.faults.households import LIMIT_MINUTES, Parents, Service, add_household
from tests.faults.parties import Follower, Instance, ReceiverProcess
from tests.faults.received import EVENTS, check_order, check_receiver, check_streams, in_json
from tests.faults.receiver import SECRET as WEBHOOK_SECRET
from tests.faults.test_faults import SERVICE, SETTINGS, Server, server_of_its_own
from tests.faults.watching import LIMITS

INSTANCES: Final = 4
DRAIN_SECONDS: Final = 90.0
LEASE_SECONDS: Final = 15.0
MAX_BACK_OFF_SECONDS: Final = 300.0
CUT_SHORT: Final = """
with long as (
    select id, extract(epoch from due_at - now()) as seconds from viewing_deliveries
    where due_at > now() + make_interval(secs => $1)
)
update viewing_deliveries as d set due_at = now() from long where d.id = long.id
returning long.seconds
"""
BEGUN: Final = "select webhook_from is not null from viewing_event_feed"
LOCK: Final = """
select from viewing_sessions
where profile_id in (select profile_id from viewing_sessions order by random() limit 1)
for update
"""
WAITING: Final = """
select
    (select count(*) from viewing_events where position is null) as unnumbered,
    (select count(*) from viewing_events where delivered_at is null) as undelivered,
    (select count(*) from viewing_deliveries) as deliveries,
    (select count(*) from viewing_requests where status = 'pending' and expires_at <= now())
        as unexpired
"""


@dataclass
class Scene:
    server: Server
    folder: Path
    random: Random
    instances: list[Instance] = field(default_factory=list)
    households: list[Parents] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        opened = await asyncpg.connect(self.server.dsn)
        try:
            yield opened
        finally:
            opened.terminate()


async def test_every_cause_has_one_event_which_arrives() -> None:
    await keep_ledger(SEED, households=3, rounds=1)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [pytest.param(SystemRandom().randrange(10**9), id="any")])
async def test_every_cause_has_one_event_which_arrives_for_minutes(seed: int) -> None:
    await keep_ledger(seed, households=8, rounds=4)


async def keep_ledger(seed: int, households: int, rounds: int) -> None:
    """Runs every fault in `rounds` of random order, then compares everything."""
    print(f"seed {seed}")
    random = Random(seed)
    async with AsyncExitStack() as parts:
        server = await parts.enter_async_context(server_of_its_own())
        scene = Scene(server, server.folder.parent, random)
        receiver = ReceiverProcess(scene.folder, random)
        await receiver.start()
        parts.callback(receiver.kill)
        webhook = {"WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": WEBHOOK_SECRET}
        await start_instances(scene, parts, **webhook)
        async with scene.connection() as connection:
            await eventually(lambda: connection.fetchval(BEGUN))
        client = await parts.enter_async_context(httpx.AsyncClient(limits=LIMITS, timeout=5))
        service = Service(client, [instance.url for instance in scene.instances])
        async with scene.connection() as connection:
            await connection.execute(AUDIT)
            for number in range(households):
                home = await add_household(connection, service, random, forgets_pin=number % 3 == 0)
                scene.households.append(home)
        async with following(scene, client):
            await eventually(lambda: all(f.has_begun for f in scene.followers))
            async with living(scene, service), running([sunset(scene)]):
                for _ in range(rounds):
                    faults = [*faults_of(scene), *faults_of_events(scene, receiver, rounds > 1)]
                    await have_faults(scene, [*faults, faults[0]])  # two instances are killed
                    await asyncio.sleep(2)
            receiver.calm()
            await drained(scene)
        assert service.errors == []
        assert "background_task_died" not in (scene.folder / "log").read_text()
        async with scene.connection() as connection:
            all_changes = await changes(connection)
            events = [in_json(row) for row in await connection.fetch(EVENTS)]
        print_summary(scene, service, receiver, events)
        check_causes(scene, all_changes)
        check_answers(scene, all_changes)
        check_order(events, all_changes)
        check_receiver(receiver.receipts(), events)
        check_streams(scene.followers, events)


async def start_instances(scene: Scene, parts: AsyncExitStack, **variables: str) -> None:
    log = scene.folder / "log"
    for _ in range(INSTANCES):
        instance = Instance(scene.server.dsn, SETTINGS | variables, log)
        scene.instances.append(instance)
        parts.push_async_callback(instance.stop)
    await asyncio.gather(*(instance.start() for instance in scene.instances))


@asynccontextmanager
async def following(scene: Scene, client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Two streams of each account while the block runs."""
    urls = [instance.url for instance in scene.instances]
    for home in scene.households:
        for _ in range(2):
            random = Random(scene.random.random())
            scene.followers.append(Follower(urls, home.family.account, random))
    async with asyncio.TaskGroup() as group:
        for follower in scene.followers:
            group.create_task(follower.follow(client))
        yield
        for follower in scene.followers:
            follower.leave()


@asynccontextmanager
async def running(works: list[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs coroutines until the block ends; fails with the first that fails."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        yield
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def living(scene: Scene, service: Service) -> AsyncIterator[None]:
    """Parents and children act while the block runs; then waits for their last answers."""
    async with asyncio.TaskGroup() as group:
        for home in scene.households:
            group.create_task(home.live())
            for child in home.children:
                group.create_task(child.live())
        try:
            yield
        finally:
            service.is_closing = True


async def sunset(scene: Scene) -> None:
    """Now and then the viewing day of a pending request ends early."""
    while True:
        await asyncio.sleep(scene.random.uniform(1, 3))
        try:
            async with scene.connection() as connection:
                await connection.execute(
                    "update viewing_requests set expires_at = now() where id in "
                    "(select id from viewing_requests where status = 'pending' limit 1)"
                )
                # Makes room for further requests: there are five a day.
                await connection.execute(
                    "update viewing_requests set reset_date = reset_date - 1 "
                    "where status <> 'pending'"
                )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            continue  # the database is being restarted


Fault = Callable[[], Coroutine[Any, Any, None]]


async def have_faults(scene: Scene, faults: list[Fault], pause_seconds: float = 1.5) -> None:
    """Every fault, in random order, each after a random pause."""
    scene.random.shuffle(faults)
    for fault in faults:
        await asyncio.sleep(scene.random.uniform(0.2, pause_seconds))
        await fault()
        scene.faults[fault.__name__] += 1


def faults_of(scene: Scene) -> list[Fault]:
    """Those of the instances and of their database."""
    random = scene.random

    async def instance_killed() -> None:
        instance = random.choice(scene.instances)
        await instance.kill()
        await asyncio.sleep(random.uniform(0, 1))
        await instance.start()

    async def database_restarted() -> None:
        """At once, as after a crash."""
        pid = (scene.server.folder / "cluster" / "postmaster.pid").read_text().partition("\n")[0]
        os.kill(int(pid), signal.SIGQUIT)
        await scene.server.stop()
        await scene.server.start()

    async def connections_terminated() -> None:
        async with scene.connection() as connection:
            await connection.execute(
                f"select pg_terminate_backend(pid) from pg_stat_activity where {SERVICE}"
            )

    async def lock_held() -> None:
        """On the sessions of one child, longer than a request may take."""
        async with scene.connection() as connection, connection.transaction():
            await connection.execute(LOCK)
            await asyncio.sleep(random.uniform(1, 2))

    return [instance_killed, database_restarted, connections_terminated, lock_held]


def faults_of_events(scene: Scene, receiver: ReceiverProcess, is_long: bool) -> list[Fault]:
    """Those of the receiver and, if there is time, of leases."""
    random = scene.random

    async def receiver_killed() -> None:
        receiver.kill()
        await asyncio.sleep(random.uniform(1, 6 if is_long else 2))
        await receiver.start()

    async def instance_stopped() -> None:
        """Longer than a lease, so that another instance sends its batches."""
        instance = random.choice(scene.instances)
        instance.signal(signal.SIGSTOP)
        await asyncio.sleep(random.choice([1, 7, LEASE_SECONDS + 2]))
        instance.signal(signal.SIGCONT)

    return [receiver_killed, instance_stopped] if is_long else [receiver_killed]


async def drained(scene: Scene) -> None:
    """Waits until no event waits and the streams have all; cuts long pauses of retries short."""
    async with scene.connection() as connection:

        async def left() -> dict[str, int]:
            pauses = await connection.fetch(CUT_SHORT, LEASE_SECONDS)
            assert all(pause["seconds"] <= MAX_BACK_OFF_SECONDS for pause in pauses)
            await asyncio.sleep(0.2)
            (row,) = await connection.fetch(WAITING)
            return {**row}

        await eventually(left, DRAIN_SECONDS, until=lambda counts: not any(counts.values()))
        counts = Counter(
            await connection.fetchval("select array_agg(account_id) from viewing_events")
        )
    await eventually(
        lambda: [f for f in scene.followers if len(f.events) < counts[f.account]],
        until=lambda late: not late,
    )


def check_causes(scene: Scene, all_changes: list[Change]) -> None:
    due, found = required(all_changes), written(all_changes)
    assert (due - found, found - due) == (Counter(), Counter())
    states = 0
    for child in (child for home in scene.households for child in home.children):
        events = announced(all_changes, str(child.profile))
        counts = Counter(state for state, _ in events)
        assert counts == Counter(counts.keys())  # there is one viewing day
        assert child.seen <= counts.keys()
        for state, at in events:
            assert child.may_have_caused(state, at), (child, state, at)
        if not child.has_rules:
            states += check_balances(all_changes, str(child.profile), 60 * LIMIT_MINUTES)
    assert states > 0


def check_answers(scene: Scene, all_changes: list[Change]) -> None:
    """Everything that was answered is stored; a commit that failed has left nothing."""
    stored = defaultdict(set)
    for change in all_changes:
        row = change.row
        if change.relation == "time_grants":
            assert row["granted_minutes"] != DOOMED_MINUTES
            stored["undone" if row["undone_at"] else "granted"].add(row["id"])
        elif change.relation == "viewing_requests":
            stored[row["status"]].add(row["id"])
        elif change.relation == "viewing_events":
            assert row["data"].get("minutes") != DOOMED_MINUTES
    for home in scene.households:
        for kind, ids in home.done.items():
            assert ids <= stored[kind], kind
        for child in home.children:
            assert child.requests <= stored["pending"]
    approved = [
        c.row["request_id"] for c in all_changes if c.relation == "time_grants" and not c.before
    ]
    assert max(Counter(filter(None, approved)).values(), default=1) == 1


def print_summary(
    scene: Scene, service: Service, receiver: ReceiverProcess, events: list[dict[str, Any]]
) -> None:
    receipts = receiver.receipts()
    print(
        f"{len(events)} events {dict(Counter(event['type'] for event in events))}\n"
        f"{len(receipts)} webhooks {dict(Counter(receipt['how'] for receipt in receipts))}, "
        f"{sum(follower.streams for follower in scene.followers)} streams, "
        f"{service.unanswered} requests unanswered, faults {dict(scene.faults)}"
    )
