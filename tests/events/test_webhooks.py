"""Events reach the platform's webhook: at least once, signed, in order for each profile."""

import asyncio
import base64
import hmac
import json
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from datetime import datetime
from functools import partial
from operator import eq
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from bench.ports import free_port
from service.database.driver import Connection
from service.events import deliveries, receiver
from service.settings import Settings
from tests.conftest import Starter, logged, served
from tests.database.test_pool import PGBOUNCER, pooler
from tests.database.test_tls import authority, issue
from tests.events.receiving import (
    FAULT,
    OK,
    SECRET,
    Received,
    Receiving,
    accept,
    add_events,
    delivering,
    receiving,
)
from tests.eventually import eventually
from tests.family import HEARTBEAT, Family

PREVIOUS = "whsec_" + base64.b64encode(b"the key from before, 32 bytes...").decode()


@pytest.fixture
async def platform() -> AsyncIterator[Receiving]:
    """The platform's receiver."""
    async with receiving() as opened:
        yield opened


@pytest.fixture
async def hooked(settings: Settings, platform: Receiving, connection: Connection) -> Settings:
    """The settings with the webhook, to which every event is sent."""
    await connection.execute("update viewing_event_feed set webhook_from = 0")
    return replace(settings, webhook_url=platform.url, webhook_secret=SECRET)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come after milliseconds."""
    monkeypatch.setattr(deliveries, "back_off", lambda _: 0.02)


async def states(connection: Connection) -> dict[str, int]:
    """The number of events by their state, and of open deliveries."""
    row = await connection.fetchrow(
        "select count(*) filter (where delivered_at is not null) as delivered, "
        "count(*) filter (where delivery_id is not null) as sending, "
        "count(*) filter (where parked_at is not null) as parked, "
        "(select count(*) from viewing_deliveries) as deliveries from viewing_events"
    )
    return {name: count for name, count in dict(row or {}).items() if count}


def signature(secret: str, request: Received) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    parts = (request.headers["webhook-id"], request.headers["webhook-timestamp"])
    signed = b".".join([*map(str.encode, parts), request.body])
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


async def add_profiles(connection: Connection, family: Family, number: int) -> list[UUID]:
    """Further children of the family."""
    profiles = [uuid4() for _ in range(number)]
    await connection.execute(
        "insert into profiles (id, user_id, name, parental_rating, is_kids) "
        "select id, $2, 'Child', 'TV-G', true from unnest($1::uuid[]) as id",
        profiles,
        family.account,
    )
    return profiles


async def test_events_arrive_signed_in_order_as_one_batch(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    await add_events(connection, family.account, [family.child, None], range(4))
    async with delivering(hooked) as (metrics,):
        await eventually(lambda: metrics.webhook_deliveries["delivered"])
    [request] = platform.requests
    message = json.loads(request.body)
    assert [*message] == ["type", "timestamp", "data"]
    assert message["type"] == "events"
    assert request.numbers == [0, 1, 2, 3]
    stored = await connection.fetch("select * from viewing_events order by position")
    event = stored[0]
    occurred_at = event["occurred_at"].isoformat().replace("+00:00", "Z")
    assert request.events[0] == {
        "id": str(event["id"]),
        "type": "lock.cleared",
        "occurred_at": occurred_at,
        "account_id": str(family.account),
        "profile_id": str(family.child),
        "data": {"number": 0},
    }
    assert request.events[1]["profile_id"] is None
    assert request.headers[":target"] == "POST /events HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-signature"] == signature(SECRET, request)
    sent_at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), tz=None)
    assert abs((sent_at.astimezone() - event["occurred_at"]).total_seconds()) < 60
    assert await states(connection) == {"delivered": 4}


async def test_previous_secret_signs_too(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    await add_events(connection, family.account, [family.child], [1])
    async with delivering(replace(hooked, webhook_secret_previous=PREVIOUS)):
        await eventually(lambda: platform.requests)
    [request] = platform.requests
    both = [signature(SECRET, request), signature(PREVIOUS, request)]
    assert request.headers["webhook-signature"].split(" ") == both


async def test_events_before_the_first_start_with_a_webhook_are_not_sent(
    settings: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    await add_events(connection, family.account, [family.child], [1, 2])
    hooked = replace(settings, webhook_url=platform.url, webhook_secret=SECRET)
    begun = "select webhook_from from viewing_event_feed"
    async with delivering(hooked):
        assert await eventually(lambda: connection.fetchval(begun)) == 2
        await add_events(connection, family.account, [family.child], [3])
        await eventually(lambda: platform.requests)
    await add_events(connection, family.account, [family.child], [4])
    async with delivering(hooked):
        await eventually(lambda: len(platform.requests) == 2)
    assert platform.numbers == [3, 4]


async def test_rolled_back_and_unnumbered_events_are_not_sent(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    async with delivering(hooked):
        undone = connection.transaction()
        await undone.start()
        await add_events(connection, family.account, [family.child], [1])
        await undone.rollback()
        await add_events(connection, family.account, [family.child], [2])
        await connection.execute(
            "insert into viewing_events (account_id, type, occurred_at, data) "
            "values ($1, 'pin.locked', now(), '{\"number\": 3}')",
            family.account,
        )
        await eventually(lambda: platform.requests)
        await asyncio.sleep(0.6)
    assert platform.numbers == [2]


@pytest.mark.usefixtures("quick_retries")
async def test_instances_keep_the_order_of_each_profile_while_the_receiver_fails(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    """Each event is accepted once, never out of order, and never sent by two at the same time."""
    profiles = [family.child, family.adult, None, *await add_profiles(connection, family, 20)]
    under_way: set[int] = set()
    faults: list[str] = []
    chance = random.Random(1)

    async def answer(request: Received) -> bytes:
        numbers, done = set(request.numbers), {*platform.accepted}
        if numbers & under_way:
            faults.append(f"two send {numbers & under_way}")
        under_way.update(numbers)
        for number in request.numbers:
            earlier = {*range(number % len(profiles), number, len(profiles))}
            if earlier - done:
                faults.append(f"{number} came before {earlier - done}")
            done.add(number)
        await asyncio.sleep(chance.uniform(0, 0.05))
        under_way.difference_update(numbers)
        return chance.choices([OK, FAULT, b""], [6, 3, 1])[0]

    platform.answer = answer
    async with delivering(hooked, instances=3) as counts:
        for first in range(0, 1_000, 50):
            await add_events(connection, family.account, profiles, range(first, first + 50))
            profiles = [*profiles[50 % len(profiles) :], *profiles[: 50 % len(profiles)]]
            await asyncio.sleep(0.02)
        await eventually(lambda: len(platform.accepted) >= 1_000, seconds=60)
    assert faults == []
    assert sorted(platform.accepted) == [*range(1_000)]
    assert await states(connection) == {"delivered": 1_000}
    assert sum(each.webhook_deliveries["delivered"] > 0 for each in counts) > 1


def status(line: str, *headers: str, body: bytes = b"") -> bytes:
    head = [f"HTTP/1.1 {line}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (status("500 Fault"), "refused"),
        (status("301 Moved", "location: http://127.0.0.1:1/"), "refused"),
        (status("307 Elsewhere", "location: http://169.254.169.254/latest"), "refused"),
        (status("410 Gone"), "refused"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "lost"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 1_000_000, "lost"),
        (b"", "lost"),
    ],
    ids=lambda value: value[:24].decode() if isinstance(value, bytes) else value,
)
async def test_any_answer_without_2xx_is_retried(
    hooked: Settings,
    platform: Receiving,
    connection: Connection,
    family: Family,
    answer: bytes,
    outcome: str,
) -> None:
    answers = [answer]

    async def once(_: Received) -> bytes:
        return answers.pop() if answers else OK

    platform.answer = once
    await add_events(connection, family.account, [family.child], [1])
    async with delivering(hooked) as (metrics,):
        await eventually(lambda: metrics.webhook_deliveries["delivered"])
    assert metrics.webhook_deliveries[outcome] == 1
    first, second = platform.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert await states(connection) == {"delivered": 1}


@pytest.mark.parametrize(
    "answer",
    [
        status("204 No Content"),
        status("200 OK", body=b"\0\xff<html>" * 100),
        status("200 OK", "set-cookie: a=b", body=b"x" * 10_000_000),
        status("200 OK", "content-encoding: gzip", body=b"not gzip"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut",
    ],
    ids=["204", "garbage", "10 MB", "encoding", "cut"],
)
async def test_any_answer_with_2xx_ends_the_batch(
    hooked: Settings,
    platform: Receiving,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
) -> None:
    monkeypatch.setattr(receiver, "SEND_SECONDS", 1.0)

    async def reply(_: Received) -> bytes:
        return answer

    platform.answer = reply
    async with delivering(hooked) as (metrics,):
        for number in (1, 2):
            await add_events(connection, family.account, [family.child], [number])
            await eventually(
                lambda: metrics.webhook_deliveries["delivered"], until=partial(eq, number)
            )
    assert platform.numbers == [1, 2]
    assert "cookie" not in platform.requests[1].headers
    assert await states(connection) == {"delivered": 2}


async def hang(_: Received) -> bytes:
    await asyncio.sleep(60)
    return b""


async def one_failure(hooked: Settings) -> Counter[str]:
    """The outcomes of attempts after the first failure."""
    async with delivering(hooked) as (metrics,):
        await eventually(metrics.webhook_deliveries.total)
    return +metrics.webhook_deliveries


async def test_receiver_that_never_answers_is_given_up(
    hooked: Settings,
    platform: Receiving,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiver, "SEND_SECONDS", 0.2)
    platform.answer = hang
    await add_events(connection, family.account, [family.child], [1])
    assert await one_failure(hooked) == {"timed_out": 1}
    assert await states(connection) == {"sending": 1, "deliveries": 1}


async def test_status_that_trickles_is_given_up(
    settings: Settings,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiver, "SEND_SECONDS", 0.5)

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError):
            for byte in b"HTTP/1.1 200 OK and then a status line without an end" * 100:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)

    await connection.execute("update viewing_event_feed set webhook_from = 0")
    await add_events(connection, family.account, [family.child], [1])
    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        hooked = replace(settings, webhook_url=url, webhook_secret=SECRET)
        assert await one_failure(hooked) == {"timed_out": 1}
    assert await states(connection) == {"sending": 1, "deliveries": 1}


async def test_refused_connection_is_retried(
    hooked: Settings, connection: Connection, family: Family
) -> None:
    unreachable = replace(hooked, webhook_url=f"http://127.0.0.1:{free_port()}/")
    await add_events(connection, family.account, [family.child], [1])
    assert await one_failure(unreachable) == {"unreachable": 1}
    async with delivering(hooked) as (metrics,):
        await eventually(lambda: metrics.webhook_deliveries["delivered"])


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1", "ftp://127.0.0.1", "http://user:secret@[::1"]
)
async def test_proxy_that_cannot_be_used_is_a_failure_of_the_delivery_only(
    hooked: Settings,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    proxy: str,
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    await add_events(connection, family.account, [family.child], [1])
    assert await one_failure(hooked) == {"unreachable": 1}
    assert await states(connection) == {"sending": 1, "deliveries": 1}
    [line] = [record for record in caplog.records if record.message == "webhook_failed"]
    assert "proxy" in str(vars(line)["fields"])
    assert "secret" not in str(vars(line)["fields"])


async def test_certificate_must_be_of_an_authority_that_the_system_trusts(
    hooked: Settings,
    connection: Connection,
    family: Family,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issue(tmp_path, authority(tmp_path, "ours"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    async with receiving(Receiving(scheme="https"), tls) as platform:
        await add_events(connection, family.account, [family.child], [1])
        hooked = replace(hooked, webhook_url=platform.url)
        assert await one_failure(hooked) == {"unreachable": 1}
        assert platform.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ours.pem"))
        async with delivering(hooked) as (metrics,):
            await eventually(lambda: metrics.webhook_deliveries["delivered"])
    assert platform.accepted == [1]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("retry-after: 600", 600),
        ("retry-after: 86400", 3_600),
        (
            "date: Fri, 27 Nov 2026 03:00:00 GMT\r\nretry-after: Fri, 27 Nov 2026 03:10:00 GMT",
            600,
        ),
        ("retry-after: -5", 1.5),
        ("retry-after: soon", 1.5),
        ("retry-after: " + "9" * 5_000, 3_600),
    ],
)
async def test_retry_after_is_honoured_up_to_an_hour(
    hooked: Settings,
    platform: Receiving,
    connection: Connection,
    family: Family,
    header: str,
    seconds: float,
) -> None:
    async def busy(_: Received) -> bytes:
        return status("503 Busy", header)

    platform.answer = busy
    await add_events(connection, family.account, [family.child], [1])
    assert (await one_failure(hooked))["refused"] == 1
    pause = await connection.fetchval(
        "select extract(epoch from due_at - created_at)::float8 from viewing_deliveries"
    )
    assert seconds - 1 <= pause <= seconds + 5


def test_pauses_double_from_seconds_to_five_minutes() -> None:
    pauses = [[deliveries.back_off(attempts) for _ in range(100)] for attempts in range(1, 1_000)]
    longest = [*(2.0**n for n in range(1, 9)), *[300.0] * 991]
    for found, most in zip(pauses, longest, strict=True):
        assert most / 2 <= min(found) < max(found) <= most


@pytest.mark.usefixtures("quick_retries")
async def test_event_that_the_receiver_cannot_accept_parks_only_itself_after_a_day(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    """Later events of its profile wait for it; other profiles do not."""
    poison = 2

    async def answer(request: Received) -> bytes:
        return FAULT if poison in request.numbers else OK

    platform.answer = answer
    await add_events(connection, family.account, [family.child, family.adult, None], range(9))
    async with delivering(hooked) as (metrics,):
        waiting = {"delivered": 6, "sending": 3, "deliveries": 3}
        await eventually(lambda: states(connection), until=partial(eq, waiting))
        assert sorted(platform.accepted) == [0, 1, 3, 4, 6, 7]
        await add_events(connection, family.account, [family.child, None], [9, 10])
        await eventually(lambda: 9 in platform.accepted)
        assert metrics.webhook_events_parked == 0
        await connection.execute(
            "update viewing_deliveries set created_at = created_at - interval '24 hours'"
        )
        await eventually(lambda: 10 in platform.accepted)
    assert platform.accepted[-4:] == [9, 5, 8, 10]
    assert metrics.webhook_events_parked == 1
    assert await states(connection) == {"delivered": 10, "parked": 1}
    assert await connection.fetchval(
        "select data ->> 'number' from viewing_events where parked_at is not null"
    ) == str(poison)


@pytest.mark.usefixtures("quick_retries")
async def test_batch_is_not_split_while_the_receiver_is_unreachable(
    hooked: Settings, connection: Connection, family: Family
) -> None:
    unreachable = replace(hooked, webhook_url=f"http://127.0.0.1:{free_port()}/")
    await add_events(connection, family.account, [family.child], range(3))
    async with delivering(unreachable) as (metrics,):
        await eventually(lambda: metrics.webhook_deliveries["unreachable"] > 5)
        assert await states(connection) == {"sending": 3, "deliveries": 1}
        await connection.execute(
            "update viewing_deliveries set created_at = created_at - interval '24 hours'"
        )
        await eventually(lambda: metrics.webhook_events_parked == 3)
    assert await states(connection) == {"parked": 3}


@pytest.mark.usefixtures("quick_retries")
async def test_many_events_that_fail_do_not_stop_the_others(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    profiles = await add_profiles(connection, family, 60)

    async def answer(request: Received) -> bytes:
        return FAULT if min(request.numbers) < 50 else OK

    platform.answer = answer
    await add_events(connection, family.account, profiles, range(50))
    async with delivering(hooked):
        await eventually(
            lambda: connection.fetchval("select count(*) > 16 from viewing_deliveries")
        )
        await add_events(connection, family.account, profiles[50:], range(50, 60))
        await eventually(lambda: len(platform.accepted) == 10)


@pytest.mark.usefixtures("quick_retries")
async def test_child_with_thousands_of_events_that_fail_does_not_stop_the_others(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    async def answer(request: Received) -> bytes:
        return FAULT if min(request.numbers) < 5000 else OK

    platform.answer = answer
    await add_events(connection, family.account, [family.child], range(5000))
    async with delivering(hooked):
        await eventually(lambda: len(platform.requests) > 5)
        await add_events(connection, family.account, [family.adult], [5000, 5001])
        await eventually(lambda: len(platform.accepted) == 2)
    seen = await connection.fetchval("select webhook_from from viewing_event_feed")
    assert seen < 101, "the events that wait are found again"


async def test_open_batches_are_bounded_while_the_receiver_is_unreachable(
    hooked: Settings, connection: Connection, family: Family
) -> None:
    unreachable = replace(hooked, webhook_url=f"http://127.0.0.1:{free_port()}/")
    profiles = await add_profiles(connection, family, 2_000)
    await add_events(connection, family.account, profiles, range(2_000))
    async with delivering(unreachable, instances=2):
        await eventually(
            lambda: connection.fetchval("select count(*) = 16 from viewing_deliveries")
        )
        await asyncio.sleep(1)
    assert await states(connection) == {"sending": 1_600, "deliveries": 16}


async def test_killed_instance_loses_nothing(
    hooked: Settings, database: str, platform: Receiving, connection: Connection, family: Family
) -> None:
    platform.answer = hang
    variables = {"WEBHOOK_URL": platform.url, "WEBHOOK_SECRET": SECRET}
    async with served(database, **variables) as killed:
        await add_events(connection, family.account, [family.child], [1, 2])
        await eventually(lambda: platform.requests)
        killed.process.kill()
        await asyncio.to_thread(killed.process.wait)
    platform.answer = accept
    async with delivering(hooked):
        await asyncio.sleep(0.6)
        assert platform.accepted == []  # the claim lasts
        await connection.execute("update viewing_deliveries set due_at = now()")
        await eventually(lambda: platform.accepted)
    first, second = platform.requests
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    assert await states(connection) == {"delivered": 2}


async def test_late_answer_does_not_end_the_attempt_of_another_instance(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    answered = asyncio.Event()

    async def late(_: Received) -> bytes:
        await answered.wait()
        return OK

    platform.answer = late
    await add_events(connection, family.account, [family.child], [1])
    async with delivering(hooked) as (metrics,):
        await eventually(lambda: platform.requests)
        await connection.execute("update viewing_deliveries set attempts = attempts + 1")
        answered.set()
        await eventually(lambda: metrics.webhook_deliveries["delivered"])
    assert await states(connection) == {"sending": 1, "deliveries": 1}


async def test_outcome_is_stored_after_the_database_connection_was_lost(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    answered = asyncio.Event()

    async def late(_: Received) -> bytes:
        await answered.wait()
        return OK

    platform.answer = late
    await add_events(connection, family.account, [family.child], [1])
    async with delivering(hooked):
        await eventually(lambda: platform.requests)
        await connection.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        answered.set()
        await eventually(lambda: delivered(connection))
    assert len(platform.requests) == 1


async def delivered(connection: Connection) -> int:
    return (await states(connection)).get("delivered", 0)


async def test_stop_waits_for_an_attempt_and_begins_no_other(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    stopping = asyncio.Event()

    async def late(_: Received) -> bytes:
        await stopping.wait()
        return OK

    async def add_another() -> None:
        await add_events(connection, family.account, [family.adult], [2])
        stopping.set()

    platform.answer = late
    await add_events(connection, family.account, [family.child], [1])
    async with delivering(replace(hooked, shutdown_grace_seconds=240.0)):
        await eventually(lambda: platform.requests)
        adding = asyncio.create_task(add_another())  # runs when the stop has begun
    await adding
    assert platform.numbers == [1]
    assert await states(connection) == {"delivered": 1}


async def test_events_whose_batch_is_missing_are_sent_again_in_their_order(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    """Only some tables were restored, or an operator has emptied the small one."""
    await add_events(connection, family.account, [family.child], [1, 2])
    unreachable = replace(hooked, webhook_url=f"http://127.0.0.1:{free_port()}/")
    await one_failure(unreachable)
    await add_events(connection, family.account, [family.child], [3])
    await connection.execute("truncate viewing_deliveries")
    async with delivering(hooked):
        await eventually(lambda: states(connection), until=partial(eq, {"delivered": 3}))
    assert platform.numbers == [1, 2, 3]


async def test_batch_whose_events_were_erased_is_deleted(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    async def fault(_: Received) -> bytes:
        return FAULT

    platform.answer = fault
    await add_events(connection, family.account, [family.child], [1])
    async with delivering(hooked) as (metrics,):
        await eventually(metrics.webhook_deliveries.total)
        await connection.execute("delete from viewing_events")
        await connection.execute("update viewing_deliveries set due_at = now()")
        await eventually(lambda: connection.fetchval("select count(*) = 0 from viewing_deliveries"))


async def test_heartbeats_do_not_wait_for_a_receiver_that_hangs(
    hooked: Settings, platform: Receiving, start: Starter, connection: Connection, family: Family
) -> None:
    """Nothing of a delivery is open in the database while it is being sent."""
    platform.answer = hang
    running = await start(hooked)
    await add_events(connection, family.account, [family.child], [1])
    await eventually(lambda: platform.requests)
    for _ in range(3):
        answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
        assert answer.json()["enforcement"] == "allowed"
    open_transactions = (
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and state = 'idle in transaction'"
    )
    await eventually(lambda: connection.fetchval(open_transactions), until=partial(eq, 0))
    assert platform.accepted == []


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_events_are_sent_through_a_pooler_in_transaction_mode(
    hooked: Settings, platform: Receiving, connection: Connection, family: Family
) -> None:
    async with pooler(hooked.database_url) as url:
        await add_events(connection, family.account, [family.child], range(5))
        async with delivering(replace(hooked, database_url=url, statement_cache_size=0)):
            await eventually(lambda: len(platform.accepted) == 5)
    assert await states(connection) == {"delivered": 5}


@pytest.mark.usefixtures("quick_retries")
async def test_secrets_and_credentials_of_the_url_are_sent_and_never_logged(
    hooked: Settings,
    platform: Receiving,
    connection: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    answers = [FAULT, b"", b"nonsense\r\n\r\n"]

    async def answer(_: Received) -> bytes:
        return answers.pop() if answers else OK

    platform.answer = answer
    url = platform.url.replace("http://", "http://hook:open%20sesame@")
    await add_events(connection, family.account, [family.child], [1])
    async with delivering(replace(hooked, webhook_url=url)) as (metrics,):
        await eventually(lambda: metrics.webhook_deliveries["delivered"])
    expected = base64.b64encode(b"hook:open sesame").decode()
    assert {each.headers["authorization"] for each in platform.requests} == {f"Basic {expected}"}
    lines = [f"{line.getMessage()} {vars(line)}" for line in caplog.records]
    assert [line for line in lines if "sesame" in line or expected in line or SECRET in line] == []
    assert logged(caplog, "webhook_failed")
