"""The command `events` lists events, and makes them unsent again for the webhook."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from service.database.driver import Connection
from service.events import kept
from service.settings import Settings
from tests.command.test_data import run
from tests.events.receiving import SECRET, Receiving, add_events, delivering, receiving
from tests.eventually import eventually
from tests.family import Family

YEARS = ("--since", "2020-01-01")


def listed(dsn: str, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    """The events that the command prints, and its standard error."""
    done = run(dsn, "events", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def numbers(events: Sequence[dict[str, Any]]) -> list[int]:
    return [event["data"]["number"] for event in events]


async def test_events_since_a_time_are_lines_of_json(
    database: str, connection: Connection, family: Family
) -> None:
    for number in (1, 2, 3):
        await add_events(connection, family.account, [family.child], [number])
        await asyncio.sleep(0.01)  # so that the ids have different times
    row = await connection.fetchrow("select id, occurred_at from viewing_events where position = 2")
    assert row is not None
    events, error = listed(database, *YEARS)
    assert (numbers(events), error) == ([1, 2, 3], "")
    assert events[1] == {
        "id": str(row["id"]),
        "type": "lock.cleared",
        "occurred_at": row["occurred_at"].isoformat().replace("+00:00", "Z"),
        "account_id": str(family.account),
        "profile_id": str(family.child),
        "data": {"number": 2},
    }
    assert listed(database, "--since", "2100-01-01T00:00:00+02:00") == ([], "")
    # The id begins with the milliseconds of its time.
    milliseconds = row["id"].int >> 80
    moment = await connection.fetchval(
        "select to_char(to_timestamp($1::float8 / 1000) at time zone 'UTC', "
        '\'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\')',
        milliseconds,
    )
    assert numbers(listed(database, "--since", moment)[0])[-2:] == [2, 3]


async def test_redelivered_events_are_sent_again_in_their_order(
    settings: Settings, connection: Connection, family: Family
) -> None:
    """Also those from before the first start with a webhook, but not those in an open batch."""
    await add_events(connection, family.account, [family.child], [0])
    async with receiving() as platform:
        hooked = replace(settings, webhook_url=platform.url, webhook_secret=SECRET)
        assert await arrived(hooked, platform, connection, family, [1, 2, 3]) == [1, 2, 3]
        await connection.execute(
            "with d as (insert into viewing_deliveries (id, created_at, attempts, due_at) "
            "values (gen_random_uuid(), now(), 1, now() + interval '1 hour') returning id) "
            "update viewing_events set delivery_id = d.id, delivered_at = null "
            "from d where position = 3"
        )
        events, error = listed(settings.database_url, *YEARS, "--redeliver")
        assert (sorted(numbers(events)), error) == ([0, 1, 2, 3], "3 events will be sent again.\n")
        await connection.execute("update viewing_deliveries set due_at = now()")
        assert sorted(await arrived(hooked, platform, connection, family, [])) == [0, 1, 2, 3]
        order = [number for number in platform.numbers[3:] if number != 2]
        assert order == [0, 1, 3]


async def arrived(
    hooked: Settings,
    platform: Receiving,
    connection: Connection,
    family: Family,
    new: Sequence[int],
) -> list[int]:
    """The numbers that arrive until no event waits."""
    before = len(platform.accepted)
    begun = "select webhook_from is not null from viewing_event_feed"
    left = "select count(*) from viewing_events where delivered_at is null and position > $1"
    async with delivering(hooked):
        await eventually(lambda: connection.fetchval(begun))
        if new:
            await add_events(connection, family.account, [family.child], new)
        first = 1 if new else 0
        await eventually(lambda: connection.fetchval(left, first), until=lambda count: count == 0)
    return platform.accepted[before:]


async def test_parked_events_are_listed_and_redelivered(
    settings: Settings, connection: Connection, family: Family
) -> None:
    await connection.execute("update viewing_event_feed set webhook_from = 0")
    await add_events(connection, family.account, [family.child], [1, 2, 3, 4])
    await connection.execute("update viewing_events set parked_at = now() where position in (2, 4)")
    await connection.execute(
        "update viewing_events set delivered_at = now() where parked_at is null"
    )
    await connection.execute("update viewing_event_feed set webhook_from = 4")
    dsn = settings.database_url
    assert numbers(listed(dsn, "--parked")[0]) == [2, 4]
    assert listed(dsn, "--parked", "--redeliver")[1] == "2 events will be sent again.\n"
    assert listed(dsn, "--parked", "--redeliver") == ([], "0 events will be sent again.\n")
    async with receiving() as platform:
        hooked = replace(settings, webhook_url=platform.url, webhook_secret=SECRET)
        async with delivering(hooked):
            await eventually(lambda: platform.accepted)
    assert platform.accepted == [2, 4]


async def test_every_event_of_several_pages_is_listed_once(
    settings: Settings,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept, "MAX_PAGE", 3)
    await add_events(connection, family.account, [family.child], range(10))
    await connection.execute("update viewing_events set parked_at = now() where position > 3")
    ids: list[object] = []
    for since, count in ((datetime(2020, 1, 1, tzinfo=UTC), 10), (None, 7)):
        ids.clear()
        await kept.show(settings, since, lambda event: ids.append(event.id), redeliver=False)
        assert len(ids) == len({*ids}) == count


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Give either --since or --parked."),
        ((*YEARS, "--parked"), "Give either --since or --parked."),
        (("--redeliver",), "Give either --since or --parked."),
        (("--since", "yesterday"), "must be a time like 2026-11-27T06:00:00Z"),
        (("--since", "0001-01-01"), "must be a time like 2026-11-27T06:00:00Z"),
        (("--since", "1969-12-31"), "must be a time like 2026-11-27T06:00:00Z"),
    ],
)
def test_arguments_that_are_not_valid_are_refused(
    arguments: tuple[str, ...], sentence: str
) -> None:
    done = run("postgresql://127.0.0.1:1/none", "events", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_database_that_cannot_be_reached_is_one_sentence() -> None:
    done = run("postgresql://127.0.0.1:1/none", "events", "--parked")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Cannot use the database at DATABASE_URL: ")
