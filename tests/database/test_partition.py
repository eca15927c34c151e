"""`viewing-time partition` partitions a table of balances while heartbeats are written."""

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from service.database import partition as partitioning
from service.database.migrate import migrate, rollback
from service.database.migrate_session import MigrationError
from service.database.partition import partition
from service.database.statement import files
from tests.command.test_main import refused
from tests.conftest import copied, served
from tests.database.test_live_migration import (
    Application,
    beaten,
    checksums,
    columns,
    connected,
    continued,
    fill,
    ids,
    playing,
)
from tests.family import HEARTBEAT, bearer

BALANCES = "viewing_time_balances"
BEFORE = f"{BALANCES}_before"
CONVERSION = "0032_partition_empty_balances"
KINDS = (
    "select relname, relkind::text from pg_class where relname ~ '^viewing_time_balances(_b.*)?$'"
)


def revert_conversion(dsn: str) -> None:
    """Rolls CONVERSION back alone: heartbeats of this version need later migrations."""
    steps = (files("migrations") / f"{CONVERSION}.rollback.sql").read_text(encoding="utf-8")
    with psycopg.connect(dsn) as connection:
        connection.execute(steps.encode())
        connection.execute("delete from _yoyo_migration where migration_id = %s", [CONVERSION])


def partition_all(dsn: str) -> list[str]:
    lines: list[str] = []
    partition(dsn, lines.append, is_dry_run=False)
    return lines


def query(dsn: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else []


def kinds(dsn: str) -> dict[str, str]:
    return dict(query(dsn, KINDS))


@pytest.fixture(scope="module")
async def adopted_template(postgres_dsn: str) -> AsyncIterator[str]:
    """The migrated database of an existing application, whose table has rows."""
    async with copied(postgres_dsn, "template0") as dsn:
        await asyncio.to_thread(fill, dsn)
        await asyncio.to_thread(migrate, dsn)
        assert kinds(dsn) == {BALANCES: "r"}
        [(name,)] = query(dsn, "select current_database()")
        yield name


@pytest.fixture
async def adopted(postgres_dsn: str, adopted_template: str) -> AsyncIterator[str]:
    async with copied(postgres_dsn, adopted_template) as dsn:
        yield dsn


async def beats(url: str, dsn: str, application: Application) -> list[httpx.Response]:
    """Heartbeats of a child of its own, until the application ends."""
    [account], [profile], [title] = (
        ids(dsn, kind, range(number, number + 1))
        for kind, number in (("account", 100), ("profile", 200), ("title", 7))
    )
    session, answers = None, []
    async with httpx.AsyncClient(base_url=url, headers=bearer(account), timeout=60) as client:
        while not application.is_over.is_set():
            body = {
                "profile_id": str(profile),
                "title_id": str(title),
                "device_id": "tv",
                "session_id": session,
            }
            answers.append(await client.post(HEARTBEAT, json=body))
            session = answers[-1].json()["session_id"]
    return answers


async def test_heartbeats_continue_while_the_table_is_partitioned_and_made_one_table_again(
    adopted: str,
) -> None:
    """Those of a service that has started before, and those of the existing application."""
    old_columns = columns(adopted)
    before, counted = checksums(adopted, old_columns), beaten(adopted)
    async with served(adopted) as service:
        with playing(adopted) as application:
            watching = asyncio.create_task(beats(service.url, adopted, application))
            await continued(application)
            assert (await asyncio.to_thread(partition_all, adopted))[0].startswith("building")
            assert kinds(adopted) == {BALANCES: "p", BEFORE: "r"}
            await continued(application)
            await asyncio.to_thread(revert_conversion, adopted)
            assert kinds(adopted) == {BALANCES: "r"}
            await continued(application)
            await asyncio.to_thread(migrate, adopted)
            await asyncio.to_thread(partition_all, adopted)
            await continued(application)
        answers = await watching
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["enforcement"] for answer in answers} == {"allowed"}
    [profile] = ids(adopted, "profile", range(200, 201))
    used = f"select max(used_seconds) from {BALANCES} where profile_id = '{profile}'"
    used += " and reset_date >= current_date - 1"
    assert query(adopted, used) == [(30 * len(answers),)]
    query(
        adopted,
        f"delete from {BALANCES} where profile_id = '{profile}' and reset_date >= '2026-11-01'",
    )
    query(adopted, "delete from viewing_sessions where started_at > '2026-11-01'")
    after = checksums(adopted, old_columns)
    assert after["viewing_time_balances"] == before["viewing_time_balances"]
    assert [(total, used) for _, total, used in beaten(adopted)] == [
        (total + 30 * sent, used + 30 * sent)
        for (_, total, used), sent in zip(counted, application.beats, strict=True)
    ]


def test_the_new_table_has_everything_that_the_former_one_had(adopted: str) -> None:
    role, other = (f"{name}_{uuid4().hex}" for name in ("owner", "reader"))
    described = (
        "select relowner::regrole::text, obj_description(oid, 'pg_class'), "
        "array(select a::text from unnest(relacl) as a order by 1) from pg_class "
        f"where oid = '{BALANCES}'::regclass",
        "select attname, attnotnull, atttypid::regtype::text, pg_get_expr(adbin, adrelid), "
        "col_description(attrelid, attnum), attacl::text from pg_attribute left join pg_attrdef "
        f"on adrelid = attrelid and adnum = attnum where attrelid = '{BALANCES}'::regclass "
        "and attnum > 0 order by attnum",
        "select conname, contype::text, pg_get_constraintdef(oid) from pg_constraint "
        f"where conrelid = '{BALANCES}'::regclass and contype <> 'p' order by 1",
        "select relname, replace(pg_get_indexdef(oid), ' ON ONLY ', ' ON ') from pg_class join "
        f"pg_index on indexrelid = oid where indrelid = '{BALANCES}'::regclass and not "
        "indisprimary order by 1",
    )
    stored = "select reloptions::text from pg_class where relname ~ '^{}' and relkind = 'r'"
    query(
        adopted,
        f"""
        create role {role}; create role {other}; grant create on schema public to {role};
        grant references on profiles to {role};
        alter table {BALANCES} owner to {role};
        grant select, insert on {BALANCES} to {other} with grant option;
        grant update (used_seconds) on {BALANCES} to {other};
        grant select on {BALANCES} to public;
        comment on table {BALANCES} is 'what children use';
        comment on column {BALANCES}.reset_date is 'a day';
        alter table {BALANCES} add column note text default 'none',
            add constraint sane check (used_seconds >= 0), set (fillfactor = 80);
        create index by_note on {BALANCES} (note, updated_at desc) where note is not null;
        """,
    )
    try:
        before = [query(adopted, text) for text in described]
        options = query(adopted, stored.format(BALANCES))
        partition_all(adopted)
        assert [query(adopted, text) for text in described] == before
        assert {*query(adopted, stored.format(f"{BALANCES}_"))} == {*options}
        owners = (
            f"select distinct relowner::regrole::text from pg_class where relname ~ '^{BALANCES}'"
        )
        assert query(adopted, owners) == [(role,)]
        key = (
            f"select pg_get_constraintdef(oid) from pg_constraint where conname = '{BALANCES}_pkey'"
        )
        assert query(adopted, key) == [("PRIMARY KEY (id, reset_date)",)]
        assert rollback(adopted, CONVERSION)
        assert [query(adopted, text) for text in described] == before
        key = (
            f"select pg_get_constraintdef(oid) from pg_constraint where conname = '{BALANCES}_pkey'"
        )
        assert query(adopted, key) == [("PRIMARY KEY (id)",)]
    finally:
        query(adopted, f"alter table {BALANCES} owner to current_user")
        query(adopted, f"drop owned by {role}, {other}; drop role {role}, {other}")


OBSTACLES = {
    f"create view v as select used_seconds from {BALANCES}": "rule _RETURN on view v depends on it",
    f"create table t (id uuid references {BALANCES} (id))": (
        "constraint t_id_fkey of table t refers to it"
    ),
    "create function f() returns trigger language plpgsql as 'begin return new; end'; "
    f"create trigger audit before update on {BALANCES} for each row execute function f()": (
        "it has the trigger audit"
    ),
    f"create rule r as on delete to {BALANCES} do also notify written": (
        f"rule r on table {BALANCES} depends on it"
    ),
    f"create function g(b {BALANCES}) returns int language sql as 'select 1'": (
        f"function g({BALANCES}) depends on it"
    ),
    f"create table u (whole {BALANCES})": "column whole of table u depends on it",
    f"alter table {BALANCES} enable row level security": "it has row security",
    f"create publication p for table {BALANCES}": (
        f"publication of table {BALANCES} in publication p depends on it"
    ),
    f"create unique index w on {BALANCES} (updated_at, id)": (
        "unique index w does not contain reset_date"
    ),
    f"create table c () inherits ({BALANCES})": (
        "it inherits from another table, or another one from it"
    ),
    f"alter table {BALANCES} add check (used_seconds >= 0) not valid": (
        f"constraint {BALANCES}_used_seconds_check is not valid, or is for this table only"
    ),
    f"alter table {BALANCES} drop constraint {BALANCES}_pkey": "its primary key is not (id)",
}


def test_what_would_be_lost_is_an_obstacle(adopted: str, tmp_path: Path) -> None:
    """Each is named in one sentence, and nothing is changed."""
    for change, obstacle in OBSTACLES.items():
        with psycopg.connect(adopted) as connection:
            connection.execute(change)
            found = connection.execute("select viewing_balances_obstacle()").fetchone()
            assert found == (obstacle,)
            connection.rollback()
    query(adopted, next(iter(OBSTACLES)))
    status, output = refused(tmp_path, "partition", DATABASE_URL=adopted)
    assert (status, output) == (
        1,
        f"Error: Table {BALANCES} cannot be partitioned: rule _RETURN on view v depends on it.",
    )
    assert kinds(adopted) == {BALANCES: "r"}


def test_a_role_that_is_not_the_owner_is_refused(adopted: str) -> None:
    role = f"other_{uuid4().hex}"
    query(adopted, f"create role {role} login; grant create on schema public to {role}")
    try:
        with pytest.raises(MigrationError, match=f"cannot be partitioned: role {role} is not its"):
            partition_all(psycopg.conninfo.make_conninfo(adopted, user=role))
    finally:
        query(adopted, f"drop owned by {role}; drop role {role}")


def test_a_dry_run_changes_nothing_and_a_second_run_has_nothing_to_do(adopted: str) -> None:
    lines: list[str] = []
    partition(adopted, lines.append, is_dry_run=True)
    assert lines[0].startswith("would partition a table of ")
    assert kinds(adopted) == {BALANCES: "r"}
    assert partition_all(adopted)
    partition(adopted, lines.append, is_dry_run=True)
    assert lines[1] == (
        "The table of balances is partitioned already; missing months would be created."
    )
    assert partition_all(adopted) == ["The table of balances is partitioned already."]


def test_an_interrupted_run_leaves_no_constraint_and_can_be_repeated(
    adopted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = "select count(*) from pg_constraint where conname = 'ck_vtb_before'"

    def interrupt(*_: object) -> None:
        assert query(adopted, bound) == [(1,)]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(partitioning, "validate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            partition_all(adopted)
    assert query(adopted, bound) == [(0,)]
    query(
        adopted,
        "update pg_index set indisvalid = false where indexrelid = "
        "'viewing_time_balances_wide'::regclass",
    )
    query(adopted, "select viewing_balances_bound()")  # as after kill -9
    partition_all(adopted)
    assert kinds(adopted) == {BALANCES: "p", BEFORE: "r"}
    assert query(adopted, bound) == [(0,)]


def test_a_balance_of_a_later_day_is_reported(adopted: str) -> None:
    [late] = ids(adopted, "balance7", range(7, 8))
    query(adopted, f"update {BALANCES} set reset_date = '2999-01-01' where id = '{late}'")
    with pytest.raises(MigrationError, match="Some balances have a viewing day from 20"):
        partition_all(adopted)
    assert kinds(adopted) == {BALANCES: "r"}


def test_a_table_in_use_is_locked_for_no_longer_than_milliseconds(
    adopted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long query of the platform delays the command, and no heartbeat behind it."""
    monkeypatch.setattr("service.database.migrate.MAX_LOCK_TRIES", 3)
    monkeypatch.setattr("service.database.migrate.LOCK_PAUSE_SECONDS", 0.01)
    with connected(adopted) as report:
        report.execute(f"select count(*) from {BALANCES}")
        with pytest.raises(MigrationError, match="given up waiting for a lock, most likely held"):
            partition_all(adopted)
    assert kinds(adopted) == {BALANCES: "r"}
    partition_all(adopted)
    assert kinds(adopted) == {BALANCES: "p", BEFORE: "r"}


def test_the_migrations_come_first(empty_database: str) -> None:
    with pytest.raises(MigrationError, match="run `viewing-time migrate`"):
        partition_all(empty_database)


def test_a_rollback_keeps_a_table_with_many_balances_in_partitions(adopted: str) -> None:
    """Moving them would lock the table for long; every row stays, and so does the service."""
    partition_all(adopted)
    last = query(adopted, "select max(end_day) - 1 from viewing_balance_partitions()")[0][0]
    assert isinstance(last, date)
    query(
        adopted,
        "alter table viewing_time_balances disable trigger all; insert into viewing_time_balances "
        f"(id, profile_id, reset_date) select gen_random_uuid(), gen_random_uuid(), '{last}' "
        "from generate_series(1, 100001)",
    )
    rollback(adopted, "0031_balance_partitions")
    assert kinds(adopted) == {BALANCES: "p", BEFORE: "r"}
    assert query(adopted, f"select count(*) from {BALANCES}") == [(120_001,)]
    migrate(adopted)
    assert partition_all(adopted) == ["The table of balances is partitioned already."]
