"""On two million sessions each statement reads no more than its rows need and sorts in memory.

Each is planned twice: with a generic plan, as in the service, and without that setting after five
runs of the prepared statement.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import asyncpg
import pytest

from service.database.driver import Connection
from service.database.statement import files
from tests.conftest import copied

# Account 1 is an administrator without children, account 2 has one child, account 3 ten; each other
# account has one profile, and every second of those is a child.
PEOPLE = """
create function of(kind text, number int) returns uuid immutable strict language sql
as $$ select md5(kind || number)::uuid $$;

insert into users (id, email, password_hash, is_admin)
select of('account', n), n || '@example.test', '-', n = 1
from generate_series(1, 5000) as n;

insert into profiles (id, user_id, name, is_kids)
select
    of('profile', n), of('account', case when n between 3 and 12 then 3 else n end), 'viewer ' || n,
    n % 2 = 0 or n between 2 and 12
from generate_series(1, 5000) as n;

insert into titles (id, title, title_type, is_educational)
select of('title', n), 'title ' || n, 'movie', n % 5 = 0
from generate_series(0, 999) as n;

insert into viewing_time_configs (id, profile_id, weekday_limit_minutes)
select gen_random_uuid(), id, 120 from profiles where is_kids;

insert into time_grants (
    id, profile_id, granted_by_user_id, granted_minutes, is_remote, reset_date, mode
)
select gen_random_uuid(), p.id, p.user_id, null, true, date '2026-11-24', 'unlimited'
from profiles as p, generate_series(1, 20);

insert into viewing_exceptions
select p.id, date '2026-11-24' - n, true, null, false, timestamptz '2026-11-24 12:00Z'
from profiles as p, generate_series(-30, 60) as n
where p.is_kids
order by p.id, n; -- a parent enters holidays at once, so they are on neighbouring pages

insert into viewing_locks
select p.id, '2026-11-24 12:00Z', '2026-11-24 12:00Z' from profiles as p where p.is_kids;

insert into viewing_requests (
    id, account_id, profile_id, minutes, status, reset_date, requested_at, expires_at
)
select
    md5(p.id || ' ' || n)::uuid, p.user_id, p.id, 30,
    case when n > 0 then 'denied' else 'pending' end,
    date '2026-11-24' - n, timestamptz '2026-11-24 12:00Z' - n * interval '1 day',
    timestamptz '2026-11-25 00:00Z' - n * interval '1 day'
from generate_series(59, 0, -1) as n
cross join (select id, user_id from profiles where is_kids offset 0) as p;

insert into viewing_strict_accounts (account_id, since) values (of('account', 14), now());

insert into pending_deletions (kind, id)
values ('account', of('account', 3)), ('profile', of('profile', 3)), ('title', of('title', 7));
"""
# In the order of time, so the rows of a profile are on different pages. Profile 2 is the oldest,
# with sessions from ten years; profile 3 is the busiest, with 200 sessions a day;
# the other children of account 3 have as many in the last week. One profile in five watches now,
# one session in fifty was watched on two days.
VIEWING = """
insert into viewing_sessions (
    id, profile_id, title_id, device_id, is_educational, started_at, last_heartbeat_at, ended_at,
    total_seconds, earlier_days
)
select
    md5((1000 * p.n + k)::text)::uuid, p.id, t.id, 'tv', k % 5 = 0, began, began,
    case when k > 0 or p.n % 5 > 0 then began end, 600,
    case when k % 50 = 2 then jsonb_build_array(jsonb_build_array(began - interval '1 day', 30)) end
from generate_series(389, 0, -1) as k
cross join (select n, of('profile', n) as id from generate_series(1, 5000) as n offset 0) as p
cross join lateral (
    select timestamptz '2026-11-24 12:00Z' - interval '1 second'
        * (k * case when p.n = 2 then 812160 else 81216 end + p.n % 100 * 86)
) as m (began)
join (select n, of('title', n) as id from generate_series(0, 999) as n offset 0) as t
    on t.n = (p.n + k) % 1000;

insert into viewing_sessions (
    id, profile_id, title_id, device_id, is_educational, started_at, last_heartbeat_at, ended_at,
    total_seconds
)
select
    md5(p.n || ' ' || began)::uuid, of('profile', p.n), of('title', i), 'tv', i % 5 = 0, began,
    began, began, 600
from generate_series(249, 0, -1) as day
cross join generate_series(1, 200) as i
cross join generate_series(3, 12) as p (n)
cross join lateral (
    select timestamptz '2026-11-24 12:00Z' - day * interval '1 day' - i * interval '3 minutes'
) as m (began)
where p.n = 3 or day < 8;

insert into viewing_time_balances (id, profile_id, reset_date, used_seconds)
select gen_random_uuid(), p.id, date '2026-11-24' - day, 3600
from generate_series(149, 0, -1) as day
cross join (select id from profiles where is_kids offset 0) as p;
"""
# The real tables, whose keys are dropped for the loading and added again.
KEYS = """
select
    format('alter table %s drop constraint %I', conrelid::regclass, conname) as off,
    format(
        'alter table %s add constraint %I %s', conrelid::regclass, conname,
        pg_get_constraintdef(oid)
    ) as back
from pg_constraint
where conrelid in ('viewing_sessions'::regclass, 'viewing_time_balances'::regclass)
    and contype in ('p', 'u')
union all
select format('drop index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)
from pg_index as i
where i.indrelid in ('viewing_sessions'::regclass, 'viewing_time_balances'::regclass)
    and not exists (select from pg_constraint as c where c.conindid = i.indexrelid)
"""

PREFIX = "019ac0de0000700080000000"  # of the ids that a statement generates

HOT = ("viewing_sessions", "viewing_time_balances")
# With the partitions that have rows.
LARGE = """
select array_agg(relname::text)
from pg_class
where relkind = 'r' and relname ~ '^viewing_(sessions|time_balances|requests)' and relpages > 100
"""
READING = {"Index Scan", "Index Only Scan", "Bitmap Index Scan", "Bitmap Heap Scan"}


@dataclass(frozen=True)
class Case:
    """A statement with its arguments, and the pages that it may read for each row and in all.

    `rows` is a query that counts, by itself, the rows of the two tables that matter.
    """

    statement: str
    arguments: str
    rows: str
    each: float
    beside: int


def history(account: int, profile: int, from_date: str, to_date: str) -> Case:
    """The pages of a row are its own and those of its title, whose index has two levels."""
    return Case(
        "history_list",
        f"select of('account', {account}), of('profile', {profile}), date '{from_date}', "
        f"date '{to_date}', 500",
        f"select least(count(*), 500) from viewing_sessions where profile_id = "
        f"of('profile', {profile}) and started_at >= '{from_date} 00:00Z' and "
        f"started_at < timestamptz '{to_date} 00:00Z' + interval '1 day'",
        each=4.1,
        beside=20,
    )


def weekly_report(account: int, children: int) -> Case:
    """A row is itself; a child has a descent of the index, a configuration and three titles."""
    return Case(
        "weekly_report",
        f"select of('account', {account}), date '2026-11-18', 7, 3, 51, null::uuid",
        "select count(*) from viewing_sessions as s join profiles as p on p.id = s.profile_id "
        f"where p.user_id = of('account', {account}) and p.is_kids "
        "and s.started_at >= '2026-11-18 00:00Z' and s.started_at < '2026-11-25 00:00Z'",
        each=1.1,
        beside=20 + 24 * children,
    )


def history_days(account: int, profile: int, days: int) -> Case:
    """Another index is descended; the sessions in it are read even if they ended before."""
    return Case(
        "history_days",
        f"select of('account', {account}), of('profile', {profile}), "
        "array(select timestamptz '2026-11-24 06:00Z' - n * interval '1 day' "
        f"from generate_series({days}, -1, -1) as n), 500",
        f"select least(count(*), 500) + count(*) filter (where earlier_days is not null) "
        f"from viewing_sessions where profile_id = of('profile', {profile}) "
        f"and (earlier_days is not null or started_at >= date '2026-11-24' - {days})",
        each=4.1,
        beside=24,
    )


def report_days(account: int, children: int) -> Case:
    return Case(
        "report_days",
        f"select of('account', {account}), array(select id from profiles where is_kids and user_id "
        f"= of('account', {account})), "
        "array(select timestamptz '2026-11-18 06:00Z' + n * interval '1 day' "
        f"from generate_series(1, {children}) as child, generate_series(0, 7) as n "
        "order by child, n), 7, 3",
        "select count(*) from viewing_sessions as s join profiles as p on p.id = s.profile_id "
        f"where p.user_id = of('account', {account}) and p.is_kids "
        "and (s.earlier_days is not null or s.started_at >= '2026-11-18 06:00Z')",
        each=1.1,
        beside=20 + 28 * children,
    )


def heartbeats(
    starts: bool,
    renews: bool = False,
    week: str = "null::date",
    exclusive: bool = False,
    is_cached: bool = True,
) -> Case:
    """A batch; a new session is added to three indexes, and the previous one is ended.

    A renewal also looks for a schedule, a lock and exceptions, and `week` reads six balances. An
    exclusive beat of an ended session looks for the one that ended it. A beat that is not cached
    reads its policy like a renewal, looks once more for the schedule, and is compared
    with its rules and its balance.
    """
    day, begin = "date '2026-11-24'", "1795478400::int8"
    if not is_cached:
        renews, day, begin, week = True, "null::date", "null::int8", "date '-infinity'"
    return Case(
        "heartbeat_record",
        f"""
        select
            array_agg(p.id), array_agg(p.user_id), array_agg(s.title_id),
            array_agg({"gen_random_uuid()" if starts else "s.id"}),
            array_agg({starts}), array_agg('tv'::text), array_agg('web'::text),
            array_agg(false), array_agg({day}), array_agg(true),
            array_agg(null::bytea), array_agg({renews}),
            array_agg({begin}), array_agg({week}),
            array_agg({exclusive}), array_agg(2147483647), array_agg(null::text),
            '{PREFIX}'::text, timestamptz '2026-11-24 12:00Z', '500ms'::text, false,
            array['UTC 6'], array[date '2026-11-24'],
            array[1795478400::int8]
        from (
            select distinct on (s.profile_id) s.id, s.title_id, s.profile_id
            from viewing_sessions as s
            where s.ended_at is {"not" if exclusive else ""} null
            order by s.profile_id limit 256
        ) as s
        join profiles as p on p.id = s.profile_id
        """,
        "select 256",
        each=39
        if starts
        else 18
        + 8 * renews
        + 12 * (week != "null::date") * is_cached
        + 8 * exclusive
        + 8 * (not is_cached),
        beside=20,
    )


def configuration_update(account: int, effects: str) -> str:
    """The arguments of a change with a PIN token; `effects` are the last seven."""
    return (
        f"select of('account', {account}), of('profile', {account}), true, null::text, false, "
        "true, 60, false, null::int, null::int, null::bool, null::text, "
        "120, 180, 6, true, 'UTC'::text, 'here'::text, timestamptz '2026-11-24 13:00Z', "
        f"'{PREFIX}'::text, null::int, null::int, {effects}"
    )


def retention(statement: str, before: str, rows: str, tables: int = 1) -> Case:
    """A row is found, locked, found again and deleted; a profile is a descent in each table."""
    return Case(
        statement,
        f"select '00000000-0000-0000-0000-000000000000'::uuid, 500, {before}, 5000",
        rows,
        each=8.1,
        beside=500 * 4 * tables,
    )


GRANT = "(select id from time_grants where profile_id = of('profile', 3) order by id limit 1)"
ASKED = (
    "(select id from viewing_requests where profile_id = of('profile', 3) and status = 'pending')"
)
RANGE = "(select id from profiles order by id limit 500)"
CASES = {
    "history, an ordinary profile": history(13, 13, "2026-08-26", "2026-11-24"),
    "history, the oldest profile": history(2, 2, "2026-08-26", "2026-11-24"),
    "history, long ago": history(2, 2, "2018-01-01", "2018-04-01"),
    "history, the busiest profile": history(3, 3, "2026-08-26", "2026-11-24"),
    "history, of a stranger": history(2, 3, "9999-12-30", "9999-12-31"),
    "weekly report, no child": weekly_report(1, 0),
    "weekly report, one child": weekly_report(2, 1),
    "weekly report, ten children": weekly_report(3, 10),
    "history in viewing days, an ordinary profile": history_days(13, 13, 90),
    "history in viewing days, the oldest profile": history_days(2, 2, 90),
    "history in viewing days, the busiest profile": history_days(3, 3, 90),
    **{
        f"children of the weekly report, {children}": Case(
            "report_children",
            f"select of('account', {account}), 51, null::uuid, date '2026-11-11'",
            f"select 14 * {children}",
            each=1.1,
            beside=12 + 10 * children,
        )
        for account, children in ((1, 0), (2, 1), (3, 10))
    },
    "weekly report in viewing days, one child": report_days(2, 1),
    "weekly report in viewing days, ten children": report_days(3, 10),
    "balance": Case(
        "balance_read",
        "select of('account', 3), of('profile', 3), date '2026-11-24', "
        "null::date, null::uuid, false",
        "select 1",
        each=4,
        beside=8,
    ),
    "balance, of a day without one": Case(
        "balance_read",
        "select of('account', 2), of('profile', 2), date '2001-01-01', "
        "null::date, null::uuid, false",
        "select 0",
        each=0,
        beside=10,
    ),
    "balance, of a week": Case(
        "balance_read",
        "select of('account', 3), of('profile', 3), date '2026-11-24', date '2026-11-18', "
        "of('title', 7), false",
        "select 7",
        each=4,
        beside=14,
    ),
    "heartbeats that go on": heartbeats(False),
    "heartbeats that bring a configuration back": heartbeats(False, renews=True),
    "heartbeats of profiles that are not cached": heartbeats(False, is_cached=False),
    "heartbeats of children with a weekly limit": heartbeats(False, week="date '2026-11-18'"),
    "heartbeats that start": heartbeats(True),
    "heartbeats of sessions that other devices may have ended": heartbeats(False, exclusive=True),
    "which device has ended a session": Case(
        "session_displaced",
        "select s.profile_id, s.id from viewing_sessions as s where s.ended_at is not null limit 1",
        "select 1",
        each=8,
        beside=8,
    ),
    "heartbeats, which of them are held": Case(
        "heartbeat_held",
        """
        select
            array_agg(s.profile_id), array_agg(s.title_id), array_agg(s.id), array_agg(false),
            array_agg(date '2026-11-24'), '500ms'::text
        from (
            select s.id, s.title_id, s.profile_id from viewing_sessions as s
            where s.ended_at is null order by s.profile_id limit 256
        ) as s
        """,
        "select 256",
        each=36,
        beside=20,
    ),
    "session end": Case(
        "session_end",
        "select p.user_id, s.id, timestamptz '2026-11-24 13:00Z' from viewing_sessions as s "
        "join profiles as p on p.id = s.profile_id where s.ended_at is null limit 1",
        "select 1",
        each=24,
        beside=10,
    ),
    "grant": Case(
        "grant_record",
        "select of('account', 3), of('profile', 3), true, null::text, date '2026-11-24', 30, "
        f"'credit', true, timestamptz '2026-11-24 13:00Z', '{PREFIX}'::text, date '2026-11-23', "
        "true, null::uuid",
        "select 1",
        each=20,
        beside=40,
    ),
    "grant, of a request": Case(
        "grant_record",
        "select of('account', 3), of('profile', 3), true, null::text, date '2026-11-24', 30, "
        f"'credit', true, timestamptz '2026-11-24 13:00Z', '{PREFIX}'::text, date '2026-11-23', "
        f"true, {ASKED}",
        "select 1",
        each=40,
        beside=60,
    ),
    **{
        f"request, a new one of profile {profile}": Case(
            "viewing_request_create",
            f"select p.user_id, p.id, '{PREFIX}00000000'::uuid, 30, 'Please'::text, 'tv'::text, "
            f"date '{day}', timestamptz '2026-11-26 00:00Z', timestamptz '{day} 13:00Z', 5 "
            f"from profiles as p where p.id = of('profile', {profile})",
            "select 1",
            each=20,
            beside=40,
        )
        for profile, day in ((3, "2026-11-24"), (4, "2026-11-25"))
    },
    "request": Case(
        "viewing_request_read",
        f"select of('account', 3), {ASKED}, timestamptz '2026-11-24 13:00Z'",
        "select 1",
        each=8,
        beside=0,
    ),
    "requests, all": Case(
        "viewing_request_list",
        "select of('account', 3), null::text, timestamptz '2026-11-24 13:00Z', 501",
        "select 501",
        each=1.1,
        beside=20,
    ),
    "requests, pending": Case(
        "viewing_request_list",
        "select of('account', 3), 'pending', timestamptz '2026-11-24 13:00Z', 501",
        "select 600",
        each=1.1,
        beside=20,
    ),
    "request, denied": Case(
        "viewing_request_deny",
        f"select of('account', 3), {ASKED}, timestamptz '2026-11-24 13:00Z'",
        "select 1",
        each=20,
        beside=30,
    ),
    "requests that expire": Case(
        "viewing_request_expire",
        "select timestamptz '2026-11-25 00:00Z', 500",
        "select 500",
        each=30,
        beside=20,
    ),
    "schedule, with new limits by day": Case(
        "schedule_put",
        f"""
        select
            of('account', 3), of('profile', 3), false, null::text, true, '{{"mon": 60}}'::jsonb,
            null::jsonb, false, null::int, null::text, null::int, null::int,
            array(select date '2026-11-24' - n from generate_series(1, 14) as n),
            array_fill(120, array[14]), 'here'::text, timestamptz '2026-11-24 12:00Z',
            '{PREFIX}'::text
        """,
        "select 14",
        each=16,
        beside=40,
    ),
    "grants, listed": Case(
        "grant_list",
        "select of('account', 3), of('profile', 3), date '2026-10-26', date '2999-01-01', 501",
        "select 20",
        each=1.1,
        beside=16,
    ),
    "grant, its balance locked": Case(
        "grant_lock",
        f"select of('account', 3), of('profile', 3), {GRANT}",
        "select 1",
        each=8,
        beside=16,
    ),
    "grant, undone": Case(
        "grant_undo",
        f"select of('account', 3), of('profile', 3), {GRANT}, true, null::text, "
        "date '2026-11-24', timestamptz '2026-11-24 06:00Z', timestamptz '2026-11-24 13:00Z'",
        "select 1",
        each=40,
        beside=40,
    ),
    "configuration, a new limit": Case(
        "viewing_config_update",
        configuration_update(
            3,
            "null::int, null::text, null::date, null::date, null::date, "
            "(select array_agg(date '2026-11-24' - n) from generate_series(1, 14) as n), "
            "array_fill(120, array[14])",
        ),
        "select 14",
        each=20,
        beside=60,
    ),
    "configuration, a viewing day that moves": Case(
        "viewing_config_update",
        configuration_update(
            14,
            "null::int, null::text, null::date, date '2026-11-23', date '2026-11-24', "
            "array[]::date[], array[]::int[]",
        ),
        "select 2 + 20",
        each=4.1,
        beside=100,
    ),
    "balances, moved to another day": Case(
        "balance_move",
        "select of('profile', 14), date '2026-11-23', date '2026-11-24', "
        f"timestamptz '2026-11-24 13:00Z', '{PREFIX}00000001'::uuid",
        "select 2",
        each=20,
        beside=20,
    ),
    "retention of sessions": retention(
        "retention_sessions", "timestamptz '2026-08-26 00:00Z'", "select 5000"
    ),
    "retention of sessions, nothing due": retention(
        "retention_sessions", "timestamptz '2000-01-01 00:00Z'", "select 0"
    ),
    "retention of balances": retention("retention_balances", "date '2026-11-20'", "select 5000"),
    "retention of balances, nothing due": retention(
        "retention_balances", "date '2000-01-01'", "select 0"
    ),
    "retention of exceptions": retention(
        "retention_exceptions", "date '2026-11-20'", "select 5000", tables=2
    ),
    "retention of exceptions, nothing due": retention(
        "retention_exceptions", "date '2000-01-01'", "select 0", tables=2
    ),
    "retention of requests": retention("retention_requests", "date '2026-11-20'", "select 5000"),
    "retention of requests, nothing due": retention(
        "retention_requests", "date '2000-01-01'", "select 0"
    ),
    "retention, a dry run": Case(
        "retention_count",
        "select '00000000-0000-0000-0000-000000000000'::uuid, 500, "
        "timestamptz '2025-12-24 00:00Z', date '2026-07-20'",
        f"select (select count(*) from viewing_sessions where profile_id in {RANGE} "
        f"and started_at < '2025-12-24 00:00Z') + (select count(*) from viewing_time_balances "
        f"where profile_id in {RANGE} and reset_date < '2026-07-20')",
        each=1.1,
        beside=500 * 10,  # a descent in each of five tables
    ),
    **{
        f"erasure, the {name} profile": Case(
            "viewing_data_erase",
            f"select of('account', 1), false, of('profile', {profile}), 'here'",
            f"select (select count(*) from viewing_sessions where profile_id = of('profile', "
            f"{profile})) + (select count(*) from viewing_time_balances where profile_id = "
            f"of('profile', {profile})) + (select count(*) from viewing_exceptions where "
            f"profile_id = of('profile', {profile})) + (select count(*) from viewing_requests "
            f"where profile_id = of('profile', {profile}))",
            each=3.5,  # balances are read twice: to lock them in order, and to delete them
            beside=120,
        )
        for name, profile in (("oldest", 2), ("busiest", 3))
    },
    **{
        f"export of sessions, the {name} profile": Case(
            "session_export",
            f"select of('profile', {profile}), timestamptz '9999-12-31 00:00Z', "
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid, 500",
            f"select least(count(*), 500) from viewing_sessions "
            f"where profile_id = of('profile', {profile})",
            each=4.1,
            beside=20,
        )
        for name, profile in (("oldest", 2), ("busiest", 3))
    },
    "export of balances": Case(
        "balance_export", "select of('profile', 2)", "select 150", each=1.1, beside=10
    ),
    "profile, deleted": Case(
        "profile_delete",
        "select of('account', 1), false, of('profile', 20), 5000",
        "select 390 + 150 + 20",
        each=1.1,
        beside=40,
    ),
    "title, deleted": Case(
        "title_delete",
        "select of('account', 1), false, of('title', 20), 5000",
        "select count(*) from viewing_sessions where title_id = of('title', 20)",
        each=5.1,
        beside=40,
    ),
    **{
        f"{kind}, a batch": Case(
            "deletion_batch",
            f"select '{kind}', of('{kind}', {number}), 1000",
            f"select {rows}",
            each=12.1,
            beside=200,
        )
        for kind, number, rows in (
            ("account", 3, 2000),
            ("profile", 3, 1150),
            ("title", 7, 1000),
            ("title", 8, 0),
        )
    },
    "account, deleted": Case(
        "account_delete",
        "select of('account', 1), false, of('account', 20), 5000",
        "select 390 + 150 + 2 * 20",
        each=1.1,
        beside=60,
    ),
}


# `demo_load` inserts rows and reads none; `retention_totals` counts small tables;
# `cell_slot_accounts` reads all accounts once, in the order of their ids; the other ones
# read the catalogue, or all rows once to partition them.
WITHOUT_CASE = {
    "cell_slot_accounts",
    "demo_load",
    "retention_totals",
    "check_storage",
    "migration_partition_index",
    "migration_partition_validate",
}
# Statements about other tables that can be large.
BESIDE = {
    "grant_list",
    "retention_exceptions",
    "retention_requests",
    "viewing_request_create",
    "viewing_request_deny",
    "viewing_request_expire",
    "viewing_request_list",
    "viewing_request_read",
}


def code(name: str) -> str:
    """A statement without its comments and string literals."""
    text = (files("sql") / f"{name}.sql").read_text(encoding="utf-8")
    return re.sub(r"--[^\n]*|'[^']*'", "", text)


NAMES = sorted(path.stem for path in files("sql").glob("*.sql"))


def test_every_statement_about_viewing_has_a_case() -> None:
    about = {name for name in NAMES if any(table in code(name) for table in HOT)}
    assert {case.statement for case in CASES.values()} == about - WITHOUT_CASE | BESIDE


# The changes that the tests roll back leave dead rows. Autovacuum would analyze them at any moment,
# which changes the plans.
STAY = """
do $$ declare each regclass; begin
    for each in
        select oid from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace
    loop
        execute format('alter table %s set (autovacuum_enabled = off)', each);
    end loop;
end $$
"""


@pytest.fixture(scope="module")
async def viewing(postgres_dsn: str, template: str) -> AsyncIterator[str]:
    """Two million sessions of 5,000 profiles, with their other rows."""
    async with copied(postgres_dsn, template) as dsn:
        connection = await asyncpg.connect(dsn)
        await connection.execute("set session_replication_role = replica")
        await connection.execute("set maintenance_work_mem = '256MB'")
        await connection.execute(PEOPLE)
        keys = await connection.fetch(KEYS)
        for key in keys:
            await connection.execute(key["off"])
        await connection.execute(VIEWING)
        for key in keys:
            await connection.execute(key["back"])
        await connection.execute(STAY)
        await connection.execute("vacuum (analyze)")
        assert await connection.fetchval("select count(*) from viewing_sessions") > 2_000_000
        await connection.close()
        yield dsn


@pytest.fixture(params=["force_generic_plan", "auto"])
async def planning(viewing: str, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A connection like the service's, and one without a forced generic plan."""
    connection = await asyncpg.connect(
        viewing, server_settings={"jit": "off", "plan_cache_mode": request.param}
    )
    yield connection
    await connection.close()


async def explained(connection: Connection, case: Case) -> dict[str, Any]:
    """The plan of the sixth run of the driver's prepared statement; the changes are rolled back."""
    text = (files("sql") / f"{case.statement}.sql").read_text(encoding="utf-8")
    arguments = list(await connection.fetchrow(case.arguments) or ())
    prepared = await connection.prepare(text)
    for _ in range(5):
        await rolled_back(connection, prepared.fetch, *arguments)
    written = ", ".join(map(literal, arguments))
    explain = (
        "explain (analyze, buffers, timing off, format json) "
        f"execute {prepared.get_name()}({written})"
    )
    [plan] = json.loads(await rolled_back(connection, connection.fetchval, explain))
    root: dict[str, Any] = plan["Plan"]
    return root


async def rolled_back(connection: Connection, run: Any, *arguments: object) -> Any:
    transaction = connection.transaction()
    await transaction.start()
    try:
        return await run(*arguments)
    finally:
        await transaction.rollback()


def literal(value: object) -> str:
    """A value as an SQL literal; the statement's parameter has its type."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return "'{" + ",".join(map(element, value)) + "}'"
    return f"'{value}'"


def element(value: object) -> str:
    """A value in an array literal; the driver reads `-infinity` as the first date."""
    if value is None:
        return "null"
    return "-infinity" if value == date.min else str(value)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize("name", CASES)
async def test_a_statement_reads_no_more_than_its_rows_need(
    planning: Connection, name: str
) -> None:
    case = CASES[name]
    rows = await planning.fetchval(case.rows)
    plan = await explained(planning, case)
    large = await planning.fetchval(LARGE)
    assert {"viewing_sessions", "viewing_time_balances_before"} <= {*large}
    for node in nodes(plan):
        if node.get("Relation Name") in large and node["Node Type"] != "ModifyTable":
            assert node["Node Type"] in READING, node
        if node["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Index Scan"):
            assert "Index Cond" in node, node
        assert node.get("Sort Space Type") != "Disk", node
        assert node.get("Disk Usage", 0) == 0, node
    assert plan["Temp Read Blocks"] + plan["Temp Written Blocks"] == 0
    read = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert read <= case.each * rows + case.beside


# Every column of any index.
INDEXED = "id|profile_id|user_id|granted_by_user_id|started_at|ended_at|reset_date|email"
COLUMN = rf"\b(?:{INDEXED})\b"
KEYWORD = r"(?:in|any|all|from|and|or|not|exists|when|then|else|values)\b"
WRAPPED = re.compile(
    rf"\b(?!{KEYWORD})\w+\s*\((?!\s*select\b)[^()]*{COLUMN}"
    rf"|{COLUMN}\s*(?:::|\|\||[-+*/]|at\s+time\s+zone\b)"
)
CONDITION = re.compile(r"\b(?:where|having|on(?!\s+conflict))\b")
NEXT_CLAUSE = re.compile(
    r"\b(?:left join|cross join|join|group by|order by|limit|for|union|select|returning"
    r"|on conflict)\b"
)


def conditions(text: str) -> Iterator[str]:
    """The condition of each `where` and `on`."""
    for begin in CONDITION.finditer(text):
        depth, clause = 0, text[begin.end() :]
        for place, letter in enumerate(clause):
            depth += (letter == "(") - (letter == ")")
            if depth < 0 or (depth == 0 and NEXT_CLAUSE.match(clause, place)):
                clause = clause[:place]
                break
        yield clause


def wrapped(text: str) -> list[str]:
    return [match[0] for clause in conditions(text) for match in WRAPPED.finditer(clause)]


# The slot of an account is computed, because only `viewing-time cells` asks for it: it reads all
# accounts or entries in the order of their ids.
UNWRAPPED = (
    "migration_partition_index",
    "cell_entries_implied",
    "cell_entries_list",
    "cell_move_discard",
    "cell_slot_accounts",
    "cell_slots_give",
)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNWRAPPED])
def test_no_condition_wraps_an_indexed_column(name: str) -> None:
    assert wrapped(code(name)) == []


@pytest.mark.parametrize(
    "text",
    [
        "select 1 from t where date(s.started_at) = $1",
        "select 1 from t where (s.started_at at time zone 'UTC')::date >= $1",
        "select 1 from t where date_trunc('day', started_at) = $1",
        "select 1 from t where s.started_at::date = $1",
        "select 1 from t join s on lower(s.email) = $1",
        "select 1 from t join s on coalesce(s.profile_id, $2) = $1 where true",
        "select 1 from t where s.reset_date + 1 > $1",
        "select 1 from t where exists (select from s where s.id::text = $1)",
    ],
)
def test_wrapped_column_is_reported(text: str) -> None:
    assert wrapped(text) != []
