"""The stream of an account's events: complete, in order, its own only, and bounded."""

import asyncio
import random
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from bench.procfs import resident_bytes
from service.database.driver import Connection
from service.database.statement import STATEMENT_TIMES
from service.events import outbox, stream
from service.events.stream import MAX_STREAMS_PER_ACCOUNT
from service.parents import event_stream
from service.settings import Settings
from tests.conftest import Running, RunningService, Starter, served
from tests.eventually import eventually
from tests.family import Family, add_family, bearer
from tests.parents.following import PATH, WRITE, following

MANY = 600
MAX = 500
KIB_PER_STREAM = 20


async def write(connection: Connection, family: Family, first: int, last: int) -> list[UUID]:
    """Writes the events `first` to `last` of the child; returns their ids."""
    rows = await connection.fetch(WRITE, family.account, family.child, first, last)
    return [row[0] for row in rows]


async def numbered(connection: Connection, running: Running) -> None:
    """Returns when every event has its position, and the instance has read it."""
    query = "select count(*) from viewing_events where position is null"
    await eventually(lambda: connection.fetchval(query), until=lambda count: count == 0)
    position = await connection.fetchval("select position from viewing_event_feed")
    await eventually(lambda: running.context.streams.position == position)


def runs(*statements: str) -> int:
    """How often this process has run some statements."""
    return sum(sum(STATEMENT_TIMES[name].counts) for name in statements)


async def listening(running: Running, opened: AsyncExitStack) -> str:
    """The URL of a server in this process."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(running.transport.connect, "127.0.0.1", 0)
    opened.callback(server.close)
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def url(running: Running, opened: AsyncExitStack) -> str:
    return await listening(running, opened)


async def test_event_arrives_while_the_response_goes_on(
    url: str, connection: Connection, family: Family
) -> None:
    async with following(url, family.bearer) as client:
        assert client.status == 200
        assert client.headers["content-type"] == "text/event-stream"
        assert client.headers["cache-control"] == "no-store, no-transform"
        assert client.headers["x-accel-buffering"] == "no"
        await client.take()
        ids = await write(connection, family, 1, 2)
        began = time.monotonic()
        await client.until(2)
        assert time.monotonic() - began < 30
    first = client.events[0]
    assert first == {
        "id": str(ids[0]),
        "type": "lock.cleared",
        "occurred_at": first["occurred_at"],
        "account_id": str(family.account),
        "profile_id": str(family.child),
        "data": {"number": 1},
    }
    assert client.numbers == [1, 2]


async def test_beginning_is_sent_at_once_and_fills_the_buffer_of_a_proxy(
    url: str, family: Family
) -> None:
    async with following(url, family.bearer) as client:
        assert len(await client.read()) > 2048


async def test_stream_has_only_the_events_of_its_account(
    url: str, connection: Connection, family: Family
) -> None:
    stranger = await add_family(connection)
    async with following(url, family.bearer) as client:
        await client.take()
        await write(connection, stranger, 1, 3)
        await write(connection, family, 4, 4)
        await client.until(1)
    assert client.numbers == [4]


async def test_client_that_had_no_event_resumes_without_a_gap(
    url: str, running: Running, connection: Connection, family: Family
) -> None:
    await write(connection, family, 1, 2)
    await numbered(connection, running)
    async with following(url, family.bearer) as client:
        await client.take()
        assert client.events == []
    await write(connection, family, 3, 4)
    async with following(url, family.bearer, client.last_id) as client:
        await client.until(2)
    assert client.numbers == [3, 4]


async def test_first_event_of_an_account_is_not_lost_between_two_streams(
    url: str, connection: Connection, family: Family
) -> None:
    async with following(url, family.bearer) as client:
        await client.take()
    await write(connection, family, 1, 1)
    async with following(url, family.bearer, client.last_id) as client:
        await client.until(1)
    assert client.numbers == [1]


async def test_known_id_in_header_or_query_resumes_after_its_event(
    url: str,
    running: Running,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_stream, "MAX_PAGE", 3)
    ids = await write(connection, family, 1, 10)
    await numbered(connection, running)
    async with following(url, family.bearer, ids[1]) as client:
        await client.until(8)
    assert client.numbers == [*range(3, 11)]
    async with following(url, family.bearer, query=f"?last_event_id={ids[7]}") as client:
        await client.until(2)
    assert client.numbers == [9, 10]


@pytest.mark.parametrize("kind", ["of another account", "deleted"])
async def test_unknown_id_stands_for_its_time(
    url: str, running: Running, connection: Connection, family: Family, kind: str
) -> None:
    await write(connection, family, 1, 2)
    await asyncio.sleep(0.005)
    other = family if kind == "deleted" else await add_family(connection)
    (last_id,) = await write(connection, other, 3, 3)
    await asyncio.sleep(0.005)
    await write(connection, family, 4, 5)
    await numbered(connection, running)
    if kind == "deleted":
        await connection.execute("delete from viewing_events where id = $1", last_id)
    async with following(url, family.bearer, last_id) as client:
        await client.until(2)
    assert client.numbers == [4, 5]


async def test_id_of_the_future_gets_what_happens_from_now_on(
    url: str, running: Running, connection: Connection, family: Family
) -> None:
    await write(connection, family, 1, 2)
    await numbered(connection, running)
    async with following(url, family.bearer, UUID(int=2**128 - 1)) as client:
        await client.take()
        await write(connection, family, 3, 3)
        await client.until(1)
    assert client.numbers == [3]


@pytest.mark.parametrize("last_id", ["7", "x" * 300, "' or 1=1 --", "0" * 33])
async def test_id_that_is_not_a_uuid_is_rejected(url: str, family: Family, last_id: str) -> None:
    async with following(url, family.bearer, last_id) as client:
        assert client.status == 422


async def test_unknown_account_is_rejected(url: str, family: Family) -> None:
    async with following(url, bearer(uuid4())) as client:
        assert client.status == 401
    async with following(url, {}) as client:
        assert client.status == 401


async def test_quiet_stream_gets_comments_and_costs_no_statement(
    start: Starter, opened: AsyncExitStack, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "COMMENT_SECONDS", 0.5)
    monkeypatch.setattr(stream, "TURNS", 2)
    running = await start()
    url = await listening(running, opened)
    async with following(url, family.bearer) as client:
        await client.take()
        ran = runs("event_new", "event_page")
        async with asyncio.timeout(60):
            while client.comments < 4:
                await client.take()
        assert runs("event_new", "event_page") == ran
        pool = running.context.pool
        await eventually(lambda: pool.get_idle_size() == pool.get_size())


async def test_twenty_first_stream_of_an_account_is_rejected_until_one_ends(
    url: str, running: Running, family: Family, opened: AsyncExitStack
) -> None:
    clients = [
        await opened.enter_async_context(following(url, family.bearer))
        for _ in range(MAX_STREAMS_PER_ACCOUNT)
    ]
    assert {client.status for client in clients} == {200}
    async with following(url, family.bearer) as client:
        assert client.status == 429
        assert client.headers["retry-after"] == "60"
    clients[0].writer.close()
    await eventually(lambda: len(running.context.streams) == MAX_STREAMS_PER_ACCOUNT - 1)
    async with following(url, family.bearer) as client:
        assert client.status == 200


@pytest.mark.parametrize("seconds", ["0", "3601", "x", "1.5"])
async def test_time_that_a_stream_cannot_have_is_rejected(
    url: str, family: Family, seconds: str
) -> None:
    async with following(url, family.bearer, query=f"?seconds={seconds}") as client:
        assert client.status == 422


async def test_client_behind_a_proxy_that_keeps_whole_responses_gets_every_event_once(
    url: str, running: Running, connection: Connection, family: Family
) -> None:
    last_id, numbers = None, []
    for first in (1, 3, 5):
        async with following(url, family.bearer, last_id, query="?seconds=1") as client:
            await write(connection, family, first, first + 1)
            began = time.monotonic()
            await client.to_end()  # the proxy passes nothing on before
            assert time.monotonic() - began < 50
            last_id = client.last_id
            numbers += client.numbers
    async with following(url, family.bearer, last_id, query="?seconds=1") as client:
        await client.to_end()
        numbers += client.numbers
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert running.context.streams.ended["requested"] == 4


async def test_stream_ends_when_its_token_expires(
    url: str, running: Running, family: Family
) -> None:
    expires = running.clock() + timedelta(seconds=1)
    async with following(url, bearer(family.account, exp=expires)) as client:
        began = time.monotonic()
        await client.to_end()
        assert time.monotonic() - began < 50
    assert running.context.streams.ended["expired"] == 1


async def test_streams_of_an_account_end_when_it_becomes_inactive(
    start: Starter,
    opened: AsyncExitStack,
    connection: Connection,
    family: Family,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "CHECK_SECONDS", 0.2)
    running = await start()
    url = await listening(running, opened)
    stranger = await add_family(connection)
    async with (
        following(url, family.bearer) as client,
        following(url, stranger.bearer) as other,
    ):
        await connection.execute("update users set is_active = false where id = $1", family.account)
        await client.to_end()
        await other.take()
        await write(connection, stranger, 1, 1)
        await other.until(1)
    assert running.context.streams.ended["inactive"] == 1


def test_inactive_accounts_lose_their_streams_within_a_minute() -> None:
    assert outbox.CHECK_SECONDS + outbox.STATEMENT_SECONDS + outbox.TICK_SECONDS < 60


async def test_slow_reader_is_cut_off_and_its_memory_stays_bounded(
    url: str, running: Running, connection: Connection, family: Family
) -> None:
    where = url.rsplit(":", 1)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", int(where[1])))
        head = f"GET {PATH} HTTP/1.1\r\nHost: x\r\n"
        head += f"Authorization: {family.bearer['Authorization']}\r\n\r\n"
        await loop.sock_sendall(slow, head.encode())
        await eventually(lambda: len(running.context.streams) == 1)

        async def is_cut_off() -> bool:
            await connection.execute(
                "insert into viewing_events (account_id, type, occurred_at, data) "
                "select $1, 'lock.cleared', now(), jsonb_build_object('text', repeat('x', 50000)) "
                "from generate_series(1, 50)",
                family.account,
            )
            return running.context.streams.ended["slow"] == 1

        await eventually(is_cut_off, seconds=120)
    assert len(running.context.streams) == 0


async def test_queue_of_a_stream_that_catches_up_is_bounded(family: Family) -> None:
    streams = stream.Streams()
    streams.position = 0
    slow = stream.Stream(streams, family.account, 0)
    slow.open(60)
    for position in range(1, stream.MAX_QUEUED + 2):
        slow.add(position, b"event")
    assert slow.end == "slow"
    assert len(streams) == 0


async def test_event_that_the_client_has_from_another_instance_is_not_repeated(
    family: Family,
) -> None:
    streams = stream.Streams()
    streams.position = 3
    late = stream.Stream(streams, family.account, 5)
    assert late.open(60) == 3
    for position in (4, 5, 6):
        late.add(position, b"%d " % position)
    sent: list[bytes] = []

    class Client:
        def write(self, body: bytes) -> bool:
            sent.append(body)
            return True

        def end(self) -> None:
            sent.append(b"end")

    late.take(Client())
    late.add(7, b"7 ")
    late.finish("stopping")
    late.add(8, b"8 ")
    assert sent == [b"6 ", b"7 ", b"end"]


async def test_streams_end_when_the_feed_has_gone_back(
    url: str, running: Running, connection: Connection, family: Family
) -> None:
    ids = await write(connection, family, 1, 5)
    await numbered(connection, running)
    async with following(url, family.bearer, ids[0]) as client:
        await client.until(4)
        # A failover has lost the last three positions; the events are there.
        await connection.execute("update viewing_events set position = null where position > 2")
        await connection.execute("update viewing_event_feed set position = 2")
        await client.to_end()
    await numbered(connection, running)
    async with following(url, family.bearer, client.last_id) as client:
        await write(connection, family, 6, 6)
        await client.until(1)
    assert client.numbers == [6]


async def test_http_1_0_client_reads_until_the_connection_ends(
    url: str, running: Running, connection: Connection, family: Family
) -> None:
    async with following(url, family.bearer, version="1.0") as client:
        assert "transfer-encoding" not in client.headers
        await client.take()
        await write(connection, family, 1, 2)
        await client.until(2)
        running.context.streams.drain()
        await client.to_end()


async def test_resuming_at_any_moment_from_any_instance_leaves_no_gap_and_repeats_nothing(
    start: Starter, settings: Settings, opened: AsyncExitStack, connection: Connection
) -> None:
    urls = [await listening(await start(settings), opened) for _ in range(2)]
    family, stranger = [await add_family(connection) for _ in range(2)]
    choose = random.Random(7)
    numbers: list[int] = []

    async def write_all() -> None:
        for first in range(1, MAX + 1, 5):
            await write(connection, family, first, first + 4)
            await write(connection, stranger, -1, -1)
            await asyncio.sleep(choose.random() * 0.03)

    last_id: str | None = str(UUID(int=0))
    writing = asyncio.create_task(write_all())
    while not numbers or numbers[-1] < MAX:
        async with following(choose.choice(urls), family.bearer, last_id) as client:
            until = time.monotonic() + choose.random() * 0.4
            while time.monotonic() < until or writing.done():
                assert await client.take()
                if client.numbers[-1:] == [MAX]:
                    break
        numbers += client.numbers
        last_id = client.last_id or last_id
    await writing
    assert numbers == [*range(1, MAX + 1)]


async def test_sigterm_ends_streams_at_once_and_the_process_exits_promptly(
    database: str, connection: Connection, family: Family
) -> None:
    async with AsyncExitStack() as opened:
        service = await opened.enter_async_context(
            served(database, SHUTDOWN_DRAIN_SECONDS="3", SHUTDOWN_GRACE_SECONDS="20")
        )
        clients = [
            await opened.enter_async_context(following(service.url, family.bearer))
            for _ in range(5)
        ]
        for client in clients:
            await client.take()
        service.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        for client in clients:
            await client.to_end()
        assert time.monotonic() - began < 2.5  # before the end of the drain
        async with following(service.url, family.bearer) as client:
            assert client.status == 200  # a browser comes back after the end of a response
            await client.to_end()
        await asyncio.to_thread(service.process.wait, 60)
        assert time.monotonic() - began < 20  # before the end of the grace
        assert service.process.returncode == 0


async def test_open_stream_takes_at_most_20_kib(
    service: RunningService, opened: AsyncExitStack
) -> None:
    database = await asyncpg.connect(service.dsn)
    accounts = [uuid4() for _ in range(MANY * 2)]
    await database.executemany(
        "insert into users (id, email, password_hash, is_admin, is_active) "
        "values ($1::uuid, $1::text, '!', false, true)",
        [(account,) for account in accounts],
    )
    await database.close()

    async def open_each(some: list[UUID]) -> None:
        for account in some:
            client = await opened.enter_async_context(following(service.url, bearer(account)))
            assert client.status == 200

    await open_each(accounts[:MANY])
    before = resident_bytes(service.process.pid)
    await open_each(accounts[MANY:])
    each = (resident_bytes(service.process.pid) - before) / MANY
    assert each < KIB_PER_STREAM * 1024
