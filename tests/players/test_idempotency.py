"""A heartbeat that is repeated with its key is counted once, on any instance."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.database.driver import Connection
from tests.conftest import Running, Starter
from tests.family import HEARTBEAT, Family, add_family, open_sessions, session_seconds, used_seconds
from tests.players.test_heartbeat import beat
from tests.statement_counts import of_requests

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


async def send(
    running: Running, family: Family, key: str | bytes, **members: Any
) -> httpx.Response:
    headers = [*httpx.Headers(family.bearer).raw, (b"Idempotency-Key", _bytes(key))]
    return await running.client.post(HEARTBEAT, json=family.beat(**members), headers=headers)


def _bytes(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.encode()


async def keyed(running: Running, family: Family, key: str, **members: Any) -> dict[str, Any]:
    answer = await send(running, family, key, **members)
    assert answer.status_code == 200, answer.text
    verdict: dict[str, Any] = answer.json()
    return verdict


async def counted(connection: Connection, family: Family) -> int:
    """The seconds counted in both tables."""
    seconds = await session_seconds(connection, family.child)
    assert await used_seconds(connection, family.child) == seconds
    return seconds


async def test_a_repeated_beat_gets_the_state_and_counts_nothing(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    first = await keyed(running, family, "a", session_id=session)
    assert await keyed(running, family, "a", session_id=session) == first
    await keyed(running, family, "b", session_id=session)
    again = await keyed(running, family, "a", session_id=session)
    assert again == {**first, "used_minutes": 1.5, "remaining_minutes": 118.5}
    assert await counted(connection, family) == 90


async def test_a_repeated_first_beat_finds_its_session(
    running: Running, connection: Connection, family: Family
) -> None:
    first = await keyed(running, family, "start")
    assert await keyed(running, family, "start") == first
    assert await open_sessions(connection, family.child) == 1
    assert await counted(connection, family) == 30
    # The same beat from a player that has received the id of the session meanwhile.
    assert await keyed(running, family, "start", session_id=first["session_id"]) == first
    assert await counted(connection, family) == 30


async def test_a_first_beat_sent_to_two_instances_at_once_is_counted_once(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(), await start()]
    for number in range(20):
        verdicts = await asyncio.gather(
            *(keyed(instance, family, f"start-{number}") for instance in instances for _ in (1, 2))
        )
        assert len({verdict["session_id"] for verdict in verdicts}) == 1
        assert {verdict["enforcement"] for verdict in verdicts} <= {"allowed", "warning_15"}
        assert await counted(connection, family) == 30 * (number + 1)
        assert await open_sessions(connection, family.child) == 1


async def test_a_beat_sent_to_two_instances_at_once_is_counted_once(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(), await start()]
    session = (await beat(instances[0], family))["session_id"]
    for number in range(20):
        await asyncio.gather(
            *(keyed(i, family, f"{number}", session_id=session) for i in instances)
        )
    assert await counted(connection, family) == 30 * 21


async def test_the_keys_of_a_hundred_beats_are_kept_across_a_restart(
    start: Starter, connection: Connection, family: Family
) -> None:
    before = await start()
    session = (await keyed(before, family, "0"))["session_id"]
    for number in range(1, 101):
        await keyed(before, family, f"{number}", session_id=session)
    assert await counted(connection, family) == 101 * 30
    after = await start()
    for number in range(1, 101):
        await keyed(after, family, f"{number}", session_id=session)
    assert await counted(connection, family) == 101 * 30
    await keyed(after, family, "0", session_id=session)
    assert await counted(connection, family) == 102 * 30


async def test_buffered_beats_that_are_sent_twice_at_once_are_counted_once(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(), await start()]
    session = (await beat(instances[0], family))["session_id"]
    await asyncio.gather(
        *(
            keyed(instance, family, f"{number}", session_id=session)
            for instance in instances
            for number in range(40)
        )
    )
    assert await counted(connection, family) == 41 * 30


@pytest.mark.parametrize(
    "other",
    [
        {"is_paused": True},
        {"device_id": "tv-2"},
        {"device_type": "tablet"},
        {"title_id": "lesson"},
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_key_for_another_request_is_refused_and_counts_nothing(
    running: Running,
    connection: Connection,
    family: Family,
    other: dict[str, Any],
    is_first: bool,
) -> None:
    changed = {name: family.lesson if value == "lesson" else value for name, value in other.items()}
    session = {} if is_first else {"session_id": (await beat(running, family))["session_id"]}
    await keyed(running, family, "once", **session)
    before = await counted(connection, family)
    answer = await send(running, family, "once", **session, **changed)
    assert answer.status_code == 422
    assert answer.json() == {"detail": "Idempotency-Key has been used for another request"}
    assert await counted(connection, family) == before


async def rows(connection: Connection) -> list[tuple[Any, ...]]:
    """The rows that beats write, with their place and their transaction."""
    return [
        tuple(row)
        for table in ("viewing_sessions", "viewing_time_balances")
        for row in await connection.fetch(f"select ctid, xmin::text, t.* from {table} as t")
    ]


async def test_a_repeated_beat_writes_no_row(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await keyed(running, family, "first"))["session_id"]
    await keyed(running, family, "second", session_id=session)
    before = await rows(connection)
    await keyed(running, family, "first")
    await keyed(running, family, "second", session_id=session)
    assert await rows(connection) == before


async def test_a_key_belongs_to_its_profile_and_its_session(
    running: Running, connection: Connection, family: Family
) -> None:
    other = await add_family(connection)
    sessions = [(await beat(running, family))["session_id"] for _ in range(2)]
    for session in sessions:
        await keyed(running, family, "same", session_id=session)
    theirs = await keyed(running, other, "same")
    assert theirs["session_id"] not in sessions
    assert await counted(connection, family) == 4 * 30
    assert await counted(connection, other) == 30


@pytest.mark.parametrize(
    "key", ["x" * 65, "two words", "tab\tbed", "clé".encode(), "clé".encode("latin-1"), ""]
)
async def test_a_beat_with_an_invalid_key_is_not_counted(
    running: Running, connection: Connection, family: Family, key: str | bytes
) -> None:
    session = (await beat(running, family))["session_id"]
    for members in ({}, {"session_id": session}):
        answer = await send(running, family, key, **members)
        [fault] = answer.json()["detail"]
        assert (answer.status_code, fault["loc"]) == (422, ["header", "idempotency-key"])
    assert await counted(connection, family) == 30


@pytest.mark.parametrize("key", ["x" * 64, "!", "~", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
async def test_any_visible_ascii_is_a_key(
    running: Running, connection: Connection, family: Family, key: str
) -> None:
    first = await keyed(running, family, key)
    assert await keyed(running, family, key) == first
    assert await counted(connection, family) == 30


async def test_an_invalid_key_is_reported_after_the_token_like_other_fields(
    running: Running, family: Family
) -> None:
    headers = {"Idempotency-Key": "two words"}
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
    assert answer.status_code == 401


async def test_a_beat_without_a_key_stores_no_key(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    await beat(running, family, session_id=session)
    assert await connection.fetchval("select count(recent_keys) from viewing_sessions") == 0
    await keyed(running, family, "a", session_id=session)
    kept = await connection.fetchval("select recent_keys from viewing_sessions")
    await beat(running, family, session_id=session)
    assert await connection.fetchval("select recent_keys from viewing_sessions") == kept
    assert await counted(connection, family) == 4 * 30


async def test_only_hashes_of_keys_are_stored(
    running: Running, connection: Connection, family: Family
) -> None:
    key = uuid4()
    await keyed(running, family, str(key))
    stored = await connection.fetchval("select recent_keys from viewing_sessions")
    assert len(stored) == 10
    assert stored[:8] not in (key.bytes[:8], str(key).encode()[:8])


async def test_a_repeated_pause_changes_nothing(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    session = (await beat(running, family))["session_id"]
    running.clock.fixed = NOON + timedelta(seconds=30)
    await keyed(running, family, "pause", session_id=session, is_paused=True)
    before = await connection.fetchrow("select * from viewing_sessions")
    assert before is not None
    assert before["paused_at"] == running.clock.fixed
    for later in (60, 600):
        running.clock.fixed = NOON + timedelta(seconds=later)
        await keyed(running, family, "pause", session_id=session, is_paused=True)
        assert await connection.fetchrow("select * from viewing_sessions") == before
    running.clock.fixed = NOON + timedelta(seconds=601)
    await keyed(running, family, "play", session_id=session)
    await keyed(running, family, "pause", session_id=session, is_paused=True)
    row = await connection.fetchrow("select paused_at, total_seconds from viewing_sessions")
    assert tuple(row or ()) == (None, 60)


async def test_a_first_key_of_yesterday_starts_no_session_today(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await keyed(running, family, "start")
    running.clock.fixed = NOON + timedelta(days=1, seconds=1)
    answer = await send(running, family, "start")
    assert answer.status_code == 422
    assert answer.json() == {"detail": "Idempotency-Key has been used for another request"}
    assert await counted(connection, family) == 30


async def test_a_key_of_another_account_finds_no_session(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    await keyed(running, family, "start")
    answer = await send(running, stranger, "start", profile_id=family.child)
    assert answer.status_code == 403
    assert await counted(connection, family) == 30


async def test_one_statement_a_beat_and_updates_are_heap_only(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await keyed(running, family, "start"))["session_id"]
    before = await of_requests(connection)
    for number in range(100):
        await keyed(running, family, f"{number}", session_id=session)
        await keyed(running, family, f"{number}", session_id=session)
    assert await of_requests(connection) - before == 200
    assert await counted(connection, family) == 101 * 30
    await running.context.writer.stop()  # a connection reports its statistics when it ends
    updated = hot = 0
    while updated < 100:
        row = await connection.fetchrow(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables "
            "where relname = 'viewing_sessions'"
        )
        updated, hot = tuple(row or (0, 0))
        await asyncio.sleep(0.05)
    assert hot / updated >= 0.9
