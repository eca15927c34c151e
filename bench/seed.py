"""The rows of the database, and the requests of their players."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import jwt
import msgspec

from service.database.driver import Connection

SECRET: Final = "a secret of the benchmark, long enough for HS256"
ADMIN: Final = UUID(int=1)
MONTH: Final = 30
ADULTS: Final = 4  # every fourth profile is an adult, without a configuration or balances
KEY_PLACEHOLDER: Final = "key-of-this-beat"  # as long as the keys that replace it

# Ids are hashes, so that neighbouring rows are far apart in the indexes. Limits are the highest
# allowed: a child can send 960 heartbeats a day before the response is `blocked`.
FAMILIES: Final = """
insert into users (id, email, password_hash, is_admin, is_active)
values ('00000000-0000-0000-0000-000000000001', 'admin@bench.example', '-', true, true);

insert into users (id, email, password_hash, is_admin, is_active)
select md5('account ' || n)::uuid, n || '@bench.example', '-', false, true
from generate_series(1, {profiles}) as n;

insert into profiles (id, user_id, name, parental_rating, is_kids)
select
    md5('profile ' || n)::uuid, md5('account ' || n)::uuid, 'Name ' || n, 'TV-G', n % {adults} > 0
from generate_series(1, {profiles}) as n;

insert into titles (id, title, title_type, is_featured, is_educational)
select md5('title ' || n)::uuid, 'Title ' || n, 'series', false, n % 5 = 0
from generate_series(1, 500) as n;

insert into viewing_time_configs (
    id, profile_id, weekday_limit_minutes, weekend_limit_minutes, reset_hour, educational_exempt,
    timezone
)
select
    gen_random_uuid(), md5('profile ' || n)::uuid, 480, 480, 6, true,
    (array['UTC', 'Europe/Berlin', 'America/New_York', 'Asia/Kolkata', 'Asia/Tokyo'])[n % 5 + 1]
from generate_series(1, {profiles}) as n
where n % {adults} > 0;

insert into viewing_sessions (
    id, profile_id, title_id, device_id, device_type, is_educational, started_at,
    last_heartbeat_at, ended_at, total_seconds
)
select
    gen_random_uuid(), md5('profile ' || n)::uuid, t.id, 'living-room', 'tv', t.is_educational,
    began, began + interval '1 hour', case when ago > 0 then began + interval '1 hour' end,
    case when ago > 0 then 3600 else 0 end
from generate_series({sessions}, 0, -1) as ago
cross join generate_series(1, {profiles}) as n
cross join lateral (select now() - make_interval(days => ago, hours => 1) as began) as s
join titles as t on t.id = md5('title ' || ((n + ago) % 500 + 1))::uuid
"""

BALANCES: Final = """
insert into viewing_time_balances (
    id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override
)
select gen_random_uuid(), p.id, current_date - ago, 3600, 600, false
from generate_series($1::int, $2::int, -1) as ago
cross join (select id from profiles where is_kids offset 0) as p
order by ago desc
"""

KEYS: Final = """
select conname as name, pg_get_constraintdef(oid) as definition
from pg_constraint
where conrelid = 'viewing_time_balances'::regclass and contype in ('p', 'u')
"""

VIEWERS: Final = """
select p.user_id as account_id, p.id as profile_id, s.id as session_id, s.title_id
from profiles as p
join viewing_sessions as s on s.profile_id = p.id and s.ended_at is null
where $2::text is null or p.is_kids is true = ($2 = 'children')
order by p.id
limit $1
"""

# Sets today's viewing to zero, so that no response is `blocked` because of a limit.
FRESH_DAY: Final = """
update viewing_time_balances
set used_seconds = 0
where reset_date >= current_date - 1 and used_seconds > 0
"""


class Viewer(msgspec.Struct, frozen=True):
    """A profile, its account, and its open session."""

    account_id: UUID
    profile_id: UUID
    session_id: UUID
    title_id: UUID


async def seed(
    connection: Connection,
    profiles: int,
    days: int,
    sessions: int,
    progress: Callable[[str], None],
) -> None:
    """Stores profiles, each with an account, finished sessions and one open session.

    Children also have a configuration and `days` balances. Foreign keys are not checked, and the
    keys of the balances are built after the rows: a year takes half a minute instead of two.
    """
    progress(f"{profiles:,} profiles, {profiles * sessions:,} finished sessions")
    await connection.execute("set session_replication_role = replica")
    await connection.execute(FAMILIES.format(profiles=profiles, sessions=sessions, adults=ADULTS))
    keys = await connection.fetch(KEYS)
    for key in keys:
        await connection.execute(f"alter table viewing_time_balances drop constraint {key['name']}")
    for first in range(days - 1, -1, -MONTH):
        progress(f"{profiles * days:,} balances, {first + 1} days to go")
        await connection.execute(BALANCES, first, max(0, first - MONTH + 1))
    progress("keys and statistics")
    for key in keys:
        added = f"add constraint {key['name']} {key['definition']}"
        await connection.execute(f"alter table viewing_time_balances {added}")
    await connection.execute("reset session_replication_role")
    await connection.execute("vacuum analyze")
    await connection.execute("checkpoint")


async def fresh_day(connection: Connection) -> None:
    """Sets today's viewing of every child to zero, and vacuums the updated tables."""
    await connection.execute(FRESH_DAY)
    await connection.execute("vacuum viewing_time_balances, viewing_sessions")


async def viewers(
    connection: Connection, number: int, only: Literal["children", "adults"] | None = None
) -> list[Viewer]:
    """The first viewers in the order of their ids: children and adults, or `only` some."""
    return [Viewer(*row) for row in await connection.fetch(VIEWERS, number, only)]


def token(account_id: UUID) -> str:
    """An access token that outlives the run."""
    expires = datetime.now(UTC) + timedelta(hours=6)
    return jwt.encode({"sub": str(account_id), "exp": expires}, SECRET, algorithm="HS256")


def heartbeats(viewers: Sequence[Viewer], *, keyed: bool = False) -> bytes:
    """The bytes of a heartbeat request of each viewer, each followed by a zero byte.

    With `keyed` each has a placeholder, which the client replaces with a new idempotency key.
    """
    return b"".join(_heartbeat(viewer, keyed) + b"\0" for viewer in viewers)


def _heartbeat(viewer: Viewer, keyed: bool) -> bytes:
    members = {
        "profile_id": viewer.profile_id,
        "title_id": viewer.title_id,
        "device_id": "living-room",
        "session_id": viewer.session_id,
        "device_type": "tv",
        "is_paused": False,
    }
    headers = f"Idempotency-Key: {KEY_PLACEHOLDER}\r\n" if keyed else ""
    return _post("/api/v1/viewing-time/heartbeat", viewer.account_id, members, headers)


def verifications(parents: Sequence[Viewer], pin: str) -> bytes:
    """The bytes of a request of each parent to verify this PIN, each followed by a zero byte."""
    path = "/api/v1/parental-controls/pin/verify"
    return b"".join(_post(path, parent.account_id, {"pin": pin}) + b"\0" for parent in parents)


def _post(path: str, account_id: UUID, members: object, headers: str = "") -> bytes:
    body = msgspec.json.encode(members)
    head = (
        f"POST {path} HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        "User-Agent: player/1.0\r\n"
        "Accept: application/json\r\n"
        f"{headers}"
        f"Authorization: Bearer {token(account_id)}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
