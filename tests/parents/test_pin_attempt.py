"""An unfinished attempt is given back; an attempt with a verdict is not."""

import asyncio
import json
import socket
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest

from service.app import PIN_SECONDS
from service.credentials.pin_hasher import Turn
from service.database.driver import Connection
from service.database_errors import NoAnswer
from service.errors import Overloaded
from service.parents import pin, pin_attempt
from service.parents.pin_attempt import ATTEMPTS, UNFINISHED
from service.settings import Settings
from tests.conftest import Running, RunningService, Starter
from tests.database.test_pool import PGBOUNCER, pooler
from tests.eventually import eventually
from tests.family import PASSWORD, PIN, Family, add_family

PARENTAL = "/api/v1/parental-controls"
LOCKED = {"detail": "PIN locked due to too many failed attempts"}
WRONG = {"detail": "Incorrect PIN"}
WRONG_PASSWORD = {"detail": "Incorrect account password"}
TOO_EARLY = {"detail": "Too many wrong account passwords, try again later"}


async def post(running: Running, family: Family, path: str, body: dict[str, Any]) -> httpx.Response:
    return await running.client.post(PARENTAL + path, json=body, headers=family.bearer)


async def verify(running: Running, family: Family, entered: str = PIN) -> httpx.Response:
    return await post(running, family, "/pin/verify", {"pin": entered})


async def reset(running: Running, family: Family, password: str = PASSWORD) -> httpx.Response:
    return await post(running, family, "/pin/reset", {"password": password, "new_pin": "4321"})


async def state(connection: Connection, family: Family) -> tuple[int, bool, int]:
    """Failures, whether a lock is in force, attempts without a verdict."""
    row = await connection.fetchrow(
        "select pin_failed_attempts, coalesce(pin_lockout_until > now(), false), "
        "(select count(*)::int from viewing_time_attempts where account_id = u.id) "
        "from users as u where id = $1",
        family.account,
    )
    assert row is not None
    return row[0], row[1], row[2]


async def expire_attempts(connection: Connection) -> None:
    """Makes every unfinished attempt old enough to be given back."""
    await connection.execute(
        "update viewing_time_attempts set begun_at = begun_at - $1::interval",
        UNFINISHED + timedelta(seconds=1),
    )


async def state_becomes(
    connection: Connection, family: Family, expected: tuple[int, bool, int]
) -> None:
    async def is_expected() -> bool:
        return await state(connection, family) == expected

    await eventually(is_expected)


class Broken:
    """Makes the steps of an attempt fail until `repair` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def hashes(self, error: BaseException) -> None:
        async def fail(*_: object) -> bool:
            raise error

        self._monkeypatch.setattr(Turn, "verify", fail)

    def statement(self, *statements: Any) -> None:
        async def fail(*_: object) -> None:
            raise NoAnswer("connection was closed")

        for statement in statements:
            self._monkeypatch.setattr(statement, "maybe", fail)

    def giving_back(self) -> None:
        """Makes giving back fail; settling before an attempt still works."""
        settled = pin_attempt.SETTLE.maybe

        async def fail(source: Any, account_id: UUID, attempt_id: UUID | None, *rest: Any) -> Any:
            if attempt_id is None:
                return await settled(source, account_id, attempt_id, *rest)
            raise NoAnswer("connection was closed")

        self._monkeypatch.setattr(pin_attempt.SETTLE, "maybe", fail)

    def repair(self) -> None:
        self._monkeypatch.undo()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    return Broken(monkeypatch)


@pytest.mark.parametrize(
    "error",
    [
        Overloaded(1),
        TimeoutError(),
        RuntimeError("a bug"),
        NoAnswer("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("path", ["verify", "change", "grant"])
async def test_five_correct_pins_that_could_not_be_checked_do_not_lock(
    running: Running,
    connection: Connection,
    family: Family,
    broken: Broken,
    error: Exception,
    path: str,
) -> None:
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "verify": ("/pin/verify", {"pin": PIN}),
        "change": ("/pin", {"new_pin": "7777", "current_pin": PIN}),
        "grant": (f"/profiles/{family.child}/viewing-time/grant", {"minutes": 15, "pin": PIN}),
    }
    where, body = calls[path]
    broken.hashes(error)
    for _ in range(ATTEMPTS + 1):
        assert (await post(running, family, where, body)).status_code >= 500
    assert await state(connection, family) == (0, False, 0)
    broken.repair()
    assert (await post(running, family, where, body)).status_code == 200


async def test_a_cancelled_request_gives_its_attempt_back(
    running: Running, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = asyncio.Event()

    async def never(*_: object) -> bool:
        started.set()
        await asyncio.sleep(3600)
        return True

    monkeypatch.setattr(Turn, "verify", never)
    request = asyncio.create_task(verify(running, family))
    await started.wait()
    assert await state(connection, family) == (1, False, 1)
    request.cancel()
    await state_becomes(connection, family, (0, False, 0))


async def test_a_correct_pin_that_could_not_be_cleared_does_not_count(
    running: Running, connection: Connection, family: Family, broken: Broken
) -> None:
    broken.statement(pin_attempt.CLEAR)
    for _ in range(ATTEMPTS + 1):
        assert (await verify(running, family)).status_code == 503
    assert await state(connection, family) == (0, False, 0)


async def test_attempts_kept_by_an_outage_are_given_back_later_by_any_instance(
    start: Starter, connection: Connection, family: Family, broken: Broken
) -> None:
    first, other = await start(), await start()
    broken.statement(pin_attempt.CLEAR, pin_attempt.JUDGE)
    broken.giving_back()
    for _ in range(ATTEMPTS):
        assert (await verify(first, family)).status_code == 503
    broken.repair()
    assert await state(connection, family) == (5, True, 5)
    assert (await verify(other, family)).json() == LOCKED
    await expire_attempts(connection)
    status = await other.client.get(f"{PARENTAL}/pin/status", headers=family.bearer)
    assert status.json() == {"has_pin": True, "locked_until": None}
    assert await state(connection, family) == (0, False, 0)
    assert (await verify(other, family)).status_code == 200


async def test_connections_lost_during_hashes_cost_no_attempt(
    running: Running, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Turn.verify

    async def during(turn: Turn, secret: str, hashed: str | None) -> bool:
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        return await check(turn, secret, hashed)

    monkeypatch.setattr(Turn, "verify", during)
    answers = [(await verify(running, family)).status_code for _ in range(2 * ATTEMPTS)]
    assert set(answers) <= {200, 503}
    monkeypatch.undo()
    await expire_attempts(connection)
    async with asyncio.timeout(60):
        while (await verify(running, family)).status_code != 200:
            await expire_attempts(connection)
    assert await state(connection, family) == (0, False, 0)


@pytest.mark.impatient
async def test_a_row_locked_by_another_application_costs_no_attempt(
    running: Running, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connection.transaction():
        await connection.execute("select from users for update")
        assert (await verify(running, family)).status_code == 503
    assert await state(connection, family) == (0, False, 0)
    check, holder = Turn.verify, connection.transaction()

    async def hold(turn: Turn, secret: str, hashed: str | None) -> bool:
        await holder.start()
        await connection.execute("select from users for update")
        return await check(turn, secret, hashed)

    monkeypatch.setattr(Turn, "verify", hold)
    assert (await verify(running, family)).status_code == 503
    monkeypatch.undo()
    await holder.rollback()
    assert await state(connection, family) == (1, False, 1)
    await expire_attempts(connection)
    assert (await verify(running, family, "0000")).json() == WRONG
    assert await state(connection, family) == (1, False, 0)


def test_no_attempt_is_given_back_to_others_while_its_request_lasts() -> None:
    assert UNFINISHED.total_seconds() > PIN_SECONDS


async def test_a_count_that_is_null_on_an_adopted_table_still_locks(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("alter table users alter pin_failed_attempts drop not null")
    await connection.execute("update users set pin_failed_attempts = null")
    for _ in range(ATTEMPTS):
        assert (await verify(running, family, "0000")).json() == WRONG
    assert (await verify(running, family)).json() == LOCKED


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_counting_and_giving_back_work_through_a_pooler(
    start: Starter,
    settings: Settings,
    connection: Connection,
    family: Family,
    broken: Broken,
) -> None:
    async with pooler(settings.database_url) as url:
        pooled = msgspec.structs.replace(
            settings,
            database_url=url,
            database_direct_url=settings.database_url,
            statement_cache_size=0,
        )
        running = await start(pooled)
        for _ in range(2):
            assert (await verify(running, family, "0000")).json() == WRONG
            assert (await reset(running, family, "wrong")).json() == WRONG_PASSWORD
        broken.hashes(Overloaded(1))
        assert (await verify(running, family)).status_code == 503
        assert (await reset(running, family)).status_code == 503
        broken.repair()
        assert await state(connection, family) == (2, False, 0)
        assert (await delay(connection))[0] == 2
        assert (await verify(running, family)).status_code == 200
        assert (await reset(running, family)).status_code == 200
        await running.context.writer.stop()


@pytest.fixture
def quick_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses are not delayed."""
    monkeypatch.setattr(pin_attempt, "FLOOR_SECONDS", 0.0)


@pytest.fixture
async def escalating(start: Starter, settings: Settings, quick_answers: None) -> Running:
    """An instance whose locks grow."""
    return await start(msgspec.structs.replace(settings, pin_lock_escalation=True))


async def set_failures(connection: Connection, failures: int, lock: str = "-1 second") -> None:
    """Stores a count, and a lock that ends in `lock`."""
    await connection.execute(
        "update users set pin_failed_attempts = $1, pin_lockout_until = now() + $2::text::interval",
        failures,
        lock,
    )


async def locked_minutes(connection: Connection) -> int | None:
    """How long the lock still is, rounded to minutes; None without a lock."""
    minutes: int | None = await connection.fetchval(
        "select round(extract(epoch from pin_lockout_until - now()) / 60)::int from users "
        "where pin_lockout_until > now()"
    )
    return minutes


async def test_each_wrong_pin_after_a_lock_doubles_it_up_to_24_hours(
    escalating: Running, connection: Connection, family: Family
) -> None:
    for _ in range(ATTEMPTS - 1):
        assert (await verify(escalating, family, "0000")).json() == WRONG
    for minutes in (30, 60, 120, 240, 480, 960, 1440, 1440):
        assert (await verify(escalating, family, "0000")).json() == WRONG
        assert await locked_minutes(connection) == minutes
        until = await connection.fetchval("select pin_lockout_until from users")
        locked = await verify(escalating, family)
        assert (locked.status_code, locked.json()) == (403, LOCKED)
        assert locked.headers["x-locked-until"] == until.isoformat()
        status = await escalating.client.get(f"{PARENTAL}/pin/status", headers=family.bearer)
        assert status.json()["locked_until"] == until.isoformat().replace("+00:00", "Z")
        await connection.execute("update users set pin_lockout_until = now()")
    assert await state(connection, family) == (12, False, 0)
    await set_failures(connection, 2**31 - 2)
    assert (await verify(escalating, family, "0000")).json() == WRONG
    assert await locked_minutes(connection) == 1440


@pytest.mark.parametrize("path", ["/pin/verify", "/pin", "/pin/reset"])
async def test_a_right_or_new_pin_makes_the_next_lock_a_first_one(
    escalating: Running, connection: Connection, family: Family, path: str
) -> None:
    await set_failures(connection, 9, "1 hour" if path == "/pin/reset" else "-1 second")
    bodies: dict[str, dict[str, Any]] = {
        "/pin/verify": {"pin": PIN},
        "/pin": {"new_pin": "4321", "current_pin": PIN},
        "/pin/reset": {"password": PASSWORD, "new_pin": "4321"},
    }
    assert (await post(escalating, family, path, bodies[path])).status_code == 200
    for _ in range(ATTEMPTS):
        assert (await verify(escalating, family, "0000")).json() == WRONG
    assert await locked_minutes(connection) == 30


async def test_an_attempt_given_back_removes_the_longer_lock_that_it_has_set(
    escalating: Running, connection: Connection, family: Family, broken: Broken
) -> None:
    await set_failures(connection, 6)
    broken.hashes(Overloaded(1))
    assert (await verify(escalating, family)).status_code == 503
    assert await state(connection, family) == (6, False, 0)
    broken.repair()
    assert (await verify(escalating, family, "0000")).json() == WRONG
    assert await locked_minutes(connection) == 120


@pytest.mark.parametrize(
    ("failures", "lock", "lost", "minutes"),
    [
        (7, "110 minutes", 1, 50),
        (7, "110 minutes", 2, 20),
        (7, "100 minutes", 2, 10),
        (7, "80 minutes", 2, None),
        (7, "110 minutes", 3, None),
        (7, "infinity", 1, 60),
        (7, "10 years", 0, 120),
        (5, "40 minutes", 0, 30),
        (20, "23 hours", 3, 1380),
        (4, "10 minutes", 1, 10),
    ],
)
async def test_a_lock_is_as_long_as_the_failures_that_remain_deserve(
    escalating: Running,
    connection: Connection,
    family: Family,
    failures: int,
    lock: str,
    lost: int,
    minutes: int | None,
) -> None:
    await set_failures(connection, failures, "10 years" if lock == "infinity" else lock)
    if lock == "infinity":
        await connection.execute("update users set pin_lockout_until = 'infinity'")
    await connection.execute(
        "insert into viewing_time_attempts (id, account_id, is_password, begun_at) "
        "select gen_random_uuid(), $1, false, now() - interval '1 hour' "
        "from generate_series(1, $2)",
        family.account,
        lost,
    )
    for _ in range(2):
        await escalating.client.get(f"{PARENTAL}/pin/status", headers=family.bearer)
        assert await state(connection, family) == (failures - lost, minutes is not None, 0)
        assert await locked_minutes(connection) == minutes


async def test_parallel_guesses_get_one_hash_after_each_lock(
    start: Starter, settings: Settings, connection: Connection, family: Family, quick_answers: None
) -> None:
    settings = msgspec.structs.replace(settings, pin_lock_escalation=True)
    instances = [await start(settings), await start(settings)]
    await set_failures(connection, ATTEMPTS)
    for minutes in (60, 120, 240):
        guesses = (verify(instances[n % 2], family, f"{3000 + n}") for n in range(12))
        answers = await asyncio.gather(*guesses)
        assert sum(answer.json() == WRONG for answer in answers) == 1
        until = await connection.fetchval("select pin_lockout_until from users")
        shown = [a.headers["x-locked-until"] for a in answers if a.json() == LOCKED]
        assert len(shown) == 11
        for each in shown:
            assert abs(datetime.fromisoformat(each) - until) < timedelta(seconds=20)
        assert await locked_minutes(connection) == minutes
        await connection.execute("update users set pin_lockout_until = now()")
    assert sum(instance.context.pins.hashed for instance in instances) == 3


async def test_locks_do_not_grow_unless_the_setting_is_on(
    running: Running, connection: Connection, family: Family, quick_answers: None
) -> None:
    for failures in (4, 5, 12):
        await set_failures(connection, failures)
        assert (await verify(running, family, "0000")).json() == WRONG
        assert await locked_minutes(connection) == 30


async def test_an_instance_without_the_setting_shortens_a_longer_lock(
    running: Running, escalating: Running, connection: Connection, family: Family
) -> None:
    await set_failures(connection, 8)
    assert (await verify(escalating, family, "0000")).json() == WRONG
    assert await locked_minutes(connection) == 480
    assert (await verify(running, family)).json() == LOCKED
    assert await locked_minutes(connection) == 30
    await connection.execute("update users set pin_lockout_until = now()")
    assert (await verify(escalating, family, "0000")).json() == WRONG
    assert await locked_minutes(connection) == 960


async def test_an_attempt_takes_only_its_own_failure_and_lock_back(
    running: Running, connection: Connection, family: Family, broken: Broken
) -> None:
    for _ in range(ATTEMPTS - 1):
        assert (await verify(running, family, "0000")).json() == WRONG
    broken.hashes(Overloaded(1))
    assert (await verify(running, family)).status_code == 503
    assert await state(connection, family) == (4, False, 0)
    broken.repair()
    assert (await verify(running, family, "0000")).json() == WRONG
    assert await state(connection, family) == (5, True, 0)
    await connection.execute("update users set pin_lockout_until = now()")
    broken.hashes(Overloaded(1))
    assert (await verify(running, family)).status_code == 503
    assert await state(connection, family) == (5, False, 0)
    broken.repair()
    assert (await verify(running, family, "0000")).json() == WRONG
    assert (await verify(running, family)).json() == LOCKED


async def test_the_verdict_of_an_attempt_that_was_given_back_is_not_returned(
    running: Running, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Turn.verify

    async def slowly(turn: Turn, secret: str, hashed: str | None) -> bool:
        await expire_attempts(connection)
        await pin_attempt.settle_pin(running.context, family.account, None)
        return await check(turn, secret, hashed)

    monkeypatch.setattr(Turn, "verify", slowly)
    assert (await verify(running, family, "0000")).status_code == 503
    assert await state(connection, family) == (0, False, 0)


async def test_a_right_pin_leaves_nothing_to_give_back(
    start: Starter, connection: Connection, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise later failures would be taken back."""
    first, other = await start(), await start()
    started, go_on = asyncio.Event(), asyncio.Event()
    check = Turn.verify

    async def wait(turn: Turn, secret: str, hashed: str | None) -> bool:
        if secret == "5555":
            started.set()
            await go_on.wait()
            raise Overloaded(1)
        return await check(turn, secret, hashed)

    monkeypatch.setattr(Turn, "verify", wait)
    unfinished = asyncio.create_task(verify(first, family, "5555"))
    await started.wait()
    assert (await verify(other, family)).status_code == 200
    for _ in range(2):
        assert (await verify(other, family, "0000")).json() == WRONG
    go_on.set()
    assert (await unfinished).status_code == 503
    assert await state(connection, family) == (2, False, 0)


async def test_a_guess_is_counted_although_its_client_disconnects(
    service: RunningService,
) -> None:
    connection = await asyncpg.connect(service.dsn)
    try:
        family = await add_family(connection)
        body = json.dumps({"pin": "0000"}).encode()
        head = "\r\n".join(
            (
                f"POST {PARENTAL}/pin/verify HTTP/1.1",
                "Host: t",
                "Content-Type: application/json",
                f"Authorization: {family.bearer['Authorization']}",
                f"Content-Length: {len(body)}",
                "\r\n",
            )
        )
        address = urlsplit(service.url)
        for guess in range(1, ATTEMPTS + 1):
            with socket.create_connection((address.hostname or "", address.port or 0)) as client:
                client.sendall(head.encode() + body)
            await state_becomes(connection, family, (guess, guess == ATTEMPTS, 0))
    finally:
        await connection.close()


async def delay(connection: Connection) -> tuple[int, float]:
    """Wrong passwords in a row, and the seconds until the next one is checked."""
    row = await connection.fetchrow(
        "select failures, extract(epoch from next_attempt_at - now())::float "
        "from viewing_time_password_failures"
    )
    return (0, 0.0) if row is None else (row[0], max(0.0, row[1]))


async def end_delay(connection: Connection) -> None:
    await connection.execute("update viewing_time_password_failures set next_attempt_at = now()")


async def test_wrong_passwords_are_slowed_down_on_all_instances_and_never_lock_the_pin(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(), await start()]
    for number in range(6):
        assert (await reset(instances[number % 2], family, "wrong")).json() == WRONG_PASSWORD
    failed, seconds = await delay(connection)
    assert failed == 6
    assert seconds <= 1
    await connection.execute(
        "update viewing_time_password_failures set next_attempt_at = now() + interval '90 seconds'"
    )
    hashed = sum(instance.context.pins.hashed for instance in instances)
    for instance in instances:
        for password in ("wrong", PASSWORD):
            early = await reset(instance, family, password)
            assert (early.status_code, early.json()) == (429, TOO_EARLY)
            assert 80 < int(early.headers["retry-after"]) <= 90
    assert sum(instance.context.pins.hashed for instance in instances) == hashed
    assert (await delay(connection))[0] == 6
    assert (await verify(instances[0], family)).status_code == 200
    await end_delay(connection)
    assert (await reset(instances[0], family)).status_code == 200
    assert await delay(connection) == (0, 0.0)
    assert await state(connection, family) == (0, False, 0)


async def test_each_wrong_password_doubles_the_delay_up_to_the_longest(
    running: Running, connection: Connection, family: Family
) -> None:
    assert (await reset(running, family, "wrong")).json() == WRONG_PASSWORD
    for before, longest in ((4, 0), (5, 1), (6, 2), (9, 16), (14, 512), (15, 900), (10_000, 900)):
        await connection.execute("update viewing_time_password_failures set failures = $1", before)
        await end_delay(connection)
        assert (await reset(running, family, "wrong")).json() == WRONG_PASSWORD
        failed, seconds = await delay(connection)
        assert failed == before + 1
        assert longest - 10 < seconds <= longest


async def test_parallel_wrong_passwords_on_two_instances_are_all_counted(
    start: Starter, connection: Connection, family: Family
) -> None:
    instances = [await start(), await start()]
    answers = await asyncio.gather(
        *(reset(instances[number % 2], family, "wrong") for number in range(40))
    )
    wrong = sum(answer.json() == WRONG_PASSWORD for answer in answers)
    assert {answer.status_code for answer in answers} <= {401, 429}
    assert (await delay(connection))[0] == wrong <= 7


async def test_a_delay_set_by_a_wrong_clock_does_not_count(
    running: Running, connection: Connection, family: Family
) -> None:
    assert (await reset(running, family, "wrong")).json() == WRONG_PASSWORD
    await connection.execute(
        "update viewing_time_password_failures set next_attempt_at = now() + interval '1 year'"
    )
    assert (await reset(running, family)).status_code == 200


@pytest.mark.parametrize("breaks", ["hash", "statement"])
async def test_correct_passwords_that_could_not_be_checked_cause_no_delay(
    running: Running, connection: Connection, family: Family, broken: Broken, breaks: str
) -> None:
    if breaks == "hash":
        broken.hashes(RuntimeError("a bug"))
    else:
        broken.statement(pin.RESET)
    for _ in range(10):
        assert (await reset(running, family)).status_code >= 500
    assert await delay(connection) == (0, 0.0)
    broken.repair()
    assert (await reset(running, family)).status_code == 200


async def test_a_password_attempt_that_lost_its_process_is_given_back_by_the_next(
    running: Running, connection: Connection, family: Family, broken: Broken
) -> None:
    assert (await reset(running, family, "wrong")).json() == WRONG_PASSWORD
    await connection.execute("update viewing_time_password_failures set failures = 8")
    await connection.execute(
        "with late as (update viewing_time_password_failures set failures = 9, "
        "next_attempt_at = now() + interval '8 seconds' returning account_id, next_attempt_at) "
        "insert into viewing_time_attempts (id, account_id, is_password, begun_at, locked_until) "
        "select gen_random_uuid(), account_id, true, now(), next_attempt_at from late"
    )
    assert (await reset(running, family)).status_code == 429
    await expire_attempts(connection)
    assert (await reset(running, family, "wrong")).json() == WRONG_PASSWORD
    assert (await delay(connection))[0] == 9
    await end_delay(connection)
    assert (await reset(running, family)).status_code == 200


async def test_deleting_an_account_deletes_its_attempts(
    running: Running, connection: Connection, family: Family, admin: dict[str, str]
) -> None:
    assert (await reset(running, family, "wrong")).json() == WRONG_PASSWORD
    await connection.execute(
        "insert into viewing_time_attempts (id, account_id, is_password, begun_at) "
        "values (gen_random_uuid(), $1, false, now())",
        family.account,
    )
    where = f"/api/v1/admin/accounts/{family.account}"
    assert (await running.client.delete(where, headers=admin)).status_code == 204
    for table in ("viewing_time_attempts", "viewing_time_password_failures"):
        assert await connection.fetchval(f"select count(*) from {table}") == 0


FLOODS: dict[str, tuple[str, dict[str, Any], set[int]]] = {
    "resets": ("/pin/reset", {"password": "wrong", "new_pin": "4321"}, {401, 429}),
    "changes without the PIN": ("/pin", {"new_pin": "4321"}, {400}),
    "grants to others": (
        f"/profiles/{UUID(int=1)}/viewing-time/grant",
        {"minutes": 15, "pin": "0000"},
        {403},
    ),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_floods_of_requests_without_attempts_do_not_delay_a_pin(
    running: Running, connection: Connection, family: Family, name: str
) -> None:
    """A client with the family's token sends requests without pause."""
    where, body, expected = FLOODS[name]
    statuses: list[int] = []

    async def flood() -> None:
        while True:
            statuses.append((await post(running, family, where, body)).status_code)

    floods = [asyncio.create_task(flood()) for _ in range(20)]
    try:
        for _ in range(10):
            assert (await verify(running, family)).status_code == 200
    finally:
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
    assert set(statuses) <= expected | {503}  # on a busy machine
    assert len(statuses) > 50


async def test_a_password_that_waited_for_another_attempt_is_not_too_early(
    running: Running, connection: Connection, family: Family
) -> None:
    """The other attempt is counted by a transaction that began later and ended first."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(
        "insert into viewing_time_password_failures values ($1, 1, now())", family.account
    )
    waiting = asyncio.create_task(reset(running, family))
    await eventually(
        lambda: connection.fetchval("select exists (select from pg_locks where not granted)")
    )
    await connection.execute(
        "update viewing_time_password_failures set next_attempt_at = clock_timestamp()"
    )
    await transaction.commit()
    assert (await waiting).status_code == 200
