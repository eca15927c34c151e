"""The peers of the benchmark answer heartbeats as the service does."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from httpx import AsyncClient

from bench import peer, peers, seed
from service.database.driver import Connection
from tests.conftest import served

PATH = "/api/v1/viewing-time/heartbeat"


@pytest.mark.parametrize("language", list(peers.LANGUAGES))
async def test_a_peer_answers_as_the_service_does(
    language: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    """Each viewer sends one heartbeat to the service and one to the peer, which counts too."""
    command = peers.command(language)
    if command is None:
        pytest.skip(f"no peer in {language}")
    await seed.seed(connection, 8, days=2, sessions=1, progress=lambda _: None)
    viewers = await seed.viewers(connection, 8)
    async with (
        served(database, JWT_SECRET=seed.SECRET) as service,
        peer.other(language, command, database, tmp_path) as other,
    ):
        for viewer in viewers:
            expected = await heartbeat(service.url, viewer)
            if expected["remaining_minutes"] is not None and not expected["is_educational"]:
                expected["used_minutes"] += 0.5
                expected["remaining_minutes"] -= 0.5
            assert await heartbeat(f"http://127.0.0.1:{other.port}", viewer) == expected
        assert (await rejected(other.port)).startswith("{")
    counted = "select sum(total_seconds) / 30 from viewing_sessions where ended_at is null"
    assert await connection.fetchval(counted) == 16


async def heartbeat(url: str, viewer: seed.Viewer) -> dict[str, Any]:
    _, body = seed.heartbeats([viewer])[:-1].split(b"\r\n\r\n")
    bearer = {"Authorization": f"Bearer {seed.token(viewer.account_id)}"}
    headers = {**bearer, "Content-Type": "application/json"}
    async with AsyncClient(timeout=60) as client:
        answer = await client.post(f"{url}{PATH}", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=dict[str, Any])


async def rejected(port: int) -> str:
    async with AsyncClient(timeout=60) as client:
        answer = await client.post(
            f"http://127.0.0.1:{port}{PATH}",
            content=b"{}",
            headers={"Authorization": f"Bearer {seed.token(seed.ADMIN)}x"},
        )
    assert answer.status_code == 401
    return answer.text


def test_a_missing_toolchain_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert peers.command("Go") is None
    assert capsys.readouterr().err == "no peer in Go: `go` is not installed\n"
