"""PUT and DELETE of profiles; changes apply to the next heartbeat on every instance."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.database.driver import Connection
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family, add_family, used_seconds


def url(profile: UUID) -> str:
    return f"/api/v1/admin/profiles/{profile}"


async def put(
    running: Running, admin: dict[str, str], profile: UUID, account: UUID, **members: Any
) -> dict[str, Any]:
    body = {"account_id": str(account), "name": "Ada", "is_kids": True, **members}
    answer = await running.client.put(url(profile), json=body, headers=admin)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def beat(running: Running, family: Family, profile: UUID) -> Any:
    answer = await running.client.post(
        HEARTBEAT, json=family.beat(profile_id=profile), headers=family.bearer
    )
    return answer.status_code, answer.json()


async def test_new_profile_can_watch_at_once(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    profile = uuid4()
    assert (await beat(running, family, profile))[0] == 403
    assert await put(running, admin, profile, family.account) == {
        "id": str(profile),
        "account_id": str(family.account),
        "name": "Ada",
        "is_kids": True,
        "parental_rating": "TV-MA",
    }
    status, verdict = await beat(running, family, profile)
    assert (status, verdict["used_minutes"]) == (200, 0.5)


async def test_changes_of_a_profile_apply_to_its_next_heartbeat(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    assert (await beat(running, family, family.child))[1]["remaining_minutes"] == 119.5
    grown = await put(
        running, admin, family.child, family.account, name="Ada Lovelace", is_kids=False
    )
    assert (grown["name"], grown["parental_rating"]) == ("Ada Lovelace", "TV-G")
    assert (await beat(running, family, family.child))[1]["remaining_minutes"] is None
    assert await used_seconds(connection, family.child) == 30
    await put(running, admin, family.child, family.account)
    assert (await beat(running, family, family.child))[1]["remaining_minutes"] == 119.0


async def test_report_shows_the_new_name(
    running: Running, admin: dict[str, str], family: Family
) -> None:
    await put(running, admin, family.child, family.account, name="Zoë 🐛")
    report = await running.client.get(
        "/api/v1/parental-controls/weekly-report", headers=family.bearer
    )
    assert [profile["profile_name"] for profile in report.json()["profiles"]] == ["Zoë 🐛"]


@pytest.mark.parametrize("verb", ["put", "delete", "delete account"])
async def test_every_instance_invalidates_its_cached_configuration(
    start: Starter, admin: dict[str, str], family: Family, verb: str
) -> None:
    here, there = await start(), await start()
    for instance in (here, there):
        await beat(instance, family, family.child)
        assert instance.context.configurations.size == 1
    if verb == "put":
        await put(here, admin, family.child, family.account, is_kids=False)
    else:
        target = url(family.child)
        if verb == "delete account":
            target = f"/api/v1/admin/accounts/{family.account}"
        assert (await here.client.delete(target, headers=admin)).status_code == 204
    await eventually(
        lambda: not (here.context.configurations.size or there.context.configurations.size)
    )


async def test_profile_cannot_move_to_another_account(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    other = await add_family(connection)
    body = {"account_id": str(other.account), "name": "Mine now", "is_kids": False}
    answer = await running.client.put(url(family.child), json=body, headers=admin)
    assert answer.status_code == 409
    assert answer.json() == {"detail": "Profile belongs to another account"}
    row = await connection.fetchrow(
        "select user_id, name from profiles where id = $1", family.child
    )
    assert tuple(row or ()) == (family.account, "Ada")


async def test_profile_of_an_unknown_account_is_422(
    running: Running, connection: Connection, admin: dict[str, str]
) -> None:
    body = {"account_id": str(uuid4()), "name": "Nobody's", "is_kids": True}
    answer = await running.client.put(url(uuid4()), json=body, headers=admin)
    assert (answer.status_code, answer.json()) == (422, {"detail": "Account not found"})
    assert await connection.fetchval("select count(*) from profiles") == 0


async def test_deletion_removes_the_viewing_and_a_second_one_is_404(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    await beat(running, family, family.child)
    await beat(running, family, family.adult)
    assert (await running.client.delete(url(family.child), headers=admin)).status_code == 204
    assert await connection.fetchval("select count(*) from viewing_sessions") == 1
    assert await connection.fetchval("select count(*) from viewing_time_balances") == 0
    assert (await beat(running, family, family.child))[0] == 403
    again = await running.client.delete(url(family.child), headers=admin)
    assert (again.status_code, again.json()) == (404, {"detail": "Profile not found"})


async def test_heartbeats_do_not_wait_for_an_uncommitted_put(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    """A PUT takes no lock that the foreign keys of a heartbeat need."""
    async with connection.transaction():
        await connection.execute(
            "update profiles set name = name, is_kids = is_kids, parental_rating = 'TV-Y'"
        )
        await connection.execute("update titles set title = 'Another', is_educational = true")
        # The first heartbeat inserts a session and a balance; both check their foreign keys.
        assert (await beat(running, family, family.child))[0] == 200


async def test_deletion_locks_the_session_before_the_profile(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    """Heartbeats lock in this order too; in the opposite order the two could deadlock."""
    await beat(running, family, family.child)
    async with connection.transaction():
        await connection.execute("update viewing_sessions set total_seconds = 60")
        deletion = asyncio.create_task(running.client.delete(url(family.child), headers=admin))
        await eventually(
            lambda: connection.fetchval("select exists (select from pg_locks where not granted)")
        )
        await connection.execute(
            "select from profiles where id = $1 for key share nowait", family.child
        )
    assert (await deletion).status_code == 204


@pytest.mark.parametrize("what", ["profile", "account"])
async def test_deletion_waits_for_a_starting_session(
    running: Running, connection: Connection, admin: dict[str, str], family: Family, what: str
) -> None:
    """Both take the advisory lock for starting a session first."""
    target = url(family.child)
    if what == "account":
        target = f"/api/v1/admin/accounts/{family.account}"
    async with connection.transaction():
        await connection.execute("select viewing_sessions_end_open($1, now())", family.child)
        deletion = asyncio.create_task(running.client.delete(target, headers=admin))
        while not await connection.fetchval(
            "select exists (select from pg_locks where not granted and locktype = 'advisory')"
        ):
            await asyncio.sleep(0.005)
        await connection.execute(
            "select from profiles where id = $1 for key share nowait", family.child
        )
    assert (await deletion).status_code == 204


async def test_concurrent_puts_and_heartbeats(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    answers = await asyncio.gather(
        *(beat(running, family, family.child) for _ in range(20)),
        *(
            put(running, admin, family.child, family.account, name=f"Ada {n}", is_kids=n % 2 == 0)
            for n in range(20)
        ),
    )
    assert {answer[0] for answer in answers[:20]} == {200}
