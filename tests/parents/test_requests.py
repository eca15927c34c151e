"""Parents decide about a request once, whoever of them and on whatever instance."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from service.database.driver import Connection
from tests.conftest import Running, Starter
from tests.family import PIN, Family, add_family, used_seconds
from tests.parents.test_grant import use
from tests.parents.test_viewing_config import pin_token
from tests.players.test_heartbeat import beat
from tests.players.test_requests import NOON, asked, decide, events, shown
from tests.statement_counts import of_requests

REQUESTS = "/api/v1/parental-controls/requests"
TOMORROW = datetime(2027, 3, 4, tzinfo=UTC)
DECIDED = "Request has been decided or has expired"


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application at noon on a Wednesday."""
    return await start(now=NOON)


async def approve(
    running: Running,
    family: Family,
    request_id: UUID,
    headers: dict[str, str] | None = None,
    **members: Any,
) -> httpx.Response:
    return await running.client.post(
        f"{REQUESTS}/{request_id}/approve",
        json=members,
        headers={**family.bearer, **(headers or {})},
    )


async def stored(connection: Connection) -> list[tuple[Any, ...]]:
    """Minutes, mode, request and whether it was remote of each grant, oldest first."""
    rows = await connection.fetch(
        "select granted_minutes, mode, request_id, is_remote from time_grants "
        "order by granted_at, id"
    )
    return [tuple(row) for row in rows]


async def listed(running: Running, family: Family, status: str | None = None) -> Any:
    params = {} if status is None else {"status": status}
    answer = await running.client.get(REQUESTS, params=params, headers=family.bearer)
    assert answer.status_code == 200, answer.text
    assert answer.json()["is_complete"] is True
    return answer.json()["requests"]


async def test_an_approval_grants_the_minutes_and_the_grant_names_the_request(
    running: Running, connection: Connection, family: Family
) -> None:
    await use(connection, family, 7200)
    assert (await beat(running, family))["enforcement"] == "blocked"
    request_id = await asked(running, family, minutes=30, message="Please")
    answer = await approve(running, family, request_id)
    grant_id = answer.json()["grant_id"]
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "request_id": str(request_id),
            "status": "approved",
            "grant_id": grant_id,
            "granted_minutes": 30,
            "remaining_minutes": 29.5,
            "is_unlimited_override": False,
            "effect_minutes": 30.0,
        },
    )
    assert (await beat(running, family))["enforcement"] == "allowed"
    assert await stored(connection) == [(30, "credit", request_id, True)]
    found = await shown(running, family, request_id)
    assert found["status"] == "approved"
    assert (found["decided_at"], found["decided_by_user_id"], found["grant_id"]) == (
        "2027-03-03T12:00:00Z",
        str(family.account),
        grant_id,
    )
    url = f"/api/v1/parental-controls/profiles/{family.child}/grants"
    [grant] = (await running.client.get(url, headers=family.bearer)).json()["grants"]
    assert (grant["grant_id"], grant["request_id"]) == (grant_id, str(request_id))
    assert (await events(connection))[-2:] == [
        (
            "grant.created",
            {
                "grant_id": grant_id,
                "minutes": 30,
                "mode": "credit",
                "is_remote": True,
                "request_id": str(request_id),
            },
        ),
        (
            "request.approved",
            {"request_id": str(request_id), "grant_id": grant_id, "minutes": 30},
        ),
    ]


@pytest.mark.parametrize(
    ("wish", "members", "granted"),
    [
        (30, {}, (30, "credit")),
        (30, {"minutes": None}, (30, "credit")),
        (30, {"minutes": 15}, (15, "credit")),
        (None, {"minutes": 60, "mode": "extend"}, (60, "extend")),
        (30, {"mode": "extend"}, (30, "extend")),
        (None, {}, (None, "unlimited")),
        (None, {"mode": "extend"}, (None, "unlimited")),
    ],
)
async def test_a_parent_can_grant_other_minutes_or_in_another_mode(
    running: Running,
    connection: Connection,
    family: Family,
    wish: int | None,
    members: dict[str, Any],
    granted: tuple[int | None, str],
) -> None:
    request_id = await asked(running, family, minutes=wish)
    answer = await approve(running, family, request_id, **members)
    assert (answer.json()["granted_minutes"], answer.status_code) == (granted[0], 200)
    assert answer.json()["is_unlimited_override"] is (granted[0] is None)
    assert await stored(connection) == [(*granted, request_id, True)]


async def test_decisions_need_no_body(running: Running, family: Family) -> None:
    for decision in ("approve", "deny"):
        request_id = await asked(running, family)
        url = f"{REQUESTS}/{request_id}/{decision}"
        assert (await running.client.post(url, headers=family.bearer)).status_code == 200


async def test_two_parents_who_approve_at_once_on_two_instances_grant_once(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(now=NOON), await start(now=NOON)]
    await use(connection, family, 7200)
    for minutes in (15, 30):
        request_id = await asked(instances[0], family, minutes=minutes)
        answers = await asyncio.gather(
            *(approve(instances[n % 2], family, request_id) for n in range(12))
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 11
        for answer in answers:
            if answer.status_code == 409:
                assert answer.json() == {"detail": DECIDED, "status": "approved"}
    assert sorted(minutes for minutes, *_ in await stored(connection)) == [15, 30]
    assert await used_seconds(connection, family.child) == 7200 - 45 * 60
    kinds = [kind for kind, _ in await events(connection)]
    assert (kinds.count("grant.created"), kinds.count("request.approved")) == (2, 2)


async def test_of_an_approval_and_a_denial_at_once_one_is_made(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(now=NOON), await start(now=NOON)]
    for _ in range(5):
        request_id = await asked(instances[0], family, minutes=15)
        approved, denied = await asyncio.gather(
            approve(instances[0], family, request_id), decide(instances[1], family, request_id)
        )
        assert sorted((approved.status_code, denied.status_code)) == [200, 409]
        status = (await shown(instances[0], family, request_id))["status"]
        assert status == ("approved" if approved.is_success else "denied")
        assert {approved.json()["status"], denied.json()["status"]} == {status}
        grants = await connection.fetchval(
            "select count(*) from time_grants where request_id = $1", request_id
        )
        assert grants == approved.is_success


async def test_an_approval_repeated_with_its_key_gets_its_first_response(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(now=NOON), await start(now=NOON)]
    request_id = await asked(instances[0], family, minutes=30)
    key = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(
        *(approve(instances[n % 2], family, request_id, key) for n in range(6))
    )
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, answers[0].text)}
    assert len(await stored(connection)) == 1
    other = await approve(instances[0], family, request_id, key, minutes=15)
    assert other.status_code == 422
    kinds = [kind for kind, _ in await events(connection)]
    assert kinds == ["request.created", "grant.created", "request.approved"]


async def test_a_denial_repeated_with_its_key_gets_its_first_response(
    running: Running, connection: Connection, family: Family
) -> None:
    request_id = await asked(running, family)
    url = f"{REQUESTS}/{request_id}/deny"
    headers = {**family.bearer, "Idempotency-Key": "k"}
    for _ in range(2):
        answer = await running.client.post(url, headers=headers)
        assert (answer.status_code, answer.json()) == (
            200,
            {"request_id": str(request_id), "status": "denied"},
        )
    assert [kind for kind, _ in await events(connection)] == ["request.created", "request.denied"]


async def test_a_decided_request_answers_with_its_state(
    running: Running, connection: Connection, family: Family
) -> None:
    for decision, status in (("deny", "denied"), ("approve", "approved")):
        request_id = await asked(running, family, minutes=15)
        await decide(running, family, request_id, decision)
        before = (await stored(connection), await events(connection))
        for second in ("approve", "deny"):
            answer = await decide(running, family, request_id, second)
            assert answer.status_code == 409
            assert answer.json() == {"detail": DECIDED, "status": status}
        assert (await stored(connection), await events(connection)) == before


async def test_a_request_can_be_approved_until_its_day_is_over(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = TOMORROW - timedelta(microseconds=1)
    assert (await approve(running, family, await asked(running, family))).status_code == 200
    request_id = await asked(running, family)
    running.clock.fixed = TOMORROW
    for decision in ("approve", "deny"):
        answer = await decide(running, family, request_id, decision)
        assert answer.status_code == 409
        assert answer.json() == {"detail": DECIDED, "status": "expired"}
    days = await connection.fetch("select reset_date from time_grants")
    assert [day["reset_date"] for day in days] == [date(2027, 3, 3)]
    assert await connection.fetchval("select count(*) from viewing_time_balances") == 1


async def test_a_wrong_pin_grants_nothing_and_five_lock(
    running: Running, connection: Connection, family: Family
) -> None:
    request_id = await asked(running, family, minutes=15)
    answer = await approve(running, family, request_id, pin_token="x")
    assert (answer.status_code, answer.json()) == (403, {"detail": "Invalid or expired PIN token"})
    for _ in range(5):
        answer = await approve(running, family, request_id, pin="0000")
        assert (answer.status_code, answer.json()) == (403, {"detail": "Incorrect PIN"})
    answer = await approve(running, family, request_id, pin=PIN)
    assert answer.json() == {"detail": "PIN locked due to too many failed attempts"}
    assert answer.status_code == 403
    assert answer.headers["x-locked-until"].endswith("+00:00")
    assert await stored(connection) == []
    assert (await shown(running, family, request_id))["status"] == "pending"


async def test_an_approval_on_the_childs_device_takes_the_pin_or_its_token(
    running: Running, connection: Connection, family: Family
) -> None:
    proofs: list[dict[str, Any]] = [{"pin": PIN}, {"pin_token": await pin_token(running, family)}]
    for members in proofs:
        request_id = await asked(running, family, minutes=15)
        assert (await approve(running, family, request_id, **members)).status_code == 200
    assert [is_remote for *_, is_remote in await stored(connection)] == [False, False]


async def test_a_strict_account_needs_its_pin_to_approve_and_none_to_deny(
    running: Running, connection: Connection, family: Family
) -> None:
    token = {"X-PIN-Token": await pin_token(running, family)}
    await connection.execute(
        "insert into viewing_strict_accounts values ($1, $2)", family.account, NOON
    )
    request_id = await asked(running, family, minutes=15)
    bad: dict[str, str] = {"X-PIN-Token": "x"}
    for headers in ({}, bad):
        answer = await approve(running, family, request_id, headers)
        assert (answer.status_code, answer.json()) == (403, {"detail": "Valid PIN token required"})
    assert (await shown(running, family, request_id))["status"] == "pending"
    assert await stored(connection) == []
    assert (await approve(running, family, request_id, token)).status_code == 200
    denied = await decide(running, family, await asked(running, family), "deny")
    assert denied.status_code == 200


async def test_another_accounts_request_cannot_be_distinguished_from_an_unknown_one(
    running: Running, connection: Connection, family: Family
) -> None:
    request_id = await asked(running, family, minutes=15)
    stranger = await add_family(connection)
    for decision in ("approve", "deny"):
        for members in ({}, {"pin": PIN}):
            foreign = await decide(running, stranger, request_id, decision, **members)
            unknown = await decide(running, stranger, uuid4(), decision, **members)
            assert (foreign.status_code, foreign.text) == (404, '{"detail":"Request not found"}')
            assert (unknown.status_code, unknown.text) == (404, foreign.text)
    assert await listed(running, stranger) == []
    assert await stored(connection) == []
    assert (await shown(running, family, request_id))["status"] == "pending"


@pytest.mark.parametrize("members", [{"minutes": 14}, {"minutes": 121}, {"mode": "unlimited"}])
async def test_a_field_that_cannot_be_read_decides_nothing(
    running: Running, family: Family, members: dict[str, Any]
) -> None:
    request_id = await asked(running, family)
    answer = await approve(running, family, request_id, **members)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", *members]
    assert (await shown(running, family, request_id))["status"] == "pending"


async def test_the_list_has_the_requests_of_all_children_newest_first(
    running: Running, connection: Connection, family: Family
) -> None:
    sibling = uuid4()
    await connection.execute(
        "insert into profiles (id, user_id, name, is_kids) values ($1, $2, 'Ben', true)",
        sibling,
        family.account,
    )
    assert await listed(running, family) == []
    first = await asked(running, family, minutes=15)
    await decide(running, family, first)
    running.clock.fixed = NOON + timedelta(minutes=1)
    second = await asked(running, family, profile_id=str(sibling))
    running.clock.fixed = NOON + timedelta(minutes=2)
    third = await asked(running, family, message="<b>")
    found = await listed(running, family)
    assert [one["request_id"] for one in found] == [str(id_) for id_ in (third, second, first)]
    assert found == [await shown(running, family, id_) for id_ in (third, second, first)]
    assert [one["status"] for one in found] == ["pending", "pending", "denied"]
    assert [one["request_id"] for one in await listed(running, family, "pending")] == [
        str(third),
        str(second),
    ]
    assert [one["status"] for one in await listed(running, family, "denied")] == ["denied"]
    assert await listed(running, family, "expired") == []
    running.clock.fixed = TOMORROW + timedelta(hours=6)  # Ben's day ends at six
    assert await listed(running, family, "pending") == []
    assert [one["status"] for one in await listed(running, family, "expired")] == ["expired"] * 2


async def test_a_list_of_more_than_500_requests_says_so(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute(
        "insert into viewing_requests (id, account_id, profile_id, status, reset_date, "
        "requested_at, expires_at) select gen_random_uuid(), $1, $2, 'denied', d, d, d + 1 "
        "from (select $3::date - n as d from generate_series(1, 501) as n) as x",
        family.account,
        family.child,
        NOON.date(),
    )
    answer = await running.client.get(REQUESTS, headers=family.bearer)
    assert (answer.json()["is_complete"], len(answer.json()["requests"])) == (False, 500)
    assert answer.json()["requests"][0]["date"] == "2027-03-02"


@pytest.mark.parametrize("status", ["", "open", "Pending"])
async def test_an_unknown_status_is_422(running: Running, family: Family, status: str) -> None:
    answer = await running.client.get(f"{REQUESTS}?status={status}", headers=family.bearer)
    assert answer.status_code == 422
    [error] = answer.json()["detail"]
    assert (error["type"], error["loc"]) == ("enum", ["query", "status"])


@pytest.mark.warm
async def test_an_approval_is_one_statement_after_the_request_is_read(
    running: Running, connection: Connection, family: Family
) -> None:
    await approve(running, family, await asked(running, family, minutes=15))
    request_id = await asked(running, family, minutes=15)
    before = await of_requests(connection)
    await approve(running, family, request_id)
    assert await of_requests(connection) - before == 2


async def test_every_grant_has_one_event(
    running: Running, connection: Connection, family: Family
) -> None:
    url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time/grant"
    headers = {**family.bearer, "Idempotency-Key": "k"}
    for body in ({"minutes": 15, "pin": "0000"}, {"minutes": 15}, {"minutes": 15}):
        await running.client.post(url, json=body, headers=headers if "pin" not in body else None)
    [(kind, data)] = await events(connection)
    grant_id = str(await connection.fetchval("select id from time_grants"))
    assert kind == "grant.created"
    assert data == {
        "grant_id": grant_id,
        "minutes": 15,
        "mode": "credit",
        "is_remote": True,
        "request_id": None,
    }
    [row] = await connection.fetch(
        "select account_id, profile_id, occurred_at, cause from viewing_events"
    )
    assert tuple(row) == (family.account, family.child, NOON, None)
