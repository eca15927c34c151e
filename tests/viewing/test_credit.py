"""CREDIT=clock: a heartbeat counts the time since the latest counted one, at most 30 seconds."""

import asyncio
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from service.database.driver import Connection
from service.settings import Settings
from service.viewing import heartbeat_batch
from tests.conftest import NOW, Running, Starter
from tests.family import HEARTBEAT, Family, add_family, session_seconds, used_seconds
from tests.players.test_heartbeat import beat
from tests.players.test_idempotency import keyed
from tests.viewing.test_heartbeat_deadlock import SESSION, until_waiting

DAY_BEGINS = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture
def by_clock(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, credit="clock")


@pytest.fixture
async def running(start: Starter, by_clock: Settings) -> Running:
    """An application that counts by the clock."""
    return await start(by_clock)


async def counted(connection: Connection, family: Family) -> int:
    """The seconds counted in both tables."""
    seconds = await session_seconds(connection, family.child)
    assert await used_seconds(connection, family.child) == seconds
    return seconds


async def clocks(connection: Connection) -> list[datetime]:
    rows = await connection.fetch("select counted_until from viewing_clocks")
    return [row["counted_until"] for row in rows]


async def counts(
    running: Running, connection: Connection, family: Family, seconds: list[float]
) -> list[int]:
    """The seconds of each heartbeat of a session, sent at times after the first, which has 30."""
    session = (await beat(running, family))["session_id"]
    found = [await counted(connection, family)]
    begin = running.clock.fixed
    for second in seconds:
        running.clock.fixed = begin + timedelta(seconds=second)
        await beat(running, family, session_id=session)
        found.append(await counted(connection, family))
    assert found[0] == 30
    return [after - before for before, after in pairwise(found)]


async def test_by_default_each_beat_counts_30_seconds_and_no_clock_is_kept(
    start: Starter, connection: Connection, family: Family
) -> None:
    assert await counts(await start(), connection, family, [0, 1, 40]) == [30, 30, 30]
    assert await clocks(connection) == []


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param([30, 60, 90], [30, 30, 30], id="every 30 seconds"),
        pytest.param([10, 25, 55], [10, 15, 30], id="more often"),
        pytest.param([31, 60, 100, 130], [30, 29, 30, 30], id="late"),
        pytest.param([0, 0, 30], [0, 0, 30], id="at the same moment"),
        pytest.param([2, 32], [2, 30], id="a retry without a key"),
        pytest.param([30, 3630, 3660], [30, 30, 30], id="sleep and wake"),
        pytest.param([30, 7230, 7260], [30, 30, 30], id="clock set forward"),
        pytest.param([30, -3570, -3540, -3510], [30, 0, 30, 30], id="clock set back"),
        pytest.param([30, 20, 50, 80], [30, 0, 20, 30], id="clock a little behind"),
        pytest.param([0.4, 0.8, 1.2, 1.6], [0, 1, 0, 1], id="fractions"),
        pytest.param([29.7, 60, 89.8, 120.2], [30, 30, 30, 30], id="jitter"),
    ],
)
async def test_a_beat_counts_the_seconds_since_the_latest_one_at_most_30(
    running: Running,
    connection: Connection,
    family: Family,
    seconds: list[float],
    expected: list[int],
) -> None:
    assert await counts(running, connection, family, seconds) == expected


async def test_jitter_does_not_change_the_sum(
    running: Running, connection: Connection, family: Family
) -> None:
    jitter = random.Random(7)
    moments = [30 * n + jitter.uniform(-0.2, 0.2) for n in range(1, 61)]
    assert sum(await counts(running, connection, family, moments)) == 1800


async def test_two_players_of_one_profile_do_not_use_up_twice_the_time(
    running: Running, connection: Connection, family: Family
) -> None:
    players = [
        (await beat(running, family, device_id=device))["session_id"] for device in ("tv", "phone")
    ]
    for number in range(1, 21):
        running.clock.fixed = NOW + timedelta(seconds=15 * number)
        await beat(running, family, session_id=players[number % 2])
    assert await counted(connection, family) == 30 + 15 * 20


async def test_two_players_on_two_instances_at_the_same_moments_are_counted_once(
    start: Starter, by_clock: Settings, connection: Connection, family: Family
) -> None:
    """Some beats start a session and end the other's, while that one is continued."""
    instances = [await start(by_clock), await start(by_clock)]
    sessions: list[str | None] = [None, None]
    for number in range(40):
        moment = NOW + timedelta(seconds=30 * number)
        for instance in instances:
            instance.clock.fixed = moment
        if number % 4 == 0:
            sessions[number // 4 % 2] = None
        verdicts: list[dict[str, Any]] = await asyncio.gather(
            *(
                beat(instance, family, session_id=session)
                for instance, session in zip(instances, sessions, strict=True)
            )
        )
        assert {verdict["enforcement"] for verdict in verdicts} == {"allowed"}
        sessions = [verdict["session_id"] for verdict in verdicts]
        assert await counted(connection, family) == 30 * (number + 1)


async def test_batches_of_two_instances_count_the_same_profiles_once(
    start: Starter, by_clock: Settings, connection: Connection
) -> None:
    """No deadlock, although both lock sessions, clocks and balances of the same 30 profiles."""
    instances = [await start(by_clock), await start(by_clock)]
    families = [await add_family(connection) for _ in range(30)]
    for number in range(6):
        for instance in instances:
            instance.clock.fixed = NOW + timedelta(seconds=20 * number)
        verdicts = await asyncio.gather(*(beat(i, f) for i in instances for f in families))
        assert {verdict["enforcement"] for verdict in verdicts} == {"allowed"}
    assert [await counted(connection, family) for family in families] == [30 + 5 * 20] * 30


async def test_a_repetition_counts_nothing_and_leaves_the_clock(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    running.clock.fixed = NOW + timedelta(seconds=20)
    first = await keyed(running, family, "a", session_id=session)
    running.clock.fixed = NOW + timedelta(seconds=30)
    assert await keyed(running, family, "a", session_id=session) == first
    assert await clocks(connection) == [NOW + timedelta(seconds=20)]
    running.clock.fixed = NOW + timedelta(seconds=50)
    await keyed(running, family, "b", session_id=session)
    assert await counted(connection, family) == 30 + 20 + 30


async def test_a_refused_beat_moves_no_clock(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    for body, status in (
        (family.beat(profile_id=stranger.child), 403),
        (family.beat(title_id=family.account), 404),
        (family.beat(session_id=family.account), 404),
    ):
        answer = await running.client.post(HEARTBEAT, json=body, headers=family.bearer)
        assert answer.status_code == status
    assert await clocks(connection) == []


async def test_adults_are_counted_by_the_clock_too(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family, profile_id=family.adult))["session_id"]
    running.clock.fixed = NOW + timedelta(seconds=12)
    await beat(running, family, profile_id=family.adult, session_id=session)
    assert await session_seconds(connection, family.adult) == 42


async def test_exempt_time_is_counted_by_the_clock_too(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    running.clock.fixed = NOW + timedelta(seconds=12)
    await beat(running, family, session_id=session, title_id=family.lesson)
    row = await connection.fetchrow(
        "select used_seconds, educational_seconds from viewing_time_balances"
    )
    assert row is not None
    assert tuple(row) == (30, 12)


async def test_a_long_pause_is_not_counted(
    running: Running, connection: Connection, family: Family
) -> None:
    """Beats that do not count leave the clock, which a second player may need."""
    session = (await beat(running, family))["session_id"]
    for seconds, paused, expected in (
        (30, True, 60),  # the pause begins
        (330, True, 90),  # exactly 300 s after its begin: counts, at most 30
        (360, True, 90),
        (660, False, 90),  # the pause was longer than 300 s
        (690, False, 120),
        (700, False, 130),
    ):
        running.clock.fixed = NOW + timedelta(seconds=seconds)
        await beat(running, family, session_id=session, is_paused=paused)
        assert await counted(connection, family) == expected


async def test_a_paused_player_does_not_shorten_the_time_of_another(
    running: Running, connection: Connection, family: Family
) -> None:
    paused = (await beat(running, family, device_id="tv", is_paused=True))["session_id"]
    running.clock.fixed = NOW + timedelta(seconds=600)
    playing = (await beat(running, family, device_id="phone"))["session_id"]
    for seconds in range(615, 916, 15):
        running.clock.fixed = NOW + timedelta(seconds=seconds)
        is_paused = seconds % 30 == 15
        session = paused if is_paused else playing
        await beat(running, family, session_id=session, is_paused=is_paused)
    assert await counted(connection, family) == 30 + 30 + 300


async def test_a_beat_counts_for_its_viewing_day_only_what_the_day_has_lasted(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = DAY_BEGINS - timedelta(seconds=10)
    session = (await beat(running, family))["session_id"]
    for seconds in (12, 42):
        running.clock.fixed = DAY_BEGINS + timedelta(seconds=seconds)
        await beat(running, family, session_id=session)
    assert await used_seconds(connection, family.child, date(2026, 11, 24)) == 30
    assert await used_seconds(connection, family.child, date(2026, 11, 25)) == 12 + 30
    assert await counted(connection, family) == 72


@pytest.mark.parametrize("interval", ["11", "15", "29.9", "30"])
async def test_no_day_has_more_viewing_than_hours(
    connection: Connection, family: Family, interval: str
) -> None:
    seconds = await connection.fetchval(
        "select sum(viewing_clock_count($1, $2::timestamptz + n * interval '1 second', $2)) "
        "from generate_series(0, 86399.9, $3::numeric) as n",
        family.child,
        DAY_BEGINS,
        Decimal(interval),
    )
    assert 86_400 - 2 * 30 <= seconds <= 86_400


async def test_a_beat_locks_the_session_that_it_ends_before_the_clock(
    start: Starter,
    by_clock: Settings,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The beats of that session lock both in this order; otherwise the two could deadlock."""
    monkeypatch.setattr(heartbeat_batch, "BATCH_LOCK_SECONDS", 5.0)
    running = await start(by_clock)
    await beat(running, family)
    async with connection.transaction():
        await connection.execute(SESSION, family.child)
        starting = asyncio.create_task(beat(running, family))
        await until_waiting(connection)
        await connection.execute(
            "select from viewing_clocks where profile_id = $1 for update nowait", family.child
        )
    assert (await starting)["enforcement"] == "allowed"
