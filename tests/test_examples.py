"""The examples run unchanged, as processes, against a live service."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import httpx
import pytest

from bench.ports import free_port
from service.database.driver import Connection
from tests.conftest import ROOT, RunningService, served
from tests.eventually import eventually
from tests.family import (
    HEARTBEAT,
    PIN,
    Family,
    add_family,
    bearer,
    far_reset_hour,
    keep_today,
    open_sessions,
    session_seconds,
)

QUICK = ("--interval", "0.3")
ASKED = "BLOCKED  no viewing time left today; a parent has been asked for more"


@pytest.fixture
async def connection(service: RunningService) -> AsyncIterator[Connection]:
    """A connection to the live service's database."""
    opened = await asyncpg.connect(service.dsn)
    yield opened
    await opened.close()


async def run(
    name: str, family: Family, url: str, *arguments: str, typed: bytes = b""
) -> tuple[int, str]:
    """The exit code and the output of an example with `typed` as its standard input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples" / name),
        "--url",
        url,
        *arguments,
        env={**os.environ, "VIEWING_TIME_TOKEN": bearer(family.account)["Authorization"][7:]},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(typed), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def play(family: Family, url: str, beats: int, *arguments: str) -> list[str]:
    """The lines that the player prints: one for each heartbeat and for each missing response."""
    options = ("--profile", str(family.child), "--title", str(family.title), *QUICK)
    code, output = await run("player.py", family, url, *options, "--beats", str(beats), *arguments)
    assert code == 0, output
    return output.splitlines()


async def parent(family: Family, url: str, *arguments: str) -> str:
    code, output = await run("parent.py", family, url, *arguments)
    assert code == 0, output
    return output


async def use(connection: Connection, family: Family, seconds: int) -> None:
    """Stores a balance of today with `seconds` used."""
    await connection.execute(
        "insert into viewing_time_balances "
        "(id, profile_id, reset_date, used_seconds, educational_seconds, "
        "is_unlimited_override, updated_at) "
        "values (gen_random_uuid(), $1, (now() at time zone 'UTC')::date, $2, 0, false, now())",
        family.child,
        seconds,
    )
    await keep_today(connection, family.child)


async def test_player_counts_and_ends_its_session(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    lines = await play(family, service.url, 3)
    assert lines == [f"playing  {left:g} minutes left" for left in (119.5, 119.0, 118.5)]
    assert await session_seconds(connection, family.child) == 90
    assert await open_sessions(connection, family.child) == 0


async def test_player_warns_blocks_and_continues_after_a_grant(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    await use(connection, family, (120 - 15) * 60 - 30)
    assert await play(family, service.url, 1) == ["WARNING  15 minutes left"]
    await connection.execute(
        "update viewing_time_balances set used_seconds = $2 where profile_id = $1",
        family.child,
        (120 - 1) * 60,
    )
    nothing_left = ASKED
    assert await play(family, service.url, 4) == [
        "WARNING  0.5 minutes left",
        nothing_left,
        nothing_left,
        nothing_left,
    ]
    assert await session_seconds(connection, family.child) == 90
    assert await open_sessions(connection, family.child) == 0
    assert "left      15 min" in await parent(family, service.url, "grant", str(family.child), "15")
    assert await play(family, service.url, 1) == ["WARNING  14.5 minutes left"]


async def test_player_shows_a_warning_once(service: RunningService, connection: Connection) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    await use(connection, family, (120 - 6) * 60)
    lines = await play(family, service.url, 4)
    shown = ("WARNING  5.5", "WARNING  5", "playing  4.5", "playing  4")
    assert lines == [f"{start} minutes left" for start in shown]


async def request_of(connection: Connection, family: Family) -> UUID | None:
    """The pending request of the child, if there is one."""
    found: UUID | None = await connection.fetchval(
        "select id from viewing_requests where profile_id = $1 and status = 'pending'", family.child
    )
    return found


@pytest.mark.parametrize(
    ("decision", "last"), [("approve", "playing  29.5 minutes left"), ("deny", None)]
)
async def test_player_asks_when_it_is_blocked_and_follows_the_decision(
    service: RunningService, connection: Connection, decision: str, last: str | None
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    await use(connection, family, 120 * 60)
    player = asyncio.create_task(play(family, service.url, 12))
    request_id = await eventually(lambda: request_of(connection, family))
    async with httpx.AsyncClient(base_url=service.url, headers=family.bearer, timeout=60) as client:
        url = f"/api/v1/parental-controls/requests/{request_id}/{decision}"
        assert (await client.post(url, json={})).status_code == 200
    lines = await player
    assert lines[0] == ASKED
    denied = "BLOCKED  no viewing time left today; a parent has said no"
    assert (last or denied) in lines
    assert (
        await connection.fetchval(
            "select count(*) from viewing_requests where profile_id = $1 and minutes = 30",
            family.child,
        )
        == 1
    )


@asynccontextmanager
async def unreliable(
    service: RunningService, lost: set[int]
) -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that drops the responses in `lost`; yields its URL and the keys of the requests."""
    keys: list[str] = []
    count = 0

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        target = service.url.removeprefix("http://").split(":")
        there_reader, there_writer = await asyncio.open_connection(target[0], int(target[1]))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            content = await reader.readexactly(int(length[1]) if length else 0)
            if key := re.search(rb"(?i)idempotency-key: (\S+)", head):
                keys.append(key[1].decode())
            head = re.sub(rb"(?i)connection: [^\r]*", b"Connection: close", head)
            there_writer.write(head + content)
            answer = await there_reader.read()
            if count not in lost:
                writer.write(answer)
                await writer.drain()
            count += 1
        finally:
            for each in (writer, there_writer):
                each.close()
            ends = (writer.wait_closed(), there_writer.wait_closed())
            await asyncio.gather(*ends, return_exceptions=True)

    async with await asyncio.start_server(carry, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", keys


async def test_player_retries_with_the_same_key(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    async with unreliable(service, lost={1, 2}) as (url, keys):
        lines = await play(family, url, 1, "--interval", "3")
    assert lines[0].startswith("  no answer: ")
    assert lines[-1].startswith("playing  ")
    eligible, first, second, third, _end = keys
    assert first == second == third != eligible


async def test_player_shows_the_block_screen_while_the_service_is_unreachable(
    connection: Connection,
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    options = ("--profile", str(family.child), "--title", str(family.title), *QUICK)
    url = f"http://127.0.0.1:{free_port()}"
    code, output = await run("player.py", family, url, *options, "--beats", "2")
    lines = output.splitlines()
    shown = [line for line in lines if not line.startswith("  no answer: ConnectError")]
    blocked = ["BLOCKED  viewing cannot be counted at the moment"] * 2
    assert (code, shown) == (1, [*blocked, "The service could not be reached"])


async def test_player_continues_after_a_first_heartbeat_that_could_not_be_counted(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    async with (
        served(service.dsn, REQUEST_TIMEOUT_SECONDS="2") as impatient,
        connection.transaction(),
    ):
        await connection.execute("lock table viewing_time_balances in exclusive mode")
        lines = await play(family, impatient.url, 2)
    assert lines == [ASKED] * 2
    assert await session_seconds(connection, family.child) == 0


async def test_player_does_not_ask_for_more_time_while_the_profile_is_locked(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    async with httpx.AsyncClient(base_url=service.url, headers=family.bearer, timeout=60) as client:
        url = f"/api/v1/parental-controls/profiles/{family.child}/lock"
        assert (await client.put(url, json={})).status_code == 200
    lines = await play(family, service.url, 2)
    assert lines == ["BLOCKED  a parent has locked this profile"] * 2
    assert await request_of(connection, family) is None


async def test_player_stops_on_a_client_error(
    service: RunningService, connection: Connection
) -> None:
    family, stranger = (
        await add_family(connection, reset_hour=far_reset_hour()),
        await add_family(connection, reset_hour=far_reset_hour()),
    )
    options = ("--profile", str(stranger.child), "--title", str(family.title), *QUICK)
    code, output = await run("player.py", family, service.url, *options)
    assert code == 1
    assert output.startswith("BLOCKED  403 ")


async def test_player_stops_when_another_device_plays(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    options = ("--profile", str(family.child), "--title", str(family.title), *QUICK)
    player = asyncio.create_task(run("player.py", family, service.url, *options))
    await eventually(lambda: open_sessions(connection, family.child))
    body = family.beat(device_id="tablet", device_type="tablet")
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        answer = await client.post(HEARTBEAT, json=body, headers=family.bearer)
    session = answer.json()["session_id"]
    code, output = await player
    assert code == 1
    assert output.splitlines()[-1].startswith("BLOCKED  409 ")
    # The player does not move the end of its session, nor does it end the other one.
    assert await connection.fetchval(
        "select t.started_at = s.ended_at from viewing_sessions t, viewing_sessions s "
        "where t.id = $1 and t.ended_at is null and s.id <> t.id and s.profile_id = t.profile_id",
        UUID(session),
    )


async def test_parent_sets_pin_limits_and_grants(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, limit=60)
    await connection.execute("update users set pin_hash = null where id = $1", family.account)
    url, child = service.url, str(family.child)
    assert await parent(family, url, "set-pin", "--pin", PIN) == "PIN set successfully\n"
    assert await parent(family, url, "verify", "--pin", PIN) == "The PIN is right\n"
    changed = await parent(family, url, "set-pin", "--pin", "4321", "--current", PIN)
    assert changed == "PIN set successfully\n"
    assert await run("parent.py", family, url, "verify", "--pin", PIN) == (1, "Incorrect PIN\n")
    shown = await parent(family, url, "limits", child)
    assert shown.splitlines() == [
        "weekdays  60 min",
        "weekends  60 min",
        "resets    00:00 UTC",
        "lessons   are free",
    ]
    shown = await parent(
        family, url, "limits", child, "--weekday", "90", "--weekend", "unlimited",
        "--timezone", "Europe/Berlin", "--reset-hour", "6", "--pin", "4321",
    )  # fmt: skip
    assert shown.splitlines() == [
        "weekdays  90 min",
        "weekends  unlimited",
        "resets    06:00 Europe/Berlin",
        "lessons   are free",
    ]
    printed = await run("parent.py", family, url, "limits", child, "--weekday", "20")
    assert printed == (1, "weekday_limit_minutes must be a multiple of 15 minutes\n")
    code, output = await run("parent.py", family, url, "limits", child, "--timezone", "Mars/Base")
    assert (code, output.partition(":")[0]) == (1, "timezone")
    granted = await parent(family, url, "grant", child, "unlimited", "--pin", "4321")
    assert granted.splitlines() == ["granted   unlimited", "left      unlimited"]


async def request_time(family: Family, url: str) -> None:
    """Requests half an hour for the child."""
    body = {"profile_id": str(family.child), "minutes": 30, "message": "Please"}
    async with httpx.AsyncClient(base_url=url, headers=family.bearer, timeout=60) as client:
        answer = await client.post("/api/v1/viewing-time/requests", json=body)
        assert answer.status_code == 201


async def test_parent_follows_events_and_approves_a_request(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    following = asyncio.create_task(
        parent(family, service.url, "follow", "--approve", "--events", "3")
    )

    async def is_following() -> bool:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            return "viewing_time_event_streams 1.0" in (await client.get("/metrics")).text

    await eventually(is_following)
    await request_time(family, service.url)
    lines = (await following).splitlines()
    types = [line.split()[-1] for line in lines if "approved  " not in line]
    assert types[0] == "request.created"
    assert {*types[1:]} == {"request.approved", "grant.created"}  # of one statement
    assert "approved  30 min" in lines


async def test_parent_lists_approves_and_denies_requests(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    await request_time(family, service.url)
    shown = await parent(family, service.url, "requests")
    request_id, *rest = shown.split()
    assert rest == ["30", "min", "Please"]
    approved = await parent(family, service.url, "approve", request_id, "--minutes", "15")
    assert approved == "approved  15 min\n"
    code, output = await run("parent.py", family, service.url, "deny", request_id)
    assert (code, output.strip() != "") == (1, True)
    await request_time(family, service.url)
    (request_id,) = (await parent(family, service.url, "requests")).split()[:1]
    assert await parent(family, service.url, "deny", request_id, "--pin", PIN) == "denied\n"


async def test_parent_reads_a_pin_from_standard_input(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    needed = "{} is needed: type it at a terminal, or pass it as an option\n"
    for name, arguments in (
        ("Current PIN", ("set-pin", "--pin", "4321")),
        ("New PIN", ("set-pin",)),
        ("PIN", ("verify",)),
        ("PIN", ("limits", str(family.child), "--reset-hour", "6")),
    ):
        printed = await run("parent.py", family, service.url, *arguments)
        assert printed == (1, needed.format(name))
    typed = f"4321\n{PIN}\n".encode()
    printed = await run("parent.py", family, service.url, "set-pin", typed=typed)
    assert printed == (0, "PIN set successfully\n")


async def test_parent_prints_history_and_report(
    service: RunningService, connection: Connection
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    await play(family, service.url, 2)
    history = (await parent(family, service.url, "history", str(family.child))).splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d  1 min", history[0])
    assert re.fullmatch(r"  \d\d:\d\d +1 min  Cartoon", history[1])
    report = (await parent(family, service.url, "report")).splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d", report[0])
    assert report[1] == "Ada: 1 min, 0.1 % of the limit"
    assert len(report) == 2 + 7 + 1
    assert report[8].endswith("1 min  #")
    assert re.fullmatch(r" +1 min  Cartoon", report[9])
    [url] = (await parent(family, service.url, "page")).splitlines()
    async with httpx.AsyncClient(timeout=60) as browser:
        assert "counted" in (await browser.get(url)).text
        assert (await browser.get(url)).status_code == 404


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("parent.py", ["report"]),
        ("player.py", ["--profile", "{child}", "--title", "{title}", *QUICK]),
        ("receiver.py", ["--port", "0"]),
    ],
)
async def test_an_example_ends_quietly_when_its_output_is_closed(
    service: RunningService, connection: Connection, name: str, arguments: list[str]
) -> None:
    family = await add_family(connection, reset_hour=far_reset_hour())
    given = [each.format(child=family.child, title=family.title) for each in arguments]
    if name != "receiver.py":
        given = ["--url", service.url, *given]
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples" / name),
        *given,
        env={
            **os.environ,
            "VIEWING_TIME_TOKEN": bearer(family.account)["Authorization"][7:],
            "WEBHOOK_SECRET": "whsec_" + "c2VjcmV0" * 6,
            "PYTHONUNBUFFERED": "",  # so that text is still to be written at the end
        },
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, errors.decode()) == (141, "")
    assert await open_sessions(connection, family.child) == 0


@pytest.mark.parametrize("name", ["player.py", "parent.py"])
async def test_help_and_missing_token(name: str) -> None:
    path = str(ROOT / "examples" / name)
    environment = {n: v for n, v in os.environ.items() if n != "VIEWING_TIME_TOKEN"}
    complete = {"player.py": ["--profile", "x", "--title", "x"], "parent.py": ["report"]}
    for arguments, is_success, printed in (
        (["--help"], True, b"usage: "),
        (complete[name], False, b"VIEWING_TIME_TOKEN must hold an access token"),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            path,
            *arguments,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert (process.returncode == 0) is is_success
        assert printed in output
