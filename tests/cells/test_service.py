"""A service with several cells: each request touches the cell of its account and no other."""

import asyncio
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import msgspec
import pytest

from service import startup
from service.cells_file import cells as all_cells
from service.command.cells import begin, opened
from service.database import cell_moves
from service.database.driver import Connection
from service.database_errors import DatabaseError, WrongTables
from service.settings import Settings
from service.viewing import deletion
from tests.cells.conftest import NAMES, FourCells
from tests.cells.test_move import watched
from tests.conftest import Running, Starter
from tests.eventually import eventually
from tests.family import HEARTBEAT, PIN, Family

ADMIN = "/api/v1/admin"


async def start_cells(
    start: Starter, cells: FourCells, settings: Settings | None = None
) -> Running:
    return await start(settings or cells.settings)


async def beat(running: Running, family: Family, **members: Any) -> httpx.Response:
    return await running.client.post(HEARTBEAT, json=family.beat(**members), headers=family.bearer)


async def sessions(connection: Connection) -> dict[UUID, int]:
    """The counted seconds of each profile."""
    rows = await connection.fetch(
        "select profile_id, sum(total_seconds)::int as seconds from viewing_sessions group by 1"
    )
    return {row["profile_id"]: row["seconds"] for row in rows}


async def admin(cells: FourCells, cell: str) -> Family:
    family = await cells.family(cell)
    await cells.connections[cell].execute("update users set is_admin = true")
    return family


async def test_each_family_is_served_by_its_cell(cells: FourCells, start: Starter) -> None:
    families = {name: await cells.family(name) for name in NAMES}
    running = await start_cells(start, cells)
    for family in families.values():
        answer = await beat(running, family)
        assert answer.json()["enforcement"] == "allowed"
        session = answer.json()["session_id"]
        answer = await beat(running, family, session_id=session)
        assert answer.json()["used_minutes"] == 1
        url = f"/api/v1/parental-controls/profiles/{family.child}/viewing-time"
        body = {"weekday_limit_minutes": 15, "weekend_limit_minutes": 15}
        answer = await running.client.put(url, json=body, headers=family.bearer)
        assert answer.status_code == 200
        answer = await running.client.post(
            "/api/v1/parental-controls/pin/verify", json={"pin": PIN}, headers=family.bearer
        )
        assert answer.status_code == 200
        answer = await beat(running, family, session_id=session)
        assert answer.json()["remaining_minutes"] == 13.5
        report = await running.client.get(
            "/api/v1/parental-controls/weekly-report", headers=family.bearer
        )
        assert [child["profile_id"] for child in report.json()["profiles"]] == [str(family.child)]
    for name, family in families.items():
        assert await sessions(cells.connections[name]) == {family.child: 90}


async def test_a_family_of_another_cell_is_a_stranger(cells: FourCells, start: Starter) -> None:
    family, stranger = await cells.family("a"), await cells.family("b")
    running = await start_cells(start, cells)
    answer = await beat(running, stranger, profile_id=family.child)
    assert answer.status_code == 403
    assert await sessions(cells.connections["a"]) == {}


async def test_an_account_that_has_moved_is_followed(cells: FourCells, start: Starter) -> None:
    families = [await cells.family("a", lives_in="b") for _ in range(3)]
    running = await start_cells(start, cells)
    assert (await beat(running, families[0])).status_code == 401  # neither here nor moved
    for family in families:
        await cells.place(family.account, "lives", "b", in_cells=("a", "b"))
    assert (await beat(running, families[0])).json()["enforcement"] == "allowed"
    url = f"/api/v1/viewing-time/balance/{families[1].child}"
    answer = await running.client.get(url, headers=families[1].bearer)
    assert answer.status_code == 200
    lock = f"/api/v1/parental-controls/profiles/{families[2].child}/lock"
    wrong = await running.client.put(lock, json={"until": 5}, headers=families[2].bearer)
    assert wrong.status_code == 422
    answer = await running.client.put(lock, json={}, headers=families[2].bearer)
    assert answer.status_code == 200
    assert await sessions(cells.connections["b"]) == {families[0].child: 30}


async def test_an_administrator_finds_an_account_that_moves_meanwhile(
    cells: FourCells, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await admin(cells, "c")
    running = await start_cells(start, cells)
    client, headers = running.client, operator.bearer
    monkeypatch.setattr(deletion, "MAX_ROWS_AT_ONCE", 100)
    every = {cell.cell: cell for cell in all_cells(cells.settings)}

    async def moving(family: Family, method: str, url: str, **body: Any) -> httpx.Response:
        """The response to a request that waits for the family's move from cell a to cell b."""
        async with opened(list(every.values())) as found:
            await begin(found)
            answers: list[asyncio.Task[httpx.Response]] = []
            leave = cell_moves.LEAVE

            class Leaving:
                async def maybe(self, *arguments: Any) -> None:
                    request = client.request(method, f"{ADMIN}/{url}", headers=headers, **body)
                    answers.append(asyncio.create_task(request))
                    await asyncio.sleep(0.3)
                    await leave.maybe(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(cell_moves, "LEAVE", Leaving())
                await cell_moves.move(found.up["a"], found.up["b"], [family.account])
            return await answers[-1]

    b = cells.connections["b"]
    for sessions in (1, 100):
        for kind in ("accounts", "profiles"):
            family = await cells.family("a")
            await watched(cells, family, sessions)
            url = f"{kind}/{family.account if kind == 'accounts' else family.child}"
            answer = await moving(family, "delete", url)
            assert answer.status_code == (204 if sessions == 1 else 202)
            gone = partial(b.fetchval, "select count(*) from profiles where id = $1", family.child)
            await eventually(gone, until=lambda count: count == 0)
    family = await cells.family("a")
    await watched(cells, family)
    answer = await moving(family, "delete", f"profiles/{family.child}/viewing-data")
    assert answer.json()["sessions"] == 3
    family = await cells.family("a")
    body = {"account_id": str(family.account), "name": "Ada", "is_kids": True}
    answer = await moving(family, "put", f"profiles/{uuid4()}", json=body)
    assert answer.status_code == 200


async def test_a_map_that_is_read_later_is_known(cells: FourCells, start: Starter) -> None:
    family = await cells.family("a", lives_in="c")
    await cells.place(family.account, "lives", "c", in_cells=("a", "c"))
    running = await start_cells(start, cells)
    assert running.context.of(family.account).settings.cell == "c"
    assert (await beat(running, family)).json()["enforcement"] == "allowed"


async def test_an_administrator_acts_in_every_cell(cells: FourCells, start: Starter) -> None:
    operator = await admin(cells, "b")
    running = await start_cells(start, cells)
    client, headers = running.client, operator.bearer
    title = uuid4()
    put = {"title": "Comets", "is_educational": True}
    answer = await client.put(f"{ADMIN}/titles/{title}", json=put, headers=headers)
    assert answer.status_code == 200
    for name in NAMES:
        connection = cells.connections[name]
        account, profile = cells.account(name), uuid4()
        answer = await client.put(
            f"{ADMIN}/accounts/{account}", json={"email": f"{name}@example.org"}, headers=headers
        )
        assert answer.status_code == 200, answer.text
        body = {"account_id": str(account), "name": "Ada", "is_kids": True}
        answer = await client.put(f"{ADMIN}/profiles/{profile}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert await connection.fetchval("select count(*) from titles where id = $1", title) == 1
        owner = "select user_id from profiles where id = $1"
        assert await connection.fetchval(owner, profile) == account
        url = f"{ADMIN}/profiles/{profile}"
        answer = await client.delete(f"{url}/viewing-data", headers=headers)
        assert answer.status_code == 200
        assert (await client.delete(url, headers=headers)).status_code == 204
        assert (await client.delete(url, headers=headers)).status_code == 404
        answer = await client.delete(f"{ADMIN}/accounts/{account}", headers=headers)
        assert answer.status_code == 204
    assert (await client.delete(f"{ADMIN}/titles/{title}", headers=headers)).status_code == 204
    assert (await client.get(f"{ADMIN}/metrics", headers=headers)).status_code == 200


async def test_only_the_own_cell_makes_an_administrator(cells: FourCells, start: Starter) -> None:
    operator = await admin(cells, "b")
    running = await start_cells(start, cells)
    url = f"{ADMIN}/accounts/{cells.account('a')}"
    body = {"email": "a@example.org"}
    answer = await running.client.put(url, json=body, headers=operator.bearer)
    assert answer.status_code == 200
    await cells.connections["b"].execute("update users set is_admin = false")
    answer = await running.client.put(url, json=body, headers=operator.bearer)
    assert answer.status_code == 403
    other = await cells.family("c")
    answer = await running.client.put(url, json=body, headers=other.bearer)
    assert answer.status_code == 403


async def test_a_cell_that_is_down_fails_its_own_accounts_closed_and_no_others(
    cells: FourCells, start: Starter, postgres_dsn: str
) -> None:
    families = {name: await cells.family(name) for name in NAMES}
    database = await cells.connections["d"].fetchval("select current_database()")
    await cells.connections["d"].close()
    server = await asyncpg.connect(postgres_dsn)
    await server.execute(f"alter database {database} allow_connections false")
    running = await start_cells(start, cells)
    health = await running.client.get("/health/ready")
    assert (health.status_code, health.json()["checks"]["cells"]) == (200, {"d": "unreachable"})
    for name, family in families.items():
        answer = await beat(running, family)
        assert answer.status_code == 200
        assert answer.json()["enforcement"] == ("blocked" if name == "d" else "allowed")
        url = f"/api/v1/viewing-time/balance/{family.child}"
        answer = await running.client.get(url, headers=family.bearer)
        assert answer.status_code == (503 if name == "d" else 200)
    await server.execute(f"alter database {database} allow_connections true")
    await server.close()
    await eventually(
        lambda: beat(running, families["d"]),
        until=lambda answer: answer.json()["enforcement"] == "allowed",
    )
    await eventually(
        lambda: running.client.get("/health/ready"),
        until=lambda answer: "cells" not in answer.json()["checks"],
    )


async def test_a_cell_that_turns_into_another_one_ends_nothing_else(
    cells: FourCells,
    start: Starter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(startup, "MAP_SECONDS", 0.05)
    family, other = await cells.family("a"), await cells.family("c")
    running = await start_cells(start, cells)
    await cells.connections["c"].execute("update viewing_cell set name = 'x'")
    await eventually(lambda: "cell_map_not_read" in caplog.messages)
    await cells.connections["c"].execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name like 'viewing-time%' and datname = current_database()"
    )
    await eventually(
        lambda: beat(running, family),
        until=lambda answer: answer.json()["enforcement"] == "allowed",
    )
    await eventually(
        lambda: beat(running, other),
        until=lambda answer: answer.json()["enforcement"] == "blocked",
    )
    await cells.connections["c"].execute("update viewing_cell set name = 'c'")
    await eventually(
        lambda: beat(running, other),
        until=lambda answer: answer.json()["enforcement"] == "allowed",
    )


async def test_metrics_of_a_cell_have_its_name(cells: FourCells, start: Starter) -> None:
    family = await cells.family("c")
    running = await start_cells(start, cells)
    await beat(running, family)
    text = (await running.client.get("/metrics")).text
    assert 'viewing_time_config_cache_entries{cell="c"} 1.0' in text
    assert 'viewing_time_config_cache_entries{cell="a"} 0.0' in text
    assert 'viewing_time_pool_connections{cell="b",state="in_use"} 0.0' in text
    assert 'viewing_time_cell_ready{cell="d"} 1.0' in text
    assert "viewing_time_ready 1.0" in text


@pytest.mark.parametrize(
    ("change", "lines", "sentence"),
    [
        ("update viewing_cell set name = 'x'", {}, "the database of cell c answers as cell x"),
        ("delete from viewing_cell", {}, "cell c is not made yet: run `viewing-time migrate`"),
        (
            "update viewing_cell_slots set cell = 'x', epoch = 2 where slot < 10",
            {},
            "CELLS_FILE has no cell x, which has 10 of 1024 slots",
        ),
        ("select 1", {"a": "b", "b": "a"}, "answers as cell"),
        ("drop schema c cascade", {}, "cell c is not made yet"),
    ],
)
async def test_other_cells_than_those_of_the_file_are_refused(
    cells: FourCells, start: Starter, change: str, lines: dict[str, str], sentence: str
) -> None:
    await cells.connections["c"].execute(change)
    cells.write(
        **{
            name: f'url = "{cells.urls[name]}"\nschema = "{schema}"\n'
            for name, schema in lines.items()
        }
    )
    with pytest.raises(WrongTables, match=sentence):
        await start_cells(start, cells)


async def test_an_account_in_two_cells_is_refused(cells: FourCells, start: Starter) -> None:
    family = await cells.family("a")
    await cells.place(family.account, "lives", "b", in_cells=("a", "b"))
    with pytest.raises(WrongTables, match="1 accounts are in cell a and in another one"):
        await start_cells(start, cells)


async def test_without_a_map_the_start_is_refused(cells: FourCells, start: Starter) -> None:
    for connection in cells.connections.values():
        await connection.execute("delete from viewing_cell_slots")
    with pytest.raises(WrongTables, match="have no map: run `viewing-time migrate`"):
        await start_cells(start, cells)


async def test_without_any_cell_the_start_fails(
    cells: FourCells, start: Starter, postgres_dsn: str
) -> None:
    server = await asyncpg.connect(postgres_dsn)
    for name in ("a", "d"):
        database = await cells.connections[name].fetchval("select current_database()")
        await server.execute(f"alter database {database} allow_connections false")
    with pytest.raises(DatabaseError, match="not currently accepting connections"):
        await start_cells(start, cells)
    await server.close()


async def test_an_import_goes_to_the_cells_of_its_accounts(
    cells: FourCells, start: Starter
) -> None:
    operator = await admin(cells, "b")
    running = await start_cells(start, cells)
    accounts = {name: cells.account(name) for name in NAMES}
    comets = {"id": uuid4(), "title": "Comets", "is_educational": True}
    lines: list[dict[str, object]] = [{"type": "title", **comets}]
    for name, account in accounts.items():
        lines.append({"type": "account", "id": account, "email": f"{name}@example.org"})
        profile = {"id": uuid4(), "account_id": account, "name": name, "is_kids": True}
        lines.append({"type": "profile", **profile})
    body = b"\n".join(map(msgspec.json.encode, lines))
    url, headers = f"{ADMIN}/import", operator.bearer
    answer = await running.client.post(url, content=body, headers=headers)
    assert answer.status_code == 400
    assert "mode=best" in answer.json()["detail"]
    answer = await running.client.post(f"{url}?mode=best", content=body, headers=headers)
    assert answer.json() == {
        "accounts": 4,
        "profiles": 4,
        "titles": 1,
        "error_count": 0,
        "errors": [],
    }
    for name, account in accounts.items():
        connection = cells.connections[name]
        owners = "select array_agg(user_id) from profiles where name = any ($1)"
        assert await connection.fetchval(owners, [*NAMES]) == [account]
        assert await connection.fetchval("select count(*) from titles where title = 'Comets'") == 1


async def test_an_import_rejects_the_lines_of_a_cell_that_is_down(
    cells: FourCells, start: Starter, postgres_dsn: str
) -> None:
    operator = await admin(cells, "b")
    running = await start_cells(start, cells)
    database = await cells.connections["d"].fetchval("select current_database()")
    server = await asyncpg.connect(postgres_dsn)
    await server.execute(f"alter database {database} allow_connections false")
    await cells.connections["d"].execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    lines = [
        {"type": "account", "id": cells.account(name), "email": f"{name}@example.org"}
        for name in NAMES
    ]
    body = b"\n".join(map(msgspec.json.encode, lines))
    answer = await running.client.post(
        f"{ADMIN}/import?mode=best", content=body, headers=operator.bearer
    )
    assert (answer.status_code, answer.json()["accounts"]) == (200, 3)
    [error] = answer.json()["errors"]
    assert error["line"] == 4
    assert error["error"].startswith("Cell d cannot be used: ")
    await server.close()


async def test_a_family_needs_no_cell_except_its_own(
    cells: FourCells, start: Starter, postgres_dsn: str
) -> None:
    """With all other cells gone, every request of a family is answered."""
    family = await cells.family("b")
    running = await start_cells(start, cells)
    await cells.connections["b"].execute("drop schema a, c cascade")
    database = await cells.connections["d"].fetchval("select current_database()")
    await cells.connections["d"].close()
    server = await asyncpg.connect(postgres_dsn)
    await server.execute(f"alter database {database} allow_connections false")
    await server.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", database
    )
    session = (await beat(running, family)).json()["session_id"]
    viewing, parental = "/api/v1/viewing-time", "/api/v1/parental-controls"
    profile, day = f"{parental}/profiles/{family.child}", "2026-12-24"
    asked = await running.client.post(
        f"{viewing}/requests",
        json={"profile_id": str(family.child), "minutes": 15},
        headers=family.bearer,
    )
    request = f"{parental}/requests/{asked.json()['request_id']}"
    for method, url, body in [
        ("GET", f"{viewing}/balance/{family.child}", None),
        ("GET", f"{viewing}/playback-eligible/{family.child}", None),
        ("GET", f"{viewing}/decision/{family.child}", None),
        ("GET", f"{viewing}/requests/{asked.json()['request_id']}", None),
        ("GET", f"{parental}/requests", None),
        ("POST", f"{request}/approve", {}),
        ("GET", f"{parental}/pin/status", None),
        ("POST", f"{parental}/pin/verify", {"pin": PIN}),
        ("POST", f"{parental}/pin", {"current_pin": PIN, "new_pin": "4321"}),
        ("GET", f"{parental}/strict", None),
        ("GET", f"{profile}/viewing-time", None),
        ("PUT", f"{profile}/viewing-time", {"weekday_limit_minutes": 30}),
        ("POST", f"{profile}/viewing-time/grant", {"minutes": 15}),
        ("GET", f"{profile}/schedule", None),
        ("PUT", f"{profile}/exceptions/{day}", {"limit_minutes": 60}),
        ("GET", f"{profile}/exceptions", None),
        ("DELETE", f"{profile}/exceptions/{day}", None),
        ("PUT", f"{profile}/lock", {}),
        ("GET", f"{profile}/lock", None),
        ("DELETE", f"{profile}/lock", None),
        ("GET", f"{profile}/grants", None),
        ("GET", f"{profile}/history?from_date=2026-11-01&to_date=2026-11-07", None),
        ("GET", f"{parental}/weekly-report", None),
        ("POST", f"{parental}/weekly-report/link", None),
        ("POST", f"{viewing}/session/{session}/end", None),
    ]:
        answer = await running.client.request(method, url, json=body, headers=family.bearer)
        assert answer.status_code in (200, 201, 204), (method, url, answer.text)
    await server.close()
