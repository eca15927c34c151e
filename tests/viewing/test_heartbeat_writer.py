"""Batches of heartbeats under faults: one bad beat fails alone, and no beat is counted twice."""

import asyncio
import os
import signal
from datetime import date, timedelta
from functools import partial
from time import monotonic
from typing import Any, Literal
from uuid import UUID, uuid4

import asyncpg
import httpx
import msgspec
import pytest

from service.database.driver import Connection
from service.database_errors import LockTimeout
from service.errors import ClientError
from service.settings import Settings
from service.viewing.announcements import NEVER
from service.viewing.heartbeat_queue import HeartbeatQueue
from service.viewing.heartbeat_statement import RECORD_HEARTBEATS, Beat
from service.viewing.recorded_row import RecordedRow
from tests.conftest import NOW, Running, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family, add_family, session_seconds, used_seconds
from tests.players.test_heartbeat import beat

RECORDING = "query like '-- Records a batch of heartbeats%' and datname = current_database()"


async def watching(running: Running, connection: Connection, count: int) -> dict[Family, str]:
    """Adds families without a limit, each with an open session."""
    families = [await add_family(connection, limit=None) for _ in range(count)]
    return {family: (await beat(running, family))["session_id"] for family in families}


def beat_of(account: UUID) -> Beat:
    """A beat of a new profile of the account."""
    day = date(2026, 11, 26)
    ids = (uuid4(), account, uuid4(), uuid4())
    return Beat(*ids, False, None, None, False, day, True, None, False, 0, None, False, NEVER, None)


def is_allowed(verdict: dict[str, Any]) -> bool:
    return bool(verdict["enforcement"] == "allowed")


async def all_beat(running: Running, sessions: dict[Family, str]) -> list[dict[str, Any]]:
    return await asyncio.gather(
        *(beat(running, family, session_id=session) for family, session in sessions.items())
    )


async def test_one_poisoned_beat_fails_alone(running: Running, connection: Connection) -> None:
    sessions = await watching(running, connection, 21)
    poisoned, *good = sessions
    await connection.execute(
        "update viewing_sessions set total_seconds = 2147483647 where profile_id = $1",
        poisoned.child,
    )
    first, *rest = await all_beat(running, sessions)
    assert first["enforcement"] == "blocked"
    assert {verdict["enforcement"] for verdict in rest} == {"allowed"}
    assert await used_seconds(connection, poisoned.child) == 30
    for family in good:
        assert await session_seconds(connection, family.child) == 60
        assert await used_seconds(connection, family.child) == 60


async def test_one_locked_session_delays_no_other_profile(
    start: Starter, settings: Settings, connection: Connection
) -> None:
    running = await start(msgspec.structs.replace(settings, request_timeout_seconds=20.0))
    sessions = await watching(running, connection, 21)
    locked, *good = sessions
    async with connection.transaction():
        await connection.execute(
            "select from viewing_sessions where profile_id = $1 for update", locked.child
        )
        first, *rest = await all_beat(running, sessions)
    assert first["enforcement"] == "blocked"
    assert {verdict["enforcement"] for verdict in rest} == {"allowed"}
    assert await session_seconds(connection, locked.child) == 30
    for family in good:
        assert await session_seconds(connection, family.child) == 60


async def test_a_locked_title_delays_only_its_new_sessions(
    running: Running, connection: Connection
) -> None:
    sessions = await watching(running, connection, 40)
    starting = [await add_family(connection) for _ in range(12)]
    for other in starting:  # their configurations are cached, so that all beats go together
        await beat(running, other)
    title = starting[0].title
    async with connection.transaction():
        await connection.execute("select from titles where id = $1 for update", title)
        starts = asyncio.gather(*(beat(running, f, title_id=str(title)) for f in starting))
        verdicts = await all_beat(running, sessions)
        assert {verdict["enforcement"] for verdict in await starts} == {"blocked"}
    assert {verdict["enforcement"] for verdict in verdicts} == {"allowed"}
    await eventually(lambda: beat(running, starting[0], title_id=str(title)), until=is_allowed)
    assert await used_seconds(connection, starting[0].child) == 60


@pytest.mark.parametrize("connections", [2, 4])
@pytest.mark.parametrize(
    "row",
    [
        "viewing_time_balances where profile_id = $1",
        "viewing_sessions where profile_id = $1",
        "viewing_clocks where profile_id = $1",
        "profiles where id = $1",
    ],
)
async def test_locked_row_delays_only_its_own_child(
    start: Starter,
    settings: Settings,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
    row: str,
    connections: int,
) -> None:
    credit: Literal["beats", "clock"] = "clock" if "clocks" in row else "beats"
    running = await start(
        msgspec.structs.replace(settings, heartbeat_connections=connections, credit=credit)
    )
    sessions = await watching(running, connection, 12)
    held, *good = sessions
    beats = 0

    async def retry() -> None:
        while True:  # a player that starts a session each time, which needs all rows
            assert (await beat(running, held))["enforcement"] == "blocked"

    async with connection.transaction():
        await connection.execute(f"select from {row} for update", held.child)
        player = asyncio.create_task(retry())
        ends = monotonic() + 2.5
        while monotonic() < ends:
            running.clock.fixed += timedelta(seconds=30)
            verdicts = await asyncio.gather(
                *(beat(running, family, session_id=sessions[family]) for family in good)
            )
            assert {verdict["enforcement"] for verdict in verdicts} == {"allowed"}
            beats += 1
        player.cancel()
        await asyncio.gather(player, return_exceptions=True)
    for family in good:
        assert await session_seconds(connection, family.child) == 30 * (beats + 1)
    # At most one statement with other beats ran into the held row; then only probes did.
    shared = [
        line
        for line in (vars(record).get("fields", {}) for record in caplog.records)
        if line.get("beats", 0) > 1 and "LockNotAvailable" in line.get("error", "")
    ]
    assert len(shared) <= 1
    await eventually(lambda: beat(running, held), until=is_allowed)


@pytest.mark.parametrize("kind", ["balances", "titles", "uncommitted balances"])
async def test_many_locked_rows_delay_no_other_profile(
    running: Running, connection: Connection, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    held = [*await watching(running, connection, 20)]
    sessions = await watching(running, connection, 8)
    if kind == "uncommitted balances":
        await connection.execute(
            "delete from viewing_time_balances where profile_id = any ($1)",
            [family.child for family in held],
        )
    statements = {
        "balances": "select from viewing_time_balances where profile_id = any ($1) for update",
        "titles": "select from titles where id = any ($1) for update",
        "uncommitted balances": "insert into viewing_time_balances "
        "(id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override) "
        f"select gen_random_uuid(), id, '{NOW:%Y-%m-%d}'::date, 0, 0, false "
        "from unnest($1::uuid[]) as h (id)",
    }
    ids = [family.title if kind == "titles" else family.child for family in held]

    async def play(number: int, family: Family) -> None:
        await asyncio.sleep(number * 0.1)  # one after the other, so that each is found separately
        while True:
            assert (await beat(running, family))["enforcement"] == "blocked"
            await asyncio.sleep(0.3)

    async with connection.transaction():
        await connection.execute(statements[kind], ids)
        players = [asyncio.create_task(play(*one)) for one in enumerate(held)]
        ends = monotonic() + 2.5
        while monotonic() < ends:
            verdicts = await asyncio.gather(
                *(beat(running, family, session_id=session) for family, session in sessions.items())
            )
            assert {verdict["enforcement"] for verdict in verdicts} == {"allowed"}
        for player in players:
            player.cancel()
        await asyncio.gather(*players, return_exceptions=True)
    lines = [
        vars(record)["fields"]
        for record in caplog.records
        if record.getMessage() == "heartbeat_lock_timeout"
    ]
    shared = [line for line in lines if line["beats"] > 1]
    if kind != "uncommitted balances":  # which are invisible until a statement waits for them
        assert len(shared) <= 2
    for family in held:
        await eventually(partial(beat, running, family), until=is_allowed)


async def test_heartbeat_on_a_briefly_locked_row_is_delayed_and_counted(
    running: Running, connection: Connection
) -> None:
    sessions = await watching(running, connection, 10)
    held = next(iter(sessions))
    async with connection.transaction():
        await connection.execute(
            "select from viewing_sessions where profile_id = $1 for update", held.child
        )
        beats = asyncio.create_task(all_beat(running, sessions))
        await asyncio.sleep(0.25)
        assert not beats.done()
    assert {verdict["enforcement"] for verdict in await beats} == {"allowed"}
    assert await session_seconds(connection, held.child) == 60


async def test_suspects_are_written_before_a_stop(running: Running, connection: Connection) -> None:
    sessions = await watching(running, connection, 5)
    held = next(iter(sessions))
    async with connection.transaction():
        await connection.execute(
            "select from viewing_sessions where profile_id = $1 for update", held.child
        )
        beats = asyncio.create_task(all_beat(running, sessions))
        await asyncio.sleep(0.2)
        stop = asyncio.create_task(running.context.writer.stop())
        await asyncio.sleep(0.05)
    await stop
    assert {verdict["enforcement"] for verdict in await beats} == {"allowed"}


async def test_a_statement_that_is_stuck_delays_only_its_own_beats(
    running: Running, connection: Connection
) -> None:
    sessions = await watching(running, connection, 30)
    backend = await connection.fetchval(
        f"select pid from pg_stat_activity where {RECORDING} order by pid limit 1"
    )
    os.kill(backend, signal.SIGSTOP)
    try:
        tasks = []
        for family, session in sessions.items():
            tasks.append(asyncio.create_task(beat(running, family, session_id=session)))
            await asyncio.wait(tasks[-1:], timeout=0.5)
        await eventually(lambda: sum(task.done() for task in tasks) >= len(sessions) - 1)
        verdicts = [task.result() for task in tasks if task.done()]
        allowed = sum(verdict["enforcement"] == "allowed" for verdict in verdicts)
        assert allowed >= len(sessions) - 1
    finally:
        os.kill(backend, signal.SIGCONT)
        await asyncio.gather(*tasks)


async def test_the_queue_is_bounded_for_each_profile(
    start: Starter, settings: Settings, connection: Connection
) -> None:
    running = await start(msgspec.structs.replace(settings, heartbeat_queue_max=500))
    sessions = await watching(running, connection, 37)
    hot, *others = sessions

    async def send(family: Family) -> httpx.Response:
        body = family.beat(session_id=sessions[family])
        return await running.client.post(HEARTBEAT, json=body, headers=family.bearer)

    flood = [asyncio.create_task(send(hot)) for _ in range(1500)]
    answers = await asyncio.gather(*(send(family) for family in others for _ in range(3)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["enforcement"] for answer in answers} == {"allowed"}
    of_hot = await asyncio.gather(*flood)
    refused = [answer for answer in of_hot if answer.status_code == 429]
    assert {answer.status_code for answer in of_hot} == {200, 429}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert {answer.text for answer in refused} == {'{"detail":"Too many requests are waiting"}'}
    accepted = len(of_hot) - len(refused)
    counted = sum(
        answer.json()["enforcement"] != "blocked" for answer in of_hot if answer.is_success
    )
    assert await session_seconds(connection, hot.child) >= 30 * (counted + 1)
    assert accepted < 500


async def test_the_queue_is_bounded_for_each_account() -> None:
    queue = HeartbeatQueue(1000, 256)
    account = uuid4()
    beats = [beat_of(account) for _ in range(401)]
    for one in beats[:400]:
        queue.add(one)
    with pytest.raises(ClientError) as refused:
        queue.add(beats[400])
    assert refused.value.status == 429
    queue.add(beat_of(uuid4()))
    assert queue.waiting == 401


async def test_connection_that_cannot_be_prepared_is_closed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    unprepared: list[Connection] = []

    async def one(connection: Connection, *_: object, **__: object) -> None:
        unprepared.append(connection)
        raise LockTimeout("held")

    monkeypatch.setattr(RECORD_HEARTBEATS, "one", one)
    with pytest.raises(LockTimeout):
        await running.context.writer._open()
    assert [connection.is_closed() for connection in unprepared] == [True]


async def test_a_statement_killed_in_flight_counts_nothing_and_is_not_repeated(
    running: Running, connection: Connection, postgres_dsn: str
) -> None:
    sessions = await watching(running, connection, 10)
    held = next(iter(sessions))
    async with connection.transaction():
        await connection.execute(
            "select from viewing_sessions where profile_id = $1 for update", held.child
        )
        beats = asyncio.create_task(all_beat(running, sessions))
        kill = (
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            f"where wait_event_type = 'Lock' and {RECORDING}"
        )
        await eventually(lambda: connection.fetchval(kill))
        verdicts = await beats
    for family, verdict in zip(sessions, verdicts, strict=True):
        counted = verdict["enforcement"] == "allowed"
        assert await session_seconds(connection, family.child) == 30 + 30 * counted
        assert await used_seconds(connection, family.child) == 30 + 30 * counted
    assert "blocked" in {verdict["enforcement"] for verdict in verdicts}
    again = await all_beat(running, sessions)
    assert {verdict["enforcement"] for verdict in again} == {"allowed"}


async def test_lost_connections_are_reopened(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    for _ in range(3):
        killed = await connection.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            f"where state = 'idle' and {RECORDING}"
        )
        assert killed == running.context.settings.heartbeat_connections
        count = f"select count(*) from pg_stat_activity where {RECORDING}"
        await eventually(partial(connection.fetchval, count), until=lambda left: left == 0)
        # The driver needs a moment to notice; a beat before that may or may not be recorded.
        await asyncio.sleep(0.1)
        assert (await beat(running, family, session_id=session))["enforcement"] == "allowed"
        while (
            await connection.fetchval(
                f"select count(*) from pg_stat_activity where state = 'idle' and {RECORDING}"
            )
            < running.context.settings.heartbeat_connections
        ):
            await asyncio.gather(*(beat(running, family, session_id=session) for _ in range(4)))
    assert running.context.metrics.heartbeats_failed_closed == 0


async def test_beats_share_statements(running: Running, connection: Connection) -> None:
    sessions = await watching(running, connection, 100)
    before = running.context.metrics.heartbeat_statements
    await all_beat(running, sessions)
    assert running.context.metrics.heartbeat_statements - before <= 10


async def test_updates_are_heap_only(running: Running, connection: Connection) -> None:
    sessions = await watching(running, connection, 20)
    for _ in range(30):
        await all_beat(running, sessions)
    for _ in range(100):
        await all_beat(running, sessions)  # a backend reports its statistics with a later statement
        rows = await connection.fetch(
            "select sum(n_tup_upd)::int as n_tup_upd, sum(n_tup_hot_upd)::int as n_tup_hot_upd "
            "from pg_stat_user_tables where relname ~ '^viewing_(sessions|time_balances)' "
            "group by relname ~ 'sessions'"  # balances have a table a month
        )
        if min(row["n_tup_upd"] for row in rows) >= 600:
            break
        await asyncio.sleep(0.1)
    for row in rows:
        assert row["n_tup_upd"] >= 600
        assert row["n_tup_hot_upd"] / row["n_tup_upd"] >= 0.9


async def test_waiting_beats_are_written_before_a_stop(
    running: Running, connection: Connection, settings: Any
) -> None:
    sessions = await watching(running, connection, 30)
    async with connection.transaction():
        await connection.execute("lock table titles")
        beats = asyncio.create_task(all_beat(running, sessions))
        await eventually(lambda: running.context.writer.waiting == 30)
        stop = asyncio.create_task(running.context.writer.stop())
        await asyncio.sleep(0)
    await stop
    verdicts = await beats
    counted = sum(verdict["enforcement"] == "allowed" for verdict in verdicts)
    rows = await connection.fetchval("select sum(total_seconds)::int from viewing_sessions")
    assert rows == 30 * 30 + counted * 30
    assert counted == 30
    probe = await asyncpg.connect(settings.database_url)
    left = await probe.fetchval(f"select count(*) from pg_stat_activity where {RECORDING}")
    await probe.close()
    assert left == 0


async def test_a_bug_in_the_writer_ends_no_connection(
    running: Running, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = (await beat(running, family))["session_id"]

    def fails(row: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(RecordedRow, "balances", fails)
    for _ in range(2 * running.context.settings.heartbeat_connections):
        assert (await beat(running, family, session_id=session))["enforcement"] == "blocked"
    monkeypatch.undo()
    assert (await beat(running, family, session_id=session))["enforcement"] == "allowed"
    assert running.context.writer.waiting == 0
