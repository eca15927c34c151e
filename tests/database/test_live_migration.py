"""Migrations and rollbacks run while the existing application writes to the database."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from service.database.migrate import listing, migrate, rollback
from tests.conftest import ROOT, served
from tests.family import HEARTBEAT, bearer

Row = tuple[Any, ...]
TABLES = (
    "users",
    "profiles",
    "titles",
    "viewing_time_configs",
    "viewing_time_balances",
    "viewing_sessions",
    "time_grants",
)
# 200 children of 100 accounts with 1,000 sessions each; the application generates the ids.
ROWS = """
set local session_replication_role = replica;

create function of(kind text, number int) returns uuid immutable strict language sql
as $$ select md5(kind || ' ' || number)::uuid $$;

insert into users (id, email, password_hash, pin_hash)
select of('account', n), n || '@example.test', '$2b$12$x', '$2b$12$y'
from generate_series(1, 100) as n;

insert into profiles (id, user_id, name, is_kids)
select of('profile', n), of('account', (n + 1) / 2), 'child ' || n, true
from generate_series(1, 200) as n;

insert into titles (id, title, title_type, description, is_educational)
select of('title', n), 'title ' || n, 'movie', repeat('words ', 100), n % 3 = 0
from generate_series(0, 99) as n;

insert into viewing_time_configs (id, profile_id, weekday_limit_minutes, weekend_limit_minutes)
select of('configuration', n), of('profile', n), null, null
from generate_series(1, 200) as n;

insert into viewing_time_balances (id, profile_id, reset_date, used_seconds)
select of('balance' || day, n), of('profile', n), date '2026-01-01' + day, 30 * day
from generate_series(0, 99) as day, generate_series(1, 200) as n;

insert into viewing_sessions (
    id, profile_id, title_id, device_id, device_type, started_at, last_heartbeat_at, ended_at,
    total_seconds
)
select
    of('session' || k, n), of('profile', n), of('title', (n + k) % 100), 'tv', 'tv', began, began,
    case when k < 1000 then began end, 30 * k
from generate_series(1, 1000) as k
cross join generate_series(1, 200) as n
cross join lateral (select timestamptz '2026-01-01 00:00Z' + k * interval '2 hours') as m (began);

insert into time_grants (id, profile_id, granted_by_user_id, granted_minutes)
select of('grant', n), of('profile', n), of('account', (n + 1) / 2), 30
from generate_series(1, 200) as n;
"""

# A heartbeat of the existing application: six queries in one transaction.
BEAT = (
    "select id, user_id, name, is_kids from profiles where id = %(profile)s",
    "select id, title, title_type, is_educational from titles where id = %(title)s",
    "select id, profile_id, title_id, device_id, device_type, is_educational, started_at,"
    " last_heartbeat_at, ended_at, total_seconds, paused_at"
    " from viewing_sessions where id = %(session)s",
    "select id, weekday_limit_minutes, weekend_limit_minutes, reset_hour, educational_exempt,"
    " timezone from viewing_time_configs where profile_id = %(profile)s",
    "update viewing_sessions set last_heartbeat_at = now(), total_seconds = total_seconds + 30"
    " where id = %(session)s",
    "update viewing_time_balances set used_seconds = used_seconds + 30, updated_at = now()"
    " where profile_id = %(profile)s and reset_date = '2026-01-01'",
)
START = (
    "insert into viewing_sessions (id, profile_id, title_id, device_id, device_type)"
    " values (%(new)s, %(profile)s, %(title)s, 'tv', 'tv')"
)
PLAYERS = 4  # of the first profiles


@contextmanager
def connected(dsn: str) -> Iterator[psycopg.Connection[Row]]:
    """A connection whose lock time-out is two seconds, as long as a migration may wait."""
    with closing(psycopg.connect(dsn, options="-c lock_timeout=2s")) as connection:
        yield connection


def ids(dsn: str, kind: str, numbers: range) -> list[UUID]:
    with connected(dsn) as connection:
        query = "select of(%s, n) from unnest(%s::int[]) as n order by n"
        return [row[0] for row in connection.execute(query, [kind, [*numbers]])]


@dataclass
class Application:
    """The existing application: each player sends one heartbeat after the other."""

    dsn: str
    is_over: threading.Event = field(default_factory=threading.Event)
    beats: list[int] = field(default_factory=lambda: [0] * PLAYERS)

    def play(self, player: int) -> None:
        """Sends heartbeats until the end; raises the error of a heartbeat."""
        profile, title, session = (
            ids(self.dsn, kind, range(player + 1, player + 2))[0]
            for kind in ("profile", "title", "session1000")
        )
        with connected(self.dsn) as connection:
            while not self.is_over.is_set():
                with connection.transaction():
                    for query in BEAT:
                        arguments = {"profile": profile, "title": title, "session": session}
                        connection.execute(query, arguments)
                self.beats[player] += 1


@contextmanager
def playing(dsn: str) -> Iterator[Application]:
    """The application with its players; a heartbeat that failed fails the test."""
    application = Application(dsn)
    with ThreadPoolExecutor(PLAYERS) as threads:
        players: list[Future[None]] = [
            threads.submit(application.play, player) for player in range(PLAYERS)
        ]
        try:
            yield application
        finally:
            application.is_over.set()
    for player in players:
        player.result()


@pytest.fixture
def live(empty_database: str) -> str:
    """A database of the existing application with 200,000 sessions."""
    fill(empty_database)
    return empty_database


def fill(dsn: str) -> None:
    schema = (ROOT / "tests/legacy_schema.sql").read_text(encoding="utf-8")
    with connected(dsn) as connection, connection.transaction():
        connection.execute(schema)
        connection.execute(ROWS)


def columns(dsn: str) -> dict[str, str]:
    with connected(dsn) as connection:
        query = "select string_agg(attname, ', ' order by attnum) from pg_attribute"
        query += " where attrelid = %s::regclass and attnum > 0 and not attisdropped"
        return {table: connection.execute(query, [table]).fetchall()[0][0] for table in TABLES}


def checksums(dsn: str, columns: dict[str, str]) -> dict[str, Row]:
    """The count and the sum of hashes of each table's rows, without those that players change."""
    beaten = {
        "viewing_sessions": ids(dsn, "session1000", range(1, PLAYERS + 1)),
        "viewing_time_balances": ids(dsn, "balance0", range(1, PLAYERS + 1)),
    }
    with connected(dsn) as connection:
        return {
            table: connection.execute(
                f"select count(*), sum(hashtextextended(row({names})::text, 0)) from {table}"
                " where id <> all (%s::uuid[])",
                [beaten.get(table, [])],
            ).fetchall()[0]
            for table, names in columns.items()
        }


def beaten(dsn: str) -> list[tuple[str, int, int]]:
    """For each player: the unchanged columns, and the seconds counted in both tables."""
    with connected(dsn) as connection:
        rows = connection.execute(
            "select row(s.id, s.profile_id, s.title_id, s.device_id, s.device_type,"
            " s.is_educational, s.started_at, s.ended_at, s.paused_at, b.id, b.profile_id,"
            " b.reset_date, b.educational_seconds, b.is_unlimited_override)::text,"
            " s.total_seconds, b.used_seconds"
            " from generate_series(1, %s) as n"
            " join viewing_sessions as s on s.id = of('session1000', n)"
            " join viewing_time_balances as b on b.id = of('balance0', n)"
            " order by n",
            [PLAYERS],
        )
        return [(unchanged, total, used) for unchanged, total, used in rows]


async def continued(application: Application, beats: int = 20) -> None:
    """Waits until every player has sent `beats` more heartbeats."""
    goal = [count + beats for count in application.beats]
    while any(count < target for count, target in zip(application.beats, goal, strict=True)):
        assert not application.is_over.is_set()
        await asyncio.sleep(0.01)


async def test_heartbeats_continue_while_the_database_is_migrated(live: str) -> None:
    old_columns = columns(live)
    before, counted = checksums(live, old_columns), beaten(live)
    assert before["viewing_sessions"][0] == 200_000 - PLAYERS
    with playing(live) as application:
        await continued(application)
        at_begin = [*application.beats]
        for run in (migrate, rollback, migrate):  # one of them may end within a heartbeat
            assert await asyncio.to_thread(run, live)
        assert all(now > then for now, then in zip(application.beats, at_begin, strict=True))
        await continued(application)
    assert all(is_applied for _, is_applied in listing(live))
    assert checksums(live, old_columns) == before
    assert beaten(live) == [
        (unchanged, total_seconds + 30 * beats, used_seconds + 30 * beats)
        for (unchanged, total_seconds, used_seconds), beats in zip(
            counted, application.beats, strict=True
        )
    ]


async def test_the_service_and_the_existing_application_work_side_by_side(live: str) -> None:
    await asyncio.to_thread(migrate, live)
    [account], [profile], [title], [session] = (
        ids(live, kind, range(number, number + 1))
        for kind, number in (("account", 100), ("profile", 200), ("title", 7), ("session1000", 200))
    )
    body = {"profile_id": str(profile), "title_id": str(title), "device_id": "tv"}
    with playing(live) as application:
        async with (
            served(live) as service,
            httpx.AsyncClient(base_url=service.url, timeout=60) as client,
        ):

            async def beat(**members: str) -> httpx.Response:
                url, headers = HEARTBEAT, bearer(account)
                return await client.post(url, json={**body, **members}, headers=headers)

            going_on = await beat(session_id=str(session))
            started = await beat()
            for answer in (going_on, started):
                assert (answer.status_code, answer.json()["enforcement"]) == (200, "allowed")
            assert going_on.json()["session_id"] == str(session)
            await continued(application)
            with connected(live) as connection, connection.transaction():
                new = {"new": uuid4(), "profile": profile, "title": title}
                connection.execute(START, new)
            # The service continues a session that the other application has started.
            theirs = await beat(session_id=str(new["new"]))
            assert theirs.json()["used_minutes"] == 1.5
    with connected(live) as connection:
        query = "select total_seconds from viewing_sessions where id = any (%s) order by 1"
        sessions = [session, UUID(started.json()["session_id"]), new["new"]]
        assert [*connection.execute(query, [sessions])] == [(30,), (30,), (30_030,)]
