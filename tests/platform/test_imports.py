"""The import checks lines like PUT, merges all or the valid ones, and can be repeated."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from click.testing import CliRunner

from service.command.import_connection import ImportConnection
from service.command.main import main
from service.database.driver import Connection
from service.database_errors import Unavailable
from service.platform import import_csv, import_lines, import_merge, imports
from service.platform.import_csv import NOT_UTF8, CsvRows, csv_lines
from service.platform.import_lines import (
    MAX_LINE_BYTES,
    MAX_PARSED_BYTES,
    BadLine,
    Line,
    json_lines,
    numbered_lines,
    parse,
)
from service.platform.import_merge import MAX_ERRORS, Import
from service.settings import Settings
from service.viewing.config_changes import CHANNEL
from tests.conftest import NOW, ROOT, Running, RunningService, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, PASSWORD_HASH, SECRET, Family, add_family, bearer

URL = "/api/v1/admin/import"
CONTENTS = (
    "select (select md5(string_agg(u::text, '' order by u.id)) from users as u), "
    "(select md5(string_agg(p::text, '' order by p.id)) from profiles as p), "
    "(select md5(string_agg(t::text, '' order by t.id)) from titles as t)"
)


def account(**members: Any) -> dict[str, Any]:
    email = f"{uuid4()}@example.test"
    return {"type": "account", "id": str(uuid4()), "email": email, **members}


def profile(owner: UUID | str, **members: Any) -> dict[str, Any]:
    line = {"type": "profile", "id": str(uuid4()), "account_id": str(owner), "name": "Ada"}
    return {**line, "is_kids": True, **members}


def title(**members: Any) -> dict[str, Any]:
    line = {"type": "title", "id": str(uuid4()), "title": "Planets", "is_educational": True}
    return {**line, **members}


def ndjson(lines: Iterable[dict[str, Any] | str | bytes]) -> bytes:
    texts = (
        line
        if isinstance(line, bytes)
        else line.encode()
        if isinstance(line, str)
        else json.dumps(line).encode()
        for line in lines
    )
    return b"".join(text + b"\n" for text in texts)


async def send(
    running: Running, admin: dict[str, str], lines: Iterable[Any], mode: str = "all"
) -> tuple[int, dict[str, Any]]:
    answer = await running.client.post(
        URL, params={"mode": mode}, content=ndjson(lines), headers=admin, timeout=60
    )
    return answer.status_code, answer.json()


async def test_all_three_kinds_are_imported_and_take_effect_at_once(
    running: Running, connection: Connection, admin: dict[str, str]
) -> None:
    parent, film = account(password_hash=PASSWORD_HASH), title(title_type="series")
    child = profile(parent["id"], name="Zoë 🐛", parental_rating="TV-Y")
    assert await send(running, admin, [child, film, parent]) == (
        200,
        {"accounts": 1, "profiles": 1, "titles": 1, "error_count": 0, "errors": []},
    )
    beat = {"profile_id": child["id"], "title_id": film["id"], "device_id": "tv-1"}
    answer = await running.client.post(HEARTBEAT, json=beat, headers=bearer(UUID(parent["id"])))
    assert (answer.status_code, answer.json()["is_educational"]) == (200, True)
    row = await connection.fetchrow("select name, parental_rating, is_kids from profiles")
    assert tuple(row or ()) == ("Zoë 🐛", "TV-Y", True)


async def test_repeated_import_writes_nothing_and_keeps_absent_members(
    running: Running, connection: Connection, admin: dict[str, str]
) -> None:
    parent = account(subscription_tier="gold", is_active=False, password_hash=PASSWORD_HASH)
    lines = [parent, profile(parent["id"], parental_rating="TV-Y"), title(title_type="series")]
    first = await send(running, admin, lines)
    before = await connection.fetchrow(CONTENTS)
    versions = "select array_agg(xmin::text order by id) from users union all "
    versions += "select array_agg(xmin::text order by id) from profiles union all "
    versions += "select array_agg(xmin::text order by id) from titles"
    written = await connection.fetch(versions)
    optional = ("subscription_tier", "is_active", "password_hash", "parental_rating", "title_type")
    bare = [{name: v for name, v in line.items() if name not in optional} for line in lines]
    for again in (lines, bare):
        assert await send(running, admin, again) == first
    assert await connection.fetchrow(CONTENTS) == before
    assert await connection.fetch(versions) == written


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "Not JSON: Expecting property name enclosed in double quotes (character 1)"),
        ('{"type": "title", "id": "', "Not JSON: Unterminated string starting at (character 24)"),
        (b'{"type": "title", "title": "\xff"}', "Not JSON: invalid start byte (character 28)"),
        ("[1, 2]", "Input should be a valid dictionary or object"),
        ("null", "Field required"),
        ("{}", "type: Field required"),
        ({"type": "film"}, "type: Input should be 'account', 'profile' or 'title'"),
        ({"type": "account", "id": str(uuid4())}, "email: Field required"),
        (account(id="17"), "id: Input should be a valid UUID"),
        (account(email="a\0"), "email: Value error, NUL and lone surrogates are no text"),
        (title(is_educational=None), "is_educational: Input should be a valid boolean"),
        (profile(uuid4()), "account_id: Account not found"),
        (profile(uuid4(), name="x" * 101), "name: String should have at most 100 characters"),
        ('{"a": "' + "x" * MAX_LINE_BYTES + '"}', f"Longer than {MAX_LINE_BYTES} bytes"),
        ('{"a": "' + "x" * 10_000_000 + '"}', f"Longer than {MAX_LINE_BYTES} bytes"),
        ("[" * 100_000, "Not JSON: Nested too deeply (character 0)"),
    ],
)
@pytest.mark.parametrize("mode", ["all", "best"])
async def test_bad_line_is_reported_with_its_number(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    mode: str,
    line: Any,
    error: str,
) -> None:
    before = await connection.fetchrow(CONTENTS)
    status, outcome = await send(running, admin, [title(), "", line, title()], mode)
    assert outcome["errors"] == [{"line": 3, "error": error}]
    assert outcome["error_count"] == 1
    if mode == "best":
        assert (status, outcome["titles"]) == (200, 2)
    else:
        assert (status, outcome["titles"]) == (422, 0)
        assert outcome["detail"] == "Nothing was imported: 1 of 3 lines are in error"
        assert await connection.fetchrow(CONTENTS) == before


@pytest.mark.parametrize("mode", ["all", "best"])
async def test_lines_that_conflict_with_stored_rows_are_reported(
    running: Running, connection: Connection, admin: dict[str, str], mode: str
) -> None:
    family = await add_family(connection)
    before = await connection.fetchrow(CONTENTS)
    first = account()
    lines = [
        first,
        first,  # 2
        account(email=f"{family.account}@example.test"),  # 3
        account(email=first["email"]),  # 4
        profile(first["id"], id=str(family.child)),  # 5
        profile(uuid4()),  # 6
        profile(first["id"], id=first["id"]),
    ]
    status, outcome = await send(running, admin, lines, mode)
    assert outcome["errors"] == [
        {"line": 2, "error": "id: On an earlier line already"},
        {"line": 3, "error": "email: Belongs to another account"},
        {"line": 4, "error": "email: Belongs to another account"},
        {"line": 5, "error": "account_id: Profile belongs to another account"},
        {"line": 6, "error": "account_id: Account not found"},
    ]
    if mode == "best":
        assert (status, outcome["accounts"], outcome["profiles"]) == (200, 1, 1)
    else:
        assert (status, outcome["accounts"], outcome["profiles"]) == (422, 0, 0)
        assert await connection.fetchrow(CONTENTS) == before


async def test_repeated_id_is_found_across_batches(
    running: Running,
    connection: Connection,
    admin: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(import_merge, "BATCH_LINES", 2)
    first = title(title="First")
    lines = [first, title(), title(), {**first, "title": "Second"}]
    assert (await send(running, admin, lines, "best"))[1]["errors"] == [
        {"line": 4, "error": "id: On an earlier line already"}
    ]
    assert await connection.fetchval("select count(*) from titles where title = 'First'") == 1


async def test_all_errors_are_counted_and_the_first_100_listed(
    running: Running, admin: dict[str, str]
) -> None:
    lines = ["{"] + [profile(uuid4()) for _ in range(MAX_ERRORS)] + ["}"] * 50
    _, outcome = await send(running, admin, lines, "best")
    assert outcome["error_count"] == MAX_ERRORS + 51
    assert [error["line"] for error in outcome["errors"]] == [*range(1, MAX_ERRORS + 1)]


async def test_empty_import(running: Running, admin: dict[str, str]) -> None:
    for lines in ([], [""], ["", "\r"]):
        status, outcome = await send(running, admin, lines)
        assert (status, outcome["error_count"], outcome["titles"]) == (200, 0, 0)


async def test_byte_order_mark_and_carriage_returns_are_accepted(
    running: Running, admin: dict[str, str]
) -> None:
    lines = [b"\xef\xbb\xbf" + json.dumps(title()).encode() + b"\r", json.dumps(title()) + "\r"]
    assert (await send(running, admin, lines))[1]["titles"] == 2


async def test_administrator_right_comes_from_the_database(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    for headers, status in ((bearer(family.account, is_admin=True), 403), ({}, 401)):
        assert (await send(running, headers, [title()]))[0] == status
    assert await connection.fetchval("select count(*) from titles") == 2
    answer = await running.client.post(URL, params={"mode": "some"}, headers=admin)
    assert answer.json()["detail"][0]["loc"] == ["query", "mode"]
    assert answer.status_code == 422


async def test_import_that_revokes_its_own_caller_imports_nothing(
    running: Running, connection: Connection, family: Family
) -> None:
    await connection.execute("update users set is_admin = true")
    own = account(id=str(family.account), is_admin=False)
    status, outcome = await send(running, family.bearer, [own, title()])
    assert (status, outcome) == (403, {"detail": "Admin privileges required"})
    assert await connection.fetchval("select count(*) from titles") == 2
    assert await connection.fetchval("select is_admin from users") is True


async def test_upload_that_ends_early_changes_nothing(service: RunningService) -> None:
    stored = await asyncpg.connect(service.dsn)
    try:
        family = await add_family(stored)
        await stored.execute("update users set is_admin = true where id = $1", family.account)
        titles = await stored.fetchval("select count(*) from titles")
        lines = ndjson(title() for _ in range(100))
        url = urlsplit(service.url)
        for sent, status in ((lines[:-1000], b""), (lines, b"200 OK")):
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            head = (
                f"POST {URL}?mode=best HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n"
                f"Authorization: {family.bearer['Authorization']}\r\n"
                f"Content-Length: {len(lines)}\r\n\r\n"
            )
            with closing(writer):
                writer.write(head.encode() + sent)
                await writer.drain()
                if not status:
                    writer.write_eof()
                async with asyncio.timeout(60):
                    answer = await reader.read()
            assert status in answer.partition(b"\r\n")[0]
            added = await stored.fetchval("select count(*) from titles") - titles
            assert added == (100 if status else 0)
    finally:
        await stored.close()


async def test_upload_is_bounded_in_size_and_must_not_stall(
    running: Running, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"{}"
        await asyncio.sleep(0.2)
        yield b"\n"

    monkeypatch.setattr(imports, "MAX_UPLOAD_BYTES", 1000)
    answer = await running.client.post(URL, content=b" " * 1001, headers=admin)
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    monkeypatch.setattr(imports, "BODY_SECONDS", 0.05)
    answer = await running.client.post(URL, content=slowly(), headers=admin)
    assert answer.status_code == 408


async def test_one_notification_for_any_number_of_changed_profiles(
    start: Starter, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    here, there = await start(), await start()
    notifications: list[str] = []
    listening = await asyncpg.connect(here.context.settings.database_url)
    await listening.add_listener(
        CHANNEL, lambda *arguments: notifications.append(str(arguments[-1]))
    )
    try:
        children = [profile(family.account) for _ in range(50)]
        await send(here, admin, children)
        for instance in (here, there):
            answer = await instance.client.post(
                HEARTBEAT, json=family.beat(), headers=family.bearer
            )
            assert answer.json()["remaining_minutes"] is not None
        await send(here, admin, [{**child, "is_kids": False} for child in children])
        caches = (here.context.configurations, there.context.configurations)
        await eventually(lambda: notifications and not any(cache.size for cache in caches))
        assert [text.split(" ")[1:] for text in notifications] == [["everything"]]
    finally:
        await listening.close()


async def test_concurrent_imports_of_the_same_rows_all_succeed(
    start: Starter, connection: Connection, admin: dict[str, str]
) -> None:
    here, there = await start(), await start()
    parents = [account() for _ in range(200)]
    lines = [*parents, *(profile(parent["id"]) for parent in parents)]
    moved = [{**line, "email": f"new-{line['email']}"} for line in parents]
    both = [*moved, *lines[200:]]
    answers = await asyncio.gather(
        *(
            send(instance, admin, lines_sent, mode)
            for instance, lines_sent, mode in (
                (here, lines, "all"),
                (there, both[::-1], "all"),
                (here, both, "best"),
                (there, lines[::-1], "best"),
            )
        )
    )
    assert [status for status, _ in answers] == [200] * 4
    assert await connection.fetchval("select count(*) from profiles") == 200


async def test_import_that_meets_a_concurrent_insert_is_503_and_can_be_retried(
    running: Running, connection: Connection, admin: dict[str, str]
) -> None:
    own_title = title()
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(
        "insert into titles (id, title, title_type) values ($1, 'Faster', 'movie')", own_title["id"]
    )
    sending = asyncio.create_task(
        running.client.post(URL, content=ndjson([title(), own_title]), headers=admin)
    )
    await eventually(
        lambda: connection.fetchval("select exists (select from pg_locks where not granted)")
    )
    await transaction.commit()
    answer = await sending
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert await connection.fetchval("select count(*) from titles") == 1
    assert (await send(running, admin, [title(), own_title]))[0] == 200
    assert await connection.fetchval("select count(*) from titles where title = 'Planets'") == 2


async def test_import_without_a_statement_cache(
    start: Starter, settings: Settings, connection: Connection, admin: dict[str, str]
) -> None:
    pooled = await start(msgspec.structs.replace(settings, statement_cache_size=0))
    parent = account()
    for _ in range(2):
        status, outcome = await send(pooled, admin, [parent, profile(parent["id"]), title()])
        assert (status, outcome["error_count"]) == (200, 0)


async def test_heartbeats_do_not_wait_for_an_import(
    running: Running, connection: Connection, admin: dict[str, str], family: Family
) -> None:
    """Heartbeats need neither the rows nor the lock that an import holds until its end."""
    held = asyncio.Event()
    go_on = asyncio.Event()
    merge_staged = import_merge.Import._merge_staged

    async def merge_and_wait(*arguments: Any) -> Any:
        done = await merge_staged(*arguments)
        held.set()
        await go_on.wait()
        return done

    changed = [
        account(id=str(family.account), email="other@example.test"),
        profile(family.account, id=str(family.child), name="Renamed", is_kids=False),
        title(id=str(family.title)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_merge.Import, "_merge_staged", merge_and_wait)
        importing = asyncio.create_task(send(running, admin, changed))
        await held.wait()
        answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
        assert (answer.status_code, answer.json()["enforcement"]) == (200, "allowed")
        assert answer.json()["remaining_minutes"] == 119.5
        go_on.set()
        assert (await importing)[0] == 200
    answer = await running.client.post(HEARTBEAT, json=family.beat(), headers=family.bearer)
    assert answer.json()["remaining_minutes"] is None
    assert answer.json()["is_educational"] is True


async def test_import_leaves_no_table_and_no_lock(
    running: Running, connection: Connection, admin: dict[str, str]
) -> None:
    await send(running, admin, [title(), "{"])
    await send(running, admin, [title(), "{"], "best")
    left = "select count(*) from pg_class where relname = 'import_lines'"
    assert await connection.fetchval(left) == 0
    assert (
        await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
    )


def test_memory_for_one_line_is_bounded() -> None:
    long = b"x" * (3 * MAX_LINE_BYTES)
    file = BytesIO(b"a\n" + long + b"\n" + b"y" * (MAX_LINE_BYTES - 1) + b"\n" + b"b")
    lines = [line for line in numbered_lines(file) if line.text is not None]
    assert [line.number for line in lines] == [1, 2, 3, 4]
    assert isinstance(lines[1].text, BadLine)
    assert [lines[0].text, lines[3].text] == [b"a\n", b"b"]
    assert len(lines[2].text) == MAX_LINE_BYTES if isinstance(lines[2].text, bytes) else False


GOOD = f'{{"type": "title", "id": "{uuid4()}", "title": "Planets", "is_educational": true}}\n'


@pytest.mark.parametrize(
    "line", ["\n", " \t \r\n", "x" * 100_000 + "\n", "{\n", "[" * 60_000 + "\n", GOOD]
)
async def test_import_does_not_block_the_event_loop(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """The clock advances by a tenth of a slice per line, so other tasks run every ten lines."""
    monkeypatch.setattr(import_lines, "MAX_LINE_BYTES", 64 * 1024)
    passed = itertools.count(0, import_merge.SLICE_SECONDS / 10)
    monkeypatch.setattr(import_merge, "monotonic", lambda: next(passed))
    file = BytesIO(line.encode() * min(10_000, 10_000_000 // len(line)))
    pulled: list[int] = []
    gaps: list[int] = []

    def watched() -> Iterator[Line]:
        for found in json_lines(numbered_lines(file)):
            pulled.append(found.number)
            yield found

    async def others() -> None:
        while True:
            gaps.append(len(pulled) - sum(gaps))
            await asyncio.sleep(0)

    waiting = asyncio.create_task(others())
    await Import(None, NOW, whole=False).merge(connection, watched())
    waiting.cancel()
    assert max(gaps) <= 12
    assert sum(gaps) > 90


PADDING = b'{"type":["title"],"id":[[],{}],"x":"\\u0074"},' * 20_000


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b'{"a":[' + b"[]," * 349_000 + b"[]]}", "type: Field required"),
        (b'{"type":"title",' + b'"a":1,' * 170_000 + b'"a":1}', "title: Field required"),
        (b'{"type":[' + b"1," * 500_000 + b"1]}", "type: Longer than 65536 bytes"),
        (b"[" + b"[]," * 349_000 + b"[]]", "Input should be a valid dictionary or object"),
        (b"[" + b"[]," * 349_000, "Not JSON: Input data was truncated"),
        (b'{"a":' + b"1," * 500_000, "Not JSON: expected '\"' (byte 7)"),
        (b'{"a":"' + b"x" * 1_000_000 + b'\xff"}', "Not JSON: invalid start byte (byte 1000006)"),
        (b"[" * 1_000_000, "Not JSON: Nested too deeply (character 0)"),
        (b'{"a":' * 200_000, "Not JSON: Nested too deeply (character 0)"),
    ],
)
def test_only_known_members_of_a_long_line_are_parsed(
    monkeypatch: pytest.MonkeyPatch, text: bytes, error: str
) -> None:
    parsed: list[int] = []
    loads = json.loads

    def counted(raw: bytes, **options: Any) -> Any:
        parsed.append(len(raw))
        return loads(raw, **options)

    monkeypatch.setattr(json, "loads", counted)
    with pytest.raises(BadLine, match=re.escape(error)):
        parse(text)
    assert max(parsed, default=0) <= MAX_PARSED_BYTES


def test_long_line_is_parsed_like_a_short_one() -> None:
    line = title(title="Zoë \\ 🐛", is_educational="yes", title_type="series")
    short = json.dumps(line).encode()
    more = b', "more": [' + PADDING[:-1] + b"]}"
    for end in (more, more.replace(b",", b" , "), b" " * 500_000 + b"}"):
        assert parse(short[:-1] + end) == parse(short)


async def test_upload_is_written_and_closed_in_threads(
    running: Running, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    touching: list[int] = []

    class File(BytesIO):
        def write(self, *given: Any) -> int:
            touching.append(threading.get_ident())
            return super().write(*given)

        def close(self) -> None:
            touching.append(threading.get_ident())
            super().close()

    monkeypatch.setattr(tempfile, "TemporaryFile", File)
    assert (await send(running, admin, [title()]))[0] == 200
    assert len(touching) > 1
    assert threading.get_ident() not in touching


def rows_of(text: bytes) -> list[tuple[int, Any]]:
    return [
        (line.number, json.loads(line.text) if isinstance(line.text, bytes) else str(line.text))
        for line in CsvRows(csv_lines(BytesIO(text)))
        if line.text is not None
    ]


def test_csv_rows_are_numbered_by_their_first_line() -> None:
    several = str(uuid4())
    assert rows_of(
        b"\xef\xbb\xbftype,id,title,is_educational\r\n"
        b'title,1,"A ""b"", c",true\r\n'
        b"\r\n"
        b'title,%s,"two\nlines",true\r\n'
        b"title,3,\xff,true\r\n"
        b"title,4,true\r\n"
        b'title,5,"x"y,true\r\n' % several.encode() + b"z" * (MAX_LINE_BYTES + 1) + b"\r\n"
        b"title,6,Eve,\r\n"
    ) == [
        (2, {"type": "title", "id": "1", "title": 'A "b", c', "is_educational": "true"}),
        (4, {"type": "title", "id": several, "title": "two\nlines", "is_educational": "true"}),
        (6, NOT_UTF8),
        (7, "3 cells under a header of 4"),
        (8, "No row of CSV: ',' expected after '\"'"),
        (9, f"Longer than {MAX_LINE_BYTES} bytes"),
        (10, {"type": "title", "id": "6", "title": "Eve"}),
    ]


HEADER = b"type,id,title,is_educational\n"


def csv_titles(count: int) -> list[bytes]:
    return [f"title,{uuid4()},Planets {n},false\n".encode() for n in range(count)]


@pytest.mark.parametrize(
    ("broken", "end", "error"),
    [
        # The cell ends at a later quote, at its own bound, at the row's bound, or with the file.
        ("Open", b'title,%s,"Quoted",true\n', "No row of CSV: ',' expected after '\"'"),
        ("Open", b"title,%s," + b"x" * 200_000 + b",\n", "No row of CSV: field larger than "),
        ('a","b', b'title,%s,x","y' * 70_000 + b",\n", f"Longer than {MAX_LINE_BYTES} bytes"),
        ("Open", b"title,%s,x,\n", "No row of CSV: unexpected end of data"),
        # A later quote closes the cell: a member too long, too few cells, too many cells.
        ("Open", b'title,%s,x",true\n', "title: String should have at most 500 characters"),
        ("Open", b'title,%s,x"\n', "3 cells under a header of 4"),
        ("Open", b'title,%s,x",true,true\n', "5 cells under a header of 4"),
    ],
)
def test_unclosed_quote_invalidates_only_its_own_row(broken: str, end: bytes, error: str) -> None:
    good = csv_titles(500)
    text = HEADER + f'title,{uuid4()},"{broken},false\n'.encode() + b"".join(good)
    found = rows_of(text + end.replace(b"%s", str(uuid4()).encode()))
    assert found[0][0] == 2
    assert found[0][1].startswith(error)
    assert found[1:501] == rows_of(HEADER + b"\n" + b"".join(good))
    assert [number for number, _ in found[501:]] == [503]


def test_rereading_after_unclosed_quotes_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(import_csv, "MAX_ROW_LINES", 10)
    read: list[int] = []
    taken = import_csv._RowSource.__next__

    def counted(source: Any) -> str:
        read.append(1)
        return taken(source)

    monkeypatch.setattr(import_csv._RowSource, "__next__", counted)
    # Each of these lines opens a cell, wherever it starts.
    found = rows_of(HEADER + b'x","""\n' * 1000)
    assert len(found) == 1000
    assert len(read) <= 11 * 1000 + 2


def test_unclosed_quote_on_the_last_line() -> None:
    good = csv_titles(2)
    text = HEADER + b"".join(good)
    for end in (b"", b"\n", b"\n\n"):
        assert rows_of(text + b'title,1,"Open,false' + end) == [
            *rows_of(text),
            (4, "No row of CSV: unexpected end of data"),
        ]


def test_cells_of_several_lines_are_valid() -> None:
    several = f'title,{uuid4()},"A\n""b"",\n\nc",true\n'.encode()
    good = csv_titles(500)
    found = rows_of(HEADER + several + b"".join(good))
    assert [number for number, _ in found] == [2, *range(6, 506)]
    assert found[0][1]["title"] == 'A\n"b",\n\nc'


def test_every_row_after_a_bad_header_is_an_error() -> None:
    assert rows_of(b'type,id,"title\n' + b"".join(csv_titles(2))) == [
        (1, "No row of CSV: unexpected end of data"),
        (2, "4 cells under a header of 0"),
        (3, "4 cells under a header of 0"),
    ]


def command(dsn: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "service", "import", *map(str, arguments)]


def environment(dsn: str) -> dict[str, str]:
    return {"DATABASE_URL": dsn, "JWT_SECRET": SECRET, "PATH": "/usr/bin:/bin"}


async def run(dsn: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        command(dsn, *arguments),
        cwd=ROOT,
        env=environment(dsn),
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_command_reads_json_and_csv(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    parent = account()
    accounts, profiles = tmp_path / "accounts.ndjson", tmp_path / "profiles.csv"
    accounts.write_bytes(ndjson([parent]))
    profiles.write_text(
        "type,id,account_id,name,is_kids,parental_rating\n"
        f"profile,{uuid4()},{parent['id']},Ada,true,\n"
        f"profile,{uuid4()},{parent['id']},Ben,0,TV-Y\n"
    )
    done = await run(database, accounts, profiles)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{accounts}: 1 accounts, 0 profiles, 0 titles",
        f"{profiles}: 0 accounts, 2 profiles, 0 titles",
    ]
    stored = await connection.fetch(
        "select name, is_kids, parental_rating from profiles order by name"
    )
    assert [tuple(row) for row in stored] == [("Ada", True, "TV-MA"), ("Ben", False, "TV-Y")]


def piped(pipe: str, line: str) -> str:
    """A shell command that passes `line` to the import through a pipe."""
    return {
        "standard input": f"cat {line} | $IMPORT -",
        "the file of standard input": f"cat {line} | $IMPORT /dev/stdin",
        "a redirection": f"$IMPORT - < {line}",
        "process substitution": f"$IMPORT <(cat {line})",
        "two of them": f"$IMPORT <(head -n 1 {line}) <(tail -n +2 {line})",
        "a fifo": f"mkfifo pipe.csv; cat {line} > pipe.csv & $IMPORT pipe.csv",
        "a slow one": f"(head -n 1 {line}; sleep 1; tail -n +2 {line}) | $IMPORT -",
        "a compressed one": f"gzip {line}; $IMPORT --csv <(zcat {line}.gz)",
    }[pipe]


@pytest.mark.parametrize(
    "pipe",
    [
        "standard input",
        "the file of standard input",
        "a redirection",
        "process substitution",
        "two of them",
        "a fifo",
        "a slow one",
        "a compressed one",
    ],
)
async def test_command_reads_pipes(
    pipe: str, database: str, connection: Connection, tmp_path: Path
) -> None:
    parent = account()
    if pipe in ("a fifo", "a compressed one"):
        text = f"type,id,email,is_active\naccount,{parent['id']},a@x.test,true\n"
    else:
        text = ndjson([parent, account()]).decode()
    (tmp_path / "records").write_text(text)
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", piped(pipe, "records")],
        cwd=tmp_path,
        env={**environment(database), "IMPORT": f"{sys.executable} -m service import"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Continue" not in done.stderr
    count = len(text.splitlines()) - (text.startswith("type"))
    assert await connection.fetchval("select count(*) from users") == count


def test_interrupted_import_from_a_pipe_prints_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file is imported; then the database cannot be reached."""

    def merge(_: ImportConnection, job: Import, lines: Iterator[Line]) -> None:
        if jobs:
            raise Unavailable("gone")
        jobs.append(job)
        job.line = sum(1 for _ in lines)

    jobs: list[Import] = []
    for name, text in environment("postgresql:///unused").items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(ImportConnection, "merge", merge)
    first, pipe, last = tmp_path / "a.ndjson", tmp_path / "pipe", tmp_path / "b.csv"
    first.write_bytes(ndjson([title()]))
    os.mkfifo(pipe)
    last.touch()
    writer = threading.Thread(target=pipe.write_bytes, args=(ndjson([account()]),), daemon=True)
    writer.start()
    done = CliRunner().invoke(main, ["import", "--mode", "best", *map(str, (first, pipe, last))])
    writer.join(10)
    assert done.exit_code == 1
    assert done.stderr.endswith(
        "gone. Continue, using the same input, with\n"
        f"viewing-time import --mode best --from-line 1 {pipe} {last}\n"
    )


@pytest.mark.parametrize("mode", ["all", "best"])
async def test_command_reports_an_empty_import(mode: str, database: str, tmp_path: Path) -> None:
    empty, short, header = (tmp_path / name for name in ("empty.csv", "short.ndjson", "header.csv"))
    empty.touch()
    short.write_bytes(ndjson([title(), title()]) + b"\n\n")
    header.write_bytes(HEADER)
    for file in (empty, header):
        done = await run(database, "--mode", mode, file)
        assert (done.returncode, done.stderr) == (0, f"{file}: nothing to import.\n")
    done = await run(database, "--mode", mode, "--from-line", "3", short)
    assert (done.returncode, done.stderr) == (0, f"{short}: nothing to import from line 3.\n")
    done = await run(database, "--mode", mode, "--from-line", "2", short)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("mode", ["all", "best"])
async def test_command_reports_an_unusable_database_in_one_sentence(
    mode: str, empty_database: str, tmp_path: Path
) -> None:
    file = tmp_path / "titles.ndjson"
    file.write_bytes(ndjson([title()]))
    prefix = "Error: Cannot use the database at DATABASE_URL: "
    done = await run(empty_database, "--mode", mode, file)
    cure = 'relation "viewing_cell" does not exist: run `viewing-time migrate`.\n'
    assert (done.returncode, done.stdout, done.stderr) == (1, "", prefix + cure)
    done = await run(f"postgresql:///nobody?host={tmp_path}", "--mode", mode, file)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith(prefix)


async def test_command_skips_only_the_row_with_the_unclosed_quote(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "titles.csv"
    broken = f'title,{uuid4()},"Unclosed,false\n'.encode()
    file.write_bytes(HEADER + broken + b"".join(csv_titles(500)))
    done = await run(database, "--mode", "best", file)
    assert done.stderr.count(f"{file}:") == 1
    assert f"{file}:2: No row of CSV: unexpected end of data" in done.stderr
    assert f"{file}: 0 accounts, 0 profiles, 500 titles" in done.stdout
    assert await connection.fetchval("select count(*) from titles") == 500


async def test_command_reports_file_and_line(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "titles.ndjson"
    file.write_bytes(ndjson([title(), "{", title()]))
    refused = await run(database, file)
    assert refused.returncode == 1
    assert f"{file}:2: Not JSON" in refused.stderr
    assert "Nothing was imported: 1 of 3 lines are in error." in refused.stderr
    assert await connection.fetchval("select count(*) from titles") == 0
    best = await run(database, "--mode", "best", file)
    assert best.returncode == 1
    assert "1 lines have errors and were left out." in best.stderr
    assert await connection.fetchval("select count(*) from titles") == 2


async def test_interrupted_command_prints_how_to_continue(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    file, other = tmp_path / "titles.ndjson", tmp_path / "others.ndjson"
    size = import_merge.BATCH_LINES
    file.write_bytes(ndjson(title() for _ in range(2 * size)))
    other.write_bytes(ndjson([title()]))
    # The second batch waits for a row that is locked here.
    last = json.loads(file.read_bytes().splitlines()[-1])
    async with connection.transaction():
        await connection.execute(
            "insert into titles (id, title, title_type) values ($1, 'Held', 'movie')", last["id"]
        )
        process = subprocess.Popen(
            command(database, "--mode", "best", file, other),
            cwd=ROOT,
            env=environment(database),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            watching = await asyncpg.connect(database)
            written = "select count(*) >= $1 from titles"
            await eventually(lambda: watching.fetchval(written, size))
            waiting = "select exists (select from pg_locks where not granted)"
            await eventually(lambda: watching.fetchval(waiting))
            await watching.close()
            process.send_signal(signal.SIGINT)
            _, stderr = await asyncio.to_thread(process.communicate, timeout=60)
        finally:
            if process.poll() is None:
                process.kill()
    assert process.returncode == 1
    again = f"viewing-time import --mode best --from-line {size + 1} {file} {other}"
    assert stderr.splitlines()[-1] == again
    assert await connection.fetchval("select count(*) from titles") == size + 1
    done = await run(database, *again.split()[2:])
    assert done.returncode == 0, done.stderr
    assert f"{file}: 0 accounts, 0 profiles, {size:,} titles" in done.stdout
    assert await connection.fetchval("select count(*) from titles") == 2 * size + 1


async def test_command_reports_an_obstacle_in_one_sentence(
    empty_database: str, tmp_path: Path
) -> None:
    file = tmp_path / "titles.ndjson"
    file.write_bytes(ndjson([title()]))
    done = await run(empty_database, file)
    assert done.returncode == 1
    assert "does not exist: run `viewing-time migrate`" in done.stderr
    assert "Traceback" not in done.stderr
