"""Measures weekly reports and histories, and whether their cost grows with the table.

Two databases hold the same children; one has ten times as many sessions of other profiles. Both
are queried in turn: the buffers read and the time must be the same.
"""

import asyncio
import hashlib
import http.client
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from datetime import UTC, date, datetime, timedelta
from statistics import median, quantiles
from time import perf_counter
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from bench.figure import Figure, Target
from bench.harness import BACKGROUND, ROLE, Bench
from bench.peer import Peer
from bench.seed import token
from service.database import migrate
from service.database.driver import Connection
from service.embedded.supervisor import USER
from service.parents.report_weeks import MAX_CHILDREN, REPORT

CHILDREN: Final = (1, 5, 10)
HISTORY_DAYS: Final = (30, 90)
WEEK: Final = 7
TIMES: Final = 10  # the larger table has this many times the sessions of other profiles
ROUNDS: Final = 9
GROWTH: Final = Target(1.3)
PARENTAL: Final = "/api/v1/parental-controls"

PEOPLE: Final = """
create function of(text) returns uuid immutable strict language sql
as $$ select md5($1)::uuid $$;

insert into titles (id, title, title_type, is_educational)
select of('title ' || n), 'Title ' || n, 'series', n % 5 = 0 from generate_series(0, 499) as n;

insert into users (id, email, password_hash)
select of('reader ' || n), 'reader' || n || '@bench.example', '-' from unnest(array[1, 5, 10]) as n;

insert into profiles (id, user_id, name, is_kids)
select of('child ' || n || ' ' || k), of('reader ' || n), 'Child ' || k, true
from unnest(array[1, 5, 10]) as n, generate_series(1, n) as k;

insert into users (id, email, password_hash)
select of('other ' || n), n || '@bench.example', '-' from generate_series(1, 5000) as n;

insert into profiles (id, user_id, name, is_kids)
select of('viewer ' || n), of('other ' || n), 'Viewer ' || n, true
from generate_series(1, 5000) as n;
"""
# $1 sessions of each child, 200 a day in the last week and the others evenly over the year before;
# $2 sessions of all other profiles; $3 noon of today. Rows are in order of time, as in production.
VIEWING: Final = """
insert into viewing_sessions (
    id, profile_id, title_id, device_id, device_type, is_educational, started_at,
    last_heartbeat_at, ended_at, total_seconds
)
select
    md5(profile_id || ' ' || began)::uuid, profile_id, of('title ' || k % 60), 'living-room', 'tv',
    k % 5 = 0, began, began, began, 60
from (
    select p.id as profile_id, k, $3::timestamptz - case
        when k < 1400 then k / 200 * interval '1 day' + k % 200 * interval '1 minute'
        else interval '7 days' + (k - 1400) * interval '358 days' / $1::int
    end as began
    from generate_series(0, $1::int - 1) as k
    cross join (select id from profiles where name like 'Child %') as p
    union all
    select of('viewer ' || n % 5000 + 1), n, $3::timestamptz - n * interval '365 days' / $2::int
    from generate_series(1, $2::int) as n
) as s
order by began
"""
COST: Final = f"""
select sum(calls)::int8 as statements, sum(shared_blks_hit + shared_blks_read)::int8 as buffers
from pg_stat_statements where userid = '{ROLE}'::regrole and query !~ '{BACKGROUND}'
"""
# The alternative: Python sums all sessions of the week.
ROWS: Final = """
select p.id, s.started_at, s.title_id, t.title, s.is_educational, s.total_seconds
from profiles as p
join viewing_sessions as s on s.profile_id = p.id
    and s.started_at >= $2::date::timestamp at time zone 'UTC'
    and s.started_at < ($2::date + $3::int)::timestamp at time zone 'UTC'
join titles as t on t.id = s.title_id
where p.user_id = $1::uuid and p.is_kids and $4::int > 0
"""


class Request(msgspec.Struct, frozen=True):
    name: str
    path: str
    bearer: str


class Cost(msgspec.Struct, frozen=True):
    """Milliseconds of each request at the client, and PostgreSQL's work for one of them."""

    latencies_ms: list[float]
    statements: float
    buffers: float


async def measure(bench: Bench) -> list[Figure]:
    sessions, others, times = (2_000, 30_000, 10) if bench.is_quick else (10_000, 100_000, 30)
    today = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    async with (
        _database(bench, "reads", sessions, others, today) as (dsn, connection),
        _database(bench, "reads_larger", sessions, others * TIMES, today) as (larger_dsn, _),
    ):
        figures = [await _either_way(bench, connection, today.date())]
        async with (
            bench.service("service", {"DATABASE_URL": dsn}) as service,
            bench.service("larger", {"DATABASE_URL": larger_dsn}) as larger,
        ):
            for request in _requests(today.date()):
                bench.progress(request.name)
                figures += await _figures(bench, service, larger, request, times)
    return figures


async def _figures(
    bench: Bench, service: Peer, larger: Peer, request: Request, times: int
) -> list[Figure]:
    """The medians of short rounds in turn, so that other load on the machine affects both."""
    pairs = [
        (
            await _cost(bench.connection, service, request, times),
            await _cost(bench.connection, larger, request, times),
        )
        for _ in range(ROUNDS)
    ]
    here = [cost for cost, _ in pairs]
    took = [ms for cost in here for ms in cost.latencies_ms]
    slower = median(median(b.latencies_ms) / median(a.latencies_ms) for a, b in pairs)
    more = median(b.buffers / a.buffers for a, b in pairs)
    name, grown = request.name, f"with {TIMES} times the sessions"
    return [
        Figure(f"{name}: statements", median(cost.statements for cost in here), "", Target(1)),
        Figure(f"{name}: p50", median(took), "ms"),
        Figure(f"{name}: p95", quantiles(took, n=20)[-1], "ms", Target(20, 5)),
        Figure(f"{name}: p50 {grown}", slower, "x", GROWTH, 0.2),
        Figure(f"{name}: buffers", median(cost.buffers for cost in here)),
        Figure(f"{name}: buffers {grown}", more, "x", GROWTH, 0.1),
    ]


@asynccontextmanager
async def _database(
    bench: Bench, name: str, sessions: int, others: int, noon: datetime
) -> AsyncIterator[tuple[str, Connection]]:
    """A database on the same server, dropped at the end."""
    bench.progress(f"{16 * sessions:,} sessions that are read, {others:,} others")
    await bench.connection.execute(f"create database {name}")
    dsn = re.sub(r"^(\w+://[^/]*/)[^?]*", rf"\g<1>{name}", bench.dsn)
    await asyncio.to_thread(migrate.migrate, dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("set session_replication_role = replica")
        await connection.execute(PEOPLE)
        await connection.execute(VIEWING, sessions, others, noon)
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
        yield dsn.replace(f"user={USER}", f"user={ROLE}"), connection
    finally:
        await connection.close()
        await bench.connection.execute(f"drop database {name} with (force)")


def _key(text: str) -> UUID:
    """The id that the SQL function `of` returns."""
    return UUID(hashlib.md5(text.encode()).hexdigest())


def _requests(today: date) -> list[Request]:
    bearers = {number: token(_key(f"reader {number}")) for number in CHILDREN}
    history = f"{PARENTAL}/profiles/{_key('child 1 1')}/history?to_date={today}&from_date="
    return [
        *(
            Request(f"weekly report of {number}", f"{PARENTAL}/weekly-report", bearer)
            for number, bearer in bearers.items()
        ),
        *(
            Request(f"history of {days} days", f"{history}{today - timedelta(days)}", bearers[1])
            for days in HISTORY_DAYS
        ),
    ]


async def _cost(connection: Connection, peer: Peer, request: Request, times: int) -> Cost:
    """The cost of a request, sent `times` times on one connection."""
    await asyncio.to_thread(_milliseconds, peer.port, request, 3)
    before = await connection.fetchrow(COST) or ()
    took = await asyncio.to_thread(_milliseconds, peer.port, request, times)
    after = await connection.fetchrow(COST) or ()
    statements, buffers = ((b - a) / times for a, b in zip(before, after, strict=True))
    return Cost(took, statements, buffers)


def _milliseconds(port: int, request: Request, times: int) -> list[float]:
    headers = {"Authorization": f"Bearer {request.bearer}"}
    took = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for _ in range(times):
            started_at = perf_counter()
            connection.request("GET", request.path, headers=headers)
            response = connection.getresponse()
            body = response.read()
            took.append((perf_counter() - started_at) * 1000)
            if response.status != 200:
                raise RuntimeError(f"{response.status} to {request.path}: {body!r}")
    return took


async def _either_way(bench: Bench, connection: Connection, today: date) -> Figure:
    """Compares the report's statement with one whose rows Python sums, in turn."""
    bench.progress("sums in the database or in Python")
    arguments = (_key("reader 10"), today - timedelta(WEEK - 1), WEEK, 3)
    report = (*arguments, MAX_CHILDREN, None)
    in_sql, in_rows = [], []
    for _ in range(1 + ROUNDS):
        started_at = perf_counter()
        await connection.fetch(REPORT.text, *report)
        in_sql.append(perf_counter() - started_at)
        started_at = perf_counter()
        _sums(await connection.fetch(ROWS, *arguments))
        in_rows.append(perf_counter() - started_at)
    ratio = median(in_rows[1:]) / median(in_sql[1:])
    return Figure("weekly report of 10, summed in Python instead of SQL", ratio, "x")


def _sums(rows: Iterable[asyncpg.Record]) -> list[tuple[Counter[date], Counter[UUID], int]]:
    """Each child's seconds by day, by title, and in educational titles."""
    days: dict[UUID, Counter[date]] = defaultdict(Counter)
    titles: dict[UUID, Counter[UUID]] = defaultdict(Counter)
    educational: Counter[UUID] = Counter()
    for profile_id, started_at, title_id, _, is_educational, seconds in rows:
        days[profile_id][started_at.date()] += seconds
        titles[profile_id][title_id] += seconds
        if is_educational:
            educational[profile_id] += seconds
    return [(days[child], titles[child], educational[child]) for child in days]
