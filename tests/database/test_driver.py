"""An outage and a bug have different errors, although the driver raises the same classes."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

import service
from bench.ports import free_port
from service import deadlines
from service.database.driver import Connection, cause, translated
from service.database.pool import PING, connect, connected, open_pool
from service.database.statement import Statement
from service.database_errors import (
    DatabaseError,
    Deadlock,
    LockTimeout,
    MissingRight,
    NoAnswer,
    ReadOnly,
    Rejected,
    Unavailable,
    UniqueViolation,
    Unsent,
)
from service.deadlines import DeadlinePassed
from service.observing.logs import JsonLine
from service.settings import Settings
from tests.conftest import Running
from tests.family import HEARTBEAT, Family

PIN_STATUS = "/api/v1/parental-controls/pin/status"


class Row(msgspec.Struct, frozen=True):
    value: object


def statement(text: str) -> Statement[Row]:
    made = Statement("health_ping", Row)
    made.text = text
    return made


Failing = Callable[[Connection, str], Awaitable[object]]


async def terminated(connection: Connection, _: str) -> None:
    connection.terminate()
    await PING.one(connection, timeout=5)


async def ended_while_idle(connection: Connection, dsn: str) -> None:
    """The server closes the connection, and the event loop has not read that yet."""
    other = await asyncpg.connect(dsn)
    await other.execute("select pg_terminate_backend($1)", connection.get_server_pid())
    await other.close()
    await PING.one(connection, timeout=5)


async def ended_meanwhile(connection: Connection, _: str) -> None:
    await statement("select pg_terminate_backend(pg_backend_pid())").one(connection, timeout=5)


async def slow(connection: Connection, _: str) -> None:
    await statement("select pg_sleep(10)").one(connection, timeout=0.05)


async def slow_by_the_servers_clock(connection: Connection, _: str) -> None:
    await connection.execute("set statement_timeout = 50")
    await statement("select pg_sleep(10)").one(connection, timeout=5)


@pytest.mark.parametrize(
    "failing", [terminated, ended_while_idle, ended_meanwhile, slow, slow_by_the_servers_clock]
)
async def test_a_lost_connection_is_an_outage(
    connection: Connection, database: str, failing: Failing
) -> None:
    with pytest.raises(Unavailable) as caught:
        await failing(connection, database)
    assert cause(caught.value) == "database"
    assert not isinstance(caught.value, OSError | asyncpg.InterfaceError)
    assert str(caught.value)


async def no_argument(connection: Connection, _: str) -> None:
    await statement("select $1::int").one(connection, timeout=5)


async def too_many_arguments(connection: Connection, _: str) -> None:
    await statement("select $1::int").one(connection, 1, 2, timeout=5)


async def a_wrong_argument(connection: Connection, _: str) -> None:
    await statement("select $1::int").one(connection, "three", timeout=5)


async def too_large_an_argument(connection: Connection, _: str) -> None:
    await statement("select $1::int").one(connection, 2**40, timeout=5)


async def two_at_once(connection: Connection, _: str) -> None:
    both = [statement("select pg_sleep(0.1)").one(connection, timeout=5) for _ in range(2)]
    await asyncio.gather(*both)


async def a_table_that_is_missing(connection: Connection, _: str) -> None:
    await statement("select 1 from nowhere").one(connection, timeout=5)


async def no_row(connection: Connection, _: str) -> None:
    await statement("select 1 where false").one(connection, timeout=5)


async def a_missing_file(connection: Connection, _: str) -> None:
    with translated(connection):
        raise FileNotFoundError("not the driver's")


@pytest.mark.parametrize(
    "failing",
    [
        no_argument,
        too_many_arguments,
        a_wrong_argument,
        too_large_an_argument,
        two_at_once,
        a_table_that_is_missing,
        no_row,
        a_missing_file,
    ],
)
async def test_a_bug_does_not_count_as_an_outage(
    connection: Connection, database: str, failing: Failing
) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        await failing(connection, database)
    assert not isinstance(caught.value, Unavailable)
    assert cause(caught.value) == "own"


async def test_a_connection_that_the_server_closed_while_idle_has_sent_nothing(
    connection: Connection,
) -> None:
    with pytest.raises(asyncpg.InternalClientError) as caught, translated(connection):
        raise asyncpg.InternalClientError("got result for unknown protocol state 1")
    assert not isinstance(caught.value, Unavailable)
    with pytest.raises(Unsent), translated(connection):
        raise asyncpg.InternalClientError('cannot switch to state 12; protocol is in the "failed"')


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: {"database_url": f"postgresql://u@127.0.0.1:{free_port()}/x"},
        lambda settings: {"database_url": "postgresql:///x?host=/nowhere&user=u"},
        lambda settings: {"database_url": "postgresql://u@host.invalid/x"},
        lambda settings: {"database_url": settings.database_url.replace("test_", "none_")},
        lambda settings: {"database_url": settings.database_url + "&user=stranger"},
        lambda settings: {
            "database_url": settings.database_url + "&target_session_attrs=read-only"
        },
    ],
)
async def test_every_error_of_connecting_is_an_outage(
    settings: Settings, change: Callable[[Settings], dict[str, Any]]
) -> None:
    with pytest.raises(Unavailable):
        await connect(msgspec.structs.replace(settings, **change(settings)))


async def test_a_closed_pool_is_an_outage(settings: Settings) -> None:
    pool = await open_pool(settings, (), 1, 1)
    async with pool.acquire() as kept:
        kept.terminate()
        with pytest.raises(Unavailable):
            await PING.one(kept, timeout=5)
    await pool.close()
    with pytest.raises(Unavailable):
        await PING.one(pool, timeout=5)


async def test_a_connection_that_is_terminated_during_a_statement_is_an_outage(
    settings: Settings,
) -> None:
    """The driver raises AttributeError if that happens between two steps of the statement."""
    async with connected(settings, 5) as connection:
        with pytest.raises(AttributeError), translated(connection):
            raise AttributeError("a bug")
        connection.terminate()
        with pytest.raises(NoAnswer), translated(connection):
            raise AttributeError("bind_execute")


async def test_an_error_of_a_file_does_not_count_as_an_outage(settings: Settings) -> None:
    with pytest.raises(FileNotFoundError):
        async with connected(settings, 5) as connection, connection.transaction():
            open("/nowhere/at/all")  # noqa: ASYNC230, PTH123, SIM115 (it fails at once)
    with pytest.raises(Unavailable):
        async with connected(settings, 5) as connection, connection.transaction():
            await connection.execute("select pg_terminate_backend(pg_backend_pid())")


async def test_a_passed_deadline_has_its_own_cause() -> None:
    with pytest.raises(DeadlinePassed) as caught:
        await deadlines.within(0.01, asyncio.sleep(10))
    assert cause(caught.value) == "deadline"
    watch = deadlines.Deadlines(0.02)
    with pytest.raises(DeadlinePassed), watch.watch():
        await asyncio.sleep(10)
    assert cause(TimeoutError("of another origin")) == "own"


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("08P01", DatabaseError),
        ("22001", Rejected),
        ("23502", Rejected),
        ("23505", UniqueViolation),
        ("25006", ReadOnly),
        ("40P01", Deadlock),
        ("42501", MissingRight),
        ("42P01", DatabaseError),
        ("53100", Unavailable),
        ("55P03", LockTimeout),
        ("57014", Unavailable),
        ("57P01", NoAnswer),
        ("P0001", Rejected),
        ("VT001", Rejected),
    ],
)
async def test_each_sqlstate_has_its_error(
    connection: Connection, sqlstate: str, kind: type[DatabaseError]
) -> None:
    with pytest.raises(DatabaseError, match=r"^as asked for$") as caught, translated(connection):
        await connection.execute(
            f"do $$ begin raise 'as asked for' using errcode = '{sqlstate}', detail = 'a row', "
            "hint = 'a hint', constraint = 'a_constraint', table = 'a_table'; end $$"
        )
    error = caught.value
    assert type(error) is kind
    assert (error.sqlstate, error.constraint, error.table) == (sqlstate, "a_constraint", "a_table")
    assert isinstance(error.__cause__, asyncpg.PostgresError)
    assert "a row" not in str(error.__cause__)


def test_only_this_folder_imports_the_driver() -> None:
    package = Path(service.__file__).parent
    importing = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) (asyncpg|psycopg)\b", path.read_text(), re.MULTILINE)
    }
    assert importing == {"database"}


BUGS = [
    FileNotFoundError("a file of ours"),
    asyncpg.InterfaceError("the server expects 3 arguments for this query, 2 were passed"),
    asyncpg.InternalClientError("a bug in the driver"),
    TimeoutError("of another origin"),
    ConnectionResetError("by another peer"),
    KeyError("a bug"),
]


@pytest.mark.parametrize("bug", BUGS)
async def test_a_bug_in_a_handler_is_answered_500_logged_once_and_counted(
    running: Running,
    family: Family,
    bug: Exception,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*_: object) -> None:
        raise bug

    monkeypatch.setattr("service.http.auth._account", broken)
    with caplog.at_level("INFO", "viewing_time"):
        answer = await running.client.get(PIN_STATUS, headers=family.bearer)
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal Server Error"})
    [line] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.exc_info is not None
    assert line.exc_info[1] is bug
    assert running.context.metrics.failures == {"own": 1, "database": 0, "deadline": 0}


@pytest.mark.parametrize(
    "place",
    ["service.viewing.heartbeat_statement.RECORD_HEARTBEATS", "service.viewing.config_loader.LOAD"],
)
async def test_a_bug_behind_many_callers_is_logged_with_the_place_where_it_is(
    running: Running,
    connection: Connection,
    family: Family,
    place: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def the_buggy_function(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    await connection.execute("delete from viewing_time_configs")  # so that beats load the defaults
    for method in ("one", "all"):
        monkeypatch.setattr(f"{place}.{method}", the_buggy_function)
    with caplog.at_level("INFO", "viewing_time"):
        beats = [
            running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
            for _ in range(3)
        ]
        answers = await asyncio.gather(*beats)
    assert {answer.json()["enforcement"] for answer in answers} == {"blocked"}
    assert running.context.metrics.failures["own"] == 3
    records = [line for line in caplog.records if line.exc_info]
    texts = [JsonLine().formatException(line.exc_info) for line in records if line.exc_info]
    assert any("the_buggy_function" in text for text in texts)


@pytest.mark.parametrize("bug", BUGS)
async def test_a_bug_in_a_heartbeat_fails_closed_with_its_traceback_in_the_log(
    running: Running,
    family: Family,
    bug: Exception,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise bug

    monkeypatch.setattr(running.context.writer, "record", broken)
    with caplog.at_level("INFO", "viewing_time"):
        answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert (answer.status_code, answer.json()["enforcement"]) == (200, "blocked")
    [line] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.exc_info is not None
    assert line.exc_info[1] is bug
    assert running.context.metrics.failures["own"] == 1


async def test_a_bug_before_a_load_is_logged_with_the_place_where_it_is(
    running: Running,
    connection: Connection,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def the_buggy_function(*_: object) -> None:
        raise KeyError("a bug")

    await connection.execute("delete from viewing_time_configs")  # a beat loads them
    monkeypatch.setattr("service.viewing.config_loader.ConfigLoader.load", the_buggy_function)
    with caplog.at_level("INFO", "viewing_time"):
        await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    [line] = [record for record in caplog.records if record.exc_info]
    assert line.exc_info is not None
    assert "the_buggy_function" in JsonLine().formatException(line.exc_info)
