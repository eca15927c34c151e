"""Erasure deletes everything about one child and logs it without ids."""

import asyncio
import logging
from datetime import date
from uuid import UUID, uuid4

import httpx
import pytest

from service.database.driver import Connection
from service.platform.erasure import Erased, erase
from service.settings import Settings
from tests.about_profiles import about_profiles, add_rows, counts
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, SECRET, Family, add_family, bearer, open_sessions, used_seconds

NOTHING = {"sessions": 0, "balances": 0, "grants": 0, "configurations": 0}


@pytest.fixture
async def admin(connection: Connection) -> UUID:
    """An administrator's account."""
    account = uuid4()
    await connection.execute(
        "insert into users (id, email, password_hash, is_admin, is_active) "
        "values ($1, 'admin@example.test', 'x', true, true)",
        account,
    )
    return account


async def ask(running: Running, profile: object, account: UUID) -> httpx.Response:
    url = f"/api/v1/admin/profiles/{profile}/viewing-data"
    return await running.client.delete(url, headers=bearer(account))


async def watch(running: Running, connection: Connection, family: Family) -> None:
    """Adds two sessions and a balance by heartbeat, an old balance and two grants."""
    for title in (family.title, family.lesson):
        body = family.beat(title_id=title)
        answer = await running.client.post(HEARTBEAT, json=body, headers=family.bearer)
        assert answer.json()["enforcement"] == "allowed"
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds) "
        "values (gen_random_uuid(), $1, '2020-01-01', 60)",
        family.child,
    )
    await connection.execute(
        "insert into time_grants (id, profile_id, granted_by_user_id, is_remote) "
        "select gen_random_uuid(), $1, $2, true from generate_series(1, 2)",
        family.child,
        family.account,
    )


async def rows(connection: Connection, profile: UUID) -> list[int]:
    """The number of rows about a profile in each table, the profile itself last."""
    tables = ("viewing_sessions", "viewing_time_balances", "time_grants", "viewing_time_configs")
    counts = [
        await connection.fetchval(f"select count(*) from {table} where profile_id = $1", profile)
        for table in tables
    ]
    own = await connection.fetchval("select count(*) from profiles where id = $1", profile)
    return [*counts, own]


async def test_erasure_deletes_everything_about_one_child_only(
    running: Running, connection: Connection, family: Family, admin: UUID
) -> None:
    other = await add_family(connection)
    for one in (family, other):
        await watch(running, connection, one)
    answer = await ask(running, family.child, admin)
    deleted = {"sessions": 2, "balances": 2, "grants": 2, "configurations": 1}
    assert (answer.status_code, answer.json()) == (
        200,
        {"profile_id": str(family.child), **deleted},
    )
    assert await rows(connection, family.child) == [0, 0, 0, 0, 1]
    assert await rows(connection, other.child) == [2, 2, 2, 1, 1]
    again = await ask(running, family.child, admin)
    assert again.json() == {"profile_id": str(family.child), **NOTHING}


async def test_every_table_with_a_profile_is_covered_by_erasure(
    running: Running, connection: Connection, family: Family, admin: UUID
) -> None:
    tables = await about_profiles(connection)
    assert {"viewing_sessions", "viewing_schedules", "viewing_exceptions"} <= tables.keys()
    other = await add_family(connection)
    for one in (family, other):
        await add_rows(connection, one)
        assert 0 not in (await counts(connection, tables, one.child)).values()
    assert (await ask(running, family.child, admin)).status_code == 200
    only_erased = {**dict.fromkeys(tables, 0), "viewing_events": 1}
    assert await counts(connection, tables, family.child) == only_erased
    assert (
        await connection.fetchval(
            "select type from viewing_events where profile_id = $1", family.child
        )
        == "viewing_data.erased"
    )
    assert 0 not in (await counts(connection, tables, other.child)).values()


async def test_rules_of_the_parent_count_as_configurations(
    running: Running, connection: Connection, family: Family, admin: UUID
) -> None:
    await add_rows(connection, family)
    await connection.execute(
        "insert into viewing_exceptions select profile_id, date '2026-12-24', true, null, true, "
        "updated_at from viewing_exceptions"
    )
    answer = await ask(running, family.child, admin)
    deleted = {"sessions": 1, "balances": 1, "grants": 1, "configurations": 5}
    assert answer.json() == {"profile_id": str(family.child), **deleted}


async def test_administrator_right_comes_from_the_database(
    running: Running, connection: Connection, family: Family, admin: UUID
) -> None:
    await watch(running, connection, family)
    refused = {"detail": "Admin privileges required"}
    answer = await ask(running, family.child, family.account)
    assert (answer.status_code, answer.json()) == (403, refused)
    url = f"/api/v1/admin/profiles/{family.child}/viewing-data"
    claimed = await running.client.delete(url, headers=bearer(family.account, is_admin=True))
    assert claimed.status_code == 403
    assert (await ask(running, family.child, uuid4())).status_code == 401
    assert (await running.client.delete(url)).status_code == 401
    await connection.execute("update users set is_active = false where id = $1", admin)
    assert (await ask(running, family.child, admin)).status_code == 401
    assert await rows(connection, family.child) == [2, 2, 2, 1, 1]


async def test_unknown_profile_is_404(running: Running, admin: UUID) -> None:
    answer = await ask(running, uuid4(), admin)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Profile not found"})
    assert (await ask(running, "ada", admin)).status_code == 422


async def test_every_instance_drops_the_cached_configuration(
    start: Starter, connection: Connection, admin: UUID
) -> None:
    family = await add_family(connection, limit=None)
    here, there = await start(), await start()
    for instance in (here, there):
        answer = await instance.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
        assert answer.json()["remaining_minutes"] is None
    await ask(here, family.child, admin)
    for instance in (here, there):
        await eventually(lambda: not instance.context.configurations.size)  # noqa: B023
        answer = await instance.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
        assert answer.json()["remaining_minutes"] is not None


async def test_every_instance_forgets_the_rules_of_the_parent(
    start: Starter, connection: Connection, family: Family, admin: UUID
) -> None:
    here, there = await start(), await start()
    await connection.execute(
        "insert into viewing_locks values ($1, '2100-01-01', '2026-01-01')", family.child
    )
    for blocked in (True, False):
        for instance in (here, there):
            answer = await instance.client.post(
                HEARTBEAT, json=family.beat(), headers=family.bearer
            )
            assert (answer.json()["enforcement"] == "blocked") is blocked
        assert (await ask(here, family.child, admin)).status_code == 200


async def test_erasure_concurrent_with_heartbeats(
    running: Running, connection: Connection, family: Family, admin: UUID
) -> None:
    """Neither fails; only viewing after the last erasure remains."""
    await watch(running, connection, family)

    async def beats() -> set[str]:
        answers = [
            await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
            for _ in range(30)
        ]
        return {answer.json()["enforcement"] for answer in answers}

    async def erasures() -> set[int]:
        return {(await ask(running, family.child, admin)).status_code for _ in range(10)}

    enforcements, statuses = await asyncio.gather(beats(), erasures())
    assert statuses == {200}
    assert enforcements == {"allowed"}
    await ask(running, family.child, admin)
    assert await open_sessions(connection, family.child) == 0
    assert await used_seconds(connection, family.child) == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("viewing_sessions", "viewing_clocks"),
        ("viewing_clocks", "viewing_time_balances"),
        ("viewing_requests", "viewing_time_balances"),
        ("viewing_time_balances", "viewing_time_configs"),
        ("viewing_time_configs", "time_grants"),
        ("viewing_schedules", "viewing_time_balances"),
        ("viewing_time_balances", "time_grants"),
    ],
)
async def test_erasure_locks_tables_in_the_order_of_other_statements(
    running: Running,
    connection: Connection,
    family: Family,
    admin: UUID,
    first: str,
    second: str,
) -> None:
    await add_rows(connection, family)
    waiting = "select exists (select from pg_locks where not granted)"
    async with connection.transaction():
        await connection.execute(f"select from {first} for no key update")
        erasure = asyncio.create_task(ask(running, family.child, admin))
        await eventually(lambda: connection.fetchval(waiting))
        await connection.execute(f"select from {second} for no key update")
    assert (await erasure).status_code == 200


@pytest.mark.parametrize("first", ["viewing_sessions", "viewing_requests"])
async def test_erasure_locks_balances_last_also_if_other_tables_are_empty(
    running: Running, connection: Connection, family: Family, admin: UUID, first: str
) -> None:
    await add_rows(connection, family)
    for table in ("sessions", "clocks", "schedules", "exceptions", "locks", "requests"):
        if f"viewing_{table}" != first:
            await connection.execute(f"delete from viewing_{table}")
    waiting = "select exists (select from pg_locks where not granted)"
    async with connection.transaction():
        await connection.execute(f"select from {first} for no key update")
        erasure = asyncio.create_task(ask(running, family.child, admin))
        await eventually(lambda: connection.fetchval(waiting))
        await connection.execute("select from viewing_time_balances for no key update nowait")
    assert (await erasure).status_code == 200


async def test_erasure_locks_balances_in_the_order_of_their_days(
    running: Running, connection: Connection, family: Family, admin: UUID
) -> None:
    for day in (date(2026, 11, 25), date(2026, 11, 24)):
        await connection.execute(
            "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds) "
            "values (gen_random_uuid(), $1, $2, 60)",
            family.child,
            day,
        )
    lock = "select from viewing_time_balances where reset_date = $1::text::date for no key update"
    waiting = "select exists (select from pg_locks where not granted)"
    async with connection.transaction():
        await connection.execute(lock, "2026-11-24")
        erasure = asyncio.create_task(ask(running, family.child, admin))
        await eventually(lambda: connection.fetchval(waiting))
        await connection.execute(lock, "2026-11-25")
    assert (await erasure).json()["balances"] == 2


async def test_no_log_line_of_an_erasure_contains_the_profile_id(
    running: Running,
    connection: Connection,
    family: Family,
    admin: UUID,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await watch(running, connection, family)
    caplog.clear()
    with caplog.at_level("INFO", "viewing_time"):
        assert (await ask(running, family.child, admin)).status_code == 200
    assert {r.getMessage() for r in caplog.records} == {"viewing_data_erased", "request_processed"}
    assert str(family.child) not in repr([vars(record) for record in caplog.records])


async def test_audit_line_contains_no_id_and_ignores_log_level(
    running: Running,
    connection: Connection,
    family: Family,
    admin: UUID,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await watch(running, connection, family)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        for _ in range(2):
            await ask(running, family.child, admin)
    finally:
        root.setLevel(level)
    first, second = (r for r in caplog.records if r.name == "viewing_time.audit")
    assert first.getMessage() == "viewing_data_erased"
    fields, again = first.__dict__["fields"], second.__dict__["fields"]
    assert {name: fields[name] for name in NOTHING} == {
        "sessions": 2,
        "balances": 2,
        "grants": 2,
        "configurations": 1,
    }
    assert (fields["profile_id"], fields["by"]) == (again["profile_id"], again["by"])
    assert fields["profile_id"] != fields["by"]
    written = repr(fields)
    for secret in (family.child, family.account, admin):
        assert str(secret) not in written
        assert secret.hex not in written
    assert "Ada" not in written


async def test_operator_erases_without_an_account(
    settings: Settings, connection: Connection, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    assert await erase(settings, uuid4()) is None
    assert caplog.records == []
    assert await erase(settings, family.child) == Erased(family.child, 0, 0, 0, 1)
    assert await rows(connection, family.child) == [0, 0, 0, 0, 1]
    [line] = caplog.records
    assert line.__dict__["fields"]["by"] == "operator"
    assert SECRET not in repr(line.__dict__)
