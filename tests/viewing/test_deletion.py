"""Deletions that are too large for a request run in batches on any instance."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from service.database.driver import Connection
from service.database.pool import connected
from service.settings import Settings
from service.viewing import deletion
from service.viewing.deletion import BATCH, PENDING, work
from tests.about_profiles import about_accounts, about_profiles, add_rows
from tests.about_profiles import counts as rows_about
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family, add_family, used_seconds

ACCEPTED = (202, {"detail": "Deletion goes on in the background"})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "MAX_ROWS_AT_ONCE", 10)
    monkeypatch.setattr(deletion, "BATCH_ROWS", 3)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances look for pending deletions every 20 ms."""
    monkeypatch.setattr(deletion, "POLL_SECONDS", 0.02)


def url(kind: str, key: UUID) -> str:
    return f"/api/v1/admin/{kind}s/{key}"


async def add_years(connection: Connection, family: Family, count: int = 50) -> None:
    """Adds `count` sessions of a title, balances and grants of the child."""
    await connection.execute(
        "insert into viewing_sessions (id, profile_id, title_id, device_id, started_at, "
        "last_heartbeat_at, ended_at) select gen_random_uuid(), $1, $2, 'd', now(), now(), now() "
        "from generate_series(1, $3)",
        family.child,
        family.title,
        count,
    )
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date) "
        "select gen_random_uuid(), $1, date '2020-01-01' + n from generate_series(1, $2) as n",
        family.child,
        count,
    )
    await connection.execute(
        "insert into time_grants (id, profile_id, granted_by_user_id, is_remote) "
        "select gen_random_uuid(), $1, $2, true from generate_series(1, $3)",
        family.child,
        family.account,
        count,
    )


async def counts(connection: Connection, family: Family) -> list[int]:
    """Counts sessions, balances and grants of the child; its profile, account and title."""
    row = await connection.fetchrow(
        "select (select count(*) from viewing_sessions where profile_id = $1), "
        "(select count(*) from viewing_time_balances where profile_id = $1), "
        "(select count(*) from time_grants where profile_id = $1), "
        "(select count(*) from profiles where id = $1), "
        "(select count(*) from users where id = $2), "
        "(select count(*) from titles where id = $3)",
        family.child,
        family.account,
        family.title,
    )
    return list(row or ())


async def pending(connection: Connection) -> list[tuple[str, UUID]]:
    return [(row.kind, row.id) for row in await PENDING.all(connection)]


async def eventually_done(connection: Connection) -> None:
    await eventually(lambda: pending(connection), until=lambda rows: not rows)


async def delete(running: Running, admin: dict[str, str], kind: str, key: UUID) -> tuple[int, Any]:
    answer = await running.client.delete(url(kind, key), headers=admin)
    return answer.status_code, answer.json() if answer.content else None


LEFT = {
    "title": [0, 50, 50, 1, 1, 0],
    "profile": [0, 0, 0, 0, 1, 1],
    "account": [0, 0, 0, 0, 0, 1],
}


def key_of(kind: str, family: Family) -> UUID:
    return {"title": family.title, "profile": family.child, "account": family.account}[kind]


@pytest.mark.parametrize("kind", LEFT)
async def test_a_large_deletion_is_accepted_and_done_in_the_background(
    running: Running, connection: Connection, admin: dict[str, str], family: Family, kind: str
) -> None:
    other = await add_family(connection)
    for one in (family, other):
        await add_years(connection, one)
    untouched = await counts(connection, other)
    key = key_of(kind, family)
    assert await delete(running, admin, kind, key) == ACCEPTED
    await eventually_done(connection)
    assert await counts(connection, family) == LEFT[kind]
    assert await counts(connection, other) == untouched
    assert (await delete(running, admin, kind, key))[0] == 404


@pytest.mark.parametrize("kind", ["profile", "account"])
@pytest.mark.parametrize("count", [5, 50])
async def test_every_table_with_a_profile_or_an_account_is_covered_by_deletion(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    family: Family,
    kind: str,
    count: int,
) -> None:
    """At once, and in batches."""
    other = await add_family(connection)
    for one in (family, other):
        await add_rows(connection, one)
    await add_years(connection, family, count)
    about = {"profile": about_profiles, "account": about_accounts}[kind]
    tables, key = await about(connection), key_of(kind, family)
    assert {"viewing_schedules", "viewing_strict_accounts"} & tables.keys()
    assert 0 not in (await rows_about(connection, tables, key)).values()
    status, _ = await delete(running, admin, kind, key)
    assert status == (202 if count == 50 else 204)
    await eventually_done(connection)
    assert await rows_about(connection, tables, key) == dict.fromkeys(tables, 0)
    of_profile = await about_profiles(connection)
    assert await rows_about(connection, of_profile, family.child) == dict.fromkeys(of_profile, 0)
    assert 0 not in (await rows_about(connection, of_profile, other.child)).values()


@pytest.mark.parametrize("kind", LEFT)
@pytest.mark.parametrize("count", [9, 10])
async def test_a_small_deletion_is_done_at_once(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    family: Family,
    kind: str,
    count: int,
) -> None:
    await running.context.deletions.stop()
    await add_years(connection, family, count)
    status, _ = await delete(running, admin, kind, key_of(kind, family))
    assert status == (204 if count < 10 else 202)
    expected = [kind] if count >= 10 else []
    assert [kind for kind, _ in await pending(connection)] == expected
    assert await delete(running, admin, kind, uuid4()) == (
        404,
        {"detail": f"{kind.capitalize()} not found"},
    )


async def test_an_account_is_inactive_from_the_first_answer_on(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    await running.context.deletions.stop()
    await add_years(connection, family)
    assert (await beat(running, family))[0] == 200
    for _ in range(2):
        assert await delete(running, admin, "account", family.account) == ACCEPTED
    assert await beat(running, family) == (401, {"detail": "User not found or inactive"})


PUT: dict[str, dict[str, Any]] = {
    "account": {"email": "again@example.test"},
    "profile": {"name": "Ada", "is_kids": True},
    "title": {"title": "Planets", "is_educational": False},
}


@pytest.mark.parametrize("kind", LEFT)
async def test_a_resource_that_is_being_deleted_cannot_be_put(
    running: Running, connection: Connection, admin: dict[str, str], family: Family, kind: str
) -> None:
    """Neither one by one nor in bulk: the new state would be deleted too."""
    await running.context.deletions.stop()
    await add_years(connection, family)
    key = key_of(kind, family)
    body = {**PUT[kind], "account_id": str(family.account)} if kind == "profile" else PUT[kind]
    assert await delete(running, admin, kind, key) == ACCEPTED
    tables = "select p, u, t from profiles as p, users as u, titles as t"
    before = await connection.fetch(tables)
    answer = await running.client.put(url(kind, key), json=body, headers=admin)
    refusal = f"{kind.capitalize()} is being deleted"
    assert (answer.status_code, answer.json()) == (409, {"detail": refusal})
    line = msgspec.json.encode({"type": kind, "id": str(key), **body})
    outcome = await running.client.post("/api/v1/admin/import", content=line, headers=admin)
    assert outcome.json()["errors"] == [{"line": 1, "error": f"id: {refusal}"}]
    if kind == "account":
        profile = {"name": "New", "is_kids": True, "account_id": str(key)}
        answer = await running.client.put(url("profile", uuid4()), json=profile, headers=admin)
        assert (answer.status_code, answer.json()) == (422, {"detail": "Account not found"})
        line = msgspec.json.encode({"type": "profile", "id": str(uuid4()), **profile})
        outcome = await running.client.post("/api/v1/admin/import", content=line, headers=admin)
        assert outcome.json()["errors"] == [{"line": 1, "error": "account_id: Account not found"}]
    assert await connection.fetch(tables) == before
    running.context.deletions.start()
    running.context.deletions.wake()
    await eventually_done(connection)
    if kind == "profile":
        assert await counts(connection, family) == LEFT[kind]
    answer = await running.client.put(url(kind, key), json=body, headers=admin)
    assert answer.status_code == 200


async def beat(running: Running, family: Family, **members: Any) -> tuple[int, Any]:
    body = family.beat(**members)
    answer = await running.client.post(HEARTBEAT, json=body, headers=family.bearer)
    return answer.status_code, answer.json()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", LEFT)
async def test_another_instance_completes_a_deletion(
    start: Starter,
    settings: Settings,
    connection: Connection,
    admin: dict[str, str],
    family: Family,
    kind: deletion.Kind,
) -> None:
    first = await start()
    await first.context.deletions.stop()
    await add_years(connection, family)
    key = key_of(kind, family)
    assert await delete(first, admin, kind, key) == ACCEPTED
    async with connected(settings, 10) as worker:  # interrupted after a batch
        assert (await BATCH.one(worker, kind, key, 3, timeout=10)).sessions == 3
    assert await pending(connection) == [(kind, key)]
    await start()
    await eventually_done(connection)
    assert await counts(connection, family) == LEFT[kind]


async def test_instances_delete_in_parallel_and_each_row_once(
    settings: Settings, connection: Connection, family: Family
) -> None:
    """Each skips the rows that another holds; together they delete each row once."""
    await add_years(connection, family)
    await connection.execute(
        "insert into pending_deletions (kind, id) values ('title', $1)", family.title
    )
    deleted: list[int] = []

    async def instance() -> bool:
        async with connected(settings, 10) as worker:
            while not await work(worker, "title", family.title, deleted.append):
                if not await pending(worker):
                    return False
        return True

    async with connection.transaction():
        await connection.execute("select from pending_deletions for update")
        async with connected(settings, 10) as worker:
            assert not await work(worker, "title", family.title, deleted.append)
    await asyncio.gather(*(instance() for _ in range(4)))
    # The final statement may delete the last few.
    assert 40 < sum(deleted) <= 50
    assert await counts(connection, family) == LEFT["title"]


async def test_locked_row_delays_no_batch(
    settings: Settings, connection: Connection, family: Family
) -> None:
    await add_years(connection, family, 6)
    await connection.execute(
        "insert into pending_deletions (kind, id) values ('profile', $1)", family.child
    )
    async with connection.transaction(), connected(settings, 10) as worker:
        await connection.execute("select from viewing_sessions limit 1 for no key update")
        sessions = [
            (await BATCH.one(worker, "profile", family.child, 3, timeout=10)).sessions
            for _ in range(3)
        ]
    assert sessions == [3, 2, 0]


async def test_heartbeats_continue_while_their_title_is_deleted(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No heartbeat fails closed before the title is deleted; counted seconds stay counted."""
    monkeypatch.setattr(deletion, "BATCH_ROWS", 20)
    families = [family, *[await add_family(connection) for _ in range(3)]]
    watching = [replace(one, title=family.title) for one in families]
    await add_years(connection, family, 300)
    seen: set[int] = set()

    async def watch(one: Family) -> int:
        counted, session = 0, None
        while True:
            status, verdict = await beat(running, one, session_id=session)
            seen.add(status)
            session = verdict.get("session_id")
            if verdict.get("detail") == "Title not found":
                return counted
            counted += 30 if status == 200 else 0

    beats = [asyncio.create_task(watch(one)) for one in watching]
    assert await delete(running, admin, "title", family.title) == ACCEPTED
    async with asyncio.timeout(60):
        counted = await asyncio.gather(*beats)
    assert seen == {200, 404}
    assert running.context.metrics.heartbeats_failed_closed == 0
    for one, seconds in zip(watching, counted, strict=True):
        assert await used_seconds(connection, one.child) == seconds


async def test_account_with_many_profiles_is_deleted_profile_by_profile(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    await connection.execute(
        "insert into profiles (id, user_id, name, is_kids) "
        "select gen_random_uuid(), $1, 'child', true from generate_series(1, 250)",
        family.account,
    )
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date) "
        "select gen_random_uuid(), p.id, date '2026-01-01' from profiles as p"
    )
    assert await delete(running, admin, "account", family.account) == ACCEPTED
    await eventually_done(connection)
    assert await connection.fetchval("select count(*) from profiles") == 0
    assert await connection.fetchval("select count(*) from viewing_time_balances") == 0


@pytest.mark.usefixtures("soon")
async def test_a_row_of_another_table_delays_a_deletion_and_nothing_else(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    family: Family,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = await add_family(connection)
    for one in (family, other):
        await add_years(connection, one)
    await connection.execute("create table bookmarks (profile_id uuid references profiles (id))")
    await connection.execute("insert into bookmarks values ($1)", family.child)
    for one in (family, other):
        assert await delete(running, admin, "profile", one.child) == ACCEPTED
    await eventually(lambda: "deletion_refused" in caplog.messages)
    await eventually(lambda: pending(connection), until=lambda rows: len(rows) <= 1)
    assert await pending(connection) == [("profile", family.child)]
    assert (await counts(connection, family))[3] == 1
    await connection.execute("delete from bookmarks")
    await eventually_done(connection)
    assert (await counts(connection, family))[3] == 0
    outcomes = running.context.metrics.deletions
    await eventually(lambda: outcomes["done"] == 2)  # counted after the row is gone
    assert (outcomes["refused"] > 0, outcomes["failed"]) == (True, 0)


@pytest.mark.usefixtures("soon")
async def test_failed_deletion_is_logged_and_retried(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    family: Family,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await running.context.deletions.stop()
    await add_years(connection, family)
    assert await delete(running, admin, "title", family.title) == ACCEPTED
    await connection.execute("alter table time_grants rename to renamed")
    running.context.deletions.start()
    await eventually(lambda: "deletion_failed" in caplog.messages)
    await connection.execute("alter table renamed rename to time_grants")
    await eventually_done(connection)
    assert (await counts(connection, family))[5] == 0


async def test_operator_can_delete_without_a_running_service(
    settings: Settings, connection: Connection, family: Family
) -> None:
    await add_years(connection, family)
    reported: list[int] = []
    progress: Callable[[int], None] = reported.append
    assert await deletion.delete(settings, "title", family.title, progress) == 50
    assert reported == [*range(3, 50, 3), 50]
    assert await deletion.delete(settings, "profile", family.adult, progress) == 0
    with pytest.raises(LookupError):
        await deletion.delete(settings, "profile", family.adult, progress)
    assert await counts(connection, family) == LEFT["title"]
    assert await pending(connection) == []


async def test_only_an_administrator_can_make_a_deletion_pending(
    running: Running, connection: Connection, family: Family
) -> None:
    await add_years(connection, family)
    for kind in LEFT:
        status, _ = await delete(running, family.bearer, kind, key_of(kind, family))
        assert status == 403
    assert await pending(connection) == []
    assert (await beat(running, family))[0] == 200


async def test_a_deletion_of_a_title_scans_no_table(connection: Connection, family: Family) -> None:
    """The statement of the foreign key uses the index too."""
    await add_years(connection, family, 2_000)
    await connection.execute("analyze viewing_sessions")
    before = await scans(connection)
    title = uuid4()
    await connection.execute(
        "insert into titles (id, title, title_type) values ($1, 'T', 'movie')", title
    )
    await connection.execute("delete from titles where id = $1", title)
    assert await scans(connection) == before


async def scans(connection: Connection) -> int:
    """The number of sequential scans of the sessions, including those of this connection."""
    version = connection.get_server_version().major
    if version >= 15:
        await connection.execute("select pg_stat_force_next_flush()")
    count: int = await connection.fetchval(
        "select seq_scan from pg_stat_user_tables where relname = 'viewing_sessions'"
    )
    return count
