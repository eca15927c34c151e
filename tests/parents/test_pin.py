"""The PIN: attempts are counted before a hash is checked, on every path, on every instance."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.credentials.pin_turns import MAX_WAITING
from service.database.driver import Connection
from service.parents.pin_attempt import ATTEMPTS, FLOOR_SECONDS
from tests.conftest import Running, Starter
from tests.family import PASSWORD, PIN, Family, add_family

PARENTAL = "/api/v1/parental-controls"
LOCKED = {"detail": "PIN locked due to too many failed attempts"}


async def post(running: Running, family: Family, path: str, body: dict[str, Any]) -> httpx.Response:
    return await running.client.post(PARENTAL + path, json=body, headers=family.bearer)


async def verify(running: Running, family: Family, pin: str) -> httpx.Response:
    return await post(running, family, "/pin/verify", {"pin": pin})


async def failures(connection: Connection, account: UUID) -> int:
    count: int = await connection.fetchval(
        "select pin_failed_attempts from users where id = $1", account
    )
    return count


async def test_two_hundred_parallel_guesses_get_five_hashes(
    running: Running, connection: Connection, family: Family
) -> None:
    guesses = [f"{n:04}" for n in range(2000, 2200)]
    before = running.context.pins.hashed
    answers = await asyncio.gather(*(verify(running, family, guess) for guess in guesses))
    wrong = [a for a in answers if a.json() == {"detail": "Incorrect PIN"}]
    many = [a for a in answers if a.status_code == 429]
    assert (len(wrong), len(many)) == (ATTEMPTS, 199 - MAX_WAITING)
    assert {a.headers["retry-after"] for a in many} == {"1"}
    assert (await verify(running, family, PIN)).json() == LOCKED
    assert running.context.pins.hashed - before == ATTEMPTS
    assert await failures(connection, family.account) == ATTEMPTS
    assert len(running.context.pin_turns) == 0


async def test_a_full_queue_rejects_before_an_attempt_is_counted(
    running: Running, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [await add_family(connection) for _ in range(20)]
    monkeypatch.setattr(running.context.pins, "_longest_wait", 0.0)
    answers = await asyncio.gather(*(verify(running, other, "0000") for other in others))
    refused = [a for a in answers if a.status_code == 503]
    assert refused
    assert {int(a.headers["retry-after"]) >= 1 for a in refused} == {True}
    counted = await connection.fetchval("select sum(pin_failed_attempts)::int from users")
    assert counted == len(answers) - len(refused)


async def test_two_instances_share_the_count(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(), await start()]
    answers = await asyncio.gather(
        *(verify(instances[n % 2], family, f"{3000 + n}") for n in range(20))
    )
    assert sum(a.json() == {"detail": "Incorrect PIN"} for a in answers) == ATTEMPTS
    assert sum(i.context.pins.hashed for i in instances) <= ATTEMPTS + 2


@pytest.mark.parametrize("path", ["change", "grant"])
async def test_guesses_on_other_paths_count_too(
    running: Running, connection: Connection, family: Family, path: str
) -> None:
    calls: dict[str, tuple[str, dict[str, Any], int, str]] = {
        "change": (
            "/pin",
            {"new_pin": "7777", "current_pin": "0000"},
            400,
            "Current PIN is incorrect",
        ),
        "grant": (
            f"/profiles/{family.child}/viewing-time/grant",
            {"minutes": 15, "pin": "0000"},
            403,
            "Incorrect PIN",
        ),
    }
    where, body, status, detail = calls[path]
    for _ in range(ATTEMPTS):
        answer = await post(running, family, where, body)
        assert (answer.status_code, answer.json()) == (status, {"detail": detail})
    for answer in (
        await post(running, family, where, body),
        await verify(running, family, PIN),
    ):
        assert (answer.status_code, answer.json()) == (403, LOCKED)
        assert answer.headers["x-locked-until"].endswith("+00:00")


async def test_a_grant_of_another_account_counts_no_attempt(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    where = f"/profiles/{family.child}/viewing-time/grant"
    answer = await post(running, stranger, where, {"minutes": 15, "pin": "0000"})
    assert answer.status_code == 403
    assert answer.json() == {"detail": "Profile not found or access denied"}
    assert await failures(connection, family.account) == 0
    assert await failures(connection, stranger.account) == 0


async def test_after_a_lock_one_more_wrong_pin_locks_again(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("update users set pin_failed_attempts = 4")
    assert (await verify(running, family, "0000")).status_code == 403
    locked = await verify(running, family, PIN)
    assert locked.json() == LOCKED
    until = await lock(connection, family)
    assert locked.headers["x-locked-until"] == until.isoformat()
    await expire_locks(connection)
    assert (await verify(running, family, "0000")).json() == {"detail": "Incorrect PIN"}
    assert (await verify(running, family, PIN)).json() == LOCKED
    await expire_locks(connection)
    assert (await verify(running, family, PIN)).status_code == 200
    assert await failures(connection, family.account) == 0
    assert (await verify(running, family, "0000")).json() == {"detail": "Incorrect PIN"}
    assert (await verify(running, family, PIN)).status_code == 200


async def lock(connection: Connection, family: Family) -> Any:
    """The stored end of the account's lock."""
    return await connection.fetchval(
        "select pin_lockout_until from users where id = $1", family.account
    )


async def expire_locks(connection: Connection) -> None:
    """Moves the end of every lock to this moment."""
    await connection.execute("update users set pin_lockout_until = now()")


@pytest.mark.parametrize("days", [-400, 400])
async def test_a_lock_uses_the_clock_of_the_database(
    running: Running, connection: Connection, family: Family, days: int
) -> None:
    running.clock.fixed = datetime.now(UTC) + timedelta(days=days)
    for _ in range(ATTEMPTS):
        assert (await verify(running, family, "0000")).json() == {"detail": "Incorrect PIN"}
    assert (await verify(running, family, PIN)).json() == LOCKED
    assert await connection.fetchval(
        "select pin_lockout_until - now() between '29 minutes' and '30 minutes' from users"
    )
    await expire_locks(connection)
    assert (await verify(running, family, PIN)).status_code == 200


@pytest.mark.parametrize("stored", ["now() + interval '10 years'", "'infinity'"])
@pytest.mark.parametrize("reader", ["attempt", "status"])
async def test_no_lock_ends_later_than_one_that_begins_now(
    running: Running, connection: Connection, family: Family, stored: str, reader: str
) -> None:
    await connection.execute(f"update users set pin_lockout_until = {stored}")
    shown = set()
    for _ in range(2):
        if reader == "attempt":
            locked = await verify(running, family, PIN)
            assert locked.json() == LOCKED
            shown.add(locked.headers["x-locked-until"])
        else:
            status = await running.client.get(f"{PARENTAL}/pin/status", headers=family.bearer)
            shown.add(status.json()["locked_until"].replace("Z", "+00:00"))
    until = await lock(connection, family)
    assert shown == {until.isoformat()}
    assert timedelta(minutes=29) < until - datetime.now(UTC) < timedelta(minutes=31)


async def test_the_status_shows_the_latest_lock(
    running: Running, connection: Connection, family: Family
) -> None:
    noon = datetime.now(UTC).replace(microsecond=0)
    for until in (noon + timedelta(minutes=10), noon - timedelta(minutes=10), None):
        await connection.execute("update users set pin_lockout_until = $1", until)
        answer = await running.client.get(f"{PARENTAL}/pin/status", headers=family.bearer)
        shown = until and until.isoformat().replace("+00:00", "Z")
        assert answer.json() == {"has_pin": True, "locked_until": shown}


async def test_a_lock_is_reported_before_a_missing_pin(
    running: Running, connection: Connection, family: Family
) -> None:
    until = datetime.now(UTC) + timedelta(minutes=10)
    await connection.execute("update users set pin_hash = null, pin_lockout_until = $1", until)
    locked = await verify(running, family, PIN)
    assert (locked.status_code, locked.json()) == (403, LOCKED)
    assert locked.headers["x-locked-until"] == until.isoformat()
    await expire_locks(connection)
    assert (await verify(running, family, PIN)).json() == {"detail": "No PIN set"}


async def test_no_response_is_sent_before_200_ms(
    running: Running, connection: Connection, family: Family
) -> None:
    without = await add_family(connection)
    await connection.execute("update users set pin_hash = null where id = $1", without.account)
    broken = await add_family(connection)
    await connection.execute("update users set pin_hash = 'x' where id = $1", broken.account)
    locked = await add_family(connection)
    await connection.execute(
        "update users set pin_lockout_until = now() + interval '1 hour' where id = $1",
        locked.account,
    )
    loop = asyncio.get_running_loop()
    for account, pin, status in (
        (family, PIN, 200),
        (family, "0000", 403),
        (without, PIN, 400),
        (broken, PIN, 403),
        (locked, PIN, 403),
    ):
        started_at = loop.time()
        assert (await verify(running, account, pin)).status_code == status
        assert loop.time() - started_at >= FLOOR_SECONDS


async def test_first_pin_set_concurrently_is_set_once(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("update users set pin_hash = null")
    answers = await asyncio.gather(
        *(post(running, family, "/pin", {"new_pin": pin}) for pin in ("1111", "2222"))
    )
    assert sorted(a.status_code for a in answers) == [200, 400]


async def test_a_correct_change_clears_failures_and_lock(
    running: Running, connection: Connection, family: Family
) -> None:
    for _ in range(4):
        await verify(running, family, "0000")
    body = {"new_pin": "8888", "current_pin": PIN}
    assert (await post(running, family, "/pin", body)).status_code == 200
    assert await failures(connection, family.account) == 0
    assert (await verify(running, family, "8888")).status_code == 200


@pytest.mark.parametrize("password", ["wrong", "x" * 73, PASSWORD + "x" * 100, "é" * 37])
async def test_a_wrong_or_long_password_resets_nothing(
    running: Running, connection: Connection, family: Family, password: str
) -> None:
    answer = await post(running, family, "/pin/reset", {"password": password, "new_pin": "4321"})
    assert (answer.status_code, answer.json()) == (401, {"detail": "Incorrect account password"})
    assert (await verify(running, family, PIN)).status_code == 200


async def test_reset_lifts_a_lock(running: Running, connection: Connection, family: Family) -> None:
    for _ in range(ATTEMPTS):
        await verify(running, family, "0000")
    status = await running.client.get(f"{PARENTAL}/pin/status", headers=family.bearer)
    assert status.json()["locked_until"].endswith("Z")
    body = {"password": PASSWORD, "new_pin": "4321"}
    assert (await post(running, family, "/pin/reset", body)).status_code == 200
    assert (await verify(running, family, "4321")).status_code == 200
    status = await running.client.get(f"{PARENTAL}/pin/status", headers=family.bearer)
    assert status.json() == {"has_pin": True, "locked_until": None}


@pytest.mark.parametrize("pin", ["12345", "abcd", " 1234", "١٢٣٤", "12\n4", "123", "１２３４"])
async def test_a_malformed_pin_is_not_an_attempt(
    running: Running, connection: Connection, family: Family, pin: str
) -> None:
    assert (await verify(running, family, pin)).status_code == 422
    assert await failures(connection, family.account) == 0


async def test_pin_tokens_and_access_tokens_are_not_interchangeable(
    running: Running, connection: Connection, family: Family
) -> None:
    token = (await verify(running, family, PIN)).json()["pin_token"]
    answer = await running.client.get(
        f"{PARENTAL}/pin/status", headers={"Authorization": f"Bearer {token}"}
    )
    assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid or expired token"})
    access = family.bearer["Authorization"].removeprefix("Bearer ")
    where = f"/profiles/{family.child}/viewing-time/grant"
    answer = await post(running, family, where, {"minutes": 15, "pin_token": access})
    assert (answer.status_code, answer.json()) == (403, {"detail": "Invalid or expired PIN token"})
