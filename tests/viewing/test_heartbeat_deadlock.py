"""A heartbeat statement that the server ends to resolve a deadlock."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from service.database.driver import Connection
from service.settings import Settings
from service.viewing import heartbeat_batch
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import Family, add_family, session_seconds, used_seconds
from tests.players.test_heartbeat import beat
from tests.viewing.test_heartbeat_writer import RECORDING

SESSION = "select from viewing_sessions where profile_id = $1 for update"
BALANCE = "select from viewing_time_balances where profile_id = $1 for update"
WAITING = (
    f"select exists (select from pg_stat_activity where wait_event_type = 'Lock' and {RECORDING})"
)


@pytest.fixture
async def running(
    start: Starter, settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch
) -> Running:
    """An instance with one connection, which detects deadlocks after 0.3 s, before time-outs."""
    monkeypatch.setattr(heartbeat_batch, "BATCH_LOCK_SECONDS", 5.0)
    owner = await asyncpg.connect(database)
    name = await owner.fetchval("select current_database()")
    await owner.execute(f"alter database {name} set deadlock_timeout = '300ms'")
    await owner.close()
    return await start(msgspec.structs.replace(settings, heartbeat_connections=1))


@pytest.fixture
async def other(database: str) -> AsyncIterator[Connection]:
    """A transaction that the server does not end, because it detects deadlocks later."""
    connection = await asyncpg.connect(database)
    await connection.execute("set deadlock_timeout = '1min'")
    async with connection.transaction():
        yield connection
    await connection.close()


async def until_waiting(connection: Connection) -> None:
    """Returns when the heartbeat statement waits for a lock."""
    await eventually(lambda: connection.fetchval(WAITING))


async def test_beats_of_a_deadlocked_statement_are_repeated_alone_and_counted_once(
    running: Running, connection: Connection, other: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The statement locks sessions in the order of profiles, the other transaction in reverse."""
    families = sorted([await add_family(connection) for _ in range(6)], key=lambda f: f.child)
    sessions = {family: (await beat(running, family))["session_id"] for family in families}
    await other.execute(SESSION, families[-1].child)
    beats = [asyncio.create_task(beat(running, f, session_id=sessions[f])) for f in families]
    await until_waiting(connection)
    # In any batch, the statement has locked the second-last session and waits for the last.
    await other.execute(SESSION, families[-2].child)
    await other.execute("rollback; begin")
    verdicts = await asyncio.gather(*beats)
    assert {verdict["enforcement"] for verdict in verdicts} == {"allowed"}
    [line] = [r for r in caplog.records if r.getMessage() == "heartbeat_batch_failed"]
    assert vars(line)["fields"]["error"].startswith("Deadlock: ")
    assert vars(line)["fields"]["beats"] > 1
    for family in families:
        assert await session_seconds(connection, family.child) == 60
        assert await used_seconds(connection, family.child) == 60


async def test_a_beat_alone_that_deadlocks_is_answered_blocked_and_not_counted(
    running: Running,
    connection: Connection,
    other: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The statement locks the session, then the balance; the other transaction in reverse."""
    session = (await beat(running, family))["session_id"]
    await other.execute(BALANCE, family.child)
    late = asyncio.create_task(beat(running, family, session_id=session))
    await until_waiting(connection)
    await other.execute(SESSION, family.child)
    await other.execute("rollback; begin")
    assert (await late)["enforcement"] == "blocked"
    [line] = [r for r in caplog.records if r.levelname == "ERROR"]
    assert vars(line)["fields"]["error"].startswith("Deadlock: ")
    assert await session_seconds(connection, family.child) == 30
    assert await used_seconds(connection, family.child) == 30
    assert (await beat(running, family, session_id=session))["enforcement"] == "allowed"
    assert await session_seconds(connection, family.child) == 60
