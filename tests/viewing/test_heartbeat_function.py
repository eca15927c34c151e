"""The function for Citus cells answers and writes like the heartbeat statement.

Both run the same random batches, each on its own copy of one database. Every answer must be equal,
and at the end every row.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import count
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from service.database import connector
from service.database.driver import Connection
from service.database.schema import TABLES
from service.database.statement import text
from service.viewing.announcements import ALWAYS, NEVER
from service.viewing.heartbeat_statement import EVERY_DAY, Beat
from tests.conftest import copied

SEEDS: Final = 4
BATCHES: Final = 200
BEGIN: Final = datetime(2026, 11, 25, 1, tzinfo=UTC)
GUESSES: Final = ("UTC 6", "Europe/Berlin 2", "America/New_York 0")
ZONES: Final = ("UTC", "UTC", "Europe/Berlin", "Asia/Tokyo")
ACCOUNTS: Final = [UUID(int=number) for number in range(1, 5)]
INACTIVE: Final = ACCOUNTS[3]
PROFILES: Final = [UUID(int=100 + number) for number in range(12)]
STRANGER: Final = UUID(int=999)
FILM, LESSON, NO_TITLE = (UUID(int=number) for number in (1000, 1001, 1002))


def owner(profile: UUID) -> UUID:
    return ACCOUNTS[profile.int % len(ACCOUNTS)]


def is_child(profile: UUID) -> bool:
    return profile.int % 5 != 0


async def add_families(connection: Connection, random: Random, at: datetime) -> None:
    """Adds accounts, profiles with random policies and balances, and titles."""
    for account in ACCOUNTS:
        await connection.execute(
            "insert into users (id, email, password_hash, is_active, created_at) "
            "values ($1::uuid, $1::text, '-', $2, $3)",
            account,
            account != INACTIVE,
            at,
        )
    for title in (FILM, LESSON):
        await connection.execute(
            "insert into titles (id, title, title_type, is_educational) values ($1, '', '', $2)",
            title,
            title == LESSON,
        )
    for profile in PROFILES:
        await connection.execute(
            "insert into profiles (id, user_id, name, is_kids) values ($1, $2, '', $3)",
            profile,
            owner(profile),
            is_child(profile),
        )
        if random.random() < 0.8:
            await connection.execute(
                "insert into viewing_time_configs (id, profile_id, weekday_limit_minutes, "
                "weekend_limit_minutes, reset_hour, educational_exempt, timezone, day_floor) "
                "values ($1, $1, $2, $3, $4, $5, $6, $7)",
                profile,
                random.choice([None, 15, 480]),
                random.choice([None, 30, 480]),
                random.choice([0, 2, 6, 6]),
                random.random() < 0.5,
                random.choice(ZONES),
                random.choice([None, None, at.date(), at.date() + timedelta(days=1)]),
            )
        if random.random() < 0.6:
            await connection.execute(
                "insert into viewing_schedules (profile_id, daily_limits, downtime, "
                "weekly_limit_minutes, rollover_max_minutes, updated_at) "
                "values ($1, $2, $3, $4, $5, $6)",
                profile,
                random.choice([None, '{"mon": 30, "sat": null}']),
                random.choice(["[]", '[{"days": ["mon"], "start": "20:00", "end": "07:00"}]']),
                random.choice([None, 60, 6000]),
                random.choice([0, 60]),
                at,
            )
        if random.random() < 0.3:
            await connection.execute(
                "insert into viewing_locks values ($1, $2, $3)",
                profile,
                at + timedelta(hours=random.randrange(200)),
                at,
            )
        if random.random() < 0.3:
            await connection.execute(
                "insert into viewing_exceptions (profile_id, day, changes_limit, limit_minutes, "
                "lifts_downtime, updated_at) values ($1, $2, true, 15, true, $3)",
                profile,
                at.date(),
                at,
            )
        for ago in range(8):
            if random.random() < 0.6:
                await connection.execute(
                    "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
                    "educational_seconds, is_unlimited_override, extended_minutes, limit_minutes, "
                    "updated_at) values ($8, $1, $2, $3, 0, $4, $5, $6, $7)",
                    profile,
                    at.date() - timedelta(days=ago),
                    random.choice([0, 900, 3600]),
                    random.random() < 0.2,
                    random.choice([None, 15]),
                    random.choice([None, -1, 60]),
                    at,
                    UUID(int=profile.int * 100 + ago),
                )


class Life:
    """Random batches of heartbeats, and the sessions that they have started."""

    def __init__(self, random: Random, at: datetime, *, by_clock: bool) -> None:
        self.random = random
        self.at = at
        self.by_clock = by_clock
        self.ids = (UUID(int=10_000 + number) for number in count())
        self.sessions: dict[UUID, list[UUID]] = {}

    def batch(self) -> list[Any]:
        """The arguments of the next statement."""
        random = self.random
        self.at += timedelta(seconds=random.choice([1, 17, 30, 30, 30, 301, 3600, 40_000]))
        if random.random() < 0.05:
            self.at -= timedelta(seconds=random.choice([10, 600]))
        profiles = sorted(random.sample([*PROFILES, STRANGER], random.choice([1, 2, 5, 13])))
        columns = zip(*map(self.beat, profiles), strict=True)
        days = [self.at.date() - timedelta(days=number) for number in (0, 0, 1)]
        begins = [int(self.begin(day).timestamp()) for day in days]
        guesses = random.choice([(GUESSES, days, begins), (GUESSES[:1], days[:1], begins[:1])])
        prefix = f"{random.getrandbits(96):024x}"
        return [*map(list, columns), prefix, self.at, "500ms", self.by_clock, *map(list, guesses)]

    def begin(self, day: date) -> datetime:
        return datetime(day.year, day.month, day.day, 6, tzinfo=UTC)

    def beat(self, profile: UUID) -> Beat:
        random = self.random
        own = self.sessions.setdefault(profile, [])
        others = [session for sessions in self.sessions.values() for session in sessions]
        starts = not own or random.random() < 0.25
        if starts and (not own or random.random() < 0.8):
            session = next(self.ids)
            own.append(session)
        elif random.random() < 0.1:
            session = random.choice([STRANGER, *([] if starts else others)])
        else:
            session = random.choice(own[-3:])
        is_cached = random.random() < 0.7
        day = self.at.date() - timedelta(days=random.random() < 0.2)
        hashed = b"key-%04d" % random.randrange(6)
        announces = random.choice([NEVER, ALWAYS, 0, 1800])
        return Beat(
            profile_id=profile,
            account_id=random.choice([*[owner(profile)] * 12, *ACCOUNTS, STRANGER]),
            title_id=random.choice([FILM, FILM, FILM, LESSON, LESSON, NO_TITLE]),
            session_id=session,
            starts=starts,
            device_id=random.choice(["tv-1", "tv-2"]) if starts else None,
            device_type="tv" if starts else None,
            paused=random.random() < 0.15,
            day=day if is_cached else None,
            exempt=random.random() < 0.5,
            key=hashed + random.choice([b"aa", b"aa", b"bb"]) if random.random() < 0.4 else None,
            renews=random.random() < (0.4 if is_cached else 0.95),
            begin_seconds=int(self.begin(day).timestamp()) if is_cached else None,
            usage_from=random.choice([None, day - timedelta(days=6)]) if is_cached else EVERY_DAY,
            exclusive=random.random() < 0.4,
            announce_from=announces if is_cached else NEVER,
            rules=None if announces == NEVER else json.dumps(self.rules(day)),
        )

    def rules(self, day: date) -> dict[str, Any]:
        random = self.random
        return {
            **random.choice([{}, {"closes_in": 600, "closes_by": "downtime"}]),
            **random.choice(
                [
                    {},
                    {
                        "limit": random.choice([900, 5400]),
                        "rollover": random.choice([0, 3600]),
                        "earlier": [[str(day - timedelta(days=1)), 60]],
                    },
                ]
            ),
            **random.choice([{}, {"weekly": 36_000}]),
            **random.choice([{}, {"finish": 600}]),
        }


def outcome(row: Any) -> dict[str, Any]:
    """An answer whose lists are in an order of their own."""

    def rows(*names: str) -> Any:
        if row[names[0]] is None:
            return [row[name] for name in names]
        return sorted(zip(*(row[name] for name in names), strict=True), key=repr)

    return {
        "beats": rows("beats", "refusals", "educational"),
        "children": rows("children", "used_seconds", "overrides"),
        "renewed": rows(
            *("renewed", "weekday_limits", "weekend_limits", "reset_hours", "exemptions"),
            *("timezones", "policies", "are_children"),
        ),
        "extended": rows("extended", "extended_minutes"),
        "playing": rows("playing", "session_seconds"),
        "past": rows(
            *("past", "past_days", "past_used_seconds", "past_overrides"),
            *("past_extended_minutes", "past_limit_minutes"),
        ),
        "events": row["events"],
    }


async def run(connection: Connection, statement: str, arguments: list[Any]) -> Any:
    try:
        [row] = await connection.fetch(statement, *arguments)
    except asyncpg.PostgresError as error:
        return error.sqlstate
    return outcome(row)


async def stored(connection: Connection) -> dict[str, list[str]]:
    """Every row of every table; an event without its id and its number."""
    return {
        table: [
            row["stored"]
            for row in await connection.fetch(
                f"select (to_jsonb(t) - $1::text[])::text as stored from {table} as t order by 1",
                ["id", "seq"] if table == "viewing_events" else [],
            )
        ]
        for table in TABLES
    }


@asynccontextmanager
async def closing(connection: Connection) -> AsyncIterator[Connection]:
    try:
        yield connection
    finally:
        await connection.close()


@dataclass
class Seen:
    """Refusals and events that the batches have reached."""

    refusals: set[int] = field(default_factory=set)
    events: set[str] = field(default_factory=set)


async def live(seed: int, first: str, second: str, seen: Seen) -> None:
    """Runs the batches of one seed; the databases are equal, at the start and at the end."""
    random = Random(seed)
    life = Life(random, BEGIN + timedelta(days=seed), by_clock=seed % 2 == 1)
    sent = {**connector.ALWAYS, **connector.BY_INDEX}
    async with (
        closing(await asyncpg.connect(first, server_settings=sent)) as by_statement,
        closing(await asyncpg.connect(second, server_settings=sent)) as by_function,
    ):
        for number in range(BATCHES):
            arguments = life.batch()
            expected = await run(by_statement, text("heartbeat_record"), arguments)
            answer = await run(by_function, text("heartbeat_call"), arguments)
            assert answer == expected, (seed, number, arguments)
            if isinstance(expected, dict):
                seen.refusals |= {refusal for _, refusal, _ in expected["beats"]}
        assert await stored(by_function) == await stored(by_statement), seed
        types = await by_function.fetch("select distinct type from viewing_events")
        seen.events |= {kind for (kind,) in types}


async def test_function_and_statement_give_equal_answers_and_leave_equal_rows(
    postgres_dsn: str, template: str
) -> None:
    seen = Seen()
    for seed in range(SEEDS):
        async with copied(postgres_dsn, template) as first:
            async with closing(await asyncpg.connect(first)) as families:
                await families.execute(text("citus/heartbeat"))
                await add_families(families, Random(seed), BEGIN + timedelta(days=seed))
            name = urlsplit(first).path.removeprefix("/")
            async with copied(postgres_dsn, name) as second:
                await live(seed, first, second, seen)
    assert seen.refusals == {*range(9)}
    assert seen.events == {"session.displaced", "viewing.blocked", "viewing.warning"}
