"""The checks report everything in an adopted table that makes a statement fail."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from bench.ports import free_port
from service.app import utc_now
from service.command.check import findings
from service.command.check_database import startup_error
from service.database import migrate, tables
from service.database.cures import Problem
from service.database.driver import Connection
from service.database.schema import TABLES
from service.database.statement import files
from service.settings import Settings
from tests.balance_shapes import make_plain
from tests.command.test_main import refused
from tests.conftest import ROOT
from tests.database.test_sql import STATEMENTS
from tests.family import SECRET

LEGACY = ROOT / "tests/legacy_schema.sql"
HEARTBEATS = {"heartbeat_record", "heartbeat_held", "viewing_config_load"}
# Run by the role that migrates, for development only, or not about tables of the service.
# The function of `heartbeat_call` is in the cells of Citus only.
NOT_SERVED = {"migration_applied", "demo_load", "import_stage", "heartbeat_call"}
# Named in a function, whose body the server does not check when it prepares a statement.
IN_FUNCTIONS = {
    ("viewing_clocks", "counted_until"),
    ("viewing_clocks", "latest_seconds"),
    ("viewing_events", "cause"),
    ("viewing_cell", "is_only"),
}
IN_FUNCTIONS_OF_HEARTBEATS = {
    ("viewing_time_balances", column)
    for column in (
        "used_seconds",
        "educational_seconds",
        "is_unlimited_override",
        "updated_at",
        "extended_minutes",
        "limit_minutes",
    )
}


async def reported(connection: Connection) -> list[tuple[str, str]]:
    return [(one.level, one.text) for one in await tables.problems(connection)]


async def problems_after_remedies(connection: Connection) -> list[Problem]:
    """Executes the SQL of every remedy; returns the problems that remain."""
    for one in await tables.problems(connection):
        for line in re.findall("`(.*?)`", one.remedy):
            await connection.execute(line)
    return await tables.problems(connection)


async def test_new_tables_have_no_problems(connection: Connection) -> None:
    assert await tables.problems(connection) == []


async def test_tables_of_the_existing_application_have_no_problems(
    empty_database: str,
) -> None:
    opened = await asyncpg.connect(empty_database)
    try:
        await opened.execute(LEGACY.read_text(encoding="utf-8"))
        await asyncio.to_thread(migrate.migrate, empty_database)
        assert await tables.problems(opened) == []
    finally:
        await opened.close()


async def test_additional_columns_and_wider_types_are_accepted(
    connection: Connection,
) -> None:
    await connection.execute(
        """
        create domain device as varchar(200);
        create domain phone as device;
        alter table viewing_sessions
            alter device_id type phone, alter device_type type text, add note text,
            add region text not null default 'eu', add number bigint generated always as identity,
            alter total_seconds type bigint;
        alter table viewing_time_configs
            alter reset_hour type smallint, alter timezone type text, add unique (id, timezone);
        create unique index on viewing_time_balances (reset_date, profile_id) include (updated_at);
        alter table users add unique (created_at);
        """
    )
    assert await reported(connection) == []


async def test_every_column_that_a_statement_names_is_checked(connection: Connection) -> None:
    await connection.execute(STATEMENTS["import_stage"].text.replace("on commit drop", ""))
    named_in_sql: dict[str, set[tuple[str, str]]] = {"refuse": set(), "fault": set()}
    found: dict[str, set[tuple[str, str]]] = {"refuse": set(), "fault": set()}
    for table, column in await connection.fetch(
        "select table_name::text, column_name::text from information_schema.columns "
        "where table_schema = 'public' and table_name = any ($1::text[])",
        [*TABLES],
    ):
        await connection.execute(f"alter table {table} rename {column} to renamed")
        failing = set()
        for name in STATEMENTS.keys() - NOT_SERVED:
            if not re.search(rf"\b{column}\b", STATEMENTS[name].text):
                continue
            try:
                await connection.prepare(STATEMENTS[name].text)
            # Without its column, `g.mode` is a call of an aggregate.
            except (asyncpg.UndefinedColumnError, asyncpg.WrongObjectTypeError):
                failing.add(name)
        if failing:
            named_in_sql["refuse" if failing & HEARTBEATS else "fault"].add((table, column))
        for level, what in await reported(connection):
            if what.replace('"', "") == f"column {column} of table {table} is not there":
                found[level].add((table, column))
        await connection.execute(f"alter table {table} rename renamed to {column}")
    named_in_sql["fault"] |= IN_FUNCTIONS
    named_in_sql["fault"] -= IN_FUNCTIONS_OF_HEARTBEATS
    named_in_sql["refuse"] |= IN_FUNCTIONS_OF_HEARTBEATS
    assert found == named_in_sql


async def test_every_unique_key_that_a_statement_relies_on_is_checked(
    connection: Connection,
) -> None:
    relied_on = {
        match
        for path in (*files("sql").glob("*.sql"), *files("migrations").glob("*.sql"))
        for match in re.findall(
            # A partial one is of a table that only this service writes.
            r"insert into (\w+)(?:(?!insert into).)*?on conflict \(([\w, ]+)\)(?! where)",
            path.read_text(),
            re.DOTALL,
        )
    }
    await make_plain(connection)
    await connection.execute("drop index ix_vtb_date_profile")
    for table in TABLES:
        await connection.execute(
            f"""do $$ declare k name; begin
            for k in select conname from pg_constraint
                where conrelid = '{table}'::regclass and contype in ('p', 'u')
            loop execute format('alter table {table} drop constraint %I cascade', k); end loop;
            end $$"""
        )
    found = await reported(connection)
    assert {what for _, what in found} == {
        f"table {table} has no unique constraint on ({key}), so no row can be written"
        for table, key in relied_on
    }
    assert {what.split()[1] for level, what in found if level == "refuse"} == {
        "viewing_time_balances",
        "viewing_time_configs",
    }
    assert await problems_after_remedies(connection) == []


@pytest.mark.parametrize(
    ("table", "level", "more"),
    [
        ("viewing_sessions", "refuse", ""),
        ("viewing_time_balances", "refuse", ""),
        ("viewing_time_configs", "fault", ""),
        ("time_grants", "fault", ""),
        ("users", "warn", tables.NEW_ROWS),
        ("profiles", "warn", tables.NEW_ROWS),
        ("titles", "warn", tables.NEW_ROWS),
        ("viewing_time_attempts", "fault", ""),
    ],
)
@pytest.mark.parametrize(
    "change",
    [
        'alter table {table} add "Tenant" uuid not null',
        'create domain given as uuid not null; alter table {table} add "Tenant" given',
        'alter table {table} add "Tenant" uuid check ("Tenant" is not null)',
        'alter table {table} add "Tenant" uuid; alter table {table} add constraint given '
        'check ("Tenant" is not null) not valid',
    ],
)
async def test_additional_column_that_needs_a_value_is_reported(
    connection: Connection, table: str, level: str, more: str, change: str
) -> None:
    await connection.execute(change.format(table=table))
    what = f'column "Tenant" of table {table} needs a value that the service does not give{more}'
    assert await reported(connection) == [(level, what)]
    value = "set default '00000000-0000-0000-0000-000000000000'"
    await connection.execute(f'alter table {table} alter "Tenant" {value}')
    assert await reported(connection) == []


SESSION, BALANCE = "table viewing_sessions", "table viewing_time_balances"
CHANGES = {
    "alter table viewing_sessions alter ended_at set default now(), alter ended_at set not null": (
        "refuse",
        f"column ended_at of {SESSION} needs a value, but the service writes nulls there",
    ),
    "alter table time_grants alter granted_minutes set not null": (
        "fault",
        "column granted_minutes of table time_grants needs a value, "
        "but the service writes nulls there",
    ),
    "alter table viewing_sessions drop constraint viewing_sessions_title_id_fkey, "
    "alter title_id type text": ("refuse", f"column title_id of {SESSION} is text, not uuid"),
    "alter table viewing_sessions alter started_at type timestamp": (
        "fault",
        f"column started_at of {SESSION} is timestamp without time zone, not timestamptz",
    ),
    "alter table viewing_sessions alter device_type type varchar(5)": (
        "fault",
        f"column device_type of {SESSION} is character varying(5), not varchar(20)",
    ),
    "alter table viewing_time_configs alter timezone type char(50)": (
        "fault",
        "column timezone of table viewing_time_configs is character(50), not varchar(50)",
    ),
    "alter table viewing_time_balances alter used_seconds type numeric": (
        "fault",
        f"column used_seconds of {BALANCE} is numeric, not int",
    ),
    "create type tier as enum ('basic'); alter table users alter subscription_tier drop default, "
    "alter subscription_tier type tier using 'basic'": (
        "fault",
        "column subscription_tier of table users is tier, not text",
    ),
    "alter table viewing_time_balances drop constraint uq_vtb_profile_date, "
    "add constraint late unique (profile_id, reset_date) deferrable": (
        "refuse",
        f"constraint late of {BALANCE} is deferrable, so no row can be written",
    ),
    "alter table viewing_time_configs "
    "add constraint late unique (profile_id) deferrable initially deferred": (
        "refuse",
        "constraint late of table viewing_time_configs is deferrable, so no row can be written",
    ),
    "alter table viewing_time_balances drop constraint uq_vtb_profile_date; "
    "drop index ix_vtb_date_profile; "
    "create unique index whole on viewing_time_balances (profile_id, reset_date); "
    "update pg_index set indisvalid = false where indexrelid = 'whole'::regclass": (
        "refuse",
        f"unique index whole of {BALANCE} is invalid, so no row can be written",
    ),
    "create rule twice as on insert to viewing_time_balances do also notify written": (
        "refuse",
        f"rule twice of {BALANCE} changes statements, so those of the service can fail",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_each_obstacle_is_reported_with_a_remedy_that_works(
    connection: Connection, change: str
) -> None:
    await make_plain(connection)
    await connection.execute(change)
    assert await reported(connection) == [CHANGES[change]]
    assert await problems_after_remedies(connection) == []


async def test_unique_index_on_some_rows_or_other_columns_is_not_enough(
    connection: Connection,
) -> None:
    await make_plain(connection)
    await connection.execute(
        """
        alter table viewing_time_balances drop constraint uq_vtb_profile_date;
        drop index ix_vtb_date_profile;
        create unique index on viewing_time_balances (profile_id, reset_date)
        where not is_unlimited_override;
        create unique index on viewing_time_balances (profile_id, reset_date, used_seconds);
        create unique index on viewing_time_balances (profile_id, (reset_date + 1));
        """
    )
    assert [what for level, what in await reported(connection) if level != "warn"] == [
        f"{BALANCE} has no unique constraint on (profile_id, reset_date), so no row can be written"
    ]


async def test_generated_columns_are_reported(connection: Connection) -> None:
    await connection.execute(
        """
        alter table viewing_sessions drop is_educational;
        alter table viewing_sessions
            add is_educational bool generated always as (false) stored,
            add rate int generated always as (10 / total_seconds) stored;
        """
    )
    assert await reported(connection) == [
        (
            "warn" if what.startswith("column rate") else "refuse",
            what,
        )
        for what in (
            f"column is_educational of {SESSION} is generated, so the service cannot write it",
            f"column rate of {SESSION} is generated and may refuse rows of the service",
        )
    ]


@pytest.mark.parametrize("table", ["viewing_sessions", "time_grants", "users"])
@pytest.mark.parametrize("when", ["before insert", "before update", "after insert or update"])
async def test_enabled_triggers_of_the_platform_are_a_warning(
    connection: Connection, table: str, when: str
) -> None:
    await connection.execute(
        f"""
        create function audited() returns trigger language plpgsql as 'begin return null; end';
        create trigger audit {when} on {table} for each row execute function audited();
        """
    )
    what = f"trigger audit of table {table} may change or refuse rows of the service"
    assert await reported(connection) == [("warn", what)]
    await connection.execute(f"alter table {table} disable trigger audit")
    assert await reported(connection) == []


async def test_additional_unique_indexes_are_a_warning(connection: Connection) -> None:
    await connection.execute(
        """
        create unique index device on viewing_sessions (device_id);
        create unique index open on viewing_sessions (profile_id) where ended_at is null;
        create unique index name on profiles (user_id, name);
        """
    )
    assert await reported(connection) == [
        ("warn", f"unique index {name} of {SESSION} may refuse rows of the service")
        for name in ("device", "open")
    ]


@pytest.fixture
async def role(connection: Connection, database: str) -> AsyncIterator[str]:
    """The name of a role that row security applies to."""
    name = f"served_{uuid4().hex}"
    await connection.execute(f"create role {name}")
    yield name
    await connection.execute("reset role")
    await connection.execute(f"drop owned by {name}")
    await connection.execute(f"drop role {name}")


async def test_row_security_is_reported_if_it_applies_to_the_role(
    connection: Connection, role: str
) -> None:
    await connection.execute("alter table viewing_sessions enable row level security")
    assert await reported(connection) == []
    await connection.execute(f"set role {role}")
    (found,) = await tables.problems(connection)
    await connection.execute("reset role")
    assert (found.level, found.text) == (
        "refuse",
        f"row security of {SESSION} has no policy that allows role {role} to read and insert",
    )
    (line,) = re.findall("`(.*)`", found.remedy)
    await connection.execute(line)
    await connection.execute(f"set role {role}")
    assert await reported(connection) == [
        (
            "warn",
            f"row security of {SESSION} is in force for role {role} and may hide or refuse rows",
        )
    ]


async def test_check_and_serve_report_the_same_sentence(
    connection: Connection, database: str, tmp_path: Path
) -> None:
    await connection.execute("alter table viewing_time_balances add tenant uuid not null")
    await connection.execute("alter table titles add genre text not null")
    environment = {"DATABASE_URL": database, "JWT_SECRET": SECRET, "PORT": str(free_port())}
    found = await asyncio.to_thread(lambda: [*findings(environment, 1, utc_now)])
    lines = [str(finding) for finding in found if "of table" in finding.text]
    sentence = (
        "column tenant of table viewing_time_balances needs a value that the service does not "
        "give: give it a default: `alter table viewing_time_balances alter column tenant set "
        "default ...`"
    )
    assert lines[0] == f"FAULT {sentence}"
    assert lines[1].startswith("warn  column genre of table titles needs a value")
    status, output = await asyncio.to_thread(refused, tmp_path, "serve", **environment)
    assert status == 1
    assert output == f"Error: Cannot use the database at DATABASE_URL: {sentence}."


async def test_serve_starts_and_logs_problems_that_affect_only_some_requests(
    connection: Connection, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await connection.execute("alter table time_grants add tenant uuid not null")
    await connection.execute("alter table titles add genre text not null")
    assert await startup_error(settings) == ""
    lines = [vars(line)["fields"]["what"] for line in caplog.records if "table" in line.message]
    assert [what.split(" needs")[0] for what in lines] == [
        "column tenant of table time_grants",
        "column genre of table titles",
    ]
