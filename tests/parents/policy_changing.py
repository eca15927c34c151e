"""The requests that change a child's policy, for tests that hold for all of them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import httpx

from service.database.driver import Connection
from tests.conftest import Running
from tests.family import HEARTBEAT, Family

NOON: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)  # on a Wednesday
PROFILE: Final = "/api/v1/parental-controls/profiles"


class Change(NamedTuple):
    """A valid request below the URL of a profile, and the table that it changes.

    `insert` stores the row of the child $1 that a DELETE needs.
    """

    method: str
    path: str
    body: Mapping[str, Any]
    table: str
    insert: str = ""


CHANGES: Final = {
    "schedule": Change("PUT", "schedule", {"finish_minutes": 5}, "viewing_schedules"),
    "daily limits": Change("PUT", "schedule", {"daily_limits": {"mon": 30}}, "viewing_schedules"),
    "exception": Change(
        "PUT", "exceptions/2026-12-24", {"limit_minutes": None}, "viewing_exceptions"
    ),
    "no exception": Change(
        "DELETE",
        "exceptions/2026-12-24",
        {},
        "viewing_exceptions",
        "insert into viewing_exceptions (profile_id, day, changes_limit, lifts_downtime, "
        "updated_at) values ($1, '2026-12-24', true, true, now())",
    ),
    "lock": Change("PUT", "lock", {}, "viewing_locks"),
    "no lock": Change(
        "DELETE",
        "lock",
        {},
        "viewing_locks",
        "insert into viewing_locks (profile_id, locked_until, locked_at) values "
        "($1, '2026-12-24', now())",
    ),
}


async def call(
    running: Running,
    family: Family,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Sends a request of a parent about the child; without a body if it is None."""
    url = f"{PROFILE}/{family.child}/{path}"
    headers = {**family.bearer, **(headers or {})}
    return await running.client.request(method, url, headers=headers, json=body)


async def verdict(running: Running, family: Family) -> tuple[str, float | None]:
    """The verdict of the child's next heartbeat, with the minutes left; counts half a minute."""
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert answer.status_code == 200, answer.text
    return answer.json()["enforcement"], answer.json()["remaining_minutes"]


async def prepare(connection: Connection, change: Change, *families: Family) -> None:
    """Stores the row of a child that a DELETE needs."""
    if change.insert:
        for family in families:
            await connection.execute(change.insert, family.child)
