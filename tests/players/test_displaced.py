"""Exclusive heartbeats are refused after another device has ended their session."""

from datetime import timedelta
from typing import Any, Literal

import httpx
import msgspec
import pytest

from service.database.driver import Connection
from service.settings import Settings
from tests.conftest import NOW, Running, Starter
from tests.family import HEARTBEAT, Family, session_seconds, used_seconds
from tests.players.test_heartbeat import beat
from tests.players.test_idempotency import send

DISPLACED = "Session was ended by another device"
LATER = NOW + timedelta(seconds=30)


async def exclusive(running: Running, family: Family, **members: Any) -> httpx.Response:
    body = family.beat(exclusive=True, **members)
    return await running.client.post(HEARTBEAT, json=body, headers=family.bearer)


async def displace(running: Running, family: Family, **members: Any) -> tuple[str, str]:
    """A tv's session, and the session of a tablet that ends it 30 seconds later."""
    first = (await beat(running, family, device_id="tv", device_type="tv"))["session_id"]
    running.clock.fixed += timedelta(seconds=30)
    other = {"device_id": "tablet", "device_type": "tablet", **members}
    return first, (await beat(running, family, **other))["session_id"]


async def stored(connection: Connection) -> list[Any]:
    """Every row of a heartbeat with its version."""
    return [
        [tuple(row) for row in await connection.fetch(f"select xmin::text, t::text from {table} t")]
        for table in ("viewing_sessions", "viewing_time_balances", "viewing_clocks")
    ]


@pytest.mark.parametrize("credit", ["beats", "clock"])
async def test_an_exclusive_beat_of_a_displaced_session_writes_nothing_and_says_who_ended_it(
    start: Starter,
    settings: Settings,
    connection: Connection,
    family: Family,
    credit: Literal["beats", "clock"],
) -> None:
    running = await start(msgspec.structs.replace(settings, credit=credit))
    session, other = await displace(running, family)
    before = await stored(connection)
    running.clock.fixed += timedelta(seconds=10)
    answer = await exclusive(running, family, device_id="tv", session_id=session)
    assert (answer.status_code, answer.json()) == (
        409,
        {"detail": DISPLACED, "device_type": "tablet", "ended_at": f"{LATER:%Y-%m-%dT%H:%M:%SZ}"},
    )
    assert await stored(connection) == before
    still = await exclusive(running, family, device_id="tablet", session_id=other)
    assert still.status_code == 200


async def test_without_exclusive_a_displaced_session_counts_on(
    running: Running, connection: Connection, family: Family
) -> None:
    session, _ = await displace(running, family)
    for members in ({}, {"exclusive": False}, {"exclusive": "no"}):
        await beat(running, family, device_id="tv", session_id=session, **members)
    assert await session_seconds(connection, family.child) == 30 * 5
    assert await used_seconds(connection, family.child) == 30 * 5


async def test_the_first_and_later_beats_of_an_open_session_can_be_exclusive(
    running: Running, family: Family
) -> None:
    first = await exclusive(running, family)
    assert first.status_code == 200
    again = await exclusive(running, family, session_id=first.json()["session_id"])
    assert (again.status_code, again.json()["used_minutes"]) == (200, 1.0)


async def test_a_session_that_the_same_device_has_ended_is_not_displaced(
    running: Running, family: Family
) -> None:
    session, _ = await displace(running, family, device_id="tv")
    assert (await exclusive(running, family, device_id="tv", session_id=session)).is_success


async def test_a_session_that_its_player_has_ended_is_not_displaced(
    running: Running, family: Family
) -> None:
    session = (await beat(running, family, device_id="tv"))["session_id"]
    running.clock.fixed += timedelta(seconds=5)
    end = f"/api/v1/viewing-time/session/{session}/end"
    assert (await running.client.post(end, headers=family.bearer)).is_success
    running.clock.fixed += timedelta(seconds=5)
    await beat(running, family, device_id="tablet")
    assert (await exclusive(running, family, device_id="tv", session_id=session)).is_success


async def test_a_session_of_another_profile_displaces_none(
    running: Running, family: Family
) -> None:
    session = (await beat(running, family, device_id="tv"))["session_id"]
    await beat(running, family, profile_id=family.adult, device_id="tablet")
    assert (await exclusive(running, family, device_id="tv", session_id=session)).is_success


async def test_a_device_whose_instance_is_behind_displaces_too(
    running: Running, family: Family
) -> None:
    """The session then ends at its own start, after the start of the other."""
    session = (await beat(running, family, device_id="tv"))["session_id"]
    running.clock.fixed = NOW - timedelta(seconds=3)
    await beat(running, family, device_id="phone", device_type="mobile")
    answer = await exclusive(running, family, device_id="tv", session_id=session)
    assert answer.status_code == 409
    assert answer.json()["device_type"] == "mobile"
    assert answer.json()["ended_at"] == f"{NOW:%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize("is_exclusive", [True, False])
async def test_a_repeated_beat_of_a_displaced_session_is_refused_if_it_is_exclusive(
    running: Running, connection: Connection, family: Family, is_exclusive: bool
) -> None:
    members = {"device_id": "tv", "exclusive": is_exclusive}
    first = await send(running, family, "start", **members)
    session = first.json()["session_id"]
    running.clock.fixed += timedelta(seconds=30)
    await send(running, family, "next", session_id=session, **members)
    running.clock.fixed += timedelta(seconds=5)
    await beat(running, family, device_id="tablet", device_type="tablet")
    before = await stored(connection)
    for key, more in (("start", {}), ("next", {"session_id": session})):
        again = await send(running, family, key, **members, **more)
        assert again.status_code == (409 if is_exclusive else 200)
    assert await stored(connection) == before


async def test_a_key_of_another_request_is_reported_first(running: Running, family: Family) -> None:
    await send(running, family, "start", device_id="tv")
    running.clock.fixed += timedelta(seconds=30)
    await beat(running, family, device_id="tablet")
    # The key is that of a beat that was not paused.
    answer = await send(running, family, "start", device_id="tv", is_paused=True, exclusive=True)
    assert answer.status_code == 422


async def test_a_device_of_unknown_kind_displaces_too(
    running: Running, connection: Connection, family: Family
) -> None:
    session, other = await displace(running, family)
    await connection.execute("update viewing_sessions set device_type = null where id = $1", other)
    answer = await exclusive(running, family, device_id="tv", session_id=session)
    assert (answer.status_code, answer.json()["device_type"]) == (409, None)


@pytest.mark.parametrize("value", [None, "perhaps", 2])
async def test_exclusive_must_be_a_boolean(running: Running, family: Family, value: object) -> None:
    answer = await running.client.post(
        HEARTBEAT, json=family.beat(exclusive=value), headers=family.bearer
    )
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "exclusive"]
