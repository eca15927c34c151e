"""A change is answered when every instance has acknowledged it, or after a bounded wait."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest

from service.database.driver import Connection
from service.database.statement import files
from service.settings import Settings
from service.viewing import config_changes
from service.viewing.config_changes import (
    ACKNOWLEDGEMENT_CHANNEL,
    CHANNEL,
    EVERYTHING,
    LISTENER,
    Changes,
)
from tests.conftest import Running, RunningService, Starter, in_process, logged, served
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family, add_family
from tests.faults.proxy import proxied
from tests.platform.test_imports import profile, send
from tests.players.test_heartbeat import beat
from tests.statement_counts import of_requests, runs
from tests.viewing.test_config_cache import limit

ADMIN = "/api/v1/admin"
CONFIG = "/api/v1/parental-controls/profiles/{}/viewing-time"
LIMITS = {"weekday_limit_minutes": 15, "weekend_limit_minutes": 15}

Change = Callable[[Running, Family, dict[str, str]], Awaitable[Any]]


async def put_limits(running: Running, family: Family, admin: dict[str, str]) -> httpx.Response:
    url = CONFIG.format(family.child)
    return await running.client.put(url, json=LIMITS, headers=family.bearer)


async def put_profile(running: Running, family: Family, admin: dict[str, str]) -> httpx.Response:
    body = {"account_id": str(family.account), "name": "Ada", "is_kids": False}
    return await running.client.put(f"{ADMIN}/profiles/{family.child}", json=body, headers=admin)


async def erase(running: Running, family: Family, admin: dict[str, str]) -> httpx.Response:
    url = f"{ADMIN}/profiles/{family.child}/viewing-data"
    return await running.client.delete(url, headers=admin)


async def import_adult(running: Running, family: Family, admin: dict[str, str]) -> Any:
    line = profile(family.account, id=str(family.child), is_kids=False)
    return await send(running, admin, [line])


CHANGES = [put_limits, put_profile, erase, import_adult]


@pytest.fixture
async def late(settings: Settings) -> AsyncIterator[Running]:
    """An instance that receives notifications 50 ms late."""
    async with AsyncExitStack() as parts:
        proxy = await parts.enter_async_context(proxied(settings.database_url))
        through = msgspec.structs.replace(settings, database_direct_url=proxy.dsn)
        running = await parts.enter_async_context(in_process(through))
        proxy.turn("slow")
        yield running


@pytest.mark.parametrize("change", CHANGES)
async def test_no_instance_keeps_the_old_entry_once_a_change_is_answered(
    running: Running, late: Running, family: Family, admin: dict[str, str], change: Change
) -> None:
    for instance in (running, late):
        assert await limit(instance, family) == 120
    await change(running, family, admin)
    assert [i.context.configurations.size for i in (running, late)] == [0, 0]


async def test_a_cached_entry_of_a_deleted_profile_counts_no_beat(
    running: Running, late: Running, family: Family, admin: dict[str, str]
) -> None:
    assert (await beat(late, family))["enforcement"] == "allowed"
    answer = await running.client.delete(f"{ADMIN}/profiles/{family.child}", headers=admin)
    assert answer.status_code == 204
    assert late.context.configurations.size == 1
    answer = await late.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert answer.status_code == 403


async def test_no_beat_after_the_answer_is_judged_by_the_old_limit(
    database: str, connection: Connection, family: Family
) -> None:
    """One process changes the limits; another is notified late and counts beats."""
    old = 0
    async with AsyncExitStack() as parts:
        proxy = await parts.enter_async_context(proxied(database))
        here = await parts.enter_async_context(served(database))
        there = await parts.enter_async_context(served(database, DATABASE_DIRECT_URL=proxy.dsn))
        client = await parts.enter_async_context(
            httpx.AsyncClient(headers=family.bearer, timeout=60)
        )
        proxy.turn("slow")

        async def count() -> float:
            lesson = family.beat(title_id=family.lesson)  # which does not count against the limit
            verdict = (await client.post(there.url + HEARTBEAT, json=lesson)).json()
            remaining: float = verdict["remaining_minutes"]
            return remaining

        for number in range(30):
            minutes = 480 - 15 * (number % 2)
            body = dict.fromkeys(LIMITS, minutes)
            answer = await client.put(here.url + CONFIG.format(family.child), json=body)
            assert answer.status_code == 200
            old += sum(m != minutes for m in await asyncio.gather(*(count() for _ in range(10))))
    assert old == 0


async def test_a_frozen_instance_delays_a_change_by_the_bound_only(
    start: Starter,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(config_changes, "MAX_WAIT_SECONDS", 0.05)
    here, frozen, there = await start(), await start(), await start()
    for instance in (here, frozen, there):
        await limit(instance, family)
    listener = frozen.context.configurations.changes.connection
    assert listener is not None
    backend = listener.get_server_pid()
    os.kill(backend, signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):
            assert (await put_limits(here, family, {})).status_code == 200
            assert there.context.configurations.size == 0
    finally:
        os.kill(backend, signal.SIGCONT)
    [line] = [r for r in caplog.records if r.getMessage() == "config_change_not_acknowledged"]
    assert vars(line)["fields"]["instances"] == 1
    await eventually(lambda: limit(frozen, family), until=lambda minutes: minutes == 15)


async def test_a_single_instance_waits_for_no_acknowledgement(
    running: Running,
    connection: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config_changes, "MAX_WAIT_SECONDS", 0)

    async def counted() -> int:
        # A change drops the policy, which the next one loads to keep the limits of past days.
        return await of_requests(connection) - await runs(connection, "viewing_config_load")

    assert (await put_limits(running, family, {})).status_code == 200
    before = await counted()
    assert (await put_limits(running, family, {})).status_code == 200
    assert await counted() - before == 1
    assert logged(caplog, "config_change_not_acknowledged") == []


async def test_an_import_invalidates_the_cache_of_its_own_instance(
    start: Starter, settings: Settings, family: Family, admin: dict[str, str]
) -> None:
    async with proxied(settings.database_url) as proxy:
        here = await start(msgspec.structs.replace(settings, database_direct_url=proxy.dsn))
        proxy.turn("slow")
        assert await limit(here, family) == 120
        await import_adult(here, family, admin)
        assert here.context.configurations.size == 0
        await here.context.configurations.stop()


async def test_a_refused_change_notifies_no_instance(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    payloads: list[object] = []
    await connection.add_listener(CHANNEL, lambda *arguments: payloads.append(arguments[-1]))
    url = CONFIG.format(family.child)
    answer = await running.client.put(url, json=LIMITS, headers=stranger.bearer)
    assert answer.status_code == 403
    assert (await put_limits(running, family, {})).status_code == 200
    async with asyncio.timeout(60):
        while not payloads:
            await connection.fetchval("select 1")
    assert len(payloads) == 1


async def test_the_previous_version_can_read_the_notification(
    running: Running, connection: Connection, family: Family
) -> None:
    """It reads three words, of which the first is the id of an instance."""
    payloads: list[str] = []
    await connection.add_listener(CHANNEL, lambda *arguments: payloads.append(str(arguments[-1])))
    await put_limits(running, family, {})
    async with asyncio.timeout(60):
        while not payloads:
            await connection.fetchval("select 1")
    origin, *changed = payloads[0].split(" ")
    assert changed == [str(family.account), str(family.child)]
    assert origin.startswith(running.context.configurations.changes.instance)


async def test_concurrent_changes_share_acknowledgements(
    running: Running, database: str, connection: Connection
) -> None:
    here = running.context.configurations
    changes = Changes(running.context.settings, here)
    made = [changes.begin() for _ in range(250)]
    statements = (
        "select coalesce(sum(calls), 0)::int from pg_stat_statements as s join pg_database as d "
        "on d.oid = s.dbid where d.datname = current_database() and s.query like '%pg_notify%'"
    )
    before = await connection.fetchval(statements)
    listening = await asyncpg.connect(database)
    try:
        await listening.add_listener(ACKNOWLEDGEMENT_CHANNEL, changes.acknowledged)
        for change in made:
            payload = f"{change.origin} {EVERYTHING}"
            here.changes.changed(here.changes.connection, 0, CHANNEL, payload)
        async with asyncio.timeout(60):
            for change in made:
                await change.wait_for([here.changes.instance])
    finally:
        await listening.close()
    assert all(change.acknowledged >= {here.changes.instance} for change in made)
    assert await connection.fetchval(statements) - before == 3


async def test_instance_that_does_not_listen_uses_no_cached_entry(
    start: Starter, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, deaf = await start(), await start()
    await limit(deaf, family)
    may_listen = asyncio.Event()
    changes = deaf.context.configurations.changes
    lost, listen = changes.connection, changes.listen

    async def later() -> Connection:
        await may_listen.wait()
        return await listen()

    monkeypatch.setattr(changes, "listen", later)
    changes.reconnect()
    await eventually(lambda: not deaf.context.configurations.size)
    assert (await beat(deaf, family))["remaining_minutes"] > 100
    assert (await put_limits(here, family, {})).status_code == 200
    assert (await beat(deaf, family))["remaining_minutes"] == 14.0
    may_listen.set()
    await eventually(lambda: changes.connection is not lost)


async def test_a_listening_connection_that_a_pooler_shares_is_not_named(
    start: Starter, settings: Settings, connection: Connection, database: str
) -> None:
    named = f"select count(*) from pg_stat_activity where application_name like '{LISTENER}%'"
    named += " and datname = current_database()"
    await start(msgspec.structs.replace(settings, statement_cache_size=0))
    assert await connection.fetchval(named) == 0
    own = f"{database}&application_name=another"
    around = {"statement_cache_size": 0, "database_direct_url": own}
    await start(msgspec.structs.replace(settings, **around))
    assert await connection.fetchval(named) == 1


async def test_processes_find_each_other(service: RunningService) -> None:
    connection = await asyncpg.connect(service.dsn)
    try:
        names = await connection.fetch(
            "select application_name from pg_stat_activity where datname = current_database() "
            "and application_name like $1",
            f"{LISTENER}%",
        )
    finally:
        await connection.close()
    assert [len(row["application_name"]) for row in names] == [len(LISTENER) + 32]


async def test_a_notification_during_the_last_statement_of_listening_ends_nothing(
    running: Running, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The acknowledgement waits for its turn on the connection."""
    configurations = running.context.configurations
    listen = asyncpg.Connection.add_listener

    async def notified(opened: Connection, channel: str, callback: Any) -> None:
        await listen(opened, channel, callback)
        if channel == CHANNEL:
            payload = f"{uuid4().hex}.{uuid4().hex} {uuid4()} {uuid4()}"
            callback(opened, 1, channel, payload)
            await opened.execute("select pg_sleep(0.1)")

    monkeypatch.setattr(asyncpg.Connection, "add_listener", notified)
    opened = await configurations.changes.listen()
    acknowledging = configurations.changes.acknowledging
    assert acknowledging is not None
    await acknowledging
    opened.terminate()


ENTRY = re.compile(r"concat_ws\(' ', ('\w+'|\$\d+::text), (\S+, \S+|'\w+')")


def test_statements_write_the_payload_that_the_module_reads() -> None:
    """On its two channels, as `origin account profile` or `origin everything`."""
    notifying = [
        path
        for folder in ("sql", "migrations")
        for path in files(folder).glob("*.sql")
        if "pg_notify(" in path.read_text()
    ]
    assert len(notifying) >= 7
    for path in notifying:
        text = " ".join(path.read_text().split())
        calls = text.split("pg_notify(")[1:]
        for call in calls:
            channel, _, payload = call.strip().partition(", ")
            if channel == f"'{ACKNOWLEDGEMENT_CHANNEL}'":
                assert path.stem == "config_acknowledge"
                continue
            assert channel == f"'{CHANNEL}'", path
            written = ENTRY.match(payload)
            assert written, path
            assert "," in written[2] or written[2] == f"'{EVERYTHING}'", path


def test_statements_look_for_listeners_by_the_name_that_the_module_gives() -> None:
    looking = [
        text
        for path in files("sql").glob("*.sql")
        if re.search(r"application_name (not )?like", text := path.read_text())
    ]
    assert len(looking) >= 5
    for text in looking:
        assert f"like '{LISTENER}%'" in text
