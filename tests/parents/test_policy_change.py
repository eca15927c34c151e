"""Every change of a policy: by the owner, with the PIN if the account is strict, at once."""

import asyncio
from typing import Any

import pytest

from service.database.driver import Connection
from service.http import auth
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, PIN_HASH, Family, add_family, cheap_hash
from tests.parents.policy_changing import CHANGES, NOON, Change, call, prepare
from tests.statement_counts import of_requests

REFUSED = {"detail": "Valid PIN token required"}
changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@pytest.fixture
async def running(start: Starter) -> Running:
    """An application at noon on a Wednesday."""
    return await start(now=NOON)


async def rows(connection: Connection, table: str) -> list[Any]:
    found: list[Any] = await connection.fetch(f"select * from {table}")
    return found


async def make_strict(connection: Connection, family: Family) -> None:
    await connection.execute(
        "insert into viewing_strict_accounts (account_id, since) values ($1, now())", family.account
    )


@changes
async def test_a_change_of_a_strict_account_needs_a_pin_token(
    running: Running, connection: Connection, family: Family, change: Change
) -> None:
    await prepare(connection, change, family)
    await make_strict(connection, family)
    before = await rows(connection, change.table)
    for headers in ({}, {"X-PIN-Token": "x"}):
        answer = await call(running, family, change.method, change.path, change.body, headers)
        assert (answer.status_code, answer.json()) == (403, REFUSED)
    assert await rows(connection, change.table) == before
    token = auth.pin_token(running.context, family.account, PIN_HASH)
    answer = await call(
        running, family, change.method, change.path, {**change.body, "pin_token": token}
    )
    assert answer.status_code in (200, 204), answer.text
    answer = await call(
        running, family, change.method, change.path, change.body, {"X-PIN-Token": token}
    )
    assert answer.status_code in (200, 204), answer.text


@changes
async def test_a_pin_token_is_not_accepted_after_the_pin_has_changed(
    running: Running, connection: Connection, family: Family, change: Change
) -> None:
    await prepare(connection, change, family)
    token = auth.pin_token(running.context, family.account, PIN_HASH)
    await connection.execute("update users set pin_hash = $1", cheap_hash("9999"))
    before = await rows(connection, change.table)
    answer = await call(
        running, family, change.method, change.path, change.body, {"X-PIN-Token": token}
    )
    assert (answer.status_code, answer.json()) == (403, REFUSED)
    assert await rows(connection, change.table) == before


@changes
async def test_an_invalid_pin_token_is_rejected_in_any_account(
    running: Running, connection: Connection, family: Family, change: Change
) -> None:
    await prepare(connection, change, family)
    stranger = await add_family(connection)
    foreign = auth.pin_token(running.context, stranger.account, PIN_HASH)
    before = await rows(connection, change.table)
    for token in ("x", foreign):
        answer = await call(
            running, family, change.method, change.path, {**change.body, "pin_token": token}
        )
        assert (answer.status_code, answer.json()) == (403, REFUSED)
    assert await rows(connection, change.table) == before


@changes
async def test_a_change_is_in_force_on_every_instance_when_it_is_answered(
    start: Starter, connection: Connection, family: Family, change: Change
) -> None:
    await prepare(connection, change, family)
    instances = here, there = await start(now=NOON), await start(now=NOON)
    for running in instances:
        await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
        assert running.context.configurations.size == 1
    answer = await call(here, family, change.method, change.path, change.body)
    assert answer.status_code in (200, 204), answer.text
    assert [running.context.configurations.size for running in instances] == [0, 0]
    assert there.context.metrics.invalidations["changed elsewhere"] == 1


@changes
async def test_a_refused_change_notifies_nobody(
    running: Running, connection: Connection, family: Family, change: Change
) -> None:
    await make_strict(connection, family)
    stranger = await add_family(connection)
    await prepare(connection, change, family, stranger)
    received: list[str] = []
    await connection.add_listener(
        "viewing_config_changed", lambda *notification: received.append(str(notification[-1]))
    )
    await call(running, family, change.method, change.path, change.body)
    await call(running, stranger, change.method, change.path, change.body)
    await eventually(lambda: bool(received))  # the permitted change, of another family
    assert [payload.split(" ")[1:] for payload in received] == [
        [str(stranger.account), str(stranger.child)]
    ]


@pytest.mark.warm
@changes
async def test_a_change_is_one_statement(
    running: Running, connection: Connection, family: Family, change: Change
) -> None:
    await prepare(connection, change, family)
    await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    before = await of_requests(connection)
    await call(running, family, change.method, change.path, change.body)
    assert await of_requests(connection) - before == 1


@pytest.mark.parametrize("change", [c for c in CHANGES.values() if c.method == "PUT"])
async def test_a_change_of_a_profile_that_is_being_deleted_is_403(
    running: Running, connection: Connection, family: Family, change: Change
) -> None:
    await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    deletion = connection.transaction()
    await deletion.start()
    await connection.execute("delete from profiles where id = $1", family.child)
    changing = asyncio.create_task(call(running, family, change.method, change.path, change.body))
    await asyncio.sleep(0.1)
    assert not changing.done()
    await deletion.commit()
    answer = await changing
    assert (answer.status_code, answer.json()) == (
        403,
        {"detail": "Profile not found or access denied"},
    )
