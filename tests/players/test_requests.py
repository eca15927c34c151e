"""A child's request for more time: one at a time, five a day, over with its viewing day."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from service.database.driver import Connection
from tests.conftest import Running, Starter
from tests.family import Family, add_family
from tests.statement_counts import of_requests

URL = "/api/v1/viewing-time/requests"
NOON = datetime(2027, 3, 3, 12, tzinfo=UTC)  # a Wednesday
RESET = "2027-03-04T00:00:00Z"


@pytest.fixture
def short_path() -> bool:
    """Once is enough: these requests are not heartbeats."""
    return True


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application at noon on a Wednesday."""
    return await start(now=NOON)


async def ask(
    running: Running, family: Family, key: str | None = None, **members: Any
) -> httpx.Response:
    body = {"profile_id": str(family.child), **members}
    headers = family.bearer | ({} if key is None else {"Idempotency-Key": key})
    return await running.client.post(URL, json=body, headers=headers)


async def asked(running: Running, family: Family, **members: Any) -> UUID:
    """The id of a new request."""
    answer = await ask(running, family, **members)
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["request_id"])


async def shown(running: Running, family: Family, request_id: UUID) -> Any:
    answer = await running.client.get(f"{URL}/{request_id}", headers=family.bearer)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def decide(
    running: Running, family: Family, request_id: UUID, decision: str = "deny", **members: Any
) -> httpx.Response:
    url = f"/api/v1/parental-controls/requests/{request_id}/{decision}"
    return await running.client.post(url, json=members, headers=family.bearer)


async def events(connection: Connection) -> list[tuple[str, Any]]:
    """The type and the data of every event, in the order in which they were written."""
    rows = await connection.fetch("select type, data from viewing_events order by seq")
    return [(row["type"], httpx.Response(200, text=row["data"]).json()) for row in rows]


async def count(connection: Connection) -> int:
    number: int = await connection.fetchval("select count(*) from viewing_requests")
    return number


async def test_a_request_waits_for_a_parent_until_the_next_reset(
    running: Running, connection: Connection, family: Family
) -> None:
    answer = await ask(running, family, minutes=30, message=" Until the end? ", device_id="tv-1")
    request_id = answer.json()["request_id"]
    assert (answer.status_code, answer.json()) == (
        201,
        {"request_id": request_id, "status": "pending", "expires_at": RESET},
    )
    assert answer.headers["location"] == f"{URL}/{request_id}"
    found = await running.client.get(answer.headers["location"], headers=family.bearer)
    assert (found.status_code, found.json()) == (
        200,
        {
            "request_id": request_id,
            "profile_id": str(family.child),
            "status": "pending",
            "minutes": 30,
            "message": "Until the end?",
            "device_id": "tv-1",
            "date": "2027-03-03",
            "requested_at": "2027-03-03T12:00:00Z",
            "expires_at": RESET,
            "decided_at": None,
            "decided_by_user_id": None,
            "grant_id": None,
        },
    )
    created = {"request_id": request_id, "minutes": 30, "expires_at": "2027-03-04T00:00:00.000000Z"}
    assert await events(connection) == [("request.created", created)]


@pytest.mark.parametrize("members", [{}, {"minutes": None, "message": None, "device_id": None}])
async def test_every_member_except_the_profile_can_be_left_out(
    running: Running, family: Family, members: dict[str, Any]
) -> None:
    found = await shown(running, family, await asked(running, family, **members))
    assert [found[name] for name in ("minutes", "message", "device_id")] == [None, None, None]


async def test_asking_again_returns_the_pending_request_and_changes_nothing(
    running: Running, connection: Connection, family: Family
) -> None:
    first = await ask(running, family, minutes=30)
    again = await ask(running, family, minutes=60, message="Please")
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert (await shown(running, family, first.json()["request_id"]))["minutes"] == 30
    assert len(await events(connection)) == 1


async def test_a_sibling_has_a_request_of_its_own(
    running: Running, connection: Connection, family: Family
) -> None:
    sibling = uuid4()
    await connection.execute(
        "insert into profiles (id, user_id, name, is_kids) values ($1, $2, 'Ben', true)",
        sibling,
        family.account,
    )
    first = await asked(running, family)
    assert await asked(running, family, profile_id=str(sibling)) != first


async def test_a_repeated_request_gets_its_first_response_and_is_stored_once(
    running: Running, connection: Connection, family: Family
) -> None:
    first = await ask(running, family, key="k", minutes=30)
    for _ in range(2):
        again = await ask(running, family, key="k", minutes=30)
        assert (again.status_code, again.text) == (201, first.text)
        assert again.headers["location"] == first.headers["location"]
        await decide(running, family, first.json()["request_id"])
    assert await count(connection) == 1
    assert [kind for kind, _ in await events(connection)] == ["request.created", "request.denied"]
    other = await ask(running, family, key="k", minutes=45)
    assert other.status_code == 422


async def test_of_requests_at_once_on_two_instances_one_is_stored(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(now=NOON), await start(now=NOON)]
    answers = await asyncio.gather(*(ask(instances[n % 2], family) for n in range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] * 11 + [201]
    assert len({answer.text for answer in answers}) == 1
    assert await count(connection) == len(await events(connection)) == 1


@pytest.mark.warm
async def test_asking_is_one_statement(
    running: Running, connection: Connection, family: Family
) -> None:
    await decide(running, family, await asked(running, family))
    for status in (201, 200):
        before = await of_requests(connection)
        assert (await ask(running, family)).status_code == status
        assert await of_requests(connection) - before == 1


@pytest.mark.parametrize(
    ("zone", "now", "seconds"),
    [
        ("UTC", "2027-03-03T12:00:00.25", 43_200),
        # The clocks of Berlin go forward on this viewing day, and back on the next one.
        ("Europe/Berlin", "2027-03-27T23:30:00", 22 * 3600 + 1800),
        ("Europe/Berlin", "2026-10-24T22:30:00", 24 * 3600 + 1800),
    ],
)
async def test_after_five_requests_the_sixth_waits_for_the_reset(
    running: Running, connection: Connection, zone: str, now: str, seconds: int
) -> None:
    family = await add_family(connection, timezone=zone)
    running.clock.fixed = noon = datetime.fromisoformat(now).replace(tzinfo=UTC)
    for _ in range(5):
        await decide(running, family, await asked(running, family))
    for wait in (0, seconds - 1):
        running.clock.fixed = noon + timedelta(seconds=wait)
        answer = await ask(running, family)
        assert answer.status_code == 429
        assert answer.json() == {"detail": "At most 5 requests a viewing day"}
        assert answer.headers["retry-after"] == str(seconds - wait)
    assert await count(connection) == 5
    running.clock.fixed = noon + timedelta(seconds=seconds)
    await asked(running, family)


async def test_the_fifth_request_is_returned_while_it_is_pending(
    running: Running, family: Family
) -> None:
    for _ in range(4):
        await decide(running, family, await asked(running, family))
    fifth = await asked(running, family)
    again = await ask(running, family)
    assert (again.status_code, again.json()["request_id"]) == (200, str(fifth))


async def test_a_request_has_expired_at_the_reset_and_a_new_one_can_be_made(
    running: Running, connection: Connection, family: Family
) -> None:
    old = await asked(running, family, minutes=30)
    running.clock.fixed = datetime(2027, 3, 3, 23, 59, 59, tzinfo=UTC)
    assert (await shown(running, family, old))["status"] == "pending"
    running.clock.fixed = datetime(2027, 3, 4, tzinfo=UTC)
    assert (await shown(running, family, old))["status"] == "expired"
    new = await asked(running, family)
    assert (await shown(running, family, old))["status"] == "expired"
    assert (await shown(running, family, new))["expires_at"] == "2027-03-05T00:00:00Z"
    assert [(kind, data["request_id"]) for kind, data in await events(connection)] == [
        ("request.created", str(old)),
        ("request.expired", str(old)),
        ("request.created", str(new)),
    ]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("a\0b", "value_error"),
        ("\0", "value_error"),
        ("x" * 201, "string_too_long"),
        ("é" * 201, "string_too_long"),
        ("two\nlines", "string_pattern_mismatch"),
        ("bell\x07", "string_pattern_mismatch"),
        ("\x9b31m", "string_pattern_mismatch"),
        (5, "string_type"),
        (["x"], "string_type"),
    ],
)
async def test_a_message_that_is_no_line_of_text_is_422_and_stores_nothing(
    running: Running, connection: Connection, family: Family, message: object, kind: str
) -> None:
    answer = await ask(running, family, message=message)
    assert answer.status_code == 422
    [error] = answer.json()["detail"]
    assert (error["type"], error["loc"]) == (kind, ["body", "message"])
    assert await count(connection) == 0


@pytest.mark.parametrize(
    ("message", "stored"),
    [
        (" " * 500 + "x" * 200 + "\n", "x" * 200),
        ("🚀" * 200, "🚀" * 200),
        (" \t ", None),
        ("<script>alert(1)</script> & 'q' =1+1", "<script>alert(1)</script> & 'q' =1+1"),
    ],
)
async def test_a_message_is_stored_as_it_is_without_the_spaces_at_its_ends(
    running: Running, connection: Connection, family: Family, message: str, stored: str | None
) -> None:
    request_id = await asked(running, family, message=message)
    assert (await shown(running, family, request_id))["message"] == stored
    assert "message" not in (await events(connection))[0][1]


async def test_no_page_shows_a_message(running: Running, family: Family) -> None:
    await asked(running, family, message="<b>mark</b>")
    headers = {**family.bearer, "Accept": "text/html"}
    page = await running.client.get("/api/v1/parental-controls/weekly-report", headers=headers)
    assert page.headers["content-type"].startswith("text/html")
    assert "mark" not in page.text


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({"minutes": 14}, "minutes"),
        ({"minutes": 121}, "minutes"),
        ({"minutes": "x"}, "minutes"),
        ({"device_id": "x" * 101}, "device_id"),
        ({"device_id": "a\0"}, "device_id"),
        ({"profile_id": "x"}, "profile_id"),
        ({"profile_id": None}, "profile_id"),
    ],
)
async def test_a_field_that_cannot_be_read_is_422_and_stores_nothing(
    running: Running, connection: Connection, family: Family, members: dict[str, Any], name: str
) -> None:
    answer = await ask(running, family, **members)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", name]
    assert await count(connection) == 0


async def test_an_adult_cannot_ask(
    running: Running, connection: Connection, family: Family
) -> None:
    answer = await ask(running, family, profile_id=str(family.adult))
    assert answer.status_code == 422
    assert answer.json() == {"detail": "Only a child profile can request more time"}
    assert await count(connection) == 0


async def test_another_account_can_neither_ask_nor_see(
    running: Running, connection: Connection, family: Family
) -> None:
    request_id = await asked(running, family)
    stranger = await add_family(connection)
    answer = await ask(running, stranger, profile_id=str(family.child))
    assert answer.json() == {"detail": "Profile not found or access denied"}
    foreign, unknown = [
        await running.client.get(f"{URL}/{name}", headers=stranger.bearer)
        for name in (request_id, uuid4())
    ]
    assert (foreign.status_code, foreign.text) == (404, '{"detail":"Request not found"}')
    assert unknown.text == foreign.text
    malformed = await running.client.get(f"{URL}/x", headers=family.bearer)
    assert malformed.json()["detail"][0]["loc"] == ["path", "request_id"]
