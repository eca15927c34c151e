"""examples/receiver.py runs unchanged, as a process, and stores each event once."""

import asyncio
import base64
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from operator import eq
from pathlib import Path
from uuid import uuid4

import httpx
from msgspec.structs import replace

from service.database.driver import Connection
from service.events import kept
from service.settings import Settings
from tests.conftest import ROOT
from tests.events.receiving import SECRET, add_events, delivering
from tests.eventually import eventually
from tests.family import Family
from tests.processes import dying_with_parent


@asynccontextmanager
async def example(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """The URL of the example, and the file with its output."""
    output = folder / f"output-{uuid4()}"
    with output.open("ab") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "examples" / "receiver.py"),
                *("--port", "0", "--database", str(folder / "events.db")),
            ],
            env={**os.environ, "WEBHOOK_SECRET": SECRET},
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=dying_with_parent(),
        )
    try:
        lines = await eventually(lambda: lines_of(output, "listening on "))
        yield f"http://127.0.0.1:{lines[-1].split()[-1]}/", output
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


def numbers(output: Path) -> list[int]:
    """The numbers of the events that the example has printed."""
    lines = lines_of(output, "lock.cleared")
    return [json.loads(line.split(maxsplit=2)[2])["number"] for line in lines]


def lines_of(output: Path, start: str) -> list[str]:
    lines = output.read_text().splitlines(keepends=True)
    return [line.strip() for line in lines if line.startswith(start) and line.endswith("\n")]


def signed(body: bytes, at: float, secret: str = SECRET) -> dict[str, str]:
    """The headers of a request that was signed `at` a time."""
    webhook_id, timestamp = str(uuid4()), str(int(at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{webhook_id}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1,x v1," + base64.b64encode(digest).decode(),
    }


async def test_example_stores_each_event_once_also_after_a_restart(
    settings: Settings, connection: Connection, family: Family, tmp_path: Path
) -> None:
    await connection.execute("update viewing_event_feed set webhook_from = 0")
    await add_events(connection, family.account, [family.child], range(250))
    for expected in (250, 0):
        async with example(tmp_path) as (url, output):
            hooked = replace(settings, webhook_url=url, webhook_secret=SECRET)
            async with delivering(hooked) as (counts,):
                await eventually(lambda: counts.webhook_deliveries["delivered"] == 3)
            await eventually(partial(numbers, output), until=partial(eq, [*range(expected)]))
        assert numbers(output) == [*range(expected)]
        since = datetime(2020, 1, 1, tzinfo=UTC)
        assert await kept.show(settings, since, print, redeliver=True) == 250


async def test_example_rejects_what_the_service_has_not_signed_lately(tmp_path: Path) -> None:
    event = f'{{"id": "{uuid4()}", "type": "lock.set", "profile_id": null, "data": {{}}}}'
    body, now = f'{{"data": {{"events": [{event}]}}}}'.encode(), time.time()
    other = "whsec_" + base64.b64encode(b"another key, also 32 bytes long.").decode()
    right = signed(body, now)
    refused = [
        (401, signed(body, now, other)),
        (401, signed(body + b" ", now)),
        (401, {**right, "webhook-id": str(uuid4())}),
        (401, {**right, "webhook-timestamp": str(int(now) + 1)}),
        (401, {**right, "webhook-signature": ""}),
        (401, {**right, "webhook-signature": "v1"}),
        (400, signed(body, now - 600)),
        (400, signed(body, now + 600)),
        (400, {**right, "webhook-timestamp": "9" * 5_000}),
        (400, {}),
    ]
    async with example(tmp_path) as (url, output), httpx.AsyncClient(timeout=60) as client:
        for status, headers in refused:
            answer = await client.post(url, content=body, headers=headers)
            assert answer.status_code == status, headers
        assert (await client.post(url, content=body, headers=right)).status_code == 204
        await eventually(lambda: lines_of(output, "lock.set"))  # after the answer
    assert lines_of(output, "lock.set") == ["lock.set None {}"]
    assert len(lines_of(output, "refused: ")) == len(refused)


async def test_example_stores_events_and_ends_quietly_when_its_output_is_closed(
    tmp_path: Path,
) -> None:
    event = f'{{"id": "{uuid4()}", "type": "lock.set", "profile_id": null, "data": {{}}}}'
    body = f'{{"data": {{"events": [{event}]}}}}'.encode()
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples" / "receiver.py"),
        *("--port", "0", "--database", str(tmp_path / "events.db")),
        env={**os.environ, "WEBHOOK_SECRET": SECRET, "PYTHONUNBUFFERED": ""},
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=dying_with_parent(),
    )
    os.close(writing)
    port = (await asyncio.to_thread(os.read, reading, 100)).split()[-1].decode()
    os.close(reading)
    async with httpx.AsyncClient(timeout=60) as client:
        url = f"http://127.0.0.1:{port}/"
        answer = await client.post(url, content=body, headers=signed(body, time.time()))
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (answer.status_code, process.returncode, errors.decode()) == (204, 141, "")
