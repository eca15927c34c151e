"""The migrations on real databases: an empty one, the existing application's, and a busy one."""

import getpass
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.database.migrate import MigrationError, Plan, listing, migrate, rollback
from service.database.statement import files
from tests.balance_shapes import PARTITION_NAMES
from tests.command.test_main import refused
from tests.conftest import ROOT
from tests.eventually import eventually_blocking

Connection = psycopg.Connection[tuple[Any, ...]]

IDS = [
    "0001_tables",
    "0002_timezone_default",
    "0003_hot_table_storage",
    "0004_viewing_sessions_end_open",
    "0005_ix_vs_profile_active",
    "0006_ix_vs_profile_started",
    "0007_ix_profiles_user",
    "0008_ix_tg_profile",
    "0009_ix_tg_granted_by",
    "0010_recent_marks",
    "0011_vacuum_thresholds",
    "0012_pin_attempts",
    "0013_ix_vs_title",
    "0014_pending_deletions",
    "0015_recent_keys",
    "0016_sessions_end_after_their_start",
    "0017_request_keys",
    "0018_schedules",
    "0019_exceptions",
    "0020_locks",
    "0021_strict_accounts",
    "0022_grant_effects",
    "0023_day_limits",
    "0024_earlier_days",
    "0025_clocks",
    "0026_ix_vs_earlier_days",
    "0027_report_links",
    "0028_heartbeat_parts",
    "0029_ix_vtb_date_profile",
    "0030_count_balances",
    "0031_balance_partitions",
    "0032_partition_empty_balances",
    "0034_uncached_heartbeats",
    "0035_events",
    "0036_requests",
    "0037_heartbeat_events",
    "0038_cells",
    "0039_cell_moves",
]
STARTED = "0006_ix_vs_profile_started"

# The columns of the contract: name, type, null allowed; the columns of the service come last.
COLUMNS = {
    "users": """
        id uuid, email varchar(255), password_hash varchar(255), subscription_tier varchar(20),
        is_admin bool, is_active bool, created_at timestamptz, pin_hash varchar(255) null,
        pin_failed_attempts int, pin_lockout_until timestamptz null""",
    "profiles": """
        id uuid, user_id uuid, name varchar(100), avatar_url varchar(500) null,
        parental_rating varchar(10), is_kids bool, created_at timestamptz""",
    "titles": """
        id uuid, title varchar(500), title_type varchar(20), is_featured bool,
        is_educational bool, created_at timestamptz""",
    "viewing_time_configs": """
        id uuid, profile_id uuid, weekday_limit_minutes int null, weekend_limit_minutes int null,
        reset_hour int, educational_exempt bool, timezone varchar(50), created_at timestamptz,
        updated_at timestamptz, day_floor date null""",
    "viewing_time_balances": """
        id uuid, profile_id uuid, reset_date date, used_seconds int, educational_seconds int,
        is_unlimited_override bool, updated_at timestamptz, limit_minutes int null,
        extended_minutes int null, latest_credit_seconds int null""",
    "viewing_sessions": """
        id uuid, profile_id uuid, title_id uuid, device_id varchar(100),
        device_type varchar(20) null, is_educational bool, started_at timestamptz,
        last_heartbeat_at timestamptz, ended_at timestamptz null, total_seconds int,
        paused_at timestamptz null, recent_marks uuid[] null, recent_keys bytea null,
        earlier_days jsonb null""",
    "time_grants": """
        id uuid, profile_id uuid, granted_by_user_id uuid, granted_minutes int null,
        is_remote bool, granted_at timestamptz, reset_date date null, mode varchar(10) null,
        effect_seconds int null, undone_at timestamptz null, undone_by_user_id uuid null,
        request_id uuid null""",
}
# Tables that an adopted database lacks.
ADDED = {
    "viewing_time_attempts": """
        id uuid, account_id uuid, is_password bool, begun_at timestamptz,
        locked_until timestamptz null, is_forgiven bool""",
    "viewing_time_password_failures": """
        account_id uuid, failures int, next_attempt_at timestamptz""",
    "viewing_time_request_keys": """
        account_id uuid, mark uuid, digest bytea, status int, answer text,
        created_at timestamptz""",
    "viewing_schedules": """
        profile_id uuid, daily_limits jsonb null, downtime jsonb, weekly_limit_minutes int null,
        week_starts_on varchar(3), rollover_max_minutes int, finish_minutes int,
        updated_at timestamptz""",
    "viewing_exceptions": """
        profile_id uuid, day date, changes_limit bool, limit_minutes int null,
        lifts_downtime bool, updated_at timestamptz""",
    "viewing_locks": """
        profile_id uuid, locked_until timestamptz, locked_at timestamptz""",
    "viewing_strict_accounts": "account_id uuid, since timestamptz",
    "viewing_clocks": "profile_id uuid, counted_until timestamptz, latest_seconds int",
    "viewing_report_links": "id bytea, account_id uuid, expires_at timestamptz",
    "viewing_events": """
        id uuid, seq bigint, position bigint null, account_id uuid, profile_id uuid null, type text,
        occurred_at timestamptz, data jsonb, cause text null, delivery_id uuid null,
        delivered_at timestamptz null, parked_at timestamptz null""",
    "viewing_event_feed": "is_only bool, position bigint, webhook_from bigint null",
    "viewing_deliveries": """
        id uuid, created_at timestamptz, attempts int, due_at timestamptz""",
    "viewing_requests": """
        id uuid, account_id uuid, profile_id uuid, minutes int null, message varchar(200) null,
        device_id varchar(100) null, status varchar(8), reset_date date, requested_at timestamptz,
        expires_at timestamptz, decided_at timestamptz null, decided_by_user_id uuid null,
        grant_id uuid null""",
    "viewing_cell": "is_only bool, name varchar(40)",
    "viewing_cell_slots": "slot int, cell varchar(40), epoch bigint",
    "viewing_cell_accounts": "id uuid, cell varchar(40), epoch bigint, state varchar(7)",
}
ADDED_COLUMNS = {
    "viewing_time_configs": ["day_floor"],
    "viewing_time_balances": ["limit_minutes", "extended_minutes", "latest_credit_seconds"],
    "viewing_sessions": ["recent_marks", "recent_keys", "earlier_days"],
    "time_grants": [
        "reset_date",
        "mode",
        "effect_seconds",
        "undone_at",
        "undone_by_user_id",
        "request_id",
    ],
}
TABLES = {**COLUMNS, **ADDED}
SHORT = {"character varying": "varchar", "boolean": "bool", "integer": "int"}
SHORT["timestamp with time zone"] = "timestamptz"

OF_PROFILE = "foreign key (profile_id) references profiles(id) on delete cascade"
CONSTRAINTS = {
    "users_pkey": "primary key (id)",
    "users_email_key": "unique (email)",
    "profiles_pkey": "primary key (id)",
    "profiles_user_id_fkey": "foreign key (user_id) references users(id) on delete cascade",
    "titles_pkey": "primary key (id)",
    "viewing_time_configs_pkey": "primary key (id)",
    "viewing_time_configs_profile_id_fkey": (
        "foreign key (profile_id) references profiles(id) on delete cascade"
    ),
    "uq_vtc_profile": "unique (profile_id)",
    "ck_vtc_weekday_range": (
        "check (((weekday_limit_minutes is null) or ((weekday_limit_minutes >= 15) and "
        "(weekday_limit_minutes <= 480) and ((weekday_limit_minutes % 15) = 0))))"
    ),
    "ck_vtc_weekend_range": (
        "check (((weekend_limit_minutes is null) or ((weekend_limit_minutes >= 15) and "
        "(weekend_limit_minutes <= 480) and ((weekend_limit_minutes % 15) = 0))))"
    ),
    "ck_vtc_reset_hour": "check (((reset_hour >= 0) and (reset_hour <= 23)))",
    "viewing_time_balances_pkey": "primary key (id)",
    "viewing_time_balances_profile_id_fkey": (
        "foreign key (profile_id) references profiles(id) on delete cascade"
    ),
    "uq_vtb_profile_date": "unique (profile_id, reset_date)",
    "viewing_sessions_pkey": "primary key (id)",
    "viewing_sessions_profile_id_fkey": (
        "foreign key (profile_id) references profiles(id) on delete cascade"
    ),
    "viewing_sessions_title_id_fkey": (
        "foreign key (title_id) references titles(id) on delete cascade"
    ),
    "time_grants_pkey": "primary key (id)",
    "time_grants_profile_id_fkey": (
        "foreign key (profile_id) references profiles(id) on delete cascade"
    ),
    "time_grants_granted_by_user_id_fkey": (
        "foreign key (granted_by_user_id) references users(id) on delete cascade"
    ),
    "viewing_time_attempts_pkey": "primary key (id)",
    "viewing_time_attempts_account_id_fkey": (
        "foreign key (account_id) references users(id) on delete cascade"
    ),
    "viewing_time_password_failures_pkey": "primary key (account_id)",
    "viewing_time_password_failures_account_id_fkey": (
        "foreign key (account_id) references users(id) on delete cascade"
    ),
    "viewing_time_request_keys_pkey": "primary key (account_id, mark)",
    "viewing_time_request_keys_account_id_fkey": (
        "foreign key (account_id) references users(id) on delete cascade"
    ),
    "viewing_schedules_pkey": "primary key (profile_id)",
    "viewing_schedules_profile_id_fkey": OF_PROFILE,
    "ck_vs_weekly_range": (
        "check (((weekly_limit_minutes is null) or ((weekly_limit_minutes >= 15) and "
        "(weekly_limit_minutes <= 10080) and ((weekly_limit_minutes % 15) = 0))))"
    ),
    "ck_vs_week_starts_on": (
        "check (((week_starts_on)::text = any ((array['mon'::character varying, "
        "'tue'::character varying, 'wed'::character varying, 'thu'::character varying, "
        "'fri'::character varying, 'sat'::character varying, 'sun'::character varying])::text[])))"
    ),
    "ck_vs_rollover_max": "check (((rollover_max_minutes >= 0) and (rollover_max_minutes <= 240)))",
    "ck_vs_finish": "check (((finish_minutes >= 0) and (finish_minutes <= 60)))",
    "viewing_exceptions_pkey": (
        "primary key (profile_id, day) include (changes_limit, limit_minutes, lifts_downtime)"
    ),
    "viewing_exceptions_profile_id_fkey": OF_PROFILE,
    "ck_ve_limit_range": (
        "check (((limit_minutes is null) or ((limit_minutes >= 15) and "
        "(limit_minutes <= 1440) and ((limit_minutes % 15) = 0))))"
    ),
    "viewing_locks_pkey": "primary key (profile_id)",
    "viewing_locks_profile_id_fkey": OF_PROFILE,
    "viewing_strict_accounts_pkey": "primary key (account_id)",
    "viewing_strict_accounts_account_id_fkey": (
        "foreign key (account_id) references users(id) on delete cascade"
    ),
    "viewing_clocks_pkey": "primary key (profile_id)",
    "viewing_clocks_profile_id_fkey": OF_PROFILE,
    "viewing_report_links_pkey": "primary key (id)",
    "viewing_report_links_account_id_fkey": (
        "foreign key (account_id) references users(id) on delete cascade"
    ),
    "viewing_events_pkey": "primary key (id)",
    "uq_ve_cause": "unique (profile_id, cause)",
    "viewing_events_account_id_fkey": (
        "foreign key (account_id) references users(id) on delete cascade"
    ),
    "viewing_events_profile_id_fkey": OF_PROFILE,
    "viewing_event_feed_pkey": "primary key (is_only)",
    "ck_vef_is_only": "check (is_only)",
    "viewing_deliveries_pkey": "primary key (id)",
    "viewing_requests_pkey": "primary key (id)",
    "viewing_requests_account_id_fkey": (
        "foreign key (account_id) references users(id) on delete cascade"
    ),
    "viewing_requests_profile_id_fkey": OF_PROFILE,
    "viewing_cell_pkey": "primary key (is_only)",
    "ck_vc_is_only": "check (is_only)",
    "viewing_cell_slots_pkey": "primary key (slot)",
    "viewing_cell_accounts_pkey": "primary key (id)",
}
INDEXES = {
    "ix_vs_profile_active": "viewing_sessions using btree (profile_id) where (ended_at is null)",
    "ix_vs_profile_started": "viewing_sessions using btree (profile_id, started_at desc)",
    "ix_vs_title": "viewing_sessions using btree (title_id)",
    "ix_profiles_user": "profiles using btree (user_id)",
    "ix_tg_profile": "time_grants using btree (profile_id)",
    "ix_tg_granted_by": "time_grants using btree (granted_by_user_id)",
    "ix_vta_account": "viewing_time_attempts using btree (account_id)",
    "ix_vtrk_created": "viewing_time_request_keys using btree (created_at)",
    "ix_vrl_account": "viewing_report_links using btree (account_id, expires_at)",
    "ix_vrl_expires": "viewing_report_links using btree (expires_at)",
    "ix_vs_earlier_days": (
        "viewing_sessions using btree (profile_id, started_at desc) "
        "where (earlier_days is not null)"
    ),
    "ix_vtb_date_profile": "viewing_time_balances using btree (reset_date, profile_id)",
    "ix_ve_position": 'viewing_events using btree ("position")',
    "ix_ve_account": 'viewing_events using btree (account_id, "position")',
    "ix_ve_new": 'viewing_events using btree (seq) where ("position" is null)',
    "ix_ve_unsent": (
        'viewing_events using btree ("position") where ((delivery_id is null) '
        "and (delivered_at is null) and (parked_at is null))"
    ),
    "ix_ve_sending": (
        'viewing_events using btree (delivery_id, "position") where (delivery_id is not null)'
    ),
    "ix_ve_sending_profile": (
        "viewing_events using btree (profile_id) where (delivery_id is not null)"
    ),
    "ix_ve_parked": 'viewing_events using btree ("position") where (parked_at is not null)',
    "ix_vd_due": "viewing_deliveries using btree (due_at)",
    "uq_vr_pending": (
        "viewing_requests using btree (profile_id) where ((status)::text = 'pending'::text)"
    ),
    "ix_vr_profile_day": "viewing_requests using btree (profile_id, reset_date)",
    "ix_vr_account": "viewing_requests using btree (account_id, requested_at)",
    "ix_vr_expires": (
        "viewing_requests using btree (expires_at) where ((status)::text = 'pending'::text)"
    ),
}

# Rows of the existing application: 20 accounts, 40 profiles, a year of sessions.
LEGACY_ROWS = """
    insert into users (id, email, password_hash, pin_hash)
    select md5('u' || i)::uuid, i || '@example.test', '$2b$12$x', '$2b$12$y'
    from generate_series(1, 20) as i;
    insert into profiles (id, user_id, name, is_kids)
    select md5('p' || i)::uuid, md5('u' || (i + 1) / 2)::uuid, 'viewer ' || i, i % 2 = 0
    from generate_series(1, 40) as i;
    insert into titles (id, title, title_type, description, genre, is_educational)
    select md5('t' || i)::uuid, 'title ' || i, 'movie', repeat('words ', 200), 'drama', i % 3 = 0
    from generate_series(1, 50) as i;
    insert into viewing_time_configs (id, profile_id, weekday_limit_minutes)
    select md5('c' || i)::uuid, md5('p' || i)::uuid, 120 from generate_series(2, 40, 2) as i;
    insert into viewing_time_balances (id, profile_id, reset_date, used_seconds)
    select md5('b' || i || '-' || d)::uuid, md5('p' || i)::uuid, date '2026-01-01' + d, 30 * d
    from generate_series(2, 40, 2) as i, generate_series(0, 99) as d;
    insert into viewing_sessions (
        id, profile_id, title_id, device_id, device_type, started_at, last_heartbeat_at, ended_at,
        total_seconds
    )
    select
        md5('s' || i)::uuid, md5('p' || 1 + i % 40)::uuid, md5('t' || 1 + i % 50)::uuid, 'tv', 'tv',
        moment, moment, case when i < 19990 then moment + interval '30 minutes' end, 1800
    from generate_series(1, 20000) as i,
        lateral (select timestamptz '2026-01-01 00:00Z' + i * interval '25 minutes') as m (moment);
    insert into time_grants (id, profile_id, granted_by_user_id, granted_minutes)
    select md5('g' || i)::uuid, md5('p' || 2 * i)::uuid, md5('u' || i)::uuid, 30
    from generate_series(1, 20) as i;
"""

# The statements of a heartbeat of the existing application.
OLD_BEAT = """
    with session as (
        update viewing_sessions set last_heartbeat_at = now(), total_seconds = total_seconds + 30
        where id = md5('s' || %(number)s::text)::uuid
        returning profile_id
    )
    insert into viewing_time_balances as b (id, profile_id, reset_date, used_seconds)
    select gen_random_uuid(), profile_id, date '2026-11-25', 30 from session
    on conflict (profile_id, reset_date) do update set used_seconds = b.used_seconds + 30
"""
OLD_CONFIGURATION = "insert into viewing_time_configs (id, profile_id) values (%s, %s)"


@contextmanager
def connected(dsn: str, **parameters: str) -> Iterator[Connection]:
    address = make_conninfo(dsn, **parameters)
    with closing(psycopg.connect(address, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def legacy_database(empty_database: str) -> str:
    """A database of the existing application, with its rows."""
    schema = (ROOT / "tests/legacy_schema.sql").read_text(encoding="utf-8")
    with connected(empty_database) as connection:
        connection.execute(schema)
        connection.execute(LEGACY_ROWS)
    return empty_database


eventually = eventually_blocking


def columns(connection: Connection, table: str) -> list[str]:
    rows = connection.execute(
        "select attname, format_type(atttypid, atttypmod), attnotnull from pg_attribute"
        " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
        [table],
    )
    written = []
    for name, kind, is_required in rows:
        for long, short in SHORT.items():
            kind = kind.replace(long, short)
        written.append(f"{name} {kind}{'' if is_required else ' null'}")
    return written


def constraints(connection: Connection) -> dict[str, str]:
    rows = connection.execute(
        "select conname, lower(pg_get_constraintdef(oid)) from pg_constraint"
        " where conrelid = any (%s::regclass[]) and contype in ('p', 'u', 'f', 'c')",
        [list(TABLES)],
    )
    return dict(rows.fetchall())


def indexes(connection: Connection) -> dict[str, str]:
    """The indexes without those of constraints."""
    rows = connection.execute(
        "select c.relname, lower(split_part(d.text, ' ON public.', 2))"
        " from pg_index as i join pg_class as c on c.oid = i.indexrelid"
        " cross join lateral (select replace(pg_get_indexdef(c.oid), ' ONLY ', ' ')) as d (text)"
        " where i.indrelid = any (%s::regclass[]) and i.indisvalid and i.indisready"
        " and not exists (select from pg_constraint as k where k.conindid = c.oid)",
        [list(TABLES)],
    )
    return dict(rows.fetchall())


def catalogue(dsn: str) -> list[tuple[Any, ...]]:
    """Every object of a schema, in a form that can be compared."""
    with connected(dsn) as connection:
        return connection.execute(
            """
            select 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                a.attnotnull::text, pg_get_expr(d.adbin, d.adrelid)
            from pg_attribute as a
            join pg_class as c on c.oid = a.attrelid
            left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
            where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0
            union all
            select 'relation', relname, relkind::text, reloptions::text, null, null
            from pg_class where relnamespace = 'public'::regnamespace
            union all
            select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid),
                convalidated::text, null
            from pg_constraint where connamespace = 'public'::regnamespace
            union all
            select 'index', indrelid::regclass::text, pg_get_indexdef(indexrelid),
                indisvalid::text, indisready::text, null
            from pg_index as i join pg_class as c on c.oid = i.indexrelid
            where c.relnamespace = 'public'::regnamespace
            union all
            select 'function', proname, pg_get_functiondef(oid), null, null, null
            from pg_proc where pronamespace = 'public'::regnamespace
            order by 1, 2, 3, 4
            """
        ).fetchall()


def contents(dsn: str) -> dict[str, tuple[Any, ...]]:
    """Each table's number of rows, the sum of all of them, and where each row version lies.

    The columns that we add are left out: they are null in every row that was there before.
    """
    with connected(dsn) as connection:
        return {
            table: connection.execute(
                "select count(*),"
                " md5(string_agg((to_jsonb(t) - %s::text[])::text, ',' order by id)),"
                f" md5(string_agg(ctid::text || xmin::text, ',' order by id)) from {table} as t",
                [ADDED_COLUMNS.get(table, [])],
            ).fetchall()[0]
            for table in COLUMNS
        }


@pytest.fixture
def meanwhile() -> Iterator[ThreadPoolExecutor]:
    """Threads that run beside the test, each with its own connections."""
    with ThreadPoolExecutor() as threads:
        yield threads


def test_an_empty_database_gets_the_tables_of_the_contract(empty_database: str) -> None:
    assert migrate(empty_database) == IDS
    with connected(empty_database) as connection:
        for table, listed in TABLES.items():
            assert columns(connection, table) == [
                " ".join(column.split()) for column in listed.split(",")
            ]
        key = {"viewing_time_balances_pkey": "primary key (id, reset_date)"}
        assert constraints(connection) == CONSTRAINTS | key
        assert indexes(connection) == INDEXES


def test_empty_database_gets_the_defaults_of_the_contract(empty_database: str) -> None:
    migrate(empty_database)
    with connected(empty_database) as connection:
        account, profile, title = uuid4(), uuid4(), uuid4()
        stored = connection.execute(
            "insert into users (id, email, password_hash) values (%s, 'a@example.test', 'x')"
            " returning subscription_tier, is_admin, is_active, pin_failed_attempts",
            [account],
        ).fetchone()
        assert stored == ("basic", False, True, 0)
        stored = connection.execute(
            "insert into profiles (id, user_id, name) values (%s, %s, 'a')"
            " returning parental_rating, is_kids",
            [profile, account],
        ).fetchone()
        assert stored == ("TV-MA", False)
        connection.execute(
            "insert into titles (id, title, title_type) values (%s, 'a', 'movie')", [title]
        )
        stored = connection.execute(
            "insert into viewing_time_configs (id, profile_id) values (%s, %s)"
            " returning reset_hour, educational_exempt, timezone",
            [uuid4(), profile],
        ).fetchone()
        assert stored == (6, True, "UTC")
        stored = connection.execute(
            "insert into viewing_time_balances (id, profile_id, reset_date)"
            " values (%s, %s, '2026-01-01')"
            " returning used_seconds, educational_seconds, is_unlimited_override",
            [uuid4(), profile],
        ).fetchone()
        assert stored == (0, 0, False)


def test_a_live_database_is_adopted_without_touching_a_row(legacy_database: str) -> None:
    before = contents(legacy_database)
    assert before["viewing_sessions"][0] == 20_000
    assert migrate(legacy_database) == IDS
    assert contents(legacy_database) == before
    with connected(legacy_database) as connection:
        assert constraints(connection) == CONSTRAINTS
        assert indexes(connection) == INDEXES
        assert "description text null" in columns(connection, "titles")
        old_rows = connection.execute("select distinct timezone from viewing_time_configs")
        assert old_rows.fetchall() == [("'UTC'",)]


def test_existing_application_works_after_the_adoption(legacy_database: str) -> None:
    migrate(legacy_database)
    with connected(legacy_database) as connection:
        for _ in range(2):
            connection.execute(OLD_BEAT, {"number": 7})
        profile = connection.execute("select md5('p1')::uuid").fetchall()[0][0]
        connection.execute(OLD_CONFIGURATION, [uuid4(), profile])
        zone = "select timezone from viewing_time_configs where profile_id = %s"
        assert connection.execute(zone, [profile]).fetchone() == ("UTC",)
        beats = connection.execute(
            "select s.total_seconds, b.used_seconds from viewing_sessions as s"
            " join viewing_time_balances as b using (profile_id)"
            " where s.id = md5('s7')::uuid and b.reset_date = date '2026-11-25'"
        )
        assert beats.fetchone() == (1860, 60)
        connection.execute("delete from users where id = md5('u1')::uuid")
        left = "select count(*) from viewing_sessions where profile_id = %s"
        assert connection.execute(left, [profile]).fetchone() == (0,)


def test_a_second_run_changes_nothing(empty_database: str) -> None:
    migrate(empty_database)
    before = catalogue(empty_database)
    assert migrate(empty_database) == []
    assert catalogue(empty_database) == before


def test_a_run_that_died_before_recording_its_work_can_be_repeated(
    legacy_database: str,
) -> None:
    """Later migrations have not run then, so those before the partitions find one table."""
    migrate(legacy_database)
    before = catalogue(legacy_database)
    with connected(legacy_database) as connection:
        connection.execute("delete from _yoyo_migration")
    assert migrate(legacy_database) == IDS
    assert catalogue(legacy_database) == before


def test_a_run_that_died_after_partitioning_can_be_repeated(empty_database: str) -> None:
    migrate(empty_database)
    before = catalogue(empty_database)
    with connected(empty_database) as connection:
        connection.execute("delete from _yoyo_migration where migration_id >= '0031'")
    assert migrate(empty_database) == [name for name in IDS if name >= "0031"]
    assert catalogue(empty_database) == before


def test_the_list_shows_the_applied_migrations_and_changes_nothing(empty_database: str) -> None:
    before = catalogue(empty_database)
    assert listing(empty_database) == [(migration, False) for migration in IDS]
    assert catalogue(empty_database) == before
    migrate(empty_database)
    assert listing(empty_database) == [(migration, True) for migration in IDS]
    rollback(empty_database, IDS[-2])
    assert listing(empty_database) == [(migration, migration < IDS[-2]) for migration in IDS]


def test_rolling_back_and_forward_gives_the_same_schema(empty_database: str) -> None:
    migrate(empty_database)
    before = catalogue(empty_database)
    for target in reversed(IDS):
        assert rollback(empty_database, target) == [target]
    after = catalogue(empty_database)
    assert not [row for row in after if row[0] == "function"]
    assert not [row for row in after if row[0] == "relation" and row[3] is not None]
    assert migrate(empty_database) == IDS
    assert catalogue(empty_database) == before
    assert rollback(empty_database, IDS[0]) == IDS[::-1]
    assert migrate(empty_database) == IDS
    assert catalogue(empty_database) == before


def test_hot_tables_are_vacuumed_after_a_fixed_number_of_rows(
    empty_database: str,
) -> None:
    migrate(empty_database)
    with connected(empty_database) as connection:
        names = [*connection.execute(PARTITION_NAMES)]
        assert len(names) == 9  # days before, the current month and six more, other days
        for table in ("viewing_sessions", *(name for (name,) in names)):
            found = connection.execute(
                "select pg_options_to_table(reloptions)::text from pg_class where relname = %s",
                [table],
            ).fetchall()
            options = dict(row[0].strip("()").split(",") for row in found)
            shares = {value for name, value in options.items() if name.endswith("_scale_factor")}
            rows = {int(value) for name, value in options.items() if name.endswith("_threshold")}
            assert (shares, len(options)) == ({"0"}, 7)
            assert 100_000 < min(rows) <= max(rows) < 5_000_000


def test_a_rollback_loses_no_row_and_nothing_the_existing_application_has(
    legacy_database: str,
) -> None:
    rows, schema = contents(legacy_database), set(catalogue(legacy_database))
    migrate(legacy_database)
    rollback(legacy_database, IDS[0])
    assert contents(legacy_database) == rows
    lost = schema - set(catalogue(legacy_database))
    assert [row[:3] for row in lost] == [("column", "viewing_time_configs", "timezone")]
    assert rollback(legacy_database) == []


def test_rolling_back_to_a_migration_that_is_not_applied_is_refused(empty_database: str) -> None:
    migrate(empty_database)
    with pytest.raises(MigrationError, match=r"^Migration 0042_nothing is not applied\.$"):
        rollback(empty_database, "0042_nothing")
    assert all(is_applied for _, is_applied in listing(empty_database))


def migrate_in_a_process(dsn: str) -> subprocess.Popen[str]:
    program = (
        "import sys; from service.database.migrate import migrate; print(*migrate(sys.argv[1]))"
    )
    command = [sys.executable, "-W", "error", "-c", program, dsn]
    return subprocess.Popen(command, cwd=files("sql").parent, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_migrate_once(legacy_database: str) -> None:
    processes = [migrate_in_a_process(legacy_database) for _ in range(3)]
    try:
        printed = [process.communicate(timeout=60)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(printed) == [[], [], IDS]


@contextmanager
def an_old_snapshot(dsn: str) -> Iterator[None]:
    """A transaction that every build of an index waits for."""
    with connected(dsn) as reader, reader.transaction():
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from titles")
        yield


# The connection that waits for it.
BUILDER = """
    select pid from pg_stat_activity
    where datname = current_database()
        and query like 'create index concurrently if not exists ix_vs_profile_started%'
        and wait_event = 'virtualxid'
"""


def test_a_killed_process_leaves_no_lock(
    legacy_database: str, meanwhile: ThreadPoolExecutor
) -> None:
    """It leaves a row in yoyo's lock table, and a server process that still builds its index."""
    with connected(legacy_database) as operator:
        lock = "select pid from pg_locks where locktype = 'advisory' and granted"
        with an_old_snapshot(legacy_database):
            with migrate_in_a_process(legacy_database) as killed:
                try:
                    eventually(lambda: operator.execute(BUILDER).fetchone())
                    old_holder = operator.execute(lock).fetchall()
                finally:
                    killed.kill()
            assert operator.execute("select count(*) from yoyo_lock").fetchone() == (1,)
            following = meanwhile.submit(migrate, legacy_database)
            eventually(lambda: operator.execute(lock).fetchall() not in ([], old_holder))
            assert operator.execute(BUILDER).fetchone()
        assert following.result() == IDS[IDS.index(STARTED) :]
        assert indexes(operator) == INDEXES
        assert operator.execute("select count(*) from yoyo_lock").fetchone() == (0,)


def test_an_invalid_index_is_dropped_and_built_again(
    legacy_database: str, meanwhile: ThreadPoolExecutor
) -> None:
    """The connection of the build is terminated while it waits for an older transaction."""
    with connected(legacy_database) as operator:
        with an_old_snapshot(legacy_database):
            interrupted = meanwhile.submit(migrate, legacy_database)
            eventually(lambda: operator.execute(BUILDER).fetchone())
            operator.execute(f"select pg_terminate_backend(b.pid) from ({BUILDER}) as b")
            with pytest.raises(MigrationError, match=f"^Migration {STARTED} has failed: "):
                interrupted.result()
        invalid = "select indisvalid from pg_index where indexrelid = to_regclass(%s)"
        assert operator.execute(invalid, ["ix_vs_profile_started"]).fetchone() == (False,)

        assert migrate(legacy_database) == IDS[IDS.index(STARTED) :]
        assert indexes(operator) == INDEXES


def test_an_invalid_index_is_built_again_even_if_recorded_as_applied(legacy_database: str) -> None:
    migrate(legacy_database)
    with connected(legacy_database) as operator:
        operator.execute("drop index ix_vs_profile_started")
        with pytest.raises(psycopg.errors.UniqueViolation):
            operator.execute(
                "create unique index concurrently ix_vs_profile_started"
                " on viewing_sessions (profile_id)"
            )
        assert migrate(legacy_database) == [STARTED]
        assert indexes(operator) == INDEXES


def test_writers_continue_while_a_live_database_is_migrated(
    legacy_database: str, meanwhile: ThreadPoolExecutor
) -> None:
    """A writer that waits longer for a lock than a migration may is cancelled by the server."""
    is_over = threading.Event()

    def write(number: int) -> int:
        beats = 0
        with connected(legacy_database, options="-c lock_timeout=2s") as connection:
            while not is_over.is_set():
                connection.execute(OLD_BEAT, {"number": number})
                connection.execute("select count(*) from viewing_time_configs")
                beats += 1
        return beats

    with connected(legacy_database) as connection:
        counted = "select sum(total_seconds) from viewing_sessions"
        before = connection.execute(counted).fetchall()[0][0]
        writers = [meanwhile.submit(write, number) for number in range(1, 5)]
        try:
            assert migrate(legacy_database) == IDS
        finally:
            is_over.set()
        beats = sum(writer.result() for writer in writers)
        assert beats > 0
        assert connection.execute(counted).fetchone() == (before + 30 * beats,)


def test_the_holder_of_a_lock_is_named_and_no_writer_waits(
    legacy_database: str, meanwhile: ThreadPoolExecutor
) -> None:
    with connected(legacy_database, application_name="nightly report") as holder:
        with holder.transaction():
            holder.execute("select count(*)\n  from viewing_time_configs")
            refused = meanwhile.submit(migrate, legacy_database)
            with connected(legacy_database, options="-c lock_timeout=20s") as reader:
                waiting = (
                    "select from pg_locks where not granted"
                    " and relation = 'viewing_time_configs'::regclass"
                )
                eventually(lambda: reader.execute(waiting).fetchone() is not None)
                # Waits behind the migration, which gives up while the holder stays.
                reader.execute("select count(*) from viewing_time_configs")
            with pytest.raises(MigrationError) as raised:
                refused.result()
        sentence = str(raised.value)
        assert sentence.startswith("Migration 0002_timezone_default has given up waiting")
        assert f"held by pid {holder.info.backend_pid} (nightly report)" in sentence
        assert "select count(*) from viewing_time_configs" in sentence
        assert listing(legacy_database)[:2] == [(IDS[0], True), (IDS[1], False)]
        assert migrate(legacy_database) == IDS[1:]


@pytest.fixture
def watched(legacy_database: str) -> Iterator[tuple[str, UUID]]:
    """A migrated database, and a profile with an open session in it."""
    migrate(legacy_database)
    with connected(legacy_database) as connection:
        query = "select profile_id from viewing_sessions where ended_at is null limit 1"
        yield legacy_database, connection.execute(query).fetchall()[0][0]


START = """
    insert into viewing_sessions (
        id, profile_id, title_id, device_id, started_at, last_heartbeat_at
    )
    values (gen_random_uuid(), %s, md5('t1')::uuid, 'tv', now(), now())
"""
END_OPEN = "select viewing_sessions_end_open(%s, '2027-01-01 00:00Z')"
OPEN = "select count(*) from viewing_sessions where profile_id = %s and ended_at is null"


def test_the_function_ends_every_open_session_of_its_profile(watched: tuple[str, UUID]) -> None:
    dsn, profile = watched
    with connected(dsn) as connection:
        connection.execute(START, [profile])
        others = "select count(*) from viewing_sessions where profile_id <> %s and ended_at is null"
        before = connection.execute(others, [profile]).fetchone()
        ended = connection.execute(OPEN, [profile]).fetchall()[0][0]
        assert ended >= 2
        # The caller has another search path; the function still uses the service's tables.
        connection.execute("set search_path to pg_catalog")
        connection.execute("select public.viewing_sessions_end_open(%s, '2027-01-01Z')", [profile])
        connection.execute("reset search_path")
        assert connection.execute(OPEN, [profile]).fetchone() == (0,)
        at = "select count(*) from viewing_sessions where ended_at = '2027-01-01 00:00Z'"
        assert connection.execute(at).fetchone() == (ended,)
        assert connection.execute(others, [profile]).fetchone() == before


def test_two_transactions_that_start_a_session_at_once_leave_one_open(
    watched: tuple[str, UUID], meanwhile: ThreadPoolExecutor
) -> None:
    """The second statement begins before the first commits, and still ends its session."""
    dsn, profile = watched

    def start() -> None:
        with connected(dsn, application_name="second") as second:
            second.execute(END_OPEN, [profile])
            second.execute(START, [profile])

    with connected(dsn) as first, connected(dsn) as operator:
        with first.transaction():
            first.execute(END_OPEN, [profile])
            first.execute(START, [profile])
            second = meanwhile.submit(start)
            waiting = (
                "select from pg_stat_activity"
                " where application_name = 'second' and wait_event = 'advisory'"
            )
            eventually(lambda: operator.execute(waiting).fetchone() is not None)
        second.result()
        assert operator.execute(OPEN, [profile]).fetchone() == (1,)


def test_every_form_of_a_dsn_reaches_the_same_database(empty_database: str) -> None:
    where = conninfo_to_dict(empty_database)
    plain = f"postgres://{where['user']}@:{where['port']}/{where['dbname']}?host={where['host']}"
    assert migrate(plain) == IDS
    assert migrate(plain.replace("postgres://", "postgresql://")) == []
    assert migrate(empty_database) == []


def test_a_missing_database_is_reported_in_one_sentence() -> None:
    with pytest.raises(MigrationError, match=r"^The database cannot be reached: .*\.$") as raised:
        migrate("postgresql://parent:secret@127.0.0.1:1/viewing_time")
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)
    with pytest.raises(MigrationError, match="not one that libpq can read") as raised:
        listing("postgresql://parent:secret%zz@127.0.0.1:5432/viewing_time")
    assert "secret" not in str(raised.value)


def test_a_role_without_the_right_to_create_is_reported(empty_database: str) -> None:
    with connected(empty_database) as connection:
        connection.execute("revoke create on schema public from public")
        role = f"reader_{uuid4().hex}"
        connection.execute(f"create role {role} login")
        try:
            where = conninfo_to_dict(empty_database) | {"user": role}
            with pytest.raises(MigrationError, match=f"^Role {role} may not create tables"):
                migrate(make_conninfo("", **where))
        finally:
            connection.execute(f"drop role {role}")


def test_tables_that_new_ones_would_hide_are_reported(legacy_database: str) -> None:
    """The first schema of the search path is the one with the role's name, if it exists."""
    schemas = "select nspname, relname from pg_class join pg_namespace as n on n.oid = relnamespace"
    schemas += " where relkind = 'r' and nspname !~ '^pg_|^information_schema$' order by 1, 2"
    before = contents(legacy_database)
    with connected(legacy_database) as connection:
        role = connection.info.user
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(role)))
        tables = connection.execute(schemas).fetchall()
        for run in (migrate, rollback):
            with pytest.raises(MigrationError) as raised:
                run(legacy_database)
            assert str(raised.value).startswith(
                f"Table users is in schema public, but an empty one made in schema {role} would "
            )
            assert f"set the search_path of role {role}, or" in str(raised.value)
        assert connection.execute(schemas).fetchall() == tables
    path = make_conninfo(legacy_database, options="-c search_path=public")
    assert migrate(path) == IDS
    assert contents(legacy_database) == before


def test_new_tables_are_made_in_the_first_schema_if_they_hide_none(empty_database: str) -> None:
    with connected(empty_database) as connection:
        role = connection.info.user
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(role)))
        assert migrate(empty_database) == IDS
        assert migrate(empty_database) == []
        schema = "select relnamespace::regnamespace::text from pg_class where relname = 'users'"
        assert connection.execute(schema).fetchall() == [(role,)]


def test_a_statement_timeout_does_not_end_a_migration(legacy_database: str) -> None:
    """The time-out is shorter than the build of an index of 20,000 rows."""
    with connected(legacy_database) as connection:
        database = sql.Identifier(connection.info.dbname)
        limit = sql.SQL("alter database {} set statement_timeout = '1ms'")
        connection.execute(limit.format(database))
        assert migrate(legacy_database) == IDS
        assert indexes(connection) == INDEXES


def test_a_user_without_a_name_can_migrate(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setitem(os.environ, name, "")

    def unknown_user(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown_user)
    with pytest.raises(KeyError):
        getpass.getuser()
    assert migrate(empty_database) == IDS


def test_every_migration_can_be_rolled_back_and_has_a_lock_timeout() -> None:
    paths = sorted(path for path in files("migrations").iterdir() if path.suffix == ".sql")
    forward = [path for path in paths if ".rollback" not in path.name]
    assert [path.stem for path in forward] == IDS
    assert [path.with_suffix(".rollback.sql") for path in forward] == [
        path for path in paths if ".rollback" in path.name
    ]
    for path in forward:
        text = path.read_text(encoding="utf-8")
        if "_ix_" in path.name:
            # The only statement of its file; the repair finds the index by the file's name.
            assert text.startswith("-- transactional: false\n")
            created = text.replace("create unique index", "create index")
            assert f"create index concurrently if not exists {path.stem[5:]}\n" in created
            assert text.count(";") == 1
        elif "function" not in text:
            assert "set local lock_timeout = '2s';" in text


def test_a_rollback_reverts_one_migration(empty_database: str) -> None:
    migrate(empty_database)
    assert rollback(empty_database) == [IDS[-1]]
    assert rollback(empty_database) == [IDS[-2]]
    assert rollback(empty_database, IDS[-4]) == [IDS[-3], IDS[-4]]
    assert [name for name, applied in listing(empty_database) if applied] == IDS[:-4]


def test_a_rollback_without_consent_changes_nothing(empty_database: str) -> None:
    migrate(empty_database)
    plans: list[Plan] = []

    def refuse(plan: Plan) -> bool:
        plans.append(plan)
        return False

    assert rollback(empty_database, IDS[0], refuse) == []
    assert all(applied for _, applied in listing(empty_database))
    (plan,) = plans
    assert plan.ids == IDS[::-1]
    assert "0004_viewing_sessions_end_open" in plan.harmful
    assert "0007_ix_profiles_user" not in plan.harmful
    assert plan.services == 0


def test_a_rollback_under_a_running_service_needs_confirmation(
    empty_database: str, tmp_path: Path
) -> None:
    migrate(empty_database)
    command = ("migrate", "--rollback")
    with connected(empty_database, application_name="viewing-time"):
        status, output = refused(tmp_path, *command, DATABASE_URL=empty_database)
        assert status == 1
        assert "A service is running: it has 1 open connections." in output
        sentence = f"Nothing was rolled back; pass --yes to roll back {IDS[-1]} anyway."
        assert output.endswith(sentence)
        assert all(applied for _, applied in listing(empty_database))
        assert refused(tmp_path, *command, "--yes", DATABASE_URL=empty_database) == (0, "")
    target = ("--to", "0004_viewing_sessions_end_open")
    status, output = refused(tmp_path, *command, *target, DATABASE_URL=empty_database)
    assert status == 1
    dropped = "function viewing_sessions_end_open"
    assert f"0004_viewing_sessions_end_open drops what this version needs: {dropped}." in output
    assert refused(tmp_path, *command, *target, "--yes", DATABASE_URL=empty_database) == (0, "")
    assert [name for name, applied in listing(empty_database) if applied] == IDS[:3]
    status, output = refused(tmp_path, *command, "--to", "0009_x", DATABASE_URL=empty_database)
    assert (status, output) == (1, "Error: Migration 0009_x is not applied.")
    status, output = refused(tmp_path, "migrate", *target, DATABASE_URL=empty_database)
    assert "--to needs --rollback." in output


def test_timeouts_of_the_role_do_not_end_a_migration(empty_database: str) -> None:
    with connected(empty_database) as connection:
        name = connection.info.dbname
        limits = ["statement_timeout", "idle_in_transaction_session_timeout"]
        limits += ["idle_session_timeout"] * (connection.info.server_version >= 140_000)
        limits += ["transaction_timeout"] * (connection.info.server_version >= 170_000)
        for limit in limits:
            connection.execute(f"alter database {name} set {limit} = 100")
        connection.execute(
            f"alter database {name} set default_transaction_isolation = serializable"
        )
    assert migrate(empty_database) == IDS
