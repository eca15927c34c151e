"""A request that is repeated with its Idempotency-Key is executed once, on any instance."""

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import bcrypt
import httpx
import msgspec
import pytest

from service.credentials.pin_hasher import Turn
from service.database.driver import Connection
from service.http import idempotency
from service.settings import Settings
from tests.conftest import NOW, Running, Starter, served
from tests.database.test_pool import PGBOUNCER, pooler
from tests.eventually import eventually
from tests.family import PASSWORD, PIN, Family, add_family, keep_today
from tests.platform.test_imports import URL as IMPORT
from tests.platform.test_imports import ndjson, title
from tests.players.test_heartbeat import beat
from tests.statement_counts import of_requests

PINS: Final = "/api/v1/parental-controls/pin"
GRANT: Final = "/api/v1/parental-controls/profiles/{}/viewing-time/grant"
END: Final = "/api/v1/viewing-time/session/{}/end"
NEW_PIN: Final = "4321"
USED_SECONDS: Final = 7200
KEY_USED: Final = {"detail": "Idempotency-Key has been used for another request"}


class Call(msgspec.Struct):
    """A request, and another body for the same endpoint."""

    url: str
    body: dict[str, Any] | None
    other: dict[str, Any] | None


async def remote_grant(running: Running, family: Family) -> Call:
    return Call(GRANT.format(family.child), {"minutes": 30}, {"minutes": 45})


async def grant_with_pin(running: Running, family: Family) -> Call:
    url = GRANT.format(family.child)
    return Call(url, {"minutes": 30, "pin": PIN}, {"minutes": 45, "pin": PIN})


async def grant_with_token(running: Running, family: Family) -> Call:
    answer = await running.client.post(f"{PINS}/verify", json={"pin": PIN}, headers=family.bearer)
    token = answer.json()["pin_token"]
    url = GRANT.format(family.child)
    return Call(url, {"minutes": 30, "pin_token": token}, {"pin_token": token})


async def unlimited_grant(running: Running, family: Family) -> Call:
    return Call(GRANT.format(family.child), {}, {"minutes": 15})


async def session_end(running: Running, family: Family) -> Call:
    return Call(END.format((await beat(running, family))["session_id"]), None, None)


async def pin_verify(running: Running, family: Family) -> Call:
    return Call(f"{PINS}/verify", {"pin": PIN}, None)


async def pin_change(running: Running, family: Family) -> Call:
    body = {"new_pin": NEW_PIN, "current_pin": PIN}
    return Call(PINS, body, {**body, "current_pin": "9999"})


async def pin_reset(running: Running, family: Family) -> Call:
    body = {"new_pin": NEW_PIN, "password": PASSWORD}
    return Call(f"{PINS}/reset", body, {**body, "new_pin": "5678"})


Kind = Callable[[Running, Family], Awaitable[Call]]
KINDS: Final = [
    remote_grant,
    grant_with_pin,
    grant_with_token,
    unlimited_grant,
    session_end,
    pin_verify,
    pin_change,
    pin_reset,
]


async def send(
    running: Running, family: Family, call: Call, key: str | None = "k", **change: Any
) -> httpx.Response:
    headers = {**family.bearer, **({} if key is None else {"Idempotency-Key": key})}
    body = call.body if call.body is None or not change else {**call.body, **change}
    return await running.client.post(call.url, json=body, headers=headers)


def answered(answer: httpx.Response) -> tuple[int, Any]:
    """Status and body, without the PIN token, which differs each time."""
    body = answer.json()
    body.pop("pin_token", None)
    return answer.status_code, body


async def state(connection: Connection) -> tuple[Any, ...]:
    """Everything that these requests change."""
    row = await connection.fetchrow(
        """
        select
            (select count(*) from time_grants),
            (select sum(used_seconds) from viewing_time_balances),
            (select bool_or(is_unlimited_override) from viewing_time_balances),
            (select array_agg(ended_at order by id) from viewing_sessions),
            (select array_agg((pin_hash, pin_failed_attempts, pin_lockout_until)::text) from users),
            (select count(*) from viewing_time_attempts),
            (select coalesce(sum(failures), 0) from viewing_time_password_failures)
        """
    )
    return tuple(row or ())


async def stored_keys(connection: Connection) -> int:
    count: int = await connection.fetchval("select count(*) from viewing_time_request_keys")
    return count


@pytest.fixture
async def watched(connection: Connection, family: Family) -> Family:
    """A family whose child has watched for two hours today."""
    await connection.execute(
        "insert into viewing_time_balances (id, profile_id, reset_date, used_seconds, "
        "educational_seconds, is_unlimited_override, updated_at) "
        "values (gen_random_uuid(), $1, $3, $2, 0, false, now())",
        family.child,
        USED_SECONDS,
        NOW.date(),
    )
    return family


@pytest.mark.parametrize("kind", KINDS)
async def test_repeated_request_gets_the_same_response_and_changes_nothing_on_any_instance(
    start: Starter, connection: Connection, watched: Family, kind: Kind
) -> None:
    here, there = await start(), await start()
    call = await kind(here, watched)
    first = await send(here, watched, call)
    assert first.status_code == 200
    after = await state(connection)
    for running in (here, there, here):
        assert answered(await send(running, watched, call)) == answered(first)
        assert await state(connection) == after
    assert await stored_keys(connection) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_concurrent_copies_on_two_instances_are_executed_once(
    start: Starter, connection: Connection, watched: Family, kind: Kind
) -> None:
    instances = [await start(), await start()]
    call = await kind(instances[0], watched)
    answers = await asyncio.gather(
        *(send(running, watched, call) for running in instances for _ in range(2))
    )
    assert [answered(answer)[0] for answer in answers] == [200] * 4, [answered(a) for a in answers]
    assert len({str(answered(answer)) for answer in answers}) == 1
    grants, used, _, _, [user], attempts, _ = await state(connection)
    assert grants == ("grant" in kind.__name__)
    granted = 1800 if call.body and call.body.get("minutes") else 0
    assert used == USED_SECONDS + 30 * (kind is session_end) - granted
    assert (attempts, user.endswith(",0,)")) == (0, True)


@pytest.mark.parametrize("kind", KINDS)
async def test_request_whose_response_was_lost_is_answered_when_repeated(
    start: Starter,
    settings: Settings,
    connection: Connection,
    watched: Family,
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request fails after its commit and before its response."""
    running = await start()
    call = await kind(running, watched)
    stopped = asyncio.Event()

    class Lost(Exception):
        pass

    async def lose(*_: Any) -> None:
        stopped.set()
        raise Lost

    endpoint = idempotency.RequestedOnce.effect

    def losing_response(once: idempotency.RequestedOnce) -> Any:
        return _Lost(endpoint(once), lose)

    if kind is pin_verify:
        keep = idempotency.RequestedOnce.keep

        async def keep_and_lose(once: idempotency.RequestedOnce, *arguments: Any) -> None:
            await keep(once, *arguments)
            await lose()

        monkeypatch.setattr(idempotency.RequestedOnce, "keep", keep_and_lose)
    else:
        monkeypatch.setattr(idempotency.RequestedOnce, "effect", losing_response)
    assert (await send(running, watched, call)).status_code == 500
    assert stopped.is_set()
    monkeypatch.undo()
    after = await state(connection)
    assert await stored_keys(connection) == 1
    assert (await send(running, watched, call)).status_code == 200
    assert await state(connection) == after


class _Lost:
    """A context manager that fails after its end, so that the response is lost."""

    def __init__(self, inner: Any, lose: Callable[..., Awaitable[None]]) -> None:
        self._inner = inner
        self._lose = lose

    async def __aenter__(self) -> Any:
        return await self._inner.__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        await self._inner.__aexit__(*error)
        await self._lose()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not pin_verify])
async def test_request_that_failed_before_its_commit_is_executed_when_repeated(
    running: Running,
    connection: Connection,
    watched: Family,
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = await kind(running, watched)
    before = await state(connection)

    async def fail(*_: Any) -> None:
        raise ConnectionError("lost")

    monkeypatch.setattr(idempotency.KEEP, "maybe", fail)
    assert (await send(running, watched, call)).status_code >= 500
    assert await stored_keys(connection) == 0
    after = await state(connection)
    assert after[:4] == before[:4]
    assert after[4:] == before[4:] or kind in (pin_change, grant_with_pin)
    monkeypatch.undo()
    assert (await send(running, watched, call)).status_code == 200
    assert await state(connection) != before


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_key_nothing_is_stored_and_every_request_is_executed(
    running: Running, connection: Connection, watched: Family, kind: Kind
) -> None:
    call = await kind(running, watched)
    for number in range(2):
        answer = await send(running, watched, call, None)
        assert answer.status_code == (400 if number and kind is pin_change else 200)
    assert await stored_keys(connection) == 0
    if kind is remote_grant:
        assert (await state(connection))[:2] == (2, USED_SECONDS - 3600)


@pytest.mark.parametrize("kind", KINDS)
async def test_key_used_for_another_request_is_422(
    running: Running, connection: Connection, watched: Family, kind: Kind
) -> None:
    others = [await other(running, watched) for other in KINDS if other is not kind]
    call = await kind(running, watched)
    assert (await send(running, watched, call)).status_code == 200
    others = [other for other in others if other.url != call.url]
    if call.other is not None:
        others.append(msgspec.structs.replace(call, body=call.other))
    pin = NEW_PIN if kind in (pin_change, pin_reset) else PIN
    after = await state(connection)
    for other in others:
        body = other.body
        if body and "pin" in body:
            body = {**body, "pin": pin}
        if body and other.url == PINS:
            body = {"new_pin": pin, "current_pin": pin}
        answer = await send(running, watched, msgspec.structs.replace(other, body=body))
        assert answered(answer) == (422, KEY_USED), other
        assert await state(connection) == after
    assert await stored_keys(connection) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_key_belongs_to_its_account_and_expires_after_24_hours(
    running: Running, connection: Connection, watched: Family, kind: Kind
) -> None:
    stranger = await add_family(connection)
    for family in (watched, stranger):
        call = await kind(running, family)
        assert (await send(running, family, call)).status_code == 200
    assert await stored_keys(connection) == 2
    await connection.execute(
        "update viewing_time_request_keys set created_at = created_at - interval '24 hours'"
    )
    fresh = await remote_grant(running, watched)
    for expected in (200, 200):
        assert (await send(running, watched, fresh)).status_code == expected
    granted = "select count(*) from time_grants where profile_id = $1 and is_remote"
    before = 1 if kind in (remote_grant, unlimited_grant) else 0
    assert await connection.fetchval(granted, watched.child) == 1 + before


@pytest.mark.parametrize("kind", KINDS)
async def test_repeated_request_is_refused_if_the_caller_has_lost_access(
    running: Running, connection: Connection, watched: Family, kind: Kind
) -> None:
    call = await kind(running, watched)
    assert (await send(running, watched, call)).status_code == 200
    if "grant" in kind.__name__:
        stranger = await add_family(connection)
        await connection.execute(
            "update profiles set user_id = $1 where id = $2", stranger.account, watched.child
        )
        assert (await send(running, watched, call)).status_code == 403
    await connection.execute("update users set is_active = false")
    assert (await send(running, watched, call)).status_code == 401


@pytest.mark.parametrize("kind", KINDS)
async def test_an_invalid_key_changes_nothing(
    running: Running, connection: Connection, watched: Family, kind: Kind
) -> None:
    call = await kind(running, watched)
    before = await state(connection)
    for key in ("x" * 65, "two words", "tab\tbed", ""):
        answer = await send(running, watched, call, key)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["header", "idempotency-key"]
        assert await state(connection) == before


@pytest.mark.parametrize(
    ("kind", "wrong", "status"),
    [
        (grant_with_pin, {"pin": "0000"}, 403),
        (pin_verify, {"pin": "0000"}, 403),
        (pin_change, {"current_pin": "0000"}, 400),
        (pin_reset, {"password": "wrong"}, 401),
    ],
)
async def test_repeated_wrong_secret_counts_once_and_the_right_one_needs_another_key(
    start: Starter,
    connection: Connection,
    watched: Family,
    kind: Kind,
    wrong: dict[str, str],
    status: int,
) -> None:
    instances = [await start(), await start()]
    call = await kind(instances[0], watched)
    first = await send(instances[0], watched, call, **wrong)
    assert first.status_code == status
    after = await state(connection)
    for running in instances:
        assert answered(await send(running, watched, call, **wrong)) == answered(first)
        assert await state(connection) == after
    guessed = dict.fromkeys(wrong, "1111")
    assert answered(await send(instances[1], watched, call, **guessed)) == answered(first)
    assert (await counts(connection, watched))[0] == 2
    right = await send(instances[1], watched, call)
    assert answered(right) == (422, KEY_USED)
    assert (await send(instances[1], watched, call, "another")).status_code == 200


async def test_concurrent_copies_of_a_wrong_pin_count_once(
    start: Starter, connection: Connection, watched: Family
) -> None:
    instances = [await start(), await start()]
    call = Call(f"{PINS}/verify", {"pin": "0000"}, None)
    answers = await asyncio.gather(
        *(send(running, watched, call) for running in instances for _ in range(2))
    )
    assert [answer.status_code for answer in answers] == [403] * 4
    assert await connection.fetchval("select pin_failed_attempts from users") == 1
    assert await connection.fetchval("select count(*) from viewing_time_attempts") == 0


@pytest.mark.parametrize(
    ("kind", "status", "locked"),
    [
        (grant_with_pin, 403, 403),
        (pin_verify, 403, 403),
        (pin_change, 400, 403),
        (pin_reset, 401, 429),
    ],
)
async def test_key_of_a_successful_request_allows_no_uncounted_guesses(
    running: Running,
    connection: Connection,
    watched: Family,
    kind: Kind,
    status: int,
    locked: int,
) -> None:
    """A guess with the key has the same response and the same lock as one without."""
    call = await kind(running, watched)
    assert (await send(running, watched, call)).status_code == 200
    guess = {"password": "wrong"} if kind is pin_reset else {"pin": "0000"}
    guess = {"new_pin": "0000"} if kind is pin_change else guess
    while (refusal := await send(running, watched, call, **guess)).status_code == status:
        if "x-locked-until" in refusal.headers:
            break
    # The right secret is rejected too while the lock lasts.
    assert refusal.status_code == locked
    assert (await send(running, watched, call)).status_code == locked
    wrong = await connection.fetchval(
        "select pin_failed_attempts + coalesce((select failures from "
        "viewing_time_password_failures), 0) from users"
    )
    assert wrong in (5, 6)


async def test_a_first_pin_is_set_once(
    start: Starter, connection: Connection, watched: Family
) -> None:
    await connection.execute("update users set pin_hash = null")
    instances = [await start(), await start()]
    call = Call(PINS, {"new_pin": NEW_PIN}, None)
    answers = await asyncio.gather(*(send(running, watched, call) for running in instances * 2))
    assert [answer.status_code for answer in answers] == [200] * 4
    stored = await connection.fetchval("select pin_hash from users")
    assert bcrypt.checkpw(NEW_PIN.encode(), stored.encode())


async def test_repeated_verification_gets_a_valid_token(running: Running, watched: Family) -> None:
    call = await pin_verify(running, watched)
    tokens = [(await send(running, watched, call)).json()["pin_token"] for _ in range(2)]
    assert tokens[0] != tokens[1]
    for token in tokens:
        given = Call(GRANT.format(watched.child), {"minutes": 15, "pin_token": token}, None)
        assert (await send(running, watched, given, str(uuid4()))).status_code == 200


async def test_a_request_that_changed_nothing_can_be_repeated_with_its_key(
    running: Running, connection: Connection, watched: Family
) -> None:
    session = uuid4()
    call = Call(END.format(session), None, None)
    assert (await send(running, watched, call)).status_code == 404
    opened = (await beat(running, watched))["session_id"]
    await connection.execute("update viewing_sessions set id = $1 where id = $2", session, opened)
    assert (await send(running, watched, call)).status_code == 200


async def test_equivalent_form_of_a_request_is_the_same_request(
    running: Running, connection: Connection, watched: Family
) -> None:
    first = await send(running, watched, Call(GRANT.format(watched.child), {"minutes": 30}, None))
    child = str(UUID(str(watched.child))).upper()
    again = Call(GRANT.format(f"{{{child}}}"), {"minutes": "30", "more": 1, "pin": None}, None)
    assert answered(await send(running, watched, again)) == answered(first)
    assert await connection.fetchval("select count(*) from time_grants") == 1


async def test_keys_stay_valid_after_a_rotation_of_the_jwt_secret(
    start: Starter, settings: Settings, connection: Connection, watched: Family
) -> None:
    call = await remote_grant(await start(), watched)
    first = await send(await start(), watched, call)
    fresh = {"jwt_secret": "n" * 32, "jwt_secret_previous": settings.jwt_secret}
    assert answered(
        await send(await start(msgspec.structs.replace(settings, **fresh)), watched, call)
    ) == answered(first)
    assert await connection.fetchval("select count(*) from time_grants") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_no_secret_is_stored_with_a_key(
    running: Running, connection: Connection, watched: Family, kind: Kind
) -> None:
    call = await kind(running, watched)
    answer = await send(running, watched, call, "a-key-of-a-client")
    row = await connection.fetchval("select k::text from viewing_time_request_keys as k")
    secrets = ["a-key-of-a-client", PASSWORD, *(call.body or {}).values()]
    secrets += [answer.json().get("pin_token")]
    for secret in secrets:
        if isinstance(secret, str):
            assert secret not in row or secret in (PIN, NEW_PIN)
    stored = await connection.fetchval("select answer from viewing_time_request_keys")
    assert PIN not in stored
    assert NEW_PIN not in stored


async def test_only_the_latest_keys_of_an_account_are_stored(
    running: Running, connection: Connection, watched: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEYS", 5)
    stranger = await add_family(connection)
    await send(running, stranger, await remote_grant(running, stranger), "theirs")
    call = await remote_grant(running, watched)
    for number in range(8):
        await send(running, watched, call, f"{number}")
    of_account = "select count(*) from viewing_time_request_keys where account_id = $1"
    assert await connection.fetchval(of_account, watched.account) == 5
    assert await connection.fetchval(of_account, stranger.account) == 1
    for number in range(3, 8):
        await send(running, watched, call, f"{number}")
    granted = "select count(*) from time_grants where profile_id = $1"
    assert await connection.fetchval(granted, watched.child) == 8


async def test_expired_keys_of_any_account_are_deleted(
    running: Running, connection: Connection, watched: Family
) -> None:
    stranger = await add_family(connection)
    await connection.execute(
        "insert into viewing_time_request_keys "
        "select $1, gen_random_uuid(), '', 200, '{}', now() - interval '25 hours' "
        "from generate_series(1, 15)",
        stranger.account,
    )
    call = await remote_grant(running, watched)
    for number in range(2):
        await send(running, watched, call, f"{number}")
    assert await stored_keys(connection) == 2


async def test_account_deletion_and_erasure_delete_keys(
    running: Running, connection: Connection, watched: Family, admin: dict[str, str]
) -> None:
    stranger = await add_family(connection)
    for family in (watched, stranger):
        await send(running, family, await remote_grant(running, family))
    url = f"/api/v1/admin/profiles/{watched.child}/viewing-data"
    assert (await running.client.delete(url, headers=admin)).status_code == 200
    assert await stored_keys(connection) == 1
    await connection.execute("delete from users where id = $1", stranger.account)
    assert await stored_keys(connection) == 0


async def test_a_key_costs_three_statements_and_no_key_costs_none(
    running: Running, connection: Connection, watched: Family
) -> None:
    call = await remote_grant(running, watched)
    await send(running, watched, call, None)
    counts = []
    for key in (None, "one", "one"):
        before = await of_requests(connection)
        await send(running, watched, call, key)
        counts.append(await of_requests(connection) - before)
    assert counts == [1, 4, 1]


async def test_import_is_executed_once(
    start: Starter, connection: Connection, admin: dict[str, str]
) -> None:
    """A repeated request does not undo a later change."""
    instances = [await start(), await start()]
    film = title(title="First")
    lines = ndjson([film, "{"])
    headers = {**admin, "Idempotency-Key": "import"}

    async def post(running: Running, content: bytes, mode: str = "best") -> httpx.Response:
        url = f"{IMPORT}?mode={mode}"
        return await running.client.post(url, content=content, headers=headers)

    answers = await asyncio.gather(*(post(running, lines) for running in instances * 2))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["titles"] == 1
    await connection.execute("update titles set title = 'Second'")
    assert (await post(instances[1], lines)).content == answers[0].content
    assert await connection.fetchval("select title from titles") == "Second"
    for content, mode in ((lines, "all"), (ndjson([film]), "best")):
        answer = await post(instances[0], content, mode)
        assert answered(answer) == (422, KEY_USED)
    assert await connection.fetchval("select title from titles") == "Second"


async def test_import_that_changed_nothing_can_be_repeated_with_its_key(
    running: Running, connection: Connection, admin: dict[str, str]
) -> None:
    headers = {**admin, "Idempotency-Key": "import"}
    for content, status in ((ndjson([title(), "{"]), 422), (ndjson([title()]), 200)):
        answer = await running.client.post(IMPORT, content=content, headers=headers)
        assert answer.status_code == status
    assert await connection.fetchval("select count(*) from titles") == 1


async def test_grants_of_a_killed_process_are_executed_once(
    database: str, connection: Connection, watched: Family
) -> None:
    """Some requests of the killed process are answered, others are only committed."""
    await keep_today(connection, watched.child)
    keys = [f"{number}" for number in range(60)]
    killed = asyncio.Event()

    async def post(client: httpx.AsyncClient, key: str) -> int:
        url = GRANT.format(watched.child)
        headers = {**watched.bearer, "Idempotency-Key": key}
        try:
            return (await client.post(url, json={"minutes": 15}, headers=headers)).status_code
        except httpx.TransportError:
            return 0

    async def kill(process: subprocess.Popen[bytes]) -> None:
        await eventually(lambda: connection.fetchval("select count(*) > 15 from time_grants"))
        process.kill()
        killed.set()

    async with (
        served(database) as first,
        httpx.AsyncClient(base_url=first.url, timeout=60) as client,
    ):
        killing = asyncio.create_task(kill(first.process))
        statuses = await asyncio.gather(*(post(client, key) for key in keys))
        await killing
    assert killed.is_set()
    assert 0 in statuses
    async with (
        served(database) as second,
        httpx.AsyncClient(base_url=second.url, timeout=60) as client,
    ):
        again = [await post(client, key) for key in keys]
    assert again == [200] * 60
    assert await connection.fetchval("select count(*) from time_grants") == 60


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_requests_are_executed_once_behind_a_pooler(
    start: Starter, settings: Settings, connection: Connection, watched: Family
) -> None:
    async with pooler(settings.database_url) as url:
        pooled = {"database_url": url, "database_direct_url": settings.database_url}
        running = await start(msgspec.structs.replace(settings, statement_cache_size=0, **pooled))
        for kind in (remote_grant, session_end, grant_with_pin, pin_change):
            call = await kind(running, watched)
            answers = await asyncio.gather(
                *(send(running, watched, call, kind.__name__) for _ in range(3))
            )
            assert [answer.status_code for answer in answers] == [200] * 3
            assert len({str(answered(answer)) for answer in answers}) == 1
        assert (await state(connection))[0] == 2
        assert await stored_keys(connection) == 4


SECRETS: Final = [
    (grant_with_pin, "pin", 403),
    (pin_verify, "pin", 403),
    (pin_change, "current_pin", 400),
    (pin_reset, "password", 401),
]


async def counts(connection: Connection, family: Family) -> tuple[int, bool, int]:
    """Failures of PIN and password, whether the PIN is locked, unfinished attempts."""
    row = await connection.fetchrow(
        "select pin_failed_attempts + coalesce((select failures from "
        "viewing_time_password_failures where account_id = u.id), 0), "
        "coalesce(pin_lockout_until > now(), false), "
        "(select count(*)::int from viewing_time_attempts where account_id = u.id) "
        "from users as u where id = $1",
        family.account,
    )
    assert row is not None
    return row[0], row[1], row[2]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The secrets that were compared with a stored hash, in order."""
    seen: list[str] = []
    verify = Turn.verify

    async def recording(turn: Turn, secret: str, stored: str | None) -> bool:
        is_right = await verify(turn, secret, stored)
        if stored is not None:
            seen.append(secret)
        return is_right

    monkeypatch.setattr(Turn, "verify", recording)
    return seen


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize(("kind", "member", "status"), SECRETS)
async def test_concurrent_secrets_with_one_key_are_all_counted(
    start: Starter,
    connection: Connection,
    watched: Family,
    hashed: list[str],
    kind: Kind,
    member: str,
    status: int,
    instances: int,
) -> None:
    services = [await start() for _ in range(instances)]
    call = await kind(services[0], watched)
    for key in ("one", "two"):
        await asyncio.gather(
            *(
                send(services[number % instances], watched, call, key, **{member: f"{number:04}"})
                for number in range(6)
            )
        )
        count, is_locked, open_attempts = await counts(connection, watched)
        assert (count, open_attempts) == (len(hashed), 0)
        assert len(set(hashed)) == len(hashed) or key == "two"
    assert len(hashed) >= 5
    if kind is not pin_reset:
        assert (len(hashed), is_locked) == (5, True)


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize(("kind", "member", "status"), SECRETS)
async def test_right_secret_among_wrong_ones_with_the_same_key_allows_no_uncounted_guess(
    start: Starter,
    connection: Connection,
    watched: Family,
    hashed: list[str],
    kind: Kind,
    member: str,
    status: int,
    place: int,
    instances: int,
) -> None:
    services = [await start() for _ in range(instances)]
    call = await kind(services[0], watched)
    assert call.body is not None
    right = call.body[member]
    guesses = ["0000", "0001", "0002", "0003"]
    guesses.insert(place, right)
    answers = await asyncio.gather(
        *(
            send(services[number % instances], watched, call, **{member: guess})
            for number, guess in enumerate(guesses)
        )
    )
    count, _, open_attempts = await counts(connection, watched)
    assert open_attempts == 0
    assert len(hashed) == len(set(hashed)) == len(guesses)
    after_right = len(hashed) - 1 - hashed.index(right)
    if instances == 1:
        # A right password that changes nothing, because its key is used, clears nothing either.
        assert count == after_right or (kind is pin_reset and count == len(guesses) - 1)
    assert count < len(guesses)
    for guess, answer in zip(guesses, answers, strict=True):
        assert answer.status_code in ((200, 422) if guess == right else (status,))


@pytest.mark.impatient
@pytest.mark.parametrize(("kind", "member", "status"), SECRETS)
async def test_wrong_secret_counts_if_its_response_cannot_be_stored(
    running: Running,
    database: str,
    connection: Connection,
    watched: Family,
    kind: Kind,
    member: str,
    status: int,
) -> None:
    """Another transaction locks the key, at first for longer than the time-out of a statement."""
    call = await kind(running, watched)
    await send(running, watched, call, **{member: "0000"})
    await connection.execute(
        "update viewing_time_request_keys set created_at = created_at - interval '25 hours'"
    )
    holder = await asyncpg.connect(database)
    try:
        async with holder.transaction():
            await holder.execute("select from viewing_time_request_keys for update")
            assert (await send(running, watched, call, **{member: "0001"})).status_code == status
    finally:
        await holder.close()
    assert await counts(connection, watched) == (2, False, 0)


@pytest.mark.parametrize(("kind", "member", "status"), SECRETS)
async def test_repeated_request_with_an_outdated_secret_counts_as_one_failure(
    start: Starter,
    connection: Connection,
    watched: Family,
    kind: Kind,
    member: str,
    status: int,
) -> None:
    instances = [await start(), await start()]
    call = await kind(instances[0], watched)
    assert (await send(instances[0], watched, call)).status_code == 200
    changed = bcrypt.hashpw(b"1111", bcrypt.gensalt(4)).decode()
    await connection.execute("update users set pin_hash = $1, password_hash = $1", changed)
    answers = [await send(running, watched, call) for running in instances * 4]
    assert len({str(answered(answer)) for answer in answers}) == 1
    assert answers[0].status_code == status
    assert await counts(connection, watched) == (1, False, 0)
    guess = {"new_pin": "0000"} if kind is pin_change else {member: "0000"}
    for expected in (2, 3):
        refusal = await send(instances[1], watched, call, **guess)
        assert refusal.status_code == status
        assert await counts(connection, watched) == (expected, False, 0)
    assert answered(await send(instances[1], watched, call)) == answered(answers[0])
    assert await counts(connection, watched) == (3, False, 0)


@pytest.mark.parametrize(("kind", "member", "status"), SECRETS)
async def test_concurrent_copies_with_an_outdated_secret_count_as_one_failure(
    start: Starter,
    connection: Connection,
    watched: Family,
    kind: Kind,
    member: str,
    status: int,
) -> None:
    instances = [await start(), await start()]
    call = await kind(instances[0], watched)
    assert (await send(instances[0], watched, call)).status_code == 200
    changed = bcrypt.hashpw(b"1111", bcrypt.gensalt(4)).decode()
    await connection.execute("update users set pin_hash = $1, password_hash = $1", changed)
    answers = await asyncio.gather(*(send(running, watched, call) for running in instances * 3))
    assert [answer.status_code for answer in answers] == [status] * 6
    assert await counts(connection, watched) == (1, False, 0)


@pytest.mark.parametrize(
    "is_pooled",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
        ),
    ],
)
@pytest.mark.parametrize("is_cached", [False, True])
async def test_stopped_process_keeps_no_row_locked(
    database: str, connection: Connection, watched: Family, is_pooled: bool, is_cached: bool
) -> None:
    """The process is stopped while its last statement waits, so its transaction stays open.

    A statement in the driver's cache waits when it runs, another one when it is parsed.
    """
    await keep_today(connection, watched.child)
    grant = GRANT.format(watched.child)
    headers = {**watched.bearer, "Idempotency-Key": "k"}
    if connection.get_server_version().major < 17 and (is_pooled or not is_cached):
        pytest.skip("the server has no transaction_timeout")
    async with AsyncExitStack() as stack:
        variables = {"REQUEST_TIMEOUT_SECONDS": "2"}  # then the server ends the transaction
        url = database
        if is_pooled:
            name = await connection.fetchval("select current_database()")
            for line in ("lock_timeout = '500ms'", "jit = off"):
                await connection.execute(f"alter database {name} set {line}")
            url = await stack.enter_async_context(pooler(database))
            variables |= {"STATEMENT_CACHE_SIZE": "0", "DATABASE_DIRECT_URL": database}
        if is_cached:
            variables |= {"POOL_MIN_SIZE": "1", "POOL_MAX_SIZE": "1"}
        stopped = await stack.enter_async_context(served(url, **variables))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=stopped.url, timeout=60)
        )
        stack.callback(stopped.process.send_signal, signal.SIGCONT)
        before = 0
        if is_cached:
            earlier = {**watched.bearer, "Idempotency-Key": "earlier"}
            before = (await client.post(grant, json={"minutes": 15}, headers=earlier)).is_success
        assert before == is_cached
        holder = await asyncpg.connect(database)
        stack.push_async_callback(holder.close)
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("lock table viewing_time_request_keys in exclusive mode")
        granting = asyncio.create_task(client.post(grant, json={"minutes": 15}, headers=headers))
        waiting = (
            "select count(*) from pg_locks as l join pg_class as c on c.oid = l.relation "
            "where c.relname = 'viewing_time_request_keys' and not l.granted"
        )
        await eventually(lambda: connection.fetchval(waiting))
        stopped.process.send_signal(signal.SIGSTOP)
        await transaction.rollback()
        with pytest.raises(asyncpg.LockNotAvailableError):
            await connection.execute("select from viewing_time_balances for update nowait")
        async with asyncio.timeout(60):
            await connection.execute("select from viewing_time_balances for update")
        assert await connection.fetchval("select count(*) from time_grants") == before
        stopped.process.send_signal(signal.SIGCONT)
        assert (await granting).status_code == 503
        again = await client.post(grant, json={"minutes": 15}, headers=headers)
        assert again.status_code == 200
        assert await connection.fetchval("select count(*) from time_grants") == before + 1
