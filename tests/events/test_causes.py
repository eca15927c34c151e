"""Every change that parents and operators cause has one event, and nothing else has one."""

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import httpx
import pytest

from service.credentials.pin_hasher import Turn
from service.database.driver import Connection
from service.errors import Overloaded
from service.events.expiry import expire
from service.parents import pin_attempt
from service.parents.pin import FREE_FAILURES
from service.parents.pin_attempt import ATTEMPTS
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import PASSWORD, PIN, Family, add_family
from tests.parents.policy_changing import NOON, PROFILE, call, prepare
from tests.parents.policy_changing import Change as PolicyChange
from tests.parents.test_pin_attempt import Broken, reset, verify
from tests.players.test_displaced import displace
from tests.players.test_heartbeat import beat
from tests.players.test_requests import asked, decide
from tests.test_docs import EXAMPLES

WRONG: Final = "9876"
CHILD: Final = "Ada"
SHORTER: Final = {"schedule.changed": set[str]()}  # without a day
ID_OR_TIME: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[\d-]+T[\d:.]+")
LOCKED_AT: Final = "2026-12-24T18:00:00.000000Z"
LOCK: Final = (
    "insert into viewing_locks (profile_id, locked_until, locked_at) values "
    f"($1, timestamptz '{LOCKED_AT}', now())"
)
EXCEPTION: Final = (
    "insert into viewing_exceptions (profile_id, day, changes_limit, limit_minutes, "
    "lifts_downtime, updated_at) values ($1, '2026-12-24', true, 60, false, now())"
)
SCHEDULE: Final = (
    "insert into viewing_schedules (profile_id, daily_limits, downtime, weekly_limit_minutes, "
    "week_starts_on, rollover_max_minutes, finish_minutes, updated_at) values "
    """($1, '{"mon": 30}', '[]', 600, 'mon', 0, 5, now())"""
)
GRANT_ID: Final = UUID("0190a000-0000-7000-8000-000000000001")
GRANT: Final = (
    "with b as (insert into viewing_time_balances (id, profile_id, reset_date, used_seconds) "
    "values (gen_random_uuid(), $1, '2026-11-25', 0) on conflict do nothing) "
    "insert into time_grants (id, profile_id, granted_by_user_id, granted_minutes, is_remote, "
    "reset_date, mode, effect_seconds) select "
    f"'{GRANT_ID}', p.id, p.user_id, 30, true, '2026-11-25', 'credit', 0 "
    "from profiles as p where p.id = $1 on conflict do nothing"
)


class Cause(NamedTuple):
    """A request that causes one event, and none when it is repeated."""

    type: str
    data: Mapping[str, Any]
    change: PolicyChange


def put(path: str, body: Mapping[str, Any], insert: str = "") -> PolicyChange:
    return PolicyChange("PUT", path, body, "", insert)


def delete(path: str, insert: str) -> PolicyChange:
    return PolicyChange("DELETE", path, {}, "", insert)


DAY: Final = {"day": "2026-12-24"}
CAUSES: Final = {
    "limit": Cause("configuration.changed", {}, put("viewing-time", {"weekday_limit_minutes": 60})),
    "time zone": Cause(
        "configuration.changed", {}, put("viewing-time", {"timezone": "Asia/Tokyo"})
    ),
    "schedule": Cause("schedule.changed", {}, put("schedule", {"finish_minutes": 5})),
    "daily limits": Cause(
        "schedule.changed", {}, put("schedule", {"daily_limits": {"mon": 60}}, SCHEDULE)
    ),
    "exception": Cause(
        "schedule.changed", DAY, put("exceptions/2026-12-24", {"lifts_downtime": False})
    ),
    "other exception": Cause(
        "schedule.changed", DAY, put("exceptions/2026-12-24", {"limit_minutes": 75}, EXCEPTION)
    ),
    "no exception": Cause("schedule.changed", DAY, delete("exceptions/2026-12-24", EXCEPTION)),
    "lock": Cause("lock.set", {"locked_until": "2026-11-26T00:00:00.000000Z"}, put("lock", {})),
    "later lock": Cause(
        "lock.set",
        {"locked_until": "2026-12-25T00:00:00.500000Z"},
        put("lock", {"until": "2026-12-25T01:00:00.5+01:00"}, LOCK),
    ),
    "no lock": Cause("lock.cleared", {}, delete("lock", LOCK)),
    "no grant": Cause(
        "grant.undone", {"grant_id": str(GRANT_ID)}, delete(f"grants/{GRANT_ID}", GRANT)
    ),
}
NO_OPS: Final = {
    "no member of a configuration": put("viewing-time", {}),
    "the limit in force": put("viewing-time", {"weekday_limit_minutes": 120}),
    "no member of a schedule": put("schedule", {}),
    "the defaults": put("schedule", {"downtime": [], "weekly_limit_minutes": None}),
    "the schedule in force": put("schedule", {"daily_limits": {"mon": 30}}, SCHEDULE),
    "the exception in force": put("exceptions/2026-12-24", {"limit_minutes": 60}, EXCEPTION),
    "no exception": delete("exceptions/2026-12-24", ""),
    "the lock in force": put("lock", {"until": LOCKED_AT}, LOCK),
    "no lock": delete("lock", ""),
    "a lock that has ended": delete("lock", LOCK.replace("2026-12-24", "2026-11-24")),
    "no grant": delete(f"grants/{GRANT_ID}", ""),
    "a grant that is undone": delete(
        f"grants/{GRANT_ID}",
        GRANT.replace("mode,", "mode, undone_at,").replace("'credit',", "'credit', now(),"),
    ),
    "a grant of another day": delete(f"grants/{GRANT_ID}", GRANT.replace("11-25", "11-24")),
}


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application at noon on a Wednesday."""
    return await start(now=NOON)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    return Broken(monkeypatch)


class Happened(NamedTuple):
    type: str
    account: UUID
    profile: UUID | None
    data: Mapping[str, Any]


async def happened(connection: Connection) -> list[Happened]:
    """The events in the order in which they were written."""
    rows = await connection.fetch(
        "select type, account_id, profile_id, data from viewing_events order by seq"
    )
    return [
        Happened(row["type"], row["account_id"], row["profile_id"], json.loads(row["data"]))
        for row in rows
    ]


async def types(connection: Connection) -> list[str]:
    return [event.type for event in await happened(connection)]


async def send(running: Running, family: Family, change: PolicyChange) -> httpx.Response:
    return await call(running, family, change.method, change.path, change.body)


async def erase(running: Running, family: Family, admin: dict[str, str]) -> httpx.Response:
    url = f"/api/v1/admin/profiles/{family.child}/viewing-data"
    return await running.client.delete(url, headers=admin)


async def lock_pin(running: Running, family: Family) -> None:
    for _ in range(ATTEMPTS):
        assert (await verify(running, family, WRONG)).status_code == 403


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
async def test_a_change_has_one_event_with_its_data_and_none_when_it_is_repeated(
    running: Running, connection: Connection, family: Family, cause: Cause
) -> None:
    assert cause.data.keys() <= EXAMPLES[cause.type].keys()
    await prepare(connection, cause.change, family, await add_family(connection))
    for _ in range(2):
        answer = await send(running, family, cause.change)
        assert answer.is_success, answer.text
        expected = Happened(cause.type, family.account, family.child, cause.data)
        assert await happened(connection) == [expected]
        assert await connection.fetchval("select occurred_at from viewing_events") == NOON


@pytest.mark.parametrize("change", NO_OPS.values(), ids=NO_OPS)
async def test_a_request_that_changes_nothing_has_no_event(
    running: Running, connection: Connection, family: Family, change: PolicyChange
) -> None:
    await prepare(connection, change, family)
    answer = await send(running, family, change)
    assert answer.is_success or answer.status_code in (404, 422), answer.text
    assert await types(connection) == []


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
async def test_a_request_that_is_refused_has_no_event(
    running: Running, connection: Connection, family: Family, cause: Cause
) -> None:
    """The caller is a stranger, lacks the proof of a strict account, or is inactive."""
    await prepare(connection, cause.change, family)
    url, stranger = f"{PROFILE}/{family.child}/{cause.change.path}", await add_family(connection)
    method, body = cause.change.method, cause.change.body
    answer = await running.client.request(method, url, headers=stranger.bearer, json=body)
    assert answer.status_code == 403
    insert = "insert into viewing_strict_accounts (account_id, since) values ($1, now())"
    await connection.execute(insert, family.account)
    assert (await send(running, family, cause.change)).status_code in (401, 403, 422)
    await connection.execute("update users set is_active = false")
    assert (await send(running, family, cause.change)).status_code == 401
    assert await types(connection) == []


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
async def test_neither_a_change_nor_its_event_is_stored_without_the_other(
    running: Running, connection: Connection, family: Family, cause: Cause
) -> None:
    await prepare(connection, cause.change, family)
    await connection.execute(
        "alter table viewing_events add constraint ck_test check (position > 0 and type = '')"
    )
    await connection.execute("alter table viewing_events alter column position set default 0")
    assert (await send(running, family, cause.change)).status_code >= 500
    await connection.execute("alter table viewing_events drop constraint ck_test")
    assert (await send(running, family, cause.change)).is_success
    assert await types(connection) == [cause.type]


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
async def test_a_change_that_is_rolled_back_has_no_event(
    running: Running, connection: Connection, family: Family, cause: Cause
) -> None:
    """The commit fails, after the statement has written both."""
    await prepare(connection, cause.change, family)
    await connection.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin raise exception using errcode = '55000'; end $$"
    )
    await connection.execute(
        "create constraint trigger at_commit after insert on viewing_events "
        "deferrable initially deferred for each row execute function refuse()"
    )
    assert (await send(running, family, cause.change)).status_code >= 500
    assert await types(connection) == []


@pytest.mark.parametrize("name", ["other exception", "later lock", "no lock", "no grant", "limit"])
async def test_equal_changes_at_once_on_two_instances_have_one_event(
    start: Starter, connection: Connection, family: Family, name: str
) -> None:
    instances, cause = [await start(now=NOON) for _ in range(2)], CAUSES[name]
    await prepare(connection, cause.change, family)
    answers = await asyncio.gather(
        *(send(running, family, cause.change) for running in instances * 4)
    )
    assert all(answer.is_success for answer in answers)
    assert await types(connection) == [cause.type]


async def test_different_changes_at_once_have_one_event_each(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(now=NOON) for _ in range(2)]
    ends = [f"2026-11-26T0{hour}:00:00.000000Z" for hour in range(8)]
    changes = [
        *(put("lock", {"until": end}) for end in ends),
        *(put(f"exceptions/2026-12-0{day}", {"limit_minutes": 60}) for day in range(1, 9)),
    ]
    answers = await asyncio.gather(
        *(send(instances[n % 2], family, change) for n, change in enumerate(changes))
    )
    assert {answer.status_code for answer in answers} == {200}
    events = await happened(connection)
    locks = [event.data["locked_until"] for event in events if event.type == "lock.set"]
    assert sorted(locks) == ends
    assert sum(event.type == "schedule.changed" for event in events) == 8
    stored = await connection.fetchval("select locked_until from viewing_locks")
    assert datetime.fromisoformat(locks[-1]) == stored


async def test_erasure_has_one_event_and_deletes_the_other_ones(
    running: Running, connection: Connection, family: Family, admin: dict[str, str]
) -> None:
    assert (await send(running, family, CAUSES["lock"].change)).is_success
    assert (await erase(running, family, family.bearer)).status_code == 403
    assert await types(connection) == ["lock.set"]
    for _ in range(2):
        assert (await erase(running, family, admin)).is_success
        erased = Happened("viewing_data.erased", family.account, family.child, {})
        assert await happened(connection) == [erased]


@pytest.mark.parametrize(
    "path", ["profiles/{0.child}/viewing-data", "profiles/{0.child}", "accounts/{0.account}"]
)
async def test_deletion_waits_for_the_end_of_a_delivery(
    running: Running, connection: Connection, family: Family, admin: dict[str, str], path: str
) -> None:
    """Both lock the events in the same order, so neither is ended as a deadlock."""
    await connection.execute(
        "insert into viewing_events "
        "(position, account_id, profile_id, type, occurred_at, data, cause) "
        "select n, $1, $2, 'viewing.warning', now(), '{}', 'before ' || 3 - n "
        "from generate_series(2, 1, -1) as n",
        family.account,
        family.child,
    )
    deliver = "update viewing_events set delivered_at = now() where position = $1"
    async with connection.transaction():
        await connection.execute(deliver, 1)
        url = f"/api/v1/admin/{path.format(family)}"
        deletion = asyncio.create_task(running.client.delete(url, headers=admin))
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        await eventually(lambda: connection.fetchval(waits))
        await connection.execute(deliver, 2)
    assert (await deletion).is_success
    assert "viewing.warning" not in await types(connection)


async def test_erasures_at_once_have_one_event_and_a_later_one_keeps_it(
    start: Starter, connection: Connection, family: Family, admin: dict[str, str]
) -> None:
    instances = [await start(now=NOON) for _ in range(2)]
    answers = await asyncio.gather(*(erase(each, family, admin) for each in instances * 3))
    assert all(answer.is_success for answer in answers)
    assert await types(connection) == ["viewing_data.erased"]
    assert (await send(instances[0], family, CAUSES["lock"].change)).is_success
    assert (await erase(instances[1], family, admin)).is_success
    assert await types(connection) == ["viewing_data.erased"] * 2


async def test_the_wrong_pin_that_locks_has_one_event_with_the_end_of_the_lock(
    running: Running, connection: Connection, family: Family
) -> None:
    for _ in range(ATTEMPTS - 1):
        assert (await verify(running, family, WRONG)).status_code == 403
    assert await types(connection) == []
    for _ in range(3):
        assert (await verify(running, family, WRONG)).status_code == 403
        [event] = await happened(connection)
        assert event[:3] == ("pin.locked", family.account, None)
        assert event.data.keys() == EXAMPLES["pin.locked"].keys()
        until = await connection.fetchval("select pin_lockout_until from users")
        assert datetime.fromisoformat(event.data["locked_until"]) == until
    await connection.execute("update users set pin_lockout_until = now()")
    assert (await verify(running, family, WRONG)).status_code == 403
    assert await types(connection) == ["pin.locked"] * 2


async def test_a_wrong_pin_that_is_repeated_with_its_key_has_one_event(
    running: Running, connection: Connection, family: Family
) -> None:
    for _ in range(ATTEMPTS - 1):
        assert (await verify(running, family, WRONG)).status_code == 403
    headers = {**family.bearer, "Idempotency-Key": "one-request"}
    url, body = "/api/v1/parental-controls/pin/verify", {"pin": WRONG}
    for _ in range(3):
        answer = await running.client.post(url, json=body, headers=headers)
        assert answer.status_code == 403
        assert await types(connection) == ["pin.locked"]


async def test_the_right_pin_at_the_last_attempt_has_no_event(
    running: Running, connection: Connection, family: Family
) -> None:
    for _ in range(ATTEMPTS - 1):
        assert (await verify(running, family, WRONG)).status_code == 403
    assert (await verify(running, family)).status_code == 200
    assert await types(connection) == []


async def test_an_attempt_that_is_given_back_has_no_event(
    running: Running, connection: Connection, family: Family, broken: Broken
) -> None:
    for _ in range(ATTEMPTS - 1):
        assert (await verify(running, family, WRONG)).status_code == 403
    broken.hashes(Overloaded(1))
    assert (await verify(running, family, WRONG)).status_code == 503
    broken.repair()
    broken.statement(pin_attempt.JUDGE)
    assert (await verify(running, family, WRONG)).status_code == 503
    broken.repair()
    assert await types(connection) == []
    assert (await verify(running, family, WRONG)).status_code == 403
    assert await types(connection) == ["pin.locked"]


async def test_a_lock_that_is_lifted_before_its_attempt_is_judged_has_no_event(
    running: Running, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier attempt has lost its request, and is given back while the last one is checked."""
    await connection.execute("update users set pin_failed_attempts = $1", ATTEMPTS - 1)
    check = Turn.verify

    async def slowly(turn: Turn, secret: str, hashed: str | None) -> bool:
        await connection.execute(
            "insert into viewing_time_attempts (id, account_id, is_password, begun_at) "
            "values (gen_random_uuid(), $1, false, now() - interval '1 hour')",
            family.account,
        )
        await pin_attempt.settle_pin(running.context, family.account, None)
        return await check(turn, secret, hashed)

    monkeypatch.setattr(Turn, "verify", slowly)
    assert (await verify(running, family, WRONG)).status_code == 403
    assert await types(connection) == []


async def test_wrong_passwords_have_no_event(
    running: Running, connection: Connection, family: Family
) -> None:
    for _ in range(FREE_FAILURES + 2):
        await reset(running, family, "wrong horse")
    assert (await reset(running, family, "wrong horse")).status_code == 429
    assert await types(connection) == []


async def test_wrong_pins_at_once_on_two_instances_have_one_event(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(now=NOON) for _ in range(2)]
    for _ in range(3):
        await asyncio.gather(*(verify(each, family, WRONG) for each in instances * 2))
    assert (await verify(instances[0], family, WRONG)).status_code == 403
    assert await types(connection) == ["pin.locked"]


async def cause_all(running: Running, connection: Connection, family: Family) -> None:
    """Causes an event of every type except the erasure; a child's message has a name."""
    await displace(running, family)
    for minutes in (110, 118, 120):
        await connection.execute("update viewing_time_balances set used_seconds = $1", 60 * minutes)
        await beat(running, family, device_id="tablet")
    for decision in ("approve", "deny", ""):
        request_id = await asked(running, family, minutes=30, message=f"Please! {CHILD}")
        if decision:
            assert (await decide(running, family, request_id, decision)).is_success
    assert await expire(running.context.pool, NOON + timedelta(days=1)) == 1
    for cause in CAUSES.values():
        for table in ("viewing_exceptions", "viewing_locks", "viewing_schedules"):
            await connection.execute(f"delete from {table}")
        await prepare(connection, cause.change, family)
        assert (await send(running, family, cause.change)).is_success
    await lock_pin(running, family)


async def test_no_event_contains_a_name_a_title_a_pin_or_a_message(
    running: Running, connection: Connection, family: Family, admin: dict[str, str]
) -> None:
    """Ids and times are left out of the search, because they can contain the digits of a PIN."""
    secrets = await connection.fetchrow(
        "select email, password_hash, pin_hash from users where id = $1", family.account
    )
    assert secrets is not None
    hidden = (*secrets, CHILD, "Please", "Grown up", "Cartoon", "Planets", "tablet")
    stored = "select type, data, to_jsonb(v)::text as row from viewing_events as v"
    await cause_all(running, connection, family)
    rows = await connection.fetch(stored)
    assert (await erase(running, family, admin)).is_success
    rows += await connection.fetch(stored)
    assert {row["type"] for row in rows} == {*EXAMPLES}
    for row in rows:
        text = ID_OR_TIME.sub("", row["row"])
        assert [word for word in (*hidden, PIN, WRONG, PASSWORD) if word in text] == []
        example = EXAMPLES[row["type"]]
        assert json.loads(row["data"]).keys() in (example.keys(), SHORTER.get(row["type"]))
