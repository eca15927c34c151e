"""A family for tests, its tokens, and queries of its rows."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import bcrypt
import jwt

from service.database.driver import Connection

HEARTBEAT = "/api/v1/viewing-time/heartbeat"
SECRET = "a secret of the tests, long enough for HS256"
EXPIRES = datetime(2100, 1, 1, tzinfo=UTC)
PIN = "1234"
PASSWORD = "correct horse"


def cheap_hash(secret: str) -> str:
    """The bcrypt hash of a secret at the lowest cost, a millisecond."""
    return bcrypt.hashpw(secret.encode(), bcrypt.gensalt(4)).decode()


PIN_HASH = cheap_hash(PIN)
PASSWORD_HASH = cheap_hash(PASSWORD)


@dataclass(frozen=True)
class Family:
    """The ids of one account, its two profiles, and two titles."""

    account: UUID = field(default_factory=uuid4)
    child: UUID = field(default_factory=uuid4)
    adult: UUID = field(default_factory=uuid4)
    title: UUID = field(default_factory=uuid4)
    lesson: UUID = field(default_factory=uuid4)

    @property
    def bearer(self) -> dict[str, str]:
        """The header with the parent's access token."""
        return bearer(self.account)

    def beat(self, **members: Any) -> dict[str, Any]:
        """The body of a child's heartbeat."""
        body = {"profile_id": self.child, "title_id": self.title, "device_id": "tv-1", **members}
        return {name: str(v) if isinstance(v, UUID) else v for name, v in body.items()}


def bearer(account: UUID, **claims: Any) -> dict[str, str]:
    """The header with an access token of `account`."""
    token = jwt.encode({"sub": str(account), "exp": EXPIRES, **claims}, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {token}"}


async def add_family(
    connection: Connection,
    *,
    limit: int | None = 120,
    timezone: str = "UTC",
    reset_hour: int = 0,
    exempt: bool = True,
    family: Family | None = None,
) -> Family:
    """Stores a family: a parent with a PIN, a child under `limit` minutes, an adult, two titles."""
    family = family or Family()
    await connection.execute(
        "insert into users (id, email, password_hash, is_admin, is_active, pin_hash) "
        "values ($1, $2, $3, false, true, $4)",
        family.account,
        f"{family.account}@example.test",
        PASSWORD_HASH,
        PIN_HASH,
    )
    await connection.execute(
        "insert into profiles (id, user_id, name, parental_rating, is_kids) "
        "values ($1, $3, 'Ada', 'TV-G', true), ($2, $3, 'Grown up', 'TV-MA', false)",
        family.child,
        family.adult,
        family.account,
    )
    await connection.execute(
        "insert into titles (id, title, title_type, is_featured, is_educational) "
        "values ($1, 'Cartoon', 'movie', false, false), ($2, 'Planets', 'movie', false, true)",
        family.title,
        family.lesson,
    )
    await connection.execute(
        "insert into viewing_time_configs (id, profile_id, weekday_limit_minutes, "
        "weekend_limit_minutes, reset_hour, educational_exempt, timezone) "
        "values (gen_random_uuid(), $1, $2, $2, $3, $4, $5)",
        family.child,
        limit,
        reset_hour,
        exempt,
        timezone,
    )
    return family


def far_reset_hour() -> int:
    """The hour of the day, UTC, that is half a day away from now by the machine's clock."""
    return (datetime.now(UTC).hour + 12) % 24


async def keep_today(connection: Connection, profile: UUID) -> None:
    """Makes a profile's viewing day last for eleven hours or more, by the machine's clock.

    Moves all used seconds of the profile to this day. For services with the machine's clock.
    """
    reset_hour, now = far_reset_hour(), datetime.now(UTC)
    today = now.date() - timedelta(days=now.hour < reset_hour)
    await connection.execute(
        "with c as (update viewing_time_configs set reset_hour = $2 where profile_id = $1) "
        "update viewing_time_balances set reset_date = $3 where profile_id = $1",
        profile,
        reset_hour,
        today,
    )


async def session_seconds(connection: Connection, profile: UUID) -> int:
    """The seconds that all sessions of a profile have counted."""
    seconds: int = await connection.fetchval(
        "select coalesce(sum(total_seconds), 0)::int from viewing_sessions where profile_id = $1",
        profile,
    )
    return seconds


async def used_seconds(connection: Connection, profile: UUID, day: date | None = None) -> int:
    """The seconds that a profile has used, on one viewing day or on all."""
    seconds: int = await connection.fetchval(
        "select coalesce(sum(used_seconds), 0)::int from viewing_time_balances "
        "where profile_id = $1 and ($2::date is null or reset_date = $2)",
        profile,
        day,
    )
    return seconds


async def open_sessions(connection: Connection, profile: UUID) -> int:
    """The number of sessions of a profile that have not ended."""
    count: int = await connection.fetchval(
        "select count(*) from viewing_sessions where profile_id = $1 and ended_at is null", profile
    )
    return count
