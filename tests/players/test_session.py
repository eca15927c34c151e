"""The end of a session."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from service.database.driver import Connection
from tests.conftest import Running
from tests.family import HEARTBEAT, Family, add_family, session_seconds


async def test_ending_again_moves_the_end(
    running: Running, connection: Connection, family: Family
) -> None:
    started = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    session = started.json()["session_id"]
    url = f"/api/v1/viewing-time/session/{session}/end"
    for moment in (datetime(2027, 1, 1, 0, 0, 1, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC)):
        running.clock.fixed = moment
        answer = await running.client.post(url, headers=family.bearer)
        assert answer.json() == {
            "session_id": session,
            "total_seconds": 30,
            "ended_at": moment.isoformat().replace("+00:00", "Z"),
        }


async def test_foreign_and_unknown_sessions_are_refused(
    running: Running, connection: Connection
) -> None:
    family, stranger = await add_family(connection), await add_family(connection)
    started = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    for session, status, detail in (
        (started.json()["session_id"], 403, "Session access denied"),
        (uuid4(), 404, "Session not found"),
    ):
        url = f"/api/v1/viewing-time/session/{session}/end"
        answer = await running.client.post(url, headers=stranger.bearer)
        assert (answer.status_code, answer.json()) == (status, {"detail": detail})
    ended = "select count(*) from viewing_sessions where ended_at is not null"
    assert await connection.fetchval(ended) == 0


async def test_a_session_can_end_while_its_beats_are_counted(
    running: Running, connection: Connection, family: Family
) -> None:
    started = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    session = started.json()["session_id"]
    body = family.beat(session_id=session)
    answers = await asyncio.gather(
        *(running.client.post(HEARTBEAT, json=body, headers=family.bearer) for _ in range(20)),
        running.client.post(f"/api/v1/viewing-time/session/{session}/end", headers=family.bearer),
    )
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].json()["total_seconds"] % 30 == 0
    assert await session_seconds(connection, family.child) == 21 * 30
