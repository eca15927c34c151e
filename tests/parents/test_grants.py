"""Parents see every grant with its effect, and undo one of today as far as it took effect."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from service.database.driver import Connection
from service.parents import grants as module
from tests.conftest import Running, Starter, served
from tests.family import HEARTBEAT, Family, add_family, keep_today, used_seconds
from tests.parents.test_grant import NOON, grant, use
from tests.parents.test_viewing_config import pin_token
from tests.players.test_heartbeat import beat

TODAY = "2027-03-03"
YESTERDAY = NOON - timedelta(days=1)
TOO_LATE = (422, {"detail": "Only a grant of the current viewing day can be undone"})
UNKNOWN = (404, {"detail": "Grant not found"})


def url(profile: UUID) -> str:
    return f"/api/v1/parental-controls/profiles/{profile}/grants"


async def listed(running: Running, family: Family, **days: str) -> dict[str, Any]:
    answer = await running.client.get(url(family.child), params=days, headers=family.bearer)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def undo(
    running: Running, family: Family, grant_id: object, **headers: str
) -> httpx.Response:
    return await running.client.delete(
        f"{url(family.child)}/{grant_id}", headers={**family.bearer, **headers}
    )


def answered(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()


async def granted(running: Running, family: Family, **members: Any) -> str:
    """The id of a new grant."""
    answer = await grant(running, family, **members)
    assert answer.status_code == 200, answer.text
    return answer.headers["location"].rpartition("/")[2]


async def balance(connection: Connection) -> tuple[Any, ...] | None:
    """Used seconds, extended minutes and override of the only balance."""
    row = await connection.fetchrow(
        "select used_seconds, extended_minutes, is_unlimited_override from viewing_time_balances"
    )
    return None if row is None else tuple(row)


async def add_old_grant(
    connection: Connection, family: Family, minutes: int | None, granted_at: datetime
) -> UUID:
    """Stores a grant as versions before this one did."""
    grant_id = uuid4()
    await connection.execute(
        "insert into time_grants (id, profile_id, granted_by_user_id, granted_minutes, is_remote, "
        "granted_at) values ($1, $2, $3, $4, true, $5)",
        grant_id,
        family.child,
        family.account,
        minutes,
        granted_at,
    )
    return grant_id


@pytest.fixture
async def running(running: Running) -> Running:
    running.clock.fixed = NOON
    return running


async def test_the_list_says_who_gave_how_much_and_how_much_of_it_took_effect(
    running: Running, connection: Connection, family: Family
) -> None:
    await use(connection, family, 600)
    token = await pin_token(running, family)
    first = await granted(running, family, minutes=15)
    running.clock.fixed += timedelta(minutes=1)
    second = await granted(running, family, minutes=30, mode="extend", pin_token=token)
    running.clock.fixed += timedelta(minutes=1)
    third = await granted(running, family)
    assert (await undo(running, family, third)).status_code == 200
    common = {
        "date": TODAY,
        "granted_by_user_id": str(family.account),
        "undone_at": None,
        "undone_by_user_id": None,
    }
    assert await listed(running, family) == {
        "profile_id": str(family.child),
        "from": "2027-02-02",
        "to": TODAY,
        "is_complete": True,
        "grants": [
            {
                **common,
                "grant_id": third,
                "granted_at": "2027-03-03T12:02:00Z",
                "is_remote": True,
                "granted_minutes": None,
                "mode": "unlimited",
                "effect_minutes": None,
                "undone_at": "2027-03-03T12:02:00Z",
                "undone_by_user_id": str(family.account),
            },
            {
                **common,
                "grant_id": second,
                "granted_at": "2027-03-03T12:01:00Z",
                "is_remote": False,
                "granted_minutes": 30,
                "mode": "extend",
                "effect_minutes": 30.0,
            },
            {
                **common,
                "grant_id": first,
                "granted_at": "2027-03-03T12:00:00Z",
                "is_remote": True,
                "granted_minutes": 15,
                "mode": "credit",
                "effect_minutes": 10.0,
            },
        ],
    }


async def test_grants_of_earlier_versions_are_listed_and_cannot_be_undone(
    running: Running, connection: Connection, family: Family
) -> None:
    old = [
        await add_old_grant(connection, family, 30, NOON),
        await add_old_grant(connection, family, None, NOON - timedelta(hours=1)),
    ]
    rows = (await listed(running, family))["grants"]
    assert [(row["grant_id"], row["date"], row["mode"], row["effect_minutes"]) for row in rows] == [
        (str(old[0]), None, "credit", None),
        (str(old[1]), None, "unlimited", None),
    ]
    for grant_id in old:
        assert answered(await undo(running, family, grant_id)) == TOO_LATE
    assert await connection.fetchval("select count(undone_at) from time_grants") == 0


async def test_the_range_is_in_viewing_days_and_both_ends_belong_to_it(
    running: Running, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=6)
    running.clock.fixed = datetime(2027, 3, 3, 5, 59, tzinfo=UTC)
    early = await granted(running, family, minutes=15)
    running.clock.fixed = datetime(2027, 3, 3, 6, tzinfo=UTC)
    late = await granted(running, family, minutes=15)
    for days, ids in (
        ({"from": "2027-03-02", "to": "2027-03-02"}, [early]),
        ({"from": "2027-03-03", "to": "2027-03-03"}, [late]),
        ({"from": "2027-03-02"}, [late, early]),
        ({"to": "2027-03-02"}, [early]),
        ({}, [late, early]),
        ({"from": "2027-03-04", "to": "2027-03-05"}, []),
    ):
        document = await listed(running, family, **days)
        assert [row["grant_id"] for row in document["grants"]] == ids, days


@pytest.mark.parametrize(
    ("days", "status"),
    [
        ({"from": "0001-01-01", "to": "0001-01-02"}, 200),
        ({"to": "0001-01-01"}, 200),
        ({"from": "9999-12-31", "to": "9999-12-31"}, 200),
        ({"to": "9999-12-31"}, 200),
        ({"from": "2026-12-03", "to": TODAY}, 200),
        ({"from": "2026-12-02", "to": TODAY}, 422),
        ({"from": "2026-12-02"}, 422),
        ({"from": "2027-03-04"}, 422),
        ({"from": "2027-03-02", "to": "2027-03-01"}, 422),
        ({"from": ""}, 422),
        ({"to": "x"}, 422),
        ({"to": "2027-03-03T12:00:00"}, 422),
        ({"from": "1e400"}, 422),
        ({"from": "2027-02-30"}, 422),
    ],
)
async def test_a_bad_range_is_422(
    running: Running, family: Family, days: dict[str, str], status: int
) -> None:
    answer = await running.client.get(url(family.child), params=days, headers=family.bearer)
    assert answer.status_code == status


async def test_at_most_five_hundred_grants_are_listed_and_the_list_says_so(
    running: Running, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GRANTS", 2)
    for number in range(3):
        document = await listed(running, family)
        assert (document["is_complete"], len(document["grants"])) == (True, number)
        running.clock.fixed += timedelta(seconds=1)
        newest = await granted(running, family, minutes=15)
    document = await listed(running, family)
    assert (document["is_complete"], len(document["grants"])) == (False, 2)
    assert document["grants"][0]["grant_id"] == newest


@pytest.mark.parametrize(
    ("used", "members", "after"),
    [
        (7200, {"minutes": 30}, (5400, None, False)),
        (600, {"minutes": 15}, (0, None, False)),
        (600, {"minutes": 15, "mode": "extend"}, (600, 15, False)),
        (600, {}, (600, None, True)),
    ],
)
async def test_an_undone_grant_leaves_nothing_behind(
    running: Running,
    connection: Connection,
    family: Family,
    used: int,
    members: dict[str, Any],
    after: tuple[Any, ...],
) -> None:
    await use(connection, family, used)
    grant_id = await granted(running, family, **members)
    assert await balance(connection) == after
    assert (await undo(running, family, grant_id)).status_code == 200
    assert await balance(connection) == (used, after[1] and 0, False)


async def test_a_credit_of_which_nothing_took_effect_takes_nothing_back(
    running: Running, connection: Connection, family: Family
) -> None:
    grant_id = await granted(running, family, minutes=120)
    for _ in range(4):
        await beat(running, family)
    assert (await undo(running, family, grant_id)).json()["effect_minutes"] == 0.0
    assert await used_seconds(connection, family.child) == 120


async def test_viewing_since_the_grant_stays_counted(
    running: Running, connection: Connection, family: Family
) -> None:
    await use(connection, family, 600)
    grant_id = await granted(running, family, minutes=15)
    for _ in range(4):
        await beat(running, family)
    assert (await undo(running, family, grant_id)).status_code == 200
    assert await used_seconds(connection, family.child) == 600 + 120


async def test_grants_are_undone_in_any_order(
    running: Running, connection: Connection, family: Family
) -> None:
    await use(connection, family, 1000)
    ids = [await granted(running, family, minutes=15) for _ in range(3)]
    effects = [900, 100, 0]
    used = 0
    for number in (2, 0, 1):
        assert (await undo(running, family, ids[number])).status_code == 200
        used += effects[number]
        assert await used_seconds(connection, family.child) == used
    assert used == 1000


async def test_a_grant_is_undone_as_it_was_made_after_the_limit_has_changed(
    running: Running, connection: Connection, family: Family
) -> None:
    await use(connection, family, 7200)
    grant_id = await granted(running, family, minutes=30)
    config = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
    body = {"weekday_limit_minutes": 15}
    assert (await running.client.put(config, json=body, headers=family.bearer)).status_code == 200
    assert (await undo(running, family, grant_id)).status_code == 200
    assert await used_seconds(connection, family.child) == 7200
    assert (await beat(running, family))["enforcement"] == "blocked"


async def test_undoing_is_in_force_with_the_next_heartbeat(
    running: Running, connection: Connection, family: Family
) -> None:
    await use(connection, family, 7200)
    grant_id = await granted(running, family)
    assert (await beat(running, family))["enforcement"] == "allowed"
    assert (await undo(running, family, grant_id)).status_code == 200
    assert (await beat(running, family))["enforcement"] == "blocked"


async def test_the_limit_stays_lifted_while_another_unlimited_grant_stands(
    running: Running, connection: Connection, family: Family
) -> None:
    ids = [await granted(running, family) for _ in range(3)]
    for number, is_lifted in ((1, True), (0, True), (2, False)):
        assert (await undo(running, family, ids[number])).status_code == 200
        assert await balance(connection) == (0, None, is_lifted)
    await granted(running, family)
    assert await balance(connection) == (0, None, True)


async def test_an_unlimited_grant_of_an_earlier_version_stands_today_and_not_tomorrow(
    running: Running, connection: Connection, family: Family
) -> None:
    await add_old_grant(connection, family, None, YESTERDAY)
    for minutes, is_lifted in ((None, True), (30, False)):
        old = await add_old_grant(connection, family, minutes, NOON - timedelta(hours=12))
        assert (await undo(running, family, await granted(running, family))).status_code == 200
        assert await balance(connection) == (0, None, is_lifted)
        await connection.execute("delete from time_grants where id = $1", old)


async def test_undoing_twice_is_undoing_once(
    running: Running, connection: Connection, family: Family
) -> None:
    await use(connection, family, 600)
    grant_id = await granted(running, family, minutes=15)
    first = await undo(running, family, grant_id)
    assert first.json()["undone_at"] == "2027-03-03T12:00:00Z"
    running.clock.fixed += timedelta(days=1)
    again = await undo(running, family, grant_id)
    assert (again.status_code, again.text) == (200, first.text)
    assert await used_seconds(connection, family.child) == 600


async def test_undoing_in_parallel_on_several_instances_is_undoing_once(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(now=NOON), await start(now=NOON)]
    await use(connection, family, 7200)
    ids = [await granted(instances[0], family, minutes=15) for _ in range(3)]
    answers = await asyncio.gather(
        *(undo(instances[n % 2], family, ids[n % 3]) for n in range(24)),
        *(beat(instances[n % 2], family) for n in range(10)),
    )
    undone = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert {answer.status_code for answer in undone} == {200}
    assert len({answer.text for answer in undone}) == 3
    assert await used_seconds(connection, family.child) == 7200 + 10 * 30


async def test_effects_add_up_with_concurrent_heartbeats_grants_and_undoing(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(now=NOON), await start(now=NOON)]
    await use(connection, family, 3000)

    async def grant_and_undo(number: int) -> None:
        instance = instances[number % 2]
        mode = ("credit", "extend")[number % 3 == 0]
        grant_id = await granted(instance, family, minutes=15, mode=mode)
        if number % 2:
            assert (await undo(instances[number % 4 // 2], family, grant_id)).status_code == 200

    await asyncio.gather(
        *(grant_and_undo(n) for n in range(24)),
        *(beat(instances[n % 2], family) for n in range(40)),
    )
    rows = (await listed(instances[0], family))["grants"]
    standing = [row for row in rows if row["undone_at"] is None]
    assert (len(rows), len(standing)) == (24, 12)
    credited = sum(60 * row["effect_minutes"] for row in standing if row["mode"] == "credit")
    extended = sum(row["effect_minutes"] for row in standing if row["mode"] == "extend")
    assert await balance(connection) == (3000 + 40 * 30 - round(credited), extended, False)


async def test_concurrent_unlimited_grants_and_undoing_agree_on_the_override(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(now=NOON), await start(now=NOON)]
    for last in range(6):
        ids = [await granted(instances[0], family) for _ in range(2)]
        new = [grant(instances[0], family)] if last % 2 else []
        await asyncio.gather(
            *(undo(instances[n], family, grant_id) for n, grant_id in enumerate(ids)), *new
        )
        standing = await connection.fetch("select id from time_grants where undone_at is null")
        assert len(standing) == len(new)
        assert await balance(connection) == (0, None, bool(new))
        for row in standing:
            assert (await undo(instances[0], family, row["id"])).status_code == 200


async def test_undoing_waits_for_a_grant_that_is_being_made_and_counts_it(
    running: Running, connection: Connection, family: Family
) -> None:
    grant_id = await granted(running, family)
    async with connection.transaction():
        await connection.execute("update viewing_time_balances set updated_at = now()")
        undoing = asyncio.create_task(undo(running, family, grant_id))
        await asyncio.sleep(0.2)
        assert not undoing.done()
        await add_old_grant(connection, family, None, NOON)
    assert (await undoing).status_code == 200
    assert await balance(connection) == (0, None, True)


@pytest.mark.parametrize("members", [{"minutes": 30}, {"minutes": 30, "mode": "extend"}, {}])
async def test_a_grant_of_yesterday_cannot_be_undone(
    running: Running, connection: Connection, family: Family, members: dict[str, Any]
) -> None:
    running.clock.fixed = YESTERDAY
    grant_id = await granted(running, family, **members)
    before = await balance(connection)
    running.clock.fixed = NOON
    assert answered(await undo(running, family, grant_id)) == TOO_LATE
    assert await balance(connection) == before
    assert await connection.fetchval("select undone_at from time_grants") is None


async def test_a_day_that_a_new_zone_has_moved_ahead_of_the_clock_is_not_over(
    running: Running, connection: Connection, family: Family
) -> None:
    await use(connection, family, 600)
    grant_id = await granted(running, family, minutes=15)
    running.clock.fixed = YESTERDAY
    assert (await undo(running, family, grant_id)).status_code == 200
    assert await balance(connection) == (600, None, False)


async def test_only_a_grant_to_the_profile_itself_is_found(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    foreign = await granted(running, stranger, minutes=15)
    sibling = await granted(running, with_the_adult_as_child(family), minutes=15)
    for grant_id in (foreign, sibling, uuid4()):
        assert answered(await undo(running, family, grant_id)) == UNKNOWN
    answer = await undo(running, family, "x")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["path", "grant_id"]
    own = await granted(running, family, minutes=15)
    answer = await running.client.delete(f"{url(family.child)}/{own}", headers=stranger.bearer)
    assert answered(answer) == (403, {"detail": "Profile not found or access denied"})
    assert await connection.fetchval("select count(undone_at) from time_grants") == 0


def with_the_adult_as_child(family: Family) -> Family:
    """The family with its adult in place of its child."""
    return Family(account=family.account, child=family.adult)


async def test_a_strict_account_undoes_grants_only_with_its_pin(
    running: Running, connection: Connection, family: Family
) -> None:
    grant_id = await granted(running, family, minutes=15)
    token = await pin_token(running, family)
    await connection.execute(
        "insert into viewing_strict_accounts values ($1, $2)", family.account, NOON
    )
    refused = (403, {"detail": "Valid PIN token required"})
    assert answered(await undo(running, family, grant_id)) == refused
    assert answered(await undo(running, family, uuid4())) == refused
    assert answered(await undo(running, family, grant_id, **{"X-PIN-Token": "x"})) == refused
    assert await connection.fetchval("select undone_at from time_grants") is None
    headers = {**family.bearer, "Content-Type": "application/json"}
    answer = await running.client.request(
        "DELETE",
        f"{url(family.child)}/{grant_id}",
        headers=headers,
        content=msgspec.json.encode({"pin_token": token}),
    )
    assert answer.status_code == 200
    assert (await undo(running, family, grant_id, **{"X-PIN-Token": token})).text == answer.text


async def test_a_token_of_a_changed_pin_undoes_nothing(
    running: Running, connection: Connection, family: Family
) -> None:
    grant_id = await granted(running, family, minutes=15)
    token = await pin_token(running, family)
    await connection.execute("update users set pin_hash = 'another'")
    refused = (403, {"detail": "Valid PIN token required"})
    assert answered(await undo(running, family, grant_id, **{"X-PIN-Token": token})) == refused
    assert await connection.fetchval("select undone_at from time_grants") is None


async def test_a_grant_can_be_undone_after_its_balance_was_erased(
    running: Running, connection: Connection, family: Family
) -> None:
    grant_id = await granted(running, family, minutes=15)
    await connection.execute("delete from viewing_time_balances")
    assert (await undo(running, family, grant_id)).status_code == 200
    assert await balance(connection) is None


async def test_days_without_grants_are_an_empty_list(running: Running, family: Family) -> None:
    assert (await listed(running, family))["grants"] == []
    assert date.fromisoformat((await listed(running, family))["from"]) == date(2027, 2, 2)


async def test_two_processes_agree_on_every_effect(
    database: str, connection: Connection, family: Family
) -> None:
    await connection.execute(
        "update viewing_time_configs set weekday_limit_minutes = null, weekend_limit_minutes = null"
    )
    await use(connection, family, 3000)
    await keep_today(connection, family.child)
    grant_url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time/grant"
    async with (
        served(database) as one,
        served(database) as two,
        httpx.AsyncClient(base_url=one.url, headers=family.bearer, timeout=60) as first,
        httpx.AsyncClient(base_url=two.url, headers=family.bearer, timeout=60) as second,
    ):
        clients = (first, second)
        sessions = []
        for client in clients:
            started = await client.post(HEARTBEAT, json=family.beat())
            sessions.append(started.json()["session_id"])

        async def watch(number: int) -> None:
            body = family.beat(session_id=sessions[number % 2])
            answer = await clients[number // 2 % 2].post(HEARTBEAT, json=body)
            assert answer.json()["enforcement"] == "allowed"

        async def grant_and_undo(number: int) -> None:
            body = {"minutes": 15, "mode": ("credit", "extend")[number % 3 == 0]}
            made = await clients[number % 2].post(grant_url, json=body)
            place = made.headers["location"]
            if number % 2:
                undone = [clients[n].delete(place) for n in (0, 1, 0)]
                answers = await asyncio.gather(*undone)
                assert {answer.text for answer in answers} == {answers[0].text}

        await asyncio.gather(
            *(watch(number) for number in range(160)),
            *(grant_and_undo(number) for number in range(60)),
        )
        rows = (await first.get(url(family.child))).json()["grants"]
    standing = [row for row in rows if row["undone_at"] is None]
    assert (len(rows), len(standing)) == (60, 30)
    credited = sum(60 * row["effect_minutes"] for row in standing if row["mode"] == "credit")
    assert credited > 0
    extended = sum(row["effect_minutes"] for row in standing if row["mode"] == "extend")
    watched = 3000 + 162 * 30
    assert await balance(connection) == (watched - round(credited), extended, False)
