"""Heartbeats are counted once, judged by the committed row, and blocked on failure."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from service.database.driver import Connection
from service.settings import Settings
from tests.balance_shapes import make_plain
from tests.conftest import Running, Starter, in_process
from tests.eventually import eventually
from tests.family import (
    HEARTBEAT,
    Family,
    add_family,
    bearer,
    open_sessions,
    session_seconds,
    used_seconds,
)
from tests.faults.proxy import proxied
from tests.statement_counts import of_requests

# Each promise holds for a table of balances with partitions and for one without.
pytestmark = pytest.mark.usefixtures("shape")
DENIED = "Profile not found or access denied"


@pytest.fixture(params=["partitioned-short", "plain-ordinary"])
def way(request: pytest.FixtureRequest) -> str:
    """A table and a path: neither depends on the other."""
    name: str = request.param
    return name


@pytest.fixture
def short_path(way: str) -> bool:
    return way.endswith("short")


@pytest.fixture
async def shape(way: str, connection: Connection) -> None:
    if way.startswith("plain"):
        await make_plain(connection)


async def beat(running: Running, family: Family, **members: Any) -> dict[str, Any]:
    answer = await running.client.post(
        HEARTBEAT, json=family.beat(**members), headers=family.bearer
    )
    assert answer.status_code == 200, answer.text
    verdict: dict[str, Any] = answer.json()
    return verdict


async def test_heartbeat_counts_in_both_tables(
    running: Running, connection: Connection, family: Family
) -> None:
    first = await beat(running, family)
    second = await beat(running, family, session_id=first["session_id"])
    assert first["used_minutes"] == 0.5
    assert second == {
        "session_id": first["session_id"],
        "enforcement": "allowed",
        "remaining_minutes": 119.0,
        "used_minutes": 1.0,
        "is_educational": False,
    }
    assert await session_seconds(connection, family.child) == 60
    assert await used_seconds(connection, family.child) == 60


async def test_the_first_of_a_repeated_header_counts(running: Running, family: Family) -> None:
    good, bad = family.bearer["Authorization"], "Bearer bad"
    origin = ("Origin", "http://localhost:5173")
    for usual in ((), (origin,)):  # past Starlette, and through it
        for values, status in (((good, bad), 200), ((bad, good), 401)):
            headers = [*usual, *(("Authorization", value) for value in values)]
            answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=headers)
            assert answer.status_code == status


@pytest.mark.parametrize("mode", ["reset", "black hole"])
async def test_invalid_field_is_503_while_the_database_is_unreachable(
    settings: Settings, family: Family, mode: Literal["reset", "black hole"]
) -> None:
    """A field error is shown to active accounts only, and that needs the database."""
    async with AsyncExitStack() as parts:
        proxy = await parts.enter_async_context(proxied(settings.database_url))
        through = replace(settings, database_url=proxy.dsn, request_timeout_seconds=20.0)
        running = await parts.enter_async_context(in_process(through))
        impatient = replace(through, request_timeout_seconds=0.5)
        object.__setattr__(running.context, "settings", impatient)  # the start may be slow
        limits = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
        proxy.turn(mode)
        for method, url, body in (
            ("POST", HEARTBEAT, family.beat(device_id="x" * 101)),
            ("PUT", limits, {"reset_hour": 99}),
            ("PUT", limits, {"weekday_limit_minutes": 20}),
        ):
            answers = await asyncio.gather(
                *(
                    running.client.request(method, url, json=body, headers=family.bearer)
                    for _ in range(10)
                )
            )
            received = [(a.status_code, a.headers.get("retry-after"), a.text) for a in answers]
            detail = '{"detail":"Service temporarily unavailable"}'
            assert received == [(503, "1", detail)] * 10
        proxy.turn("ok")


async def test_a_hundred_beats_of_one_session_at_once_are_all_counted(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    verdicts = await asyncio.gather(
        *(beat(running, family, session_id=session) for _ in range(100))
    )
    assert {v["used_minutes"] for v in verdicts} == {n / 2 for n in range(2, 102)}
    assert await session_seconds(connection, family.child) == 101 * 30
    assert await used_seconds(connection, family.child) == 101 * 30


async def test_parallel_first_beats_leave_one_open_session(
    running: Running, connection: Connection, family: Family
) -> None:
    verdicts = await asyncio.gather(*(beat(running, family) for _ in range(50)))
    assert len({v["session_id"] for v in verdicts}) == 50
    assert await open_sessions(connection, family.child) == 1
    assert await used_seconds(connection, family.child) == 50 * 30


async def test_parallel_first_beats_of_two_instances_leave_one_open_session(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(), await start()]
    for _ in range(20):
        await asyncio.gather(*(beat(instance, family) for instance in instances for _ in range(3)))
        assert await open_sessions(connection, family.child) == 1
    assert await session_seconds(connection, family.child) == 120 * 30


async def test_two_instances_with_the_same_profiles_never_deadlock(
    start: Starter, connection: Connection
) -> None:
    instances = [await start(), await start()]
    families = [await add_family(connection) for _ in range(12)]
    sessions = {f.child: (await beat(instances[0], f))["session_id"] for f in families}

    async def watch(instance: Running, family: Family, number: int) -> None:
        for turn in range(8):
            known = None if (turn + number) % 3 == 0 else sessions[family.child]
            await beat(instance, family, session_id=known)

    await asyncio.gather(
        *(watch(i, f, n + k) for k, i in enumerate(instances) for n, f in enumerate(families))
    )
    for instance in instances:
        assert instance.context.metrics.heartbeats_failed_closed == 0
    for family in families:
        assert await session_seconds(connection, family.child) == 17 * 30
        assert await used_seconds(connection, family.child) == 17 * 30
        assert await open_sessions(connection, family.child) <= 1


@pytest.mark.warm
async def test_one_statement_a_beat_and_two_for_the_first_profile_of_a_zone(
    running: Running, connection: Connection, family: Family
) -> None:
    before = await of_requests(connection)
    session = (await beat(running, family))["session_id"]
    cold = await of_requests(connection)
    for _ in range(10):
        await beat(running, family, session_id=session)
    assert cold - before == 2
    assert await of_requests(connection) - cold == 10
    assert running.context.metrics.heartbeat_statements == 12


async def test_a_missing_configuration_is_stored_once_for_fifty_first_beats(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("delete from viewing_time_configs")
    await asyncio.gather(*(beat(running, family) for _ in range(50)))
    rows = await connection.fetch("select timezone, reset_hour from viewing_time_configs")
    assert [tuple(row) for row in rows] == [("UTC", 6)]
    # Each beat was refused for its unknown viewing day and came again; they shared the load.
    assert running.context.metrics.heartbeat_statements <= 50 + 1 + 50


async def test_a_long_pause_does_not_count_and_its_end_does_not_either(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = datetime(2026, 11, 24, 12, tzinfo=UTC)
    session = (await beat(running, family))["session_id"]
    for seconds, paused, counted in (
        (30, True, 60),
        (330, True, 90),  # exactly 300 s after the pause began
        (331, True, 90),
        (360, False, 90),  # the pause was longer than 300 s
        (390, False, 120),
        (420, True, 150),
        (700, False, 180),  # a short pause counts throughout
    ):
        at = datetime(2026, 11, 24, 12, tzinfo=UTC) + timedelta(seconds=seconds)
        running.clock.fixed = at
        verdict = await beat(running, family, session_id=session, is_paused=paused)
        assert verdict["used_minutes"] == counted / 60, seconds
    assert await session_seconds(connection, family.child) == 180


async def test_the_day_turns_at_the_reset_hour_of_the_childs_zone(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, timezone="America/New_York", reset_hour=3, limit=15)
    running.clock.fixed = datetime(2026, 3, 8, 6, 59, 30, tzinfo=UTC)
    session = (await beat(running, family))["session_id"]
    running.clock.fixed = datetime(2026, 3, 8, 7, 0, 0, tzinfo=UTC)
    assert (await beat(running, family, session_id=session))["used_minutes"] == 0.5
    assert await used_seconds(connection, family.child, date(2026, 3, 7)) == 30
    assert await used_seconds(connection, family.child, date(2026, 3, 8)) == 30


async def test_a_stored_name_that_is_not_a_zone_counts_as_utc_and_is_logged_once(
    running: Running, connection: Connection, caplog: Any
) -> None:
    families = [await add_family(connection, timezone="'UTC'") for _ in range(3)]
    with caplog.at_level("WARNING", "viewing_time.config_cache"):
        for family in families:
            assert (await beat(running, family))["enforcement"] == "allowed"
    assert [r.getMessage() for r in caplog.records] == ["timezone_unknown_counts_as_utc"]


async def test_refused_beats_write_nothing_and_delay_no_other(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    good = [await add_family(connection) for _ in range(20)]
    sessions = [(await beat(running, f))["session_id"] for f in good]
    inactive = await add_family(connection)
    await beat(running, inactive)
    await connection.execute("update users set is_active = false where id = $1", inactive.account)
    foreign_session = (await beat(running, stranger))["session_id"]
    bad = [
        (family.beat(profile_id=stranger.child), family.bearer, 403, DENIED),
        (family.beat(title_id=uuid4()), family.bearer, 404, "Title not found"),
        (family.beat(session_id=uuid4()), family.bearer, 404, "Session not found"),
        (
            good[0].beat(session_id=UUID(foreign_session)),
            good[0].bearer,
            403,
            "Session does not belong to this profile",
        ),
        (inactive.beat(), inactive.bearer, 401, "User not found or inactive"),
    ]
    answers = await asyncio.gather(
        *(running.client.post(HEARTBEAT, json=body, headers=h) for body, h, _, _ in bad),
        *(beat(running, f, session_id=s) for f, s in zip(good, sessions, strict=True)),
    )
    for answer, (_, _, status, detail) in zip(answers, bad, strict=False):
        assert isinstance(answer, httpx.Response)
        assert (answer.status_code, answer.json()) == (status, {"detail": detail})
    for watched in good:
        assert await session_seconds(connection, watched.child) == 60
    assert await session_seconds(connection, stranger.child) == 30
    assert await session_seconds(connection, inactive.child) == 30
    assert await open_sessions(connection, stranger.child) == 1


async def test_a_profile_that_becomes_adult_or_child_is_judged_by_the_table(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    turn = "update profiles set is_kids = not is_kids where id = $1"
    await connection.execute(turn, family.child)
    verdict = await beat(running, family, session_id=session)
    assert (verdict["used_minutes"], verdict["remaining_minutes"]) == (0.0, None)
    await connection.execute(turn, family.child)
    assert (await beat(running, family, session_id=session))["used_minutes"] == 1.0


async def test_fails_closed_and_recovers(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    await connection.execute("alter table viewing_sessions rename to hidden")
    verdict = await beat(running, family, session_id=session)
    assert verdict == {
        "session_id": session,
        "enforcement": "blocked",
        "remaining_minutes": 0.0,
        "used_minutes": 0.0,
        "is_educational": False,
    }
    assert UUID((await beat(running, family))["session_id"]).version == 4
    await connection.execute("alter table hidden rename to viewing_sessions")
    assert (await beat(running, family, session_id=session))["used_minutes"] == 1.0
    assert await session_seconds(connection, family.child) == 60


async def test_a_full_queue_answers_503_at_once(
    start: Starter, settings: Settings, connection: Connection, family: Family
) -> None:
    running = await start(msgspec.structs.replace(settings, heartbeat_queue_max=3))
    session = (await beat(running, family))["session_id"]
    answers = await asyncio.gather(
        *(
            running.client.post(
                HEARTBEAT, json=family.beat(session_id=session), headers=family.bearer
            )
            for _ in range(10)
        )
    )
    refused = [a for a in answers if a.status_code == 503]
    assert refused
    assert {a.headers["retry-after"] for a in refused} == {"1"}
    assert await session_seconds(connection, family.child) == (11 - len(refused)) * 30


async def test_a_beat_whose_client_has_disconnected_is_counted(
    running: Running, connection: Connection, family: Family
) -> None:
    session = UUID((await beat(running, family))["session_id"])
    async with connection.transaction():
        await connection.execute("select from viewing_sessions where id = $1 for update", session)
        request = asyncio.create_task(beat(running, family, session_id=session))
        await eventually(lambda: running.context.writer.waiting)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await eventually(lambda: not running.context.writer.waiting)
    assert await session_seconds(connection, family.child) == 60


async def test_a_token_of_a_deactivated_account_is_refused_at_once(
    running: Running, connection: Connection, family: Family
) -> None:
    await beat(running, family)
    await connection.execute("update users set is_active = false where id = $1", family.account)
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert answer.status_code == 401
    assert answer.json() == {"detail": "User not found or inactive"}


async def test_malformed_json_comes_before_the_token_and_the_token_before_fields(
    client: httpx.AsyncClient, family: Family
) -> None:
    async def status(content: str, headers: dict[str, str]) -> int:
        json = {"Content-Type": "application/json", **headers}
        return (await client.post(HEARTBEAT, content=content, headers=json)).status_code

    assert await status("{", {}) == 422
    assert await status("{}", {}) == 401
    assert await status("", {}) == 401
    assert await status("{}", bearer(uuid4())) == 401
    assert await status("{}", family.bearer) == 422


async def test_bodies_are_bounded(client: httpx.AsyncClient, family: Family) -> None:
    fits = family.beat(padding="x" * (63 * 1024))
    assert (await client.post(HEARTBEAT, json=fits, headers=family.bearer)).status_code == 200
    large = await client.post(HEARTBEAT, content=b" " * (1 << 20), headers=family.bearer)
    assert (large.status_code, large.headers["connection"]) == (413, "close")


async def test_a_balance_that_an_operator_moved_blocks_no_later_day(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    await connection.execute("update viewing_time_balances set reset_date = reset_date - 7")
    for used in (0.5, 1.0):
        verdict = await beat(running, family, session_id=session)
        assert (verdict["enforcement"], verdict["used_minutes"]) == ("allowed", used)


async def test_ids_of_new_rows_sort_by_time(running: Running, connection: Connection) -> None:
    families = [await add_family(connection) for _ in range(3)]
    await connection.execute("delete from viewing_time_configs")
    start = datetime(2026, 11, 26, 12, tzinfo=UTC)
    grants = "/api/v1/parental-controls/profiles/{}/viewing-time/grant"
    for number, family in enumerate(families):
        running.clock.fixed = start + timedelta(seconds=number)
        await beat(running, family)
        url = grants.format(family.child)
        answer = await running.client.post(url, json={"minutes": 15}, headers=family.bearer)
        assert answer.status_code == 200
    tables = (
        "viewing_sessions",
        "viewing_time_balances",
        "viewing_time_configs",
        "time_grants",
    )
    for table in tables:
        rows = await connection.fetch(f"select profile_id, id from {table} order by id")
        assert [row["profile_id"] for row in rows] == [family.child for family in families]
        assert {UUID(str(row["id"])).version for row in rows} == {7}


async def test_a_clock_that_is_set_back_ends_no_session_before_its_start(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = datetime(2026, 11, 26, 12, tzinfo=UTC)
    first = (await beat(running, family))["session_id"]
    running.clock.fixed -= timedelta(days=400)
    await beat(running, family, session_id=first)
    second = (await beat(running, family))["session_id"]
    running.clock.fixed -= timedelta(hours=1)
    url = f"/api/v1/viewing-time/session/{second}/end"
    assert (await running.client.post(url, headers=family.bearer)).status_code == 200
    early = await connection.fetchval(
        "select count(*) from viewing_sessions "
        "where ended_at < started_at or last_heartbeat_at < started_at"
    )
    assert (early, await open_sessions(connection, family.child)) == (0, 0)


async def test_a_paused_beat_that_does_not_count_writes_no_balance(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = datetime(2026, 11, 26, 12, tzinfo=UTC)
    session = (await beat(running, family, is_paused=True))["session_id"]
    before = await connection.fetch("select ctid, xmin::text from viewing_time_balances")
    running.clock.fixed += timedelta(seconds=301)
    verdict = await beat(running, family, session_id=session, is_paused=True)
    assert (verdict["used_minutes"], verdict["remaining_minutes"]) == (0.5, 119.5)
    assert await connection.fetch("select ctid, xmin::text from viewing_time_balances") == before
    running.clock.fixed += timedelta(days=1)
    verdict = await beat(running, family, session_id=session, is_paused=True)
    assert (verdict["used_minutes"], verdict["remaining_minutes"]) == (0.0, 120.0)
