"""Each cell's tables carry its name and the map; a cell refuses the accounts of another one."""

import asyncio
from unittest.mock import AsyncMock, Mock
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from service.database import cells
from service.database.cells import Directory, slot
from service.database.driver import Connection
from service.database.pool import connect
from service.database_errors import Unavailable
from service.settings import Settings

ACCOUNT = UUID("7c5f0a9e-0000-4000-8000-000000000001")
LISTS = (cells.LIST_SLOTS, cells.LIST_ACCOUNTS)
INSERT = """
    insert into users (id, email, password_hash, subscription_tier, is_admin, is_active, created_at)
    values ($1, $2, '!', 'basic', false, true, now())
"""


async def join(connection: Connection, name: str) -> str:
    joined: str = await connection.fetchval("select viewing_cell_join($1)", name)
    return joined


async def place(connection: Connection, account: UUID, cell: str, epoch: int, state: str) -> None:
    await connection.execute(
        "insert into viewing_cell_accounts (id, cell, epoch, state) values ($1, $2, $3, $4) "
        "on conflict (id) do update set (cell, epoch, state) = ($2, $3, $4)",
        account,
        cell,
        epoch,
        state,
    )


async def give_slots(connection: Connection, cell: str, epoch: int) -> None:
    await connection.execute(
        "insert into viewing_cell_slots (slot, cell, epoch) "
        "select n, $1, $2 from generate_series(0, 1023) as n "
        "on conflict (slot) do update set (cell, epoch) = ($1, $2)",
        cell,
        epoch,
    )


async def test_slots_are_the_same_in_both_languages(connection: Connection) -> None:
    accounts = [uuid4() for _ in range(500)]
    rows = await connection.fetch(
        "select viewing_cell_slot(id) as slot from unnest($1::uuid[]) as id", accounts
    )
    assert [row["slot"] for row in rows] == [slot(account) for account in accounts]
    assert {slot(uuid4()) for _ in range(40_000)} == set(range(1024))


async def test_a_cell_keeps_its_first_name(connection: Connection) -> None:
    assert await join(connection, "a") == "a"
    assert await join(connection, "b") == "a"


@pytest.mark.parametrize(
    ("named", "expected", "sentence"),
    [
        ("", "a", "cell a is not made yet"),
        ("b", "a", "the database of cell a answers as cell b"),
    ],
)
async def test_connections_of_another_cell_are_refused(
    connection: Connection, settings: Settings, named: str, expected: str, sentence: str
) -> None:
    if named:
        await join(connection, named)
    with pytest.raises(Unavailable, match=sentence):
        await connect(msgspec.structs.replace(settings, cell=expected))


async def test_connections_of_the_cell_are_accepted(
    connection: Connection, settings: Settings
) -> None:
    await join(connection, "a")
    opened = await connect(msgspec.structs.replace(settings, cell="a"))
    assert await opened.fetchval("select name from viewing_cell") == "a"
    await opened.close()


async def test_a_schema_without_migrations_is_refused_by_name(
    connection: Connection, settings: Settings
) -> None:
    await connection.execute("create schema empty")
    empty = msgspec.structs.replace(settings, cell="a", database_schema="empty")
    with pytest.raises(Unavailable, match="run `viewing-time migrate`"):
        await connect(empty)


async def test_one_cell_of_several_is_not_served_alone(connection: Connection) -> None:
    await join(connection, "a")
    with pytest.raises(Unavailable, match="set CELLS_FILE"):
        await cells.check_name(connection, "")


async def test_a_cell_makes_only_accounts_that_belong_to_it(connection: Connection) -> None:
    await join(connection, "a")
    await give_slots(connection, "a", 1)
    await connection.execute(INSERT, ACCOUNT, "1@example.org")
    other = uuid4()
    for cell, state, is_made in [
        ("b", "lives", False),
        ("b", "arrives", True),
        ("b", "mirror", True),
        ("a", "lives", True),
    ]:
        await place(connection, other, cell, 1, state)
        if is_made:
            await connection.execute(INSERT, other, "2@example.org")
            await connection.execute("delete from users where id = $1", other)
        else:
            with pytest.raises(asyncpg.PostgresError, match="belongs to cell b") as refusal:
                await connection.execute(INSERT, other, "2@example.org")
            assert refusal.value.sqlstate == "VC001"
    await give_slots(connection, "b", 2)
    with pytest.raises(asyncpg.PostgresError, match="belongs to cell b"):
        await connection.execute(INSERT, uuid4(), "3@example.org")


async def test_an_entry_that_was_deleted_is_forgotten(connection: Connection) -> None:
    directory = Directory()
    await give_slots(connection, "a", 1)
    await place(connection, ACCOUNT, "b", 1, "lives")
    await directory.read(connection, "a")
    assert directory.cell(ACCOUNT) == "b"
    await connection.execute("delete from viewing_cell_accounts")
    await give_slots(connection, "c", 2)
    await directory.find(connection, ACCOUNT)
    assert directory.cell(ACCOUNT) == "c"


async def test_a_map_in_which_nothing_has_changed_costs_one_row(connection: Connection) -> None:
    directory, queries = Directory(), list[str]()
    await join(connection, "a")
    await give_slots(connection, "a", 1)
    await connection.execute(
        "insert into viewing_cell_accounts (id, cell, epoch, state) "
        "select gen_random_uuid(), 'b', n, 'lives' from generate_series(1, $1::int) as n",
        2 * cells.MAX_PAGE + 1,
    )

    async def read() -> list[str]:
        """The statements of a reading."""
        queries.clear()
        with connection.query_logger(lambda logged: queries.append(logged.query)):
            await directory.read(connection, "a")
            await asyncio.sleep(0)  # the driver logs in the next turn of the loop
        names = {each.text: each.name for each in (cells.STATE, *LISTS)}
        return [names[query] for query in queries]

    whole = ["cell_map_state", "cell_slots", *["cell_accounts"] * 3]  # a page has MAX_PAGE rows
    assert await read() == whole
    assert await read() == await read() == ["cell_map_state"]
    await place(connection, ACCOUNT, "b", 1, "lives")  # written late, with a low epoch
    assert await read() == whole
    assert directory.cell(ACCOUNT) == "b"
    assert await read() == ["cell_map_state"]
    await give_slots(connection, "a", 2)
    assert await read() == whole
    await connection.execute("delete from viewing_cell_accounts where id = $1", ACCOUNT)
    assert await read() == whole


async def test_an_account_without_its_entry_follows_its_slot_again(connection: Connection) -> None:
    directory, forgotten, moved = Directory(), uuid4(), uuid4()
    await give_slots(connection, "a", 1)
    for account in (forgotten, moved):
        await place(connection, account, "b", 1, "lives")
    await directory.read(connection, "a")
    await give_slots(connection, "b", 2)
    await connection.execute("delete from viewing_cell_accounts where id = $1", forgotten)
    await directory.read(connection, "b")
    await give_slots(connection, "c", 3)
    await directory.read(connection, "c")
    assert (directory.cell(forgotten), directory.cell(moved)) == ("c", "b")


async def test_a_move_that_a_request_meets_while_the_map_is_read_is_kept(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory()
    await give_slots(connection, "a", 1)
    accounts = [uuid4() for _ in range(3)]
    for account in accounts:
        await place(connection, account, "a", 2, "lives")
    await directory.read(connection, "a")
    for account in accounts:
        await place(connection, account, "b", 3, "lives")
    waiting = [*accounts]

    async def moved(_: float) -> None:
        while waiting:
            await directory.find(connection, waiting.pop())

    monkeypatch.setattr(cells, "MAX_PAGE", 1)
    monkeypatch.setattr(asyncio, "sleep", moved)
    monkeypatch.setattr(cells, "LIST_ACCOUNTS", Mock(all=AsyncMock(return_value=[])))
    await directory.read(connection, "a")
    assert [*map(directory.cell, accounts)] == ["b", "b", "b"]


async def test_the_newest_entry_says_where_an_account_is(connection: Connection) -> None:
    directory = Directory()
    assert directory.cell(ACCOUNT) == ""
    await give_slots(connection, "a", 1)
    await directory.read(connection, "a")
    assert directory.cell(ACCOUNT) == "a"
    await place(connection, ACCOUNT, "b", 2, "lives")
    await directory.find(connection, ACCOUNT)
    assert directory.cell(ACCOUNT) == "b"
    await place(connection, ACCOUNT, "c", 1, "lives")  # what an older copy says
    await directory.read(connection, "a")
    assert directory.cell(ACCOUNT) == "b"
    await place(connection, ACCOUNT, "a", 3, "arrives")  # not yet there
    await directory.find(connection, ACCOUNT)
    assert directory.cell(ACCOUNT) == "b"
    await give_slots(connection, "c", 4)
    await directory.find(connection, uuid4())
    await directory.read(connection, "a")
    assert directory.cells == {"b", "c"}
