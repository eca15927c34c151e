"""A grant lowers today's used minutes or lifts today's limit, and is recorded."""

import asyncio
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.database.driver import Connection
from service.http import lenient_json
from service.parents.grant import GrantBody
from tests.conftest import Running, Starter
from tests.family import PASSWORD_HASH, PIN, Family, add_family, used_seconds
from tests.parents.test_viewing_config import pin_token
from tests.players.test_decision import schedule
from tests.players.test_heartbeat import beat
from tests.statement_counts import of_requests

VIEWING = "/api/v1/viewing-time"
NOON = datetime(2027, 3, 3, 12, tzinfo=UTC)  # a Wednesday


def url(profile: UUID) -> str:
    return f"/api/v1/parental-controls/profiles/{profile}/viewing-time/grant"


async def grant(running: Running, family: Family, **members: Any) -> httpx.Response:
    return await running.client.post(url(family.child), json=members, headers=family.bearer)


async def use(connection: Connection, family: Family, seconds: int) -> None:
    """Stores the balance of the viewing day with `seconds` used."""
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
        "educational_seconds, is_unlimited_override, updated_at) "
        "values (gen_random_uuid(), $1, '2027-03-03', $2, 0, false, now())",
        family.child,
        seconds,
    )


async def stored_grants(connection: Connection) -> list[tuple[Any, ...]]:
    """All grants, oldest first."""
    rows = await connection.fetch(
        "select profile_id, granted_by_user_id, granted_minutes, is_remote, granted_at "
        "from time_grants order by granted_at"
    )
    return [tuple(row) for row in rows]


async def stored_effects(connection: Connection) -> list[tuple[Any, ...]]:
    """Mode, viewing day and effect of all grants, oldest first."""
    rows = await connection.fetch(
        "select mode, reset_date, effect_seconds from time_grants order by granted_at, id"
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("used", "minutes", "left_used"), [(7200, 30, 5400), (600, 15, 0), (0, 120, 0)]
)
async def test_minutes_lower_used_seconds_but_not_below_zero(
    running: Running,
    connection: Connection,
    family: Family,
    used: int,
    minutes: int,
    left_used: int,
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, used)
    answer = await grant(running, family, minutes=minutes)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "granted_minutes": minutes,
            "remaining_minutes": 120 - left_used / 60,
            "is_unlimited_override": False,
        },
    )
    assert await used_seconds(connection, family.child) == left_used
    assert await stored_grants(connection) == [(family.child, family.account, minutes, True, NOON)]


@pytest.mark.parametrize("body", [{}, {"minutes": None}])
async def test_a_grant_without_minutes_lifts_todays_limit(
    running: Running, connection: Connection, family: Family, body: dict[str, Any]
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, 7200)
    assert (await beat(running, family))["enforcement"] == "blocked"
    unlimited = {
        "granted_minutes": None,
        "remaining_minutes": None,
        "is_unlimited_override": True,
    }
    assert (await grant(running, family, **body)).json() == unlimited
    assert (await beat(running, family))["enforcement"] == "allowed"
    later = await grant(running, family, minutes=15)
    assert later.json() == {**unlimited, "granted_minutes": 15}
    assert [row[2] for row in await stored_grants(connection)] == [None, 15]
    running.clock.fixed = datetime(2027, 3, 4, 12, tzinfo=UTC)
    assert (await beat(running, family))["remaining_minutes"] == 119.5


async def test_concurrent_heartbeats_are_kept(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, 7200)
    await asyncio.gather(
        *(beat(running, family) for _ in range(20)),
        *(grant(running, family, minutes=15) for _ in range(4)),
    )
    assert await used_seconds(connection, family.child) == 7200 + 20 * 30 - 4 * 15 * 60
    assert len(await stored_grants(connection)) == 4


async def test_grant_on_the_childs_device_takes_the_pin_or_its_token(
    running: Running, connection: Connection, family: Family
) -> None:
    assert (await grant(running, family, minutes=15, pin=PIN)).status_code == 200
    token = await pin_token(running, family)
    assert (await grant(running, family, minutes=15, pin_token=token)).status_code == 200
    assert [row[3] for row in await stored_grants(connection)] == [False, False]


async def test_with_a_wrong_pin_or_token_nothing_is_granted(
    running: Running, connection: Connection, family: Family
) -> None:
    token = await pin_token(running, family)
    await connection.execute("update users set pin_hash = $1", PASSWORD_HASH)
    for members, detail in (
        ({"pin": "0000"}, "Incorrect PIN"),
        ({"pin_token": "no token"}, "Invalid or expired PIN token"),
        ({"pin_token": token}, "Invalid or expired PIN token"),
    ):
        answer = await grant(running, family, minutes=15, **members)
        assert (answer.status_code, answer.json()) == (403, {"detail": detail})
    assert await stored_grants(connection) == []
    assert await connection.fetchval("select count(*) from viewing_time_balances") == 0


async def test_only_the_childs_own_parent_can_grant(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    for members in ({"minutes": 15}, {"minutes": 15, "pin": PIN}):
        answer = await running.client.post(url(family.child), json=members, headers=stranger.bearer)
        assert answer.status_code == 403
        assert answer.json() == {"detail": "Profile not found or access denied"}
    assert await stored_grants(connection) == []


@pytest.mark.parametrize("minutes", [14, 121, 0, -15, 15.5, 1e9, "abc", [15]])
async def test_bad_minutes_grant_nothing(
    running: Running, connection: Connection, family: Family, minutes: Any
) -> None:
    answer = await grant(running, family, minutes=minutes)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "minutes"]
    assert await stored_grants(connection) == []


@pytest.mark.parametrize(
    ("used", "minutes", "effect"), [(7200, 30, 1800), (600, 15, 600), (0, 120, 0), (None, 30, 0)]
)
async def test_response_and_record_say_how_much_of_a_credit_took_effect(
    running: Running,
    connection: Connection,
    family: Family,
    used: int | None,
    minutes: int,
    effect: int,
) -> None:
    running.clock.fixed = NOON
    if used is not None:
        await use(connection, family, used)
    answer = (await grant(running, family, minutes=minutes, mode="credit")).json()
    assert answer["effect_minutes"] == effect / 60
    assert await stored_effects(connection) == [("credit", date(2027, 3, 3), effect)]


async def test_a_credit_after_an_extension_records_its_own_effect(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, 600)
    for mode, minutes, effect in (("credit", 15, 600), ("extend", 15, 900), ("credit", 15, 0)):
        answer = (await grant(running, family, minutes=minutes, mode=mode)).json()
        assert answer["effect_minutes"] == effect / 60


async def test_minutes_granted_by_extension_are_never_lost(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    for number in (1, 2):
        answer = (await grant(running, family, minutes=30, mode="extend")).json()
        assert answer == {
            "granted_minutes": 30,
            "remaining_minutes": 120.0 + 30 * number,
            "is_unlimited_override": False,
            "grant_id": answer["grant_id"],
            "effect_minutes": 30.0,
        }
    assert await used_seconds(connection, family.child) == 0
    assert await stored_effects(connection) == [("extend", date(2027, 3, 3), 1800)] * 2


async def test_a_bonus_on_an_exhausted_day_gives_its_minutes_and_not_the_whole_day(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, 7200 + 3600)
    assert (await grant(running, family, minutes=15)).json()["remaining_minutes"] == 0.0
    extended = (await grant(running, family, minutes=60, mode="extend")).json()
    assert (extended["remaining_minutes"], extended["is_unlimited_override"]) == (15.0, False)


async def test_an_extension_is_over_with_its_day(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await grant(running, family, minutes=30, mode="extend")
    running.clock.fixed = datetime(2027, 3, 4, 12, tzinfo=UTC)
    assert (await grant(running, family, minutes=15)).json()["remaining_minutes"] == 120.0


@pytest.mark.parametrize("members", [{}, {"mode": "extend"}, {"mode": "credit"}])
async def test_without_minutes_every_mode_lifts_the_limit(
    running: Running, connection: Connection, family: Family, members: dict[str, str]
) -> None:
    running.clock.fixed = NOON
    answer = (await grant(running, family, **members)).json()
    assert (answer["remaining_minutes"], answer["is_unlimited_override"]) == (None, True)
    assert answer.get("effect_minutes") is None
    assert await stored_effects(connection) == [("unlimited", date(2027, 3, 3), None)]


async def test_the_id_is_in_the_location_and_only_new_clients_get_new_members(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    plain = await grant(running, family, minutes=15)
    assert plain.text == (
        '{"granted_minutes":15,"remaining_minutes":120.0,"is_unlimited_override":false}'
    )
    answer = await grant(running, family, minutes=15, mode="credit")
    ids = {str(row["id"]) for row in await connection.fetch("select id from time_grants")}
    grants = f"/api/v1/parental-controls/profiles/{family.child}/grants"
    assert answer.headers["location"] == f"{grants}/{answer.json()['grant_id']}"
    located = {one.headers["location"].removeprefix(f"{grants}/") for one in (plain, answer)}
    assert located == ids


async def test_a_repeated_grant_gets_the_same_members_and_location(
    running: Running, connection: Connection, family: Family
) -> None:
    for number, body in enumerate(({"minutes": 15}, {"minutes": 15, "mode": "extend"})):
        headers = {**family.bearer, "Idempotency-Key": f"{number}"}
        first, again = [
            await running.client.post(url(family.child), json=body, headers=headers)
            for _ in range(2)
        ]
        assert (again.text, again.headers["location"]) == (first.text, first.headers["location"])
    assert len(await stored_grants(connection)) == 2


def test_a_request_without_a_mode_keeps_its_digest_for_idempotency_keys() -> None:
    body = lenient_json.encode(GrantBody(minutes=15))
    assert body == b'{"minutes":15,"pin":null,"pin_token":null}'


@pytest.mark.parametrize("mode", ["", "Extend", "unlimited", None, 1, ["extend"]])
async def test_an_unknown_mode_grants_nothing(
    running: Running, connection: Connection, family: Family, mode: object
) -> None:
    answer = await grant(running, family, minutes=15, mode=mode)
    assert answer.status_code == 422
    [error] = answer.json()["detail"]
    assert (error["type"], error["loc"]) == ("enum", ["body", "mode"])
    assert await stored_grants(connection) == []


@pytest.mark.parametrize("is_used", [False, True])
async def test_effects_add_up_with_concurrent_heartbeats_and_grants(
    start: Starter, connection: Connection, family: Family, is_used: bool
) -> None:
    instances = [await start(), await start()]
    for instance in instances:
        instance.clock.fixed = NOON
    if is_used:
        await use(connection, family, 3000)
    await asyncio.gather(
        *(beat(instances[n % 2], family) for n in range(40)),
        *(grant(instances[n % 2], family, minutes=15) for n in range(12)),
        *(grant(instances[n % 2], family, minutes=30, mode="extend") for n in range(6)),
    )
    effects = await stored_effects(connection)
    credits = [effect for mode, _, effect in effects if mode == "credit"]
    assert len(credits) == 12
    assert all(0 <= effect <= 900 for effect in credits)
    watched = 40 * 30 + (3000 if is_used else 0)
    assert await used_seconds(connection, family.child) == watched - sum(credits)
    extended = "select extended_minutes from viewing_time_balances"
    assert await connection.fetchval(extended) == 6 * 30


@pytest.mark.warm
@pytest.mark.parametrize("members", [{}, {"minutes": 15}, {"minutes": 15, "mode": "extend"}])
@pytest.mark.parametrize("policy", [None, {"weekly": 300, "rollover": 60, "finish": 15}])
async def test_a_grant_is_one_statement(
    running: Running,
    connection: Connection,
    family: Family,
    members: dict[str, Any],
    policy: dict[str, Any] | None,
) -> None:
    if policy is not None:
        await schedule(connection, family, **policy)
    await grant(running, family, minutes=15)
    before = await of_requests(connection)
    await grant(running, family, **members)
    assert await of_requests(connection) - before == 1
    headers = {**family.bearer, "Prefer": "decision"}
    answer = await running.client.post(url(family.child), json=members, headers=headers)
    assert "decision" in answer.json()
    assert await of_requests(connection) - before == 2


@pytest.mark.parametrize("minutes", [15, None])
async def test_a_strict_account_needs_its_pin_for_every_grant(
    running: Running, connection: Connection, family: Family, minutes: int | None
) -> None:
    token = await pin_token(running, family)
    await connection.execute(
        "insert into viewing_strict_accounts values ($1, $2)", family.account, NOON
    )

    async def answered(pin_token: str | None = None, **members: Any) -> tuple[int, Any]:
        headers = family.bearer | ({} if pin_token is None else {"X-PIN-Token": pin_token})
        answer = await running.client.post(
            url(family.child), json={"minutes": minutes, **members}, headers=headers
        )
        return answer.status_code, answer.json().get("detail")

    required = (403, "Valid PIN token required")
    assert await answered() == required
    assert await answered(mode="extend") == required
    assert await answered(pin_token="x") == required
    assert await answered(pin="0000") == (403, "Incorrect PIN")
    assert await grant_with(running, family, token="x") == (403, "Invalid or expired PIN token")
    assert await stored_grants(connection) == []
    assert await connection.fetchval("select count(*) from viewing_time_balances") == 0
    assert await answered(pin_token=token) == (200, None)
    assert await answered(pin=PIN) == (200, None)
    assert await grant_with(running, family, token=token) == (200, None)
    assert [row[3] for row in await stored_grants(connection)] == [True, False, False]


async def grant_with(running: Running, family: Family, token: str) -> tuple[int, Any]:
    """The status and the detail of a grant with a PIN token in its body."""
    answer = await grant(running, family, minutes=15, pin_token=token)
    return answer.status_code, answer.json().get("detail")


async def test_a_header_with_the_token_of_a_changed_pin_grants_nothing(
    running: Running, connection: Connection, family: Family
) -> None:
    headers = {**family.bearer, "X-PIN-Token": await pin_token(running, family)}
    await connection.execute("update users set pin_hash = $1", PASSWORD_HASH)
    answer = await running.client.post(url(family.child), json={"minutes": 15}, headers=headers)
    assert (answer.status_code, answer.json()) == (403, {"detail": "Valid PIN token required"})
    assert await stored_grants(connection) == []


async def test_a_repeated_grant_needs_no_token_again(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute(
        "insert into viewing_strict_accounts values ($1, $2)", family.account, running.clock()
    )
    key = {**family.bearer, "Idempotency-Key": "k"}
    headers = {**key, "X-PIN-Token": await pin_token(running, family)}
    body = {"minutes": 15}
    refused = await running.client.post(url(family.child), json=body, headers=key)
    first = await running.client.post(url(family.child), json=body, headers=headers)
    again = await running.client.post(url(family.child), json=body, headers=key)
    assert (refused.status_code, first.status_code, again.text) == (403, 200, first.text)
    assert len(await stored_grants(connection)) == 1


async def remaining(running: Running, family: Family) -> list[Any]:
    """The minutes left by the balance, by `playback-eligible`, and by the decision."""
    return [
        (
            await running.client.get(f"{VIEWING}/{path}/{family.child}", headers=family.bearer)
        ).json()["remaining_minutes"]
        for path in ("balance", "playback-eligible", "decision")
    ]


async def test_extended_minutes_are_in_force_with_the_next_heartbeat(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, 7200)
    assert (await beat(running, family))["enforcement"] == "blocked"
    assert (await grant(running, family, minutes=15, mode="extend")).status_code == 200
    verdict = await beat(running, family)
    assert (verdict["enforcement"], verdict["remaining_minutes"]) == ("warning_15", 14.0)
    assert await remaining(running, family) == [14.0] * 3
    for _ in range(28):
        verdict = await beat(running, family)
    assert (verdict["enforcement"], verdict["remaining_minutes"]) == ("blocked", 0.0)


@pytest.mark.parametrize("members", [{"minutes": 30}, {"minutes": 30, "mode": "extend"}, {}])
@pytest.mark.parametrize(
    "policy",
    [
        {"weekly": 300},
        {"limits": '{"wed": 60}', "rollover": 45},
        {"weekly": 240, "rollover": 240, "finish": 30},
        {"downtime": '[{"days": ["wed"], "start": "12:20", "end": "13:00"}]'},
        {"downtime": '[{"days": ["wed"], "start": "11:00", "end": "13:00"}]'},
        {"limits": '{"wed": null}', "weekly": 600},
    ],
)
async def test_the_minutes_left_after_a_grant_are_those_of_every_other_response(
    running: Running,
    connection: Connection,
    family: Family,
    policy: dict[str, Any],
    members: dict[str, Any],
) -> None:
    running.clock.fixed = NOON
    await schedule(connection, family, **policy)
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
        "extended_minutes, is_unlimited_override) "
        "values (gen_random_uuid(), $1, '2027-03-01', 6000, 15, false), "
        "(gen_random_uuid(), $1, '2027-03-02', 5000, null, false)",
        family.child,
    )
    await use(connection, family, 4000)
    answer = (await grant(running, family, **members)).json()
    assert [answer["remaining_minutes"]] * 3 == await remaining(running, family)


async def test_no_grant_lifts_a_lock(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await connection.execute(
        "insert into viewing_locks values ($1, $2, $3)", family.child, NOON.replace(hour=13), NOON
    )
    for members in ({"minutes": 30}, {"minutes": 30, "mode": "extend"}, {}):
        answer = (await grant(running, family, **members)).json()
        assert answer["remaining_minutes"] == 0.0
    assert (await beat(running, family))["enforcement"] == "blocked"


@pytest.mark.parametrize("members", [{"minutes": 30}, {"minutes": 30, "mode": "extend"}, {}])
async def test_a_grant_brings_the_decision_back_if_the_client_prefers_it(
    running: Running, connection: Connection, family: Family, members: dict[str, Any]
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, 7200)
    headers = {**family.bearer, "Prefer": "respond-async, decision"}
    answer = await running.client.post(url(family.child), json=members, headers=headers)
    assert answer.headers["preference-applied"] == "decision"
    document = answer.json()
    found = await running.client.get(f"{VIEWING}/decision/{family.child}", headers=family.bearer)
    assert document["decision"] == found.json()
    assert document["decision"]["remaining_minutes"] == document["remaining_minutes"]
    assert answer.headers["location"].endswith(f"/{document['grant_id']}")
    assert document["effect_minutes"] == members.get("minutes")


async def test_the_decision_after_a_grant_knows_the_title_that_is_being_finished(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await schedule(connection, family, finish=30)
    await use(connection, family, 7170)
    session = (await beat(running, family))["session_id"]
    for _ in range(40):
        await beat(running, family, session_id=session)
    headers = {**family.bearer, "Prefer": "decision"}
    body = {"minutes": 15, "mode": "extend"}
    answer = await running.client.post(url(family.child), json=body, headers=headers)
    assert answer.json()["remaining_minutes"] == 0.0
    found = await running.client.get(f"{VIEWING}/decision/{family.child}", headers=family.bearer)
    decision = answer.json()["decision"]
    assert decision == found.json()
    assert (decision["is_finishing"], decision["remaining_minutes"]) == (True, 25.0)


async def test_without_the_preference_there_is_no_decision(
    running: Running, family: Family
) -> None:
    for prefer in ("", "return=minimal", "decisions"):
        headers = {**family.bearer, "Prefer": prefer}
        answer = await running.client.post(url(family.child), json={}, headers=headers)
        assert answer.text == (
            '{"granted_minutes":null,"remaining_minutes":null,"is_unlimited_override":true}'
        )
        assert "preference-applied" not in answer.headers


async def test_a_repeated_grant_brings_back_its_first_decision(
    running: Running, connection: Connection, family: Family
) -> None:
    running.clock.fixed = NOON
    await use(connection, family, 3600)
    headers = {**family.bearer, "Prefer": "decision", "Idempotency-Key": "k"}
    body = {"minutes": 30}
    first = await running.client.post(url(family.child), json=body, headers=headers)
    await beat(running, family)
    again = await running.client.post(url(family.child), json=body, headers=headers)
    assert again.text == first.text
    assert again.headers["preference-applied"] == first.headers["preference-applied"] == "decision"
    assert again.json()["decision"]["remaining_minutes"] == 90.0
    del headers["Prefer"]
    plain = await running.client.post(url(family.child), json=body, headers=headers)
    assert plain.text == (
        '{"granted_minutes":30,"remaining_minutes":90.0,"is_unlimited_override":false}'
    )
    assert len(await stored_grants(connection)) == 1


async def test_a_repeated_grant_whose_first_response_had_no_decision_has_none(
    running: Running, family: Family
) -> None:
    headers = {**family.bearer, "Idempotency-Key": "k"}
    first = await running.client.post(url(family.child), json={"minutes": 15}, headers=headers)
    headers["Prefer"] = "decision"
    again = await running.client.post(url(family.child), json={"minutes": 15}, headers=headers)
    assert "preference-applied" not in again.headers
    assert first.json().items() < again.json().items()
    assert again.json().keys() - first.json().keys() == {"grant_id", "effect_minutes"}


async def test_the_decision_about_an_adult_is_that_nothing_limits(
    running: Running, family: Family
) -> None:
    headers = {**family.bearer, "Prefer": "decision"}
    answer = await running.client.post(url(family.adult), json={"minutes": 15}, headers=headers)
    assert (answer.json()["decision"]["allowed"], answer.json()["decision"]["rules"]) == (True, [])
