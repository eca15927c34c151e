"""Four instances on one PostgreSQL keep every promise of one, whatever fails.

Children, parents and devices send their requests to all instances at once. Meanwhile instances are
killed, the database crashes, connections are terminated, and rows are locked. Then the tables are
compared with the answers. The ledger of events (`test_event_ledger.py`) does so for webhooks.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest

from service.database.driver import Connection
from service.parents.pin_attempt import ATTEMPTS
from tests.conftest import SEED
from tests.eventually import eventually
from tests.family import (
    HEARTBEAT,
    Family,
    add_family,
    far_reset_hour,
    open_sessions,
    session_seconds,
    used_seconds,
)
from tests.faults.households import PARENTAL, WRONG_PIN, Service
from tests.faults.test_event_ledger import INSTANCES, Scene, faults_of, have_faults, start_instances
from tests.faults.test_faults import server_of_its_own
from tests.faults.watching import LIMITS

CHILDREN: Final = 4
PARENTS: Final = 2
MAX_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.2
# A change is answered after every acknowledgement, or after this time without one.
ACKNOWLEDGED_SECONDS: Final = 0.25
MAX_CHANGES: Final = 20
EXPIRED: Final = 150
OLD: Final = f"""
create table deleted (id uuid not null);
create function note_deletion() returns trigger language plpgsql as $$
begin
    perform pg_sleep(0.01);
    insert into public.deleted values (old.id);
    return null;
end $$;
create trigger deleted after delete on viewing_sessions
    for each row execute function note_deletion();
insert into viewing_sessions (
    id, profile_id, title_id, device_id, started_at, last_heartbeat_at, ended_at
)
select gen_random_uuid(), p.id, t.id, 'old', s.began, s.began, s.began
from (select id from profiles where is_kids limit 1) as p
cross join (select id from titles limit 1) as t
cross join generate_series(1, {EXPIRED}) as n
cross join (values (89), (91)) as d (day)
cross join lateral (select now() - make_interval(days => d.day) as began) as s;
insert into viewing_time_balances (id, profile_id, reset_date, educational_seconds)
select gen_random_uuid(), p.id, current_date - day, day
from (select id from profiles where not is_kids limit 1) as p
cross join (values (363), (364), (367), (368), (500)) as d (day);
"""
LEFT: Final = """
select
    (select count(*) from viewing_sessions where started_at < now() - interval '90 days')
        as expired,
    (select count(*) from viewing_sessions where device_id = 'old') as sessions,
    (select array_agg(educational_seconds order by educational_seconds) from viewing_time_balances
        where reset_date < current_date - 300) as balances,
    (select count(*) from deleted) as deletions,
    (select count(distinct id) from deleted) as deleted
"""
OPEN_TWICE: Final = """
select count(*) from (
    select from viewing_sessions where ended_at is null group by profile_id having count(*) > 1
) as p
"""

WAITING: Final = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"


@dataclass
class Fleet:
    """The instances, as clients see them; a request to one of them may fail."""

    random: Random
    services: list[Service]
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def unanswered(self) -> int:
        return sum(service.unanswered for service in self.services)

    async def ask(
        self, number: int, family: Family, method: str, path: str, body: Any, key: str = ""
    ) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else None
        return await self.services[number].call(self.random, family, method, path, body, headers)

    async def ask_all(
        self, family: Family, method: str, path: str, body: Any, key: str = ""
    ) -> list[httpx.Response]:
        """The responses of all instances to one request, which is sent to them at once."""
        asked = (self.ask(n, family, method, path, body, key) for n in range(INSTANCES))
        return await asyncio.gather(*asked)


def verdict_of(answer: httpx.Response) -> dict[str, Any] | None:
    """The verdict of a heartbeat that was counted; None for a failure."""
    assert answer.status_code in (200, 503), answer.text
    verdict: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return verdict if verdict.get("enforcement") == "allowed" else None


@dataclass
class Child:
    """A child without a limit; `counted` heartbeats were acknowledged."""

    fleet: Fleet
    family: Family
    counted: int = 0
    session: str | None = None

    async def live(self) -> None:
        while not self.fleet.stop.is_set():
            if self.fleet.random.random() < 0.2:
                await self.start_everywhere()
            else:
                await self.beat_everywhere()

    async def beat_everywhere(self) -> None:
        """One heartbeat, sent to all instances at once until one of them has acknowledged it."""
        if self.fleet.random.random() < 0.1:
            self.session = None
        body, key = self.family.beat(session_id=self.session), uuid4().hex
        found: set[str] = set()
        while not found:
            answers = await self.fleet.ask_all(self.family, "POST", HEARTBEAT, body, key)
            found = {v["session_id"] for v in map(verdict_of, answers) if v}
            await asyncio.sleep(PAUSE_SECONDS)
        (self.session,) = found
        self.counted += 1

    async def start_everywhere(self) -> None:
        """Devices start at once, each at another instance."""
        started = await asyncio.gather(*map(self._start, range(INSTANCES)))
        assert len({*started}) == INSTANCES
        self.session = self.fleet.random.choice(started)
        self.counted += INSTANCES

    async def _start(self, number: int) -> str:
        body, key = self.family.beat(device_id=f"tv-{number}"), uuid4().hex
        while True:
            answer = await self.fleet.ask(number, self.family, "POST", HEARTBEAT, body, key)
            if verdict := verdict_of(answer):
                return str(verdict["session_id"])
            await asyncio.sleep(PAUSE_SECONDS)


@dataclass
class Parent:
    """Grants time once, and types wrong PINs, at all instances at once."""

    fleet: Fleet
    family: Family
    wrong: int = 0  # verdicts
    grants: list[str] = field(default_factory=list)

    async def live(self) -> None:
        while not self.fleet.stop.is_set():
            await asyncio.gather(self.grant_everywhere(), self.guess_everywhere())
        async with asyncio.timeout(MAX_SECONDS):
            while not await self.guess_everywhere():
                await asyncio.sleep(PAUSE_SECONDS)

    async def grant_everywhere(self) -> None:
        path = f"{PARENTAL}/profiles/{self.family.child}/viewing-time/grant"
        body, key = {"minutes": 15, "mode": "credit"}, uuid4().hex
        found: set[str] = set()
        while not found:
            answers = await self.fleet.ask_all(self.family, "POST", path, body, key)
            assert {answer.status_code for answer in answers} <= {200, 503}, answers
            found = {a.json()["grant_id"] for a in answers if a.status_code == 200}
            await asyncio.sleep(PAUSE_SECONDS)
        self.grants += found

    async def guess_everywhere(self) -> bool:
        """Whether every instance refused to look at the PIN."""
        path, body = f"{PARENTAL}/pin/verify", {"pin": WRONG_PIN}
        answers = await self.fleet.ask_all(self.family, "POST", path, body)
        assert {answer.status_code for answer in answers} <= {403, 429, 503}, answers
        refused = [answer for answer in answers if answer.status_code == 403]
        locked = sum("X-Locked-Until" in answer.headers for answer in refused)
        self.wrong += len(refused) - locked
        return locked == INSTANCES


@dataclass
class Limits:
    """A parent changes a limit at one instance, and the child watches at the others."""

    fleet: Fleet
    family: Family
    limit: int = 240
    session: str | None = None
    obeyed: dict[int, tuple[int, set[int]]] = field(default_factory=dict)

    async def check(self, number: int) -> None:
        """Changes the limit at one instance, and notes it and those that the next beats obey.

        On a machine that is too busy for acknowledgements, the beats may obey it later.
        """
        for _ in range(MAX_CHANGES):
            await eventually(self.seen, MAX_SECONDS)  # every instance has the present limit
            seconds = await self.change(number)
            if seconds is not None and seconds < ACKNOWLEDGED_SECONDS:
                seen = await eventually(self.seen, MAX_SECONDS)
                break
        else:
            while await self.change(number) is None:
                await asyncio.sleep(PAUSE_SECONDS)
            seen = await eventually(self.seen, MAX_SECONDS, until=self.is_obeyed)
        self.obeyed[number] = self.limit, seen

    def is_obeyed(self, seen: set[int]) -> bool:
        return seen == {self.limit}

    async def live(self) -> None:
        while not self.fleet.stop.is_set():
            if await self.change(self.fleet.random.randrange(INSTANCES)) is not None:
                await eventually(self.seen, MAX_SECONDS, until=self.is_obeyed)
            await asyncio.sleep(PAUSE_SECONDS)

    async def change(self, number: int) -> float | None:
        """The seconds until a change was answered; None: it is unknown whether it was made."""
        self.limit = 240 + (self.limit - 225) % 240
        path = f"{PARENTAL}/profiles/{self.family.child}/viewing-time"
        body = {"weekday_limit_minutes": self.limit, "weekend_limit_minutes": self.limit}
        began = monotonic()
        answer = await self.fleet.ask(number, self.family, "PUT", path, body)
        return monotonic() - began if answer.status_code == 200 else None

    async def seen(self) -> set[int]:
        """The limits by which all instances have decided about a beat; empty: one has failed."""
        lesson = self.family.lesson  # uses nothing of the limit
        body = self.family.beat(session_id=self.session, title_id=lesson)
        answers = await self.fleet.ask_all(self.family, "POST", HEARTBEAT, body)
        verdicts = [verdict_of(answer) for answer in answers]
        limits = set()
        for verdict in verdicts:
            if verdict is not None:
                self.session = verdict["session_id"]
                limits.add(round(verdict["used_minutes"] + verdict["remaining_minutes"]))
        return set() if None in verdicts else limits


@dataclass
class Story:
    """All that has happened while things failed, and at the end."""

    scene: Scene
    fleet: Fleet
    children: list[Child]
    parents: list[Parent]
    limits: Limits
    snapshots: list[int] = field(default_factory=list)

    async def look(self) -> None:
        """Counts the profiles with two open sessions again and again."""
        while not self.fleet.stop.is_set():
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it restarts
                async with self.scene.connection() as connection:
                    self.snapshots.append(await connection.fetchval(OPEN_TWICE))
            await asyncio.sleep(PAUSE_SECONDS)

    def retained(self) -> int:
        """The sessions that retention has deleted, from the log."""
        lines = (self.scene.folder / "log").read_text().splitlines()
        return sum(json.loads(line)["sessions"] for line in lines if '"retention_done"' in line)

    async def left(self) -> dict[str, Any]:
        async with self.scene.connection() as connection:
            (row,) = await connection.fetch(LEFT)
        return {**row}


@pytest.fixture(scope="module")
async def story() -> AsyncIterator[Story]:
    """Four instances start at once; then there is load, and every fault."""
    random = Random(SEED)
    async with AsyncExitStack() as parts:
        server = await parts.enter_async_context(server_of_its_own())
        scene = Scene(server, server.folder.parent, random)
        async with scene.connection() as connection:
            families = [await add_family(connection, limit=None) for _ in range(CHILDREN)]
            parents = [await add_family(connection) for _ in range(PARENTS)]
            limited = await add_family(connection, reset_hour=far_reset_hour())
            await connection.execute(OLD)
        await start_instances(scene, parts, RETENTION_INTERVAL_HOURS="24")
        client = await parts.enter_async_context(httpx.AsyncClient(limits=LIMITS, timeout=5))
        fleet = Fleet(random, [Service(client, [each.url]) for each in scene.instances])
        run = Story(
            scene,
            fleet,
            [Child(fleet, family) for family in families],
            [Parent(fleet, family) for family in parents],
            Limits(fleet, limited),
        )
        async with asyncio.TaskGroup() as group:
            for child in run.children:
                group.create_task(child.live())
            for parent in run.parents:
                group.create_task(parent.live())
            group.create_task(run.look())
            for number in range(INSTANCES):
                await run.limits.check(number)
            await eventually(run.retained, MAX_SECONDS, until=lambda rows: rows >= EXPIRED)
            group.create_task(run.limits.live())
            await have_faults(scene, faults_of(scene), pause_seconds=0.6)
            fleet.stop.set()
        print(f"{sum(child.counted for child in run.children)} beats, {len(run.snapshots)} looks")
        print(f"{fleet.unanswered} unanswered")
        yield run


async def test_heartbeat_that_is_sent_to_every_instance_is_counted_once(story: Story) -> None:
    async with story.scene.connection() as connection:
        for child in story.children:
            seconds = await session_seconds(connection, child.family.child)
            assert seconds == 30 * child.counted > 0
            assert await used_seconds(connection, child.family.child) == seconds


async def test_profile_never_has_two_open_sessions(story: Story) -> None:
    assert story.snapshots
    assert not any(story.snapshots)
    async with story.scene.connection() as connection:
        for child in story.children:
            assert await open_sessions(connection, child.family.child) == 1


async def test_pins_at_four_instances_are_counted_together(story: Story) -> None:
    async with story.scene.connection() as connection:
        for parent in story.parents:
            assert parent.wrong <= ATTEMPTS
            assert await failures(connection, parent.family) == (ATTEMPTS, True)


async def test_one_of_four_pins_at_once_gets_the_last_attempt(story: Story) -> None:
    async with story.scene.connection() as connection:
        parent = Parent(story.fleet, await add_family(connection))
        before = story.fleet.unanswered
        async with connection.transaction():
            last = "update users set pin_failed_attempts = $1 - 1 where id = $2"
            await connection.execute(last, ATTEMPTS, parent.family.account)
            guesses = asyncio.create_task(parent.guess_everywhere())

            async def is_waited_for() -> bool:
                return guesses.done() or await connection.fetchval(WAITING) >= INSTANCES

            await eventually(is_waited_for, MAX_SECONDS)
        await guesses
        assert parent.wrong <= 1 <= parent.wrong + story.fleet.unanswered - before
        await eventually(parent.guess_everywhere, MAX_SECONDS)
        assert await failures(connection, parent.family) == (ATTEMPTS, True)


async def failures(connection: Connection, family: Family) -> tuple[int, bool]:
    """The wrong PINs that are counted, and whether the PIN is locked."""
    row = await connection.fetchrow(
        "select pin_failed_attempts, pin_lockout_until > now() from users where id = $1",
        family.account,
    )
    assert row is not None
    return row[0], row[1]


async def test_grant_that_is_sent_to_every_instance_is_made_once(story: Story) -> None:
    async with story.scene.connection() as connection:
        for parent in story.parents:
            rows = await connection.fetch(
                "select id from time_grants where profile_id = $1", parent.family.child
            )
            assert sorted(str(row["id"]) for row in rows) == sorted(parent.grants)
            assert parent.grants


async def test_next_beat_on_every_instance_obeys_a_change_on_one(story: Story) -> None:
    obeyed = story.limits.obeyed
    assert obeyed == {number: (limit, {limit}) for number, (limit, _) in obeyed.items()}
    assert [*obeyed] == [*range(INSTANCES)]


async def test_retention_on_four_instances_deletes_each_expired_row_once(story: Story) -> None:
    assert story.retained() == EXPIRED
    assert await story.left() == {
        "expired": 0,
        "sessions": EXPIRED,
        "balances": [363, 364],
        "deletions": EXPIRED,
        "deleted": EXPIRED,
    }


async def test_no_instance_answers_an_error_or_loses_a_task(story: Story) -> None:
    assert [error for service in story.fleet.services for error in service.errors] == []
    assert "background_task_died" not in (story.scene.folder / "log").read_text()
