"""Heartbeats of profiles whose policy is not cached: as the others, with one statement."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from msgspec.structs import replace

from service.database.driver import Connection
from service.settings import Settings
from service.viewing import config_cache
from service.viewing.heartbeat_statement import RECORD_HEARTBEATS
from tests.conftest import Running, Starter, logged
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family, add_family, session_seconds, used_seconds
from tests.players.test_heartbeat import beat

EXTRAS: Final = {
    "weekly limit": """
        insert into viewing_schedules (profile_id, weekly_limit_minutes, updated_at)
        values ($1, 600, now())
    """,
    "roll-over": """
        insert into viewing_schedules (profile_id, rollover_max_minutes, updated_at)
        values ($1, 60, now())
    """,
    "time to finish": """
        insert into viewing_schedules (profile_id, finish_minutes, updated_at)
        values ($1, 15, now())
    """,
    "exception": """
        insert into viewing_exceptions (
            profile_id, day, changes_limit, limit_minutes, lifts_downtime, updated_at
        )
        values ($1, '2026-11-25', true, 30, false, now())
    """,
    "lock": "insert into viewing_locks values ($1, '2026-12-01 12:00Z', now())",
    "first day": "update viewing_time_configs set day_floor = '2026-11-25' where profile_id = $1",
    "no exemption": "update viewing_time_configs set educational_exempt = false "
    "where profile_id = $1",
}

# Rules by which a child may have to be warned or blocked whatever it has used.
CLOSE = {"lock"}


def statements(running: Running) -> int:
    return running.context.metrics.heartbeat_statements


async def test_an_uncached_profile_costs_one_statement(
    running: Running, connection: Connection
) -> None:
    first = await add_family(connection, timezone="UTC", reset_hour=6)
    before = statements(running)
    assert (await beat(running, first))["remaining_minutes"] == 119.5
    assert (await beat(running, first, profile_id=first.adult))["remaining_minutes"] is None
    assert statements(running) - before == 2
    await beat(running, first)
    assert (running.context.configurations.misses, running.context.configurations.hits) == (2, 1)


@pytest.mark.parametrize("extra", EXTRAS)
async def test_an_uncached_beat_that_may_announce_a_block_needs_a_second_statement(
    running: Running, connection: Connection, extra: str
) -> None:
    family = await add_family(connection, timezone="UTC", reset_hour=6)
    await connection.execute(EXTRAS[extra], family.child)
    before = statements(running)
    await beat(running, family)
    assert statements(running) - before == (2 if extra in CLOSE else 1)


async def test_a_zone_is_learnt_from_the_first_profile_that_has_it(
    running: Running, connection: Connection
) -> None:
    families = [await add_family(connection, timezone="Asia/Kathmandu") for _ in range(3)]
    costs = []
    for family in families:
        before = statements(running)
        await beat(running, family)
        costs.append(statements(running) - before)
        assert await used_seconds(connection, family.child) == 30
    assert costs == [2, 1, 1]


async def test_a_later_first_day_of_a_strict_account_costs_a_second_statement(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=6)
    await connection.execute("update viewing_time_configs set day_floor = '2026-11-26'")
    before = statements(running)
    assert (await beat(running, family))["used_minutes"] == 0.5
    assert statements(running) - before == 2
    days = await connection.fetch("select reset_date::text from viewing_time_balances")
    assert [tuple(day) for day in days] == [("2026-11-26",)]


async def test_a_child_without_a_configuration_gets_the_defaults_before_it_is_counted(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("delete from viewing_time_configs")
    before = statements(running)
    assert (await beat(running, family))["remaining_minutes"] == 119.5
    assert statements(running) - before == 3
    stored = await connection.fetchrow("select timezone, reset_hour from viewing_time_configs")
    assert stored is not None
    assert tuple(stored) == ("UTC", 6)
    assert await used_seconds(connection, family.child) == 30


async def test_a_configuration_with_nulls_has_the_defaults_in_their_place(
    running: Running, connection: Connection, family: Family
) -> None:
    for column in ("timezone", "reset_hour", "educational_exempt"):
        await connection.execute(
            f"alter table viewing_time_configs alter column {column} drop not null"
        )
    await connection.execute(
        "update viewing_time_configs set timezone = null, educational_exempt = null"
    )
    verdict = await beat(running, family, title_id=family.lesson)
    assert (verdict["used_minutes"], verdict["remaining_minutes"]) == (0.0, 120.0)


async def test_the_stored_configuration_decides_whether_lessons_count(
    running: Running, connection: Connection
) -> None:
    for exempt, used in ((True, 0.0), (False, 0.5)):
        family = await add_family(connection, exempt=exempt)
        assert (await beat(running, family, title_id=family.lesson))["used_minutes"] == used


async def test_an_uncached_beat_at_the_reset_counts_for_the_new_day(
    running: Running, connection: Connection
) -> None:
    """The guesses of the day before are not used, also if the clock goes back."""
    for instant in ("2026-11-25 05:59:59", "2026-11-25 06:00:00", "2026-11-25 05:59:59"):
        running.clock.fixed = datetime.fromisoformat(instant).replace(tzinfo=UTC)
        family = await add_family(connection, reset_hour=6)
        await beat(running, family)
        day = await connection.fetchval(
            "select reset_date::text from viewing_time_balances where profile_id = $1",
            family.child,
        )
        assert day == ("2026-11-24" if instant < "2026-11-25 06" else "2026-11-25")


async def test_one_hundred_first_beats_at_once_are_counted_once_each(
    running: Running, connection: Connection, family: Family
) -> None:
    session = (await beat(running, family))["session_id"]
    running.context.configurations.clear("test")
    verdicts = await asyncio.gather(
        *(beat(running, family, session_id=session) for _ in range(100))
    )
    used = sorted(verdict["used_minutes"] for verdict in verdicts)
    assert used == [0.5 + count / 2 for count in range(1, 101)]
    assert await used_seconds(connection, family.child) == 101 * 30
    assert await session_seconds(connection, family.child) == 101 * 30
    assert running.context.configurations.size == 1


class Delay:
    """Holds back the rows of statements that have committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_committed, self.may_return = asyncio.Event(), asyncio.Event()
        one = RECORD_HEARTBEATS.one

        async def slowly(*arguments: Any, **options: Any) -> Any:
            row = await one(*arguments, **options)
            self.has_committed.set()
            await self.may_return.wait()
            return row

        monkeypatch.setattr(RECORD_HEARTBEATS, "one", slowly)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_change_during_an_uncached_beat_is_not_undone(
    start: Starter, family: Family, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    """In this order: the beat reads the old limits, the change commits, the beat returns."""
    running = await start()
    changing = await start() if elsewhere else running
    session = (await beat(running, family))["session_id"]
    running.context.configurations.clear("test")
    delay = Delay(monkeypatch)
    late = asyncio.create_task(beat(running, family, session_id=session))
    await delay.has_committed.wait()
    url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
    body = {"weekday_limit_minutes": 15, "weekend_limit_minutes": 15}
    answer = await changing.client.put(url, json=body, headers=family.bearer)
    assert answer.status_code == 200
    delay.may_return.set()
    assert (await late)["remaining_minutes"] == 119.0
    assert running.context.configurations.size == 0
    assert (await beat(running, family, session_id=session))["remaining_minutes"] == 13.5


async def test_many_changes_during_an_uncached_beat_are_not_undone(
    running: Running, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_cache, "MAX_DROPPED", 2)
    configurations = running.context.configurations
    session = (await beat(running, family))["session_id"]
    configurations.clear("test")
    delay = Delay(monkeypatch)
    late = asyncio.create_task(beat(running, family, session_id=session))
    await delay.has_committed.wait()
    for changed in (family, Family(), Family(), Family()):
        configurations.drop(changed.account, changed.child)
    delay.may_return.set()
    await late
    assert configurations.size == 0
    await beat(running, family, session_id=session)
    assert configurations.size == 1


async def test_an_instance_that_does_not_listen_still_needs_one_statement(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=6)
    running.context.configurations.trust(False)
    before = statements(running)
    session = (await beat(running, family))["session_id"]
    await connection.execute("update viewing_time_configs set weekday_limit_minutes = 60")
    verdict: dict[str, Any] = await beat(running, family, session_id=session)
    assert verdict["remaining_minutes"] == 59.0
    assert statements(running) - before == 2


async def test_an_uncached_beat_of_a_held_balance_delays_no_other(
    start: Starter,
    settings: Settings,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = await start(replace(settings, request_timeout_seconds=240.0))
    held, other = [await add_family(connection, reset_hour=6) for _ in range(2)]
    await beat(running, held)
    running.context.configurations.clear("test")
    async with connection.transaction():
        await connection.execute(
            "select from viewing_time_balances where profile_id = $1 for update", held.child
        )
        late = asyncio.create_task(beat(running, held))
        assert (await beat(running, other))["enforcement"] == "allowed"
        await eventually(lambda: logged(caplog, "heartbeat_rows_held"))
    assert (await late)["used_minutes"] == 1.0


async def test_beats_of_a_stranger_do_not_fill_the_queue_of_a_profile(
    running: Running, connection: Connection
) -> None:
    victim, stranger = [await add_family(connection, reset_hour=6) for _ in range(2)]
    body = stranger.beat(profile_id=victim.child)
    attack = [
        asyncio.create_task(running.client.post(HEARTBEAT, json=body, headers=stranger.bearer))
        for _ in range(300)
    ]
    await asyncio.sleep(0.01)
    own = [await beat(running, victim) for _ in range(3)]
    statuses = {answer.status_code for answer in await asyncio.gather(*attack)}
    assert [verdict["used_minutes"] for verdict in own] == [0.5, 1.0, 1.5]
    assert statuses <= {403, 429}
    assert running.context.metrics.heartbeats_failed_closed == 0


async def test_an_uncached_beat_behind_another_one_loads_the_policy(
    running: Running, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement has at most one beat of a profile, so the second one waits all the same."""
    delay = Delay(monkeypatch)
    first = asyncio.create_task(beat(running, family, profile_id=family.adult))
    await delay.has_committed.wait()
    second = asyncio.create_task(beat(running, family, profile_id=family.adult))
    await eventually(lambda: running.context.configurations.size)
    delay.may_return.set()
    assert {verdict["enforcement"] for verdict in await asyncio.gather(first, second)} == {
        "allowed"
    }
