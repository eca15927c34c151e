"""Strict accounts: both directions need the PIN."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from service.database.driver import Connection
from service.http import auth
from tests.conftest import Running
from tests.family import PIN_HASH, Family, add_family, bearer

STRICT = "/api/v1/parental-controls/strict"
REFUSED = {"detail": "Valid PIN token required"}


def token(running: Running, family: Family) -> str:
    return auth.pin_token(running.context, family.account, PIN_HASH)


async def put(
    running: Running, family: Family, body: dict[str, Any], headers: dict[str, str] | None = None
) -> httpx.Response:
    headers = {**family.bearer, **(headers or {})}
    return await running.client.put(STRICT, json=body, headers=headers)


async def shown(running: Running, family: Family) -> dict[str, Any]:
    answer = await running.client.get(STRICT, headers=family.bearer)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_a_parent_makes_the_account_strict_and_ends_it(
    running: Running, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    since = running.clock().isoformat().replace("+00:00", "Z")
    off, on = {"enabled": False, "since": None}, {"enabled": True, "since": since}
    assert await shown(running, family) == off
    for _ in range(2):
        body = {"enabled": True, "pin_token": token(running, family)}
        answer = await put(running, family, body)
        assert (answer.status_code, answer.json()) == (200, on)
        assert await shown(running, family) == on
        assert await shown(running, stranger) == off
        running.clock.fixed += timedelta(minutes=1)
    for _ in range(2):
        headers = {"X-PIN-Token": token(running, family)}
        answer = await put(running, family, {"enabled": False}, headers)
        assert (answer.status_code, answer.json()) == (200, off)
        assert await shown(running, family) == off


@pytest.mark.parametrize("is_strict", [True, False])
async def test_without_a_valid_pin_token_nothing_changes(
    running: Running, connection: Connection, family: Family, is_strict: bool
) -> None:
    if is_strict:
        await put(running, family, {"enabled": True, "pin_token": token(running, family)})
    before = await shown(running, family)
    stranger = await add_family(connection)
    old = token(running, family)
    access = family.bearer["Authorization"].removeprefix("Bearer ")
    for proof in (None, "", "garbage", access, token(running, stranger)):
        answer = await put(running, family, {"enabled": not is_strict, "pin_token": proof})
        assert (answer.status_code, answer.json()) == (403, REFUSED)
        assert await shown(running, family) == before
    assert (await put(running, family, {"enabled": not is_strict})).status_code == 403
    await connection.execute("update users set pin_hash = 'another' where id = $1", family.account)
    answer = await put(running, family, {"enabled": not is_strict, "pin_token": old})
    assert (answer.status_code, answer.json()) == (403, REFUSED)
    assert await shown(running, family) == before


async def test_an_account_without_a_pin_cannot_become_strict(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("update users set pin_hash = null")
    claims = {"purpose": "pin_verified", "exp": int(running.clock().timestamp()) + 300}
    any_pin = bearer(family.account, **claims)["Authorization"].removeprefix("Bearer ")
    for proof in (token(running, family), any_pin):
        answer = await put(running, family, {"enabled": True, "pin_token": proof})
        assert (answer.status_code, answer.json()) == (403, REFUSED)
    assert await connection.fetchval("select count(*) from viewing_strict_accounts") == 0


@pytest.mark.parametrize("body", [{}, {"enabled": None}, {"enabled": "maybe"}, {"enabled": 2}])
async def test_a_body_that_cannot_be_read_changes_nothing(
    running: Running, connection: Connection, family: Family, body: dict[str, Any]
) -> None:
    answer = await put(running, family, {**body, "pin_token": token(running, family)})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "enabled"]
    assert await connection.fetchval("select count(*) from viewing_strict_accounts") == 0


async def test_deleting_an_account_deletes_that_it_is_strict(
    running: Running, connection: Connection, family: Family, admin: dict[str, str]
) -> None:
    await put(running, family, {"enabled": True, "pin_token": token(running, family)})
    assert await connection.fetchval("select count(*) from viewing_strict_accounts") == 1
    path = f"/api/v1/admin/accounts/{family.account}"
    assert (await running.client.delete(path, headers=admin)).status_code == 204
    assert await connection.fetchval("select count(*) from viewing_strict_accounts") == 0
