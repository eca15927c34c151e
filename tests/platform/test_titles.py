"""PUT and DELETE of titles."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from service.database.driver import Connection
from tests.conftest import Running
from tests.family import HEARTBEAT, Family, used_seconds


def url(title: UUID) -> str:
    return f"/api/v1/admin/titles/{title}"


async def beat(running: Running, family: Family, title: UUID) -> Any:
    answer = await running.client.post(
        HEARTBEAT, json=family.beat(title_id=title), headers=family.bearer
    )
    return answer.status_code, answer.json()


async def test_put_title_applies_to_the_next_heartbeat(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    title = uuid4()
    assert (await beat(running, family, title))[0] == 404
    body: dict[str, Any] = {"title": "Planets", "is_educational": False}
    shown = await running.client.put(url(title), json=body, headers=admin)
    assert shown.json() == {
        "id": str(title),
        "title": "Planets",
        "title_type": "movie",
        "is_educational": False,
    }
    assert (await beat(running, family, title))[1]["used_minutes"] == 0.5
    await running.client.put(url(title), json={**body, "is_educational": True}, headers=admin)
    status, verdict = await beat(running, family, title)
    assert (status, verdict["is_educational"], verdict["used_minutes"]) == (200, True, 0.5)
    assert await used_seconds(connection, family.child) == 30


async def test_other_columns_of_the_catalogue_are_kept(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    await connection.execute("update titles set is_featured = true, title_type = 'series'")
    body = {"title": "Renamed", "is_educational": False}
    assert (await running.client.put(url(family.title), json=body, headers=admin)).is_success
    row = await connection.fetchrow(
        "select title, title_type, is_featured, is_educational from titles where id = $1",
        family.title,
    )
    assert tuple(row or ()) == ("Renamed", "series", True, False)


async def test_deletion_removes_sessions_and_keeps_balances(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    await beat(running, family, family.title)
    await beat(running, family, family.lesson)
    assert (await running.client.delete(url(family.title), headers=admin)).status_code == 204
    sessions = await connection.fetch("select title_id from viewing_sessions")
    assert [row["title_id"] for row in sessions] == [family.lesson]
    assert await used_seconds(connection, family.child) == 30
    assert await beat(running, family, family.title) == (404, {"detail": "Title not found"})
    again = await running.client.delete(url(family.title), headers=admin)
    assert (again.status_code, again.json()) == (404, {"detail": "Title not found"})


@pytest.mark.impatient
async def test_deletion_times_out_on_a_locked_session(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    """Nothing is deleted, and the statement does not continue after the 503."""
    await beat(running, family, family.title)
    async with connection.transaction():
        await connection.execute("select from viewing_sessions for update")
        answer = await running.client.delete(url(family.title), headers=admin)
        assert answer.status_code == 503
        assert not await connection.fetchval(
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock' "
            "and datname = current_database())"
        )
    assert (await beat(running, family, family.title))[0] == 200
    assert await connection.fetchval("select count(*) from pending_deletions") == 0


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        ({"is_educational": True}, "missing", "title"),
        ({"title": "T"}, "missing", "is_educational"),
        ({"title": "T" * 501, "is_educational": True}, "string_too_long", "title"),
        ({"title": "T", "is_educational": "perhaps"}, "bool_parsing", "is_educational"),
        ({"title": "T", "is_educational": 1, "title_type": None}, "string_type", "title_type"),
    ],
)
async def test_bad_values_change_nothing(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    body: dict[str, Any],
    kind: str,
    field: str,
) -> None:
    answer = await running.client.put(url(uuid4()), json=body, headers=admin)
    assert answer.status_code == 422
    entry = answer.json()["detail"][0]
    assert (entry["type"], entry["loc"]) == (kind, ["body", field])
    assert await connection.fetchval("select count(*) from titles") == 0
